"""
Blocks of cells on the grid of a frame, for batches of clips, and the masks that they make.

"Uniforms" are random numbers in [0, 1), "cells" a boolean grid (..., side, side). All functions are deterministic.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor


class Masks(NamedTuple):
    """
    Masks of a batch, as `VJEPAForPreTraining` takes them.

    Attributes:
        context_mask: one LongTensor (batch, context tokens) per generator, or a single one for all targets
            (I-JEPA). Sorted token indices in [0, num_patches).
        target_mask: one LongTensor (batch, target tokens) per prediction task, disjoint from the context.
    """

    context_mask: list[LongTensor]
    target_mask: list[LongTensor]


def between(bounds: tuple[float, float], uniforms: Tensor) -> Tensor:
    """Numbers between `bounds`, in double precision: the published sizes come from Python floats and are rounded."""
    return bounds[0] + uniforms.double() * (bounds[1] - bounds[0])


def block_size(scale: float | Tensor, aspect: float | Tensor, side: int) -> Tensor:
    """Height and width (..., 2), in cells, of blocks with a share of the cells and a height over width (...)."""
    area = torch.floor(torch.as_tensor(scale, dtype=torch.float64) * (side * side))
    sides = torch.stack([area * aspect, area / aspect], dim=-1).sqrt_()
    return sides.round_().clamp_(1, side).short()


def place_blocks(sizes: Tensor, positions: Tensor, side: int, *, reach_end: bool = True) -> BoolTensor:
    """
    Rows and columns (..., blocks, 2, side) that blocks cover. The blocks of a layout share one size (..., 2) and lie
    at the uniforms `positions` (..., blocks, 2). Without `reach_end` no block covers the last row or column.
    """
    sizes = sizes[..., None, :]
    first = (positions * (side - sizes + reach_end)).short()[..., None]
    places = torch.arange(side, dtype=torch.short)
    return (places >= first) & (places < first + sizes[..., None])


def union_of_blocks(spans: BoolTensor) -> BoolTensor:
    """Cells (..., side, side) that at least one block covers: the product of rows and columns counts the blocks."""
    rows, columns = spans.float().unbind(-2)
    return (rows.mT @ columns) > 0


def fit_area(cells: BoolTensor, area: int, ranks: Tensor) -> BoolTensor:
    """
    Grows or shrinks each set of cells (batch, H, W) along its edge to exactly `area` cells (batch, H * W).

    Growing first takes the cells with most neighbours inside (nooks, then edges, then any cell). Shrinking first gives
    back the cells with fewest (corners first). Ties follow the random order of `ranks` (batch, H * W). Scattered cells
    would leave targets that are trivial to fill in from their neighbours.
    """
    inside = cells.float()
    scores = 5 * inside + ranks.view_as(inside)
    for axis in (1, 2):
        length = inside.shape[axis] - 1
        scores.narrow(axis, 1, length).add_(inside.narrow(axis, 0, length))
        scores.narrow(axis, 0, length).add_(inside.narrow(axis, 1, length))
        for border in (0, length):  # a cell at the border counts itself as its neighbour outside
            scores.select(axis, border).add_(inside.select(axis, border))
    return top_cells(scores.flatten(1), area)


def top_cells(scores: Tensor, count: int) -> BoolTensor:
    """Marks the `count` highest scores of each row (batch, cells)."""
    top = scores.topk(count, dim=1, sorted=False).indices
    return torch.zeros(scores.shape, dtype=torch.bool).scatter_(1, top, True)


def to_indices(tokens: BoolTensor) -> LongTensor:
    """Sorted indices of the marked tokens (batch, tokens), cut to the shortest row: (batch, shortest)."""
    batch, num_tokens = tokens.shape
    starts = np.arange(batch) * num_tokens
    flat = np.flatnonzero(tokens.numpy())  # several times faster than `Tensor.nonzero`
    first = np.searchsorted(flat, starts)
    counts = np.diff(first, append=len(flat))
    if counts.min() < counts.max():
        flat = flat[first[:, None] + np.arange(counts.min())]
    return torch.from_numpy(flat.reshape(batch, -1) - starts[:, None])


def one_place_in_last_layout(positions: Tensor) -> Tensor:
    """Puts all blocks of the last layout (batch, layouts, blocks, 2) at one place, so that it leaves a context."""
    last = positions[:, -1:, :1].expand(-1, -1, positions.shape[2], -1)
    return torch.cat([positions[:, :-1], last], dim=1)


def take_layout(layouts: Tensor, index: LongTensor) -> Tensor:
    """Layout `index` (batch,) of each clip: (batch, layouts, ...) to (batch, ...)."""
    return layouts[torch.arange(len(index)), index]


def check_blocks(name: str, scales: tuple[float, ...], aspect_ratio: tuple[float, float], side: int) -> None:
    """
    Raises:
        ValueError: blocks of these shares of the cells (one share, or a range; `name` is that of the argument) and of
            this range of height over width are smaller than a cell, or as large as the grid.
    """
    value = scales[0] if len(scales) == 1 else scales
    if not (0 < scales[0] <= scales[-1] < 1):
        raise ValueError(f"`{name}`={value}: the block must be smaller than the grid, use a share in (0, 1)")
    if not 0 < aspect_ratio[0] <= aspect_ratio[1]:
        raise ValueError(f"aspect ratio {aspect_ratio} must be an increasing range of positive numbers")
    if int(scales[0] * side * side) < 1:
        raise ValueError(
            f"`{name}`={value} is less than one of the {side}x{side} cells of the grid: use at least "
            f"{1 / (side * side):.4f}, or a larger grid"
        )
    aspects = torch.linspace(*aspect_ratio, 65, dtype=torch.float64)
    if bool((block_size(scales[-1], aspects, side) == side).all(-1).any()):
        raise ValueError(
            f"`{name}`={value} gives blocks as large as the whole grid of {side}x{side} cells, which leaves no "
            "context: use a smaller share, or a larger grid"
        )
