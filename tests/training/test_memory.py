"""The estimate of training memory: by hand, and against what autograd really keeps."""

import torch
from torch import nn

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining
from transformers_vjepa.training.memory import training_memory

TINY = {
    "crop_size": 32,
    "patch_size": 8,
    "frames_per_clip": 4,
    "tubelet_size": 2,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pred_hidden_size": 16,
    "pred_num_hidden_layers": 1,
    "pred_num_attention_heads": 2,
}


class Square(nn.Module):
    """Keeps its input (for the weights) and its weights; its result is squared, which keeps the result."""

    def __init__(self):
        super().__init__()
        self.layer, self.frozen = nn.Linear(8, 4, bias=False), nn.Linear(8, 2, bias=False)
        self.frozen.requires_grad_(False)

    def forward(self, inputs):
        return self.layer(inputs).square()


def test_memory_of_a_layer_by_hand():
    memory = training_memory(Square, lambda model, mode: model(torch.empty(10, 8)))
    assert memory == {"weights": 4 * 48, "gradients": 4 * 32, "optimizer": 8 * 32, "activations": 4 * (80 + 40)}


def really_kept(model, clips, masks):
    """Bytes of the storages, other than weights, that autograd keeps in a true forward pass."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(clips, *masks).loss
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def test_memory_is_what_autograd_keeps():
    config = VJEPAConfig(**TINY)
    clips = torch.rand(3, 4, 3, 32, 32)
    masks = [torch.tensor([[0, 3, 5]] * 3)], [torch.tensor([[1, 2, 4, 6, 7]] * 3)]

    def forward(model, mode):
        model(torch.empty(clips.shape), *[[mode.from_tensor(mask) for mask in part] for part in masks])

    memory = training_memory(lambda: VJEPAForPreTraining(config), forward)
    model = VJEPAForPreTraining(config).train()
    assert memory["weights"] == 4 * model.num_parameters()
    assert memory["gradients"] == 4 * model.num_parameters(only_trainable=True)
    kept = really_kept(model, clips, masks)
    assert 0.95 * kept <= memory["activations"] <= 1.05 * kept
    less = training_memory(lambda: VJEPAForPreTraining(config), forward, checkpointing=True)
    assert less["activations"] < 0.5 * memory["activations"]
