"""
Masks of images: the strategy of I-JEPA (arXiv 2301.08243, section 3 and appendix A.1), and those it is compared with.

These are strategies of [`~pretraining.masking`] for models of one frame. Each predicts its targets one by one from a
single context. The paper compares them in Table 6: linear probes on 1 % of the labels of ImageNet, ViT-B/16, 300
epochs.

| strategy | class | accuracy in % |
| --- | --- | --- |
| multi-block | [`ImageMultiBlock`] | 54.2 |
| block | [`ImageBlock`] | 20.2 |
| random | [`ImageRandom`] | 17.6 |
| rasterized | [`ImageRaster`] | 15.5 |
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any

import torch
from torch import BoolTensor, Tensor

from ..models.vjepa.configuration_vjepa import VJEPAConfig
from .mask_geometry import (
    Masks,
    between,
    block_size,
    check_blocks,
    fit_area,
    one_place_in_last_layout,
    place_blocks,
    take_layout,
    to_indices,
    top_cells,
    union_of_blocks,
)

# Layouts drawn per image, of which one is used: the best fit (balanced), or the first that leaves a context
# (published). More than for videos: layouts of images are cheap, and their fallback is a poor mask.
_LAYOUTS = 8
# Images from which a mean is estimated.
_MONTE_CARLO_IMAGES = 4096


@dataclass(frozen=True)
class ImageMultiBlock:
    """
    2-D multi-block masking of I-JEPA (section 3): `num_targets` blocks are predicted, one by one, from a single
    context: a large block minus the targets. All targets of an image have one size.

    Balanced masks have constant lengths here too. Every target has the area in the middle of `target_scale`, with
    any aspect ratio; a few corner cells are dropped if whole sides do not give that area. The context has the mean
    number of tokens that the targets leave, cut at random places of the image.

    Published masks share their block sizes over the batch and cut the context in row-major order, which removes the
    bottom of the image. As in the published code, one number decides scale and aspect ratio of the targets, all sides
    are shorter than those of the image, and no block covers the last row or column.

    Args:
        num_targets: number of target blocks.
        target_scale: range of the area of a target over the area of the image, in (0, 1).
        target_aspect_ratio: range of height over width of a target.
        context_scale: range of the area of the (square) context block, in (0, 1].
        min_context: least number of context tokens; published masks have more than this.
    """

    num_targets: int = 4
    target_scale: tuple[float, float] = (0.15, 0.2)
    target_aspect_ratio: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)
    min_context: int = 10

    def check(self, config: VJEPAConfig) -> None:
        _check_image(self, config)
        if self.num_targets < 1:
            raise ValueError(f"`num_targets`={self.num_targets} must be at least 1")
        side = config.grid_size[1]
        check_blocks("target_scale", self.target_scale, self.target_aspect_ratio, side)
        low, high = self.context_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"`context_scale`={self.context_scale} must be an increasing range in (0, 1]")
        worst = self._least_context(side)
        if worst < max(1, self.min_context):
            raise ValueError(
                f"a single target may leave only {worst} context tokens on a grid of {side}x{side}, below "
                f"`min_context`={self.min_context}: use a larger grid, a smaller `target_scale` or `min_context`"
            )
        mean = _mean_image_context(self, side)
        if mean < self.min_context:
            raise ValueError(
                f"{self.num_targets} targets leave {mean} context tokens on average on a grid of {side}x{side},"
                f" below `min_context`={self.min_context}: use fewer or smaller targets, or a larger grid"
            )

    def num_uniforms(self, config: VJEPAConfig) -> int:
        side = config.grid_size[1]
        return _LAYOUTS * self._layout_uniforms + (self.num_targets + 1) * side * side

    def sample(self, config: VJEPAConfig, *, uniforms: Tensor, size_uniforms: Tensor | None) -> Masks:
        side = config.grid_size[1]
        cells = side * side
        layouts, ranks = uniforms.split([_LAYOUTS * self._layout_uniforms, (self.num_targets + 1) * cells], dim=1)
        ranks = ranks.unflatten(1, (self.num_targets + 1, cells))
        blocks, contexts = self._layouts(layouts.unflatten(1, (_LAYOUTS, self._layout_uniforms)), size_uniforms, side)
        areas = contexts.sum((-1, -2))
        if size_uniforms is None:
            num_context = _mean_image_context(self, side)
            # Among the layouts that leave enough cells in the image, take the one whose context block has the
            # number closest to the mean. Missing cells come from around the block. The last layout always fits.
            enough = cells - blocks.any(-3).sum((-1, -2)) >= num_context
            best = torch.where(enough, (areas - num_context).abs(), cells).argmin(1)
            # Surplus cells of each target are dropped, corners first.
            chosen, area = take_layout(blocks, best).flatten(0, 1), self._target_tokens(side)
            targets = fit_area(chosen, area, ranks[:, 1:].flatten(0, 1)).unflatten(0, (len(best), self.num_targets))
            inside = take_layout(contexts, best).flatten(1)
            context = top_cells((inside + ranks[:, 0]).masked_fill(targets.any(1), -1), num_context)
        else:
            best = (areas > self.min_context).int().argmax(1)
            targets = take_layout(blocks, best).flatten(2)
            context = take_layout(contexts, best).flatten(1)
        return Masks([to_indices(context)], [to_indices(target) for target in targets.unbind(1)])

    @property
    def _layout_uniforms(self) -> int:
        """Uniforms of a layout: aspect ratio of the targets, scale of the context, places of all blocks."""
        return 2 + 2 * (self.num_targets + 1)

    def _layouts(self, uniforms: Tensor, size_uniforms: Tensor | None, side: int) -> tuple[BoolTensor, BoolTensor]:
        """Targets (batch, layouts, targets, H, W) and contexts (batch, layouts, H, W)."""
        places = uniforms[..., 2:].unflatten(-1, (self.num_targets + 1, 2))
        target_places = one_place_in_last_layout(places[..., 1:, :])
        if size_uniforms is None:
            aspect = between(self.target_aspect_ratio, uniforms[..., 0])
            target_size = _covering_size(self._target_tokens(side), aspect, side)
            context_size = block_size(between(self.context_scale, uniforms[..., 1]), 1.0, side)
        else:
            target, context = size_uniforms[:1], size_uniforms[1:2]
            aspect = between(self.target_aspect_ratio, target)
            target_size = _published_size(between(self.target_scale, target), aspect, side)
            context_size = _published_size(between(self.context_scale, context), 1.0, side)
        reach_end = size_uniforms is None
        rows, columns = place_blocks(target_size, target_places, side, reach_end=reach_end).unbind(-2)
        blocks = rows[..., :, None] & columns[..., None, :]
        contexts = union_of_blocks(place_blocks(context_size, places[..., :1, :], side, reach_end=reach_end))
        return blocks, contexts & ~blocks.any(-3)

    def _target_tokens(self, side: int) -> int:
        return max(1, round(sum(self.target_scale) / 2 * side * side))

    def _least_context(self, side: int) -> int:
        """Context tokens that one target of the largest size leaves in the smallest context block."""
        aspects = torch.linspace(*self.target_aspect_ratio, 65, dtype=torch.float64)
        published = _published_size(self.target_scale[1], aspects, side)
        largest_target = (
            torch.cat([published, _covering_size(self._target_tokens(side), aspects, side)]).prod(-1).max()
        )
        return int(_published_size(self.context_scale[0], 1.0, side).prod() - largest_target)


@dataclass(frozen=True)
class ImageBlock:
    """
    One large block is predicted from the rest of the image (I-JEPA, Table 6, "block").

    Balanced masks always have round(scale * tokens) targets: the smallest block of any aspect ratio that holds them,
    without a few cells at its edge. Published masks have one block size in a batch.

    Args:
        scale: area of the block over the area of the image, in (0, 1).
        aspect_ratio: range of height over width, drawn uniformly. The paper does not state the range; this is the
            range of its other target blocks.
    """

    scale: float = 0.6
    aspect_ratio: tuple[float, float] = (0.75, 1.5)

    def check(self, config: VJEPAConfig) -> None:
        _check_image(self, config)
        check_blocks("scale", (self.scale,), self.aspect_ratio, config.grid_size[1])

    def num_uniforms(self, config: VJEPAConfig) -> int:
        return 3 + config.grid_size[1] ** 2

    def sample(self, config: VJEPAConfig, *, uniforms: Tensor, size_uniforms: Tensor | None) -> Masks:
        side = config.grid_size[1]
        aspect, positions, ranks = uniforms.split([1, 2, side * side], dim=1)
        aspect = between(self.aspect_ratio, aspect[:, 0] if size_uniforms is None else size_uniforms[1])
        area = round(self.scale * side * side)
        sizes = _covering_size(area, aspect, side) if size_uniforms is None else block_size(self.scale, aspect, side)
        cells = union_of_blocks(place_blocks(sizes, positions[:, None], side))
        target = fit_area(cells, area, ranks) if size_uniforms is None else cells.flatten(1)
        return Masks([to_indices(~target)], [to_indices(target)])


@dataclass(frozen=True)
class ImageRandom:
    """
    Random tokens are predicted from the other tokens (I-JEPA, Table 6, "random"). Lengths are fixed, so both
    truncations give the same masks.

    Args:
        ratio: share of the tokens that are target, in (0, 1); the number of tokens is rounded.
    """

    ratio: float = 0.6

    def check(self, config: VJEPAConfig) -> None:
        _check_image(self, config)
        side = config.grid_size[1]
        cells = side * side
        if not (0 < self.ratio < 1 and 1 <= round(self.ratio * cells) < cells):
            raise ValueError(
                f"`ratio`={self.ratio} leaves no context or no target on a grid of {side}x{side} tokens: it must lie "
                f"between {1 / cells:.4f} and {1 - 1 / cells:.4f}"
            )

    def num_uniforms(self, config: VJEPAConfig) -> int:
        return config.grid_size[1] ** 2

    def sample(self, config: VJEPAConfig, *, uniforms: Tensor, size_uniforms: Tensor | None) -> Masks:
        target = top_cells(uniforms, round(self.ratio * uniforms.shape[1]))
        return Masks([to_indices(~target)], [to_indices(target)])


@dataclass(frozen=True)
class ImageRaster:
    """
    The image is cut into four quadrants. One of them, at random, is the context; the other three are predicted one by
    one (I-JEPA, Table 6, "rasterized"). Lengths are fixed, so both truncations give the same masks.
    """

    def check(self, config: VJEPAConfig) -> None:
        _check_image(self, config)
        side = config.grid_size[1]
        if side % 2:
            raise ValueError(
                f"a grid of {side}x{side} tokens has no quadrants: choose crop_size and patch_size so that crop_size "
                "/ patch_size is even"
            )

    def num_uniforms(self, config: VJEPAConfig) -> int:
        return 1

    def sample(self, config: VJEPAConfig, *, uniforms: Tensor, size_uniforms: Tensor | None) -> Masks:
        half = config.grid_size[1] // 2
        # Tokens by quadrant: (upper or lower, left or right), each row by row.
        tokens = torch.arange(4 * half * half).view(2, half, 2, half).transpose(1, 2).reshape(4, half * half)
        first = (4 * uniforms[:, 0]).long()
        # The context, then the others in the order of reading, from the context on.
        context, *targets = tokens[(torch.arange(4)[:, None] + first) % 4].unbind()
        return Masks([context], targets)


def _check_image(strategy: Any, config: VJEPAConfig) -> None:
    if not config.is_image_model:
        raise ValueError(
            f"{type(strategy).__name__} is for images, and frames_per_clip={config.frames_per_clip}: use a video "
            "strategy (--mask_strategy multiblock), or a configuration with frames_per_clip=1 and tubelet_size=1"
        )


def _covering_size(area: int, aspect: Tensor, side: int) -> Tensor:
    """Sides (..., 2) of the smallest block of about this height over width (...) that has at least `area` cells."""
    tall = (area * aspect).sqrt().round().clamp(ceil(area / side), side)
    return torch.stack([tall, (area / tall).ceil()], dim=-1).short()


def _published_size(scale: float | Tensor, aspect: float | Tensor, side: int) -> Tensor:
    """[`block_size`], with sides shorter than the image."""
    return block_size(scale, aspect, side).clamp(max=max(1, side - 1))


@lru_cache(maxsize=64)
def _mean_image_context(strategy: ImageMultiBlock, side: int) -> int:
    """Mean number of context tokens that the targets leave, rounded; at most the number that one target leaves."""
    generator = torch.Generator().manual_seed(0)
    # Two layouts, because the last layout is always the fallback: only the first is unbiased.
    uniforms = torch.rand(_MONTE_CARLO_IMAGES, 2, strategy._layout_uniforms, generator=generator)
    _, contexts = strategy._layouts(uniforms, None, side)
    mean = round(contexts[:, 0].sum((-1, -2)).double().mean().item())
    return min(mean, strategy._least_context(side))
