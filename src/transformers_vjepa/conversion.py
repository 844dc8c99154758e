"""Published checkpoints: from the layout of the released files to ours."""

import os
import re
from typing import Any

import torch

from .configuration_vjepa import VJEPAConfig
from .modeling_vjepa import VJEPAForPreTraining

# Published names, after `module.` and `backbone.`, to ours. A fused weight names several of ours.
_RENAMES: tuple[tuple[str, str | tuple[str, ...]], ...] = (
    (r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embeddings.\1"),
    (r"predictor_embed\.(weight|bias)", r"predictor_embeddings.\1"),
    (r"predictor_norm\.(weight|bias)", r"layernorm.\1"),
    (r"predictor_proj\.(weight|bias)", r"proj.\1"),
    (r"norm\.(weight|bias)", r"layernorm.\1"),
    (
        r"(?:predictor_)?blocks\.(\d+)\.attn\.qkv\.(weight|bias)",
        tuple(rf"layer.\1.attention.{name}.\2" for name in ("query", "key", "value")),
    ),
    (r"(?:predictor_)?blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"layer.\1.attention.proj.\2"),
    (r"(?:predictor_)?blocks\.(\d+)\.(norm1|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)", r"layer.\1.\2.\3"),
)
# Position tables are computed from the configuration.
_DROPPED = re.compile(r"(?:predictor_)?pos_embed")
_MASK_TOKEN = re.compile(r"mask_tokens?(?:\.(\d+))?")

_PARTS = {"encoder": "context_encoder", "target_encoder": "vjepa.encoder", "predictor": "vjepa.predictor"}


def convert_network(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    The state dict of one published network (encoder or predictor) under our names.

    Raises:
        ValueError: names that are not of the published layout.
    """
    converted, mask_tokens, unknown = {}, {}, []
    for key, value in weights.items():
        name = re.sub(r"^(module\.)?(backbone\.)?", "", key)
        if _DROPPED.fullmatch(name):
            continue
        if match := _MASK_TOKEN.fullmatch(name):
            mask_tokens[int(match.group(1) or 0)] = value
            continue
        found = next(((match, ours) for rule, ours in _RENAMES if (match := re.fullmatch(rule, name))), None)
        if found is None:
            unknown.append(key)
            continue
        match, ours = found
        if name.startswith("patch_embed.proj.weight"):
            value = value.flatten(1)  # a strided convolution is a linear map of flat patches
        ours = (ours,) if isinstance(ours, str) else ours
        for part, piece in zip(ours, value.chunk(len(ours)), strict=True):
            converted[match.expand(part)] = piece.clone()
    if unknown:
        raise ValueError(f"not names of a published V-JEPA checkpoint: {', '.join(unknown)}")
    if mask_tokens:
        converted["mask_tokens"] = torch.stack([mask_tokens[index] for index in sorted(mask_tokens)])
    return converted


def load_published_checkpoint(path: str | os.PathLike, config: VJEPAConfig) -> VJEPAForPreTraining:
    """
    A pretraining model with the weights of a published checkpoint (`encoder`, `target_encoder`, `predictor`).

    Args:
        path: a `.pth.tar` file in the published layout; read without unpickling code.
        config: the architecture of its networks.

    Raises:
        ValueError: a part is missing, or names or shapes do not fit `config`.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return convert_checkpoint(checkpoint, config)


def convert_checkpoint(checkpoint: dict[str, Any], config: VJEPAConfig) -> VJEPAForPreTraining:
    """As `load_published_checkpoint`, from the loaded dict."""
    missing = [part for part in _PARTS if part not in checkpoint]
    if missing:
        raise ValueError(f"not a published pretraining checkpoint: no {', '.join(missing)} in {sorted(checkpoint)}")
    weights = {
        f"{prefix}.{name}": value
        for part, prefix in _PARTS.items()
        for name, value in convert_network(checkpoint[part]).items()
    }
    model = VJEPAForPreTraining(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint does not fit the configuration: {error}") from error
    return model


__all__ = ["convert_checkpoint", "convert_network", "load_published_checkpoint"]
