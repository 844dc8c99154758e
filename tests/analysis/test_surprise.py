"""Surprise: the targets of the predictor, matched pairs of disturbed clips, and the figures."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining
from transformers_vjepa.analysis.surprise import (
    DISTURBANCES,
    DisturbedPairs,
    Surprise,
    disturbed_pairs,
    draw_surprise_curves,
    draw_surprise_example,
    measure_disturbances,
    measure_surprise,
    pairwise_accuracy,
    summarise,
)
from transformers_vjepa.data.synthetic import render_clip

CONFIG = VJEPAConfig(  # grid 4 x 2 x 2
    crop_size=16,
    patch_size=8,
    frames_per_clip=8,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    pred_hidden_size=12,
    pred_num_hidden_layers=1,
    pred_num_attention_heads=2,
    initializer_range=0.1,
)
GEOMETRY = {"config": CONFIG, "frame_step": 2, "size": 16}


@pytest.fixture(scope="module")
def model() -> VJEPAForPreTraining:
    torch.manual_seed(0)
    return VJEPAForPreTraining(CONFIG).eval()


def random_clips(batch: int = 3, frames: int = 8) -> torch.Tensor:
    return torch.randn(batch, frames, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# The method of the model


def test_surprise_is_the_error_of_each_step_given_the_steps_before(model):
    clips = random_clips()
    surprise = model.surprise(clips)
    assert surprise.shape == (3, 4, 2, 2) and not surprise.requires_grad
    assert surprise[:, 0].isnan().all() and surprise[:, 1:].isfinite().all()
    # Step 2 by hand: tokens 0 to 7 are seen, 8 to 11 predicted; the target encoder sees those alone.
    with torch.no_grad():
        context, target = torch.arange(8).expand(3, -1), torch.arange(8, 12).expand(3, -1)
        prediction = model(clips, context, target).predictions[0]
        alone = model.vjepa(clips, context_mask=target).last_hidden_state
        expected = (prediction - nn.functional.layer_norm(alone, (12,))).abs().mean(-1).view(3, 2, 2)
    torch.testing.assert_close(surprise[:, 2], expected)


def test_surprise_of_a_step_does_not_know_the_future(model):
    clips, changed = random_clips(), random_clips()
    changed[:, 4:] = 0.0
    before, after = model.surprise(clips), model.surprise(changed)
    assert torch.equal(before[:, 1], after[:, 1])
    assert (before[:, 2:] != after[:, 2:]).all()


def test_surprise_of_longer_clips_and_of_one_step(model):
    assert model.surprise(random_clips(frames=12)).shape == (3, 6, 2, 2)
    with pytest.raises(ValueError, match="2 frames have a single time step.*at least 4 frames"):
        model.surprise(random_clips(frames=2))


# Pairs


@pytest.mark.parametrize("kind", DISTURBANCES)
def test_disturbed_clips_are_undisturbed_ones_with_exchanged_ends(kind):
    pairs = disturbed_pairs(kind, num_pairs=8, **GEOMETRY)
    assert (pairs.kind, pairs.step) == (kind, 2)
    assert pairs.undisturbed.shape == pairs.disturbed.shape == (8, 2, 8, 3, 16, 16)
    assert pairs.undisturbed.dtype == torch.uint8
    natural, disturbed = pairs.undisturbed, pairs.disturbed
    for clip, other in ((0, 1), (1, 0)):
        assert torch.equal(disturbed[:, clip, :4], natural[:, clip, :4])
        assert torch.equal(disturbed[:, clip, 4:], natural[:, other, 4:])
    different = (natural[:, 0, 4:] != natural[:, 1, 4:]).flatten(1).any(1)
    assert different.all()


def test_clips_come_from_the_scenes_of_the_corpus_after_both_splits():
    pairs = disturbed_pairs("vanish", num_pairs=2, config=CONFIG, frame_step=2, size=16)
    # The clip reads frames 2, 4 ... 16 of 17; 16 pixels are resized to 18 (16 x 256 / 224), and the middle cut out.
    video = render_clip(motion="right", appearance="ring", seed=[0, 2, 1], size=16, num_frames=17)
    frames = torch.from_numpy(video[2::2].copy()).permute(0, 3, 1, 2).float()
    resized = nn.functional.interpolate(frames, size=18, mode="bilinear", align_corners=False)[..., 1:17, 1:17]
    assert (pairs.undisturbed[1, 0].float() - resized).abs().max() < 1.01


def test_reversed_clips_go_back_where_they_came_from():
    # The mirror lies at the last frame before the exchange: the frames after it are those before it, backwards.
    clips = disturbed_pairs("reverse", num_pairs=3, **GEOMETRY).disturbed[:, 0]
    assert torch.equal(clips[:, 4], clips[:, 2])
    assert torch.equal(clips[:, 5], clips[:, 1])
    assert torch.equal(clips[:, 6], clips[:, 0])


def test_a_vanished_clip_has_no_shapes():
    pairs = disturbed_pairs("vanish", num_pairs=8, **GEOMETRY)
    shapes, empty = (pairs.undisturbed[:, clip].float().std(dim=(-2, -1)).mean(dim=(1, 2)) for clip in (0, 1))
    assert (empty < 0.5 * shapes).all()


def test_odd_numbers_of_steps():
    config = VJEPAConfig(**{**CONFIG.to_diff_dict(), "frames_per_clip": 6})  # 3 steps: 1 before, 2 after
    pairs = disturbed_pairs("reverse", num_pairs=2, config=config, frame_step=3, size=16)
    assert pairs.step == 1 and pairs.disturbed.shape == (2, 2, 6, 3, 16, 16)
    assert torch.equal(pairs.disturbed[:, 0, 2], pairs.disturbed[:, 0, 0])


def test_pairs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="unknown disturbance kind='explode': choose one of jump, vanish, reverse"):
        disturbed_pairs("explode", **GEOMETRY)
    with pytest.raises(ValueError, match="num_pairs=0 must be at least 1"):
        disturbed_pairs("jump", num_pairs=0, **GEOMETRY)
    with pytest.raises(ValueError, match="frame_step=0 must be at least 1"):
        disturbed_pairs("jump", **{**GEOMETRY, "frame_step": 0})
    short = VJEPAConfig(**{**CONFIG.to_diff_dict(), "frames_per_clip": 2})
    with pytest.raises(ValueError, match="2 frames have a single time step"):
        disturbed_pairs("jump", **{**GEOMETRY, "config": short})


# Accuracy


def by_hand() -> Surprise:
    """Three pairs on a grid of 2 x 1 x 1, surprise at step 1: (a, b) and (a|b, b|a)."""
    natural, disturbed = [[1.0, 2.0], [1.0, 2.0], [5.0, 1.0]], [[1.5, 1.4], [1.6, 1.5], [1.0, 5.0]]
    errors = [torch.tensor(values).view(3, 2, 1, 1, 1) for values in (natural, disturbed)]
    first = torch.full((3, 2, 1, 1, 1), math.nan)
    clips = torch.zeros(3, 2, 4, 3, 8, 8, dtype=torch.uint8)
    pairs = DisturbedPairs("jump", 1, clips, clips)
    return Surprise(pairs, *(torch.cat([first, error], dim=2) for error in errors))


def test_accuracy_by_hand():
    surprise = by_hand()
    # Sums 2.9 < 3, 3.1 > 3, and 6 = 6, which is no hit; alone 1.5 > 1, 1.6 > 1, 1 < 5.
    assert surprise.hits.tolist() == [False, True, False]
    assert surprise.single_hits.tolist() == [True, True, False]
    accuracy = pairwise_accuracy(surprise.hits)
    assert (accuracy["pairs"], accuracy["correct"]) == (3, 1)
    assert accuracy["low"] == pytest.approx(6.15, abs=0.01) and accuracy["high"] == pytest.approx(79.23, abs=0.01)
    summary = summarise({"jump": surprise}, untrained={"jump": surprise})
    assert summary["jump"]["correct"] == summary["jump"]["untrained"]["correct"] == 1
    assert summary["jump"]["single"]["correct"] == 2


class Expecting(nn.Module):
    """A stand-in that expects the first frame of a step to repeat the last frame, or to continue its motion."""

    config, device = CONFIG, torch.device("cpu")

    def __init__(self, *, motion: float):
        super().__init__()
        self.motion = motion

    def surprise(self, clips: torch.Tensor) -> torch.Tensor:
        last, before = clips[:, 1:-1:2], clips[:, :-2:2]
        errors = (clips[:, 2::2] - last - self.motion * (last - before)).abs().mean(2)
        maps = nn.functional.avg_pool2d(errors, 8)
        return torch.cat([torch.full_like(maps[:, :1], math.nan), maps], dim=1)


def test_a_predictor_without_motion_finds_all_but_reversals():
    models = {"still": Expecting(motion=0.0), "moving": Expecting(motion=1.0)}
    found = measure_disturbances(models, num_pairs=40, frame_step=2, size=16)
    assert torch.equal(found["still"]["jump"].pairs.disturbed, found["moving"]["jump"].pairs.disturbed)
    results = found["still"]
    assert list(results) == list(DISTURBANCES)
    accuracies = summarise(results)
    assert accuracies["jump"]["correct"] > 32 and accuracies["vanish"]["correct"] > 36  # of 40
    # The two clips show the same in the last frame before the exchange: such a predictor cannot tell.
    reverse = results["reverse"]
    sums = [errors[:, :, 2].sum(dim=(1, 2, 3)) for errors in (reverse.disturbed, reverse.undisturbed)]
    torch.testing.assert_close(*sums)


def test_a_predictor_with_motion_finds_reversals():
    pairs = disturbed_pairs("reverse", num_pairs=40, **GEOMETRY)
    assert pairwise_accuracy(measure_surprise(Expecting(motion=1.0), pairs).hits)["correct"] > 36


def test_measuring_leaves_the_model_as_it_was(model):
    pairs = disturbed_pairs("jump", num_pairs=5, **GEOMETRY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    small = measure_surprise(model, pairs, batch_size=3)
    assert model.training and not model.vjepa.encoder.training
    model.eval()
    torch.testing.assert_close(small.disturbed, measure_surprise(model, pairs).disturbed, equal_nan=True)
    assert small.undisturbed.shape == (5, 2, 4, 2, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # The steps before the exchange are the same clips.
    torch.testing.assert_close(small.undisturbed[:, :, 1], small.disturbed[:, :, 1])


# The figures


def test_curves_are_means_with_the_interval_of_the_difference(model):
    pytest.importorskip("matplotlib")
    result = measure_surprise(model, disturbed_pairs("jump", num_pairs=4, **GEOMETRY))
    axis = draw_surprise_curves(result, config=CONFIG).axes[0]
    undisturbed, disturbed, exchange = axis.lines
    for line, errors in ((undisturbed, result.undisturbed), (disturbed, result.disturbed)):
        np.testing.assert_allclose(line.get_ydata(), errors[:, :, 1:].mean(dim=(0, 1, 3, 4)).numpy(), rtol=1e-5)
        assert line.get_xdata().tolist() == [2.5, 4.5, 6.5]  # frames in the middle of each time step
    assert set(exchange.get_xdata()) == {3.5}  # between the frames 3 and 4
    # The band is the interval of the difference: none before the exchange, where there is no difference.
    differences = (result.disturbed - result.undisturbed)[:, :, 2].mean(dim=(1, 2, 3))
    band = axis.collections[0].get_paths()[0].vertices
    heights = [np.ptp(band[np.isclose(band[:, 0], frame), 1]) for frame in (2.5, 4.5)]
    np.testing.assert_allclose(heights[1], 2 * 1.96 * differences.std(correction=0) / 2, rtol=1e-3)
    assert heights[0] < 1e-6


def test_the_example_is_the_first_pair(model):
    pytest.importorskip("matplotlib")
    pairs = disturbed_pairs("jump", num_pairs=2, **GEOMETRY)
    figure = draw_surprise_example(measure_surprise(model, pairs), config=CONFIG)
    assert [axis.texts[0].get_text() for axis in figure.axes] == ["undisturbed", "surprise", "disturbed", "surprise"]
    rows = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    for row, clips in ((rows[0], pairs.undisturbed), (rows[2], pairs.disturbed)):
        assert row[0, 0, :3].tolist() == clips[0, 0, 0, :, 0, 0].tolist()
    half = rows[0].shape[1] // 2  # of four time steps
    assert np.array_equal(rows[0][:, :half], rows[2][:, :half])
    assert not np.array_equal(rows[1][:, half:], rows[3][:, half:])
