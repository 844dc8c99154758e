"""Progress of a training: a bar with clips or images per second and the time left, and a line for each log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.asyncio import tqdm_asyncio
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerState, TrainingArguments
from transformers.utils import logging

# Values of a log that a line shows, with their names and formats. Trackers and trainer_state.json get all values.
_SHOWN = {
    "loss": ("loss", "{:.4f}"),
    "eval_loss": ("validation loss", "{:.4f}"),
    "eval_accuracy": ("validation accuracy", "{:.1%}"),
    "learning_rate": ("lr", "{:.2e}"),
    "ema_momentum": ("momentum", "{:.4f}"),
    "grad_norm": ("gradient norm", "{:.3g}"),
    "target_std_over_clips": ("spread of targets", "{:.3f}"),
    "target_rank_over_clips": ("rank", "{:.1f}"),
    "clips_per_second": ("{kind}s/s", "{:,.1f}"),
    "data_wait_share": ("waiting for data", "{:.0%}"),
}


def log_text(logs: dict[str, Any], *, step: int, num_steps: int, of_images: bool = False) -> str:
    """One line for a log of the Trainer, with the words of images or of clips; empty if there is no value to show."""
    kind = "image" if of_images else "clip"
    shown = {key: (name.format(kind=kind), form) for key, (name, form) in _SHOWN.items() if key in logs}
    parts = [f"{name} {form.format(logs[key])}" for key, (name, form) in shown.items()]
    if logs.get("videos_skipped"):
        parts.append(f"{logs['videos_skipped']:.0f} {'images' if of_images else 'videos'} skipped")
    return f"step {step:>{len(str(num_steps))}}: {', '.join(parts)}" if parts else ""


def duration_text(seconds: float) -> str:
    """`3725` as `1 h 02 min`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _is_drawn(args: TrainingArguments) -> bool:
    """Whether to draw a bar: in a notebook or a terminal, not in a log file, where each line would repeat the bar."""
    is_notebook = tqdm is not tqdm_asyncio
    return not args.disable_tqdm and (is_notebook or sys.stderr.isatty())


class TrainingProgress(ProgressCallback):
    """
    Replaces the bar of the Trainer, which prints whole logs, by a bar with clips per second and one line for each log.
    Without a terminal, or with `disable_tqdm`, there are only the lines.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
                disable=not _is_drawn(args),
            )
        self.current_step = state.global_step

    def on_prediction_step(self, args: TrainingArguments, *rest: Any, **kwargs: Any) -> None:
        if _is_drawn(args):
            super().on_prediction_step(args, *rest, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: Any,
        logs: dict[str, Any] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        if not (state.is_world_process_zero and logs and self.training_bar is not None):
            return
        of_images = getattr(getattr(model, "config", None), "is_image_model", False)
        if "clips_per_second" in logs:
            kind = "images" if of_images else "clips"
            self.training_bar.set_postfix_str(f"{logs['clips_per_second']:,.1f} {kind}/s")
        if line := log_text(logs, step=state.global_step, num_steps=state.max_steps, of_images=of_images):
            tqdm.write(line)


@contextmanager
def no_bars(*, wanted: bool = True) -> Iterator[None]:
    """Hides the bars of transformers for loading and writing weights inside, if `wanted`."""
    has_bars = logging.is_progress_bar_enabled()
    if wanted:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if has_bars:
            logging.enable_progress_bar()
