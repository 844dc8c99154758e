"""
Arguments that several commands share: data sets and their splits; how clips are sampled, augmented and decoded; the
data set of a single pass, and how the processes of such a pass start.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers.hf_argparser import HfArg

from ..command_line.parsing import check_processes
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.decoding import Backend
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from .clip_reading import check_broken_share
from .corpora import Corpus, open_corpus
from .evaluation_clips import ClipGeometry
from .table_corpus import SequentialCorpus

Dtype = Literal["float32", "bfloat16", "float16"]


#: Options of which one is enough: each says how far apart the frames of a clip are.
SPACINGS = frozenset({"frame_step", "target_fps", "clip_duration"})


@dataclass(kw_only=True)
class SourceArguments:
    """Where videos come from. The classes here are bases of the data arguments of commands."""

    dataset: str | list[str]  # the first option in --help; each command describes its own
    split: str = HfArg(default="train", help="Split of a Hub data set.")
    video_column: str | None = HfArg(default=None, help="Column of a Hub or Parquet data set.")


@dataclass(kw_only=True)
class SplitArguments:
    """Labelled videos, and the test clips among them."""

    dataset: str
    test_dataset: str | None = HfArg(default=None, help="Test clips, if they are a separate data set.")
    num_folds: int | None = HfArg(
        default=None,
        help="Cross-validation: divide the groups (--group_pattern) into this number of folds; --fold is the test "
        "fold.",
    )
    fold: int | None = HfArg(
        default=None, help="Test fold of this run, from 0 to num_folds - 1; the other folds are trained on."
    )
    group_pattern: str | None = HfArg(
        default=None,
        help="Regular expression; the part in brackets is the group of a clip in its path. A group stays in one "
        "split.",
    )


@dataclass
class SamplingArguments:
    """Which frames of a video make a clip."""

    frame_step: int | None = HfArg(default=None, help="Frames from one frame of a clip to the next (4).")
    target_fps: float | None = HfArg(default=None, help="Frames per second of a clip, instead.")
    clip_duration: float | None = HfArg(default=None, help="Seconds that a clip lasts, instead.")
    short_videos: Literal["repeat_last", "refuse"] = HfArg(
        default="repeat_last",
        help="Videos that end before a clip does: repeat their last frame, or skip them as broken ones. Videos with "
        "fewer frames than a clip are skipped in any case.",
    )

    def _sampling(self) -> dict[str, Any]:
        """Arguments of [`ClipSampling`]."""
        return {
            "frame_step": self.frame_step,
            "target_fps": self.target_fps,
            "duration": self.clip_duration,
            "short_video": self.short_videos,
        }

    def clip_sampling(self, num_frames: int) -> ClipSampling:
        """The sampling of clips of `num_frames` frames."""
        return ClipSampling(num_frames=num_frames, **self._sampling())


@dataclass
class ViewArguments(SamplingArguments):
    """The clips and crops of a video that a trained model sees."""

    frame_step: int | None = HfArg(
        default=None, help="Frames from one frame of a clip to the next. Default: as the model was trained, or 4."
    )
    num_segments: int = HfArg(
        default=1, help="Clips of each video, evenly spaced (one: in the middle); a classifier pools them together."
    )
    num_views: int = HfArg(
        default=1,
        help="Crops of each clip in evaluation, along its long side (one: the centre); a classifier averages them.",
    )
    spacing: Literal["stride", "linspace"] = HfArg(
        default="stride", help="Place frames at the exact step, or evenly and rounded, as the published evaluation."
    )

    def geometry(self, config: VJEPAConfig, processor: VJEPAVideoProcessor, *, backend: Backend) -> ClipGeometry:
        """The clips and crops of each video for a model; see [`ClipGeometry.for_model`]."""
        sampling = {**self._sampling(), "spacing": self.spacing}
        views = {"num_segments": self.num_segments, "num_views": self.num_views, "backend": backend}
        return ClipGeometry.for_model(config, processor, sampling=sampling, **views)


@dataclass
class AugmentationArguments:
    """How a training clip is cropped and flipped."""

    crop_scale: list[float] = HfArg(
        default_factory=lambda: [0.3, 1.0], help="Least and largest area of a random crop."
    )
    crop_ratio: list[float] = HfArg(
        default_factory=lambda: [0.75, 1.35], help="Least and largest width/height of a random crop."
    )
    flip_probability: float = HfArg(default=0.5, help="Probability of a horizontal flip.")


@dataclass
class DecodingArguments:
    """How videos are decoded, and how many broken ones a run accepts."""

    decoder: Literal["pyav", "decord", "torchcodec"] = HfArg(default="pyav", help="Video decoder.")
    max_broken_share: float = HfArg(
        default=0.05, help="Stop above this share of broken videos among the last 1,000, from 20 of them on."
    )


@dataclass(kw_only=True)
class CorpusArguments(DecodingArguments, SourceArguments):
    """The data set of a single pass, and how to read it."""

    _argument_group_name = "data"

    dataset: str = HfArg(
        help="A folder of videos, images, tars or Parquet; a text or CSV index ('path label' per line); a pattern "
        "such as shards-{000..009}.tar; or a Hub data set id, which one process streams.",
    )
    label_column: str | None = HfArg(
        default=None,
        help="Column of a Hub or Parquet data set with the labels, such as fine_label. Default: label, labels or cls.",
    )
    clips_per_batch: int = HfArg(
        default=8, help="Clips in one batch of the encoder; segments and views count as clips."
    )
    num_workers: int = HfArg(
        default=0, help="Decoding processes for each computing process; 0: the computing process decodes."
    )
    use_cpu: bool = HfArg(default=False, help="Compute on the CPU.")

    def __post_init__(self) -> None:
        check_broken_share(self.max_broken_share)
        for name, bound in (("clips_per_batch", 1), ("num_workers", 0)):
            if getattr(self, name) < bound:
                raise ValueError(f"--{name} {getattr(self, name)} must be at least {bound}")

    def open(self) -> Corpus:
        """
        Open the data set.

        Raises:
            FileNotFoundError, ValueError: see [`open_corpus`]; or the data set is empty.
        """
        corpus = open_corpus(
            self.dataset, split=self.split, video_column=self.video_column, label_column=self.label_column
        )
        if not isinstance(corpus, SequentialCorpus) and len(corpus) == 0:
            raise ValueError(f"{self.dataset} holds no videos or images: check the folder, index or split")
        return corpus


def start_processes(*, use_cpu: bool) -> PartialState:
    """
    The state of this process among the processes that `accelerate launch` started.

    Raises:
        ValueError: the processes are not connected.
    """
    # Processes wait for each other only at the end. In a resumed run their ends may be hours apart.
    state = PartialState(cpu=use_cpu or not torch.accelerator.is_available(), timeout=timedelta(days=7))
    check_processes(state.num_processes)
    return state
