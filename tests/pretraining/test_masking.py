"""Masks: lengths, positions, seeding, agreement with the published sampler, the collator and its errors."""

import json
import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from transformers_vjepa.data.random_streams import clip_streams, stream_uniforms
from transformers_vjepa.models.vjepa.configuration_vjepa import VJEPAConfig
from transformers_vjepa.pretraining.image_masking import ImageBlock, ImageMultiBlock, ImageRandom
from transformers_vjepa.pretraining.masking import (
    MASK_STRATEGIES,
    MultiBlock,
    RandomTube,
    VJEPAMaskCollator,
    causal_multiblock,
    get_mask_strategy,
    mask_ratios,
    sample_clip_masks,
    sample_masks,
)

VITL = VJEPAConfig()  # grid 8 x 14 x 14
SMALL = VJEPAConfig(crop_size=32, patch_size=8, frames_per_clip=8, in_chans=1)  # grid 4 x 4 x 4
IMAGE = VJEPAConfig(frames_per_clip=1, tubelet_size=1)
IMAGE_8 = VJEPAConfig(crop_size=32, patch_size=4, frames_per_clip=1, tubelet_size=1)  # grid 1 x 8 x 8
VIDEO_STRATEGIES = [name for name in MASK_STRATEGIES if not name.startswith("image_")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_sorted_and_disjoint(context: torch.Tensor, target: torch.Tensor, num_patches: int) -> None:
    for mask in (context, target):
        assert mask.dtype == torch.int64 and mask.is_contiguous()
        assert mask.min() >= 0 and mask.max() < num_patches
        assert (mask.diff(dim=1) > 0).all()
    for context_row, target_row in zip(context.tolist(), target.tolist(), strict=True):
        assert not set(context_row) & set(target_row)


@pytest.mark.parametrize("name", VIDEO_STRATEGIES)
def test_balanced_masks_use_every_token_and_have_constant_lengths(name):
    masks = sample_masks(VITL, name, batch_size=6, generator=generator())
    other = sample_masks(VITL, name, batch_size=1, generator=generator(1))
    assert len(masks.context_mask) == len(masks.target_mask) == len(MASK_STRATEGIES[name])
    for context, target, context_1, target_1 in zip(*masks, *other, strict=True):
        assert_sorted_and_disjoint(context, target, VITL.num_patches)
        assert context.shape[1] + target.shape[1] == VITL.num_patches
        assert context.shape[1] == context_1.shape[1] and target.shape[1] == target_1.shape[1]


@pytest.mark.parametrize(("name", "steps"), [("multiblock", 8), ("random_tube", 8), ("causal_multiblock_6", 3)])
def test_balanced_context_is_the_same_cells_at_every_visible_time_step(name, steps):
    for context in sample_masks(VITL, name, batch_size=4, generator=generator()).context_mask:
        cells = (context % 196).view(4, steps, -1)
        assert (cells == cells[:, :1]).all()
        assert (context // 196 == torch.arange(steps).repeat_interleave(cells.shape[2])).all()


def test_multiblock_lengths_are_the_mean_union_of_the_blocks(shared):
    # Published means at batch 1, where nothing is cut, over about 25 draws with a deviation of 15 cells.
    reference = json.loads((shared / "reference/vjepa_masks/masks.json").read_text())
    for part, stats in zip(MASK_STRATEGIES["multiblock"], reference["stats"]["batch1"], strict=True):
        assert part.num_target_cells(VITL) * 8 == pytest.approx(stats["target_tokens_mean"], rel=0.02)


def test_target_ratio_sets_the_length():
    strategy = (MultiBlock(2, 0.5, target_ratio=0.75),)
    masks = sample_masks(VITL, strategy, batch_size=3, generator=generator())
    assert masks.target_mask[0].shape == (3, 8 * 147) and masks.context_mask[0].shape == (3, 8 * 49)


def test_random_tube_keeps_the_published_number_of_cells():
    masks = sample_masks(VITL, "random_tube", batch_size=2, generator=generator())
    assert masks.context_mask[0].shape == (2, 8 * 19)  # int(196 * (1 - 0.9))
    assert not torch.equal(masks.context_mask[0][0], masks.context_mask[0][1])


def test_causal_context_lies_in_the_first_frames_and_the_rest_is_target():
    for truncation in ("balanced", "published"):
        masks = sample_masks(VITL, "causal_multiblock_6", batch_size=3, generator=generator(), truncation=truncation)
        for context, target in zip(*masks, strict=True):
            assert context.max() < 3 * 196  # 6 frames are 3 tubelets
            if truncation == "balanced":
                assert target[:, -5 * 196 :].eq(torch.arange(3 * 196, 8 * 196)).all()


@pytest.mark.parametrize("scale_index", [0, 1])
def test_block_sizes_follow_the_published_seeds(shared, scale_index):
    reference = json.loads((shared / "reference/vjepa_masks/masks.json").read_text())
    # With a single block the target is that block, so its size can be read off the mask.
    strategy = (replace(MASK_STRATEGIES["multiblock"][scale_index], num_blocks=1),)
    sizes = []
    for seed in range(16):
        masks = sample_masks(VITL, strategy, batch_size=1, generator=generator(seed), truncation="published")
        (target,) = masks.target_mask[0]
        size = [(axis.max() - axis.min() + 1).item() for axis in (target // 196, target % 196 // 14, target % 14)]
        assert math.prod(size) == len(target)
        sizes.append(size)
    assert sizes == reference["block_size_t_h_w_by_seed"][scale_index]


@pytest.mark.parametrize("batch_size", [1, 24])
def test_published_truncation_has_the_published_statistics(shared, batch_size):
    # The reference means are over few draws (their decimals say 5 to 50): 0.4 deviations is what they can tell.
    reference = json.loads((shared / "reference/vjepa_masks/masks.json").read_text())["stats"][f"batch{batch_size}"]
    stream = generator()
    draws = [sample_masks(VITL, batch_size=batch_size, generator=stream, truncation="published") for _ in range(100)]
    for index, stats in enumerate(reference):
        for group, name in enumerate(("context_tokens", "target_tokens")):
            lengths = [masks[group][index].shape[1] for masks in draws]
            deviation = stats[f"{name}_std"]
            assert statistics.mean(lengths) == pytest.approx(stats[f"{name}_mean"], abs=0.4 * deviation)
            assert statistics.stdev(lengths) == pytest.approx(deviation, rel=0.25)


def test_published_truncation_cuts_the_end_of_the_clip():
    masks = sample_masks(VITL, batch_size=24, generator=generator(), truncation="published")
    for context, target in zip(*masks, strict=True):
        assert_sorted_and_disjoint(context, target, VITL.num_patches)
        assert context.shape[1] + target.shape[1] < VITL.num_patches
    # Of the long-range context almost nothing is left in the last tubelet.
    assert (masks.context_mask[1] // 196 == 7).float().mean() < 0.05  # 0.125 in balanced masks


@pytest.mark.parametrize("truncation", ["balanced", "published"])
def test_image_multiblock(truncation):
    masks = sample_masks(IMAGE, "image_multiblock", batch_size=50, generator=generator(), truncation=truncation)
    assert len(masks.context_mask) == 1 and len(masks.target_mask) == 4
    for target in masks.target_mask:
        assert_sorted_and_disjoint(masks.context_mask[0], target, 196)
        assert 0.14 * 196 <= target.shape[1] <= 0.21 * 196
    assert masks.context_mask[0].shape[1] >= 10
    if truncation == "balanced":
        other = sample_masks(IMAGE, "image_multiblock", batch_size=1, generator=generator(1))
        assert [mask.shape[1] for group in masks for mask in group] == [
            mask.shape[1] for group in other for mask in group
        ]
        assert masks.target_mask[0].shape[1] == 34  # round(0.175 * 196)
        # The context reaches the bottom of the image; published masks lose the bottom first.
        assert (masks.context_mask[0] // 14 >= 12).float().mean() > 0.07


def test_image_targets_are_blocks_of_one_size_per_batch_when_published():
    masks = sample_masks(IMAGE, "image_multiblock", batch_size=5, generator=generator(), truncation="published")
    shapes = set()
    for target in torch.cat(masks.target_mask):
        height, width = ((target // 14).unique().numel(), (target % 14).unique().numel())
        assert height * width == len(target)
        shapes.add((height, width))
    assert len(shapes) == 1


def test_published_masks_of_images_are_those_of_the_published_sampler():
    # Sizes that the published sampler draws with the seeds 0 to 5: one number gives scale and aspect ratio.
    sizes = [(6, 6), (7, 5), (7, 5), (5, 6), (6, 5), (7, 5)]
    for seed, (height, width) in enumerate(sizes):
        masks = sample_masks(
            IMAGE, "image_multiblock", batch_size=16, generator=generator(seed), truncation="published"
        )
        for tokens in (*masks.target_mask, *masks.context_mask):
            rows, columns = tokens // 14, tokens % 14
            assert rows.max() < 13 and columns.max() < 13  # no block covers the last row or column
        for tokens in torch.cat(masks.target_mask):
            assert ((tokens // 14).unique().numel(), (tokens % 14).unique().numel()) == (height, width)
    # Its mean context over 300 batches of 16 images is 59.6 tokens; the deviation of a batch is about 8.
    stream = generator()
    draws = [
        sample_masks(IMAGE, "image_multiblock", batch_size=16, generator=stream, truncation="published")
        for _ in range(100)
    ]
    assert sum(draw.context_mask[0].shape[1] for draw in draws) / 100 == pytest.approx(59.6, abs=2.5)


@pytest.mark.parametrize("truncation", ["balanced", "published"])
def test_a_quadrant_of_a_rasterized_image_predicts_the_other_three(truncation):
    masks = sample_masks(IMAGE_8, "image_raster", batch_size=40, generator=generator(), truncation=truncation)
    upper_left = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]
    quadrants = [[token + shift for token in upper_left] for shift in (0, 4, 32, 36)]
    (context,) = masks.context_mask
    drawn = [quadrants.index(row) for row in context.tolist()]
    assert set(drawn) == {0, 1, 2, 3}  # each image has a quadrant of its own
    for number, target in enumerate(masks.target_mask, start=1):
        assert [quadrants.index(row) for row in target.tolist()] == [(first + number) % 4 for first in drawn]
        assert target.is_contiguous() and context.is_contiguous()
    assert len(masks.target_mask) == 3


@pytest.mark.parametrize("truncation", ["balanced", "published"])
@pytest.mark.parametrize("name", ["image_block", "image_random"])
def test_a_single_target_of_images_leaves_the_rest_as_context(name, truncation):
    masks = sample_masks(IMAGE, name, batch_size=20, generator=generator(), truncation=truncation)
    (context,), (target,) = masks
    assert_sorted_and_disjoint(context, target, 196)
    assert context.shape[1] + target.shape[1] == 196
    if (name, truncation) != ("image_block", "published"):
        assert target.shape[1] == 118  # round(0.6 * 196)
    assert len({tuple(row) for row in target.tolist()}) > 10


def test_the_block_of_an_image_is_one_rectangle():
    config = VJEPAConfig(crop_size=64, patch_size=16, frames_per_clip=1, tubelet_size=1)  # grid 1 x 4 x 4
    # Of 16 tokens 9.6, so 10: at a height over width of 1 the smallest block is 3 x 4, without two of its corners.
    masks = sample_masks(config, (ImageBlock(aspect_ratio=(1, 1)),), batch_size=30, generator=generator())
    for row in masks.target_mask[0]:
        cells = torch.zeros(16, dtype=torch.bool).index_fill(0, row, True).view(4, 4)
        assert len(row) == 10 and cells.any(1).sum() == 3 and cells.any(0).sum() == 4
    # Published: floor(0.6 * 196) = 117 tokens at 1.0 have sides of round(10.8) = 11.
    settings = {"batch_size": 5, "generator": generator(), "truncation": "published"}
    masks = sample_masks(IMAGE, (ImageBlock(aspect_ratio=(1, 1)),), **settings)
    for row in masks.target_mask[0]:
        assert len(row) == 121 and (row // 14).unique().numel() == (row % 14).unique().numel() == 11


@pytest.mark.parametrize("truncation", ["balanced", "published"])
@pytest.mark.parametrize("name", ["multiblock", "image_multiblock"])
def test_sampling_is_a_pure_function_of_the_generator(name, truncation):
    config = IMAGE if name == "image_multiblock" else VITL
    torch.manual_seed(0)
    first = sample_masks(config, name, batch_size=3, generator=generator(7), truncation=truncation)
    torch.manual_seed(1)
    again = sample_masks(config, name, batch_size=3, generator=generator(7), truncation=truncation)
    other = sample_masks(config, name, batch_size=3, generator=generator(8), truncation=truncation)
    same = [torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True)]
    assert all(same)
    assert first.context_mask[0].tolist() != other.context_mask[0].tolist()


@pytest.mark.parametrize("name", [name for name in MASK_STRATEGIES if not name.startswith("causal")])
def test_clip_masks_do_not_depend_on_the_batch(name):
    config = IMAGE if name.startswith("image_") else VITL
    seeds = [5, -3, 2**62, 17]
    batch = sample_clip_masks(config, name, clip_seeds=seeds, seed=1)
    for row, clip_seed in enumerate(seeds):
        alone = sample_clip_masks(config, name, clip_seeds=torch.tensor([clip_seed]), seed=1)
        for group, single in zip(batch, alone, strict=True):
            assert all(torch.equal(a[row], b[0]) for a, b in zip(group, single, strict=True))
    other_run = sample_clip_masks(config, name, clip_seeds=seeds, seed=2)
    assert not torch.equal(batch.context_mask[0], other_run.context_mask[0])


def test_clip_streams_are_uniform_and_independent():
    streams = clip_streams(0, torch.arange(2000).numpy())
    uniforms = torch.cat([stream_uniforms(streams, stream=i, count=16) for i in (1, 2)], dim=1)
    assert uniforms.min() >= 0 and uniforms.max() < 1
    torch.testing.assert_close(uniforms.mean(0), torch.full((32,), 0.5), atol=0.03, rtol=0)
    torch.testing.assert_close(uniforms.std(0), torch.full((32,), 12**-0.5), atol=0.02, rtol=0)
    correlation = torch.corrcoef(uniforms.T) - torch.eye(32)
    assert correlation.abs().max() < 0.1


def test_targets_cover_the_grid_symmetrically():
    # Cells at the border are under fewer blocks (the centre is under every long-range block), none is left out.
    masks = sample_clip_masks(VITL, clip_seeds=range(1500))
    for target in masks.target_mask:
        share = torch.bincount(target.flatten() % 196, minlength=196).view(14, 14) / (1500 * 8)
        torch.testing.assert_close(share, share.flip(1), atol=0.08, rtol=0)
        torch.testing.assert_close(share, share.flip(0), atol=0.08, rtol=0)
        assert share.min() > 0.05


@pytest.mark.parametrize("truncation", ["balanced", "published"])
def test_small_grids_always_keep_a_context(truncation):
    masks = sample_masks(SMALL, batch_size=300, generator=generator(), truncation=truncation)
    assert all(context.shape[1] >= 1 for context in masks.context_mask)


def test_mask_ratios():
    masks = ([torch.zeros(2, 40, dtype=torch.long)], [torch.zeros(2, 10, dtype=torch.long)] * 2)
    assert mask_ratios(*masks, num_patches=100) == {
        "context_ratio_0": 0.4,
        "target_ratio_0": 0.1,
        "target_ratio_1": 0.1,
    }


class Clips(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        pixels = torch.full((8, 1, 32, 32), index, dtype=torch.uint8)
        return {"pixel_values_videos": pixels, "clip_seed": 1000 + index, "label": index % 3, "path": f"{index}.mp4"}


@pytest.mark.parametrize("truncation", ["balanced", "published"])
def test_collator_gives_the_same_batches_for_any_number_of_workers(truncation):
    collator = VJEPAMaskCollator(SMALL, truncation=truncation, seed=3)
    loaders = [list(DataLoader(Clips(), batch_size=4, num_workers=workers, collate_fn=collator)) for workers in (0, 2)]
    for batch, other in zip(*loaders, strict=True):
        assert batch["pixel_values_videos"].shape == (4, 8, 1, 32, 32)
        assert batch["pixel_values_videos"].dtype == torch.uint8
        assert batch["clip_seed"].dtype == torch.int64 and batch["label"].dtype == torch.int64
        assert batch["path"] == other["path"] and isinstance(batch["path"][0], str)
        for key in ("context_mask", "target_mask"):
            assert len(batch[key]) == 2
            assert all(torch.equal(a, b) for a, b in zip(batch[key], other[key], strict=True))


def test_collator_masks_do_not_depend_on_the_batch_size():
    collator = VJEPAMaskCollator(SMALL)
    examples = [Clips()[index] for index in range(6)]
    whole = collator(examples)
    for start in (0, 3):
        part = collator(examples[start : start + 3])
        for key in ("context_mask", "target_mask"):
            assert all(torch.equal(a[start : start + 3], b) for a, b in zip(whole[key], part[key], strict=True))


def test_collator_refuses_bad_batches():
    collator = VJEPAMaskCollator(SMALL)
    good = Clips()[0]
    with pytest.raises(ValueError, match="the batch is empty"):
        collator([])
    with pytest.raises(ValueError, match="lacks clip_seed .*it has pixel_values_videos"):
        collator([{"pixel_values_videos": good["pixel_values_videos"]}])
    with pytest.raises(ValueError, match="different keys: only some of them have path"):
        collator([good, {key: value for key, value in good.items() if key != "path"}])
    with pytest.raises(ValueError, match=r"shape \(4, 1, 32, 32\).* expects \(8, 1, 32, 32\)"):
        collator([{**good, "pixel_values_videos": good["pixel_values_videos"][:4]}])


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("blocks", "unknown mask strategy 'blocks': choose one of multiblock"),
        ((), "no generator"),
        ((MultiBlock(0, 0.15),), "`num_blocks`=0 must be at least 1"),
        ((MultiBlock(1, 1.2),), "`spatial_scale`=1.2: the block must be smaller than the grid"),
        ((MultiBlock(1, 0.99),), "as large as the whole grid of 14x14"),
        ((MultiBlock(1, 0.004),), "less than one of the 14x14 cells"),
        ((MultiBlock(1, 0.2, aspect_ratio=(2.0, 1.0)),), r"aspect ratio \(2.0, 1.0\)"),
        ((MultiBlock(2, 0.2, target_ratio=0.999),), "`target_ratio`=0.999 leaves no context.*and 0.9949"),
        ((MultiBlock(300, 0.7),), "300 blocks of `spatial_scale`=0.7 cover all"),
        (causal_multiblock(0), r"`context_frames`=0 must lie in \(0, frames_per_clip=16\)"),
        (causal_multiblock(16), r"`context_frames`=16 must lie in \(0, frames_per_clip=16\)"),
        (causal_multiblock(5), "`context_frames`=5 .* multiple of tubelet_size=2"),
        ((RandomTube(0.999),), "`ratio`=0.999 leaves no context.*at most 0.9949"),
        ((RandomTube(0.0),), "`ratio`=0.0 leaves no context or no target"),
        ("image_multiblock", "ImageMultiBlock is for images, and frames_per_clip=16"),
    ],
)
def test_strategies_that_do_not_fit_are_refused(strategy, message):
    with pytest.raises(ValueError, match=message):
        get_mask_strategy(strategy, config=VITL)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("multiblock", "MultiBlock is for videos, and frames_per_clip=1"),
        ("random_tube", "RandomTube is for videos, and frames_per_clip=1"),
        ((ImageMultiBlock(num_targets=0),), "`num_targets`=0"),
        ((ImageMultiBlock(context_scale=(0.5, 1.1)),), r"`context_scale`=\(0.5, 1.1\)"),
        ((ImageMultiBlock(min_context=150),), "a single target may leave only .* `min_context`=150"),
        ((ImageRandom(0.999),), "`ratio`=0.999 leaves no context.*between 0.0051 and 0.9949"),
        ((ImageBlock(1.0),), "`scale`=1.0: the block must be smaller than the grid"),
        ((ImageMultiBlock(num_targets=60),), "60 targets leave . context tokens on average.*`min_context`=10"),
    ],
)
def test_image_strategies_that_do_not_fit_are_refused(strategy, message):
    with pytest.raises(ValueError, match=message):
        get_mask_strategy(strategy, config=IMAGE)


@pytest.mark.parametrize("name", ["image_raster", "image_block", "image_random"])
def test_strategies_of_images_refuse_videos(name):
    with pytest.raises(ValueError, match="is for images, and frames_per_clip=16: use a video strategy"):
        get_mask_strategy(name, config=VITL)


def test_a_grid_without_quadrants_is_refused():
    config = VJEPAConfig(crop_size=80, frames_per_clip=1, tubelet_size=1)
    with pytest.raises(ValueError, match="a grid of 5x5 tokens has no quadrants: choose crop_size and patch_size"):
        get_mask_strategy("image_raster", config=config)


def test_sampling_refuses_bad_arguments():
    with pytest.raises(ValueError, match="`batch_size`=0 must be at least 1"):
        sample_masks(VITL, batch_size=0, generator=generator())
    with pytest.raises(ValueError, match="`clip_seeds` is empty"):
        sample_clip_masks(VITL, clip_seeds=[])
    with pytest.raises(ValueError, match="unknown truncation 'random': choose one of balanced, published"):
        VJEPAMaskCollator(VITL, truncation="random")
    with pytest.raises(ValueError, match="`target_ratio`=0.5 has no effect on published masks"):
        VJEPAMaskCollator(VITL, (MultiBlock(2, 0.2, target_ratio=0.5),), truncation="published")
