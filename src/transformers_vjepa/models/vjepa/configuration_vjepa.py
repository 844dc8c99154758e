"""Configuration of V-JEPA models: architecture and geometry, nothing about training."""

import difflib
import math
import os
from collections.abc import Collection
from dataclasses import fields
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Keyword arguments that `PreTrainedConfig` takes without declaring them as fields.
_COMMON_KEYWORDS = set(
    "attn_implementation auto_map experts_implementation model_type name_or_path num_labels output_attentions "
    "quantization_config torch_dtype use_cache use_return_dict".split()
)

# Fields of `PreTrainedConfig` that choose attention kernels. A name with a slash is a kernel on the Hub, which
# transformers downloads and runs, and flash attention may come from there, too. The others are part of torch.
_KERNEL_FIELDS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_TORCH_KERNELS = (None, "eager", "sdpa", "flex_attention")
# Quantisation for which transformers runs code of installed packages only. For other methods, such as "fp8" and
# "mxfp4", it may take kernels from the Hub.
_INSTALLED_QUANTISATION = ("bitsandbytes", "hqq", "quanto", "torchao")

# Bounds of what a file may ask for, because a few digits can ask for all memory. Arguments of Python have no bounds.
_MOST_OF_A_FILE = {
    "classes": 1_000_000,
    "blocks": 1_000,
    "parameters": 10_000_000_000,
    "position values": 2**28,  # 1 GiB: tokens of a full clip x width
}

# Properties that callers may mistake for fields, and the fields that determine them.
_COMPUTED = {
    "num_frames": "`frames_per_clip`",
    "grid_size": "`crop_size`, `patch_size`, `frames_per_clip` and `tubelet_size`",
}

_VITH16: dict[str, Any] = {"hidden_size": 1280, "num_hidden_layers": 32}
_IMAGE: dict[str, Any] = {
    "frames_per_clip": 1,
    "tubelet_size": 1,
    "pred_num_mask_tokens": 1,
    "pred_loss": "smooth_l1",
}


def _small_vit(hidden_size: int, heads: int) -> dict[str, int]:
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": 12}
    return {**sizes, "num_attention_heads": heads, "pred_num_attention_heads": heads}


#: Architectures by name. `vitl16`, `vith16` and `vith16-384` are published (V-JEPA, Table 10 and the released
#: checkpoints), as are those of I-JEPA, for single images (the paper has `ijepa-vitb16` and `ijepa-vitl16`, but their
#: weights are not released). The smaller ones are the usual ViT sizes with the published predictor, which always has
#: the same number of heads as its encoder.
PRESETS: dict[str, dict[str, Any]] = {
    "vitt16": _small_vit(192, 3),
    "vits16": _small_vit(384, 6),
    "vitb16": _small_vit(768, 12),
    "vitl16": {},
    "vith16": _VITH16,
    "vith16-384": {**_VITH16, "crop_size": 384},
    "ijepa-vitb16": {**_small_vit(768, 12), **_IMAGE, "pred_num_hidden_layers": 6},
    "ijepa-vitl16": _IMAGE,
    "ijepa-vith14": {**_VITH16, **_IMAGE, "patch_size": 14},
    "ijepa-vith16-448": {**_VITH16, **_IMAGE, "crop_size": 448},
    "ijepa-vitg16": {
        **_IMAGE,
        "hidden_size": 1408,
        "num_hidden_layers": 40,
        "mlp_ratio": 48 / 11,
        "pred_num_hidden_layers": 16,
    },
}


#: Marks the values of a file, on their way from `from_dict` to the constructor of a configuration or a processor.
FROM_FILE = "_values_of_a_file"


def refuse_misspelling(owner: str, name: str, value: Any, *, known: Collection[str]) -> None:
    """
    Checks an argument with a name that is not one of `known`. transformers stores any name: with a misspelled one, the
    default would silently apply.

    Raises:
        ValueError: the name resembles one of `known`.
    """
    if close := _similar(name, known):
        raise ValueError(f"`{name}={value!r}` is not a field of {owner}: did you mean `{close}`?")


def warn_of_unknown(owner: str, name: str, *, known: Collection[str]) -> None:
    """Logs that a value is stored under a name that is not one of `known`."""
    close = _similar(name, known)
    hint = f": did you mean `{close}`?" if close else ""
    logger.warning(f"`{name}` is not a field of {owner}: it is stored but has no effect{hint}")


def _similar(name: str, known: Collection[str]) -> str | None:
    if name in known or name.startswith("_"):
        return None
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)), None)


def _refuse_code(file: dict[str, Any]) -> None:
    """Refuses a file whose fields make transformers run code that is neither in this package nor installed."""
    for name in _KERNEL_FIELDS:
        value = file.get(name)
        for kernel in value.values() if isinstance(value, dict) else [value]:
            if kernel not in _TORCH_KERNELS:
                raise ValueError(
                    f"the configuration file chooses `{name}`={kernel!r}, which may run code from the Hub: choose "
                    f"it yourself with the argument `{name.removeprefix('_')}`, such as 'sdpa'"
                )
    method = (file.get("quantization_config") or {}).get("quant_method", "bitsandbytes")
    if method not in _INSTALLED_QUANTISATION:
        raise ValueError(
            f"the configuration file asks for quantisation by {method!r}, which may run code from the Hub: known are "
            f"{', '.join(_INSTALLED_QUANTISATION)}; if you trust the file, remove its `quantization_config` and pass "
            "`quantization_config` in the call"
        )


@strict
class VJEPAConfig(PreTrainedConfig):
    r"""
    Architecture and geometry of a V-JEPA model. The defaults are the published ViT-L/16. Field names
    follow [`~transformers.VJEPA2Config`] where the meaning is the same.

    Args:
        patch_size (`int`, defaults to 16): side of a patch, in pixels.
        crop_size (`int`, defaults to 224): side of the square clips that the position grid covers, in pixels; a
            multiple of `patch_size`. Other input sizes interpolate the grid.
        frames_per_clip (`int`, defaults to 16): frames of the clips that the position grid covers; a multiple of
            `tubelet_size`. With 1 the model is an image model (I-JEPA) with 2-D positions.
        tubelet_size (`int`, defaults to 2): frames per token.
        hidden_size (`int`, defaults to 1024): width of the encoder; a multiple of `num_attention_heads`.
        in_chans (`int`, defaults to 3): colour channels.
        num_attention_heads (`int`, defaults to 16): attention heads of the encoder.
        num_hidden_layers (`int`, defaults to 24): blocks of the encoder.
        drop_path_rate (`float`, defaults to 0.0): stochastic depth of the last block; it grows linearly from 0 at the
            first block; in [0, 1).
        mlp_ratio (`float`, defaults to 4.0): width of the MLPs over `hidden_size`.
        layer_norm_eps (`float`, defaults to 1e-6): epsilon of every LayerNorm of encoder and predictor.
        qkv_bias (`bool`, defaults to `True`): biases on queries, keys and values.
        attention_probs_dropout_prob (`float`, defaults to 0.0): dropout on attention weights; in [0, 1).
        hidden_act (`str`, defaults to `"gelu"`): activation of the MLPs (exact GELU).
        initializer_range (`float`, defaults to 0.02): standard deviation of the truncated normal.
        uniform_power (`bool`, defaults to `True`): give time, height and width the same number of position channels
            (all released models), instead of D/2, D/4, D/4.
        pred_hidden_size (`int`, defaults to 384): width of the predictor.
        pred_num_attention_heads (`int`, defaults to 16): attention heads of the predictor (in the published models,
            the same number as in the encoder).
        pred_num_hidden_layers (`int`, defaults to 12): blocks of the predictor.
        pred_num_mask_tokens (`int`, defaults to 2): learnable mask tokens, one per mask generator.
        pred_zero_init_mask_tokens (`bool`, defaults to `True`): start the mask tokens at zero.
        pred_mlp_ratio (`float`, defaults to 4.0): width of the predictor's MLPs over `pred_hidden_size`.
        pred_loss (`str`, defaults to `"l1"`): what pretraining minimises. With e the predicted minus the target
            feature: `"l1"`, |e| (V-JEPA, equation 1); `"l2"`, e^2 / 2; `"smooth_l1"`, e^2 / 2 where |e| < 1, and
            |e| - 1/2 elsewhere (the published I-JEPA code). L1 and L2 are averaged over each target mask, then over
            the masks. Smooth L1 is averaged over all targets together.
        pooling (`str`, defaults to `"attentive"`): how a classifier pools the tokens: `"attentive"`, with a learned
            query that attends to them (the published probes), or `"mean"`.
        num_pooled_layers (`int`, defaults to 1): with `pooling="mean"`, the number of last blocks whose means are
            concatenated; at most `num_hidden_layers`. 1 and 4 are the published linear probes (I-JEPA, appendix A.2).
            The final LayerNorm of the encoder is applied to the output of each of these blocks, as in the evaluation
            of DINO (arXiv 2104.14294) and VISSL: residual streams of different depth have different scales.
        pooled_batch_norm (`bool`, defaults to `False`): with `pooling="mean"`, a batch normalisation without weights
            before the linear layer: the second head of the published linear probes (I-JEPA, appendix A.2).
        num_pooler_layers (`int`, defaults to 0): self-attention blocks of the attentive pooler, after its
            cross-attention; a published probe of depth d has d - 1.
        pooler_layer_norm_eps (`float`, defaults to 1e-5): epsilon of every LayerNorm of the attentive pooler.

    Raises:
        StrictDataclassError: (in `huggingface_hub.errors`, as for every configuration of transformers) sizes that do
            not divide, values out of range or of another type.
        ValueError: a misspelled field. This is so for arguments only. A field of a file, or an attribute that is set
            later, is stored with a warning: a later version of transformers may write fields that this version does
            not know, and what `save_pretrained` writes must load. A file is refused if it chooses attention kernels
            or quantisation that may bring code from the Hub, or asks for more than 1,000 blocks, a million classes,
            10 billion parameters or 2^28 position values.

    Examples:

    ```python
    from transformers_vjepa import VJEPAConfig, VJEPAModel

    config = VJEPAConfig.from_preset("vitt16", crop_size=112, num_hidden_layers=2)
    assert config.grid_size == (8, 7, 7) and config.num_patches == 392
    model = VJEPAModel(config)  # with random weights
    ```
    """

    model_type = "vjepa"
    # `Trainer` leaves these out of its predictions: metrics get only the logits, and no tokens are gathered.
    keys_to_ignore_at_inference = [
        "view_logits",
        "hidden_states",
        "attentions",
        "prediction_loss",
        "variance_loss",
        "context_hidden_states",
        "target_hidden_state",
    ]

    patch_size: int = 16
    crop_size: int = 224
    frames_per_clip: int = 16
    tubelet_size: int = 2
    hidden_size: int = 1024
    in_chans: int = 3
    num_attention_heads: int = 16
    num_hidden_layers: int = 24
    drop_path_rate: float | int = 0.0
    mlp_ratio: float | int = 4.0
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    attention_probs_dropout_prob: float | int = 0.0
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    uniform_power: bool = True
    pred_hidden_size: int = 384
    pred_num_attention_heads: int = 16
    pred_num_hidden_layers: int = 12
    pred_num_mask_tokens: int = 2
    pred_zero_init_mask_tokens: bool = True
    pred_mlp_ratio: float | int = 4.0
    pred_loss: Literal["l1", "l2", "smooth_l1"] = "l1"
    pooling: Literal["attentive", "mean"] = "attentive"
    num_pooled_layers: int = 1
    pooled_batch_norm: bool = False
    num_pooler_layers: int = 0
    pooler_layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs: Any) -> None:
        if type(self)._auto_class is None:
            # This package is installed: a configuration that is saved again would refer to code files that are not in
            # its folder.
            kwargs.pop("auto_map", None)
        if kwargs.pop(FROM_FILE, False):
            kwargs = self._storable(kwargs)
            self._refuse_sizes(kwargs.get("num_labels"))
        else:
            self._refuse_misspellings(kwargs)
        self._check_labels_and_dtype(kwargs.get("torch_dtype") if self.dtype is None else self.dtype)
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        known = self._known_names()
        if name not in known and not name.startswith("_"):
            warn_of_unknown(type(self).__name__, name, known=known)

    @classmethod
    def _known_names(cls) -> set[str]:
        return {field.name for field in fields(cls)} | _COMMON_KEYWORDS

    @classmethod
    def _refuse_misspellings(cls, arguments: dict[str, Any]) -> None:
        for name, value in arguments.items():
            if name in _COMPUTED:
                raise ValueError(f"`{name}={value!r}` is computed: set {_COMPUTED[name]}")
            refuse_misspelling(cls.__name__, name, value, known=cls._known_names())

    @classmethod
    def _storable(cls, extra: dict[str, Any]) -> dict[str, Any]:
        """Fields of a file that are not ours, without those that would replace a method or a property."""
        reserved = {name for name in extra.keys() - cls._known_names() if hasattr(cls, name)}
        for name in sorted(reserved):
            logger.warning(f"`{name}={extra[name]!r}` in the file is left out: {cls.__name__} computes it")
        return {name: value for name, value in extra.items() if name not in reserved}

    def _refuse_sizes(self, num_labels: int | None) -> None:
        """Refuses a file that asks for more than `_MOST_OF_A_FILE`, before anything of that size is made."""
        width, pred_width = self.hidden_size, self.pred_hidden_size
        blocks, pred_blocks = self.num_hidden_layers + self.num_pooler_layers, self.pred_num_hidden_layers
        classes = num_labels or 0
        sizes = {
            "classes": classes,
            "blocks": blocks + pred_blocks,
            "parameters": (4 + 2 * self.mlp_ratio) * width**2 * blocks
            + (4 + 2 * self.pred_mlp_ratio) * pred_width**2 * pred_blocks
            + self.in_chans * self.tubelet_size * self.patch_size**2 * width
            + self.pred_num_mask_tokens * pred_width
            + classes * width * self.num_pooled_layers,
            "position values": (self.crop_size // max(1, self.patch_size)) ** 2
            * (self.frames_per_clip // max(1, self.tubelet_size))
            * max(width, pred_width),
        }
        for name, most in _MOST_OF_A_FILE.items():
            if sizes[name] > most:
                raise ValueError(
                    f"the configuration file asks for {sizes[name]:.3g} {name}, more than {most:.3g}: correct its "
                    "sizes, or pass a `config` of your own"
                )

    def _check_labels_and_dtype(self, dtype: Any) -> None:
        labels = self.id2label
        if labels is not None and not (isinstance(labels, dict) and all(str(key).isdecimal() for key in labels)):
            raise ValueError(f"`id2label`={labels!r} must map class numbers to class names")
        name = str(dtype).removeprefix("torch.")
        if name != "None" and not isinstance(getattr(torch, name, None), torch.dtype):
            raise ValueError(f"`dtype`={name!r} is not a dtype of torch: use 'float32', 'bfloat16' or 'float16'")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        The configuration of a file; see [`~transformers.PreTrainedConfig.from_dict`]. `kwargs` replace its fields.

        Raises:
            ValueError: an argument is a misspelled field, or the file (not an argument) chooses attention kernels or
                quantisation that may bring code from the Hub.
        """
        if not kwargs.get("return_unused_kwargs"):  # the caller gets them back, and so they are not ignored
            cls._refuse_misspellings(kwargs)
        chosen = {name for name in _KERNEL_FIELDS if name.removeprefix("_") in kwargs}
        _refuse_code({name: value for name, value in config_dict.items() if name not in chosen})
        return super().from_dict({**config_dict, FROM_FILE: True}, **kwargs)

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> "VJEPAConfig":
        """The configuration of a JSON file; see `from_dict`."""
        return cls.from_dict(cls._dict_from_json_file(json_file))

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        values = super()._dict_from_json_file(json_file)
        if not isinstance(values, dict):
            raise ValueError(f"{json_file} contains a {type(values).__name__}: expected a JSON object of fields")
        return values

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "VJEPAConfig":
        """
        The configuration of a named architecture (a key of `PRESETS`), with fields replaced by `overrides`.

        Raises:
            ValueError: an unknown name.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def grid_size(self) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        side = self.crop_size // self.patch_size
        return self.frames_per_clip // self.tubelet_size, side, side

    @property
    def num_patches(self) -> int:
        """Tokens of a full clip."""
        return math.prod(self.grid_size)

    @property
    def pooled_size(self) -> int:
        """Width of what a classifier reads: `hidden_size` for each pooled layer."""
        return self.hidden_size * self.num_pooled_layers

    @property
    def num_frames(self) -> int:
        """Frames of a clip, under the name that the video pipelines of transformers use."""
        return self.frames_per_clip

    @property
    def is_image_model(self) -> bool:
        """Whether this is a model of single images (I-JEPA), with 2-D positions."""
        return self.frames_per_clip == 1

    @property
    def medium(self) -> str:
        """A file of the data, in texts for users: "image" or "video"."""
        return "image" if self.is_image_model else "video"

    @property
    def noun(self) -> str:
        """The input of the model, in texts for users: "image" or "clip"."""
        return "image" if self.is_image_model else "clip"

    def validate_architecture(self) -> None:
        """Checks the fields; run when the configuration is created and when it is saved."""
        super().validate_architecture()
        self._check_labels_and_dtype(self.dtype)
        positive = (
            "patch_size crop_size frames_per_clip tubelet_size hidden_size in_chans num_attention_heads "
            "num_hidden_layers pred_hidden_size pred_num_attention_heads pred_num_hidden_layers "
            "pred_num_mask_tokens mlp_ratio pred_mlp_ratio layer_norm_eps pooler_layer_norm_eps initializer_range"
        )
        for name in positive.split():
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}`={getattr(self, name)} must be greater than 0")
        if self.num_pooler_layers < 0:
            raise ValueError(f"`num_pooler_layers`={self.num_pooler_layers} must be at least 0")
        if not 1 <= self.num_pooled_layers <= self.num_hidden_layers:
            raise ValueError(
                f"`num_pooled_layers`={self.num_pooled_layers} must lie in [1, num_hidden_layers="
                f"{self.num_hidden_layers}]"
            )
        if self.num_pooled_layers > 1 and self.pooling != "mean":
            raise ValueError(
                f"`num_pooled_layers`={self.num_pooled_layers} needs `pooling`='mean': attentive pooling reads the "
                "tokens of the last layer"
            )
        if self.pooled_batch_norm and self.pooling != "mean":
            raise ValueError("`pooled_batch_norm`=True needs `pooling`='mean'")
        for name in ("drop_path_rate", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}`={getattr(self, name)} must lie in [0, 1)")
        for total, part in (
            ("crop_size", "patch_size"),
            ("frames_per_clip", "tubelet_size"),
            ("hidden_size", "num_attention_heads"),
            ("pred_hidden_size", "pred_num_attention_heads"),
        ):
            value, divisor = getattr(self, total), getattr(self, part)
            if value % divisor:
                nearest = max(1, round(value / divisor)) * divisor
                raise ValueError(
                    f"`{total}`={value} is not a multiple of `{part}`={divisor}: "
                    f"use {total}={nearest}, or another {part}"
                )
        # Each axis needs complete sine-cosine pairs; with `uniform_power` the surplus channels are cut off.
        multiple = 4 if self.is_image_model else 1 if self.uniform_power else 8
        for name in ("hidden_size", "pred_hidden_size"):
            if getattr(self, name) % multiple:
                raise ValueError(
                    f"`{name}`={getattr(self, name)} cannot hold the sine-cosine positions: "
                    f"use a multiple of {multiple}"
                )


__all__ = ["FROM_FILE", "PRESETS", "VJEPAConfig", "refuse_misspelling", "warn_of_unknown"]
