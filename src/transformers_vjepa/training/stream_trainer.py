"""What training on a stream of clips needs of a `transformers.Trainer`: a place in the stream, signals, rates."""

import math
import os
import shutil
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length, seed_worker
from transformers.utils import logging

from ..data.clip_loader import ClipLoader
from ..data.lanes import record_cursors
from ..data.streaming import StreamPosition
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.image_processing_vjepa import VJEPAImageProcessor
from .checkpoints import (
    UNFINISHED,
    check_resumable,
    checkpoint_errors,
    damaged_weights,
    finish_checkpoint,
    read_cursors,
    read_position,
    remove_old_checkpoints,
    remove_unfinished,
    write_cursors,
    write_position,
)
from .hub_trainer import HubTrainer
from .progress import TrainingProgress, no_bars

logger = logging.get_logger(__name__)

# What ends training with a checkpoint. Schedulers announce the end of a job by SIGUSR1 where they are asked to; not
# every system has it.
_STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
# A launcher passes on a signal that has reached the whole process group already: that is no second one.
_SECONDS_OF_ECHO = 2.0
# The loss scale of fp16 starts at 65,536 and is halved at each overflow. Here the fault is not in the scale.
_LEAST_LOSS_SCALE = 2.0**-10
# Videos to name in an error.
_MAX_NAMES = 32


class DivergedError(RuntimeError):
    """The loss or a gradient is NaN or infinite."""


class _SeekStream(TrainerCallback):
    """Sends the clip stream to the first batch that the restored state has not seen."""

    def __init__(self, trainer: "StreamTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.seek_stream()

    def on_step_end(self, args, state, control, **kwargs):
        if not has_length(self.trainer.train_dataset):
            state.epoch = state.global_step / state.max_steps  # the Trainer counts from where a run was resumed


class _StopEarly(TrainerCallback):
    """After a noted signal or fault: save a checkpoint and end training at the end of the step."""

    def __init__(self, trainer: "StreamTrainer"):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            # All ranks must stop at the same step, and the signal may reach them at different ones.
            noted = torch.tensor([self.trainer.stop_signal], device=args.device)
            self.trainer.stop_signal = int(self.trainer.accelerator.gather(noted).max())
        if self.trainer.stop_signal or self.trainer.stop_error:
            control.should_save = control.should_training_stop = True


def _listed(paths: Sequence[str]) -> str:
    names = ", ".join(paths[:_MAX_NAMES]) or "(no names)"
    return f"{names} and {len(paths) - _MAX_NAMES} more" if len(paths) > _MAX_NAMES else names


def check_kind(value: torch.nn.Module | TrainingArguments, kind: type) -> None:
    """
    Raises:
        TypeError: a model (a compiled one counts as what it was) or training arguments of another kind.
    """
    value = getattr(value, "_orig_mod", value)
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where this trainer needs a {kind.__name__}")


class StreamTrainer(HubTrainer):
    """
    A [`~transformers.Trainer`] for what [`~data.streaming.clip_stream`] makes: the stream is not split again, resuming
    seeks in it, checkpoints hold the cursors of streamed corpora, and the logs tell how fast clips come. A data set
    that has a length is loaded as every `Trainer` does.

    SIGINT, SIGTERM and SIGUSR1 end training after the current step, with a checkpoint saved and the signal in
    `stop_signal`.

    Args:
        position: the position of the stream, so that resuming can seek in it.
        kwargs: those of [`~transformers.Trainer`].

    Raises:
        ValueError: several GPUs for one process.
    """

    def __init__(self, *, position: StreamPosition | None = None, **kwargs: Any):
        args = kwargs["args"]
        if args.n_gpu > 1:
            raise ValueError(
                f"one process for {args.n_gpu} GPUs would run nn.DataParallel: start one process for each with "
                "accelerate launch or torchrun, or set CUDA_VISIBLE_DEVICES to one"
            )
        # Streams go to their place by themselves; in a data set with a length the sampler is wound forward.
        args.ignore_data_skip = not has_length(kwargs.get("train_dataset"))
        super().__init__(**kwargs)
        for callback in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):  # one of them is there
            self.remove_callback(callback)
        self.add_callback(TrainingProgress())
        # The loss is a mean over the batch: the Trainer divides it by the accumulated batches.
        self.model_accepts_loss_kwargs = False
        self._is_seekable = position is not None
        self.position = StreamPosition() if position is None else position
        self._loader: ClipLoader | None = None
        self.add_callback(_SeekStream(self))
        self.stop_signal = 0
        #: Raised when training has ended, with a checkpoint saved.
        self.stop_error: Exception | None = None
        self.add_callback(_StopEarly(self))
        self._cursors: dict[str, str] = {}
        self._restored_position: dict[str, int] = {}
        self._is_saving = False
        self._paths: list[str] = []
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._skipped = 0.0
        self._waited = 0.0
        self._clips = 0
        self._since = time.perf_counter()

    def train(self, *args: Any, **kwargs: Any):
        """
        Trains as [`~transformers.Trainer.train`] does. SIGINT, SIGTERM and SIGUSR1 end it after the current step,
        with a checkpoint saved and the signal in `stop_signal`; a second one, after two seconds, interrupts at once.

        Raises:
            UnusableCheckpointError: a checkpoint that cannot be written, is damaged, or has weights only.
            DivergedError: a loss or gradient that is NaN or infinite; the weights are those of the step before.
        """
        self._since = time.perf_counter()
        self.stop_signal, self.stop_error = 0, None
        if self.args.should_save:
            remove_unfinished(self.args.output_dir)
        with self._noting_signals():
            try:
                result = super().train(*args, **kwargs)
            finally:
                if self._loader is not None:
                    self._loader.close()
        if self.stop_error is not None:
            raise self.stop_error
        return result

    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        noted: dict[int, float] = {}

        def note(signum: int, frame: Any) -> None:
            self.stop_signal = signum
            if time.monotonic() - noted.setdefault(signum, time.monotonic()) > _SECONDS_OF_ECHO:
                signal.signal(signum, previous[signum])
                signal.raise_signal(signum)

        previous = {signum: signal.signal(signum, note) for signum in _STOP_SIGNALS}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this rank. The stream splits itself over ranks and workers, so accelerate must not."""
        if has_length(self.train_dataset):
            return super().get_train_dataloader()
        args = self.args
        workers = args.dataloader_num_workers
        self._loader = ClipLoader(
            self.train_dataset,
            position=self.position if self._is_seekable else None,
            batch_size=self._train_batch_size,
            num_workers=workers,
            collate_fn=self.data_collator,
            pin_memory=args.dataloader_pin_memory and torch.accelerator.is_available(),
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context if workers else None,
            worker_init_fn=partial(seed_worker, num_workers=workers, rank=args.process_index),
            # Starting to read draws a seed: from the global generator, a resumed run would be one draw ahead.
            generator=torch.Generator().manual_seed(args.seed),
        )
        return self._loader

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        started = time.perf_counter()
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - started
        return batches, num_items

    # Checkpoints

    def seek_stream(self) -> None:
        """Sends the stream to the first clip that the restored state has not seen, whatever made it see the others."""
        batches = self.state.global_step * self.args.gradient_accumulation_steps
        place = {"batches": batches, "clips": batches * self._clips_per_batch} | self._restored_position
        self.position.seek(place["batches"], start_clip=place["clips"], cursors=self.position.cursors)

    def restore_position(self, checkpoint: str | os.PathLike) -> None:
        """
        Has the stream go on where that of a checkpoint was, once `seek_stream` is called.

        Raises:
            UnusableCheckpointError: its position is damaged.
        """
        self._restored_position = read_position(checkpoint)

    @property
    def session_steps(self) -> int:
        """Steps of this session: those that were resumed from do not count."""
        # The attribute is set where training begins; what has all its steps does not begin.
        return self.state.global_step - getattr(self, "_initial_global_step", self.state.global_step)

    @property
    def _batches_done(self) -> int:
        """Of each process, in this session."""
        return self.session_steps * self.args.gradient_accumulation_steps

    @property
    def clips_seen(self) -> int:
        """By all processes since the run began, also where sessions had batches of other sizes."""
        if has_length(self.train_dataset) or self.position.start_clip is None:
            return super().clips_seen
        return self.position.start_clip + self._batches_done * self._clips_per_batch

    @property
    def _clips_per_batch(self) -> int:
        """Of all processes together."""
        return self._train_batch_size * self.args.world_size

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self._is_saving else folder

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        final = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with checkpoint_errors(final):
            if self.args.should_save:
                remove_unfinished(run)
            self.accelerator.wait_for_everyone()
            try:
                self._write_checkpoint(model, trial, run / UNFINISHED / final.name)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    finish_checkpoint(run / UNFINISHED / final.name, final)
            # Whatever it was goes on; only half a checkpoint must not stay.
            except BaseException:
                if self.args.should_save:
                    shutil.rmtree(run / UNFINISHED, ignore_errors=True)  # other processes may still write there
                raise
            if self.args.should_save:
                best = self.state.best_model_checkpoint
                keep = [final, *([best] if best else []), *self.folders_being_pushed]
                remove_old_checkpoints(run, limit=self.args.save_total_limit, keep=keep)
            self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    def _write_checkpoint(self, model: torch.nn.Module, trial: Any, unfinished: Path) -> None:
        """Has the Trainer save into `unfinished`, with the place in the stream beside it."""
        unfinished.mkdir(parents=True, exist_ok=True)
        if self._cursors:
            write_cursors(unfinished, self._cursors, rank=self.args.process_index)
        if self.args.should_save and not has_length(self.train_dataset):
            write_position(unfinished, batches=self.position.start_batch + self._batches_done, clips=self.clips_seen)
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_saving = False
        best = self.state.best_model_checkpoint
        if best is not None and Path(best) == unfinished:
            self.state.best_model_checkpoint = str(unfinished.parents[1] / unfinished.name)
            if self.args.should_save:
                self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model as [`~transformers.Trainer.save_model`] does, without a bar that tears that of training."""
        with no_bars():
            super().save_model(output_dir, _internal_call=_internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict=state_dict)
        if self.processing_class is not None:
            self.save_image_processor(output_dir or self.args.output_dir)

    def save_image_processor(self, folder: str | os.PathLike) -> None:
        """Saves, beside the processor of videos, that of pictures with the same settings: models take both."""
        mean, std = self.processing_class.image_mean, self.processing_class.image_std
        crop_size = self.model.config.crop_size
        VJEPAImageProcessor(crop_size=crop_size, image_mean=mean, image_std=std).save_pretrained(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._is_saving:  # before the checkpoint has its name its files cannot be read at leisure
            super()._push_from_checkpoint(checkpoint_folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        with damaged_weights(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            check_resumable(checkpoint)
            self._cursors = read_cursors(checkpoint)
            self.restore_position(checkpoint)
            if not self._is_seekable and not has_length(self.train_dataset):
                logger.warning(
                    "the clips start from the first one again, not from where the checkpoint was: give clip_stream "
                    "and the trainer the same `position`, or use a data set with a length"
                )
        super()._load_optimizer_and_scheduler(checkpoint)
        self.position.cursors = dict(self._cursors)

    # Steps

    def normalized(self, clips: torch.Tensor) -> torch.Tensor:
        """
        uint8 clips, as the stream gives them, with the mean and deviation of the processor; floats, which are taken
        for normalised, as they are.

        Raises:
            ValueError: another type.
        """
        if clips.is_floating_point():
            return clips
        if clips.dtype != torch.uint8:
            raise ValueError(f"clips of type {clips.dtype}: give uint8 pixels, or floats that are normalised already")
        processor = self.processing_class
        return normalize_clips(clips, mean=processor.image_mean, std=processor.image_std)

    def check_loss(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        """
        Raises:
            DivergedError: a loss that is NaN or infinite.
        """
        paths = inputs.get("path", [])
        self._paths += paths
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss.item()} at step {self.state.global_step} on the videos {_listed(paths)}: lower "
                "the learning rate or look at them"
            )

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._check_gradients(float(norm))
        return norm

    def _check_gradients(self, norm: float) -> None:
        """
        Raises:
            DivergedError: gradients that are NaN or infinite, unless it is fp16 that overflows: then the step is
                skipped, and the next one is scaled less.
        """
        paths, self._paths = self._paths, []
        if math.isfinite(norm):
            return
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() >= _LEAST_LOSS_SCALE:
            return
        raise DivergedError(
            f"the loss is finite at step {self.state.global_step}, but the norm of its gradients is {norm} on the "
            f"videos {_listed(paths)}: lower the learning rate or look at them"
        )

    def count_clips(self, inputs: dict[str, Any], number: int) -> None:
        """Counts the clips of a batch for the next log, and notes how far the stream is."""
        self._clips += number
        self._skipped += float(inputs["num_skipped"].sum()) if "num_skipped" in inputs else 0.0
        record_cursors(self._cursors, inputs.get("cursor", []))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # not an evaluation, nor the summary at the end of training
            elapsed = time.perf_counter() - self._since
            means = {name: sum(values) / len(values) for name, values in self._metrics.items()}
            means["data_wait_share"] = self._waited / elapsed
            names = sorted(means)
            local = torch.tensor([means[name] for name in names] + [self._clips / elapsed, self._skipped])
            total = self.accelerator.reduce(local.to(self.args.device), reduction="sum").cpu()
            shared = (total[: len(names)] / self.accelerator.num_processes).tolist()
            logs |= dict(zip(names, shared, strict=True))
            logs |= {"clips_per_second": total[-2].item(), "videos_skipped": total[-1].item()}
            self._metrics.clear()
            self._waited, self._clips, self._since = 0.0, 0, time.perf_counter()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        started = time.perf_counter()
        metrics = super().evaluate(*args, **kwargs)
        self._since += time.perf_counter() - started  # the rates are those of training
        return metrics
