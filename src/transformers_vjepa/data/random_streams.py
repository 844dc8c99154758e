"""
Random numbers from counters: pure functions of seed and position, the same on every process.

The generator is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Drawing the masks of each clip from a
`torch.Generator` of its own would cost about as much as sampling the masks; `clip_streams` and `stream_uniforms` serve
all clips of a batch with a few array operations.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15

Bits = TypeVar("Bits", int, np.ndarray)


def _mix(state: Bits) -> Bits:
    """The output function of SplitMix64, for an integer below 2^64 or an array of uint64."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
    return state ^ (state >> 31)


def hash_counters(*values: int) -> int:
    """A uniform 63-bit integer that is a function of `values`."""
    state = 0
    for value in values:
        state = _mix(((state ^ (value & _WORD)) + _GOLDEN) & _WORD)
    return state >> 1


def permutation(length: int, *counters: int) -> Tensor:
    """A random order of `range(length)` that is a function of `counters`; int32 if the numbers fit."""
    generator = torch.Generator().manual_seed(hash_counters(*counters))
    return torch.randperm(length, generator=generator, dtype=torch.int32 if length < 2**31 else torch.int64)


def clip_streams(seed: int, clip_seeds: np.ndarray) -> np.ndarray:
    """States of the random streams of clips with int64 seeds (batch,): uint64 (batch,)."""
    run = _mix(np.array([seed], dtype=np.int64).view(np.uint64) + _GOLDEN)
    return _mix(_mix(clip_seeds.view(np.uint64) + _GOLDEN) ^ run)


def stream_uniforms(streams: np.ndarray, *, stream: int, count: int) -> Tensor:
    """The first `count` uniforms of a numbered sub-stream: float32 (batch, count) in [0, 1)."""
    start = _mix(streams + np.array([stream + 1], dtype=np.uint64) * _GOLDEN)
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(start[:, None] + counters) >> 40  # 24 bits, the precision of float32 below 1
    return torch.from_numpy(bits.astype(np.float32) * np.float32(2**-24))
