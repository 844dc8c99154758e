"""The pictures of a report: what masks hide, what features see, what a probe looks at and where a predictor errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from torch.nn.functional import interpolate

from ..models.vjepa.configuration_vjepa import VJEPAConfig
from .charts import new_figure, save_figure
from .style import color, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SHEET_WIDTH = 4.6  # inches, as the charts have
_LABEL_WIDTH = 1.15
_CELL_PIXELS = 128  # of a frame inside a picture, about
HEAT = "inferno"


@dataclass(frozen=True)
class Strip:
    """
    One row of images.

    Attributes:
        label: stands on its left.
        images: float (time, height, width, 3) in [0, 1].
        border: a name of `report_page.COLORS`, for a frame around the row.
        is_first: a gap above sets it off.
    """

    label: str
    images: Tensor
    border: str | None = None
    is_first: bool = False


def draw_strips(strips: Sequence[Strip], *, titles: Sequence[str], title: str = "") -> Figure:
    """
    Rows of images as one figure.

    Args:
        strips: from top to bottom, each with as many images.
        titles: one per column.
        title: over all of them.
    """
    from matplotlib.figure import Figure

    steps, label_width = len(titles), _LABEL_WIDTH
    cell = min((SHEET_WIDTH - label_width) / steps, 1.0)
    # Inches: between rows, above a first one, for the titles.
    gap, space, top = 0.05, 0.14, 0.54 if title else 0.24
    places, height = [], top
    for index, strip in enumerate(strips):
        height += space if strip.is_first and index else 0
        places.append(height)
        height += cell + gap
    width = label_width + steps * cell
    figure = Figure(figsize=(width, height))
    for strip, place in zip(strips, places, strict=True):
        axis = figure.add_axes((label_width / width, 1 - (place + cell) / height, steps * cell / width, cell / height))
        axis.imshow(_joined(strip), interpolation="none", extent=(0, steps, 0, 1), aspect="auto")
        axis.axis("off")
        axis.text(-0.09, 0.5, strip.label, ha="right", va="center", fontsize=9.5, linespacing=1.25)
        if place == places[0]:
            for column, name in enumerate(titles):
                axis.text(column + 0.5, 1.06, name, ha="center", va="bottom", fontsize=9, color=color("muted"))
    if title:
        figure.text(0, 1 - 0.04 / height, title, ha="left", va="top", fontsize=11, fontweight="bold")
    return figure


def _joined(strip: Strip) -> np.ndarray:
    """The images side by side with clear gaps: RGBA uint8, enlarged by whole factors."""

    factor = max(1, round(_CELL_PIXELS / strip.images.shape[1]))
    images = strip.images.clamp(0, 1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if strip.border is not None:
        edge = torch.tensor(to_rgb(color(strip.border)))
        images = images.clone()
        width = max(2, images.shape[1] // 22)
        for side in (images[:, :width], images[:, -width:], images[:, :, :width], images[:, :, -width:]):
            side[:] = edge
    opaque = torch.cat([images, torch.ones(*images.shape[:3], 1)], dim=-1)
    gap = max(2, images.shape[1] // 26)
    padded = torch.nn.functional.pad(opaque, (0, 0, 0, gap))  # transparent at the right of each image
    joined = padded.permute(1, 0, 2, 3).flatten(1, 2)
    return (joined * 255).round().byte().numpy()


def frame_titles(config: VJEPAConfig) -> list[str]:
    """A title for every time step, the frames of the clip that its tokens span; of many a short one, not for all."""
    size, steps = config.tubelet_size, config.grid_size[0]
    titles = []
    for step in range(steps):
        first, last = step * size, (step + 1) * size - 1
        span = str(first) if size == 1 else f"{first}–{last}"
        word = "frame " if size == 1 else "frames "
        is_named = step % -(-steps // 8) == 0
        titles.append((word if steps <= 5 else "") + span if is_named else "")
    return titles


def frames_of(clips: Tensor, config: VJEPAConfig) -> Tensor:
    return tubelet_frames(clips, config)


def heat_colors(frames: Tensor, values: Tensor, *, low: float = 0.0, high: float, smooth: bool = True) -> Tensor:
    """
    Frames (time, height, width, 3) in grey under a map (time, rows, columns), dark at `low`, bright at `high`; blurred
    between the tokens, or each token a square.
    """

    size = tuple(frames.shape[1:3])
    scaled = (values[:, None].float() - low) / max(high - low, 1e-12)
    enlarged = interpolate(scaled, size=size, mode="bilinear" if smooth else "nearest")[:, 0].clamp(0, 1)
    colors = torch.from_numpy(colormaps[HEAT](enlarged.numpy())[..., :3]).float()
    return 0.42 * frames.mean(-1, keepdim=True) + 0.58 * colors


def draw_masks(
    clip: Tensor,
    context_mask: Sequence[Tensor],
    target_mask: Sequence[Tensor],
    *,
    config: VJEPAConfig,
    title: str = "",
    row: int = 0,
) -> Figure:
    """
    What is context (as it is), target (blue) and neither (crossed out) in a clip, one row per mask generator.

    Args:
        clip: uint8 (frames, 3, height, width).
        context_mask: token indices (batch, context tokens), one tensor per context; `row` of the batch is shown.
        target_mask: token indices (batch, target tokens), one tensor per target.
        title: over the figure.
    """
    frames = frames_of(clip[None], config)[0]
    strips = []
    contexts = list(context_mask) * (len(target_mask) // len(context_mask))
    for index, (context, target) in enumerate(zip(contexts, target_mask, strict=True)):
        kinds = _token_kinds(context[row], target[row], config)
        shares = [
            f"{name} {percent(float((kinds == kind).float().mean()))}"
            for kind, name in enumerate(("context", "target"))
        ]
        dropped = float((kinds == 2).float().mean())
        shares += [f"dropped {percent(dropped)}"] if dropped else []
        strips.append(
            Strip("\n".join([f"mask {index + 1}", *shares]), _paint_tokens(frames, kinds, config.patch_size))
        )
    return draw_strips(strips, titles=frame_titles(config), title=title)


def draw_feature_colors(
    clips: Tensor, features: Sequence[tuple[str, Tensor]], *, shown: int, name: str, config: VJEPAConfig
) -> Figure:
    """
    The first three principal components of features as red, green and blue, under the frames.

    Args:
        clips: uint8 (clips, frames, 3, height, width).
        features: label and float (clips, time, cells, width); components are over all these clips.
        shown: which clip to show.
        name: what it is, to stand beside it.
    """
    strips = [Strip(name, frames_of(clips[shown, None], config)[0])]
    for label, values in features:
        _, colors = _principal_colors(values.flatten(1, 2), None)
        strips.append(Strip(label, colors[shown].unflatten(0, config.grid_size)))
    return draw_strips(strips, titles=frame_titles(config))


def draw_attention(
    clips: Tensor, weights: Sequence[tuple[str, Tensor]], *, shown: int, name: str, config: VJEPAConfig
) -> Figure:
    """
    Attention over frames: dark where there is none, brightest from three times the share of even attention on.

    Args:
        clips: uint8 (clips, frames, 3, height, width).
        weights: label and float (clips, tokens).
        shown: which clip to show.
        name: what it is, to stand beside it.
    """
    frames = frames_of(clips[shown, None], config)[0]
    strips = [Strip(name, frames)]
    for label, values in weights:
        maps = values[shown].view(config.grid_size)
        strips.append(Strip(label, heat_colors(frames, maps, high=3 / maps.numel())))
    return draw_strips(strips, titles=frame_titles(config))


def draw_neighbours(
    clips: Tensor,
    nearest: Tensor,
    labels: dict[str, np.ndarray],
    *,
    query: int,
    class_names: dict[str, list[str]],
    config: VJEPAConfig,
) -> Figure:
    """
    A clip and its nearest ones, with a mark for every label that they share with it; the border is that of the first.

    Args:
        clips: uint8 (clips, frames, 3, height, width).
        nearest: int64 (number,), from the nearest on.
        labels: class of every clip by task.
        query: the clip.
        class_names: by task.
    """
    tasks = list(labels)
    frames = frames_of(clips[[query, *nearest.tolist()]], config)
    names = [short_name(class_names[task][labels[task][query]]) for task in tasks]
    strips = [Strip("\n".join(["query", *names]), frames[0])]
    for place, index in enumerate(nearest.tolist()):
        same = [labels[task][index] == labels[task][query] for task in tasks]
        names = [short_name(class_names[task][labels[task][index]]) for task in tasks]
        lines = [f"{name} {'✓' if right else '✗'}" for name, right in zip(names, same, strict=True)]
        border = "right" if same[0] else "wrong"
        strips.append(Strip("\n".join(lines), frames[place + 1], border=border, is_first=place == 0))
    return draw_strips(strips, titles=frame_titles(config))


def short_name(name: str) -> str:
    """A class name that fits beside a strip or an axis."""
    name = name.replace("counterclockwise", "ccw").replace("clockwise", "cw").replace("_", " ")
    return name if len(name) <= 14 else name[:13] + "…"


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TARGET_COLOR = (0.16, 0.38, 0.75)
_DROPPED_COLOR = (0.85, 0.10, 0.10)
# Columns of frames beside whose width a legend or a title fits in one line, in inches the least width else.
_WIDE = 5
_MIN_WIDTH = 3.2


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
    frames = tubelet_frames(clips[:max_clips], config)
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
    figure = _sheet(steps, 1.12 * rows + 0.9)
    axes = figure.subplots(rows, steps, squeeze=False)
    for clip, clip_frames in enumerate(frames):
        first = clip * (1 + num_masks)
        draw_frames(axes[first], clip_frames, f"clip {clip}")
        for index, (context, target) in enumerate(zip(contexts, target_mask, strict=True)):
            kinds = _token_kinds(context[clip], target[clip], config)
            shares = f"context {(kinds == 0).float().mean():.0%}\ntarget {(kinds == 1).float().mean():.0%}"
            dropped = (kinds == 2).float().mean()
            shares += f"\ndropped {dropped:.0%}" if dropped > 0 else ""
            masked = _paint_tokens(clip_frames, kinds, config.patch_size)
            draw_frames(axes[first + 1 + index], masked, f"mask {index}\n{shares}")
    _title_frames(axes[0], config)
    _mask_legend(figure, columns=3 if steps >= _WIDE else 1)
    return save_figure(figure, path)


def plot_feature_pca(
    clips: Tensor, snapshots: Sequence[tuple[int | str, Tensor]], *, config: VJEPAConfig, path: str | Path
) -> Path:
    """
    Features as colours: their first three principal components over all tokens of the clips, as red, green
    and blue, one image per tubelet under its frame. Rows are snapshots of the same clips during training, so
    that one sees structure appear, or collapse. Components are computed per snapshot; their signs follow the
    snapshot before, so that colours change as little as possible.

    Args:
        clips: uint8 (batch, frames, channels, height, width) of the size of `config`.
        snapshots: pairs of the optimizer step, or a name, and the features (batch, num_patches, channels).
        config: geometry of the tokens.
        path: file to write.

    Raises:
        ValueError: no snapshot, fewer than three feature channels, or shapes that do not match.
        ImportError: matplotlib is missing.
    """
    frames = tubelet_frames(clips, config)
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
    figure = _sheet(steps, 1.12 * rows + 0.7)
    axes = figure.subplots(rows, steps, squeeze=False)
    before: Tensor | None = None
    for index, (step, features) in enumerate(snapshots):
        components, colors = _principal_colors(features, before)
        before = components
        maps = colors.unflatten(1, config.grid_size)
        for clip, clip_maps in enumerate(maps):
            draw_frames(
                axes[clip * (1 + len(snapshots)) + 1 + index],
                clip_maps,
                f"step {step:,}" if isinstance(step, int) else step,
            )
    for clip, clip_frames in enumerate(frames):
        draw_frames(axes[clip * (1 + len(snapshots))], clip_frames, f"clip {clip}")
    _title_frames(axes[0], config)
    space = " " if steps >= _WIDE else "\n"
    figure.suptitle(f"Features: first three{space}principal components", fontsize=13, fontweight="bold")
    return save_figure(figure, path)


def _sheet(steps: int, height: float) -> Figure:
    """A figure for `steps` frames side by side, with room for what stands above a few of them in several lines."""
    return new_figure(max(1.1 * steps + 1.6, _MIN_WIDTH), height + (0 if steps >= _WIDE else 0.4))


def tubelet_frames(clips: Tensor, config: VJEPAConfig) -> Tensor:
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
    tinted = 0.22 * grey + 0.78 * torch.tensor(TARGET_COLOR)
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


def draw_frames(axes: Sequence[Axes], frames: Tensor, label: str) -> None:
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


def _mask_legend(figure: Figure, *, columns: int) -> None:

    handles = [
        Patch(facecolor="white", edgecolor="black", label="context: seen by the encoder"),
        Patch(facecolor=TARGET_COLOR, label="target: predicted"),
        Patch(facecolor="#e8e8e8", edgecolor=_DROPPED_COLOR, hatch="xxx", label="dropped: neither"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=9, frameon=False)


__all__ = [
    "Strip",
    "draw_attention",
    "draw_feature_colors",
    "draw_masks",
    "draw_neighbours",
    "draw_strips",
    "frame_titles",
    "plot_feature_pca",
    "plot_masked_clips",
    "short_name",
]
