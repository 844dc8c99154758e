"""Training arguments that every training on a stream shares."""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from transformers import TrainingArguments
from transformers.hf_argparser import HfArg

from ..data.synthetic import build_corpus, synthetic_root
from ..safety.sanitizing import RedactTokensOnPickle
from .sharding import refuse_deepspeed


@dataclass
class StreamTrainingArguments(RedactTokensOnPickle, TrainingArguments):
    """
    Base of the arguments of a [`~training.stream_trainer.StreamTrainer`].

    Raises:
        ValueError: DeepSpeed, or a value of [`~transformers.TrainingArguments`] that does not work with V-JEPA.
    """

    _argument_group_name = "training"  # where --help lists them

    logging_steps: float = HfArg(default=10, help="Steps between logs; below 1 a share of all steps.")
    save_total_limit: int | None = HfArg(
        default=2, help="Checkpoints to keep: older ones are deleted, but never the best one."
    )
    logging_nan_inf_filter: bool = HfArg(default=False, help="Must be off: a NaN loss stops the run.")
    hub_license: str | None = HfArg(
        default=None,
        help="Licence on the model card, such as apache-2.0. Default: none, or the licence of the weights that the "
        "run starts from, if that licence binds.",
    )
    remove_unused_columns: bool = HfArg(default=False, help="Must be off: clips and masks are not columns.")
    ddp_find_unused_parameters: bool | None = HfArg(default=False, help="All parameters are used.")

    def __post_init__(self) -> None:
        refuse_deepspeed(self)  # first, because the base class would set up DeepSpeed
        if self.use_cpu and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            # The base class would connect processes without GPUs, but without `ddp_timeout`.
            PartialState(cpu=True, backend=self.ddp_backend, timeout=timedelta(seconds=self.ddp_timeout))
        super().__post_init__()
        self.check_needed(logging_nan_inf_filter=False, remove_unused_columns=False)

    @property
    def clips_per_step(self) -> int:
        """Clips of an optimizer step, of all processes together."""
        return self.per_device_train_batch_size * self.world_size * self.gradient_accumulation_steps

    def check_needed(self, **needed: bool) -> None:
        """
        Raises:
            ValueError: an argument has another value than the trainer needs.
        """
        for name, value in needed.items():
            if getattr(self, name) is not value:
                raise ValueError(f"{name}={getattr(self, name)} does not work with V-JEPA: leave it at {value}")

    def check_ranges(self, **ranges: tuple[float, float]) -> None:
        """
        Raises:
            ValueError: an argument lies outside of its range (least and largest value).
        """
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [{least}, {most}]")

    def render_corpus(self) -> Path:
        """Renders the built-in corpus beside the output folder, unless it is there, and returns its folder."""
        root = synthetic_root(self.output_dir)
        with self.main_process_first(desc="rendering the built-in corpus"):
            build_corpus(root)
        return root
