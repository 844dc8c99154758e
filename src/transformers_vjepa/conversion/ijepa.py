"""
Stock `transformers` models of I-JEPA: `IJepaModel` and `IJepaForImageClassification`, from our image models and back.

A stock model is an encoder without a predictor. Its position embeddings are a parameter, ours are computed. All other
weights are the same numbers under other names.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import BitImageProcessor, IJepaConfig, IJepaForImageClassification, IJepaModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification, VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.atomic_files import atomic_path
from ..safety.safe_loading import CheckpointError
from .checks import differing_tensors
from .conversion import build_model, check_shapes, read_weights
from .layout import Weights, count_blocks
from .recognition import mlp_ratio, position_table

#: `model_type` in the configuration of a stock model.
MODEL_TYPE = "ijepa"
#: Largest difference of the outputs of a written stock model from ours, relative to our largest output.
OUTPUT_TOLERANCE = 1e-5
#: Largest difference of stored position embeddings from our table. Trained ones differ more.
POSITION_TOLERANCE = 1e-4
_POSITIONS = "embeddings.position_embeddings"
_PATCHES = "embeddings.patch_embeddings.projection.weight"
_ENCODER = "vjepa.encoder."
# Modules of a stock encoder by the names of its files, and ours; `{}` is the number of a block.
_MODULES = {"embeddings.patch_embeddings.projection": "embeddings.patch_embeddings", "layernorm": "layernorm"}
_BLOCK = {
    "encoder.layer.{}.layernorm_before": "layer.{}.norm1",
    "encoder.layer.{}.attention.attention.query": "layer.{}.attention.query",
    "encoder.layer.{}.attention.attention.key": "layer.{}.attention.key",
    "encoder.layer.{}.attention.attention.value": "layer.{}.attention.value",
    "encoder.layer.{}.attention.output.dense": "layer.{}.attention.proj",
    "encoder.layer.{}.layernorm_after": "layer.{}.norm2",
    "encoder.layer.{}.intermediate.dense": "layer.{}.mlp.fc1",
    "encoder.layer.{}.output.dense": "layer.{}.mlp.fc2",
}
# Names of the modules in memory, where they differ from those of files. `save_original_format=False` writes them.
_IN_MEMORY = (
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.([qkv])_proj\.", lambda found: f".attention.attention.{_PROJECTIONS[found[1]]}."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}
# Fields with the same meaning in both configurations.
_SAME = (
    "hidden_size num_hidden_layers num_attention_heads hidden_act attention_probs_dropout_prob initializer_range "
    "layer_norm_eps qkv_bias"
).split()


# Configurations


def stock_config(config: VJEPAConfig, *, is_classifier: bool) -> IJepaConfig:
    """
    The configuration of the stock model with the encoder, and for a classifier the classes, of `config`.

    Raises:
        CheckpointError: a stock model cannot express the architecture.
    """
    if not config.is_image_model:
        raise CheckpointError(
            f"frames_per_clip={config.frames_per_clip}: a stock I-JEPA model takes single images, so only models with "
            "frames_per_clip=1 can be saved as one. Leave --save_as out for a model of videos"
        )
    if is_classifier and config.pooling != "mean":
        raise CheckpointError(
            f"pooling={config.pooling!r}: IJepaForImageClassification averages the tokens. Train the classifier with "
            "--pooling mean, or leave --save_as out"
        )
    for name, plain in (("num_pooled_layers", 1), ("pooled_batch_norm", False)) if is_classifier else ():
        if (value := getattr(config, name)) != plain:
            raise CheckpointError(
                f"{name}={value}: IJepaForImageClassification has only a linear layer on the mean of the last layer. "
                f"Train the classifier with --{name} {str(plain).lower()}, or leave --save_as out"
            )
    fields = {name: getattr(config, name) for name in _SAME}
    if is_classifier:
        fields |= {"id2label": config.id2label, "problem_type": config.problem_type}
        fields["label2id"] = {name: index for index, name in config.id2label.items()}
    return IJepaConfig(
        **fields,
        image_size=config.crop_size,
        patch_size=config.patch_size,
        num_channels=config.in_chans,
        intermediate_size=int(config.hidden_size * config.mlp_ratio),
        architectures=["IJepaForImageClassification" if is_classifier else "IJepaModel"],
    )


def config_of_stock(stock: IJepaConfig) -> VJEPAConfig:
    """
    Our configuration of a stock model. The predictor is not part of a stock model: its sizes are those of the preset
    with this encoder, and otherwise width 384, 12 blocks and as many heads as possible up to those of the encoder.

    Raises:
        CheckpointError: our models cannot express the architecture.
    """
    sides = {name: _side(name, getattr(stock, name)) for name in ("image_size", "patch_size")}
    if stock.hidden_act not in ACT2FN:
        raise CheckpointError(f"hidden_act={stock.hidden_act!r} is not an activation of transformers")
    fields = {name: getattr(stock, name) for name in _SAME} | {
        "crop_size": sides["image_size"],
        "patch_size": sides["patch_size"],
        "in_chans": stock.num_channels,
        "mlp_ratio": mlp_ratio(stock.intermediate_size, stock.hidden_size),
        "frames_per_clip": 1,
        "tubelet_size": 1,
        "pooling": "mean",
    }
    if _is_classifier(stock):
        fields |= {name: getattr(stock, name) for name in ("id2label", "label2id", "problem_type")}
    # As of any file: untrusted sizes are bounded.
    return VJEPAConfig.from_dict(fields | _predictor_of(fields))


def _side(name: str, size: int | list[int] | tuple[int, ...]) -> int:
    """The side of a square."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise CheckpointError(f"{name}={size} is not a square: our models take square images and patches")
    return sides.pop()


def _predictor_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a new predictor for an encoder, and the objective of I-JEPA."""
    for name in PRESETS:
        preset = VJEPAConfig.from_preset(name)
        if all(
            getattr(preset, field) == fields[field] for field in ("hidden_size", "num_hidden_layers", "patch_size")
        ):
            if preset.is_image_model:
                return {field: value for field, value in preset.to_dict().items() if field.startswith("pred_")}
    width, heads = VJEPAConfig().pred_hidden_size, fields["num_attention_heads"]
    return {
        "pred_num_attention_heads": next(number for number in range(max(1, heads), 0, -1) if width % number == 0),
        "pred_num_mask_tokens": 1,
        "pred_loss": "smooth_l1",
    }


def _is_classifier(stock: IJepaConfig) -> bool:
    return "IJepaForImageClassification" in (stock.architectures or ())


# Weights


def _names(num_blocks: int, *, qkv_bias: bool) -> dict[str, str]:
    """Names of the weights of a stock encoder in a file, without position embeddings, and ours."""
    modules = dict(_MODULES)
    for index in range(num_blocks):
        modules |= {theirs.format(index): ours.format(index) for theirs, ours in _BLOCK.items()}
    without_bias = () if qkv_bias else tuple(f".attention.attention.{name}" for name in _PROJECTIONS.values())
    return {
        f"{theirs}.{parameter}": f"{ours}.{parameter}"
        for theirs, ours in modules.items()
        for parameter in ("weight", "bias")
        if not (parameter == "bias" and theirs.endswith(without_bias or ("\0",)))
    }


def encoder_and_head(weights: Weights) -> tuple[Weights, list[str]]:
    """
    The weights of the target encoder and, for a classifier, of the linear head; and descriptions of the other parts,
    which a stock model does not have.

    Args:
        weights: state dict of a pretraining model, a base model (names with `vjepa.`) or a classifier.
    """
    kept = {name: value for name, value in weights.items() if name.startswith((_ENCODER, "classifier."))}
    parts = {"context_encoder.": "context encoder", "vjepa.predictor.": "predictor", "pooler.": "attentive pooler"}
    return kept, [part for prefix, part in parts.items() if any(name.startswith(prefix) for name in weights)]


def stock_weights(weights: Weights, config: VJEPAConfig) -> Weights:
    """
    The weights of a stock model, by the names of its files. The tensors share memory with `weights`.

    Args:
        weights: see [`encoder_and_head`].

    Raises:
        CheckpointError: weights are missing.
    """
    kept, _ = encoder_and_head(weights)
    is_classifier = "classifier.weight" in kept
    names = _names(config.num_hidden_layers, qkv_bias=config.qkv_bias)
    prefix = "ijepa." if is_classifier else ""
    if missing := sorted(ours for ours in names.values() if _ENCODER + ours not in kept):
        raise CheckpointError(
            f"no weights for {_ENCODER}{missing[0]} ({len(missing)} missing): it is not a whole model"
        )
    result = {prefix + theirs: kept[_ENCODER + ours] for theirs, ours in names.items()}
    kernel = result[prefix + _PATCHES]
    sides = (config.in_chans, config.patch_size, config.patch_size)
    result[prefix + _PATCHES] = kernel.unflatten(1, sides)
    result[prefix + _POSITIONS] = position_table(config, "encoder").unsqueeze(0).to(kernel.dtype)
    return result | {name: value for name, value in kept.items() if name.startswith("classifier.")}


def weights_of_stock(stored: Weights, config: VJEPAConfig) -> tuple[Weights, list[str]]:
    """
    Our weights of a stock model (names with `vjepa.encoder.`, and `classifier.`), and descriptions of what is dropped.
    The tensors share memory with `stored`.

    Args:
        stored: weights of a stock model, by their names in files or in memory.

    Raises:
        CheckpointError: names, sizes or positions do not fit.
    """
    bare = {_file_name(name): value for name, value in stored.items()}
    dropped = ["position embeddings (computed)"]
    if pooler := [name for name in bare if name.startswith("pooler.")]:
        dropped.append("pooler (not part of I-JEPA)")
    if "embeddings.mask_token" in bare:
        dropped.append("mask token of the encoder (not part of I-JEPA)")
    if _POSITIONS not in bare:
        raise CheckpointError(f"no {_POSITIONS}: these are not the weights of a stock I-JEPA model")
    names = _names(count_blocks(bare, "encoder.layer"), qkv_bias=config.qkv_bias)
    head = {name: value for name, value in bare.items() if name.startswith("classifier.")}
    known = {*names, *head, *pooler, _POSITIONS, "embeddings.mask_token"}
    problems = {"unknown": sorted(bare.keys() - known), "missing": sorted(names.keys() - bare.keys())}
    if any(problems.values()):
        listed = "; ".join(f"{problem}: {', '.join(found)}" for problem, found in problems.items() if found)
        raise CheckpointError(f"not the names of a stock I-JEPA model; {listed}")
    _check_positions(bare[_POSITIONS], config)
    ours = {_ENCODER + ours: bare[theirs] for theirs, ours in names.items()}
    kernel = _ENCODER + _MODULES[_PATCHES.removesuffix(".weight")] + ".weight"
    ours[kernel] = ours[kernel].flatten(1)  # a strided convolution is a linear map of flat patches
    if head:
        check_shapes(ours | head, VJEPAForVideoClassification, config)
    else:
        bare_names = {name.removeprefix("vjepa."): value for name, value in ours.items()}
        check_shapes(bare_names, partial(VJEPAModel, add_predictor=False), config)
    return ours | head, dropped


def _file_name(name: str) -> str:
    """The name of a weight in the files of a base model."""
    name = name.removeprefix("ijepa.")
    for pattern, replacement in _IN_MEMORY:
        name = re.sub(pattern, replacement, name)
    return name


def _check_positions(stored: torch.Tensor, config: VJEPAConfig) -> None:
    """Refuses position embeddings that are not our table."""
    computed = position_table(config, "encoder").unsqueeze(0)
    if stored.shape != computed.shape:
        raise CheckpointError(
            f"the position embeddings have shape {tuple(stored.shape)}, the configuration {tuple(computed.shape)}: "
            "weights and configuration belong to different models"
        )
    difference = (stored.float() - computed).abs().max().item()
    if not difference <= max(POSITION_TOLERANCE, torch.finfo(stored.dtype).eps):
        raise CheckpointError(
            f"the position embeddings differ by {difference:.1e} (allowed {POSITION_TOLERANCE:.0e}) from the "
            "sine-cosine table, so they were trained. Our models compute their positions: use the stock model "
            "instead, or train it with frozen position embeddings"
        )


# Folders


def is_stock(config: Mapping[str, Any]) -> bool:
    """Whether this is the content of the `config.json` of a stock I-JEPA model."""
    return config.get("model_type") == MODEL_TYPE


def is_stock_folder(folder: str | Path) -> bool:
    """Whether a folder holds a stock I-JEPA model; False for a folder without a readable configuration."""
    try:
        config = json.loads((Path(folder) / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and is_stock(config)


@dataclass(frozen=True)
class StockModel:
    """
    A stock model as one of ours.

    Args:
        config: our configuration.
        weights: our weights: names with `vjepa.encoder.` and, of a classifier, `classifier.`.
        dropped: descriptions of what our model does not have.
        normalisation: `image_mean` and `image_std` for the pixels, on the scale 0 to 1.
    """

    config: VJEPAConfig
    weights: Weights
    dropped: list[str]
    normalisation: dict[str, list[float]]


def read_stock_folder(folder: str | Path) -> StockModel:
    """
    Reads the model of a stock folder: JSON and safetensors files only. Tensors are memory-mapped.

    Raises:
        CheckpointError: the folder holds no such model, a damaged file, or a model that ours cannot express.
    """
    folder = Path(folder)
    stock = IJepaConfig.from_pretrained(folder)
    config = config_of_stock(stock)
    weights, dropped = weights_of_stock(read_weights(folder), config)
    if stock.hidden_dropout_prob:
        dropped.append(f"hidden_dropout_prob={stock.hidden_dropout_prob:g} (our blocks have no such dropout)")
    return StockModel(config, weights, dropped, normalisation_of_stock(folder))


def stock_processor(processor: VJEPAVideoProcessor, config: VJEPAConfig) -> BitImageProcessor:
    """
    The stock image processor with the geometry and normalisation of ours. It resizes with antialiasing, ours without.
    `BitImageProcessor` is the class that crops in every version of transformers with I-JEPA; DINOv2 uses it, too.
    """
    edge = VJEPAVideoProcessor.for_config(config).size["shortest_edge"]
    return BitImageProcessor(
        size={"shortest_edge": edge},
        crop_size={"height": config.crop_size, "width": config.crop_size},
        resample=processor.resample,
        image_mean=list(processor.image_mean),
        image_std=list(processor.image_std),
    )


def normalisation_of_stock(folder: str | Path) -> dict[str, list[float]]:
    """
    `image_mean` and `image_std` of the processor in a stock folder. An encoder whose processor has 0.5 everywhere gets
    those of ImageNet, with which I-JEPA was trained: 0.5 is only the default of `ViTImageProcessor`, which the
    published folders have kept.
    """
    folder = Path(folder)
    imagenet = {"image_mean": list(IMAGENET_DEFAULT_MEAN), "image_std": list(IMAGENET_DEFAULT_STD)}
    if not (folder / IMAGE_PROCESSOR_NAME).is_file():
        return imagenet
    settings, _ = BitImageProcessor.get_image_processor_dict(folder)
    found = {name: settings.get(name) or default for name, default in imagenet.items()}
    is_default = all(value == [0.5, 0.5, 0.5] for value in found.values())
    return imagenet if is_default and not _is_classifier(IJepaConfig.from_pretrained(folder)) else found


def save_stock_folder(weights: Weights, config: VJEPAConfig, folder: Path, *, processor: VJEPAVideoProcessor) -> None:
    """
    Writes the encoder, and for a classifier the head, as a folder of a stock model with its image processor.

    Args:
        weights: see [`encoder_and_head`].
        processor: ours of the model; the stock one gets its mean and deviation.

    Raises:
        CheckpointError: a stock model cannot express the model, or weights are missing.
    """
    is_classifier = "classifier.weight" in weights
    stock, stored = stock_config(config, is_classifier=is_classifier), stock_weights(weights, config)
    stock.dtype = stored[next(iter(stored))].dtype
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / SAFE_WEIGHTS_NAME) as unfinished:
        save_file({name: value.contiguous() for name, value in stored.items()}, unfinished, metadata={"format": "pt"})
    for stale in (*folder.glob("model-*.safetensors"), folder / SAFE_WEIGHTS_INDEX_NAME):
        stale.unlink(missing_ok=True)  # shards of an earlier model
    stock.save_pretrained(folder)
    stock_processor(processor, config).save_pretrained(folder)


def load_stock_folder(folder: str | Path) -> PreTrainedModel:
    """
    The stock model of a folder, as transformers loads it, in float32.

    Raises:
        CheckpointError: weights are missing.
    """
    stock = IJepaConfig.from_pretrained(folder)
    model_class = IJepaForImageClassification if _is_classifier(stock) else IJepaModel
    model, info = model_class.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"{folder} has no weights for {missing[0]} ({len(missing)} missing): convert it again")
    return model.eval()


@torch.no_grad()
def check_stock_folder(folder: Path, weights: Weights, config: VJEPAConfig) -> dict[str, float]:
    """
    Compares a written folder with the model that it was made from: the weights bit by bit, and the outputs of the
    stock model for two random images in float32.

    Returns:
        For each output (`features`, `logits`) the largest difference, relative to our largest value.

    Raises:
        CheckpointError: a weight differs in a bit, or an output by more than `OUTPUT_TOLERANCE`.
    """
    kept, _ = encoder_and_head(weights)
    if different := differing_tensors(read_stock_folder(folder).weights, kept):
        raise CheckpointError(f"{folder} differs from the source in {', '.join(different)}: do not use it")
    images = torch.randn(
        2, config.in_chans, config.crop_size, config.crop_size, generator=torch.Generator().manual_seed(0)
    )
    model = build_model(kept, config)
    positions = getattr(model, "vjepa", model).encoder.embeddings.position_embeddings
    positions.table = positions.table.to(model.dtype)  # stored positions have the type of the weights
    ours = _outputs(model.float(), images)
    theirs = _outputs(load_stock_folder(folder), images)
    differences = {
        name: ((ours[name] - theirs[name]).abs().max() / ours[name].abs().max()).item() for name in ours.keys()
    }
    if not max(differences.values()) <= OUTPUT_TOLERANCE:
        raise CheckpointError(
            f"the stock model in {folder} computes other outputs than ours (allowed {OUTPUT_TOLERANCE:.0e} of the "
            f"largest value, found {max(differences.values()):.1e}): do not use it"
        )
    return differences


def _outputs(model: PreTrainedModel, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features and, of a classifier, logits of images, from a model of ours or a stock model."""
    encoder = getattr(model, model.base_model_prefix, model)
    features = {"features": encoder(pixel_values=images).last_hidden_state}
    return features | ({} if encoder is model else {"logits": model(pixel_values=images).logits})
