"""Crops, resizing and normalisation against values by hand and those of the published code."""

import math

import pytest
import torch
from pixels import generator, grey_levels, published_transforms, random_clip
from torchvision.transforms import RandomResizedCrop
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from transformers_vjepa.models.vjepa.clip_transforms import (
    augment_clip,
    center_crop,
    crop_and_resize,
    evaluation_resize_edge,
    normalize,
    normalize_clips,
    rand_augment,
    resize_and_center_crop,
    resize_and_crop_views,
    resize_short_side,
    sample_crop_box,
)


def test_train_crops_match_published(shared):
    reference = published_transforms(shared)
    for i, box in enumerate(reference["train_boxes_top_left_height_width"]):
        expected = reference[f"train.crop{i}"]
        crop = crop_and_resize(reference["frames"].float(), box=tuple(box), size=32)
        statistics = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        exact = normalize(crop, scale=1 / 255, **statistics, dtype=torch.float32)
        torch.testing.assert_close(exact, expected, atol=1e-5, rtol=0)
        # The crops of the stream stay in uint8: within one grey level.
        quick = normalize_clips(crop_and_resize(reference["frames"], box=tuple(box), size=32))
        assert (grey_levels(quick) - grey_levels(expected)).abs().max() < 1.05


# --- boxes


def test_box_stays_inside_and_within_bounds():
    draws = generator()
    areas, ratios, tops, lefts = [], [], [], []
    for _ in range(2000):
        top, left, height, width = sample_crop_box(240, 320, generator=draws)
        assert 0 <= top <= 240 - height and 0 <= left <= 320 - width
        areas.append(height * width / (240 * 320))
        ratios.append(width / height)
        tops.append(top)
        lefts.append(left)
    # Rounding changes a side of 132 or more pixels by up to half a pixel.
    assert 0.3 * 0.99 < min(areas) < 0.32 and 0.95 < max(areas) <= 1
    assert 0.75 * 0.99 < min(ratios) < 0.77 and 1.32 < max(ratios) < 1.35 * 1.01
    assert min(tops) == 0 and min(lefts) == 0 and len(set(lefts)) > 100


def test_box_has_the_distribution_of_torchvision():
    frames = torch.empty(3, 240, 320)
    draws = generator()
    torch.manual_seed(0)
    ours = torch.tensor([sample_crop_box(240, 320, generator=draws) for _ in range(3000)]).double()
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(frames, [0.3, 1.0], [0.75, 1.35]) for _ in range(3000)]
    ).double()
    # Means of 3000 draws differ by about std * sqrt(2 / 3000) = 0.026 std by chance; 4 of those are allowed.
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * 0.026 * theirs.std(0)).all()
    assert ((ours.std(0) / theirs.std(0) - 1).abs() < 0.1).all()


def test_box_is_replayed_by_its_generator():
    boxes = [sample_crop_box(96, 128, generator=generator(7)) for _ in range(2)]
    assert boxes[0] == boxes[1] != sample_crop_box(96, 128, generator=generator(8))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sample_crop_box(96, 128, generator=generator())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        # The whole area, but the frame is too long for the ratios: 100 x 135 in the middle of 100 x 400.
        (100, 400, (0, 132, 100, 135)),
        # Too tall: width 90, height 90 / 0.75 = 120, (400 - 120) / 2 = 140.
        (400, 90, (140, 0, 120, 90)),
        (1, 1000, (0, 499, 1, 1)),
    ],
)
def test_box_falls_back_to_the_centre(height, width, expected):
    assert sample_crop_box(height, width, generator=generator(), scale=(1.0, 1.0)) == expected


def test_box_falls_back_to_the_whole_frame():
    # Only the ratio of the frame is allowed, and every drawn box is as large as the frame.
    assert sample_crop_box(5, 5, generator=generator(), scale=(1.0, 1.0), ratio=(1.0, 1.0)) == (0, 0, 5, 5)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"scale": (0.0, 1.0)}, r"`scale`=\(0.0, 1.0\) must be a pair with 0 < low <= high <= 1"),
        ({"scale": (0.5, 1.5)}, r"`scale`=\(0.5, 1.5\)"),
        ({"ratio": (1.35, 0.75)}, r"`ratio`=\(1.35, 0.75\) must be a pair with 0 < low <= high$"),
        ({"height": 0}, "0 x 10 pixels has no crop"),
    ],
)
def test_box_errors(arguments, match):
    arguments = {"height": 10, "width": 10, **arguments}
    with pytest.raises(ValueError, match=match):
        sample_crop_box(arguments.pop("height"), arguments.pop("width"), generator=generator(), **arguments)


# --- crops


def test_crop_by_hand():
    # 2 x 4 ramp, halved in width: every new pixel is the mean of two neighbours.
    frames = torch.tensor([[0, 10, 20, 30], [40, 50, 60, 70]], dtype=torch.uint8).expand(2, 3, 2, 4)
    crop = crop_and_resize(frames, box=(0, 0, 2, 4), size=2)
    assert crop.dtype == torch.uint8
    assert crop[0, 0].tolist() == [[5, 25], [45, 65]]
    assert crop_and_resize(frames, box=(0, 0, 2, 4), size=2, flip=True)[1, 2].tolist() == [[25, 5], [65, 45]]
    assert crop_and_resize(frames, box=(0, 1, 2, 2), size=2)[0, 0].tolist() == [[10, 20], [50, 60]]


@pytest.mark.parametrize("channels_last", [False, True])
def test_uint8_crop_is_within_one_grey_level_of_float(channels_last):
    frames = random_clip(4, 3, 61, 83)
    if channels_last:
        frames = frames.contiguous(memory_format=torch.channels_last)
    for seed, size in enumerate((16, 33, 96)):
        box = sample_crop_box(61, 83, generator=generator(seed))
        quick = crop_and_resize(frames, box=box, size=size)
        exact = crop_and_resize(frames.float(), box=box, size=size)
        assert (quick.float() - exact.round()).abs().max() <= 1
        assert quick.is_contiguous() and exact.dtype == torch.float32


def test_crop_does_not_hold_on_to_the_frames():
    crop = crop_and_resize(random_clip(2, 3, 64, 64), box=(8, 8, 16, 16), size=16)
    assert crop.untyped_storage().nbytes() == 2 * 3 * 16 * 16


@pytest.mark.parametrize("box", [(0, 0, 9, 8), (-1, 0, 4, 4), (0, 5, 4, 4), (0, 0, 0, 4)])
def test_crop_refuses_a_box_outside(box):
    with pytest.raises(ValueError, match=r"does not lie inside frames of 8 x 8 pixels"):
        crop_and_resize(random_clip(2, 3, 8, 8), box=box, size=4)


@pytest.mark.parametrize("frames", [torch.zeros(3, 8, 8), torch.zeros(0, 3, 8, 8)])
@pytest.mark.parametrize(
    "function",
    [
        lambda frames: crop_and_resize(frames, box=(0, 0, 4, 4), size=4),
        lambda frames: augment_clip(frames, size=4, generator=generator()),
        lambda frames: resize_and_center_crop(frames, size=4),
        lambda frames: resize_and_crop_views(frames, size=4),
    ],
)
def test_functions_refuse_other_shapes_than_clips(function, frames):
    with pytest.raises(ValueError, match="pass one clip as a tensor"):
        function(frames)


# --- augmentation


def test_augmentation_is_one_for_the_whole_clip():
    frames = random_clip(1, 3, 40, 56).expand(6, 3, 40, 56)
    for seed in range(5):
        clip = augment_clip(frames, size=24, generator=generator(seed))
        assert clip.shape == (6, 3, 24, 24) and clip.dtype == torch.uint8
        assert (clip == clip[:1]).all()


def test_flip_probability():
    # The left half is black, the right half white: the brighter side tells whether the clip was flipped.
    frames = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    frames[..., 4:] = 255

    def share(probability: float, clips: int) -> float:
        draws = generator()
        whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
        flips = [
            augment_clip(frames, size=8, generator=draws, flip_probability=probability, **whole)[0, 0, 0, 0] == 255
            for _ in range(clips)
        ]
        return sum(map(int, flips)) / clips

    assert share(0.0, 50) == 0 and share(1.0, 50) == 1
    # Four standard deviations of the mean of 1000 draws.
    assert abs(share(0.25, 1000) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 1000)


def test_flip_probability_leaves_the_boxes_alone():
    frames = random_clip(2, 3, 40, 56)
    one, other = generator(3), generator(3)
    for _ in range(4):
        plain = augment_clip(frames, size=16, generator=one, flip_probability=0.0)
        flipped = augment_clip(frames, size=16, generator=other, flip_probability=1.0)
        assert torch.equal(plain, flipped.flip(-1))
    with pytest.raises(ValueError, match=r"`flip_probability`=1.5 must lie in \[0, 1\]"):
        augment_clip(frames, size=16, generator=one, flip_probability=1.5)


# --- evaluation geometry


def test_resize_edge():
    assert [evaluation_resize_edge(crop) for crop in (224, 384, 256, 112, 32)] == [256, 438, 292, 128, 36]


def test_center_crop_by_hand():
    # Columns hold their own number; the short side is already 7, so that nothing is resampled.
    frames = torch.arange(11, dtype=torch.uint8).expand(1, 3, 7, 11)
    crop = center_crop(resize_short_side(frames, edge=7), size=4)
    assert crop.shape == (1, 3, 4, 4) and crop[0, 0, 0].tolist() == [3, 4, 5, 6]
    tall = center_crop(resize_short_side(frames.transpose(-1, -2), edge=7), size=4)
    assert tall[0, 0, :, 0].tolist() == [3, 4, 5, 6]


def test_center_crop_resizes_the_short_side():
    for shape in ((2, 3, 60, 100), (2, 3, 100, 60), (2, 3, 20, 20)):
        assert resize_and_center_crop(random_clip(*shape), size=32).shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="smaller than the crop of 32.*at least 32"):
        center_crop(random_clip(1, 3, 30, 40), size=32)


def test_views_by_hand():
    frames = torch.arange(11, dtype=torch.uint8).expand(1, 3, 4, 11)
    views = resize_and_crop_views(frames, size=4)
    assert views.shape == (3, 1, 3, 4, 4)
    assert views[:, 0, 0, 0].tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [7, 8, 9, 10]]
    tall = resize_and_crop_views(frames.transpose(-1, -2), size=4)
    assert torch.equal(tall, views.transpose(-1, -2))
    with pytest.raises(ValueError, match="`num_views`=1 must be at least 2"):
        resize_and_crop_views(frames, size=4, num_views=1)


# --- normalisation


def test_normalize_by_hand():
    frames = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 2, 2)
    values = normalize_clips(frames, mean=(0.5, 0.1, 0.4), std=(0.25, 0.2, 0.5))
    assert values.dtype == torch.float32 and values.shape == (2, 3, 2, 2)
    torch.testing.assert_close(values[1, :, 0, 1], torch.tensor([-2.0, 0.5, 1.2]))
    torch.testing.assert_close(normalize_clips(frames, mean=0.5, std=0.5)[0, :, 0, 0], torch.tensor([-1, -0.6, 1]))


def test_normalize_rounds_the_result_only():
    frames = random_clip(2, 2, 3, 8, 8)
    exact = normalize_clips(frames, dtype=torch.float64)
    torch.testing.assert_close(normalize_clips(frames), exact.float())
    assert torch.equal(normalize_clips(frames, dtype=torch.bfloat16), normalize_clips(frames).bfloat16())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"frames": torch.zeros(1, 3, 2, 2)}, "frames of torch.float32: pass uint8"),
        ({"mean": (0.5, 0.5)}, "`mean` has 2 values for 3 channels"),
        ({"std": (0.5, 0.5, 0.5, 0.5)}, "`std` has 4 values for 3 channels"),
        ({"std": (0.5, 0.0, 0.5)}, r"`std`=\[0.5, 0.0, 0.5\] must be greater than 0"),
    ],
)
def test_normalize_errors(arguments, match):
    arguments = {"frames": torch.zeros(1, 3, 2, 2, dtype=torch.uint8), **arguments}
    with pytest.raises(ValueError, match=match):
        normalize_clips(arguments.pop("frames"), **arguments)


# --- automatic augmentation and the centre crop


def test_rand_augment_is_a_function_of_its_generator_and_alike_in_all_frames():
    frame = random_clip(1, 3, 40, 40)
    clip = frame.expand(3, -1, -1, -1)
    before = torch.random.get_rng_state()
    results = [rand_augment(clip, generator=generator(seed)) for seed in range(12)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(result.dtype == torch.uint8 and result.shape == clip.shape for result in results)
    assert all(torch.equal(result[0], result[frame]) for result in results for frame in (1, 2))
    assert torch.equal(results[5], rand_augment(clip, generator=generator(5)))
    assert sum(torch.equal(result, clip) for result in results) < 4  # a few draw the identity twice
    assert len({result.sum().item() for result in results}) > 6


def test_automatic_augmentation_follows_crop_and_flip():
    clip = random_clip(2, 3, 40, 60)
    plain = augment_clip(clip, size=32, generator=generator(1))
    draws = generator(1)
    augmented = augment_clip(clip, size=32, generator=draws, auto_augment="rand")
    # Without it no number more is drawn, so that the clips of earlier runs stay the same.
    other = generator(1)
    assert torch.equal(augment_clip(clip, size=32, generator=other, auto_augment="none"), plain)
    assert not torch.equal(other.get_state(), draws.get_state())
    again = generator(1)
    augment_clip(clip, size=32, generator=again)
    assert torch.equal(rand_augment(plain, generator=again), augmented)


def test_training_on_centre_crops_flips_the_crop_of_the_evaluation():
    clip = random_clip(2, 3, 40, 60)
    expected = resize_and_center_crop(clip, size=32)
    for flip_probability, wanted in ((0.0, expected), (1.0, expected.flip(-1))):
        settings = {"crop": "center", "flip_probability": flip_probability}
        result = augment_clip(clip, size=32, generator=generator(), **settings)
        assert torch.equal(result, wanted) and result.is_contiguous()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"auto_augment": "auto"}, "`auto_augment`='auto' must be one of none, rand"),
        ({"crop": "centre"}, "`crop`='centre' must be one of random, center"),
    ],
)
def test_unknown_augmentations_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        augment_clip(random_clip(1, 3, 40, 40), size=32, generator=generator(), **settings)
