"""Videos and images for evaluation: each is read once, in fixed segments and views, without randomness."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset
from tqdm.auto import tqdm

from ..models.vjepa.clip_sampling import ClipSampling, segment_places
from ..models.vjepa.clip_transforms import resize_and_center_crop, resize_and_crop_views
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.decoding import Backend
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.sanitizing import without_secrets
from .clip_reading import BROKEN_VIDEO_ERRORS, BrokenVideoMonitor, describe_error, read_frames
from .corpora import Corpus, open_corpus
from .corpus import EncodedClip, IndexedCorpus
from .lanes import StreamError
from .remote_reading import source_errors
from .table_corpus import SequentialCorpus


@dataclass(frozen=True, kw_only=True)
class ClipGeometry:
    """
    Which clips and crops of each video are read.

    Args:
        crop_size: side of the square crops, in pixels.
        sampling: which frames make a clip.
        num_segments: clips of each video, spread evenly over the video (see [`read_segments`]).
        num_views: crops of each clip. One view is the centre crop; several lie along the long side, as published.
        backend: see [`read_clip`].

    Raises:
        ValueError: a number of segments or views below 1.
    """

    crop_size: int
    sampling: ClipSampling
    num_segments: int = 1
    num_views: int = 1
    backend: Backend = "pyav"

    def __post_init__(self) -> None:
        segment_places(self.num_segments)  # refuses numbers below 1
        if self.num_views < 1:
            raise ValueError(f"`num_views`={self.num_views} must be at least 1")

    @classmethod
    def for_model(
        cls, config: VJEPAConfig, processor: VJEPAVideoProcessor, *, sampling: Mapping[str, Any], **fields: Any
    ) -> "ClipGeometry":
        """
        Clips and crops for a model. `sampling` has arguments of [`ClipSampling`]; the processor of the model decides
        those that are missing or `None`.
        """
        sampled = processor.clip_sampling(**{"num_frames": config.frames_per_clip, **sampling})
        return cls(crop_size=config.crop_size, sampling=sampled, **fields)

    @property
    def noun(self) -> str:
        """What is read, in progress bars: a clip of one frame is an image."""
        return "image" if self.sampling.num_frames == 1 else "clip"

    @property
    def clips_per_video(self) -> int:
        """Clips that a model sees of each video, crops counted."""
        return self.num_segments * self.num_views

    def item(self, index: int, name: str, find: Callable[[], EncodedClip]) -> dict[str, Any]:
        """The item of [`EvaluationClips`] for the video that `find` opens; `name` stands for a broken video."""
        try:
            clip = find()
            frames = read_frames(clip, sampling=self.sampling, num_segments=self.num_segments, backend=self.backend)
        except BROKEN_VIDEO_ERRORS as error:
            return {"index": index, "path": name, "error": describe_error(error)}
        views = torch.stack([self._crops(segment) for segment in frames], dim=1)
        # An image is one frame: repeat it for every segment and every frame of a clip.
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
    segments, frames, 3, crop, crop). The item of a broken video has `error` instead of the last two, so that no video
    is left out silently. An image is a still clip.

    Args:
        corpus: the videos and images to evaluate.
        geometry: which clips and crops of each video are read.

    Raises:
        ValueError: a corpus that can only be streamed, or an empty one.
    """

    def __init__(self, corpus: IndexedCorpus, geometry: ClipGeometry) -> None:
        if isinstance(corpus, SequentialCorpus):
            raise ValueError(f"{corpus.name} can only be streamed: download it, and pass the folder or files")
        if len(corpus) == 0:
            raise ValueError("the data set holds no videos or images: check the folder, index or split")
        self.corpus, self.geometry = corpus, geometry

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.geometry.item(index, self.corpus.describe(index), partial(self.corpus.read, index))


class StreamedEvaluationClips(IterableDataset):
    """
    The items of a corpus that can only be read in order, from row `start` on, for a `DataLoader(batch_size=None)` with
    at most one worker. They come in lists of up to `batch_size`, which do not reach over a multiple of `shard_size`.
    `index` is the number of the row.

    Raises:
        StreamError: while iterating, if the source breaks off.
    """

    def __init__(
        self, corpus: SequentialCorpus, geometry: ClipGeometry, *, start: int, batch_size: int, shard_size: int
    ) -> None:
        self._corpus, self._geometry, self._start = corpus, geometry, start
        self._batch_size, self._shard_size = batch_size, shard_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        items = []
        for number, row in enumerate(self._rows(), start=self._start):
            clip = self._corpus.encoded(
                {name: cell[0] for name, cell in row.items()}, where=f"row {number}", needs_label=True
            )
            items.append(self._geometry.item(number, clip.path, lambda clip=clip: clip))
            if len(items) == self._batch_size or (number + 1) % self._shard_size == 0:
                yield items
                items = []
        if items:
            yield items

    def _rows(self) -> Iterator[dict[str, Any]]:
        dataset, _, _ = self._corpus.lane(0, lanes=1)
        try:
            # `iter(dataset)` would divide the rows among DataLoader workers.
            yield from dataset.skip(self._start).iter(batch_size=1)
        except source_errors() as error:
            raise StreamError(
                f"{self._corpus.name} breaks off ({without_secrets(str(error))}): repair it and run the same command "
                "again; what is finished stays"
            ) from error


def collate_evaluation_clips(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    A batch of items of [`EvaluationClips`].

    Returns:
        `pixel_values_videos`, uint8 (batch, views, segments, frames, 3, crop, crop), or `None` if all are broken;
        `labels` and `index`, int64 (batch,); `path`, a list. Broken videos are only in `broken`, a list of (index,
        path, error).
    """
    readable = [item for item in items if "error" not in item]
    return {
        "pixel_values_videos": torch.stack([item["pixel_values_videos"] for item in readable]) if readable else None,
        "labels": torch.tensor([item["label"] for item in readable], dtype=torch.int64),
        "index": torch.tensor([item["index"] for item in readable], dtype=torch.int64),
        "path": [item["path"] for item in readable],
        "broken": [(item["index"], item["path"], item["error"]) for item in items if "error" in item],
    }


def read_evaluation_clips(
    source: str | Corpus, *, crop_size: int, sampling: ClipSampling
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """
    Reads the centred clip of every video of a local corpus, cropped as for an encoder, so that baselines and encoders
    get the same pixels. All clips are held in memory. Broken videos are left out, and named in the log.

    Args:
        source: a folder, an index or an open corpus, see [`~data.corpora.open_corpus`].
        crop_size: side of the centre crop, in pixels.
        sampling: which frames make a clip.

    Returns:
        uint8 (videos, frames, crop_size, crop_size, 3); the labels of the corpus, int64 (videos,), -1 if unknown; and
        the path of each video.

    Raises:
        FileNotFoundError, ValueError: see [`~data.corpora.open_corpus`], or no video can be read.
        TooManyBrokenVideosError: see [`BrokenVideoMonitor`]; more than 5 % are broken.
    """
    geometry = ClipGeometry(crop_size=crop_size, sampling=sampling)
    videos = EvaluationClips(open_corpus(source), geometry)
    monitor = BrokenVideoMonitor(0.05)
    readable = []
    for index in tqdm(range(len(videos)), desc=f"{geometry.noun}s", unit=geometry.noun):
        item = videos[index]
        if "error" in item:
            monitor.failed(item["path"], item["error"])
        else:
            monitor.succeeded()
            readable.append(item)
    if not readable:
        raise ValueError(f"none of the {len(videos)} videos of {source} can be read: the warnings have the reasons")
    clips = torch.stack([item["pixel_values_videos"][0, 0].permute(0, 2, 3, 1).contiguous() for item in readable])
    labels = torch.tensor([item["label"] for item in readable], dtype=torch.int64)
    return clips, labels, [item["path"] for item in readable]
