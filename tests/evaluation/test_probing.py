import math
import sys

import numpy as np
import pytest
import torch
from reference import TINY

from transformers_vjepa import VJEPAConfig, VJEPAForVideoClassification
from transformers_vjepa.evaluation.probing import (
    ProbeGrid,
    ProbeSettings,
    best_probe,
    fit_read_out,
    probe_optimizer,
    probe_settings,
    selection_score,
)
from transformers_vjepa.models.vjepa.modeling_vjepa import average_views


def on_the_line(*places):
    """Features that differ along one direction; the other one is the same for all."""
    return torch.tensor([[place, 1.0] for place in places])


def test_neighbours_are_the_nearest_by_angle():
    # 11 clips of class 0 on the right and 11 of class 1 on the left; lengths do not matter.
    features = torch.cat([torch.tensor([[1.0 + i, 0.1 * i], [-1.0 - i, -0.1 * i]]) for i in range(11)])
    labels = torch.tensor([0, 1] * 11)
    read_out = fit_read_out("neighbours", features, labels)
    assert read_out.predict(torch.tensor([[100.0, 1.0], [-0.5, 0.0]]).numpy()).tolist() == [0, 1]


def test_ridge_by_hand():
    # Least squares through (-1, -1), (1, 1) and so on crosses 0 in the middle.
    read_out = fit_read_out("ridge", on_the_line(-3.0, -1.0, 1.0, 3.0), torch.tensor([0, 0, 1, 1]))
    assert read_out.predict(on_the_line(-0.1, 0.1, 5.0).numpy()).tolist() == [0, 1, 1]


def test_unknown_read_outs_are_refused():
    with pytest.raises(ValueError, match="unknown read-out kind='tree': choose one of neighbours, ridge"):
        fit_read_out("tree", on_the_line(0.0, 1.0), torch.tensor([0, 1]))


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r"pip install transformers_vjepa\[probe\]"):
        fit_read_out("ridge", on_the_line(0.0, 1.0), torch.tensor([0, 1]))


def tiny_grid(settings, **fields):
    torch.manual_seed(0)
    return ProbeGrid(VJEPAConfig(**TINY, num_labels=3, **fields), settings)


def test_grid_is_every_pair_once_from_the_lowest_rate_up():
    settings = probe_settings([1e-2, 1e-3, 1e-3], [0.1, 0.0])
    assert [(probe.learning_rate, probe.weight_decay) for probe in settings] == [
        (1e-3, 0.0),
        (1e-3, 0.1),
        (1e-2, 0.0),
        (1e-2, 0.1),
    ]
    assert settings[1].name == "lr0.001_wd0.1"


def test_probes_start_alike_and_are_initialised_as_in_the_classifier():
    grid = tiny_grid(probe_settings([1e-3, 1e-2], [0.0]), num_pooler_layers=1)
    first, second = (probe.state_dict() for probe in grid.probes)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert first["classifier.bias"].abs().max() == 0
    assert 0.01 < first["classifier.weight"].std() < 0.03
    assert first["pooler.query_tokens"].abs().max() > 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_pooler_layers": 2},
        {"pooling": "mean"},
        {"pooling": "mean", "num_pooled_layers": 2, "pooled_batch_norm": True},
    ],
)
def test_a_probe_computes_what_the_classifier_does(fields):
    grid = tiny_grid(probe_settings([1e-3, 1e-2], [0.0]), **fields)
    with torch.no_grad():
        for parameter in grid.probes[1].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model = VJEPAForVideoClassification(grid.config).eval()
    grid.write_into(model, 1)
    tokens = torch.randn(2, 3, 10, grid.config.pooled_size)
    labels = torch.tensor([2, 0])
    expected = model.classify(tokens, labels=labels)
    output = grid.eval()(features=tokens, labels=labels)
    assert torch.allclose(output.logits[:, 1], expected.logits, atol=1e-6)
    assert output.probe_losses[1].item() == pytest.approx(expected.loss.item(), abs=1e-6)
    assert output.loss.item() == pytest.approx(output.probe_losses.sum().item(), abs=1e-6)


def test_the_mean_over_tokens_may_be_stored_in_their_place():
    grid = tiny_grid(probe_settings([1e-3], [0.0]), pooling="mean")
    tokens = torch.randn(2, 3, 10, 48)
    assert torch.allclose(grid(tokens).logits, grid(tokens.mean(2)).logits, atol=1e-6)


def test_views_are_averaged_as_probabilities():
    views = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]]).log()
    assert torch.allclose(average_views(views).exp(), torch.tensor([[0.55, 0.45]]))
    assert torch.equal(average_views(views[:, :1]), views[:, 0])


def test_every_probe_has_its_rate_and_decay_and_vectors_do_not_decay():
    grid = tiny_grid([ProbeSettings(1e-3, 0.1), ProbeSettings(1e-2, 0.2)])
    groups = grid.parameter_groups()
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (1e-3, 0.1),
        (1e-3, 0),
        (1e-2, 0.2),
        (1e-2, 0),
    ]
    assert sum(len(group["params"]) for group in groups) == len(list(grid.parameters()))
    # Query, q, k, v, two matrices of the MLP and the classifier; two norms, five biases and that of the classifier.
    assert [len(group["params"]) for group in groups[:2]] == [7, 10]
    assert any(value is grid.probes[0].pooler.query_tokens for value in groups[0]["params"])


def linear_grid(settings):
    return tiny_grid(settings, pooling="mean")


def step(grid, optimizer):
    """One step in which all gradients are 1; how far each parameter of the first probe moved."""
    before = [value.detach().clone() for value in grid.probes[0].parameters()]
    for value in grid.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    return [value.detach() - old for value, old in zip(grid.probes[0].parameters(), before, strict=True)]


@pytest.mark.parametrize("weight_decay", [0.0, 1e-8])
def test_lars_moves_weights_by_a_share_of_their_norm_and_biases_by_the_rate(weight_decay):
    grid = linear_grid([ProbeSettings(2.0, weight_decay)])
    norm = grid.probes[0].classifier.weight.norm().item()
    optimizer = probe_optimizer("lars")(grid.parameter_groups())
    weight, bias = step(grid, optimizer)
    # The rate 2, the trust coefficient 0.001, and a gradient of length 12 in the direction (1, 1, ...) / 12.
    assert weight.mean().item() == pytest.approx(-2.0 * 0.001 * norm / 12, rel=1e-4)
    assert (bias == -2.0).all()
    # The momentum is 0.9; with the second step the bias has moved by 2 and then by 2 x 1.9.
    _, bias = step(grid, optimizer)
    assert bias.tolist() == pytest.approx([-3.8] * 3)


def test_sgd_has_the_momentum_of_nesterov_and_decay_of_weights_only():
    grid = linear_grid([ProbeSettings(0.1, 0.5)])
    weight = grid.probes[0].classifier.weight.detach().clone()
    moved, bias = step(grid, probe_optimizer("sgd")(grid.parameter_groups()))
    # In its first step, Nesterov's momentum adds 0.9 of the gradient.
    assert torch.allclose(moved, -0.1 * 1.9 * (1 + 0.5 * weight), atol=1e-6)
    assert bias.tolist() == pytest.approx([-0.19] * 3)


def test_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ImportError, match=r"LARS needs timm: pip install transformers_vjepa\[probe\]"):
        probe_optimizer("lars")


def test_score_is_accuracy_and_then_cross_entropy():
    sure = np.log(np.array([[0.9, 0.1], [0.1, 0.9]]))
    unsure = np.log(np.array([[0.6, 0.4], [0.4, 0.6]]))
    labels = np.array([0, 1])
    assert selection_score(sure, labels) == pytest.approx((2 + 0.9 / 2) / 2)  # exp of the mean log of 0.9
    assert selection_score(sure, labels) > selection_score(unsure, labels)
    # One right answer more always wins, however bad the rest.
    assert selection_score(unsure, labels) > selection_score(sure * 5, np.array([0, 0]))
    wrong = selection_score(np.array([[-1e4, 0.0]] * 2), np.array([0, 1]))
    assert wrong == pytest.approx((1 + math.exp(-5e3) / 2) / 2)


def test_among_equal_scores_the_lowest_rate_and_then_decay_wins():
    settings = [ProbeSettings(rate, decay) for rate, decay in ((1e-2, 0.0), (1e-3, 0.1), (1e-3, 0.0), (1e-4, 0.0))]
    assert best_probe([0.5, 0.5, 0.5, 0.4], settings) == 2
    assert best_probe([0.6, 0.5, 0.5, 0.4], settings) == 0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: probe_settings([], [0.1]), "a grid of 0 learning rates and 1 weight decays has no probe"),
        (lambda: ProbeSettings(0.0, 0.1), "learning_rate=0.0 must be positive and finite"),
        (lambda: ProbeSettings(0.1, -1.0), "weight_decay=-1.0 must be at least 0"),
        (lambda: tiny_grid([]), "a grid of 0 probes has nothing to train"),
    ],
)
def test_grids_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
