"""
Variance and covariance regularisation of the context encoder: what keeps a small model from collapsing.

VICReg (arXiv 2105.04906), section 4.1, put beside a joint-embedding prediction as in C-JEPA (arXiv 2410.19560),
here on single tokens. The published V-JEPA recipe does without: at its scale the slow target encoder suffices.
"""

import torch
from torch import nn

# Under the root of the variance, as in VICReg: keeps the gradient finite where a feature is constant.
_VARIANCE_FLOOR = 1e-4


def variance_hinge(features: torch.Tensor) -> torch.Tensor:
    """
    Mean over features of max(0, 1 - std), so that every feature varies over the rows (VICReg, equation 1).

    Args:
        features: (rows, width), at least two rows.

    Returns:
        Scalar in [0, 1], float32.
    """
    std = (features.float().var(dim=0) + _VARIANCE_FLOOR).sqrt()
    return nn.functional.relu(1.0 - std).mean()


def covariance_penalty(features: torch.Tensor) -> torch.Tensor:
    """
    Sum of the squared covariances of different features, over the width (VICReg, equations 3 and 4).

    Args:
        features: (rows, width), at least two rows.

    Returns:
        Scalar, at least 0, float32.
    """
    centred = features.float() - features.float().mean(dim=0)
    covariance = centred.T @ centred / (centred.shape[0] - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / covariance.shape[0]


__all__ = ["covariance_penalty", "variance_hinge"]
