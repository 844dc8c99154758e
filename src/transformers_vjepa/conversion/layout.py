"""The layout of published checkpoints: what their networks name, and what ours call it."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..safety.safe_loading import CheckpointError

Weights = dict[str, torch.Tensor]
#: Published names to ours. Several of ours are the equal parts, along the first axis, of one fused published weight.
Layout = dict[str, tuple[str, ...]]
#: Entries of a published file, beside the networks, that are knowingly left behind.
BOOKKEEPING = ("opt", "scaler", "epoch", "loss", "batch_size", "world_size", "lr")
#: Networks of a published pretraining file, and where ours keeps them.
NETWORKS = {"encoder": "context_encoder", "target_encoder": "vjepa.encoder", "predictor": "vjepa.predictor"}
PATCHES = "patch_embed.proj.weight"
# Computed from the configuration instead; published files store them.
TABLES = {"encoder": "pos_embed", "predictor": "predictor_pos_embed"}
# The published probe carries an output projection that it never applies.
UNUSED = tuple(f"pooler.cross_attention_block.xattn.proj.{parameter}" for parameter in ("weight", "bias"))
_BLOCK = {
    "norm1": ("norm1",),
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.proj",),
    "norm2": ("norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
_POOLER = {
    "norm1": ("norm1",),
    "xattn.q": ("cross_attn.q_proj",),
    "xattn.kv": ("cross_attn.k_proj", "cross_attn.v_proj"),
    "norm2": ("norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
# Modules of each network outside its blocks, and the names of the blocks.
_MODULES = {
    "encoder": {"patch_embed.proj": ("embeddings.patch_embeddings",), "norm": ("layernorm",)},
    "predictor": {
        "predictor_embed": ("predictor_embeddings",),
        "predictor_norm": ("layernorm",),
        "predictor_proj": ("proj",),
    },
    "probe": {
        **{
            f"pooler.cross_attention_block.{name}": tuple(f"pooler.cross_attention_layer.{part}" for part in ours)
            for name, ours in _POOLER.items()
        },
        "linear": ("classifier",),
    },
}
BLOCKS = {
    "encoder": ("blocks", "layer"),
    "predictor": ("predictor_blocks", "layer"),
    "probe": ("pooler.blocks", "pooler.self_attention_layers"),
}


def published_network(checkpoint: Mapping[str, Any], part: str) -> Weights:
    """
    The weights of one part of a published file under their bare names, without `module.` and `backbone.`.

    Raises:
        CheckpointError: the part is missing, is no state dict, or names a weight twice.
    """
    if part not in checkpoint:
        raise CheckpointError(f"no `{part}` in the checkpoint, which holds {_listed(checkpoint)}")
    weights = checkpoint[part]
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"`{part}` of the checkpoint is no state dict")
    bare = {re.sub(r"^(module\.)?(backbone\.)?", "", name): value for name, value in weights.items()}
    for name, value in weights.items():
        # A view can claim any size, and takes its memory where it is copied.
        is_dense = value.layout == torch.strided
        if not is_dense or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f"{name} of shape {tuple(value.shape)} has fewer values in the checkpoint")
    if len(bare) < len(weights):
        raise CheckpointError(f"`{part}` of the checkpoint names weights twice, with and without their prefixes")
    return bare


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(str, names))) or "nothing"


def network_kind(weights: Mapping[str, torch.Tensor]) -> str:
    if "pooler.query_tokens" in weights:
        return "probe"
    return "predictor" if any(name.startswith("predictor_") for name in weights) else "encoder"


def count_blocks(names: Mapping[str, Any], prefix: str) -> int:
    """Blocks of a state dict: the largest index behind `prefix`, plus one."""
    # A block has at least one weight: larger numbers are none of a block.
    indices = (re.match(rf"{re.escape(prefix)}\.(\d{{1,9}})\.", name) for name in names)
    return max((int(match.group(1)) + 1 for match in indices if match and int(match.group(1)) < len(names)), default=0)


def network_layout(weights: Mapping[str, torch.Tensor], kind: str) -> Layout:
    """The names that a network must have with as many blocks as `weights` name, and ours. Without mask tokens."""
    blocks, layers = BLOCKS[kind]
    modules = dict(_MODULES[kind])
    for index in range(count_blocks(weights, blocks)):
        modules |= {
            f"{blocks}.{index}.{name}": tuple(f"{layers}.{index}.{part}" for part in ours)
            for name, ours in _BLOCK.items()
        }
    without_bias = not any(name.endswith("attn.qkv.bias") for name in weights)
    layout = {
        f"{name}.{parameter}": tuple(f"{part}.{parameter}" for part in ours)
        for name, ours in modules.items()
        for parameter in ("weight", "bias")
        if not (without_bias and f"{name}.{parameter}".endswith("attn.qkv.bias"))
    }
    return layout | ({"pooler.query_tokens": ("pooler.query_tokens",)} if kind == "probe" else {})


def mask_token_names(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Published names of the mask tokens, in order: one for each generator (V-JEPA), or a single one (I-JEPA)."""
    numbered = sorted(
        (int(match.group(1)), name) for name in weights if (match := re.fullmatch(r"mask_tokens\.(\d+)", name))
    )
    return ["mask_token"] if "mask_token" in weights else [name for _, name in numbered]


def _unexpected_and_missing(weights: Weights, kind: str) -> tuple[list[str], list[str]]:
    expected = set(network_layout(weights, kind))
    dropped = set(UNUSED) if kind == "probe" else {TABLES[kind]}
    if kind == "predictor":
        expected |= set(mask_token_names(weights)) or {"mask_tokens.0"}
    found = set(weights) - dropped
    return sorted(found - expected), sorted(expected - found)


def check_names(networks: Mapping[str, Weights]) -> None:
    """
    Refuses networks (by the name of their part) with names beyond those of the published layout, or without some.

    Raises:
        CheckpointError: with all of these names.
    """
    unexpected, missing = [], []
    for part, weights in networks.items():
        more, fewer = _unexpected_and_missing(weights, network_kind(weights))
        unexpected += [f"{part}.{name}" for name in more]
        missing += [f"{part}.{name}" for name in fewer]
    problems = [
        f"{what}: {', '.join(names)}" for what, names in (("unknown", unexpected), ("missing", missing)) if names
    ]
    if problems:
        raise CheckpointError(f"not the names of a published V-JEPA or I-JEPA checkpoint; {'; '.join(problems)}")


def check_top_level(checkpoint: Mapping[str, Any], parts: tuple[str, ...], what: str) -> None:
    problems = []
    if missing := [part for part in parts if part not in checkpoint]:
        problems.append(f"no {', '.join(missing)} in {_listed(checkpoint)}")
    if unknown := set(checkpoint) - set(parts) - set(NETWORKS) - set(BOOKKEEPING):
        problems.append(f"unknown entries: {_listed(unknown)}")
    if problems:
        raise CheckpointError(f"not a published {what}: {'; '.join(problems)}")


__all__ = [
    "BLOCKS",
    "BOOKKEEPING",
    "NETWORKS",
    "PATCHES",
    "TABLES",
    "UNUSED",
    "Layout",
    "Weights",
    "check_names",
    "check_top_level",
    "count_blocks",
    "mask_token_names",
    "network_kind",
    "network_layout",
    "published_network",
]
