"""Sheets: rows of single images, for models of images. Needs the extra `viz`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.vjepa.configuration_vjepa import VJEPAConfig
from .images import paint_tokens, tubelet_frames
from .style import color, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABEL_WIDTH, _CELL, _GAP, _TOP = 1.15, 0.95, 0.06, 0.26  # inches: row labels, an image, between images, titles
_CELL_PIXELS = 128  # of an enlarged image, about
#: Grey of what a network does not see, in [0, 1]: it differs from the page, light or dark, and from most images.
BLANK = 0.87


@dataclass(frozen=True)
class Tile:
    """
    One image of a sheet.

    Attributes:
        image: float (height, width, 3) in [0, 1].
        border: a name of [`~figures.style.COLORS`], for a frame around the image.
    """

    image: Tensor
    border: str | None = None


def draw_sheet(rows: Sequence[tuple[str, Sequence[Tile]]], *, titles: Sequence[str]) -> Figure:
    """
    Images in rows and columns as one figure.

    Args:
        rows: label and images, from top to bottom; a row may have fewer images than the others.
        titles: one per column.

    Raises:
        ImportError: matplotlib is missing.
    """
    width = _LABEL_WIDTH + len(titles) * (_CELL + _GAP)
    height = _TOP + len(rows) * (_CELL + _GAP)
    figure = new_figure(width, height, layout="none")
    for row, (label, tiles) in enumerate(rows):
        top = _TOP + row * (_CELL + _GAP)
        for column, tile in enumerate(tiles):
            left = _LABEL_WIDTH + column * (_CELL + _GAP)
            axis = figure.add_axes((left / width, 1 - (top + _CELL) / height, _CELL / width, _CELL / height))
            axis.imshow(_enlarged(tile).numpy(), interpolation="none", aspect="auto")
            axis.axis("off")
        middle = 1 - (top + _CELL / 2) / height
        place = ((_LABEL_WIDTH - 0.09) / width, middle)
        figure.text(*place, label, ha="right", va="center", fontsize=9.5, linespacing=1.25)
    for column, title in enumerate(titles):
        middle = (_LABEL_WIDTH + column * (_CELL + _GAP) + _CELL / 2) / width
        place = (middle, 1 - (_TOP - 0.06) / height)
        figure.text(*place, title, ha="center", va="bottom", fontsize=9, color=color("muted"))
    return figure


def image_tile(image: Tensor, config: VJEPAConfig) -> Tile:
    """An image, uint8 (1, 3, height, width) of the size of `config`."""
    return Tile(tubelet_frames(image[None], config)[0, 0])


def enlarge_tokens(tokens: Tensor, config: VJEPAConfig) -> Tensor:
    """A square of its patch for each token: (rows, columns, values) -> (height, width, values)."""
    return tokens.repeat_interleave(config.patch_size, 0).repeat_interleave(config.patch_size, 1)


def draw_image_masks(
    image: Tensor, masks: Mapping[str, tuple[Sequence[Tensor], Sequence[Tensor]]], *, config: VJEPAConfig
) -> Figure:
    """
    Masks of an image as one row per strategy: the context, in which hidden tokens are blank, and the image under each
    target, which is blue.

    Args:
        image: uint8 (1, channels, height, width) of the size of `config`, a geometry of one frame.
        masks: by name, `context_mask` and `target_mask` as [`~pretraining.masking.sample_masks`] makes them. The first
            context, and the first row of the batch, are shown.
        config: geometry of the tokens.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the image does not match `config`.
    """
    rows = [(name, _mask_tiles(image, *pair, config=config)) for name, pair in masks.items()]
    most = max(len(tiles) for _, tiles in rows)
    return draw_sheet(rows, titles=["context", *(f"target {place}" for place in range(1, most))])


def _mask_tiles(
    image: Tensor, context_mask: Sequence[Tensor], target_mask: Sequence[Tensor], *, config: VJEPAConfig
) -> list[Tile]:
    (frames,) = tubelet_frames(image[None], config)
    hidden = torch.ones(config.num_patches, dtype=torch.bool)
    hidden[context_mask[0][0]] = False
    blank = enlarge_tokens(hidden.view(*config.grid_size[1:], 1), config)
    tiles = [Tile(torch.where(blank, BLANK, frames[0]))]
    for target in target_mask:
        kinds = torch.zeros(config.num_patches)
        kinds[target[0]] = 1
        tiles.append(Tile(paint_tokens(frames, kinds.view(config.grid_size), config.patch_size)[0]))
    return tiles


def _enlarged(tile: Tile) -> Tensor:
    """The image with its border, enlarged by a whole factor: float (height, width, 3)."""
    from matplotlib.colors import to_rgb

    factor = max(1, round(_CELL_PIXELS / tile.image.shape[0]))
    image = tile.image.clamp(0, 1).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    if tile.border is not None:
        edge, width = torch.tensor(to_rgb(color(tile.border))), max(2, image.shape[0] // 22)
        for side in (image[:width], image[-width:], image[:, :width], image[:, -width:]):
            side[:] = edge
    return image
