"""V-JEPA in the Hugging Face stack. Importing the package registers its classes with the Auto classes."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)

from .configuration_vjepa import PRESETS, VJEPAConfig
from .image_processing_vjepa import VJEPAImageProcessor
from .modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel, VJEPAPreTrainedModel
from .remote_code import ship_code
from .video_processing_vjepa import VJEPAVideoProcessor

AutoConfig.register("vjepa", VJEPAConfig, exist_ok=True)
AutoModel.register(VJEPAConfig, VJEPAModel, exist_ok=True)
AutoModelForPreTraining.register(VJEPAConfig, VJEPAForPreTraining, exist_ok=True)
AutoModelForVideoClassification.register(VJEPAConfig, VJEPAForVideoClassification, exist_ok=True)
# The same class: a picture is a still clip.
AutoModelForImageClassification.register(VJEPAConfig, VJEPAForVideoClassification, exist_ok=True)
AutoVideoProcessor.register(VJEPAConfig, VJEPAVideoProcessor, exist_ok=True)
AutoImageProcessor.register(VJEPAConfig, image_processor_classes={"torchvision": VJEPAImageProcessor}, exist_ok=True)
ship_code(VJEPAConfig, VJEPAPreTrainedModel, VJEPAVideoProcessor, VJEPAImageProcessor)

# Loaded when first used: who only loads a model need not wait for `datasets` and the trainer.
_LAZY = {
    "ClipSampling": "clip_sampling",
    "StreamPosition": "streaming",
    "VJEPAClassificationArguments": "classification_trainer",
    "VJEPAClassificationTrainer": "classification_trainer",
    "VJEPAMaskCollator": "masking",
    "VJEPATrainer": "trainer",
    "VJEPATrainingArguments": "trainer",
    "clip_stream": "streaming",
    "read_clip": "decoding",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":  # not looked up on import: a copy of the source may not be installed
        return version(__name__)
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "PRESETS",
    "VJEPAConfig",
    "VJEPAForPreTraining",
    "VJEPAForVideoClassification",
    "VJEPAImageProcessor",
    "VJEPAModel",
    "VJEPAVideoProcessor",
    *_LAZY,
]
