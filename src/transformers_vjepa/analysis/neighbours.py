"""The nearest clips by their features."""

from torch import Tensor
from torch.nn.functional import normalize


def standardised_directions(features: Tensor, *, reference: Tensor) -> Tensor:
    """
    Unit vectors (clips, values) whose cosines measure how near clips are. Each value of the features (clips, values)
    is standardised: its mean over the reference (reference clips, values) is subtracted, and the difference is divided
    by the standard deviation there.
    """
    spread = reference.std(dim=0).clamp_min(1e-6)
    return normalize((features - reference.mean(dim=0)) / spread, dim=1)


def nearest_clips(features: Tensor, *, number: int) -> Tensor:
    """
    The nearest other clips by the cosine of standardised features (clips, values): int64 (clips, number), the nearest
    first.
    """
    directions = standardised_directions(features, reference=features)
    similarity = directions @ directions.T
    similarity.fill_diagonal_(-2)
    return similarity.topk(number, dim=1).indices
