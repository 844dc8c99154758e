"""Sheets: rows of single images, for models of images. Needs the extra `viz`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .style import color, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABEL_WIDTH, _CELL, _GAP, _TOP = 1.15, 0.95, 0.06, 0.26  # inches: row labels, an image, between images, titles
_CELL_PIXELS = 128  # of an enlarged image, about


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
            axis.imshow(_enlarged(tile), interpolation="none", aspect="auto")
            axis.axis("off")
        middle = 1 - (top + _CELL / 2) / height
        place = ((_LABEL_WIDTH - 0.09) / width, middle)
        figure.text(*place, label, ha="right", va="center", fontsize=9.5, linespacing=1.25)
    for column, title in enumerate(titles):
        middle = (_LABEL_WIDTH + column * (_CELL + _GAP) + _CELL / 2) / width
        place = (middle, 1 - (_TOP - 0.06) / height)
        figure.text(*place, title, ha="center", va="bottom", fontsize=9, color=color("muted"))
    return figure


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
