"""Sequential corpora: one reader for each lane, and the cursors from which reading resumes."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from ..safety.private_names import check_private_names
from .clip_order import Draw
from .corpus import EncodedClip
from .random_streams import hash_counters, permutation
from .remote_reading import TRIES, retry_delay, source_errors
from .table_corpus import SequentialCorpus

check_private_names("datasets")
# Limit for the encoded videos that a lane holds in memory to shuffle them. The last video may exceed it.
_MAX_CHUNK_BYTES = 256 * 2**20


class StreamError(ValueError):
    """A stream that cannot start or resume with these settings, workers or processes, or that breaks off."""


def record_cursors(cursors: dict[str, str], batch: Sequence[str]) -> None:
    """
    Add the progress of a consumed batch to `cursors`; `batch` is the `"cursor"` list of the batch.

    `cursors` then has one entry per rank and lane; pass it to `StreamPosition.seek` to resume. The dicts of several
    ranks can be merged.
    """
    for cursor in batch:
        state = json.loads(cursor)
        cursors[f"{state['rank']}/{state['lane']}"] = cursor


class LaneReader:
    """
    One lane of a sequential corpus, an endless iterator over encoded clips.

    The reader reads a chunk of clips, shuffles the chunk and returns its clips one by one. So a position is (epoch,
    state of the data set before the chunk, clips already returned from the chunk). A lane that resumes reads at most
    one chunk again, and as much as `datasets` needs to find its place in the shard.

    Args:
        corpus: what to read.
        lane, lanes: number of this lane, and of all lanes of all processes.
        seed: determines the order.
        shuffle_buffer: clips in a chunk (fewer above 256 MiB); the shards are shuffled as well. With 1 the corpus
            keeps its order.
        state: the `state` of an earlier reader, to resume; `None` to start.
        failed: called with the name and the error of a shard that cannot be read to its end.

    Raises:
        StreamError: while iterating: a state that does not fit the corpus, or no rows for this lane.
    """

    def __init__(
        self,
        corpus: SequentialCorpus,
        *,
        lane: int,
        lanes: int,
        seed: int,
        shuffle_buffer: int,
        state: dict[str, Any] | None,
        failed: Callable[[str, Exception], None],
    ) -> None:
        self._corpus = corpus
        self._failed = failed
        self._lane, self._lanes, self._seed, self._shuffle_buffer = lane, lanes, seed, shuffle_buffer
        #: Save this to resume after the last clip that was returned.
        self.state = state or {"epoch": 0, "row": 0, "dataset": None, "done": 0}
        self._clips = self._iterate()

    def __next__(self) -> EncodedClip:
        return next(self._clips)

    def _iterate(self) -> Iterator[EncodedClip]:
        state = self.state
        for epoch in count(state["epoch"]):
            self._open(epoch, state["dataset"])
            self._num_failures = 0
            rows = self._rows(state["row"])
            start, done, empty = dict(state), state["done"], state["row"] == 0
            while chunk := self._read_chunk(rows):
                empty = False
                after = {**start, "row": self._next_row, "dataset": self._dataset.state_dict(), "done": 0}
                order = self._chunk_order(len(chunk), epoch=epoch, row=start["row"])
                for number in range(done, len(chunk)):
                    last = number + 1 == len(chunk)
                    self.state = after if last else {**start, "done": number + 1}
                    clip, chunk[order[number]] = chunk[order[number]], None  # frees the bytes
                    yield clip
                start, done = after, 0
            if empty and not self._num_failures:
                raise StreamError(
                    f"{self._corpus.name} has no rows for reader {self._lane} of {self._lanes}: use fewer "
                    "DataLoader workers or processes"
                )
            state = {"epoch": epoch + 1, "row": 0, "dataset": None, "done": 0}

    def _open(self, epoch: int, state: dict[str, Any] | None) -> None:
        """Open the part of the corpus that this lane reads in an epoch, and seek to `state`."""
        # Lanes return equally many clips but may hold different numbers of videos: rotate the parts between epochs.
        self._dataset, self._stride, self._offset = self._corpus.lane(
            (self._lane + epoch) % self._lanes, lanes=self._lanes
        )
        # Shuffles the shards of this lane; 0 keeps their order.
        self._dataset.set_epoch(hash_counters(self._seed, Draw.SHARDS, epoch) >> 32 if self._shuffle_buffer > 1 else 0)
        self._unproven = state  # `datasets` checks a state only when it reads the first row
        if state is not None:
            self._dataset.load_state_dict(state)

    def _rows(self, first: int) -> Iterator[tuple[int, dict[str, list]]]:
        """The rows of this epoch with their numbers; after `TRIES` errors in a row the rest of a shard is skipped."""
        number, failures_in_a_row = first, 0
        while True:
            try:
                # Not `iter(dataset)`, which would split the lane again in a DataLoader worker.
                for batch in self._dataset.iter(batch_size=1):
                    self._unproven = None
                    yield number, batch
                    number, failures_in_a_row = number + 1, 0
                return
            except source_errors() as error:
                self._num_failures += 1
                failures_in_a_row += 1
                state = self._dataset.state_dict()
                if failures_in_a_row < TRIES:
                    time.sleep(retry_delay(failures_in_a_row, seed=hash_counters(self._seed, self._lane, number)))
                else:
                    where = f"{self._corpus.name}, the rest of a shard from row {number} of reader {self._lane} on"
                    self._failed(where, error)
                    state, failures_in_a_row = _at_next_shard(state, where=where, error=error), 0
                self._dataset.load_state_dict(state)
            except (AttributeError, LookupError, SystemError, TypeError, ValueError) as error:
                if self._unproven is None:
                    raise
                raise StreamError(
                    f"{self._corpus.name} has no place {self._unproven!r}: resume from another checkpoint"
                ) from error

    def _chunk_order(self, length: int, *, epoch: int, row: int) -> list[int]:
        if self._shuffle_buffer == 1:
            return list(range(length))
        return permutation(length, self._seed, Draw.CHUNK, self._lane, epoch, row).tolist()

    def _read_chunk(self, rows: Iterator[tuple[int, dict[str, list]]]) -> list[EncodedClip]:
        chunk: list[EncodedClip] = []
        size = 0
        for number, batch in rows:
            self._next_row = number + 1
            if number % self._stride != self._offset:
                continue
            row = {name: cell[0] for name, cell in batch.items()}
            chunk.append(self._corpus.encoded(row, where=f"row {number} of reader {self._lane}/{self._lanes}"))
            size += len(chunk[-1].data)
            if len(chunk) == self._shuffle_buffer or size >= _MAX_CHUNK_BYTES:
                break
        return chunk


def _at_next_shard(state: dict[str, Any], *, where: str, error: Exception) -> dict[str, Any]:
    """The state of a data set that has moved to the start of its next shard."""
    # The layout of these states is private to `datasets`; no other code of this file depends on it.
    place = state["examples_iterable"]
    if "shard_idx" not in place:
        raise StreamError(f"{where} cannot be read ({type(error).__name__}: {error}): repair or remove the shard")
    return {**state, "examples_iterable": {**place, "shard_idx": place["shard_idx"] + 1, "shard_example_idx": 0}}


def read_cursor(cursor: str) -> dict[str, Any]:
    """
    Parse and check a cursor that [`record_cursors`] collected, for example one from a checkpoint.

    Raises:
        StreamError: the cursor is damaged.
    """
    try:
        state = json.loads(cursor)
        readers = state["readers"].values()
        numbers = [state[name] for name in ("rank", "world_size", "lane", "lanes")]
        numbers += [reader[name] for reader in readers for name in ("epoch", "row", "done")]
        is_sound = all(type(number) is int and number >= 0 for number in numbers) and state["lanes"] > 0
        is_sound &= all(isinstance(reader["dataset"], dict | None) for reader in readers)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        is_sound = False
    if not is_sound:
        raise StreamError(f"{cursor[:80]!r} is not a place in a streamed corpus: resume from another checkpoint")
    return state
