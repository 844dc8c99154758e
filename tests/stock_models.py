"""Folders of stock I-JEPA models, as transformers writes them, with the positions of I-JEPA."""

from pathlib import Path
from typing import Any

import torch
from transformers import IJepaConfig, IJepaModel, PreTrainedModel

from transformers_vjepa.models.vjepa.modeling_vjepa import sincos_positions

#: As small as the models of tests/reference.py, with other values wherever a field has one.
STOCK = {
    **{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 200},
    **{"image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-5, "hidden_act": "gelu_new", "qkv_bias": False},
}


def stock_folder_of(
    folder: Path,
    model_class: type[PreTrainedModel] = IJepaModel,
    *,
    positions: bool = True,
    settings: dict[str, Any] | None = None,
    **fields: Any,
) -> PreTrainedModel:
    """Writes a folder, and returns its model; `settings` are arguments of the class, `fields` of the configuration."""
    torch.manual_seed(0)
    model = model_class(IJepaConfig(**(STOCK | fields)), **(settings or {}))
    if positions:  # otherwise random, as if they had been trained
        side = model.config.image_size // model.config.patch_size
        table = sincos_positions((1, side, side), 48, uniform_power=True, is_image_model=True)
        getattr(model, "ijepa", model).embeddings.position_embeddings.data = table.unsqueeze(0)
    model.save_pretrained(folder)
    return model.eval()
