"""The nearest clips by their features."""

from torch import Tensor
from torch.nn.functional import normalize


def standardised_directions(features: Tensor, *, reference: Tensor) -> Tensor:
    """
    Unit vectors whose cosines measure how near clips are. Each value is standardised: its mean over the reference
    clips is subtracted, and the difference is divided by the standard deviation there.

    Args:
        features: (clips, values).
        reference: (reference clips, values).
    """
    spread = reference.std(dim=0).clamp_min(1e-6)
    return normalize((features - reference.mean(dim=0)) / spread, dim=1)


def nearest_clips(features: Tensor, *, number: int) -> Tensor:
    """
    The nearest other clips by the cosine of standardised features: int64 (clips, number), the nearest first.

    Args:
        features: (clips, values).
    """
    directions = standardised_directions(features, reference=features)
    similarity = directions @ directions.T
    similarity.fill_diagonal_(-2)
    return similarity.topk(number, dim=1).indices
