"""Sequential corpora: one reader for each lane, and the cursors with which reading resumes."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from ..safety.private_names import check_private_names
from .clip_order import Draw
from .corpora import EncodedClip, SequentialCorpus
from .random_streams import hash_counters, permutation
from .remote_reading import TRIES, retry_delay, source_errors

check_private_names("datasets")
# Encoded videos are held in memory while they are shuffled: a lane never holds much more than this.
_MAX_CHUNK_BYTES = 256 * 2**20


class StreamError(ValueError):
    """A stream that cannot start, or not where it is asked to, with this number of workers or processes."""


def record_cursors(cursors: dict[str, str], batch: Sequence[str]) -> None:
    """
    Note the progress that a consumed batch reports: `batch` is its `"cursor"` list. `cursors` then has one
    entry per rank and lane and is what `StreamPosition.seek` takes; dicts of several ranks can be merged.
    """
    for cursor in batch:
        state = json.loads(cursor)
        cursors[f"{state['rank']}/{state['lane']}"] = cursor


class LaneReader:
    """
    One lane of a sequential corpus, endless: chunks of references are read, shuffled and handed out, so that a
    position in it is (epoch, state of the data set before the chunk, references handed out of the chunk).
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
        #: What to save to continue after the last reference handed out.
        self.state = state or {"epoch": 0, "row": 0, "dataset": None, "done": 0}
        self._references = self._iterate()

    def __next__(self) -> EncodedClip:
        return next(self._references)

    def _iterate(self) -> Iterator[EncodedClip]:
        state = self.state
        for epoch in count(state["epoch"]):
            # Lanes may hold different numbers of videos, and give equally many clips: so they change places.
            self._dataset, self._stride, self._offset = self._corpus.lane(
                (self._lane + epoch) % self._lanes, lanes=self._lanes
            )
            # Reorders the shards of this lane; 0 leaves them in place.
            self._dataset.set_epoch(
                hash_counters(self._seed, Draw.SHARDS, epoch) >> 32 if self._shuffle_buffer > 1 else 0
            )
            if state["dataset"] is not None:
                try:
                    self._dataset.load_state_dict(state["dataset"])
                except (AttributeError, LookupError, TypeError, ValueError) as error:
                    raise StreamError(
                        f"{self._corpus.name} has no place {state['dataset']!r}: resume from another checkpoint"
                    ) from error
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
                    reference, chunk[order[number]] = chunk[order[number]], None  # let go of the bytes
                    yield reference
                start, done = after, 0
            if empty and not self._num_failures:
                raise StreamError(
                    f"{self._corpus.name} has no rows for reader {self._lane} of {self._lanes}: use fewer "
                    "DataLoader workers or processes"
                )
            state = {"epoch": epoch + 1, "row": 0, "dataset": None, "done": 0}

    def _rows(self, first: int) -> Iterator[tuple[int, dict[str, list]]]:
        """
        The rows of this epoch with their numbers. Where the source fails it is opened anew; where it fails again and
        again, the rest of the shard is left out and counted as one broken video.
        """
        number, failures_in_a_row = first, 0
        while True:
            try:
                # Not `iter(dataset)`: in a DataLoader worker that would split the lane once more.
                for batch in self._dataset.iter(batch_size=1):
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
            where = f"row {number} of reader {self._lane}/{self._lanes}"
            chunk.append(self._corpus.encoded(row, where=where))
            size += len(chunk[-1].data)
            if len(chunk) == self._shuffle_buffer or size >= _MAX_CHUNK_BYTES:
                break
        return chunk


def _at_next_shard(state: dict[str, Any], *, where: str, error: Exception) -> dict[str, Any]:
    """The state of a data set, moved on to the beginning of its next shard."""
    place = state["examples_iterable"]
    if "shard_idx" not in place:
        raise StreamError(f"{where} cannot be read ({type(error).__name__}: {error}): repair it, or leave it out")
    return {**state, "examples_iterable": {**place, "shard_idx": place["shard_idx"] + 1, "shard_example_idx": 0}}


def read_cursor(cursor: str) -> dict[str, Any]:
    """What [`record_cursors`] collects, as it comes back from a file."""
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
        raise StreamError(f"{cursor[:80]!r} is no place in a streamed corpus: resume from another checkpoint")
    return state


__all__ = [
    "StreamError",
    "record_cursors",
]
