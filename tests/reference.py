"""Reference tensors, and published training steps repeated; fields of a model that is small enough for any test."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.utils.data import IterableDataset

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPATrainer, VJEPATrainingArguments
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


def reference_model(folder: Path) -> VJEPAForPreTraining:
    """The published checkpoint of a folder. What its geometry leaves open, such as the loss, is that of a preset."""
    geometry = json.loads((folder / "geometry.json").read_text())
    preset = "ijepa-vith14" if geometry["frames_per_clip"] == 1 else "vitl16"
    return load_published_checkpoint(folder / "checkpoint.pth.tar", VJEPAConfig.from_preset(preset, **geometry))


def reference_tensors(file: Path) -> dict[str, torch.Tensor]:
    return load_file(file)


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours.detach() - theirs).abs().max().item()


def inputs_of(tensors: dict[str, torch.Tensor], prefix: str = "") -> dict[str, Any]:
    """What the model takes: two mask pairs of a clip (V-JEPA), or a context and four targets of an image (I-JEPA)."""
    if f"{prefix}image" in tensors:
        return {
            "pixel_values_videos": tensors[f"{prefix}image"].unsqueeze(1),  # images are clips of one frame
            "context_mask": [tensors[f"{prefix}context_mask"]],
            "target_mask": [tensors[f"{prefix}target_mask{index}"] for index in range(4)],
        }
    return {
        "pixel_values_videos": tensors[f"{prefix}clip"].transpose(1, 2),
        "context_mask": [tensors[f"{prefix}mask{index}.context"] for index in range(2)],
        "target_mask": [tensors[f"{prefix}mask{index}.target"] for index in range(2)],
    }


class _Steps(IterableDataset):
    """0, 1, 2, ...: the collator makes the batch of a step from its number."""

    def __iter__(self) -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1


def repeat_run(
    model: VJEPAForPreTraining, recipe: dict[str, Any], inputs_of_step: Callable[[int], dict[str, Any]], folder: Path
) -> list[dict[str, float]]:
    """
    Repeats a published run with `VJEPATrainer`.

    Args:
        model: trained in place.
        recipe: the numbers of the published run, from its JSON file.
        inputs_of_step: the inputs of the model, by the number of the step.

    Returns:
        What the trainer logs of each step.
    """
    arguments = VJEPATrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=recipe["steps"],
        start_learning_rate=recipe["start_lr"],
        learning_rate=recipe["peak_lr"],
        final_learning_rate=recipe["final_lr"],
        warmup_steps=recipe["warmup_steps"],
        schedule_scale=recipe["schedule_scale"],
        weight_decay=recipe["weight_decay"],
        final_weight_decay=recipe["final_weight_decay"],
        ema_momentum=recipe["ema"][0],
        final_ema_momentum=recipe["ema"][1],
        max_grad_norm=recipe["clip_grad"] or 0,
        clip_grad_from_step=recipe.get("clip_grad_from_step"),
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = VJEPATrainer(model, arguments, _Steps(), data_collator=lambda numbers: inputs_of_step(numbers[0]))
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == recipe["steps"]
    return log
