"""The order of the videos in the stream: pure functions of (seed, position)."""

import math
from collections.abc import Sequence
from enum import IntEnum

import torch

from .random_streams import hash_counters, permutation

#: Number of positions in a block; each block of a mix has exactly the proportions of the mix.
MIX_BLOCK = 1000


class Draw(IntEnum):
    """Purpose of a random number, so that different uses of one seed are independent."""

    CLIP = 0
    EPOCH = 1
    REPLACEMENT = 2
    BLOCK = 3
    CHUNK = 4
    SHARDS = 5


class ClipOrder:
    """
    The video at a position: a pure function, with caches of the current block and epochs.

    The positions of a mix are divided into blocks of `MIX_BLOCK`. Each block holds corpus c exactly `shares[c]` times,
    in a random order of the block. So a position has, for its corpus, the number
    n = `block * shares[c] + (earlier positions of the corpus in the block)`. An indexed corpus of N videos then takes
    video n % N of the random order of epoch n // N.

    Args:
        sizes: number of videos of each corpus, `None` for sequential corpora.
        weights: share of each corpus, with any sum; `None` in all for shares in proportion to `sizes`.
        seed: seed of all random orders.
        shuffle: `False` keeps the order of each corpus (a mix is still interleaved).

    Raises:
        ValueError: weights that are missing, not positive, or too small for one position in a block.
    """

    def __init__(
        self, sizes: Sequence[int | None], *, weights: Sequence[float | None], seed: int, shuffle: bool
    ) -> None:
        self._sizes = tuple(sizes)
        self._seed = seed
        self._shuffle = shuffle
        #: Positions of each corpus in a block.
        self.shares = _shares(sizes, weights) if len(sizes) > 1 else (MIX_BLOCK,)
        self._block: tuple[int, list[int], list[int]] | None = None
        self._epochs: dict[int, tuple[int, torch.Tensor]] = {}

    def locate(self, position: int) -> tuple[int, int]:
        """(corpus, n): the corpus at `position`, and the number n of earlier positions of this corpus."""
        if len(self._sizes) == 1:
            return 0, position
        block, offset = divmod(position, MIX_BLOCK)
        if self._block is None or self._block[0] != block:
            slots = torch.arange(len(self.shares)).repeat_interleave(torch.tensor(self.shares))
            corpora = slots[permutation(MIX_BLOCK, self._seed, Draw.BLOCK, block)].tolist()
            times, before = [0] * len(self.shares), []
            for corpus in corpora:
                before.append(times[corpus])
                times[corpus] += 1
            self._block = block, corpora, before
        corpus = self._block[1][offset]
        return corpus, block * self.shares[corpus] + self._block[2][offset]

    def index(self, corpus: int, n: int) -> int:
        """Video of an indexed corpus at its position number n."""
        epoch, offset = divmod(n, self._sizes[corpus])
        if not self._shuffle:
            return offset
        if corpus not in self._epochs or self._epochs[corpus][0] != epoch:
            order = permutation(self._sizes[corpus], self._seed, Draw.EPOCH, corpus, epoch)
            self._epochs[corpus] = epoch, order
        return int(self._epochs[corpus][1][offset])

    def replacement(self, corpus: int, position: int, attempt: int) -> int:
        """Video to try at `position` after `attempt` broken ones."""
        return hash_counters(self._seed, Draw.REPLACEMENT, position, attempt) % self._sizes[corpus]


def _shares(sizes: Sequence[int | None], weights: Sequence[float | None]) -> tuple[int, ...]:
    """Whole positions per block, rounded by the method of largest remainders."""
    if all(weight is None for weight in weights):
        if None in sizes:
            raise ValueError("a mix with a streamed corpus, whose size is unknown, needs weights: use source=weight")
        weights = sizes
    for weight in weights:
        if weight is None or not 0 < weight < math.inf:
            raise ValueError(f"weight {weight} of {list(weights)} must be a finite number above 0: give all or none")
    exact = [weight / sum(weights) * MIX_BLOCK for weight in weights]
    shares = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda corpus: shares[corpus] - exact[corpus])
    for corpus in by_remainder[: MIX_BLOCK - sum(shares)]:
        shares[corpus] += 1
    if 0 in shares:
        corpus = shares.index(0)
        raise ValueError(
            f"weight {weights[corpus]} of {list(weights)} is below one position in {MIX_BLOCK}: give this corpus "
            f"at least {1 / MIX_BLOCK:.1%} of the weight"
        )
    return tuple(shares)
