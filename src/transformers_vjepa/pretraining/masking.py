"""
Masks: which tokens of a clip the context encoder sees, and which tokens the predictor must predict.

A mask pair is two sorted index tensors, `context_mask` (batch, context tokens) and `target_mask` (batch,
target tokens), over the tokens of a clip in time-major order. On a grid of T x H x W = 2 x 2 x 3 tokens:

```
    first tubelet      second tubelet         index = t * H * W + h * W + w
     0   1   2           6   7   8
     3   4   5           9  10  11            the spatial cell (h=1, w=2) holds the tokens 5 and 11
```

Every video strategy masks whole spatial *cells* through the full length of the clip. The strategies of images are in
`pretraining/image_masking.py`.

Two ways to give all clips of a batch the same lengths:

- `truncation="balanced"` (default): strategy and grid fix the numbers of context and target cells, so no token
  is dropped. Context and target together are all tokens, every time step shows the same cells, and the mask of
  a clip depends on its own seed alone.
- `truncation="published"`: the masks of the released models. One block size per batch, and both index lists cut
  to the shortest of the batch. The lists are time-major, so the cut removes the *end of the clip*, and a larger
  batch loses more: with 24 clips the context shrinks to 61 % (short range) and 36 % (long range).

Sources: V-JEPA (arXiv 2404.08471), section 3.2 and Table 6; I-JEPA (arXiv 2301.08243), section 3 and
appendix A.1. "Uniforms" below are numbers in [0, 1): every sampler is a deterministic function of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor
from torch.utils.data import default_collate

from ..data.random_streams import clip_streams, stream_uniforms
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from .image_masking import ImageBlock, ImageMultiBlock, ImageRandom, ImageRaster
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

Truncation = Literal["balanced", "published"]
# Layouts drawn per clip, of which one is used: the best fit (balanced), or the first that leaves a context
# (published). More layouts fit better and cost more: with 4, the best union of a ViT-L clip is off by 4 to 5 of
# 196 cells (12 with 1, 2 to 4 with 8).
_VIDEO_LAYOUTS = 4
# Uniforms for the block sizes of a published batch. The published V-JEPA sampler draws three per batch (temporal
# scale, spatial scale, aspect ratio), that of I-JEPA two (scale and aspect ratio of the targets, context scale).
_SIZE_UNIFORMS = 3
# Clips from which a mean is estimated: the standard error is below 0.25 cells of 196.
_MONTE_CARLO_CLIPS = 4096


class MaskStrategy(Protocol):
    """One mask generator, frozen and hashable. The collator takes a tuple of generators."""

    def check(self, config: VJEPAConfig) -> None:
        """Raises ValueError if the strategy does not fit the geometry of `config`."""

    def num_uniforms(self, config: VJEPAConfig) -> int:
        """Uniforms that `sample` consumes per clip."""

    def sample(self, config: VJEPAConfig, *, uniforms: Tensor, size_uniforms: Tensor | None) -> Masks:
        """
        Masks as a pure function of `uniforms` (batch, num_uniforms). With `size_uniforms` (3,) the masks are
        "published": the batch gets one block size, and lengths are cut to the shortest. `None`: balanced.
        """


@dataclass(frozen=True)
class MultiBlock:
    """
    3-D multi-block masking (V-JEPA, section 3.2): the target is the union of `num_blocks` rectangles that
    span the whole clip, the context is the rest. The blocks of a clip have one size and may overlap.

    Balanced masks grow or shrink the union of each clip by a few cells along its edge, to a fixed area.

    Args:
        num_blocks: 8 for the published short-range masks, 2 for long-range.
        spatial_scale: area of one block over the area of the frame, in (0, 1).
        aspect_ratio: range of height over width, drawn uniformly.
        context_frames: for causal masks: the context is limited to this number of first *frames* (not tubelets),
            and all later tokens are target. A multiple of the tubelet size.
        target_ratio: share of the spatial cells that are target, in (0, 1). `None`: the mean share that the union
            of the blocks covers (ViT-L: 0.62 short range, 0.81 long range). Balanced masks only.
    """

    num_blocks: int
    spatial_scale: float
    aspect_ratio: tuple[float, float] = (0.75, 1.5)
    context_frames: int | None = None
    target_ratio: float | None = None

    def check(self, config: VJEPAConfig) -> None:
        _check_video(self, config)
        side = config.grid_size[1]
        if self.num_blocks < 1:
            raise ValueError(f"`num_blocks`={self.num_blocks} must be at least 1")
        check_blocks("spatial_scale", (self.spatial_scale,), self.aspect_ratio, side)
        frames, clip, tubelet = self.context_frames, config.frames_per_clip, config.tubelet_size
        if frames is not None and not (0 < frames < clip and frames % tubelet == 0):
            raise ValueError(
                f"`context_frames`={frames} must lie in (0, frames_per_clip={clip}) and be a multiple of "
                f"tubelet_size={tubelet}: choose another with causal_multiblock(context_frames)"
            )
        cells = side * side
        if self.target_ratio is not None and not 1 <= round(self.target_ratio * cells) <= cells - 1:
            raise ValueError(
                f"`target_ratio`={self.target_ratio} leaves no context or no target on a grid of {side}x{side} "
                f"cells: it must lie between {1 / cells:.4f} and {1 - 1 / cells:.4f}"
            )
        if self.target_ratio is None:
            _mean_union_cells(self, side)  # refuses blocks that cover everything

    def num_uniforms(self, config: VJEPAConfig) -> int:
        side = config.grid_size[1]
        return _VIDEO_LAYOUTS * (1 + 2 * self.num_blocks) + side * side

    def sample(self, config: VJEPAConfig, *, uniforms: Tensor, size_uniforms: Tensor | None) -> Masks:
        steps, side, _ = config.grid_size
        aspects, positions, ranks = uniforms.split(
            [_VIDEO_LAYOUTS, _VIDEO_LAYOUTS * 2 * self.num_blocks, side * side], dim=1
        )
        positions = positions.unflatten(1, (_VIDEO_LAYOUTS, self.num_blocks, 2))
        if size_uniforms is None:
            num_cells = self.num_target_cells(config)
            unions = self._unions(aspects, positions, side)
            closest = (unions.sum((-1, -2)) - num_cells).abs().argmin(1)
            cells = fit_area(take_layout(unions, closest), num_cells, ranks)
        else:
            unions = self._unions(size_uniforms[2:], one_place_in_last_layout(positions), side)
            leaves_context = unions.sum((-1, -2)) < side * side
            cells = take_layout(unions, leaves_context.int().argmax(1)).flatten(1)
        target = cells[:, None].repeat(1, steps, 1)
        if self.context_frames is not None:
            target[:, self.context_frames // config.tubelet_size :] = True
        target = target.flatten(1)
        return Masks([to_indices(~target)], [to_indices(target)])

    def num_target_cells(self, config: VJEPAConfig) -> int:
        """Spatial cells, of side * side, that balanced masks make target (before the causal limit)."""
        side = config.grid_size[1]
        if self.target_ratio is not None:
            return round(self.target_ratio * side * side)
        return _mean_union_cells(self, side)

    def _unions(self, aspects: Tensor, positions: Tensor, side: int) -> BoolTensor:
        """Cells under the blocks: uniforms (..., 1 or layouts) and (..., layouts, blocks, 2) to (..., H, W)."""
        sizes = block_size(self.spatial_scale, between(self.aspect_ratio, aspects), side)
        return union_of_blocks(place_blocks(sizes, positions, side))


@dataclass(frozen=True)
class RandomTube:
    """
    Random cells, masked through the whole clip (V-JEPA, Table 6; the strategy of VideoMAE). The context keeps
    int((1 - ratio) * H * W) cells, as published. Lengths are fixed, so both truncations give the same masks.

    Args:
        ratio: share of the cells that are target, in (0, 1).
    """

    ratio: float = 0.9

    def check(self, config: VJEPAConfig) -> None:
        _check_video(self, config)
        side = config.grid_size[1]
        cells = side * side
        if not (0 < self.ratio < 1 and 1 <= int(cells * (1 - self.ratio)) < cells):
            raise ValueError(
                f"`ratio`={self.ratio} leaves no context or no target on a grid of {side}x{side} cells: "
                f"it must be above 0 and at most {1 - 1 / cells:.4f}"
            )

    def num_uniforms(self, config: VJEPAConfig) -> int:
        side = config.grid_size[1]
        return side * side

    def sample(self, config: VJEPAConfig, *, uniforms: Tensor, size_uniforms: Tensor | None) -> Masks:
        steps, side, _ = config.grid_size
        kept = int(side * side * (1 - self.ratio))
        context = top_cells(uniforms, kept)[:, None].repeat(1, steps, 1).flatten(1)
        return Masks([to_indices(context)], [to_indices(~context)])


_SHORT_RANGE = MultiBlock(num_blocks=8, spatial_scale=0.15)
_LONG_RANGE = MultiBlock(num_blocks=2, spatial_scale=0.7)


def causal_multiblock(context_frames: int) -> tuple[MultiBlock, ...]:
    """The short- and long-range generators with the context limited to the first `context_frames` frames."""
    return tuple(replace(block, context_frames=context_frames) for block in (_SHORT_RANGE, _LONG_RANGE))


#: Strategies by name: tuples of mask generators. All released V-JEPA models used `multiblock`; the causal
#: ones take the number of context frames from V-JEPA, Table 6 (other lengths: `causal_multiblock`). All
#: released I-JEPA models used `image_multiblock`; the other strategies of images are I-JEPA's ablation, Table 6.
MASK_STRATEGIES: dict[str, tuple[MaskStrategy, ...]] = {
    "multiblock": (_SHORT_RANGE, _LONG_RANGE),
    "random_tube": (RandomTube(),),
    "causal_multiblock_6": causal_multiblock(6),
    "causal_multiblock_12": causal_multiblock(12),
    "image_multiblock": (ImageMultiBlock(),),
    "image_raster": (ImageRaster(),),
    "image_block": (ImageBlock(),),
    "image_random": (ImageRandom(),),
}


def get_mask_strategy(strategy: str | Sequence[MaskStrategy], *, config: VJEPAConfig) -> tuple[MaskStrategy, ...]:
    """
    The mask generators of a name of `MASK_STRATEGIES`, or of a sequence of generators, checked on `config`.

    Raises:
        ValueError: an unknown name, no generator, or one that does not fit the geometry of `config`.
    """
    if isinstance(strategy, str):
        if strategy not in MASK_STRATEGIES:
            raise ValueError(
                f"unknown mask strategy {strategy!r}: choose one of {', '.join(MASK_STRATEGIES)}, or pass a "
                "tuple of generators such as (MultiBlock(num_blocks=8, spatial_scale=0.15),)"
            )
        strategy = MASK_STRATEGIES[strategy]
    generators = tuple(strategy)
    if not generators:
        raise ValueError("the mask strategy has no generator: pass at least one, such as (RandomTube(0.9),)")
    for generator in generators:
        generator.check(config)
    return generators


def sample_masks(
    config: VJEPAConfig,
    strategy: str | Sequence[MaskStrategy] = "multiblock",
    *,
    batch_size: int,
    generator: torch.Generator,
    truncation: Truncation = "balanced",
) -> Masks:
    """
    Masks of `batch_size` clips, a pure function of the configuration and the state of `generator` (CPU).

    Raises:
        ValueError: a strategy that does not fit `config`, an unknown truncation, or `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size`={batch_size} must be at least 1")

    def draw(rows: int, count: int, stream: int) -> Tensor:
        return torch.rand(rows, count, generator=generator)

    return _sample(config, strategy, draw=draw, batch_size=batch_size, truncation=truncation)


def sample_clip_masks(
    config: VJEPAConfig,
    strategy: str | Sequence[MaskStrategy] = "multiblock",
    *,
    clip_seeds: Sequence[int] | LongTensor,
    seed: int = 0,
    truncation: Truncation = "balanced",
) -> Masks:
    """
    Masks of clips that carry their own seeds (int64). Balanced, the masks of a clip depend only on
    (`seed`, its clip seed, index of the generator): not on the batch, the worker or the process. Published,
    the block size of the batch comes from its first clip.

    Raises:
        ValueError: a strategy that does not fit `config`, an unknown truncation, or no clip.
    """
    if len(clip_seeds) == 0:
        raise ValueError("`clip_seeds` is empty: pass the seed of at least one clip")
    streams = clip_streams(seed, np.asarray(clip_seeds, dtype=np.int64))

    def draw(rows: int, count: int, stream: int) -> Tensor:
        return stream_uniforms(streams[:rows], stream=stream, count=count)

    return _sample(config, strategy, draw=draw, batch_size=len(streams), truncation=truncation)


def _sample(
    config: VJEPAConfig,
    strategy: str | Sequence[MaskStrategy],
    *,
    draw: Callable[[int, int, int], Tensor],
    batch_size: int,
    truncation: Truncation,
) -> Masks:
    """Masks from `draw(rows, count, stream)`: stream 0 gives the block size of a batch, stream 1 + i generator i."""
    generators = get_mask_strategy(strategy, config=config)
    _check_truncation(truncation, generators)
    sizes = draw(1, _SIZE_UNIFORMS, 0)[0] if truncation == "published" else None
    masks = Masks([], [])
    for index, part in enumerate(generators):
        uniforms = draw(batch_size, part.num_uniforms(config), 1 + index)
        sampled = part.sample(config, uniforms=uniforms, size_uniforms=sizes)
        masks.context_mask.extend(sampled.context_mask)
        masks.target_mask.extend(sampled.target_mask)
    return masks


def mask_ratios(
    context_mask: Sequence[Tensor], target_mask: Sequence[Tensor], *, num_patches: int
) -> dict[str, float]:
    """
    Ratios of a batch for the logs: `context_ratio_<i>` and `target_ratio_<i>` are the tokens of each mask
    (batch, tokens) over all tokens of a clip. Their sum is below 1 if truncation dropped tokens.
    """
    ratios = {f"context_ratio_{i}": mask.shape[-1] / num_patches for i, mask in enumerate(context_mask)}
    return ratios | {f"target_ratio_{i}": mask.shape[-1] / num_patches for i, mask in enumerate(target_mask)}


class VJEPAMaskCollator:
    """
    Stacks examples to a batch and adds their masks.

    Each example is a mapping with `pixel_values_videos` (frames, channels, height, width) and `clip_seed`, an
    int that is unique to its position in the stream; other values (int, float, str, tensors) are stacked by
    `torch.utils.data.default_collate`: numbers to tensors, strings to a list.

    Args:
        config: geometry of the token grid.
        strategy: a name of `MASK_STRATEGIES`, or a tuple of generators.
        truncation: how all clips of a batch get masks of the same lengths (see the head of this module).
        seed: seed of the run; with another seed every clip gets other masks.

    Raises:
        ValueError: a strategy that does not fit `config`, or an unknown truncation. When called: an empty batch, or
            examples without `clip_seed`, with different keys, or with clips of another size than `config`.

    Examples:

    ```python
    import torch
    from transformers_vjepa import VJEPAConfig, VJEPAMaskCollator

    collator = VJEPAMaskCollator(VJEPAConfig(crop_size=64), "multiblock")
    clips = torch.randint(0, 256, (2, 16, 3, 64, 64), dtype=torch.uint8)
    batch = collator([{"pixel_values_videos": clip, "clip_seed": seed} for seed, clip in enumerate(clips)])
    assert len(batch["context_mask"]) == len(batch["target_mask"]) == 2  # two mask generators
    ```
    """

    def __init__(
        self,
        config: VJEPAConfig,
        strategy: str | Sequence[MaskStrategy] = "multiblock",
        *,
        truncation: Truncation = "balanced",
        seed: int = 0,
    ) -> None:
        self.config = config
        self.generators = get_mask_strategy(strategy, config=config)
        _check_truncation(truncation, self.generators)
        self.truncation: Truncation = truncation
        self.seed = seed

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Returns `pixel_values_videos` (batch, frames, channels, height, width) in the dtype given, the lists
        `context_mask` and `target_mask` (see `Masks`), `clip_seed` (batch,) and the other values, collated.
        """
        self._check_examples(examples)
        batch = default_collate([dict(example) for example in examples])
        seeds = {"clip_seeds": batch["clip_seed"], "seed": self.seed}
        masks = sample_clip_masks(self.config, self.generators, **seeds, truncation=self.truncation)
        return {**batch, **masks._asdict()}

    def _check_examples(self, examples: Sequence[Mapping[str, Any]]) -> None:
        if not examples:
            raise ValueError("the batch is empty: the collator needs at least one example")
        config = self.config
        expected = (config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
        for example in examples:
            missing = {"pixel_values_videos", "clip_seed"} - example.keys()
            if missing:
                raise ValueError(
                    f"an example lacks {', '.join(sorted(missing))} (it has {', '.join(example)}): the stream must"
                    " give every clip its frames and a `clip_seed`, an int that is unique to its position"
                )
            if example.keys() != examples[0].keys():
                different = ", ".join(sorted(example.keys() ^ examples[0].keys()))
                raise ValueError(f"examples of one batch have different keys: only some of them have {different}")
            shape = tuple(example["pixel_values_videos"].shape)
            if shape != expected:
                raise ValueError(
                    f"a clip has shape {shape}, and the configuration expects {expected} (frames, channels, height, "
                    "width): crop the clips to this shape, or set frames_per_clip, in_chans and crop_size"
                )


@lru_cache(maxsize=64)
def _mean_union_cells(strategy: MultiBlock, side: int) -> int:
    """Mean number of cells that the blocks cover, rounded, over random layouts that leave a context."""
    generator = torch.Generator().manual_seed(0)
    aspects = torch.rand(_MONTE_CARLO_CLIPS, generator=generator)
    positions = torch.rand(_MONTE_CARLO_CLIPS, strategy.num_blocks, 2, generator=generator)
    areas = strategy._unions(aspects, positions, side).sum((-1, -2))
    areas = areas[areas < side * side]
    if len(areas) == 0:
        raise ValueError(
            f"{strategy.num_blocks} blocks of `spatial_scale`={strategy.spatial_scale} cover all of the "
            f"{side}x{side} cells: use fewer or smaller blocks, or set `target_ratio`"
        )
    return round(areas.double().mean().item())


def _check_truncation(truncation: str, generators: tuple[MaskStrategy, ...]) -> None:
    if truncation not in get_args(Truncation):
        raise ValueError(f"unknown truncation {truncation!r}: choose one of {', '.join(get_args(Truncation))}")
    for generator in generators:
        ratio = getattr(generator, "target_ratio", None)
        if truncation == "published" and ratio is not None:
            raise ValueError(
                f"`target_ratio`={ratio} has no effect on published masks, whose ratio follows from the blocks and "
                "the batch: use truncation='balanced', or leave target_ratio out"
            )


def _check_video(strategy: MaskStrategy, config: VJEPAConfig) -> None:
    if config.is_image_model:
        raise ValueError(
            f"{type(strategy).__name__} is for videos, and frames_per_clip={config.frames_per_clip}: use "
            "image_multiblock (--mask_strategy image_multiblock), or a configuration with more frames"
        )
