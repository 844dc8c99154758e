"""V-JEPA in the Hugging Face stack. Importing the package registers its classes with the Auto classes."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)

from .hub.remote_code import ship_code
from .models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from .models.vjepa.image_processing_vjepa import VJEPAImageProcessor
from .models.vjepa.modeling_vjepa import (
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAModel,
    VJEPAPreTrainedModel,
)
from .models.vjepa.video_processing_vjepa import VJEPAVideoProcessor

AutoConfig.register("vjepa", VJEPAConfig, exist_ok=True)
AutoModel.register(VJEPAConfig, VJEPAModel, exist_ok=True)
AutoModelForPreTraining.register(VJEPAConfig, VJEPAForPreTraining, exist_ok=True)
AutoModelForVideoClassification.register(VJEPAConfig, VJEPAForVideoClassification, exist_ok=True)
# The same class: an image is a still clip.
AutoModelForImageClassification.register(VJEPAConfig, VJEPAForVideoClassification, exist_ok=True)
AutoVideoProcessor.register(VJEPAConfig, VJEPAVideoProcessor, exist_ok=True)
AutoImageProcessor.register(VJEPAConfig, image_processor_classes={"torchvision": VJEPAImageProcessor}, exist_ok=True)
ship_code(VJEPAConfig, VJEPAPreTrainedModel, VJEPAVideoProcessor, VJEPAImageProcessor)

# Loaded when first used: loading a model does not wait for `datasets` and the trainer. Editors and type checkers read
# the same names below.
_LAZY = {
    "Augmentation": "data.streaming",
    "ClipSampling": "models.vjepa.clip_sampling",
    "Decoding": "data.clip_reading",
    "StreamPosition": "data.streaming",
    "StreamShare": "data.streaming",
    "VJEPAClassificationArguments": "evaluation.trainer",
    "VJEPAClassificationTrainer": "evaluation.trainer",
    "VJEPAMaskCollator": "pretraining.masking",
    "VJEPATrainer": "pretraining.trainer",
    "VJEPATrainingArguments": "pretraining.trainer",
    "clip_stream": "data.streaming",
    "read_clip": "models.vjepa.decoding",
}
if TYPE_CHECKING:
    from .data.clip_reading import Decoding
    from .data.streaming import Augmentation, StreamPosition, StreamShare, clip_stream
    from .evaluation.trainer import VJEPAClassificationArguments, VJEPAClassificationTrainer
    from .models.vjepa.clip_sampling import ClipSampling
    from .models.vjepa.decoding import read_clip
    from .pretraining.masking import VJEPAMaskCollator
    from .pretraining.trainer import VJEPATrainer, VJEPATrainingArguments


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
    "Augmentation",
    "ClipSampling",
    "Decoding",
    "StreamPosition",
    "StreamShare",
    "VJEPAClassificationArguments",
    "VJEPAClassificationTrainer",
    "VJEPAMaskCollator",
    "VJEPATrainer",
    "VJEPATrainingArguments",
    "clip_stream",
    "read_clip",
]
