"""
Signs of health of a pretraining run, read off its features.

A collapsed encoder gives every clip the same features. Position alone keeps tokens apart even then, so
collapse is measured over clips at the same position; the spread over all tokens is shown beside it.
"""

import torch


def center_over_clips(features: torch.Tensor) -> torch.Tensor:
    """`features` (clips, positions, width) minus their mean over clips at each position."""
    return features - features.mean(dim=0, keepdim=True)


def center_over_tokens(features: torch.Tensor) -> torch.Tensor:
    """`features` (clips, positions, width) minus their mean over all clips and positions."""
    return features - features.mean(dim=(0, 1), keepdim=True)


def feature_std(centered: torch.Tensor, *, degrees: int) -> torch.Tensor:
    """
    Standard deviation per feature, averaged over features (root of the mean square where several positions
    share it), of `centered` features (clips, positions, width) that lost `degrees` degrees of freedom.
    """
    rows = centered.shape[0] * centered.shape[1]
    variance = centered.float().square().sum(dim=(0, 1)) / max(1, rows - degrees)
    return variance.sqrt().mean()


def effective_rank(centered: torch.Tensor) -> torch.Tensor:
    """
    Exponential of the entropy of the normalised eigenvalues of the covariance: 1 (one direction) to width.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007, on the variances of the principal components.
    Constant features have rank 0.

    Args:
        centered: (clips, positions, width), of mean 0.
    """
    rows = centered.float().flatten(0, 1)
    # The smaller of the two Gram matrices has the same non-zero eigenvalues.
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    eigenvalues = torch.linalg.eigvalsh(gram.double()).clamp_min(0)
    total = eigenvalues.sum()
    # Below rounding, the spectrum is noise: the features do not vary at all.
    if total <= torch.finfo(torch.float32).eps ** 2 * rows.numel():
        return torch.zeros((), dtype=torch.float32, device=rows.device)
    shares = eigenvalues / total
    return torch.exp(-torch.special.xlogy(shares, shares).sum()).float()


def feature_health(features: torch.Tensor) -> dict[str, float]:
    """
    Spread of target features over clips at the same position, and over tokens.

    Args:
        features: (clips, positions, width), normalised over width; at least 2 clips for the first pair.

    Returns:
        `target_std_over_clips`, `target_rank_over_clips` (only with 2 clips or more),
        `target_std_over_tokens`, `target_rank_over_tokens`. A std is in units of a feature (1 = as spread over
        clips as over the width), a rank lies between 0 and the width.
    """
    health = {}
    if features.shape[0] > 1:
        over_clips = center_over_clips(features)
        health["target_std_over_clips"] = feature_std(over_clips, degrees=features.shape[1]).item()
        health["target_rank_over_clips"] = effective_rank(over_clips).item()
    over_tokens = center_over_tokens(features)
    health["target_std_over_tokens"] = feature_std(over_tokens, degrees=1).item()
    health["target_rank_over_tokens"] = effective_rank(over_tokens).item()
    return health


__all__ = ["center_over_clips", "center_over_tokens", "effective_rank", "feature_health", "feature_std"]
