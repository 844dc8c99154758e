"""
Collapse: the target encoder gives all clips the same features. Here are measures of a collapse and loss terms against
a collapse.

The terms are those of VICReg (arXiv 2105.04906), section 4.1, added to a joint-embedding prediction as in C-JEPA
(arXiv 2410.19560), here on single tokens. The published V-JEPA recipe does not use them: at its scale the slow target
encoder is enough.
"""

import torch
import torch.distributed as dist
from torch import nn

# Added to the variance under the root, as in VICReg: keeps the gradient finite for a constant feature.
_VARIANCE_FLOOR = 1e-4

# Measures


def center_over_clips(features: torch.Tensor) -> torch.Tensor:
    """`features` (clips, positions, width) minus their mean over clips at each position."""
    return features - features.mean(dim=0, keepdim=True)


def _feature_std(centered: torch.Tensor, *, degrees: int) -> float:
    """Mean over features of their standard deviation; `centered` (clips, positions, width) lost `degrees` degrees."""
    rows = centered.shape[0] * centered.shape[1]
    variance = centered.float().square().sum(dim=(0, 1)) / max(1, rows - degrees)
    return variance.sqrt().mean().item()


def effective_rank(centered: torch.Tensor) -> torch.Tensor:
    """
    Exponential of the entropy of the normalised eigenvalues of the covariance: from 1 (one direction) to the width.
    Constant features have rank 0.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007, on the variances of the principal components.

    Args:
        centered: (clips, positions, width), with mean 0.
    """
    rows = centered.float().flatten(0, 1)
    # The smaller of the two Gram matrices has the same non-zero eigenvalues.
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    eigenvalues = torch.linalg.eigvalsh(gram.double()).clamp_min(0)
    total = eigenvalues.sum()
    # Below rounding errors the spectrum is noise: the features are constant.
    if total <= torch.finfo(torch.float32).eps ** 2 * rows.numel():
        return torch.zeros((), dtype=torch.float32, device=rows.device)
    shares = eigenvalues / total
    return torch.exp(-torch.special.xlogy(shares, shares).sum()).float()


def feature_health(features: torch.Tensor) -> dict[str, float]:
    """
    Spread of target features over clips at the same position, and over all tokens.

    Args:
        features: (clips, positions, width), normalised over the width.

    Returns:
        `target_std_over_clips` and `target_rank_over_clips` (with at least 2 clips), `target_std_over_tokens` and
        `target_rank_over_tokens`. A std is in units of a feature (1: features vary over clips as over the width), a
        rank lies between 0 and the width.
    """
    health = {}
    if features.shape[0] > 1:
        over_clips = center_over_clips(features)
        health["target_std_over_clips"] = _feature_std(over_clips, degrees=features.shape[1])
        health["target_rank_over_clips"] = effective_rank(over_clips).item()
    over_tokens = features - features.mean(dim=(0, 1), keepdim=True)
    health["target_std_over_tokens"] = _feature_std(over_tokens, degrees=1)
    health["target_rank_over_tokens"] = effective_rank(over_tokens).item()
    return health


# Loss terms


class _SumOverProcesses(torch.autograd.Function):
    """
    The sum over all processes. The gradient is summed too: every process has the whole loss, and DDP and FSDP2 divide
    the gradients of the parameters by the number of processes.
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
    """`features` (rows, width) in float32 minus their mean over the rows of all processes, and the number of rows."""
    features = features.float()
    rows = _sum_over_processes(features.new_tensor(features.shape[0]))
    return features - _sum_over_processes(features.sum(dim=0)) / rows, rows


def variance_hinge(features: torch.Tensor) -> torch.Tensor:
    """
    Mean over features of max(0, 1 - std), so that every feature varies over the rows (VICReg, equation 1). With
    several processes, the rows of all of them count, and all of them must call this function.

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
    Sum of the squared covariances of different features, divided by the width (VICReg, equations 3 and 4). With
    several processes, the rows of all of them count, and all of them must call this function.

    Args:
        features: (rows, width), at least two rows.

    Returns:
        Scalar, at least 0, float32.
    """
    centred, rows = _centred(features)
    covariance = _sum_over_processes(centred.T @ centred) / (rows - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / covariance.shape[0]
