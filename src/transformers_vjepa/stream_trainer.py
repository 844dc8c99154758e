"""What training on a stream of clips needs of a `transformers.Trainer`: a place in the stream, signals, rates."""

import json
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length, seed_worker
from transformers.utils import logging

from .clip_loader import ClipLoader
from .sharding import ShardingTrainer
from .streaming import StreamPosition, record_cursors
from .video_processing_vjepa import normalize_clips


class DivergedError(RuntimeError):
    """The loss is NaN or infinite."""


class _SeekStream(TrainerCallback):
    """Sends the clip stream to the first batch that the restored state has not seen."""

    def __init__(self, position: StreamPosition):
        self.position = position

    def on_train_begin(self, args, state, control, **kwargs):
        self.position.seek(state.global_step * args.gradient_accumulation_steps, cursors=self.position.cursors)


class _StopOnSignal(TrainerCallback):
    """After a noted signal: save a checkpoint and end training at the end of the step."""

    def __init__(self, trainer: "StreamTrainer"):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            # All ranks must stop at the same step, and the signal may reach them at different ones.
            noted = torch.tensor([self.trainer.stop_signal], device=args.device)
            self.trainer.stop_signal = int(self.trainer.accelerator.gather(noted).max())
        if self.trainer.stop_signal:
            control.should_save = control.should_training_stop = True


class StreamTrainer(ShardingTrainer):
    """
    A [`~transformers.Trainer`] for what [`~streaming.clip_stream`] makes: the stream is not split again, resuming
    seeks in it, checkpoints hold the cursors of streamed corpora, and the logs tell how fast clips come. A data set
    that has a length is loaded as every `Trainer` does.

    SIGINT and SIGTERM end training after the current step, with a checkpoint saved and the signal in `stop_signal`.

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
        super().__init__(**kwargs)
        # The loss is a mean over the batch: the Trainer divides it by the accumulated batches.
        self.model_accepts_loss_kwargs = False
        self._is_seekable = position is not None
        self.position = StreamPosition() if position is None else position
        self._loader: ClipLoader | None = None
        self.add_callback(_SeekStream(self.position))
        self.stop_signal = 0
        self.add_callback(_StopOnSignal(self))
        self._cursors: dict[str, str] = {}
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._skipped = 0.0
        self._waited = 0.0
        self._clips = 0
        self._since = time.perf_counter()

    def train(self, *args: Any, **kwargs: Any):
        """
        Trains as [`~transformers.Trainer.train`] does. SIGINT and SIGTERM end it after the current step, with
        a checkpoint saved and the signal in `stop_signal`; a second one interrupts at once.
        """
        self._since = time.perf_counter()
        with self._noting_signals():
            try:
                return super().train(*args, **kwargs)
            finally:
                if self._loader is not None:
                    self._loader.close()

    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return

        def note(signum: int, frame: Any) -> None:
            self.stop_signal = signum
            signal.signal(signum, previous[signum])

        previous = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
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

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # First, and on every rank: the Trainer's state, which is written last, marks a checkpoint as complete.
        if self._cursors:
            folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"stream_{self.args.process_index}.json").write_text(json.dumps(self._cursors))
        self.accelerator.wait_for_everyone()
        has_bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # one for every checkpoint would tear that of training apart
        try:
            super()._save_checkpoint(model, trial)
        finally:
            if has_bars:
                logging.enable_progress_bar()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        for file in sorted(Path(checkpoint).glob("stream_*.json")) if checkpoint else []:
            self._cursors |= json.loads(file.read_text())
        self.position.cursors = dict(self._cursors)

    # Steps

    def normalized(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 clips, as the stream gives them, with the mean and deviation of the processor; floats as they are."""
        if clips.dtype != torch.uint8:
            return clips
        processor = self.processing_class
        return normalize_clips(clips, mean=processor.image_mean, std=processor.image_std)

    def check_loss(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        """
        Raises:
            DivergedError: a loss that is NaN or infinite.
        """
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss.item()} at step {self.state.global_step} on the videos "
                f"{', '.join(inputs.get('path', ['(no names)']))}: lower the learning rate or look at them"
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


__all__ = ["DivergedError", "StreamTrainer"]
