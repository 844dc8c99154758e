"""
Variance and covariance regularisation of the context encoder: what keeps a small model from collapsing.

VICReg (arXiv 2105.04906), section 4.1, put beside a joint-embedding prediction as in C-JEPA (arXiv 2410.19560),
here on single tokens. The published V-JEPA recipe does without: at its scale the slow target encoder suffices.
"""

import torch
import torch.distributed as dist
from torch import nn

# Under the root of the variance, as in VICReg: keeps the gradient finite where a feature is constant.
_VARIANCE_FLOOR = 1e-4


class _SumOverProcesses(torch.autograd.Function):
    """
    The sum over all processes. Its gradient is summed, too: every process takes the whole loss, and DDP and FSDP2
    divide the gradients of the parameters by the number of processes.
    """

    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return _SumOverProcesses.apply(gradient)


def _sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _SumOverProcesses.apply(values) if several else values


def _centred(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`features` (rows, width) in float32 minus their mean over the rows of all processes, and the number of those."""
    features = features.float()
    rows = _sum_over_processes(features.new_tensor(features.shape[0]))
    return features - _sum_over_processes(features.sum(dim=0)) / rows, rows


def variance_hinge(features: torch.Tensor) -> torch.Tensor:
    """
    Mean over features of max(0, 1 - std), so that every feature varies over the rows (VICReg, equation 1). Where
    several processes train, over the rows of all of them; they must all take part.

    Args:
        features: (rows, width), at least two rows.

    Returns:
        Scalar in [0, 1], float32.
    """
    centred, rows = _centred(features)
    variance = _sum_over_processes(centred.square().sum(dim=0)) / (rows - 1)
    return nn.functional.relu(1.0 - (variance + _VARIANCE_FLOOR).sqrt()).mean()


def covariance_penalty(features: torch.Tensor) -> torch.Tensor:
    """
    Sum of the squared covariances of different features, over the width (VICReg, equations 3 and 4). Where several
    processes train, over the rows of all of them; they must all take part.

    Args:
        features: (rows, width), at least two rows.

    Returns:
        Scalar, at least 0, float32.
    """
    centred, rows = _centred(features)
    covariance = _sum_over_processes(centred.T @ centred) / (rows - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / covariance.shape[0]


__all__ = ["covariance_penalty", "variance_hinge"]
