"""Videos and pictures as evaluation sees them: every one once, in fixed segments and views, and none at random."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm.auto import tqdm

from ..models.vjepa.clip_sampling import ClipSampling, segment_places
from ..models.vjepa.clip_transforms import resize_and_center_crop, resize_and_crop_views
from ..models.vjepa.decoding import Backend
from .clip_reading import BROKEN_VIDEO_ERRORS, BrokenVideoMonitor, describe_error, read_frames
from .corpora import Corpus, EncodedClip, IndexedCorpus, SequentialCorpus, open_corpus


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Makes the items of a data set; see [`EvaluationClips`]."""

    crop_size: int
    sampling: ClipSampling
    num_segments: int = 1
    num_views: int = 1
    backend: Backend = "pyav"

    def __post_init__(self) -> None:
        segment_places(self.num_segments)  # refuses less than one
        if self.num_views < 1:
            raise ValueError(f"`num_views`={self.num_views} must be at least 1")

    def item(self, index: int, name: str, find: Callable[[], EncodedClip]) -> dict[str, Any]:
        try:
            clip = find()
            frames = read_frames(clip, sampling=self.sampling, num_segments=self.num_segments, backend=self.backend)
        except BROKEN_VIDEO_ERRORS as error:
            return {"index": index, "path": name, "error": describe_error(error)}
        views = torch.stack([self._crops(segment) for segment in frames], dim=1)
        # The one frame of a picture stands for all of its clips.
        views = views.expand(-1, self.num_segments, self.sampling.num_frames, -1, -1, -1)
        return {"index": index, "path": clip.path, "label": clip.label, "pixel_values_videos": views}

    def _crops(self, frames: torch.Tensor) -> torch.Tensor:
        """(frames, 3, height, width) -> (views, frames, 3, crop, crop)."""
        if self.num_views == 1:
            return resize_and_center_crop(frames, size=self.crop_size)[None]
        return resize_and_crop_views(frames, size=self.crop_size, num_views=self.num_views)


class EvaluationClips(Dataset):
    """
    Map-style data set over a corpus, for a `DataLoader` with [`collate_evaluation_clips`].

    An item has `index` (in the corpus), `path`, `label` (-1 if unknown) and `pixel_values_videos`, uint8 (views,
    segments, frames, 3, crop, crop); or, where the video is broken, `error` instead of the last two: nothing is left
    out silently. One view is the centre crop, several lie along the long side, as published. Segments are spread
    evenly over the video (see [`read_segments`]). A picture is a still clip.

    Args:
        corpus: what to evaluate.
        crop_size: side of the square crops, in pixels.
        sampling: which frames make a clip.
        num_segments: clips of each video.
        num_views: crops of each clip.
        backend: see [`read_clip`].

    Raises:
        ValueError: a corpus that can only be streamed or has no videos, or numbers below 1.
    """

    def __init__(
        self,
        corpus: IndexedCorpus,
        *,
        crop_size: int,
        sampling: ClipSampling,
        num_segments: int = 1,
        num_views: int = 1,
        backend: Backend = "pyav",
    ) -> None:
        if isinstance(corpus, SequentialCorpus):
            raise ValueError(f"{corpus.name} can only be streamed: download it, and pass the folder or files")
        if len(corpus) == 0:
            raise ValueError("the data set holds no videos or pictures: check the folder, index or split")
        self.corpus = corpus
        self._reader = _Reader(
            crop_size=crop_size,
            sampling=sampling,
            num_segments=num_segments,
            num_views=num_views,
            backend=backend,
        )

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._reader.item(index, self.corpus.describe(index), partial(self.corpus.read, index))


class StreamedEvaluationClips(IterableDataset):
    """
    The same of a corpus that can only be read in order, from row `start` on: lists of up to `batch_size` items that
    do not reach over a multiple of `shard_size`, for a `DataLoader(batch_size=None)` with at most one worker.
    `index` is the number of the row. The other arguments are those of [`EvaluationClips`].
    """

    def __init__(
        self, corpus: SequentialCorpus, *, start: int, batch_size: int, shard_size: int, **geometry: Any
    ) -> None:
        self._corpus, self._start = corpus, start
        self._batch_size, self._shard_size = batch_size, shard_size
        self._reader = _Reader(**geometry)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        dataset, _, _ = self._corpus.lane(0, lanes=1)
        items = []
        # Not `iter(dataset)`, which looks for DataLoader workers to share the rows with.
        for number, row in enumerate(dataset.skip(self._start).iter(batch_size=1), start=self._start):
            clip = self._corpus.encoded({name: cell[0] for name, cell in row.items()}, where=f"row {number}")
            items.append(self._reader.item(number, clip.path, lambda clip=clip: clip))
            if len(items) == self._batch_size or (number + 1) % self._shard_size == 0:
                yield items
                items = []
        if items:
            yield items


def collate_evaluation_clips(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    The batch of some items of [`EvaluationClips`].

    Returns:
        `pixel_values_videos`, uint8 (batch, views, segments, frames, 3, crop, crop), or `None` where all are broken;
        `labels` and `index`, int64 (batch,); `path`, a list. The broken ones are not in these but in `broken`, a
        list of (index, path, error).
    """
    whole = [item for item in items if "error" not in item]
    return {
        "pixel_values_videos": torch.stack([item["pixel_values_videos"] for item in whole]) if whole else None,
        "labels": torch.tensor([item["label"] for item in whole], dtype=torch.int64),
        "index": torch.tensor([item["index"] for item in whole], dtype=torch.int64),
        "path": [item["path"] for item in whole],
        "broken": [(item["index"], item["path"], item["error"]) for item in items if "error" in item],
    }


def read_evaluation_clips(
    source: str | Corpus,
    *,
    crop_size: int,
    sampling: ClipSampling,
    batch_size: int = 32,
    num_workers: int = 0,
    max_broken_share: float = 0.05,
    progress: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """
    The centred clip of every video of a local corpus, cut out as an encoder sees it, so that baselines and features
    are told the same. All clips are held in memory.

    Args:
        source: a folder, an index or a corpus that is open, as [`~data.corpora.open_corpus`] takes it.
        crop_size: side of the centre crop, in pixels.
        sampling: which frames make a clip.
        max_broken_share: see [`~data.streaming.clip_stream`]; broken videos are left out.

    Returns:
        uint8 (videos, frames, crop_size, crop_size, 3); the labels of the corpus, int64 (videos,), -1 where it has
        none; and the path of each video.

    Raises:
        FileNotFoundError, ValueError: see [`~data.corpora.open_corpus`]; no video can be read.
    """
    videos = EvaluationClips(open_corpus(source), crop_size=crop_size, sampling=sampling)
    loader = DataLoader(videos, batch_size, num_workers=num_workers, collate_fn=collate_evaluation_clips)
    monitor = BrokenVideoMonitor(max_broken_share)
    clips, labels, paths = [], [], []
    for batch in tqdm(loader, desc="clips", unit="batch", disable=not progress):
        for _, path, error in batch["broken"]:
            monitor.failed(path, error)
        if batch["pixel_values_videos"] is None:
            continue
        clips.append(batch["pixel_values_videos"].flatten(0, 2).permute(0, 1, 3, 4, 2).contiguous())
        labels.append(batch["labels"])
        paths += batch["path"]
    if not clips:
        raise ValueError(f"none of the {len(videos)} videos of {source} can be read: see the warnings for the reasons")
    return torch.cat(clips), torch.cat(labels), paths


__all__ = [
    "EvaluationClips",
    "StreamedEvaluationClips",
    "collate_evaluation_clips",
    "read_evaluation_clips",
]
