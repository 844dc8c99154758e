"""
Pushes to the Hub while a training runs: each push is one commit of the files that a reader needs
([`~hub.transfer.model_files`]), and a push that fails does not end the training.
"""

from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, HfApi, ModelCard
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import logging

from ..hub.model_card import RunDetails, make_card
from ..hub.transfer import (
    LAST_CHECKPOINT,
    HubError,
    Uploads,
    checkpoint_files,
    model_files,
    publish_folder,
    upload,
)

if TYPE_CHECKING:
    from .stream_trainer import StreamTrainer

logger = logging.get_logger(__name__)


class HubPushes(TrainerCallback):
    """
    Uploads checkpoints in a background thread, one after the other, and the finished folder at the end. With
    `push_to_hub=False` the callback does nothing by itself.

    Args:
        trainer: the training; its arguments name the repository and the files to push (`hub_strategy`).
    """

    def __init__(self, trainer: "StreamTrainer"):
        self._trainer = trainer
        self._pushes: list[tuple[Path, futures.Future]] = []
        #: Its `run_as_future` makes uploads one after the other.
        self.background = HfApi()

    @property
    def folders(self) -> list[Path]:
        """Checkpoints whose files an upload still reads."""
        return [folder for folder, job in self._pushes if not job.done()]

    def card(self, **changes: Any) -> ModelCard:
        """
        The model card of the run at this step.

        Args:
            changes: `license`, `finetuned_from` and `language` replace values; `tags` and `dataset` add values.
        """
        trainer, args = self._trainer, self._trainer.args
        details = trainer.run_details or RunDetails()
        architecture = type(trainer.accelerator.unwrap_model(trainer.model)).__name__.removeprefix("FSDP")
        card = make_card(
            args.output_dir,
            trainer.model.config,
            architecture=trainer.published_architecture or architecture,
            model_id=trainer.hub_model_id or args.hub_model_id,
            details=replace(
                details,
                sources=[*details.sources, *_as_list(changes.get("dataset"))],
                license=changes.get("license") or details.license or args.hub_license,
            ),
            state=trainer.state,
            clips_per_step=trainer.clips_per_batch * args.gradient_accumulation_steps,
            clips_seen=trainer.clips_seen,
            processes=args.world_size,
        )
        for name, key in (("language", "language"), ("finetuned_from", "base_model")):
            if changes.get(name) is not None:
                card.data[key] = changes[name]
        card.data.tags += [tag for tag in _as_list(changes.get("tags")) if tag not in card.data.tags]
        return card

    # During training

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not (args.push_to_hub and state.is_world_process_zero) or args.hub_strategy == HubStrategy.END:
            return
        if self.folders and not args.hub_always_push:
            return
        self._report_failures()
        checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        uploads, replaces = self._uploads_of(checkpoint)
        if not uploads:
            return
        self._trainer.callback_handler.on_push_begin(args, state, control)
        job = self.background.run_as_future(
            upload,
            uploads,
            self._trainer.hub_model_id,
            message=f"Training in progress, step {state.global_step}",
            token=args.hub_token,
            private=args.hub_private_repo,
            revision=args.hub_revision,
            replaces=replaces,
        )
        self._pushes.append((checkpoint, job))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.wait()

    def _uploads_of(self, checkpoint: Path) -> tuple[Uploads, str | None]:
        """Files to push with a checkpoint, and the folder of the repository that they replace."""
        args = self._trainer.args
        uploads: Uploads = {}
        if self._trainer.published_architecture is None:
            uploads |= model_files(checkpoint, card=self.card(), images_in=args.output_dir)
        if args.hub_strategy == HubStrategy.CHECKPOINT:
            return uploads | checkpoint_files(checkpoint), LAST_CHECKPOINT
        if args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            return uploads | checkpoint_files(checkpoint, checkpoint.name), None
        return uploads, None

    def wait(self) -> None:
        """Waits for the uploads that have begun, and warns of those that failed."""
        futures.wait([job for _, job in self._pushes])
        self._report_failures()

    def _report_failures(self) -> None:
        pushes, self._pushes = self._pushes, []
        for folder, job in pushes:
            if not job.done():
                self._pushes.append((folder, job))
            elif (error := job.exception()) is not None:
                # Of any kind: no push may end a training.
                reason = error if isinstance(error, HubError) else repr(error)
                logger.warning(f"{folder.name} was not pushed to the Hub: {reason}. Training continues")

    # At the end

    def push_folder(self, message: str | None, **changes: Any) -> CommitInfo:
        """
        Uploads the output folder; `changes` replace `token`, `private` and `revision` of the arguments.

        Raises:
            HubError: in one line, with the remedy.
        """
        args = self._trainer.args
        settings = {"token": args.hub_token, "private": args.hub_private_repo, "revision": args.hub_revision}
        settings |= {name: value for name, value in changes.items() if value is not None}
        return publish_folder(args.output_dir, self._trainer.hub_model_id, message=message or "Upload", **settings)

    def push_result(self) -> CommitInfo | None:
        """Pushes the finished output folder; a push that fails is a warning with the remedy."""
        self.wait()
        folder = self._trainer.args.output_dir
        try:
            return self.push_folder("End of training")
        except HubError as error:
            logger.warning(
                f"{error}. The model is saved in {folder}, but not pushed. Push the model with: "
                f"vjepa publish {folder} {self._trainer.hub_model_id}"
            )
            return None


def _as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
