"""The three models in a size for any test, and what to call them with: for the rules that every model must keep."""

from collections.abc import Iterator
from typing import Any

import torch
from reference import TINY
from torch import nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel

MODELS = (VJEPAModel, VJEPAForPreTraining, VJEPAForVideoClassification)
SHALLOW = {**TINY, "num_hidden_layers": 1, "pred_num_hidden_layers": 1}
CONTEXT = torch.tensor([[0, 3, 5, 17], [1, 2, 8, 30]])
TARGET = torch.tensor([[1, 2, 9, 20, 31], [0, 5, 9, 12, 29]])
NUM_LABELS = 5


def tiny_config(**fields: Any) -> VJEPAConfig:
    return VJEPAConfig(**{**TINY, "num_labels": NUM_LABELS, **fields})


def tiny_model(cls: type[PreTrainedModel], **fields: Any) -> PreTrainedModel:
    """In evaluation mode, with weights large enough that a part left out would show in the outputs."""
    torch.manual_seed(0)
    model = cls(tiny_config(**fields)).eval()
    for name, parameter in model.named_parameters():
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        nn.init.normal_(parameter, mean=1.0 if is_norm else 0.0, std=0.1)
    return model


def clips(batch: int = 2, frames: int = 4, side: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def inputs_of(cls: type[PreTrainedModel]) -> dict[str, Any]:
    """A batch of two, with everything that the model can make use of."""
    if cls is VJEPAModel:
        return {"pixel_values_videos": clips(), "context_mask": CONTEXT, "target_mask": TARGET}
    if cls is VJEPAForPreTraining:
        return {
            "pixel_values_videos": clips(),
            "context_mask": [CONTEXT, TARGET],
            "target_mask": [TARGET, CONTEXT],
            "variance_weight": 0.5,
        }
    return {"pixel_values_videos": clips(), "labels": torch.tensor([3, 1])}


def tensors_of(output: Any) -> list[torch.Tensor]:
    """All tensors of an output, at any depth."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def largest_gap(ours: Any, theirs: Any) -> float:
    """Largest absolute difference between all tensors of two outputs of the same form."""
    pairs = list(zip(tensors_of(ours), tensors_of(theirs), strict=True))
    assert pairs and all(mine.shape == other.shape for mine, other in pairs)
    return max((mine.detach().float() - other.detach().float()).abs().max().item() for mine, other in pairs)


def scalar_of(output: Any) -> torch.Tensor:
    """Something to take the gradient of: the loss, or for the base model a function of all it returns."""
    loss = output.get("loss")
    return sum(tensor.square().mean() for tensor in tensors_of(output)) if loss is None else loss


def gradients_of(model: nn.Module, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    scalar_of(model(**inputs)).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def all_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, also those that are not saved."""
    yield from model.named_parameters()
    yield from model.named_buffers()
