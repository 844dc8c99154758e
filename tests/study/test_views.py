"""The views of a report: masks of the arms, and the shown clips."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from transformers_vjepa import VJEPAConfig
from transformers_vjepa.study.kinds import IMAGES, VIDEOS
from transformers_vjepa.study.views import arm_masks, shown_clips

CONFIG = VJEPAConfig(crop_size=16, patch_size=4, frames_per_clip=4)  # grid 2 x 4 x 4


@pytest.mark.parametrize(
    ("arm", "number", "dropped"),
    [("vjepa", 2, False), ("multiblock", 2, False), ("random_tube", 1, False), ("published_truncation", 2, True)],
)
def test_masks_are_those_that_an_arm_trains_with(arm, number, dropped):
    masks = arm_masks(VIDEOS, CONFIG, arm, batch_size=8)
    assert len(masks.context_mask) == len(masks.target_mask) == number
    shares = [context.shape[1] + target.shape[1] for context, target in zip(*masks, strict=True)]
    assert (min(shares) < CONFIG.num_patches) is dropped
    again = arm_masks(VIDEOS, CONFIG, arm, batch_size=8)
    assert all(torch.equal(a, b) for a, b in zip(masks.target_mask, again.target_mask, strict=True))


@pytest.mark.parametrize(
    ("arm", "lengths"),
    [
        ("ijepa", [28, 11, 11, 11, 11]),
        ("raster", [16, 16, 16, 16]),
        ("block", [26, 38]),  # round(0.6 * 64)
        ("random", [26, 38]),
        ("target_scale_large", [21, 16, 16, 16, 16]),  # 0.25 * 64
        ("targets_2", [37, 11, 11]),
        ("targets_at_input", [28, 11, 11, 11, 11]),
    ],
)
def test_masks_of_images_are_those_that_an_arm_trains_with(arm, lengths):
    config = VJEPAConfig(crop_size=32, patch_size=4, frames_per_clip=1, tubelet_size=1)  # grid 1 x 8 x 8
    masks = arm_masks(IMAGES, config, arm, batch_size=2)
    assert [mask.shape[1] for group in masks for mask in group] == lengths


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="context_frames"):
        arm_masks(VIDEOS, CONFIG, "causal", batch_size=2)  # six frames of context in a clip of four


def test_shown_clips_are_of_different_classes_and_before_the_limit():
    labels = np.arange(40) % 8
    inputs = SimpleNamespace(class_names={"motion": list(range(8))}, labels=lambda task: labels)
    chosen = shown_clips(inputs, number=4, limit=20)
    assert len({labels[index] for index in chosen}) == 4 and max(chosen) < 20
    assert shown_clips(inputs, number=4, limit=20) == chosen
    assert len(shown_clips(inputs, number=99)) == 8
