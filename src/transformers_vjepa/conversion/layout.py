"""The layout of published checkpoints: the names of their weights, and our names of the same weights."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..safety.safe_loading import CheckpointError

Weights = dict[str, torch.Tensor]
#: Entries of a published file, beside the networks, that a conversion drops.
BOOKKEEPING = ("opt", "scaler", "epoch", "loss", "batch_size", "world_size", "lr")
#: Networks of a published pretraining file, and their places in our models.
NETWORKS = {"encoder": "context_encoder", "target_encoder": "vjepa.encoder", "predictor": "vjepa.predictor"}
#: Weights of the convolution that embeds patches.
PATCHES = "patch_embed.proj.weight"
#: Position tables: published files store them, our models compute them.
TABLES = {"encoder": "pos_embed", "predictor": "predictor_pos_embed"}
#: An output projection that published probes hold but never apply.
UNUSED = tuple(f"pooler.cross_attention_block.xattn.proj.{parameter}" for parameter in ("weight", "bias"))
# Modules of a block and of the pooler's block, and our names where they differ. Several names of ours are equal parts,
# along the first axis, of one fused weight.
_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_POOLER = ("norm1", "xattn.q", "xattn.kv", "norm2", "mlp.fc1", "mlp.fc2")
_RENAMED = {
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.proj",),
    "xattn.q": ("cross_attn.q_proj",),
    "xattn.kv": ("cross_attn.k_proj", "cross_attn.v_proj"),
}


def _renamed(names: Iterable[str], published: str, ours: str) -> dict[str, tuple[str, ...]]:
    """Modules with these names inside the module `published`, and our names of them inside the module `ours`."""
    return {f"{published}.{name}": tuple(f"{ours}.{part}" for part in _RENAMED.get(name, (name,))) for name in names}


# Modules of each network outside its blocks.
_MODULES = {
    "encoder": {"patch_embed.proj": ("embeddings.patch_embeddings",), "norm": ("layernorm",)},
    "predictor": {
        "predictor_embed": ("predictor_embeddings",),
        "predictor_norm": ("layernorm",),
        "predictor_proj": ("proj",),
    },
    "probe": {
        **_renamed(_POOLER, "pooler.cross_attention_block", "pooler.cross_attention_layer"),
        "linear": ("classifier",),
    },
}
#: Published prefix of the blocks of each network, and ours.
BLOCKS = {
    "encoder": ("blocks", "layer"),
    "predictor": ("predictor_blocks", "layer"),
    "probe": ("pooler.blocks", "pooler.self_attention_layers"),
}


def published_network(checkpoint: Mapping[str, Any], part: str) -> Weights:
    """
    The weights of one part of a published file, with names without `module.` and `backbone.`.

    Raises:
        CheckpointError: the part is missing, is not a state dict, or holds a weight twice.
    """
    if part not in checkpoint:
        raise CheckpointError(f"no `{part}` in the checkpoint, which holds {_listed(checkpoint)}")
    weights = checkpoint[part]
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"`{part}` of the checkpoint is not a state dict")
    for name, value in weights.items():
        # A strided view can claim any size, and a copy of the view would need this memory.
        is_dense = value.layout == torch.strided
        if not is_dense or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f"{name} of shape {tuple(value.shape)} has fewer values in the checkpoint")
    bare = {re.sub(r"^(module\.)?(backbone\.)?", "", name): value for name, value in weights.items()}
    if len(bare) < len(weights):
        raise CheckpointError(f"`{part}` of the checkpoint names weights twice, with and without their prefixes")
    return bare


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, names))) or "nothing"


def network_kind(weights: Mapping[str, torch.Tensor]) -> str:
    """`probe`, `predictor` or `encoder`: the kind of a published network, by its names."""
    if "pooler.query_tokens" in weights:
        return "probe"
    return "predictor" if any(name.startswith("predictor_") for name in weights) else "encoder"


def count_blocks(names: Mapping[str, Any], prefix: str) -> int:
    """Number of blocks in a state dict: the largest index after `prefix`, plus one."""
    # Each block has at least one weight, so an index beyond the number of weights does not count blocks.
    indices = (re.match(rf"{re.escape(prefix)}\.(\d{{1,9}})\.", name) for name in names)
    return max((int(match.group(1)) + 1 for match in indices if match and int(match.group(1)) < len(names)), default=0)


def network_layout(weights: Mapping[str, torch.Tensor], kind: str) -> dict[str, tuple[str, ...]]:
    """The names that a network with the blocks of `weights` must have, and ours; without mask tokens."""
    blocks, layers = BLOCKS[kind]
    modules = dict(_MODULES[kind])
    for index in range(count_blocks(weights, blocks)):
        modules |= _renamed(_BLOCK, f"{blocks}.{index}", f"{layers}.{index}")
    without_bias = not any(name.endswith("attn.qkv.bias") for name in weights)
    layout = {
        f"{name}.{parameter}": tuple(f"{part}.{parameter}" for part in ours)
        for name, ours in modules.items()
        for parameter in ("weight", "bias")
        if not (without_bias and f"{name}.{parameter}".endswith("attn.qkv.bias"))
    }
    return layout | ({"pooler.query_tokens": ("pooler.query_tokens",)} if kind == "probe" else {})


def mask_token_names(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Published names of the mask tokens, in order: one per mask generator (V-JEPA), or a single one (I-JEPA)."""
    if "mask_token" in weights:
        return ["mask_token"]
    numbered = (re.fullmatch(r"mask_tokens\.(\d+)", name) for name in weights)
    return [match.group() for match in sorted(filter(None, numbered), key=lambda match: int(match.group(1)))]


def check_names(networks: Mapping[str, Weights]) -> None:
    """
    Compares the names in networks, by the name of their part, with the published layout.

    Raises:
        CheckpointError: with all unknown and all missing names.
    """
    problems: dict[str, list[str]] = {"unknown": [], "missing": []}
    for part, weights in networks.items():
        kind = network_kind(weights)
        expected = set(network_layout(weights, kind))
        if kind == "predictor":
            expected |= set(mask_token_names(weights)) or {"mask_tokens.0"}
        found = set(weights).difference(UNUSED if kind == "probe" else (TABLES[kind],))
        problems["unknown"] += [f"{part}.{name}" for name in sorted(found - expected)]
        problems["missing"] += [f"{part}.{name}" for name in sorted(expected - found)]
    if any(problems.values()):
        listed = "; ".join(f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names)
        raise CheckpointError(f"not the names of a published V-JEPA or I-JEPA checkpoint; {listed}")


def check_top_level(checkpoint: Mapping[str, Any], parts: tuple[str, ...], kind: str) -> None:
    """
    Compares the entries of a published file with the networks that this kind of file must hold.

    Raises:
        CheckpointError: with all missing and all unknown entries.
    """
    problems = []
    if missing := [part for part in parts if part not in checkpoint]:
        problems.append(f"no {', '.join(missing)} in {_listed(checkpoint)}")
    if unknown := set(checkpoint).difference(parts, NETWORKS, BOOKKEEPING):
        problems.append(f"unknown entries: {_listed(unknown)}")
    if problems:
        raise CheckpointError(f"not a published {kind}: {'; '.join(problems)}")
