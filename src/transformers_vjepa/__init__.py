"""V-JEPA in the Hugging Face stack. Importing the package registers its classes with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from .configuration_vjepa import PRESETS, VJEPAConfig
from .modeling_vjepa import VJEPAForPreTraining, VJEPAModel

AutoConfig.register("vjepa", VJEPAConfig, exist_ok=True)
AutoModel.register(VJEPAConfig, VJEPAModel, exist_ok=True)
AutoModelForPreTraining.register(VJEPAConfig, VJEPAForPreTraining, exist_ok=True)

__all__ = ["PRESETS", "VJEPAConfig", "VJEPAForPreTraining", "VJEPAModel"]
