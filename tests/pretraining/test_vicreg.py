import pytest
import torch

from transformers_vjepa.pretraining.collapse import covariance_penalty, variance_hinge


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
