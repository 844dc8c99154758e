"""Images of clips: frames, masks, features as colours, attention, errors and neighbours. Needs the extra `viz`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..models.vjepa.configuration_vjepa import VJEPAConfig
from .style import SHEET_WIDTH, color, new_figure, percent, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAT = "inferno"
TARGET_COLOR = (0.16, 0.38, 0.75)
_DROPPED_COLOR = (0.85, 0.10, 0.10)
_LABEL_WIDTH, _CELL, _FILE_CELL = 1.15, 1.0, 1.1  # inches: the labels, and at most an image in a report and in a file
_CELL_PIXELS = 128  # of an enlarged image, about
# Models of images: inches of a tile in a file and at most in a report, of a line of text and of space; tiles in a row.
_FILE_TILE, _TILE, _LINE, _MARGIN, _MOST_TILES = 1.3, 2.2, 0.135, 0.06, 6


@dataclass(frozen=True)
class Strip:
    """
    One row of images.

    Attributes:
        label: text on the left.
        images: float (time, height, width, 3) in [0, 1].
        border: a name of [`~figures.style.COLORS`], for a frame around each image.
        is_first: begins a group of rows, with a gap above.
    """

    label: str
    images: Tensor
    border: str | None = None
    is_first: bool = False


def draw_strips(
    strips: Sequence[Strip], *, titles: Sequence[str], title: str = "", cell: float | None = None
) -> Figure:
    """
    Rows of images as one figure. Strips of a single image stand side by side, with their labels above them; each
    strip that is the first of its group begins a new row.

    Args:
        strips: from top to bottom, each with the same number of images.
        titles: one per column; strips of a single image have no use for them.
        title: above all rows; it is wrapped to the width of the figure.
        cell: side of an image in inches; by default the figure has the width of a chart.

    Raises:
        ImportError: matplotlib is missing.
    """
    steps = len(titles)
    if steps == 1:
        return _draw_tiles(strips, title=title, cell=cell)
    cell = min((SHEET_WIDTH - _LABEL_WIDTH) / steps, _CELL) if cell is None else cell
    width = _LABEL_WIDTH + steps * cell
    title_lines = textwrap.wrap(title, int(9 * width))  # letters per inch at this size
    # Inches: between rows, above a group, and above the first row.
    gap, space, top = 0.05, 0.14, 0.24 + 0.18 * len(title_lines) + (0.12 if title else 0)
    places, height = [], top
    for index, strip in enumerate(strips):
        height += space if strip.is_first and index else 0
        places.append(height)
        height += cell + gap
    figure = new_figure(width, height, layout="none")
    for strip, place in zip(strips, places, strict=True):
        box = (_LABEL_WIDTH / width, 1 - (place + cell) / height, steps * cell / width, cell / height)
        axis = figure.add_axes(box)
        axis.imshow(_joined(strip), interpolation="none", extent=(0, steps, 0, 1), aspect="auto")
        axis.axis("off")
        axis.text(-0.09, 0.5, strip.label, ha="right", va="center", fontsize=9.5, linespacing=1.25)
        if place == places[0]:
            for column, name in enumerate(titles):
                axis.text(column + 0.5, 1.06, name, ha="center", va="bottom", fontsize=9, color=color("muted"))
    if title:
        text = "\n".join(title_lines)
        figure.text(0.04 / width, 1 - 0.06 / height, text, ha="left", va="top", fontsize=11, fontweight="bold")
    return figure


def _tile_rows(strips: Sequence[Strip]) -> list[list[Strip]]:
    """Groups of strips as rows of at most `_MOST_TILES`."""
    rows: list[list[Strip]] = []
    for strip in strips:
        if not rows or strip.is_first or len(rows[-1]) == _MOST_TILES:
            rows.append([])
        rows[-1].append(strip)
    return rows


def _draw_tiles(strips: Sequence[Strip], *, title: str, cell: float | None) -> Figure:
    """Strips of a single image as tiles. A label that repeats the label of the tile above is left out."""
    rows = _tile_rows(strips)
    columns = max(map(len, rows))
    cell = min((SHEET_WIDTH - 2 * _MARGIN) / columns, _TILE) if cell is None else _FILE_TILE
    width = columns * cell + 2 * _MARGIN
    title_lines = textwrap.wrap(title, int(9 * width))
    above = [[], *([strip.label for strip in row] for row in rows)]
    shown = [
        ["" if before[column : column + 1] == [strip.label] else strip.label for column, strip in enumerate(row)]
        for before, row in zip(above, rows, strict=False)
    ]
    places, height = [], 0.18 * len(title_lines) + (0.12 if title else 0)
    for labels in shown:
        height += _MARGIN + _LINE * max(len(label.splitlines()) for label in labels)
        places.append(height)
        height += cell
    height += _MARGIN
    figure = new_figure(width, height, layout="none")
    for row, labels, place in zip(rows, shown, places, strict=True):
        for column, (strip, label) in enumerate(zip(row, labels, strict=True)):
            box = ((_MARGIN + column * cell) / width, 1 - (place + cell) / height, cell / width, cell / height)
            axis = figure.add_axes(box)
            axis.imshow(_joined(strip), interpolation="none", extent=(0, 1, 0, 1), aspect="auto")
            axis.axis("off")
            axis.text(0, 1 + 0.03 / cell, label, va="bottom", fontsize=8, linespacing=1.15)
    if title:
        text = "\n".join(title_lines)
        figure.text(_MARGIN / width, 1 - 0.06 / height, text, ha="left", va="top", fontsize=11, fontweight="bold")
    return figure


def _joined(strip: Strip) -> np.ndarray:
    """The images side by side with transparent gaps: RGBA uint8, enlarged by whole factors."""
    from matplotlib.colors import to_rgb

    factor = max(1, round(_CELL_PIXELS / strip.images.shape[1]))
    images = strip.images.clamp(0, 1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if strip.border is not None:
        edge = torch.tensor(to_rgb(color(strip.border)))
        width = max(2, images.shape[1] // 22)
        for side in (images[:, :width], images[:, -width:], images[:, :, :width], images[:, :, -width:]):
            side[:] = edge
    opaque = torch.cat([images, torch.ones(*images.shape[:3], 1)], dim=-1)
    padded = pad(opaque, (0, 0, 0, max(2, images.shape[1] // 26)))
    joined = padded.permute(1, 0, 2, 3).flatten(1, 2)
    return (joined * 255).round().byte().numpy()


def frame_titles(config: VJEPAConfig) -> list[str]:
    """
    A title for each time step: the frames that its tokens span. With more than 8 steps, some titles are empty; so is
    the title of an image model.
    """
    if config.is_image_model:
        return [""]
    size, steps = config.tubelet_size, config.grid_size[0]
    word = "" if steps > 5 else "frame " if size == 1 else "frames "
    first = range(0, steps * size, size)
    titles = [f"{word}{frame}" if size == 1 else f"{word}{frame}–{frame + size - 1}" for frame in first]
    return [title if step % math.ceil(steps / 8) == 0 else "" for step, title in enumerate(titles)]


def middle_frames(config: VJEPAConfig) -> np.ndarray:
    """The middle of the frames of each time step: float (time,)."""
    return config.tubelet_size * (np.arange(config.grid_size[0]) + 0.5) - 0.5


def tubelet_frames(clips: Tensor, config: VJEPAConfig) -> Tensor:
    """
    The first frame of every tubelet as RGB in [0, 1]: (batch, time, height, width, 3).

    Args:
        clips: uint8 (batch, frames, channels, height, width) of the size of `config`.

    Raises:
        ValueError: clips of another type or shape.
    """
    expected = (config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
    if clips.dtype != torch.uint8 or clips.ndim != 5 or tuple(clips.shape[1:]) != expected or len(clips) == 0:
        raise ValueError(
            f"`clips` is {clips.dtype} of shape {tuple(clips.shape)} and must be torch.uint8 of shape "
            f"(batch, {', '.join(map(str, expected))}): pass the frames before normalisation, cropped to `config`"
        )
    frames = clips[:, :: config.tubelet_size].cpu().permute(0, 1, 3, 4, 2).float() / 255
    return frames[..., :3] if frames.shape[-1] >= 3 else frames[..., :1].expand(*frames.shape[:-1], 3)


def heat_colors(frames: Tensor, values: Tensor, *, limits: tuple[float, float]) -> Tensor:
    """Grey frames (time, height, width, 3) under a map (time, rows, columns), dark to bright between the limits."""
    from matplotlib import colormaps

    scaled = (values[:, None].float() - limits[0]) / max(limits[1] - limits[0], 1e-12)
    enlarged = interpolate(scaled.clamp(0, 1), size=tuple(frames.shape[1:3]), mode="nearest")[:, 0]
    colors = torch.from_numpy(colormaps[HEAT](enlarged.numpy())[..., :3]).float()
    return 0.42 * frames.mean(-1, keepdim=True) + 0.58 * colors


def heat_limits(values: Tensor) -> tuple[float, float]:
    """Values of the darkest and the brightest colour of a map: 5th and 95th percentile, without NaN."""
    low, high = np.nanpercentile(values.numpy(), [5, 95])
    return float(low), float(high)


# Masks


def draw_masks(
    clip: Tensor,
    context_mask: Sequence[Tensor],
    target_mask: Sequence[Tensor],
    *,
    config: VJEPAConfig,
    title: str = "",
) -> Figure:
    """
    Context tokens (unchanged), target tokens (blue) and dropped tokens (crossed out) of a clip, one row per mask.

    Args:
        clip: uint8 (frames, channels, height, width).
        context_mask: token indices (batch, context tokens); a single mask is shared by all targets. The first row of
            the batch is shown.
        target_mask: token indices (batch, target tokens).
        title: above the figure.

    Raises:
        ValueError: the numbers of context and target masks do not match.
    """
    (frames,) = tubelet_frames(clip[None], config)
    strips = _mask_strips(frames, context_mask, target_mask, row=0, first=1, config=config)
    return draw_strips(strips, titles=frame_titles(config), title=title)


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
    Writes one row of frames per clip, and below it one row per mask: context tokens are unchanged, target tokens are
    blue, dropped tokens (in neither mask) are crossed out in red. Only the first frame of each tubelet is shown.

    Args:
        clips: uint8 (batch, frames, channels, height, width) of the size of `config`.
        context_mask: LongTensors (batch, context tokens); a single one is shared by all targets.
        target_mask: LongTensors (batch, target tokens).
        config: geometry of the tokens.
        path: file to write.
        max_clips: largest number of clips to draw, from the first.

    Raises:
        ValueError: the clips do not match `config`, or the numbers of masks or of their rows do not match.
        ImportError: matplotlib is missing.
    """
    frames = tubelet_frames(clips[:max_clips], config)
    for mask in (*context_mask, *target_mask):
        if len(mask) < len(frames):
            raise ValueError(f"a mask of {len(mask)} clips for {len(frames)} clips: pass one row per clip")
    strips = []
    for clip, images in enumerate(frames):
        strips.append(Strip(f"{config.noun} {clip}", images, is_first=True))
        strips += _mask_strips(images, context_mask, target_mask, row=clip, first=0, config=config)
    title = "Unchanged: context. Blue: target. Crossed out: dropped."
    return write_figure(draw_strips(strips, titles=frame_titles(config), title=title, cell=_FILE_CELL), path)


def _mask_strips(
    frames: Tensor,
    context_mask: Sequence[Tensor],
    target_mask: Sequence[Tensor],
    *,
    row: int,
    first: int,
    config: VJEPAConfig,
) -> list[Strip]:
    """One strip per mask, of a row of the batch; masks are numbered from `first`."""
    if len(context_mask) not in (1, len(target_mask)):
        raise ValueError(
            f"{len(context_mask)} context masks for {len(target_mask)} target masks: pass one per target, or a single "
            "one for all"
        )
    contexts = list(context_mask) * (len(target_mask) // len(context_mask))
    strips = []
    for number, (context, target) in enumerate(zip(contexts, target_mask, strict=True), start=first):
        kinds = torch.full((config.num_patches,), 2)  # 0 context, 1 target, 2 dropped
        kinds[target[row].cpu()] = 1
        kinds[context[row].cpu()] = 0
        shares = (kinds[:, None] == torch.arange(3)).float().mean(dim=0).tolist()
        parts = zip(("context", "target", "dropped"), shares, strict=True)
        lines = [f"{name} {percent(share)}" for name, share in parts if share or name != "dropped"]
        images = paint_tokens(frames, kinds.view(config.grid_size), config.patch_size)
        strips.append(Strip("\n".join([f"mask {number}", *lines]), images))
    return strips


def paint_tokens(frames: Tensor, kinds: Tensor, patch_size: int) -> Tensor:
    """
    Frames (time, height, width, 3) with target tokens in blue (where kinds (time, rows, columns) are 1) and dropped
    tokens crossed out (kind 2).
    """
    pixels = interpolate(kinds[:, None].float(), scale_factor=patch_size)[:, 0, :, :, None]
    grey = frames.mean(-1, keepdim=True)
    tinted = 0.22 * grey + 0.78 * torch.tensor(TARGET_COLOR)
    rows = torch.arange(patch_size)
    line = (rows[:, None] - rows).abs() < max(1, patch_size // 8)
    cross = (line | line.flip(1)).repeat(kinds.shape[1], kinds.shape[2])[None, :, :, None]
    dropped = torch.where(cross, torch.tensor(_DROPPED_COLOR), 0.75 + 0.25 * grey)
    return torch.where(pixels == 1, tinted, torch.where(pixels == 2, dropped, frames))


# Features


def draw_feature_colors(
    clips: Tensor, features: Sequence[tuple[str, Tensor]], *, shown: int, name: str, config: VJEPAConfig
) -> Figure:
    """
    Features of one clip as colours ([`principal_colors`]) under its frames, one row per encoder.

    Args:
        clips: uint8 (clips, frames, 3, height, width).
        features: label and float (clips, time, cells, width); the components are those of all these clips.
        shown: index of the clip to show.
        name: label of the clip.
    """
    strips = [Strip(name, tubelet_frames(clips[shown, None], config)[0])]
    for label, values in features:
        _, colors = principal_colors(values.flatten(1, 2))
        strips.append(Strip(label, colors[shown].unflatten(0, config.grid_size)))
    return draw_strips(strips, titles=frame_titles(config))


def plot_feature_pca(
    clips: Tensor, snapshots: Sequence[tuple[int | str, Tensor]], *, config: VJEPAConfig, path: str | Path
) -> Path:
    """
    Writes features as colours ([`principal_colors`]) under the frames of each clip. The rows are snapshots of the same
    clips during training: they show how structure appears or collapses. Components are computed per snapshot; their
    signs follow the preceding snapshot, so that colours change little.

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
    rows, components = [], None
    for step, features in snapshots:
        if features.ndim != 3 or tuple(features.shape[:2]) != expected or features.shape[2] < 3:
            raise ValueError(
                f"the features of step {step} have shape {tuple(features.shape)} and must have ({expected[0]}, "
                f"{expected[1]}, channels) with at least 3 channels: pass all tokens of these clips"
            )
        components, colors = principal_colors(features, before=components)
        rows.append((f"step {step:,}" if isinstance(step, int) else step, colors.unflatten(1, config.grid_size)))
    strips = []
    for clip, images in enumerate(frames):
        strips.append(Strip(f"{config.noun} {clip}", images, is_first=True))
        strips += [Strip(label, colors[clip]) for label, colors in rows]
    title = "Features: first three principal components"
    return write_figure(draw_strips(strips, titles=frame_titles(config), title=title, cell=_FILE_CELL), path)


def principal_colors(features: Tensor, *, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """
    The first three principal components of features as red, green and blue.

    Args:
        features: (batch, tokens, channels).
        before: earlier components; the signs of the new ones follow them.

    Returns:
        The components as directions (channels, 3), and the colours in [0, 1] (batch, tokens, 3), from the 1st to the
        99th percentile of each component.
    """
    tokens = features.detach().cpu().float().flatten(0, 1)
    tokens = tokens - tokens.mean(0)
    _, directions = torch.linalg.eigh(tokens.T @ tokens)  # ascending
    components = directions[:, -3:].flip(1)
    if before is not None and before.shape == components.shape:
        agreement = (components * before).sum(0)
    else:  # a rule that gives the same signs on every machine: the largest weight is positive
        agreement = components.gather(0, components.abs().argmax(0, keepdim=True))[0]
    components = torch.where(agreement < 0, -components, components)
    values = tokens @ components
    low, high = torch.from_numpy(np.percentile(values.numpy(), [1, 99], axis=0)).float()
    colors = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return components, colors.unflatten(0, features.shape[:2])


# Heat maps and neighbours


def draw_heat(
    clips: Sequence[tuple[str, Tensor, Mapping[str, Tensor]]], *, limits: tuple[float, float], config: VJEPAConfig
) -> Figure:
    """
    Maps over grey frames ([`heat_colors`]) below the frames of each clip, such as attention, errors or surprise.

    Args:
        clips: label, uint8 (frames, 3, height, width), and maps (time, rows, columns) by label. A time step without a
            map is NaN; its frame is pale.
        limits: values of the darkest and the brightest colour; see [`heat_limits`].
    """
    strips = []
    for label, clip, maps in clips:
        (frames,) = tubelet_frames(clip[None], config)
        strips.append(Strip(label, frames, is_first=True))
        for name, values in maps.items():
            heat = heat_colors(frames, values.nan_to_num(limits[0]), limits=limits)
            pale = 0.25 * frames.mean(dim=-1, keepdim=True) + 0.55
            is_empty = values.isnan().all(dim=(1, 2))[:, None, None, None]
            strips.append(Strip(name, torch.where(is_empty, pale, heat)))
    return draw_strips(strips, titles=frame_titles(config))


def draw_neighbours(
    clips: Tensor,
    nearest: Sequence[int],
    labels: Mapping[str, np.ndarray],
    *,
    query: int,
    class_names: Mapping[str, Sequence[str]],
    config: VJEPAConfig,
) -> Figure:
    """
    A clip and its nearest clips, with a mark for every label that they share; the border marks the first label.

    Args:
        clips: uint8 (clips, frames, 3, height, width).
        nearest: indices of clips, from the nearest on.
        labels: class of every clip by task.
        query: index of the clip.
        class_names: by task.
    """
    frames = tubelet_frames(clips[[query, *nearest]], config)
    names = [short_name(class_names[task][values[query]]) for task, values in labels.items()]
    strips = [Strip("\n".join(["query", *names]), frames[0])]
    for place, index in enumerate(nearest):
        same = [values[index] == values[query] for values in labels.values()]
        names = [short_name(class_names[task][values[index]]) for task, values in labels.items()]
        lines = [f"{name} {'✓' if right else '✗'}" for name, right in zip(names, same, strict=True)]
        border = "right" if same[0] else "wrong"
        strips.append(Strip("\n".join(lines), frames[place + 1], border=border, is_first=place == 0))
    return draw_strips(strips, titles=frame_titles(config))


def short_name(name: str) -> str:
    """A class name that fits beside a strip or an axis."""
    name = name.replace("counterclockwise", "ccw").replace("clockwise", "cw").replace("_", " ")
    return name if len(name) <= 14 else name[:13] + "…"
