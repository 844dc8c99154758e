"""
Makes files in the published layout with random weights, of any size.

    python tests/published.py vith16 vith16.pth.tar --optimizer
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from transformers_vjepa import PRESETS, VJEPAConfig
from transformers_vjepa.models.vjepa.modeling_vjepa import sincos_positions

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _linear(name: str, rows: int, columns: int) -> Shapes:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _block(name: str, width: int, hidden: int, qkv_bias: bool = True) -> Shapes:
    yield from _norm(f"{name}.norm1", width)
    yield f"{name}.attn.qkv.weight", (3 * width, width)
    if qkv_bias:
        yield f"{name}.attn.qkv.bias", (3 * width,)
    yield from _linear(f"{name}.attn.proj", width, width)
    yield from _norm(f"{name}.norm2", width)
    yield from _linear(f"{name}.mlp.fc1", hidden, width)
    yield from _linear(f"{name}.mlp.fc2", width, hidden)


def _encoder(config: VJEPAConfig) -> Shapes:
    width, side = config.hidden_size, config.patch_size
    time = () if config.is_image_model else (config.tubelet_size,)
    yield "patch_embed.proj.weight", (width, config.in_chans, *time, side, side)
    yield "patch_embed.proj.bias", (width,)
    for index in range(config.num_hidden_layers):
        yield from _block(f"blocks.{index}", width, int(width * config.mlp_ratio), config.qkv_bias)
    yield from _norm("norm", width)


def _predictor(config: VJEPAConfig) -> Shapes:
    width = config.pred_hidden_size
    yield from _linear("predictor_embed", width, config.hidden_size)
    tokens = [f"mask_tokens.{index}" for index in range(config.pred_num_mask_tokens)]
    for name in ["mask_token"] if config.is_image_model else tokens:
        yield name, (1, 1, width)
    for index in range(config.pred_num_hidden_layers):
        yield from _block(f"predictor_blocks.{index}", width, int(width * config.pred_mlp_ratio), config.qkv_bias)
    yield from _norm("predictor_norm", width)
    yield from _linear("predictor_proj", config.hidden_size, width)


def _probe(width: int, *, depth: int, num_labels: int) -> Shapes:
    yield "pooler.query_tokens", (1, 1, width)
    cross = "pooler.cross_attention_block"
    yield from _norm(f"{cross}.norm1", width)
    yield from _linear(f"{cross}.xattn.q", width, width)
    yield from _linear(f"{cross}.xattn.kv", 2 * width, width)
    yield from _linear(f"{cross}.xattn.proj", width, width)
    yield from _norm(f"{cross}.norm2", width)
    yield from _linear(f"{cross}.mlp.fc1", 4 * width, width)
    yield from _linear(f"{cross}.mlp.fc2", width, 4 * width)
    for index in range(depth - 1):
        yield from _block(f"pooler.blocks.{index}", width, 4 * width)
    yield from _linear("linear", num_labels, width)


def _random(shapes: Shapes, prefix: str, generator: torch.Generator | None) -> dict[str, torch.Tensor]:
    if generator is None:
        return {f"{prefix}{name}": torch.empty(shape, device="meta") for name, shape in shapes}
    return {f"{prefix}{name}": torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes}


def published_checkpoint_of(config: VJEPAConfig, *, seed: int | None = 0, optimizer: bool = False) -> dict[str, Any]:
    """
    A pretraining file; with `optimizer` also the two moments of AdamW for all trained weights. With `seed=None` the
    weights have shapes only and take no memory.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    prefix = "module." if config.is_image_model else "module.backbone."

    def positions(width: int) -> torch.Tensor:
        table = sincos_positions(
            config.grid_size, width, uniform_power=config.uniform_power, is_image_model=config.is_image_model
        )
        return table.unsqueeze(0)

    checkpoint: dict[str, Any] = {}
    for part in ("encoder", "target_encoder"):
        table = {f"{prefix}pos_embed": positions(config.hidden_size)}
        checkpoint[part] = table | _random(_encoder(config), prefix, generator)
    table = {f"{prefix}predictor_pos_embed": positions(config.pred_hidden_size)}
    checkpoint["predictor"] = table | _random(_predictor(config), prefix, generator)
    trained = [*checkpoint["encoder"].values(), *checkpoint["predictor"].values()]
    moments = {
        index: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}
        for index, value in enumerate(trained if optimizer else [])
    }
    groups = [{"params": list(moments), "lr": 1e-3, "betas": (0.9, 0.999)}]
    bookkeeping = {"scaler": None, "epoch": 300, "loss": 0.5, "batch_size": 24, "world_size": 128, "lr": 1e-6}
    return checkpoint | {"opt": {"state": moments, "param_groups": groups}} | bookkeeping


def published_probe_of(width: int, *, depth: int = 1, num_labels: int = 7, seed: int = 1) -> dict[str, Any]:
    """The file of an attentive probe."""
    weights = _random(
        _probe(width, depth=depth, num_labels=num_labels), "module.", torch.Generator().manual_seed(seed)
    )
    return {
        "classifier": weights,
        "opt": None,
        "scaler": None,
        "epoch": 20,
        "batch_size": 4,
        "world_size": 64,
        "lr": 0,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=list(PRESETS))
    parser.add_argument("file", type=Path)
    parser.add_argument("--optimizer", action="store_true")
    arguments = parser.parse_args()
    config = VJEPAConfig.from_preset(arguments.preset)
    torch.save(published_checkpoint_of(config, optimizer=arguments.optimizer), arguments.file)
