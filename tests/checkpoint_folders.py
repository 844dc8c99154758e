"""Folders that look like checkpoints, for tests of the selection of a checkpoint."""

import json

import torch

from transformers_vjepa.training.manifests import checkpoint_files, write_manifest


def write_state(folder, step, **changes):
    state = {"global_step": step, "train_batch_size": 2, "log_history": [{"loss": 0.5, "step": step}]} | changes
    (folder / "trainer_state.json").write_text(json.dumps(state))


def write_checkpoint(folder, step, *, run="one", manifest=True):
    """`folder/checkpoint-STEP` with small files; `manifest=False`: as an earlier version wrote it."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, path / name)
    (path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (path / "position.json").write_text(json.dumps({"batches": step, "clips": 2 * step}))
    write_state(path, step)
    if manifest:
        write_manifest(path, checkpoint_files(path), step=step, run=run)
    return path
