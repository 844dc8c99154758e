"""
`StreamTrainer`: a `transformers.Trainer` for streams of clips. It adds a position in the stream to resume from, atomic
checkpoints, an orderly end on signals, rates in the logs, sharding and pushes to the Hub.
"""

import math
import os
import shutil
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import torch
from accelerate.utils import extract_model_from_parallel, is_compiled_module
from huggingface_hub import CommitInfo
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, has_length, seed_worker
from transformers.utils import logging

from ..data.clip_loader import ClipLoader
from ..data.lanes import record_cursors
from ..data.streaming import StreamPosition
from ..hub.model_card import RunDetails, write_card
from ..hub.transfer import hub_errors
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.image_processing_vjepa import VJEPAImageProcessor
from ..safety.atomic_files import atomic_path
from ..safety.output_lock import FolderInUseError, OutputLock, output_lock
from ..safety.private_names import check_private_names
from .checkpoints import (
    UNFINISHED,
    UnusableCheckpointError,
    check_before_loading,
    check_before_resuming,
    checkpoint_errors,
    damaged_weights,
    finish_checkpoint,
    read_cursors,
    read_position,
    remove_old_checkpoints,
    remove_unfinished,
    resolve_checkpoint,
    run_of,
    write_cursors,
    write_position,
)
from .hub_pushes import HubPushes
from .manifests import checkpoint_files, model_files, write_manifest
from .progress import TrainingProgress, no_bars
from .sharding import (
    enable_sharding,
    ignoring_view_warnings,
    load_sharded_model,
    load_sharded_optimizer,
    save_sharded_optimizer,
)

check_private_names("transformers", "torch")  # also those of models/vjepa, which travels alone
logger = logging.get_logger(__name__)

# Signals that end training with a checkpoint. Schedulers can be told to send SIGUSR1 before a job ends; not every
# system has SIGUSR1.
_STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
# Launchers forward signals that the process group has already received; ignore repeats within this time.
_SECONDS_OF_ECHO = 2.0
# The loss scale of fp16 starts at 65,536 and is halved at each overflow. Below this scale the gradients are at fault.
_LEAST_LOSS_SCALE = 2.0**-10
# Videos to name in an error.
_MAX_NAMES = 32


class DivergedError(RuntimeError):
    """The loss or a gradient is NaN or infinite."""


class _StreamCallback(TrainerCallback):
    """Seeks the stream when training begins; after a signal or fault, saves and ends training after the step."""

    def __init__(self, trainer: "StreamTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.first_step = state.global_step
        self.trainer.find_best_checkpoint()
        self.trainer.seek_stream()

    def on_step_end(self, args, state, control, **kwargs):
        if not has_length(self.trainer.train_dataset):
            state.epoch = state.global_step / state.max_steps  # the Trainer counts from the step it resumed at
        if args.world_size > 1:
            # All processes must stop at the same step, and the signal may reach them at different ones.
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
        TypeError: the model (a compiled model counts as the original) or the training arguments have another class.
    """
    if isinstance(value, torch.nn.Module) and is_compiled_module(value):
        value = extract_model_from_parallel(value)
    if not isinstance(value, kind):
        raise TypeError(f"this trainer needs a {kind.__name__}, not a {type(value).__name__}")


class StreamTrainer(Trainer):
    """
    A [`~transformers.Trainer`] for the streams of [`~data.streaming.clip_stream`]. The stream is not split again,
    resuming seeks in it, checkpoints are atomic and hold the cursors of streamed corpora, and logs have the rate of
    clips. A data set with a length is loaded as by every `Trainer`.

    With FSDP2 (`fsdp_version: 2` of accelerate, or `--fsdp`) training is sharded, on CPUs too. Checkpoints are those
    of an unsharded run, `model.safetensors` and `optimizer.pt`: sharded and unsharded runs resume from each other.

    With `push_to_hub` checkpoints are uploaded in the background, see [`~training.hub_pushes.HubPushes`].

    Args:
        position: the position of the stream, so that resuming can seek in it.
        kwargs: those of [`~transformers.Trainer`].

    Raises:
        ValueError: several GPUs for one process.
    """

    #: Facts for the model card that the trainer does not know; set by the code that starts the training.
    run_details: RunDetails | None = None
    #: Class of the model in the finished output folder, if it is not the class of the model in training.
    published_architecture: str | None = None
    #: Address of the commit with the finished output folder; None while there is none.
    commit_url: str | None = None
    #: Files that belong to the run, by their names in the output folder. If the folder is deleted during the training,
    #: they are written again with the next checkpoint.
    records: Mapping[str, bytes] = MappingProxyType({})

    def __init__(self, *, position: StreamPosition | None = None, **kwargs: Any):
        args = kwargs["args"]
        if args.n_gpu > 1:
            raise ValueError(
                f"one process for {args.n_gpu} GPUs would run nn.DataParallel: start one process for each with "
                "accelerate launch or torchrun, or set CUDA_VISIBLE_DEVICES to one"
            )
        # Streams seek by themselves. For a data set with a length the Trainer winds its sampler forward.
        args.ignore_data_skip = not has_length(kwargs.get("train_dataset"))
        super().__init__(**kwargs)
        for callback in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):  # the Trainer has added one of them
            self.remove_callback(callback)
        # The loss is a mean over the batch: the Trainer divides it by the accumulated batches.
        self.model_accepts_loss_kwargs = False
        self._is_seekable = position is not None
        self.position = StreamPosition() if position is None else position
        self._loader: ClipLoader | None = None
        self.stop_signal = 0
        #: Raised at the end of training, after the checkpoint is saved.
        self.stop_error: Exception | None = None
        #: The step at which this session began; None before training.
        self.first_step: int | None = None
        #: Identifier in the manifests of the checkpoints; a resumed run keeps it.
        self.run_id = uuid4().hex
        self._lock: OutputLock | None = None
        self._resumed_from: str | None = None
        self.pushes = HubPushes(self)
        for callback in (TrainingProgress(), _StreamCallback(self), self.pushes):
            self.add_callback(callback)
        self._cursors: dict[str, str] = {}
        self._restored_position: dict[str, int] = {}
        self._paths: list[str] = []
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._skipped = self._waited = 0.0
        self._clips = 0
        self._since = time.perf_counter()

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled = enable_sharding(self.accelerator, self.args)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """
        Trains as [`~transformers.Trainer.train`] does. SIGINT, SIGTERM and SIGUSR1 end training after the current
        step, with a checkpoint saved and the signal in `stop_signal`. The same signal more than two seconds later
        interrupts at once. The output folder is locked during the training.

        Args:
            resume_from_checkpoint: a folder; it is checked before it is read. True: the last whole checkpoint.

        Raises:
            UnusableCheckpointError: a checkpoint cannot be written, is not whole, or has weights only.
            FolderInUseError: another run writes into the output folder.
            DivergedError: a loss or gradient is NaN or infinite; the weights are those of the step before.
        """
        self._since = time.perf_counter()
        self.stop_signal, self.stop_error = 0, None
        checkpoint = resume_from_checkpoint or None
        if checkpoint is True:
            checkpoint = resolve_checkpoint(self.args.output_dir, "last")
        if checkpoint is not None:
            check_before_resuming(checkpoint)
            self.run_id = run_of(checkpoint) or self.run_id
        self._resumed_from = checkpoint
        with ExitStack() as stack:
            self._lock = stack.enter_context(output_lock(self.args.output_dir))
            stack.enter_context(self._noting_signals())
            if self.is_fsdp_enabled:
                stack.enter_context(ignoring_view_warnings())
            if self.args.should_save:
                remove_unfinished(self.args.output_dir)
            try:
                result = super().train(checkpoint, *args, **kwargs)
            finally:
                if self._loader is not None:
                    self._loader.close()
        best = self.state.best_model_checkpoint
        if self.args.should_save and best is not None and self.args.save_total_limit == 1:
            # The last checkpoint, beside the best.
            remove_old_checkpoints(self.args.output_dir, limit=1, step=self.state.global_step, keep=[best])
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
        """Batches of this process. The stream splits itself over processes and workers, so accelerate must not."""
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
            # An iterator draws a seed. From the global generator, a resumed run would be one draw ahead.
            generator=torch.Generator().manual_seed(args.seed),
        )
        return self._loader

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        started = time.perf_counter()
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - started
        return batches, num_items

    # The position in the stream

    def seek_stream(self) -> None:
        """Seeks the stream to the first clip not yet consumed."""
        batches = self.state.global_step * self.args.gradient_accumulation_steps
        place = {"batches": batches, "clips": batches * self.clips_per_batch} | self._restored_position
        self.position.seek(place["batches"], start_clip=place["clips"], cursors=self.position.cursors)

    def restore_position(self, checkpoint: str | os.PathLike) -> None:
        """
        Takes the position in the stream from a checkpoint, for the next `seek_stream`.

        Raises:
            UnusableCheckpointError: the position is damaged.
        """
        self._restored_position = read_position(checkpoint)

    @property
    def session_steps(self) -> int:
        """Steps of this session, without the steps before the checkpoint that it resumed from."""
        return 0 if self.first_step is None else self.state.global_step - self.first_step

    @property
    def _batches_done(self) -> int:
        """Batches of each process, in this session."""
        return self.session_steps * self.args.gradient_accumulation_steps

    @property
    def clips_per_batch(self) -> int:
        """Clips of one batch of all processes together."""
        return self._train_batch_size * self.args.world_size

    @property
    def clips_seen(self) -> int:
        """Clips that all processes have seen since the run began, also if sessions had batches of other sizes."""
        if has_length(self.train_dataset) or self.position.start_clip is None:
            return self.state.global_step * self.args.gradient_accumulation_steps * self.clips_per_batch
        return self.position.start_clip + self._batches_done * self.clips_per_batch

    # Checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        """Folder in which the Trainer writes checkpoints; `_save_checkpoint` renames them once they are complete."""
        return os.path.join(super()._get_output_dir(trial), UNFINISHED)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        unfinished = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        run = unfinished.parents[1]
        final = run / unfinished.name
        with checkpoint_errors(final):
            if self.args.should_save:
                self._keep_output_folder()
                remove_unfinished(run)
            self.accelerator.wait_for_everyone()
            try:
                self._write_checkpoint(model, trial, unfinished)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    files = checkpoint_files(unfinished)
                    write_manifest(unfinished, files, step=self.state.global_step, run=self.run_id)
                    finish_checkpoint(unfinished, final)
            except BaseException:  # re-raised; only no half checkpoint may stay
                if self.args.should_save:
                    shutil.rmtree(unfinished.parent, ignore_errors=True)  # other processes may still write there
                raise
            if self.args.should_save:
                best = self.state.best_model_checkpoint
                keep = [final, *([best] if best else []), *self.pushes.folders]
                limit = self.args.save_total_limit
                remove_old_checkpoints(run, limit=limit, step=self.state.global_step, keep=keep)
            self.accelerator.wait_for_everyone()

    def _keep_output_folder(self) -> None:
        """
        If the output folder or its records were deleted since the training began, takes its lock again and restores
        the records. So the folder is one to resume from, and the hours of training are not lost.

        Raises:
            UnusableCheckpointError: another run uses the folder now.
        """
        if self._lock is not None and self._lock.is_lost:
            try:
                self._lock.acquire()
            except FolderInUseError as error:
                raise UnusableCheckpointError(f"the folder was deleted during the training, and {error}") from error
        folder = Path(self.args.output_dir)
        missing = [name for name in self.records if not (folder / name).exists()]
        for name in missing:
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(self.records[name])
        if missing:
            logger.warning(
                f"{folder}, or files in it, were deleted during the training: {', '.join(missing)} is written again, "
                f"and checkpoints before step {self.state.global_step} may be lost"
            )

    def _write_checkpoint(self, model: torch.nn.Module, trial: Any, unfinished: Path) -> None:
        """Lets the Trainer save into `unfinished`, and adds the position in the stream."""
        unfinished.mkdir(parents=True, exist_ok=True)
        if self._cursors:
            write_cursors(unfinished, self._cursors, rank=self.args.process_index)
        if self.args.should_save and not has_length(self.train_dataset):
            write_position(unfinished, batches=self.position.start_batch + self._batches_done, clips=self.clips_seen)
        super()._save_checkpoint(model, trial)
        best = self.state.best_model_checkpoint
        if best is not None and Path(best) == unfinished:
            self.state.best_model_checkpoint = str(unfinished.parents[1] / unfinished.name)
            if self.args.should_save:
                self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))

    def find_best_checkpoint(self) -> None:
        """
        After a resume, finds the best checkpoint beside the one that the run resumed from: the state has its path on
        the machine and in the folder where it was written.

        Raises:
            UnusableCheckpointError: `load_best_model_at_end`, and the best checkpoint is missing.
        """
        state, checkpoint = self.state, self._resumed_from
        if checkpoint is None or not state.best_global_step:
            return
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        beside = Path(checkpoint).with_name(name)
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(checkpoint)
        elif beside.is_dir():
            state.best_model_checkpoint = str(beside)
        elif state.best_model_checkpoint is None and self.args.load_best_model_at_end:
            raise UnusableCheckpointError(
                f"{checkpoint} needs the best checkpoint, {name}, which is not beside it: copy {name} there, or leave "
                "out --load_best_model_at_end"
            )

    def _load_best_model(self) -> None:
        check_before_loading(self.state.best_model_checkpoint)
        with damaged_weights(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Does nothing: [`HubPushes`] pushes the checkpoint in `on_save`, after it is complete and renamed."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict=state_dict)
        if self.processing_class is not None:
            self.save_image_processor(output_dir or self.args.output_dir)

    def save_image_processor(self, folder: str | os.PathLike) -> None:
        """Saves an image processor with the settings of the video processor, because models accept images too."""
        mean, std = self.processing_class.image_mean, self.processing_class.image_std
        crop_size = self.model.config.crop_size
        VJEPAImageProcessor(crop_size=crop_size, image_mean=mean, image_std=std).save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            save_sharded_optimizer(self.optimizer, self.lr_scheduler, output_dir, keep=self.args.should_save)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        with damaged_weights(resume_from_checkpoint):
            if self.is_fsdp_enabled:
                network = self.model if model is None else model
                is_main = self.accelerator.is_main_process
                load_sharded_model(network, resume_from_checkpoint, is_main_process=is_main)
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            self._cursors = read_cursors(checkpoint)
            self.restore_position(checkpoint)
            if not self._is_seekable and not has_length(self.train_dataset):
                logger.warning(
                    "the stream restarts at its first clip, not at the position of the checkpoint: give clip_stream "
                    "and the trainer the same `position`, or use a data set with a length"
                )
        if checkpoint and self.is_fsdp_enabled:
            load_sharded_optimizer(self.optimizer, self.lr_scheduler, checkpoint)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        self.position.cursors = dict(self._cursors)

    # The finished model and the Hub

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Saves the model. If the folder is the output folder, [`finish`] writes the model card and, with `push_to_hub`,
        pushes the folder.
        """
        with no_bars():  # a second bar would break the bar of the training
            super().save_model(output_dir, _internal_call=True)
            if not _internal_call and output_dir in (None, self.args.output_dir):
                self.finish()

    def finish(self) -> None:
        """
        Writes the model card into the output folder. With `push_to_hub` it also pushes the folder and sets
        `commit_url`; a push that fails is a warning. The manifest comes last: a folder without it was not finished,
        and [`~training.checkpoints.is_finished`] says so.
        """
        self.create_model_card()
        if not self.is_world_process_zero():
            return
        if self.args.push_to_hub:
            commit = self.pushes.push_result()
            self.commit_url = commit.commit_url if commit else None
        folder = self.args.output_dir
        write_manifest(folder, model_files(folder), step=self.state.global_step, run=self.run_id)

    def create_model_card(self, **changes: Any) -> None:
        """Writes the model card of the run into the output folder; for `changes` see [`HubPushes.card`]."""
        if self.is_world_process_zero():
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            write_card(self.pushes.card(**changes), self.args.output_dir)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        with hub_errors(self.args.hub_model_id or Path(self.args.output_dir).absolute().name):
            # transformers before 5.20 knows no `private` here.
            super().init_hf_repo(token=token, **({} if private is None else {"private": private}))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Future | None:
        """
        Saves the model, writes its card and uploads both, as [`~transformers.Trainer.push_to_hub`] does.

        Args:
            kwargs: for [`HubPushes.card`].

        Raises:
            HubError: in one line, with the remedy.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        if self.published_architecture is None:
            self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self.pushes.wait()
        push = partial(self.pushes.push_folder, commit_message, token=token, revision=revision, private=private)
        return push() if blocking else self.pushes.background.run_as_future(push)

    # Steps

    def normalized(self, clips: torch.Tensor) -> torch.Tensor:
        """
        Normalises uint8 clips, the type of the stream, with the mean and standard deviation of the processor. Float
        clips count as normalised and are returned unchanged.

        Raises:
            ValueError: the clips have another type.
        """
        if clips.is_floating_point():
            return clips
        if clips.dtype != torch.uint8:
            raise ValueError(f"clips have type {clips.dtype}: pass uint8 pixels, or floats already normalised")
        processor = self.processing_class
        return normalize_clips(clips, mean=processor.image_mean, std=processor.image_std)

    @property
    def _files(self) -> str:
        """What errors call the files of the data."""
        of_images = getattr(getattr(self.model, "config", None), "is_image_model", False)
        return "images" if of_images else "videos"

    def check_loss(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        """
        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        paths = inputs.get("path", [])
        self._paths += paths
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss.item()} at step {self.state.global_step} on the {self._files} {_listed(paths)}: "
                f"lower the learning rate, or check these {self._files}"
            )

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        """
        Raises:
            DivergedError: a gradient is NaN or infinite, and not only because fp16 overflows: after an overflow the
                step is skipped, and the loss of the next step is scaled less.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        paths, self._paths = self._paths, []
        scaler = self.accelerator.scaler
        if math.isfinite(norm) or (scaler is not None and scaler.get_scale() >= _LEAST_LOSS_SCALE):
            return norm
        raise DivergedError(
            f"the loss is finite at step {self.state.global_step}, but the norm of its gradients is {float(norm)} on "
            f"the {self._files} {_listed(paths)}: lower the learning rate, or check these {self._files}"
        )

    def count_clips(self, inputs: dict[str, Any], number: int) -> None:
        """Counts the clips of a batch for the next log, and records the cursors of streamed corpora."""
        self._clips += number
        self._skipped += float(inputs["num_skipped"].sum()) if "num_skipped" in inputs else 0.0
        record_cursors(self._cursors, inputs.get("cursor", []))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # neither an evaluation nor the summary at the end of training
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
        self._since += time.perf_counter() - started  # rates are of training alone
        return metrics
