"""The inputs of the images of a report: the clips of a study, and the encoders applied to them."""

from __future__ import annotations

import numpy as np
import torch

from ..analysis.read_outs import encode_clips, labelled_subset
from ..figures.images import short_name
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from .plan import StudyClips
from .results import StudyResults

CLIPS_FILE = "clips.pt"


class MissingInputError(ValueError):
    """Images cannot be drawn because clips or models are missing; the message names them."""


class ReportInputs:
    """
    Clips, labels and features of a study, whose results name the folders of the models. Features are computed on first
    use.

    Attributes:
        config: geometry of the model of the main arm.
        processor: its mean and standard deviation of the pixels, and the sampling of its clips.
        train, test: uint8 (clips, frames, 3, height, width), in the order of the study.
        class_names: names of the classes by task.
        kind, main: the kind of the study, and its main arm.
        arms: arms whose models exist.

    Raises:
        MissingInputError: the models of the main arm, or the clips, do not exist.
    """

    def __init__(self, study: StudyResults) -> None:
        main, kind = study.kind.main, study.kind
        folder = study.run_folder(main)
        if folder is None:
            raise MissingInputError(f"study.json names no existing folder with a model of {kind.method}")
        if not (study.folder / CLIPS_FILE).is_file():
            raise MissingInputError(
                f"{study.folder.name} has no {CLIPS_FILE}, the file with the {kind.nouns} of the study"
            )
        self.study, self.kind, self.main = study, kind, main
        self.config = VJEPAConfig.from_pretrained(folder)
        self.processor = VJEPAVideoProcessor.from_pretrained(folder)
        self._clips = StudyClips.load(study.folder / CLIPS_FILE)
        self.train, self.test = (self._clips.clips[split].permute(0, 1, 4, 2, 3) for split in ("train", "test"))
        self.class_names = self._clips.classes
        self.arms = [arm for arm in ("untrained", "pixels", main) if study.run_folder(arm) is not None]
        self._models: dict[str, VJEPAModel] = {}
        self._test_features: dict[str, torch.Tensor] = {}

    def labels(self, task: str) -> np.ndarray:
        """Classes of the test clips, int64 (clips,)."""
        return self._clips.labels[task]["test"].numpy()

    def class_text(self, index: int, separator: str = ", ") -> str:
        """Short names of the classes of a test clip."""
        return separator.join(short_name(names[self.labels(task)[index]]) for task, names in self.class_names.items())

    def test_features(self, arm: str) -> torch.Tensor:
        """Features of the test clips, of an arm of `arms`: float32 (clips, time, cells, width)."""
        if arm not in self._test_features:
            self._test_features[arm] = self._encode(arm, self._clips.clips["test"])
        return self._test_features[arm]

    def labelled_features(self, arm: str, task: str) -> tuple[torch.Tensor, np.ndarray]:
        """Features and labels of the labelled clips of the main table, for the first seed."""
        labels = self._clips.labels[task]["train"].numpy()
        chosen = labelled_subset(labels, count=min(self.study.labels, len(labels)), seed=self.study.first_seed)
        return self._encode(arm, self._clips.clips["train"][torch.from_numpy(chosen)]), labels[chosen]

    def normalized(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 clips (clips, frames, 3, height, width) as input of the networks: float32 of the same shape."""
        return normalize_clips(clips, mean=self.processor.image_mean, std=self.processor.image_std)

    @property
    def is_built_in(self) -> bool:
        """Whether the clips are of the built-in corpus, which can render further clips."""
        return set(self.class_names) == {"motion", "appearance"}

    def pretraining_model(self, arm: str) -> VJEPAForPreTraining:
        """Encoders and predictor of an arm of `arms`, frozen."""
        return VJEPAForPreTraining.from_pretrained(self.study.run_folder(arm)).eval().requires_grad_(False)

    def _encode(self, arm: str, clips: torch.Tensor) -> torch.Tensor:
        if arm not in self._models:
            self._models[arm] = VJEPAModel.from_pretrained(self.study.run_folder(arm), add_predictor=False)
        return encode_clips(self._models[arm], clips, processor=self.processor)
