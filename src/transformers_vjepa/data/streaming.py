"""
Corpora -> a shuffled, sharded, resumable stream of uint8 clips.

The stream is a function of the position: global batch `g` after `start` clips holds the positions

    start + g * world_size * batch_size + rank * batch_size + (0 ... batch_size - 1)

and a position determines the video, the clip, the crop and the flip. DataLoader worker `w` of `W` makes the
batches `w`, `w + W`, ... of its rank, which the DataLoader puts back in order. So the batches do not depend on the
number of workers, the ranks share out one global order, and resuming is starting at a clip, with any number of
ranks and clips per batch.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import get_worker_info

from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.clip_transforms import CROP_RATIO, CROP_SCALE, augment_clip, check_augmentation
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.decoding import Backend, VideoCache
from .clip_order import ClipOrder, Draw
from .clip_reading import BROKEN_VIDEO_ERRORS, BrokenVideoMonitor, ReadingWatch, check_broken_share, read_frames
from .corpora import Corpus, EncodedClip, SequentialCorpus, is_corpus, open_corpus
from .lanes import LaneReader, StreamError, read_cursor
from .random_streams import hash_counters


@dataclass(frozen=True)
class CorpusSource:
    """A corpus of a mix: anything that `open_corpus` takes, and its weight."""

    source: str | Dataset | IterableDataset | Corpus
    #: Share of the stream, relative to the other weights; `None` in all: in proportion to the number of videos.
    weight: float | None = None


def parse_sources(values: Sequence[str]) -> list[CorpusSource]:
    """
    Read command-line sources: `parse_sources(["k710.csv=0.6", "clips/=0.4"])`. The weight is what follows the
    last `=`, if that is a number and `value` no file or folder.
    """
    sources = []
    for value in values:
        if os.path.exists(os.path.expanduser(value)):
            sources.append(CorpusSource(value))
            continue
        name, _, weight = value.rpartition("=")
        try:
            sources.append(CorpusSource(name, float(weight)) if name else CorpusSource(value))
        except ValueError:  # an `=` in a path
            sources.append(CorpusSource(value))
    return sources


@dataclass
class StreamPosition:
    """
    Where a stream starts. The stream looks when it is iterated (that is, at `iter(dataloader)`), so a trainer
    can seek after it has loaded its state.

    Attributes:
        start_batch: batches of each rank already consumed (micro-batches, with gradient accumulation).
        start_clip: clips already consumed by all ranks together; `None`: as many as `start_batch` batches of this
            stream hold.
        cursors: progress in streamed corpora, as collected by `record_cursors`. Other ranks' entries are ignored.
        delivered: batches of each rank to pass over besides: a `ClipLoader` sets it while it starts new workers.
        unreadable: videos that have ended the process that read them, and why: they are skipped as broken ones.
        notes: folder in which a `ClipLoader` has its workers note what they read, see [`ReadingWatch`].
    """

    start_batch: int = 0
    start_clip: int | None = None
    cursors: dict[str, str] = field(default_factory=dict)
    delivered: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: str | None = None

    def seek(
        self, start_batch: int, *, start_clip: int | None = None, cursors: Mapping[str, str] | None = None
    ) -> None:
        """
        Continue after `start_batch` batches. Where they were of another size, or those of another number of ranks,
        `start_clip` says how many clips they were.

        Raises:
            ValueError: a negative batch or clip.
        """
        _check_at_least(start_batch=(start_batch, 0), start_clip=(start_clip or 0, 0))
        self.start_batch = start_batch
        self.start_clip = start_clip
        self.cursors = dict(cursors or {})


class _Item(NamedTuple):
    clip: EncodedClip
    frames: torch.Tensor
    num_skipped: int


def _check_workers(num_workers: int) -> tuple[int, int]:
    """(index, number) of the DataLoader worker this runs in; (0, 1) outside of one."""
    info = get_worker_info()
    if info is None:
        return 0, 1
    if info.num_workers != num_workers:
        raise StreamError(
            f"the DataLoader has num_workers={info.num_workers}, but the stream was made for "
            f"num_workers={num_workers}: give both the same number"
        )
    return info.id, info.num_workers


@dataclass(frozen=True)
class _ClipStream:
    """What the workers need to make their part of the stream; the DataLoader hands it to them."""

    corpora: tuple[Corpus, ...]
    weights: tuple[float | None, ...]
    crop_size: int
    sampling: ClipSampling
    position: StreamPosition
    seed: int
    rank: int
    world_size: int
    num_workers: int
    batch_size: int
    shuffle: bool
    shuffle_buffer: int
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    flip_probability: float
    backend: Backend
    max_broken_share: float
    num_segments: int
    cache_bytes: int
    decode_timeout: float

    @property
    def is_sequential(self) -> bool:
        return any(isinstance(corpus, SequentialCorpus) for corpus in self.corpora)

    def order(self) -> ClipOrder:
        sizes = [None if isinstance(corpus, SequentialCorpus) else len(corpus) for corpus in self.corpora]
        return ClipOrder(sizes, weights=self.weights, seed=self.seed, shuffle=self.shuffle)


class _Worker:
    """The part of a stream that one DataLoader worker makes."""

    def __init__(self, stream: _ClipStream) -> None:
        self._stream = stream
        self._worker, workers = _check_workers(stream.num_workers)
        self._workers = workers
        self._order = stream.order()
        self._monitor = BrokenVideoMonitor(stream.max_broken_share)
        self._watch = ReadingWatch(
            stream.decode_timeout, notes=stream.position.notes, unreadable=stream.position.unreadable
        )
        self._cache = VideoCache(stream.cache_bytes) if stream.cache_bytes else None
        self._states = self._load_cursors(stream.position.cursors)
        self._lanes = next((state["lanes"] for state in self._states.values()), workers)
        if self._lanes % workers:
            allowed = [n for n in range(1, self._lanes + 1) if self._lanes % n == 0]
            raise StreamError(
                f"num_workers={workers} cannot continue a stream saved with {self._lanes} lanes: choose one of "
                f"{[0, *allowed]}"
            )
        self._readers: dict[tuple[int, int], LaneReader] = {}

    def _load_cursors(self, cursors: Mapping[str, str]) -> dict[int, dict[str, Any]]:
        states = [read_cursor(cursor) for cursor in cursors.values()]
        for state in states:
            if state["world_size"] != self._stream.world_size:
                raise StreamError(
                    f"the cursors were saved by {state['world_size']} processes, this run has "
                    f"{self._stream.world_size}: a streamed corpus continues with the same number only, so launch "
                    f"with --num_processes {state['world_size']}"
                )
        if not states and self._stream.is_sequential and self._stream.position.start_batch:
            raise StreamError(
                f"a streamed corpus cannot go to batch {self._stream.position.start_batch} by itself: seek with "
                "the cursors that record_cursors collected up to there"
            )
        return {state["lane"]: state for state in states if state["rank"] == self._stream.rank}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        stream = self._stream
        start_batch, start_clip = stream.position.start_batch, stream.position.start_clip
        if start_clip is None:
            start_clip = start_batch * stream.world_size * stream.batch_size
        for batch in count(stream.position.delivered + self._worker, self._workers):
            first = start_clip + (batch * stream.world_size + stream.rank) * stream.batch_size
            lane = (start_batch + batch) % self._lanes
            for position in range(first, first + stream.batch_size):
                example = self._example(position, lane=lane)
                if stream.is_sequential:
                    example["cursor"] = self._cursor(lane)
                yield example

    def _example(self, position: int, *, lane: int) -> dict[str, Any]:
        stream = self._stream
        clip_seed = hash_counters(stream.seed, Draw.CLIP, position)
        # The crop draws from a generator of its own: decoding may draw more or fewer numbers.
        item = self._first_readable(position, lane=lane, clip_seed=clip_seed)
        generator = torch.Generator().manual_seed(hash_counters(clip_seed))
        segments = [
            augment_clip(
                frames,
                size=stream.crop_size,
                generator=generator,
                scale=stream.crop_scale,
                ratio=stream.crop_ratio,
                flip_probability=stream.flip_probability,
            )
            for frames in item.frames.expand(stream.num_segments, -1, -1, -1, -1)
        ]
        # A picture has been cropped once: its repeats cost nothing.
        pixels = torch.stack(segments).expand(-1, stream.sampling.num_frames, -1, -1, -1)
        return {
            "pixel_values_videos": pixels if stream.num_segments > 1 else pixels[0],
            "clip_seed": clip_seed,
            "path": item.clip.path,
            "label": item.clip.label,
            "num_skipped": item.num_skipped,
        }

    def _first_readable(self, position: int, *, lane: int, clip_seed: int) -> _Item:
        """The video due at `position`, or the first of its replacements that can be read."""
        stream = self._stream
        # Ends: when nothing can be read, the monitor raises.
        for attempt in count():
            path, find = self._due(position, lane=lane, attempt=attempt)
            generator = torch.Generator().manual_seed(clip_seed)
            try:
                with self._watch.reading(path):
                    clip = find()
                    frames = read_frames(
                        clip,
                        sampling=stream.sampling,
                        num_segments=stream.num_segments,
                        generator=generator,
                        backend=stream.backend,
                        cache=self._cache,
                        seed=clip_seed,
                    )
            except BROKEN_VIDEO_ERRORS as error:
                self._monitor.failed(path, error)
            else:
                self._monitor.succeeded()
                return _Item(clip, frames, attempt)
        raise AssertionError("unreachable")

    def _due(self, position: int, *, lane: int, attempt: int) -> tuple[str, Callable[[], EncodedClip]]:
        """Name of the video to try at `position` after `attempt` broken ones, and how to find it."""
        number, n = self._order.locate(position)
        corpus = self._stream.corpora[number]
        if isinstance(corpus, SequentialCorpus):
            clip = next(self._reader(number, lane))
            # Members of different tars may have the same name.
            return f"{clip.path}, {len(clip.data)} bytes", lambda: clip
        index = self._order.replacement(number, position, attempt) if attempt else self._order.index(number, n)
        return corpus.describe(index), partial(corpus.read, index)

    def _reader(self, corpus: int, lane: int) -> LaneReader:
        stream = self._stream
        if (corpus, lane) not in self._readers:
            self._readers[corpus, lane] = LaneReader(
                stream.corpora[corpus],
                lane=stream.rank * self._lanes + lane,
                lanes=stream.world_size * self._lanes,
                seed=hash_counters(stream.seed, corpus),
                shuffle_buffer=stream.shuffle_buffer if stream.shuffle else 1,
                state=self._states.get(lane, {}).get("readers", {}).get(str(corpus)),
                failed=self._monitor.failed,
            )
        return self._readers[corpus, lane]

    def _cursor(self, lane: int) -> str:
        """Progress of a lane after the example just made."""
        # A corpus that the lane has not needed since resuming stays where it was.
        readers = dict(self._states.get(lane, {}).get("readers", {}))
        readers |= {str(corpus): reader.state for (corpus, of), reader in self._readers.items() if of == lane}
        stream = self._stream
        return json.dumps(
            {
                "rank": stream.rank,
                "world_size": stream.world_size,
                "lane": lane,
                "lanes": self._lanes,
                "readers": readers,
            }
        )


def _check_at_least(**values: tuple[float, float]) -> None:
    for name, (value, bound) in values.items():
        if value < bound:
            raise ValueError(f"{name}={value} must be at least {bound}")


def _stream_lane(lanes: list[int], stream: _ClipStream) -> Iterator[dict[str, Any]]:
    """
    Generator behind the data set. `datasets` gives each DataLoader worker one of `lanes`, so that every
    worker runs it once; which part of the stream that is depends on the worker only, because `set_epoch`
    shuffles the lanes. Outside of a worker it is called for the lanes in turn; the first never ends.
    """
    yield from _Worker(stream)


def _as_sources(sources: Any) -> list[CorpusSource]:
    if isinstance(sources, str | os.PathLike | CorpusSource | Dataset | IterableDataset) or is_corpus(sources):
        sources = [sources]
    if not sources:
        raise ValueError("no source given: pass at least one folder, index, pattern or Hub data set id")
    return [source if isinstance(source, CorpusSource) else CorpusSource(source) for source in sources]


def open_source(source: CorpusSource, *, split: str, video_column: str | None) -> Corpus:
    """
    A corpus of a mix; see [`open_corpus`].

    Raises:
        FileNotFoundError: nothing is there, or nothing is in it.
        ValueError: it cannot be read.
    """
    corpus = open_corpus(source.source, split=split, video_column=video_column)
    if not isinstance(corpus, SequentialCorpus) and len(corpus) == 0:
        raise FileNotFoundError(f"{source.source} holds no videos or pictures")
    return corpus


def _check_frames(sampling: ClipSampling, config: VJEPAConfig) -> None:
    if sampling.num_frames != config.frames_per_clip:
        raise ValueError(
            f"sampling.num_frames={sampling.num_frames} differs from config.frames_per_clip="
            f"{config.frames_per_clip}: sample as many frames as the model takes"
        )


def clip_stream(
    sources: str
    | CorpusSource
    | Dataset
    | IterableDataset
    | Corpus
    | Sequence[str | CorpusSource | Dataset | IterableDataset | Corpus],
    *,
    config: VJEPAConfig,
    sampling: ClipSampling,
    position: StreamPosition | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    batch_size: int = 1,
    split: str = "train",
    video_column: str | None = None,
    shuffle: bool = True,
    shuffle_buffer: int = 256,
    crop_scale: tuple[float, float] = CROP_SCALE,
    crop_ratio: tuple[float, float] = CROP_RATIO,
    flip_probability: float = 0.5,
    backend: Backend = "pyav",
    max_broken_share: float = 0.05,
    num_segments: int = 1,
    cache_bytes: int = 0,
    decode_timeout: float = 60.0,
) -> IterableDataset:
    """
    The endless training stream of this process, for `DataLoader(stream, batch_size=batch_size,
    num_workers=num_workers)`. It is split over processes and workers already: do not split it again.

    A video that cannot be read is logged and replaced: by another of its corpus, drawn from the position, or
    in a streamed corpus by the next.

    Args:
        sources: one corpus or a mix, see [`open_corpus`] and [`CorpusSource`].
        config: geometry of the clips: `crop_size`, `frames_per_clip`.
        sampling: which frames make a clip; a picture is repeated to a clip.
        position: where to start. Keep the object, and `seek` to resume.
        seed: the same for all ranks; determines everything random.
        rank, world_size: this process among those that train.
        num_workers, batch_size: those of the DataLoader; `batch_size` is per process and micro-batch.
        split, video_column: see [`open_corpus`].
        shuffle: shuffle the videos; otherwise they come in the order of the corpus.
        shuffle_buffer: encoded videos that each lane of a streamed corpus holds to shuffle (fewer above 256
            MiB), besides its shards; with 1 it keeps the order of the corpus. On resume a lane reads again at
            most the references of one such chunk, plus what `datasets` needs to find its place in the shard.
        crop_scale, crop_ratio, flip_probability: see [`augment_clip`].
        backend: see [`read_clip`].
        max_broken_share: share of broken videos among the last `BROKEN_WINDOW` tried by a worker, above which
            the run stops; in [0, 1).
        num_segments: clips of each video, one at random in each of as many equal parts, cropped and flipped each by
            itself.
        cache_bytes: decoded video files that each worker keeps, see [`VideoCache`].
        decode_timeout: seconds to find and read one video; 0 for any time. The worker of a [`ClipLoader`] that takes
            longer is replaced, and the video skipped as a broken one. Elsewhere a warning names it.

    Returns:
        A data set of dicts: `pixel_values_videos`, uint8 (frames, 3, crop, crop), or with several segments
        (segments, frames, 3, crop, crop); `clip_seed`, a 63-bit int
        that is a function of seed and position; `path`; `label` (-1 if unknown); `num_skipped`, broken videos
        at this position; and, if a corpus is streamed, `cursor` for [`record_cursors`].

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: see [`open_corpus`] and [`ClipOrder`]; settings out of range. While iterating: a DataLoader
            with another number of workers, or cursors that do not fit.
        TooManyBrokenVideosError: while iterating.
    """
    _check_frames(sampling, config)
    check_broken_share(max_broken_share)
    check_augmentation(scale=crop_scale, ratio=crop_ratio, flip_probability=flip_probability)
    _check_at_least(
        batch_size=(batch_size, 1),
        shuffle_buffer=(shuffle_buffer, 1),
        num_workers=(num_workers, 0),
        num_segments=(num_segments, 1),
        cache_bytes=(cache_bytes, 0),
        decode_timeout=(decode_timeout, 0),
    )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} must lie in [0, world_size={world_size})")
    opened = _as_sources(sources)
    stream = _ClipStream(
        corpora=tuple(open_source(source, split=split, video_column=video_column) for source in opened),
        weights=tuple(source.weight for source in opened),
        crop_size=config.crop_size,
        sampling=sampling,
        position=StreamPosition() if position is None else position,
        seed=seed,
        rank=rank,
        world_size=world_size,
        num_workers=num_workers,
        batch_size=batch_size,
        shuffle=shuffle,
        shuffle_buffer=shuffle_buffer,
        crop_scale=crop_scale,
        crop_ratio=crop_ratio,
        flip_probability=flip_probability,
        backend=backend,
        max_broken_share=max_broken_share,
        num_segments=num_segments,
        cache_bytes=cache_bytes,
        decode_timeout=decode_timeout,
    )
    stream.order()  # refuses wrong weights here rather than in a worker
    return _lanes_dataset(_stream_lane, lanes=max(1, num_workers), stream=stream)


def _lanes_dataset(generator: Callable, *, lanes: int, **kwargs: Any) -> IterableDataset:
    """A data set of `lanes` shards, so that each of as many DataLoader workers gets one."""
    return IterableDataset.from_generator(generator, gen_kwargs={"lanes": list(range(lanes)), **kwargs})


__all__ = [
    "CorpusSource",
    "StreamPosition",
    "clip_stream",
    "open_source",
    "parse_sources",
]
