"""Example images that a pretraining run writes into its output folder."""

import re
import time
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.utils import logging

from ..figures.charts import plot_training_curves
from ..figures.images import plot_feature_pca, plot_masked_clips
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from .masking import VJEPAMaskCollator

logger = logging.get_logger(__name__)

# Shares of training at which the features of the preview clips are saved.
_SNAPSHOTS = (0.0, 0.1, 0.3, 1.0)
_NUM_CLIPS = 4


def _folder(args: TrainingArguments) -> Path:
    return Path(args.output_dir) / "pictures"


class TrainingImages(TrainerCallback):
    """
    Writes images into the folder `pictures/` of the output folder: `masks.png` at the start; `curves.png` (loss and
    diagnostics) and `features.png` (principal components of target features of the same clips during training) at
    checkpoints and at the end. Drawing takes seconds, so after a checkpoint the images are drawn only if the last
    drawing, or the start, was `minutes` ago; at the end they are always drawn. Needs the extra `viz`; without it the
    callback warns once and does nothing.

    Args:
        preview: a stream of clips, as [`~data.streaming.clip_stream`] makes it; its first four clips are shown.
        collator: draws the masks of these clips.
        processor: normalises these clips.
        minutes: at least 0; 0 draws after every checkpoint.
    """

    def __init__(
        self,
        preview: IterableDataset,
        *,
        collator: VJEPAMaskCollator,
        processor: VJEPAVideoProcessor,
        minutes: float = 10.0,
    ):
        self._preview = preview
        self._collator = collator
        self._processor = processor
        self._seconds = 60 * minutes
        self._drawn_at = time.monotonic()
        self._enabled = find_spec("matplotlib") is not None

    @cached_property
    def _batch(self) -> dict[str, Any]:
        return self._collator(list(islice(self._preview, _NUM_CLIPS)))

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not self._enabled:
            logger.warning("no images are drawn without matplotlib: pip install transformers_vjepa[viz]")
            return
        self._drawn_at = time.monotonic()
        folder, batch = _folder(args), self._batch
        if state.is_world_process_zero:
            folder.mkdir(parents=True, exist_ok=True)
            plot_masked_clips(
                batch["pixel_values_videos"],
                batch["context_mask"],
                batch["target_mask"],
                config=self._collator.config,
                path=folder / "masks.png",
            )
        if state.global_step == 0:
            if state.is_world_process_zero:
                for leftover in folder.glob("features/*.safetensors"):  # of an earlier run
                    leftover.unlink()
            self._keep_features(args, state, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self._enabled and state.global_step in {round(share * state.max_steps) for share in _SNAPSHOTS}:
            self._keep_features(args, state, model)

    def on_save(self, args, state, control, **kwargs):
        if time.monotonic() - self._drawn_at >= self._seconds:
            self.draw(args, state)

    def on_train_end(self, args, state, control, **kwargs):
        self.draw(args, state)

    @torch.no_grad()
    def _keep_features(self, args, state, model) -> None:
        # All processes run the whole model: sharded parameters are gathered only in this way.
        device = next(model.parameters()).device
        pixels = self._batch["pixel_values_videos"].to(device)
        outputs = model(
            normalize_clips(pixels, mean=self._processor.image_mean, std=self._processor.image_std),
            [mask.to(device) for mask in self._batch["context_mask"]],
            [mask.to(device) for mask in self._batch["target_mask"]],
        )
        if state.is_world_process_zero:
            features = {"features": outputs.target_hidden_state.float().cpu().contiguous()}
            folder = _folder(args) / "features"
            folder.mkdir(parents=True, exist_ok=True)  # also if the output folder was deleted during the training
            save_file(features, folder / f"step-{state.global_step}.safetensors")

    def draw(self, args: TrainingArguments, state: TrainerState) -> None:
        """Draws `curves.png` and `features.png` from the state of a run and from the features that it has kept."""
        if not (self._enabled and state.is_world_process_zero):
            return
        folder = _folder(args)
        folder.mkdir(parents=True, exist_ok=True)
        if any("loss" in entry for entry in state.log_history):  # a checkpoint may come before the first log
            noun = self._collator.config.noun
            plot_training_curves(state.log_history, path=folder / "curves.png", noun=noun)
        files = {int(re.search(r"\d+", file.stem)[0]): file for file in folder.glob("features/*.safetensors")}
        snapshots = [(step, load_file(files[step])["features"]) for step in sorted(files)]
        self._drawn_at = time.monotonic()
        if not snapshots:  # the resumed run had saved none
            return
        clips = self._batch["pixel_values_videos"]
        plot_feature_pca(clips, snapshots, config=self._collator.config, path=folder / "features.png")
