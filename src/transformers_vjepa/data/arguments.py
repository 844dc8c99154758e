"""What the scripts that pass once over a data set share: their data arguments, and how their processes start."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import torch
from accelerate import PartialState

from ..command_line.parsing import check_processes
from .clip_reading import check_broken_share
from .corpora import Corpus, SequentialCorpus, open_corpus

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(kw_only=True)
class CorpusArguments:
    """The data set, and how it is read."""

    _argument_group_name = "data"

    dataset: str = field(
        metadata={
            "help": "A folder of videos, pictures, tars or Parquet; a text or CSV index ('path label' per line); a "
            "pattern such as shards-{000..009}.tar; or a Hub data set id, which is streamed by one process."
        }
    )
    split: str = field(default="train", metadata={"help": "Split of a Hub data set."})
    video_column: str | None = field(default=None, metadata={"help": "Column of a Hub or Parquet data set."})
    decoder: Literal["pyav", "decord", "torchcodec"] = field(default="pyav", metadata={"help": "Video decoder."})
    max_broken_share: float = field(
        default=0.05,
        metadata={"help": "Stop above this share of broken videos among the last 1,000, from 20 of them on."},
    )
    clips_per_batch: int = field(
        default=8, metadata={"help": "Clips that the encoder takes at once; segments and views count as clips."}
    )
    num_workers: int = field(
        default=0, metadata={"help": "Processes that decode, for each process that computes; 0: it decodes itself."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU."})

    def __post_init__(self) -> None:
        check_broken_share(self.max_broken_share)
        for name, bound in (("clips_per_batch", 1), ("num_workers", 0)):
            if getattr(self, name) < bound:
                raise ValueError(f"--{name} {getattr(self, name)} must be at least {bound}")

    def open(self) -> Corpus:
        """
        The data set.

        Raises:
            FileNotFoundError, ValueError: see [`open_corpus`]; or there is nothing in it.
        """
        corpus = open_corpus(self.dataset, split=self.split, video_column=self.video_column)
        if not isinstance(corpus, SequentialCorpus) and len(corpus) == 0:
            raise ValueError(f"{self.dataset} holds no videos or pictures: check the folder, index or split")
        return corpus


def start_processes(*, use_cpu: bool) -> PartialState:
    """
    This process among those that `accelerate launch` started.

    Raises:
        ValueError: the processes know nothing of each other.
    """
    # Processes wait for each other at the end only, which may be hours apart where a resumed run is uneven.
    state = PartialState(cpu=use_cpu or not torch.accelerator.is_available(), timeout=timedelta(days=7))
    check_processes(state.num_processes)
    return state


__all__ = ["CorpusArguments", "Dtype", "start_processes"]
