import pytest
import torch

from transformers_vjepa.pretraining.collapse import (
    center_over_clips,
    covariance_penalty,
    effective_rank,
    feature_health,
    variance_hinge,
)


def test_effective_rank_by_hand():
    # Two directions with variances 1 and 1: rank 2; with 3 and 1: exp of the entropy of (3/4, 1/4).
    equal = torch.tensor([[[1.0, 0, 0]], [[-1.0, 0, 0]], [[0, 1.0, 0]], [[0, -1.0, 0]]])
    assert effective_rank(equal).item() == pytest.approx(2.0, abs=1e-5)
    uneven = equal * torch.tensor([3.0**0.5, 1.0, 1.0])
    assert effective_rank(uneven).item() == pytest.approx(1.7548, abs=1e-3)
    assert effective_rank(torch.zeros(4, 1, 3)).item() == 0.0


def test_both_gram_matrices_give_the_same_rank():
    features = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(0))
    wide = effective_rank(features)  # fewer rows than features
    tall = effective_rank(torch.cat([features] * 20, dim=1))
    assert wide.item() == pytest.approx(tall.item(), rel=1e-4)


def test_features_that_hold_position_only_are_collapsed_over_clips():
    position_only = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(0)).expand(6, 16, 8)
    health = feature_health(position_only)
    assert health["target_std_over_clips"] == pytest.approx(0.0, abs=1e-6)
    assert health["target_rank_over_clips"] == 0.0
    assert health["target_std_over_tokens"] > 0.5
    assert health["target_rank_over_tokens"] > 4


def test_std_over_clips_by_hand():
    # Two clips, one position, +1 and -1 in each feature: unbiased std sqrt(2).
    features = torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]])
    assert torch.equal(center_over_clips(features), features)
    assert feature_health(features)["target_std_over_clips"] == pytest.approx(2**0.5)


def test_one_clip_has_no_spread_over_clips():
    assert set(feature_health(torch.randn(1, 4, 8))) == {"target_std_over_tokens", "target_rank_over_tokens"}


# VICReg


def test_variance_hinge_by_hand():
    # Standard deviations 2 (past the hinge), 0.5 and 0: (0 + 0.5 + 0.99) / 3, the last by the floor of 1e-4.
    rows = torch.tensor([[-(2**0.5), -(2**0.5) / 4, 3.0], [2**0.5, 2**0.5 / 4, 3.0]])
    assert variance_hinge(rows).item() == pytest.approx((0.5 + 0.99) / 3, abs=1e-4)


def test_covariance_penalty_by_hand():
    # Centred rows (-1, -2), (1, 2): covariance 4 off the diagonal, twice, over a width of 2.
    rows = torch.tensor([[4.0, 1.0], [6.0, 5.0]])
    assert covariance_penalty(rows).item() == pytest.approx(2 * 4.0**2 / 2)


def test_uncorrelated_features_cost_nothing():
    rows = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert covariance_penalty(rows).item() == 0
    assert variance_hinge(rows).item() == 0


def test_gradient_spreads_constant_features():
    """Constant rows are a stationary point; nearly constant ones are driven apart."""
    rows = (1e-3 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    variance_hinge(rows).backward()
    assert (rows.detach() - 0.1 * rows.grad).std() > rows.detach().std()
    assert torch.isfinite(rows.grad).all()
