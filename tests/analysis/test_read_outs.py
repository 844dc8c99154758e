"""Read-outs of features that are held in memory."""

import numpy as np
import pytest
import torch
from reference import TINY
from torch.optim.optimizer import register_optimizer_step_post_hook

from transformers_vjepa import VJEPAConfig, VJEPAModel
from transformers_vjepa.analysis.read_outs import encode_clips, fit_probe, labelled_subset, read_out, time_means
from transformers_vjepa.data.splits import SplitError
from transformers_vjepa.models.vjepa.clip_transforms import normalize_clips

KINDS = ("ridge", "neighbours", "attentive", "mean")


def test_time_means_keep_the_order_of_time():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 0.0], [7.0, 0.0]]]])  # 1 clip, 2 times, 2 cells
    assert time_means(features).tolist() == [[2.0, 3.0, 6.0, 0.0]]


def test_labelled_subsets_are_nested_and_balanced():
    labels = np.arange(2400) % 8
    subsets = {count: labelled_subset(labels, count=count, seed=3) for count in (120, 200, 240, 1200, 2400)}
    for count, chosen in subsets.items():
        assert np.bincount(labels[chosen]).tolist() == [count // 8] * 8
    sizes = sorted(subsets)
    for fewer, more in zip(sizes, sizes[1:], strict=False):
        assert set(subsets[fewer]) < set(subsets[more])
    assert set(labelled_subset(labels, count=200, seed=4)) != set(subsets[200])


def test_too_few_or_too_many_labels_are_refused():
    with pytest.raises(ValueError, match=r"count=17 labelled clips must lie in \[1, 16\]"):
        labelled_subset(np.arange(16) % 8, count=17, seed=0)
    with pytest.raises(SplitError, match="would keep none"):
        labelled_subset(np.arange(80) % 8, count=2, seed=0)


def test_encodes_clips_in_order():
    torch.manual_seed(0)
    model = VJEPAModel(VJEPAConfig(**TINY))
    clips = torch.randint(0, 256, (5, 4, 32, 32, 3), dtype=torch.uint8)
    features = encode_clips(model, clips, batch_size=2)
    assert features.shape == (5, 2, 16, 48)  # 4 frames of tubelets of 2, 4 x 4 cells
    pixels = normalize_clips(clips[3:4].permute(0, 1, 4, 2, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with torch.no_grad():
        tokens = model.get_vision_features(pixels)
    assert torch.allclose(features[3].flatten(0, 1), tokens[0], atol=1e-5)
    assert not features.is_inference() and not features.requires_grad


def easy_features(number, seed):
    """Three classes, each a direction of its own under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = np.arange(number) % 3
    directions = torch.eye(3, 8)[torch.from_numpy(labels)]
    return torch.randn(number, 2, 4, 8, generator=generator) * 0.5 + 2 * directions[:, None, None], labels


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_is_there_and_not_what_is_not(kind):
    train, labels = easy_features(60, 0)
    test, test_labels = easy_features(90, 1)
    hits = read_out(kind, train, labels, test, test_labels, seed=0, probe_steps=80)
    assert hits.dtype == bool and hits.shape == (90,)
    assert hits.mean() > 0.95
    noise, nothing = torch.randn_like(train), torch.randn_like(test)
    hits = read_out(kind, noise, labels, nothing, test_labels, seed=0, probe_steps=80)
    assert 0.15 < hits.mean() < 0.52  # 1/3, give or take 3.7 standard deviations


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_hits(kind):
    train, labels = easy_features(24, 0)
    state = torch.random.get_rng_state()
    first, second = (read_out(kind, train, labels, train + 3, labels, seed=5, probe_steps=10) for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(state, torch.random.get_rng_state())


def test_closed_forms_take_flat_features():
    train, labels = easy_features(60, 0)
    assert read_out("ridge", time_means(train), labels, time_means(train), labels, seed=0).all()


def test_the_rate_is_chosen_on_three_quarters_and_all_clips_are_then_seen_often_enough():
    steps = []

    def record(optimizer, *_):
        steps.append(sorted({group["initial_lr"] for group in optimizer.param_groups}))

    features, labels = easy_features(320, 0)
    hook = register_optimizer_step_post_hook(record)
    try:
        probe = fit_probe("mean", features.flatten(1, 2), labels, seed=0, steps=5)
    finally:
        hook.remove()
    # 40 passes over 240 clips with three rates, then over all 320 with one of them; 128 clips in a batch.
    assert steps[:75] == [[3e-4, 1e-3, 3e-3]] * 75
    (chosen,) = probe.settings
    assert steps[75:] == [[chosen.learning_rate]] * 100 and chosen.learning_rate in steps[0]


def test_probes_train_for_at_least_the_given_steps():
    steps = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    features, labels = easy_features(60, 0)
    try:
        fit_probe("attentive", features.flatten(1, 2), labels, seed=0, steps=45)
    finally:
        hook.remove()
    assert len(steps) == 2 * 45


def test_unknown_kinds_are_refused():
    features, labels = easy_features(6, 0)
    with pytest.raises(ValueError, match="unknown read-out kind='oracle': choose one of ridge, neighbours, attentive"):
        read_out("oracle", features, labels, features, labels, seed=0)
