"""Files of weights: the published ones, read without running code, and our folders."""

import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .configuration_vjepa import VJEPAConfig

Weights = dict[str, torch.Tensor]


#: What is raised for archives and pickles that are cut short or mangled.
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,  # a pickle that asks for more
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


class CheckpointError(ValueError):
    """A file that is no published checkpoint, or not the one that the arguments describe."""


def refusal(path: str | os.PathLike, error: pickle.UnpicklingError) -> str:
    """What to say of a file that was not unpickled: torch's own words advise to do so all the same."""
    name = re.search(r"GLOBAL (\S+)", str(error))
    detail = f" ({name.group(1)})" if name else ""
    return f"{path} holds more than tensors and plain data{detail}: it is not loaded, since that could run any code"


def _is_archive(path: str | os.PathLike) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # such as one that says it has several disks
        return False


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """
    The dict that a `torch.save` file holds. Tensors stay in the file until they are used, and no code is unpickled.

    Raises:
        CheckpointError: a truncated file, one that `torch.save` did not write, or one with more than plain data.
        OSError: no such file.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    if not _is_archive(path):
        if start == b"PK\x03\x04":
            raise CheckpointError(f"{path} is truncated: it has no end of archive; copy or download it again")
        raise CheckpointError(f"{path} is no checkpoint: torch.save (1.6 or later) did not write it")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(refusal(path, error)) from error
    except DAMAGED as error:
        lines = str(error).splitlines()
        reason = lines[0] if lines and isinstance(error, RuntimeError) else f"it is damaged ({type(error).__name__})"
        raise CheckpointError(f"{path} is no checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} is no checkpoint: it holds a {type(checkpoint).__name__} instead of a dict")
    return checkpoint


def read_folder(folder: str | os.PathLike) -> tuple[VJEPAConfig, Weights]:
    """
    Configuration and weights of a folder that `save_pretrained` wrote, under the names of the pretraining model and
    the classifier (a base model's get their `vjepa.`). Tensors stay in their files until they are used.

    Raises:
        CheckpointError: no model of ours, or a damaged file.
    """
    folder = Path(folder)
    files = sorted(folder.glob("model*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no saved model: it has no config.json or no model.safetensors")
    config, weights = VJEPAConfig.from_pretrained(folder), {}
    for file in files:
        try:
            weights |= load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
    parts = ("encoder.", "predictor.")
    return config, {f"vjepa.{name}" if name.startswith(parts) else name: value for name, value in weights.items()}


def save_checkpoint(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Writes a file that `read_checkpoint`, and the published code, read; it appears once it is complete."""
    partial = Path(f"{os.fspath(path)}.partial")
    torch.save(dict(checkpoint), partial)
    partial.replace(path)


__all__ = ["DAMAGED", "CheckpointError", "Weights", "read_checkpoint", "read_folder", "refusal", "save_checkpoint"]
