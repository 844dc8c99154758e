"""The architecture of a published checkpoint, read off its weights."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from ..models.vjepa.modeling_vjepa import sincos_positions
from ..safety.safe_loading import CheckpointError
from .layout import (
    PATCHES,
    TABLES,
    Weights,
    check_names,
    count_blocks,
    mask_token_names,
    network_kind,
    published_network,
)

#: Largest difference between a stored position table and ours: those in float32 agree to a few 1e-7.
TABLE_TOLERANCE = 1e-5


def position_table(config: VJEPAConfig, kind: str) -> torch.Tensor:
    """Position table of the encoder or the predictor: (tokens, width)."""
    return sincos_positions(
        config.grid_size,
        config.pred_hidden_size if kind == "predictor" else config.hidden_size,
        uniform_power=config.uniform_power,
        is_image_model=config.is_image_model,
    )


def check_positions(weights: Mapping[str, torch.Tensor], config: VJEPAConfig) -> float | None:
    """
    Compares the position table of a published network with the one that ours computes.

    Returns:
        The largest difference; None where no table is stored.

    Raises:
        CheckpointError: it exceeds `TABLE_TOLERANCE` (and the rounding of the stored type), or the sizes differ.
    """
    kind = network_kind(weights)
    table = weights.get(TABLES.get(kind, ""))
    if table is None:
        return None
    computed = position_table(config, kind)
    described = f"grid {config.grid_size} with uniform_power={config.uniform_power}"
    if table.shape != (1, *computed.shape):
        raise CheckpointError(
            f"the position table has shape {tuple(table.shape)}, {described} has {(1, *computed.shape)}"
        )
    difference = (table[0].float() - computed).abs().max().item()
    if not difference <= max(TABLE_TOLERANCE, torch.finfo(table.dtype).eps):
        raise CheckpointError(
            f"the position table differs by {difference:.1e} (allowed {TABLE_TOLERANCE:.0e}) from {described}: "
            "the grid or uniform_power is another one"
        )
    return difference


@dataclass(frozen=True)
class Recognition:
    """
    What `recognise_config` found.

    Args:
        config: the architecture.
        presets: names in `PRESETS` with which the weights agree.
        heads_source: where the number of heads comes from, which no weight shows.
        table_difference: largest difference of the stored position table from the computed one; None without one.
    """

    config: VJEPAConfig
    presets: tuple[str, ...]
    heads_source: str
    table_difference: float | None

    def __str__(self) -> str:
        config = self.config
        time, rows, columns = config.grid_size
        if config.is_image_model:
            grid, kind = f"{rows}x{columns} tokens ({config.crop_size} px)", "I-JEPA"
        else:
            grid = f"{time}x{rows}x{columns} tokens ({config.frames_per_clip} frames of {config.crop_size} px)"
            kind = f"V-JEPA, uniform_power={config.uniform_power}"
        source = "preset" if self.table_difference is None else f"stored positions, off by {self.table_difference:.0e}"
        return (
            f"{kind}: {config.num_hidden_layers} blocks of width {config.hidden_size}, "
            f"{config.num_attention_heads} heads ({self.heads_source}), patches of "
            f"{config.tubelet_size}x{config.patch_size}x{config.patch_size}; {grid}, from the {source}"
        )


def _encoder_fields(weights: Weights) -> dict[str, Any]:
    """What the weights of an encoder show, but for the grid."""
    kernel = weights[PATCHES]
    if kernel.ndim not in (4, 5) or kernel.shape[-1] != kernel.shape[-2]:
        raise CheckpointError(
            f"{PATCHES} has shape {tuple(kernel.shape)}: expected (width, channels, frames, side, side) for V-JEPA, "
            "or (width, channels, side, side) for I-JEPA"
        )
    return {
        "patch_size": kernel.shape[-1],
        "tubelet_size": kernel.shape[2] if kernel.ndim == 5 else 1,
        "in_chans": kernel.shape[1],
        "hidden_size": kernel.shape[0],
        "num_hidden_layers": count_blocks(weights, "blocks"),
        "mlp_ratio": _mlp_ratio(weights["blocks.0.mlp.fc1.weight"]),
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
    }


def _predictor_fields(weights: Weights) -> dict[str, Any]:
    return {
        "pred_hidden_size": weights["predictor_embed.weight"].shape[0],
        "pred_num_hidden_layers": count_blocks(weights, "predictor_blocks"),
        "pred_mlp_ratio": _mlp_ratio(weights["predictor_blocks.0.mlp.fc1.weight"]),
        "pred_num_mask_tokens": len(mask_token_names(weights)),
    }


def _mlp_ratio(weight: torch.Tensor) -> float:
    """The ratio that gives this many rows again when it is multiplied and rounded down."""
    if weight.ndim != 2:
        raise CheckpointError(f"the first layer of an MLP has shape {tuple(weight.shape)}: expected (rows, width)")
    rows, width = weight.shape
    ratio = rows / width
    return ratio if int(width * ratio) == rows else math.nextafter(ratio, math.inf)


def _candidate_grids(tokens: int, *, is_image_model: bool, tubelet_size: int) -> Iterator[tuple[int, int, int]]:
    """Grids of so many tokens (time, height, width), square in space; the largest in space first."""
    for side in range(math.isqrt(tokens), 0, -1):
        time, rest = divmod(tokens, side * side)
        if rest or (is_image_model and time > 1):
            continue
        if not is_image_model and time * tubelet_size == 1:
            continue  # one frame is a picture
        yield time, side, side


def _recognise_grid(table: torch.Tensor, fields: Mapping[str, Any], *, is_image_model: bool) -> dict[str, Any]:
    """
    Frames, crop size and sharing of the channels, by comparing the stored table with all that it could be: the number
    of tokens alone does not tell time from space.
    """
    if table.ndim != 3 or table.shape[0] != 1 or not table.is_floating_point():
        raise CheckpointError(f"pos_embed has shape {tuple(table.shape)}, {table.dtype}: expected (1, tokens, width)")
    stored = table[0].float()
    tokens, width = stored.shape
    best = (math.inf, None, True)
    for grid in _candidate_grids(tokens, is_image_model=is_image_model, tubelet_size=fields["tubelet_size"]):
        for uniform_power in (True,) if is_image_model else (True, False):
            computed = sincos_positions(grid, width, uniform_power=uniform_power, is_image_model=is_image_model)
            if computed.shape == stored.shape:
                difference = (stored - computed).abs().max().item()
                if difference < best[0]:
                    best = (difference, grid, uniform_power)
    difference, grid, uniform_power = best
    if not difference <= max(TABLE_TOLERANCE, torch.finfo(table.dtype).eps):
        raise CheckpointError(
            f"pos_embed with {tokens} tokens of width {width} is no sine-cosine table of a square grid: the nearest, "
            f"{grid}, differs by {difference:.1e} (allowed {TABLE_TOLERANCE:.0e})"
        )
    found = {
        "crop_size": grid[1] * fields["patch_size"],
        "frames_per_clip": grid[0] * fields["tubelet_size"],
    }
    # An image model has no channels to share.
    return found if is_image_model else found | {"uniform_power": uniform_power}


def _differences(name: str, readable: Mapping[str, Any]) -> list[str]:
    preset = VJEPAConfig.from_preset(name)
    return [
        f"{field} is {getattr(preset, field)} there and {value} in the weights"
        for field, value in readable.items()
        # How many mask generators there were is no matter of the architecture.
        if field != "pred_num_mask_tokens" and getattr(preset, field) != value
    ]


def _heads(
    readable: Mapping[str, Any], *, named: str | None, matching: tuple[str, ...], given: int | None
) -> tuple[int, str]:
    """The number of heads, and where it comes from."""
    by_preset = {name: VJEPAConfig.from_preset(name).num_attention_heads for name in PRESETS}
    if given is not None:
        if named and by_preset[named] != given:
            raise CheckpointError(
                f"--num_attention_heads {given} contradicts --preset {named}, which has {by_preset[named]}: "
                "leave one of them out"
            )
        if given < 1 or readable["hidden_size"] % given:
            raise CheckpointError(f"--num_attention_heads {given} does not divide the width {readable['hidden_size']}")
        return given, "as given"
    if named or matching:
        name = named or matching[0]
        return by_preset[name], f"preset {name}"
    shown = ", ".join(f"{field}={value}" for field, value in readable.items())
    raise CheckpointError(
        f"the number of attention heads cannot be read off the weights, and no preset ({', '.join(PRESETS)}) agrees "
        f"with them: pass --num_attention_heads N (found {shown})"
    )


def recognise_config(
    checkpoint: Mapping[str, Any],
    *,
    preset: str | None = None,
    num_attention_heads: int | None = None,
    pred_num_attention_heads: int | None = None,
    uniform_power: bool | None = None,
) -> Recognition:
    """
    The architecture of a published file.

    Everything that the weights show is read off them: width, depth, patches and tubelets, MLPs, biases, predictor,
    mask tokens, and from the stored position table the grid and `uniform_power`. The number of heads leaves no trace:
    it comes from the preset with which all of these agree, or from the caller. The predictor has as many heads as
    the encoder in all published models of both families.

    Args:
        checkpoint: what `published_files.read_checkpoint` gives.
        preset: a key of `PRESETS` that the weights must agree with; needed where no position table is stored.
        num_attention_heads, pred_num_attention_heads: heads of the encoder and (by default as many) of the predictor.
        uniform_power: what the position table must show, or, where none is stored, replaces the preset's.

    Raises:
        CheckpointError: what cannot be read off and is not given, or a contradiction between arguments and weights.
        ValueError: an unknown preset.
    """
    encoder = published_network(checkpoint, "target_encoder")
    networks = {"target_encoder": encoder}
    if "predictor" in checkpoint:
        networks["predictor"] = published_network(checkpoint, "predictor")
    check_names(networks)
    for part, blocks in (("target_encoder", "blocks"), ("predictor", "predictor_blocks")):
        if part in networks and not count_blocks(networks[part], blocks):
            raise CheckpointError(f"`{part}` has no {blocks}")
    readable = _encoder_fields(encoder)
    is_image_model = encoder[PATCHES].ndim == 4
    if "predictor" in networks:
        readable |= _predictor_fields(networks["predictor"])
    table, named = encoder.get(TABLES["encoder"]), VJEPAConfig.from_preset(preset) if preset else None
    if table is not None:
        readable |= _recognise_grid(table, readable, is_image_model=is_image_model)
        if uniform_power is not None and readable.get("uniform_power", uniform_power) != uniform_power:
            raise CheckpointError(
                f"--uniform_power {str(uniform_power).lower()} contradicts the stored position table, which has "
                f"uniform_power={readable['uniform_power']}"
            )
    elif named is None:
        raise CheckpointError(
            "the file stores no position table, off which frames_per_clip, crop_size and uniform_power are read: "
            f"name the architecture with --preset ({', '.join(PRESETS)})"
        )
    if preset and (differences := _differences(preset, readable)):
        raise CheckpointError(f"--preset {preset} contradicts the weights: {'; '.join(differences)}")

    matching = tuple(name for name in PRESETS if not _differences(name, readable))
    heads, source = _heads(readable, named=preset, matching=matching, given=num_attention_heads)
    fields = dict(readable)
    if table is None:
        power = named.uniform_power if uniform_power is None else uniform_power
        fields |= {"crop_size": named.crop_size, "frames_per_clip": named.frames_per_clip, "uniform_power": power}
    fields["num_attention_heads"] = heads
    if "predictor" in networks:
        fields["pred_num_attention_heads"] = heads if pred_num_attention_heads is None else pred_num_attention_heads
    config = VJEPAConfig(**fields)
    return Recognition(config, matching, source, check_positions(encoder, config))


__all__ = ["TABLE_TOLERANCE", "Recognition", "check_positions", "position_table", "recognise_config"]
