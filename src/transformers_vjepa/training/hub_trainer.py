"""Training that pushes to the Hub: whole commits, the card of the run, and no push that ends a training."""

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from ..hub.model_card import RunDetails, make_card, write_card
from ..hub.transfer import (
    LAST_CHECKPOINT,
    HubError,
    Uploads,
    checkpoint_files,
    hub_errors,
    model_files,
    publish_folder,
    upload,
)
from .sharding import ShardingTrainer

logger = logging.get_logger(__name__)


class HubTrainer(ShardingTrainer):
    """
    A [`~transformers.Trainer`] whose pushes are single commits of what a reader needs ([`~hub.transfer.model_files`]).
    The checkpoint that is being pushed is not rotated away, and a push that fails is a warning with the remedy:
    training goes on, and the model is saved first.
    """

    #: What the card tells that the trainer does not know; who starts the training may set it.
    run_details: RunDetails | None = None
    #: Name of the class that the output folder holds in the end; None: that of the model in training.
    published_architecture: str | None = None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        self._pushes: list[tuple[Path, Future]] = []
        with hub_errors(self.args.hub_model_id or Path(self.args.output_dir).absolute().name):
            super().init_hf_repo(token=token, private=private)

    # The card

    @property
    def _clips_per_step(self) -> int:
        """Of all processes together."""
        return self._train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps

    @property
    def clips_seen(self) -> int:
        """By all processes since the run began."""
        return self.state.global_step * self._clips_per_step

    def model_card(self, **changes: Any) -> ModelCard:
        """
        The card of the run as it stands.

        Args:
            changes: `license`, `finetuned_from`, `language`; `tags` are added, `dataset` names more data.
        """
        args, details = self.args, self.run_details or RunDetails()
        named = changes.get("dataset") or ()
        sources = [*details.sources, *([named] if isinstance(named, str) else named)]
        license_ = changes.get("license") or details.license or args.hub_license
        architecture = type(self.accelerator.unwrap_model(self.model)).__name__.removeprefix("FSDP")
        card = make_card(
            args.output_dir,
            self.model.config,
            architecture=self.published_architecture or architecture,
            model_id=self.hub_model_id or args.hub_model_id,
            details=replace(details, sources=sources, license=license_),
            state=self.state,
            clips_per_step=self._clips_per_step,
            clips_seen=self.clips_seen,
            processes=args.world_size,
        )
        for name, key in (("language", "language"), ("finetuned_from", "base_model")):
            if changes.get(name) is not None:
                card.data[key] = changes[name]
        tags = changes.get("tags") or []
        tags = [tags] if isinstance(tags, str) else tags
        card.data.tags = [*card.data.tags, *(tag for tag in tags if tag not in card.data.tags)]
        return card

    def create_model_card(self, **changes: Any) -> None:
        """Writes the card of the run into the output folder; see [`model_card`]."""
        if self.is_world_process_zero():
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            write_card(self.model_card(**changes), self.args.output_dir)

    # Pushes during training

    @property
    def folders_being_pushed(self) -> list[Path]:
        """Checkpoints whose files an upload still reads."""
        return [folder for folder, job in getattr(self, "_pushes", []) if not job.done()]

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        args = self.args
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        if self.folders_being_pushed and not args.hub_always_push:
            return
        self._report_failed_pushes()
        uploads, replaces = self._uploads_of(Path(checkpoint_folder))
        if not uploads:
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        job = self._background.run_as_future(
            upload,
            uploads,
            self.hub_model_id,
            message=f"Training in progress, step {self.state.global_step}",
            token=args.hub_token,
            private=args.hub_private_repo,
            revision=args.hub_revision,
            replaces=replaces,
        )
        self._pushes.append((Path(checkpoint_folder), job))
        self.push_in_progress = PushInProgress([job for _, job in self._pushes])

    @property
    def _background(self) -> HfApi:
        """Runs uploads one after the other, in a thread."""
        if not hasattr(self, "_background_api"):
            self._background_api = HfApi()
        return self._background_api

    def _uploads_of(self, checkpoint: Path) -> tuple[Uploads, str | None]:
        """Files to push with a checkpoint, and the folder of the repository that they replace."""
        uploads: Uploads = {}
        if self.published_architecture is None:
            uploads |= model_files(checkpoint, card=self.model_card(), images_in=self.args.output_dir)
        if self.args.hub_strategy == HubStrategy.CHECKPOINT:
            return uploads | checkpoint_files(checkpoint), LAST_CHECKPOINT
        if self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            return uploads | checkpoint_files(checkpoint, checkpoint.name), None
        return uploads, None

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._report_failed_pushes()

    def _report_failed_pushes(self) -> None:
        pushes, self._pushes = getattr(self, "_pushes", []), []
        for folder, job in pushes:
            if not job.done():
                self._pushes.append((folder, job))
            elif (error := job.exception()) is not None:
                # Whatever it was: no push ends a training.
                reason = error if isinstance(error, HubError) else repr(error)
                logger.warning(f"{folder.name} was not pushed to the Hub: {reason}. Training goes on without it")

    # What is pushed in the end

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Saves the model. Into the output folder the card goes along; with `push_to_hub` all of it is pushed, once it is
        saved, and a push that fails is a warning.
        """
        super().save_model(output_dir, _internal_call=True)
        if not _internal_call and output_dir in (None, self.args.output_dir):
            self.finish()

    def finish(self) -> None:
        """Writes the card of the output folder and, with `push_to_hub`, pushes all that is in it; failures warn."""
        self.create_model_card()
        if not (self.args.push_to_hub and self.is_world_process_zero()):
            return
        self._finish_current_push()
        try:
            commit = self._push_folder("End of training")
            print(f"pushed:   {commit.commit_url}")
        except HubError as error:
            folder = self.args.output_dir
            logger.warning(
                f"{error}. The model is saved in {folder}, but not pushed. Push it with: "
                f"vjepa publish {folder} {self.hub_model_id}"
            )

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
            kwargs: for [`model_card`].

        Raises:
            HubError: in one line, with the remedy.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        if self.published_architecture is None:
            super().save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        settings = {"token": token, "revision": revision, "private": private}
        settings = {name: value for name, value in settings.items() if value is not None}
        if blocking:
            return self._push_folder(commit_message, **settings)
        return self._background.run_as_future(self._push_folder, commit_message, **settings)

    def _push_folder(self, message: str | None, **changes: Any) -> CommitInfo:
        args = self.args
        settings = {"token": args.hub_token, "private": args.hub_private_repo, "revision": args.hub_revision}
        return publish_folder(args.output_dir, self.hub_model_id, message=message or "Upload", **(settings | changes))
