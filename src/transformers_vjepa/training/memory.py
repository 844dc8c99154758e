"""How much memory a training step needs, estimated without computing or allocating anything."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

# AdamW keeps two moments of each weight in float32.
_ADAMW_BYTES = 8
_FLOAT_BYTES = 4


def training_memory(
    build: Callable[[], nn.Module],
    forward: Callable[[nn.Module, FakeTensorMode], Any],
    *,
    checkpointing: bool = False,
    bf16: bool = False,
) -> dict[str, int]:
    """
    Bytes that a process needs to train. The forward pass runs on fake tensors, and the sizes of the tensors that
    autograd keeps for the backward pass are added up.

    Args:
        build: makes the model; its weights are never filled.
        forward: runs a batch of fake tensors through the model.
        checkpointing: keep only the inputs of blocks (activation checkpointing).
        bf16: run under autocast.

    Returns:
        Bytes of `weights` (with moving averages), `gradients`, `optimizer` (AdamW) and `activations`. Workspaces of
        kernels, fragmentation and recomputed activations are not included.
    """
    activations: dict[int, int] = {}
    kept = []  # storages that are freed would give their addresses to others

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in activations:
            activations[storage._cdata] = storage.nbytes()
            kept.append(storage)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with no_init_weights():
            model = build().train()
        if checkpointing:
            # The name of this method since transformers 5.23.
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            forward(model, mode)
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {
        "weights": _FLOAT_BYTES * total,
        "gradients": _FLOAT_BYTES * trained,
        "optimizer": _ADAMW_BYTES * trained,
        "activations": sum(activations.values()),
    }
