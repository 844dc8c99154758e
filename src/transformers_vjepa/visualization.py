"""
Pictures of a training run: its curves, what its masks hide, and what its features see. Needs matplotlib
(`pip install transformers_vjepa[viz]`); every function writes one file, whose suffix sets the format.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .configuration_vjepa import VJEPAConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Panels of the training curves: title, label of the axis, log scale, and the keys it draws with their
# legend. A key that ends in "_" stands for all keys with a number after it.
_PANELS: tuple[tuple[str, str, bool, dict[str, str]], ...] = (
    ("Loss", "mean |prediction - target|", False, {"loss": "train", "eval_loss": "eval"}),
    ("Learning rate", "learning rate", False, {"learning_rate": "learning rate"}),
    ("Weight decay", "weight decay", False, {"weight_decay": "weight decay"}),
    ("EMA momentum", "momentum", False, {"ema_momentum": "momentum"}),
    (
        "Spread of features",
        "standard deviation",
        False,
        {
            "target_std_over_clips": "target, over clips",
            "target_std_over_tokens": "target, over tokens",
            "predictor_std": "predictor",
        },
    ),
    (
        "Rank of target features",
        "effective rank",
        False,
        {"target_rank_over_clips": "over clips", "target_rank_over_tokens": "over tokens"},
    ),
    (
        "Gradient norm before clipping",
        "norm",
        True,
        {"encoder_grad_norm": "encoder", "predictor_grad_norm": "predictor"},
    ),
    (
        "Masks",
        "share of tokens",
        False,
        {"context_ratio_": "context, mask", "target_ratio_": "target, mask"},
    ),
    ("Throughput", "clips / s", False, {"clips_per_second": "clips / s"}),
    ("Waiting for data", "share of the step", False, {"data_wait_share": "data wait"}),
)
_COLORS = ("#1f5fa8", "#d9772b", "#2b8a5a", "#a83279", "#6b6b6b", "#8c6d1f")
_TARGET_COLOR = (0.16, 0.38, 0.75)
_DROPPED_COLOR = (0.85, 0.10, 0.10)


def plot_training_curves(log_history: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """
    Draws what a run logged over its steps, one panel per group of values that it has.

    Args:
        log_history: entries as in `TrainerState.log_history`: mappings with `step` and any numbers.
        path: file to write.

    Raises:
        ValueError: no entry has a step and a value that can be drawn.
        ImportError: matplotlib is missing.
    """
    panels = []
    for title, label, log, keys in _PANELS:
        curves = _curves(log_history, keys)
        if curves:
            panels.append((title, label, log, curves))
    if not panels:
        raise ValueError(
            f"none of the {len(log_history)} entries of `log_history` has a `step` and a known value such as "
            "`loss`: pass trainer.state.log_history of a run that logged at least once"
        )
    columns = min(3 if len(panels) <= 9 else 4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _new_figure(4.6 * columns, 3.1 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for index, (axis, panel) in enumerate(zip(axes.flat, panels, strict=False)):
        _draw_panel(axis, *panel)
        if index >= len(panels) - columns:
            axis.set_xlabel("optimizer step")
    figure.suptitle("Training", fontsize=14, fontweight="bold")
    return _save(figure, path)


def plot_masked_clips(
    clips: Tensor,
    context_mask: Sequence[Tensor],
    target_mask: Sequence[Tensor],
    *,
    config: VJEPAConfig,
    path: str | Path,
    max_clips: int = 4,
) -> Path:
    """
    A sheet of what the networks see: per clip one row with the frames, and one per mask pair. Context tokens
    are left as they are, target tokens are tinted blue, tokens in neither (dropped to make lengths equal) are
    crossed out in red. One frame per tubelet, its first.

    Args:
        clips: uint8 (batch, frames, channels, height, width) of the size of `config`.
        context_mask: LongTensors (batch, context tokens); a single one is shared by all targets.
        target_mask: LongTensors (batch, target tokens).
        config: geometry of the tokens.
        path: file to write.
        max_clips: rows of clips to draw, from the first.

    Raises:
        ValueError: clips that do not match `config`, or numbers of context and target masks that do not match.
        ImportError: matplotlib is missing.
    """
    frames = _tubelet_frames(clips[:max_clips], config)
    if len(context_mask) not in (1, len(target_mask)):
        raise ValueError(
            f"{len(context_mask)} context masks do not go with {len(target_mask)} target masks: pass one per target, "
            "or a single one for all"
        )
    for mask in (*context_mask, *target_mask):
        if len(mask) < len(frames):
            raise ValueError(
                f"a mask of {len(mask)} clips does not go with {len(frames)} clips: pass one row per clip"
            )
    steps, num_masks = frames.shape[1], len(target_mask)
    contexts = list(context_mask) * (num_masks if len(context_mask) == 1 else 1)
    rows = len(frames) * (1 + num_masks)
    figure = _new_figure(1.1 * steps + 1.6, 1.12 * rows + 0.9)
    axes = figure.subplots(rows, steps, squeeze=False)
    for clip, clip_frames in enumerate(frames):
        first = clip * (1 + num_masks)
        _draw_frames(axes[first], clip_frames, f"clip {clip}")
        for index, (context, target) in enumerate(zip(contexts, target_mask, strict=True)):
            kinds = _token_kinds(context[clip], target[clip], config)
            shares = f"context {(kinds == 0).float().mean():.0%}\ntarget {(kinds == 1).float().mean():.0%}"
            dropped = (kinds == 2).float().mean()
            shares += f"\ndropped {dropped:.0%}" if dropped > 0 else ""
            masked = _paint_tokens(clip_frames, kinds, config.patch_size)
            _draw_frames(axes[first + 1 + index], masked, f"mask {index}\n{shares}")
    _title_frames(axes[0], config)
    _mask_legend(figure)
    return _save(figure, path)


def plot_feature_pca(
    clips: Tensor, snapshots: Sequence[tuple[int, Tensor]], *, config: VJEPAConfig, path: str | Path
) -> Path:
    """
    Features as colours: their first three principal components over all tokens of the clips, as red, green
    and blue, one image per tubelet under its frame. Rows are snapshots of the same clips during training, so
    that one sees structure appear, or collapse. Components are computed per snapshot; their signs follow the
    snapshot before, so that colours change as little as possible.

    Args:
        clips: uint8 (batch, frames, channels, height, width) of the size of `config`.
        snapshots: pairs of the optimizer step and the features (batch, num_patches, channels).
        config: geometry of the tokens.
        path: file to write.

    Raises:
        ValueError: no snapshot, fewer than three feature channels, or shapes that do not match.
        ImportError: matplotlib is missing.
    """
    frames = _tubelet_frames(clips, config)
    if not snapshots:
        raise ValueError("`snapshots` is empty: pass at least one pair (step, features)")
    expected = (len(clips), config.num_patches)
    for step, features in snapshots:
        if features.ndim != 3 or tuple(features.shape[:2]) != expected or features.shape[2] < 3:
            raise ValueError(
                f"the features of step {step} have shape {tuple(features.shape)}, and the clips want "
                f"({expected[0]}, {expected[1]}, channels) with at least 3 channels: pass all tokens of these clips"
            )
    steps = frames.shape[1]
    rows = len(frames) * (1 + len(snapshots))
    figure = _new_figure(1.1 * steps + 1.6, 1.12 * rows + 0.7)
    axes = figure.subplots(rows, steps, squeeze=False)
    before: Tensor | None = None
    for index, (step, features) in enumerate(snapshots):
        components, colors = _principal_colors(features, before)
        before = components
        maps = colors.unflatten(1, config.grid_size)
        for clip, clip_maps in enumerate(maps):
            _draw_frames(axes[clip * (1 + len(snapshots)) + 1 + index], clip_maps, f"step {step:,}")
    for clip, clip_frames in enumerate(frames):
        _draw_frames(axes[clip * (1 + len(snapshots))], clip_frames, f"clip {clip}")
    _title_frames(axes[0], config)
    figure.suptitle("Features: first three principal components", fontsize=13, fontweight="bold")
    return _save(figure, path)


def _new_figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib, which is not installed: pip install transformers_vjepa[viz]"
        ) from error
    # A plain figure, with no pyplot behind it: no display, no state, nothing to close.
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _curves(
    log_history: Sequence[Mapping[str, Any]], keys: Mapping[str, str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values by legend, of the keys that occur."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for entry in log_history:
        if "step" not in entry:
            continue
        for key, label in keys.items():
            for name in sorted(entry):
                number = name.removeprefix(key)
                if name != key and not (key.endswith("_") and name.startswith(key) and number.isdigit()):
                    continue
                steps, values = curves.setdefault(label if name == key else f"{label} {number}", ([], []))
                steps.append(float(entry["step"]))
                values.append(float(entry[name]))
    return curves


def _draw_panel(
    axis: Axes, title: str, label: str, log: bool, curves: Mapping[str, tuple[list[float], list[float]]]
) -> None:
    for color, (name, (steps, values)) in zip(itertools.cycle(_COLORS), curves.items(), strict=False):
        few = len(steps) < 30
        axis.plot(steps, values, color=color, label=name, linewidth=1.6, marker="o" if few else None, markersize=3)
    if log and all(value > 0 for _, values in curves.values() for value in values):
        axis.set_yscale("log")
    else:
        axis.ticklabel_format(axis="y", useOffset=False)  # a momentum reads 0.9985, not 5e-4 + 9.98e-1
    axis.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axis.set_ylabel(label, fontsize=9)
    axis.tick_params(which="both", labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axis.legend(fontsize=8, frameon=False)


def _tubelet_frames(clips: Tensor, config: VJEPAConfig) -> Tensor:
    """The first frame of every tubelet, as RGB in [0, 1]: (batch, time steps, height, width, 3)."""
    expected = (config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
    if clips.dtype != torch.uint8 or clips.ndim != 5 or tuple(clips.shape[1:]) != expected or len(clips) == 0:
        raise ValueError(
            f"`clips` is {clips.dtype} of shape {tuple(clips.shape)}, and a picture wants torch.uint8 of shape "
            f"(batch, {', '.join(map(str, expected))}): pass the frames before normalisation, cropped to `config`"
        )
    frames = clips[:, :: config.tubelet_size].cpu().permute(0, 1, 3, 4, 2).float() / 255
    return frames[..., :3] if frames.shape[-1] >= 3 else frames[..., :1].expand(*frames.shape[:-1], 3)


def _token_kinds(context: Tensor, target: Tensor, config: VJEPAConfig) -> Tensor:
    """0 context, 1 target, 2 neither, on the token grid (time, height, width)."""
    kinds = torch.full((config.num_patches,), 2)
    kinds[target.cpu()] = 1
    kinds[context.cpu()] = 0
    return kinds.view(config.grid_size)


def _paint_tokens(frames: Tensor, kinds: Tensor, patch_size: int) -> Tensor:
    """Frames (time, height, width, 3) with target tokens tinted and dropped tokens crossed out."""
    pixels = interpolate(kinds[:, None].float(), scale_factor=patch_size)[:, 0, :, :, None]
    grey = frames.mean(-1, keepdim=True)
    tinted = 0.22 * grey + 0.78 * torch.tensor(_TARGET_COLOR)
    rows = torch.arange(patch_size)
    cross = (rows[:, None] - rows).abs().lt(max(1, patch_size // 8)) | (
        (rows[:, None] + rows - patch_size + 1).abs() < max(1, patch_size // 8)
    )
    cross = cross.repeat(kinds.shape[1], kinds.shape[2])[None, :, :, None]
    dropped = torch.where(cross, torch.tensor(_DROPPED_COLOR), 0.75 + 0.25 * grey)
    return torch.where(pixels == 1, tinted, torch.where(pixels == 2, dropped, frames))


def _principal_colors(features: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """
    The first three principal components of features (batch, tokens, channels), as directions (channels, 3) with
    signs close to `before`, and as colours in [0, 1] (batch, tokens, 3), 1st to 99th percentile per component.
    """
    tokens = features.detach().cpu().float().flatten(0, 1)
    tokens = tokens - tokens.mean(0)
    _, directions = torch.linalg.eigh(tokens.T @ tokens)  # ascending
    components = directions[:, -3:].flip(1)
    if before is not None and before.shape == components.shape:
        agreement = (components * before).sum(0)
    else:  # any rule will do, as long as it is the same on every machine: the largest weight is positive
        agreement = components.gather(0, components.abs().argmax(0, keepdim=True))[0]
    components = torch.where(agreement < 0, -components, components)
    values = tokens @ components
    low, high = torch.from_numpy(np.percentile(values.numpy(), [1, 99], axis=0)).float()
    colors = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return components, colors.unflatten(0, features.shape[:2])


def _draw_frames(axes: Sequence[Axes], frames: Tensor, label: str) -> None:
    """Draws images (time, height, width, 3) into a row of axes, with a label on its left."""
    for axis, frame in zip(axes, frames, strict=True):
        axis.imshow(frame.numpy(), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9, labelpad=6)


def _title_frames(axes: Sequence[Axes], config: VJEPAConfig) -> None:
    for index, axis in enumerate(axes):
        axis.set_title(f"frame {index * config.tubelet_size}", fontsize=8)


def _mask_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor="white", edgecolor="black", label="context: seen by the encoder"),
        Patch(facecolor=_TARGET_COLOR, label="target: predicted"),
        Patch(facecolor="#e8e8e8", edgecolor=_DROPPED_COLOR, hatch="xxx", label="dropped: neither"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=9, frameon=False)


__all__ = ["plot_feature_pca", "plot_masked_clips", "plot_training_curves"]
