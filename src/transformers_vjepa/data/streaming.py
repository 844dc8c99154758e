"""
Corpora -> a shuffled, sharded, resumable stream of uint8 clips.

The stream is a function of the position. In a run that starts after `start` clips, batch `g` of a rank holds the
positions

    start + g * world_size * batch_size + rank * batch_size + (0 ... batch_size - 1)

and a position determines the video, the clip, the crop and the flip. DataLoader worker `w` of `W` makes the batches
`w`, `w + W`, ... of its rank; the DataLoader restores their order. So the batches do not depend on the number of
workers, the ranks share one global order, and the stream can resume at any clip, with any number of ranks and any
batch size.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import get_worker_info

from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.clip_transforms import (
    CROP_RATIO,
    CROP_SCALE,
    AutoAugment,
    TrainingCrop,
    augment_clip,
    check_augmentation,
)
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.decoding import VideoCache
from .clip_order import ClipOrder, Draw
from .clip_reading import BROKEN_VIDEO_ERRORS, BrokenVideoMonitor, Decoding, ReadingWatch, read_frames
from .corpora import Corpus, is_corpus, open_corpus
from .corpus import EncodedClip
from .lanes import LaneReader, StreamError, read_cursor
from .random_streams import hash_counters
from .table_corpus import SequentialCorpus

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True)
class CorpusSource:
    """One corpus of a mix."""

    #: Anything that `open_corpus` takes.
    source: str | Dataset | IterableDataset | Corpus
    #: Share of the stream, relative to the other weights. `None` in all: in proportion to the numbers of videos.
    weight: float | None = None


#: A corpus, with or without a weight.
Source = str | Dataset | IterableDataset | Corpus | CorpusSource


def parse_sources(values: Sequence[str]) -> list[CorpusSource]:
    """
    Read command-line sources: `parse_sources(["k710.csv=0.6", "clips/=0.4"])`. A number after the last `=` is the
    weight, unless the whole value is an existing file or folder, or the number is a value in the query of an address
    (`https://host/x.tar?expires=3600`; with a weight: `https://host/x.tar?expires=3600=0.3`).
    """
    sources = []
    for value in values:
        name, _, weight = value.rpartition("=")
        is_query = "://" in name and re.search(r"[?&][^?&=]*$", name)
        if not name or is_query or os.path.exists(os.path.expanduser(value)):
            sources.append(CorpusSource(value))
            continue
        try:
            sources.append(CorpusSource(name, float(weight)))
        except ValueError:  # the path itself contains an `=`
            sources.append(CorpusSource(value))
    return sources


@dataclass(frozen=True)
class StreamShare:
    """
    Which part of the stream this process reads, among the processes that train together.

    Args:
        rank: number of this process, from 0.
        world_size: number of processes.
        num_workers: workers of the DataLoader.
        batch_size: clips in a batch of the DataLoader (per process and micro-batch).

    Raises:
        ValueError: a number out of range.
    """

    rank: int = 0
    world_size: int = 1
    num_workers: int = 0
    batch_size: int = 1

    def __post_init__(self) -> None:
        _check_at_least(batch_size=(self.batch_size, 1), num_workers=(self.num_workers, 0))
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank={self.rank} must lie in [0, world_size={self.world_size})")

    @classmethod
    def from_training_arguments(cls, args: "TrainingArguments") -> "StreamShare":
        """The share of this process in the training that `args` describes."""
        return cls(
            rank=args.process_index,
            world_size=args.world_size,
            num_workers=args.dataloader_num_workers,
            batch_size=args.per_device_train_batch_size,
        )


@dataclass(frozen=True)
class Augmentation:
    """
    Random crop and flip of the training clips, the same for all frames of a clip; see [`augment_clip`]. The defaults
    are those of the published pretraining.

    Args:
        crop: `"random"`, a random resized crop; or `"center"`, the crop of the evaluation.
        crop_scale: smallest and largest share of the frame's area, in (0, 1].
        crop_ratio: smallest and largest width / height of the crop.
        flip_probability: probability of a horizontal flip, in [0, 1].
        auto_augment: `"rand"` for RandAugment after crop and flip, or `"none"`.

    Raises:
        ValueError: a value out of range.
    """

    crop_scale: tuple[float, float] = CROP_SCALE
    crop_ratio: tuple[float, float] = CROP_RATIO
    flip_probability: float = 0.5
    auto_augment: AutoAugment = "none"
    crop: TrainingCrop = "random"

    def __post_init__(self) -> None:
        check_augmentation(
            scale=self.crop_scale,
            ratio=self.crop_ratio,
            flip_probability=self.flip_probability,
            auto_augment=self.auto_augment,
            crop=self.crop,
            prefix="crop_",
        )


@dataclass
class StreamPosition:
    """
    Where a stream starts. The stream reads its position when iteration starts (at `iter(dataloader)`), so a trainer
    can seek after it has loaded its state.

    Attributes:
        start_batch: batches that each rank has already consumed (micro-batches, with gradient accumulation).
        start_clip: clips that all ranks together have already consumed. `None`: the clips of `start_batch` batches of
            this stream.
        cursors: progress in streamed corpora, as collected by `record_cursors`. Entries of other ranks are ignored.
        delivered: batches to skip in addition; a `ClipLoader` sets it while it starts new workers.
        unreadable: videos whose reading has ended a process, and why. The stream skips them as broken videos.
        notes: folder in which the workers of a `ClipLoader` note which video they read, see [`ReadingWatch`].
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
        Resume after `start_batch` batches. If these had another size or came from another number of ranks, pass the
        number of their clips as `start_clip`.

        Raises:
            ValueError: a negative batch or clip.
        """
        _check_at_least(start_batch=(start_batch, 0), start_clip=(start_clip or 0, 0))
        self.start_batch = start_batch
        self.start_clip = start_clip
        self.cursors = dict(cursors or {})


def _check_at_least(**values: tuple[float, float]) -> None:
    for name, (value, bound) in values.items():
        if value < bound:
            raise ValueError(f"{name}={value} must be at least {bound}")


def _check_workers(num_workers: int) -> tuple[int, int]:
    """(index, number) of the DataLoader worker that runs this code; (0, 1) outside of a worker."""
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
    """What the workers need to make their part of the stream. The DataLoader sends it to them."""

    corpora: tuple[Corpus, ...]
    weights: tuple[float | None, ...]
    crop_size: int
    sampling: ClipSampling
    position: StreamPosition
    seed: int
    share: StreamShare
    augmentation: Augmentation
    decoding: Decoding
    shuffle: bool
    shuffle_buffer: int
    num_segments: int

    def __post_init__(self) -> None:
        _check_at_least(shuffle_buffer=(self.shuffle_buffer, 1), num_segments=(self.num_segments, 1))
        self.order()  # raises for wrong weights now, not later in a worker

    @property
    def is_sequential(self) -> bool:
        return any(isinstance(corpus, SequentialCorpus) for corpus in self.corpora)

    def order(self) -> ClipOrder:
        sizes = [None if isinstance(corpus, SequentialCorpus) else len(corpus) for corpus in self.corpora]
        return ClipOrder(sizes, weights=self.weights, seed=self.seed, shuffle=self.shuffle)

    def dataset(self) -> IterableDataset:
        lanes = list(range(max(1, self.share.num_workers)))  # one shard for each worker
        return IterableDataset.from_generator(_stream_lane, gen_kwargs={"lanes": lanes, "stream": self})


class _Worker:
    """The part of a stream that one DataLoader worker makes."""

    def __init__(self, stream: _ClipStream) -> None:
        self._stream = stream
        self._worker, self._workers = _check_workers(stream.share.num_workers)
        self._order = stream.order()
        decoding, position = stream.decoding, stream.position
        kind = "image" if stream.sampling.num_frames == 1 else "video"
        self._monitor = BrokenVideoMonitor(decoding.max_broken_share, kind=kind)
        self._watch = ReadingWatch(decoding.timeout, notes=position.notes, unreadable=position.unreadable)
        self._cache = VideoCache(decoding.cache_bytes) if decoding.cache_bytes else None
        self._states = self._load_cursors(position.cursors)
        self._lanes = next((state["lanes"] for state in self._states.values()), self._workers)
        if self._lanes % self._workers:
            allowed = [n for n in range(1, self._lanes + 1) if self._lanes % n == 0]
            raise StreamError(
                f"num_workers={self._workers} cannot continue a stream that was saved with {self._lanes} lanes: "
                f"choose one of {[0, *allowed]}"
            )
        self._readers: dict[tuple[int, int], LaneReader] = {}

    def _load_cursors(self, cursors: Mapping[str, str]) -> dict[int, dict[str, Any]]:
        """The saved state of every lane of this rank."""
        share, start_batch = self._stream.share, self._stream.position.start_batch
        states = [read_cursor(cursor) for cursor in cursors.values()]
        for state in states:
            if state["world_size"] != share.world_size:
                raise StreamError(
                    f"the cursors were saved by {state['world_size']} processes, this run has {share.world_size}: a "
                    "streamed corpus can resume with the same number only, so launch with --num_processes "
                    f"{state['world_size']}"
                )
        if not states and self._stream.is_sequential and start_batch:
            raise StreamError(
                f"a streamed corpus cannot seek to batch {start_batch} without cursors: pass the cursors that "
                "record_cursors collected up to that batch"
            )
        return {state["lane"]: state for state in states if state["rank"] == share.rank}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        share, position = self._stream.share, self._stream.position
        start_batch, start_clip = position.start_batch, position.start_clip
        if start_clip is None:
            start_clip = start_batch * share.world_size * share.batch_size
        for batch in count(position.delivered + self._worker, self._workers):
            first = start_clip + (batch * share.world_size + share.rank) * share.batch_size
            lane = (start_batch + batch) % self._lanes
            for clip in range(first, first + share.batch_size):
                example = self._example(clip, lane=lane)
                if self._stream.is_sequential:
                    example["cursor"] = self._cursor(lane)
                yield example

    def _example(self, position: int, *, lane: int) -> dict[str, Any]:
        stream = self._stream
        clip_seed = hash_counters(stream.seed, Draw.CLIP, position)
        clip, frames, num_skipped = self._first_readable(position, lane=lane, clip_seed=clip_seed)
        # The crop has a generator of its own, because the number of draws of the decoding varies.
        generator = torch.Generator().manual_seed(hash_counters(clip_seed))
        segments = [
            augment_clip(
                segment,
                size=stream.crop_size,
                generator=generator,
                scale=stream.augmentation.crop_scale,
                ratio=stream.augmentation.crop_ratio,
                flip_probability=stream.augmentation.flip_probability,
                auto_augment=stream.augmentation.auto_augment,
                crop=stream.augmentation.crop,
            )
            for segment in frames.expand(stream.num_segments, -1, -1, -1, -1)
        ]
        # An image is cropped once, then repeated as a view that copies nothing.
        pixels = torch.stack(segments).expand(-1, stream.sampling.num_frames, -1, -1, -1)
        return {
            "pixel_values_videos": pixels if stream.num_segments > 1 else pixels[0],
            "clip_seed": clip_seed,
            "path": clip.path,
            "label": clip.label,
            "num_skipped": num_skipped,
        }

    def _first_readable(self, position: int, *, lane: int, clip_seed: int) -> tuple[EncodedClip, torch.Tensor, int]:
        """The video at `position`, or its first replacement that can be read; its frames; the broken videos before."""
        stream = self._stream
        for attempt in count():  # until a video can be read, or the monitor raises
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
                        backend=stream.decoding.backend,
                        cache=self._cache,
                        seed=clip_seed,
                    )
            except BROKEN_VIDEO_ERRORS as error:
                self._monitor.failed(path, error)
            else:
                self._monitor.succeeded()
                return clip, frames, attempt

    def _due(self, position: int, *, lane: int, attempt: int) -> tuple[str, Callable[[], EncodedClip]]:
        """Name of the video to try at `position` after `attempt` broken ones, and a function that finds the video."""
        number, n = self._order.locate(position)
        corpus = self._stream.corpora[number]
        if isinstance(corpus, SequentialCorpus):
            clip = next(self._reader(number, lane))
            # The size tells apart members of different tars that have the same name.
            return f"{clip.path}, {len(clip.data)} bytes", lambda: clip
        index = self._order.replacement(number, position, attempt) if attempt else self._order.index(number, n)
        return corpus.describe(index), partial(corpus.read, index)

    def _reader(self, corpus: int, lane: int) -> LaneReader:
        stream = self._stream
        if (corpus, lane) not in self._readers:
            self._readers[corpus, lane] = LaneReader(
                stream.corpora[corpus],
                lane=stream.share.rank * self._lanes + lane,
                lanes=stream.share.world_size * self._lanes,
                seed=hash_counters(stream.seed, corpus),
                shuffle_buffer=stream.shuffle_buffer if stream.shuffle else 1,
                state=self._saved_readers(lane).get(str(corpus)),
                failed=self._monitor.failed,
            )
        return self._readers[corpus, lane]

    def _saved_readers(self, lane: int) -> dict[str, Any]:
        return self._states.get(lane, {}).get("readers", {})

    def _cursor(self, lane: int) -> str:
        """Progress of a lane after its last example."""
        readers = {str(corpus): reader.state for (corpus, of), reader in self._readers.items() if of == lane}
        return json.dumps(
            {
                "rank": self._stream.share.rank,
                "world_size": self._stream.share.world_size,
                "lane": lane,
                "lanes": self._lanes,
                # A corpus that the lane has not read since resuming keeps its saved state.
                "readers": self._saved_readers(lane) | readers,
            }
        )


def _stream_lane(lanes: list[int], stream: _ClipStream) -> Iterator[dict[str, Any]]:
    """
    Generator behind the data set. `datasets` gives each DataLoader worker one of `lanes`, so that every worker runs
    the generator once. The worker alone determines its part of the stream, because `set_epoch` shuffles the lanes.
    Outside of a worker `datasets` calls the generator for one lane after the other, and the first lane never ends.
    """
    yield from _Worker(stream)


def _as_sources(sources: Source | Sequence[Source]) -> list[CorpusSource]:
    if isinstance(sources, str | os.PathLike | CorpusSource | Dataset | IterableDataset) or is_corpus(sources):
        sources = [sources]
    if not sources:
        raise ValueError("no source given: pass at least one folder, index, pattern or Hub data set id")
    return [source if isinstance(source, CorpusSource) else CorpusSource(source) for source in sources]


def _check_frames(sampling: ClipSampling, config: VJEPAConfig) -> None:
    if sampling.num_frames != config.frames_per_clip:
        raise ValueError(
            f"sampling.num_frames={sampling.num_frames} differs from config.frames_per_clip="
            f"{config.frames_per_clip}: give both the same number"
        )


def open_source(source: CorpusSource, *, split: str, video_column: str | None) -> Corpus:
    """
    Open a corpus of a mix; see [`open_corpus`].

    Raises:
        FileNotFoundError: the source does not exist, or holds no videos or images.
        ValueError: the source cannot be read.
    """
    corpus = open_corpus(source.source, split=split, video_column=video_column)
    if not isinstance(corpus, SequentialCorpus) and len(corpus) == 0:
        raise FileNotFoundError(f"{source.source} holds no videos or images: check the folder, index or pattern")
    return corpus


def clip_stream(
    sources: Source | Sequence[Source],
    *,
    config: VJEPAConfig,
    sampling: ClipSampling,
    position: StreamPosition | None = None,
    seed: int = 0,
    share: StreamShare = StreamShare(),  # noqa: B008
    augmentation: Augmentation = Augmentation(),  # noqa: B008
    decoding: Decoding = Decoding(),  # noqa: B008
    shuffle: bool = True,
    shuffle_buffer: int = 256,
    num_segments: int = 1,
    split: str = "train",
    video_column: str | None = None,
) -> IterableDataset:
    """
    The endless training stream of this process. It is already split over processes and workers: do not split it again.
    A video that cannot be read is logged and replaced, by a random video of its corpus or the next streamed one.

    Args:
        sources: one corpus or a mix, see [`CorpusSource`]; as `split` and `video_column`, see [`open_corpus`].
        config, sampling: size of the clips (`crop_size`, `frames_per_clip`), and their frames; an image is repeated.
        position: where to start; call its `seek` to resume.
        seed: determines everything random; the same for all ranks.
        share, augmentation, decoding: see [`StreamShare`], [`Augmentation`] and [`Decoding`].
        shuffle, shuffle_buffer: whether to shuffle; a streamed corpus shuffles in a buffer, see [`LaneReader`].
        num_segments: clips of each video: one at random in each equal part of the video, with its own crop.

    Returns:
        A data set of dicts: `pixel_values_videos`, uint8 (frames, 3, crop, crop), or (segments, frames, ...); `path`;
        `clip_seed`, a 63-bit function of seed and position; `label` (-1 if unknown); `num_skipped`, broken videos at
        this position; and, if a corpus is streamed, `cursor` for [`record_cursors`].

    Raises:
        FileNotFoundError, ValueError: see [`open_corpus`] and [`ClipOrder`]; while iterating, workers or cursors that
            do not fit, or (TooManyBrokenVideosError) too many broken videos.

    Examples:
    ```python
    from torch.utils.data import DataLoader
    from transformers_vjepa import ClipSampling, StreamShare, VJEPAConfig, clip_stream

    config = VJEPAConfig(crop_size=32, patch_size=8, frames_per_clip=8)
    sampling = ClipSampling(num_frames=8, frame_step=1)
    stream = clip_stream("videos", config=config, sampling=sampling, share=StreamShare(batch_size=2))
    print(next(iter(DataLoader(stream, batch_size=2)))["pixel_values_videos"].shape)  # (2, 8, 3, 32, 32)
    ```
    """
    _check_frames(sampling, config)
    opened = _as_sources(sources)
    return _ClipStream(
        corpora=tuple(open_source(source, split=split, video_column=video_column) for source in opened),
        weights=tuple(source.weight for source in opened),
        crop_size=config.crop_size,
        sampling=sampling,
        position=StreamPosition() if position is None else position,
        seed=seed,
        share=share,
        augmentation=augmentation,
        decoding=decoding,
        shuffle=shuffle,
        shuffle_buffer=shuffle_buffer,
        num_segments=num_segments,
    ).dataset()
