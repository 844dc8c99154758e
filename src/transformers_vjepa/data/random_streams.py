"""Random numbers from counters: a pure function of seed and position, the same on every process."""

import numpy as np
import torch
from torch import Tensor


def hash_counters(*values: int) -> int:
    """A uniform 63-bit integer that is a function of `values` (splitmix64, Steele et al., OOPSLA 2014)."""
    state = 0
    for value in values:
        state = ((state ^ (value & (2**64 - 1))) + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def permutation(length: int, *counters: int) -> torch.Tensor:
    """A random order of `range(length)` that is a function of `counters`; int32 where that is enough."""
    generator = torch.Generator().manual_seed(hash_counters(*counters))
    return torch.randperm(length, generator=generator, dtype=torch.int32 if length < 2**31 else torch.int64)


# Random numbers of single clips. Drawing from a `torch.Generator` seeded per clip and mask generator would cost
# about as much as the sampling itself; a counter-based generator serves all clips in a few array operations.
# The mixing function is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); unsigned arithmetic wraps.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def clip_streams(seed: int, clip_seeds: np.ndarray) -> np.ndarray:
    """States of the streams of clips with int64 seeds (batch,): uint64 (batch,)."""
    run = _mix(np.array([seed], dtype=np.int64).view(np.uint64) + _GOLDEN)
    return _mix(_mix(clip_seeds.view(np.uint64) + _GOLDEN) ^ run)


def stream_uniforms(streams: np.ndarray, *, stream: int, count: int) -> Tensor:
    """The first `count` uniforms of a numbered sub-stream: float32 (batch, count) in [0, 1)."""
    start = _mix(streams + np.array([stream + 1], dtype=np.uint64) * _GOLDEN)
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(start[:, None] + counters) >> np.uint64(40)  # 24 bits: as many as float32 holds below 1
    return torch.from_numpy(bits.astype(np.float32) * np.float32(2**-24))


__all__ = [
    "hash_counters",
    "permutation",
]
