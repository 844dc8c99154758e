"""What the pictures of a report are made from: the clips of a study, and the encoders that see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..analysis.read_outs import encode_clips, labelled_subset
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from .plan import StudyClips
from .results import Study

CLIPS_FILE = "clips.pt"


class MissingInputError(ValueError):
    """A picture cannot be made because what it shows is not there; the message says what."""


class ReportInputs:
    """
    Clips, labels and features of a study; features are computed when a picture first asks for them.

    Args:
        study: the numbers, which name the folders of the models.

    Attributes:
        config: geometry of the V-JEPA model.
        processor: its mean and standard deviation of the pixels, and which frames make a clip.
        test: uint8 (clips, frames, 3, height, width), in the order of the study.
        class_names: names of the classes by task.

    Raises:
        MissingInputError: the V-JEPA models of the study or its clips are not there.
    """

    def __init__(self, study: Study) -> None:
        folder = study.run_folder("vjepa")
        if folder is None:
            raise MissingInputError("study.json names no folder with a V-JEPA model that is still there")
        if not (study.folder / CLIPS_FILE).is_file():
            raise MissingInputError(f"{study.folder.name} has no {CLIPS_FILE}, which holds the clips of the study")
        self.study = study
        self.folder: Path = folder
        self.config = VJEPAConfig.from_pretrained(folder)
        self.processor = VJEPAVideoProcessor.from_pretrained(folder)
        self._clips = StudyClips.load(study.folder / CLIPS_FILE)
        self.test = self._clips.clips["test"].permute(0, 1, 4, 2, 3)
        self.class_names = self._clips.classes
        self._models: dict[str, VJEPAModel] = {}
        self._test_features: dict[str, torch.Tensor] = {}

    def labels(self, task: str) -> np.ndarray:
        """Classes of the test clips, int64 (clips,)."""
        return self._clips.labels[task]["test"].numpy()

    @property
    def arms(self) -> list[str]:
        """Arms whose features can be shown: those whose models are there."""
        return [arm for arm in ("untrained", "pixels", "vjepa") if self.study.run_folder(arm) is not None]

    def test_features(self, arm: str) -> torch.Tensor:
        """Features of the test clips, of an arm of `arms`: float32 (clips, time, cells, width)."""
        if arm not in self._test_features:
            self._test_features[arm] = encode_clips(
                self._model(arm), self._clips.clips["test"], processor=self.processor
            )
        return self._test_features[arm]

    def labelled_features(self, arm: str, task: str) -> tuple[torch.Tensor, np.ndarray]:
        """Features and labels of the labelled clips behind the main numbers of the first seed."""
        labels = self._clips.labels[task]["train"].numpy()
        chosen = labelled_subset(labels, count=min(self.study.labels, len(labels)), seed=self.study.first_seed)
        clips = self._clips.clips["train"][torch.from_numpy(chosen)]
        return encode_clips(self._model(arm), clips, processor=self.processor), labels[chosen]

    def normalized(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 clips (clips, frames, 3, height, width) as the networks take them: float32 of the same shape."""
        return normalize_clips(clips, mean=self.processor.image_mean, std=self.processor.image_std)

    def training_batches(self, *, batch_size: int, number: int) -> list[torch.Tensor]:
        """The first clips of the training split in batches of uint8 (batch, frames, 3, height, width)."""
        clips = self._clips.clips["train"][: batch_size * number].permute(0, 1, 4, 2, 3)
        return list(clips.split(batch_size))

    @property
    def is_built_in(self) -> bool:
        """Whether the clips are of the built-in corpus, of which others like them can be rendered."""
        return set(self.class_names) == {"motion", "appearance"}

    def pretraining_model(self, arm: str) -> VJEPAForPreTraining:
        """Encoders and predictor of an arm of `arms`, frozen."""
        return VJEPAForPreTraining.from_pretrained(self.study.run_folder(arm)).eval().requires_grad_(False)

    def _model(self, arm: str) -> VJEPAModel:
        if arm not in self._models:
            folder = self.study.run_folder(arm)
            self._models[arm] = VJEPAModel.from_pretrained(folder, add_predictor=False)
        return self._models[arm]


__all__ = ["CLIPS_FILE", "MissingInputError", "ReportInputs"]
