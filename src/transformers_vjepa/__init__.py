"""V-JEPA in the Hugging Face stack. Importing the package registers its classes with the Auto classes."""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoVideoProcessor

from .configuration_vjepa import PRESETS, VJEPAConfig
from .modeling_vjepa import VJEPAForPreTraining, VJEPAModel
from .video_processing_vjepa import VJEPAVideoProcessor

AutoConfig.register("vjepa", VJEPAConfig, exist_ok=True)
AutoModel.register(VJEPAConfig, VJEPAModel, exist_ok=True)
AutoModelForPreTraining.register(VJEPAConfig, VJEPAForPreTraining, exist_ok=True)
AutoVideoProcessor.register(VJEPAConfig, VJEPAVideoProcessor, exist_ok=True)

# Loaded when first used: who only loads a model need not wait for `datasets` and the trainer.
_LAZY = {
    "ClipSampling": "decoding",
    "StreamPosition": "streaming",
    "VJEPAMaskCollator": "masking",
    "VJEPATrainer": "trainer",
    "VJEPATrainingArguments": "trainer",
    "clip_stream": "streaming",
    "read_clip": "decoding",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["PRESETS", "VJEPAConfig", "VJEPAForPreTraining", "VJEPAModel", "VJEPAVideoProcessor", *_LAZY]
