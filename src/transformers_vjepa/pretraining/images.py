"""Example images that a pretraining run writes into its output folder."""

import re
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch
from datasets import IterableDataset
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
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


class TrainingImages(TrainerCallback):
    """
    Writes images into the folder `pictures/` of the output folder: `masks.png` at the start; `curves.png` (loss and
    diagnostics) and `features.png` (principal components of target features of the same clips during training) at
    every checkpoint and at the end. Needs the extra `viz`; without it the callback warns once and does nothing.

    Args:
        preview: a stream of clips, as [`~data.streaming.clip_stream`] makes it; its first four clips are shown.
        collator: draws the masks of these clips.
        processor: normalises these clips.
    """

    def __init__(self, preview: IterableDataset, *, collator: VJEPAMaskCollator, processor: VJEPAVideoProcessor):
        self._preview = preview
        self._collator = collator
        self._processor = processor
        self._enabled = find_spec("matplotlib") is not None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not self._enabled:
            logger.warning("no images are drawn without matplotlib: pip install transformers_vjepa[viz]")
            return
        self._folder = Path(args.output_dir) / "pictures"
        self._batch = self._collator(list(islice(self._preview, _NUM_CLIPS)))
        if state.is_world_process_zero:
            (self._folder / "features").mkdir(parents=True, exist_ok=True)
            plot_masked_clips(
                self._batch["pixel_values_videos"],
                self._batch["context_mask"],
                self._batch["target_mask"],
                config=self._collator.config,
                path=self._folder / "masks.png",
            )
        if state.global_step == 0:
            if state.is_world_process_zero:
                for leftover in self._folder.glob("features/*.safetensors"):  # of an earlier run
                    leftover.unlink()
            self._keep_features(state, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self._enabled and state.global_step in {round(share * state.max_steps) for share in _SNAPSHOTS}:
            self._keep_features(state, model)

    def on_save(self, args, state, control, **kwargs):
        self._draw(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._draw(state)

    @torch.no_grad()
    def _keep_features(self, state, model) -> None:
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
            save_file(features, self._folder / "features" / f"step-{state.global_step}.safetensors")

    def _draw(self, state) -> None:
        if not (self._enabled and state.is_world_process_zero):
            return
        if any("loss" in entry for entry in state.log_history):  # a checkpoint may come before the first log
            plot_training_curves(state.log_history, path=self._folder / "curves.png")
        files = {int(re.search(r"\d+", file.stem)[0]): file for file in self._folder.glob("features/*.safetensors")}
        snapshots = [(step, load_file(files[step])["features"]) for step in sorted(files)]
        if not snapshots:  # the resumed run had saved none
            return
        clips = self._batch["pixel_values_videos"]
        plot_feature_pca(clips, snapshots, config=self._collator.config, path=self._folder / "features.png")
