"""
Arguments that several commands share: how clips are sampled, augmented and decoded; the data set of a single pass, and
how the processes of such a pass start.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import torch
from accelerate import PartialState

from ..command_line.parsing import check_processes
from ..models.vjepa.clip_sampling import ClipSampling
from .clip_reading import check_broken_share
from .corpora import Corpus, SequentialCorpus, open_corpus

Dtype = Literal["float32", "bfloat16", "float16"]


#: Options of which one is enough: each says how far apart the frames of a clip are.
SPACINGS = frozenset({"frame_step", "target_fps", "clip_duration"})


@dataclass
class SamplingArguments:
    """Which frames of a video make a clip. A base of the data arguments of a command, as the two classes below."""

    frame_step: int | None = field(default=None, metadata={"help": "Frames from one frame of a clip to the next (4)."})
    target_fps: float | None = field(default=None, metadata={"help": "Frames per second of a clip, instead."})
    clip_duration: float | None = field(default=None, metadata={"help": "Seconds that a clip lasts, instead."})
    short_videos: Literal["repeat_last", "refuse"] = field(
        default="repeat_last",
        metadata={
            "help": "Videos that end before a clip does: repeat their last frame, or skip them as broken ones. "
            "Videos with fewer frames than a clip are skipped in any case."
        },
    )

    def clip_sampling(self, num_frames: int) -> ClipSampling:
        """The sampling of clips of `num_frames` frames."""
        return ClipSampling(
            num_frames=num_frames,
            frame_step=self.frame_step,
            target_fps=self.target_fps,
            duration=self.clip_duration,
            short_video=self.short_videos,
        )


@dataclass
class AugmentationArguments:
    """How a training clip is cropped and flipped."""

    crop_scale: list[float] = field(
        default_factory=lambda: [0.3, 1.0], metadata={"help": "Least and largest area of a random crop."}
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [0.75, 1.35], metadata={"help": "Least and largest width/height of a random crop."}
    )
    flip_probability: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})


@dataclass
class DecodingArguments:
    """How videos are decoded, and how many broken ones a run accepts."""

    decoder: Literal["pyav", "decord", "torchcodec"] = field(default="pyav", metadata={"help": "Video decoder."})
    max_broken_share: float = field(
        default=0.05,
        metadata={"help": "Stop above this share of broken videos among the last 1,000, from 20 of them on."},
    )


@dataclass(kw_only=True)
class CorpusArguments:
    """The data set, and how to read it."""

    _argument_group_name = "data"

    dataset: str = field(
        metadata={
            "help": "A folder of videos, images, tars or Parquet; a text or CSV index ('path label' per line); a "
            "pattern such as shards-{000..009}.tar; or a Hub data set id, which one process streams."
        }
    )
    split: str = field(default="train", metadata={"help": "Split of a Hub data set."})
    video_column: str | None = field(default=None, metadata={"help": "Column of a Hub or Parquet data set."})
    decoder: Literal["pyav", "decord", "torchcodec"] = field(default="pyav", metadata={"help": "Video decoder."})
    max_broken_share: float = field(
        default=0.05,
        metadata={
            "help": "Stop above this share of broken videos among the last 1,000, with at least 20 broken ones."
        },
    )
    clips_per_batch: int = field(
        default=8, metadata={"help": "Clips in one batch of the encoder; segments and views count as clips."}
    )
    num_workers: int = field(
        default=0,
        metadata={"help": "Decoding processes for each computing process; 0: the computing process decodes."},
    )
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU."})

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
        corpus = open_corpus(self.dataset, split=self.split, video_column=self.video_column)
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
