"""Recognise the architecture of a published checkpoint from its weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from ..models.vjepa.modeling_vjepa import sincos_positions
from ..safety.safe_loading import CheckpointError
from . import layout
from .layout import Weights

#: Largest allowed difference of a stored position table from ours; float32 tables agree to a few 1e-7.
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
    The largest difference of the position table of a published network from ours; None if the network stores no table.

    Raises:
        CheckpointError: the sizes differ, or the difference exceeds `TABLE_TOLERANCE` and the rounding of the type.
    """
    kind = layout.network_kind(weights)
    table = weights.get(layout.TABLES.get(kind, ""))
    if table is None:
        return None
    computed = position_table(config, kind)
    described = f"grid {config.grid_size} with uniform_power={config.uniform_power}"
    if table.shape != (1, *computed.shape):
        raise CheckpointError(
            f"the position table has shape {tuple(table.shape)}, {described} has {(1, *computed.shape)}"
        )
    difference = (table[0].float() - computed).abs().max().item()
    if not _is_close(difference, table):
        raise CheckpointError(
            f"the position table differs by {difference:.1e} (allowed {TABLE_TOLERANCE:.0e}) from {described}: "
            "the checkpoint has another grid or another uniform_power"
        )
    return difference


def _is_close(difference: float, table: torch.Tensor) -> bool:
    return difference <= max(TABLE_TOLERANCE, torch.finfo(table.dtype).eps)


@dataclass(frozen=True)
class Recognition:
    """
    The result of `recognise_config`.

    Args:
        config: the architecture.
        presets: names in `PRESETS` that agree with the weights.
        heads_source: the source of the number of heads, which the weights do not show.
        table_difference: largest difference of the stored position table from ours; None if no table is stored.
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


def _networks(checkpoint: Mapping[str, Any]) -> dict[str, Weights]:
    """The target encoder of a published file and, if the file has one, the predictor; with checked names."""
    parts = ["target_encoder", "predictor"] if "predictor" in checkpoint else ["target_encoder"]
    networks = {part: layout.published_network(checkpoint, part) for part in parts}
    layout.check_names(networks)
    for part, weights in networks.items():
        blocks = "predictor_blocks" if part == "predictor" else "blocks"
        if not layout.count_blocks(weights, blocks):
            raise CheckpointError(f"`{part}` has no {blocks}")
    return networks


def _shown_fields(networks: Mapping[str, Weights]) -> dict[str, Any]:
    """The fields that the weights show, without the grid."""
    weights = networks["target_encoder"]
    kernel = weights[layout.PATCHES]
    if kernel.ndim not in (4, 5) or kernel.shape[-1] != kernel.shape[-2]:
        raise CheckpointError(
            f"{layout.PATCHES} has shape {tuple(kernel.shape)}: expected (width, channels, frames, side, side) for "
            "V-JEPA, or (width, channels, side, side) for I-JEPA"
        )
    fields = {
        "patch_size": kernel.shape[-1],
        "tubelet_size": kernel.shape[2] if kernel.ndim == 5 else 1,
        "in_chans": kernel.shape[1],
        "hidden_size": kernel.shape[0],
        "num_hidden_layers": layout.count_blocks(weights, "blocks"),
        "mlp_ratio": _mlp_ratio(weights["blocks.0.mlp.fc1.weight"]),
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
    }
    if predictor := networks.get("predictor"):
        fields |= {
            "pred_hidden_size": predictor["predictor_embed.weight"].shape[0],
            "pred_num_hidden_layers": layout.count_blocks(predictor, "predictor_blocks"),
            "pred_mlp_ratio": _mlp_ratio(predictor["predictor_blocks.0.mlp.fc1.weight"]),
            "pred_num_mask_tokens": len(layout.mask_token_names(predictor)),
        }
    return fields


def _mlp_ratio(weight: torch.Tensor) -> float:
    """The MLP ratio that the first layer of an MLP shows."""
    if weight.ndim != 2:
        raise CheckpointError(f"the first layer of an MLP has shape {tuple(weight.shape)}: expected (rows, width)")
    return mlp_ratio(*weight.shape)


def mlp_ratio(rows: int, width: int) -> float:
    """The ratio of rows to width, such that `int(width * ratio)` is the number of rows despite rounding."""
    ratio = rows / width
    return ratio if int(width * ratio) == rows else math.nextafter(ratio, math.inf)


def _recognise_grid(table: torch.Tensor, fields: Mapping[str, Any], *, is_image_model: bool) -> dict[str, Any]:
    """Frames, crop size and `uniform_power`, from the stored position table."""
    # The number of tokens alone does not separate time from space, so the stored table is compared with the table of
    # each grid that is square in space, the largest in space first.
    if table.ndim != 3 or table.shape[0] != 1 or not table.is_floating_point():
        raise CheckpointError(f"pos_embed has shape {tuple(table.shape)}, {table.dtype}: expected (1, tokens, width)")
    stored = table[0].float()
    tokens, width = stored.shape
    best = (math.inf, None, True)
    for side in range(math.isqrt(tokens), 0, -1):
        time, rest = divmod(tokens, side * side)
        is_image = time * fields["tubelet_size"] == 1
        if rest or (time > 1 if is_image_model else is_image):
            continue
        grid = (time, side, side)
        for uniform_power in (True,) if is_image_model else (True, False):
            computed = sincos_positions(grid, width, uniform_power=uniform_power, is_image_model=is_image_model)
            if computed.shape == stored.shape:
                best = min(best, ((stored - computed).abs().max().item(), grid, uniform_power), key=lambda it: it[0])
    difference, grid, uniform_power = best
    if not _is_close(difference, table):
        raise CheckpointError(
            f"pos_embed with {tokens} tokens of width {width} is not a sine-cosine table of a square grid: the "
            f"nearest grid, {grid}, differs by {difference:.1e} (allowed {TABLE_TOLERANCE:.0e})"
        )
    found = {"crop_size": grid[1] * fields["patch_size"], "frames_per_clip": grid[0] * fields["tubelet_size"]}
    return found if is_image_model else found | {"uniform_power": uniform_power}


def _differences(name: str, readable: Mapping[str, Any]) -> list[str]:
    """Descriptions of the fields in which a preset differs from the weights."""
    preset = VJEPAConfig.from_preset(name)
    return [
        f"{field} is {getattr(preset, field)} there and {value} in the weights"
        for field, value in readable.items()
        # The number of mask generators does not belong to the architecture.
        if field != "pred_num_mask_tokens" and getattr(preset, field) != value
    ]


def _heads(
    readable: Mapping[str, Any], *, named: str | None, matching: tuple[str, ...], given: int | None
) -> tuple[int, str]:
    """The number of heads, and its source."""
    name = named or next(iter(matching), None)
    of_preset = VJEPAConfig.from_preset(name).num_attention_heads if name else None
    if given is not None:
        if named and of_preset != given:
            raise CheckpointError(
                f"--num_attention_heads {given} contradicts --preset {named}, which has {of_preset} heads: "
                "leave one of them out"
            )
        if given < 1 or readable["hidden_size"] % given:
            raise CheckpointError(f"--num_attention_heads {given} does not divide the width {readable['hidden_size']}")
        return given, "as given"
    if name:
        return of_preset, f"preset {name}"
    shown = ", ".join(f"{field}={value}" for field, value in readable.items())
    raise CheckpointError(
        f"the weights do not show the number of attention heads, and no preset ({', '.join(PRESETS)}) agrees with "
        f"them: pass --num_attention_heads N (found {shown})"
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
    Recognises the architecture of a published file.

    The weights show width, depth, patches, tubelets, MLPs, biases, predictor and mask tokens; the stored position
    table shows the grid and `uniform_power`. The weights do not show the number of heads: it comes from the preset
    that agrees with all other fields, or from the caller. In all published models, encoder and predictor have the same
    number of heads. The loss (`pred_loss`) is the published one: of I-JEPA for images, of V-JEPA for videos.

    Args:
        checkpoint: contents of the file, from [`~safety.safe_loading.read_checkpoint`].
        preset: a key of `PRESETS` that the weights must agree with; required if the file stores no position table.
        num_attention_heads: heads of the encoder.
        pred_num_attention_heads: heads of the predictor; by default those of the encoder.
        uniform_power: the value that the position table must show; without a table, replaces the preset's value.

    Raises:
        CheckpointError: a field is neither shown nor given, or arguments and weights contradict each other.
        ValueError: the preset is unknown.
    """
    networks = _networks(checkpoint)
    encoder = networks["target_encoder"]
    readable = _shown_fields(networks)
    table, named = encoder.get(layout.TABLES["encoder"]), VJEPAConfig.from_preset(preset) if preset else None
    if table is not None:
        readable |= _recognise_grid(table, readable, is_image_model=encoder[layout.PATCHES].ndim == 4)
        if uniform_power is not None and readable.get("uniform_power", uniform_power) != uniform_power:
            raise CheckpointError(
                f"--uniform_power {str(uniform_power).lower()} contradicts the stored position table, which shows "
                f"uniform_power={readable['uniform_power']}"
            )
    elif named is None:
        raise CheckpointError(
            "the file stores no position table, which would show frames_per_clip, crop_size and uniform_power: "
            f"name the architecture with --preset ({', '.join(PRESETS)})"
        )
    if preset and (differences := _differences(preset, readable)):
        raise CheckpointError(f"--preset {preset} contradicts the weights: {'; '.join(differences)}")

    matching = tuple(name for name in PRESETS if not _differences(name, readable))
    heads, source = _heads(readable, named=preset, matching=matching, given=num_attention_heads)
    fields = readable | {"num_attention_heads": heads}
    if table is None:
        power = named.uniform_power if uniform_power is None else uniform_power
        fields |= {"crop_size": named.crop_size, "frames_per_clip": named.frames_per_clip, "uniform_power": power}
    if "predictor" in networks:
        fields["pred_num_attention_heads"] = heads if pred_num_attention_heads is None else pred_num_attention_heads
    # The published losses (V-JEPA, equation 1; the published code of I-JEPA), so that training can continue.
    fields["pred_loss"] = "smooth_l1" if encoder[layout.PATCHES].ndim == 4 else "l1"
    config = VJEPAConfig(**fields)
    return Recognition(config, matching, source, check_positions(encoder, config))
