"""Reads the reference tensors; fields of a model that is small enough for any test."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining
from transformers_vjepa.conversion.conversion import load_published_checkpoint

TINY = {
    "crop_size": 32,
    "patch_size": 8,
    "frames_per_clip": 4,
    "tubelet_size": 2,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 2,
    "pred_num_attention_heads": 3,
}


def reference_model(folder: Path, **fields) -> VJEPAForPreTraining:
    geometry = json.loads((folder / "geometry.json").read_text())
    return load_published_checkpoint(folder / "checkpoint.pth.tar", VJEPAConfig(**geometry, **fields))


def reference_tensors(file: Path) -> dict[str, torch.Tensor]:
    return load_file(file)


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours.detach() - theirs).abs().max().item()


def masks_of(tensors: dict[str, torch.Tensor], kind: str, prefix: str = "") -> list[torch.Tensor]:
    return [tensors[f"{prefix}mask{index}.{kind}"] for index in range(2)]
