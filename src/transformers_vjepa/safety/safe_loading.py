"""
Read torch files from untrusted sources without running code.

A `torch.save` file is a pickle, and unpickling can run any code. `weights_only=True` refuses code, but torch's own
message then advises to turn this protection off. The errors of this module do not.
"""

import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import safe_globals

from .atomic_files import atomic_path

# Files that the Trainer unpickles when it resumes. (It writes `training_args.bin`, too, but never reads this file.)
_STATES = ("optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "pytorch_model*.bin")
#: What torch raises for archives and pickles that are truncated or damaged.
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,  # a damaged pickle may ask for any amount
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


class CheckpointError(ValueError):
    """A file is not a readable checkpoint, or does not fit the arguments."""


def refusal(path: str | os.PathLike, error: pickle.UnpicklingError) -> str:
    """The message for a file that would run code; torch's message advises to load the file nevertheless."""
    name = re.search(r"GLOBAL (\S+)", str(error))
    detail = f" ({name.group(1)})" if name else ""
    return f"{path} holds more than tensors and plain data{detail}: it is not loaded, since that could run any code"


def _is_archive(path: str | os.PathLike) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # such as an archive that claims to span several disks
        return False


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """
    Reads the dict in a `torch.save` file, without running code. Tensors are memory-mapped.

    Raises:
        CheckpointError: the file is damaged, was not written by `torch.save`, or holds more than plain data.
        OSError: the file does not exist or is not readable.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    if not _is_archive(path):
        if start == b"PK\x03\x04":
            raise CheckpointError(f"{path} is truncated: the end of the archive is missing; copy or download it again")
        raise CheckpointError(f"{path} is not a checkpoint: torch.save (1.6 or later) did not write it")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(refusal(path, error)) from error
    except DAMAGED as error:
        lines = str(error).splitlines()
        reason = lines[0] if lines and isinstance(error, RuntimeError) else f"it is damaged ({type(error).__name__})"
        raise CheckpointError(f"{path} is not a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__} instead of a dict")
    return checkpoint


def save_checkpoint(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Writes atomically a file that `read_checkpoint` and the published code can read."""
    with atomic_path(path) as unfinished:
        torch.save(dict(checkpoint), unfinished)


def screen_checkpoint(folder: str | os.PathLike) -> None:
    """
    Reads each file of a checkpoint folder that resuming unpickles, to refuse code before training starts. Tensors stay
    in their files.

    Raises:
        CheckpointError: a file is damaged or holds more than tensors and plain data, or the checkpoint is sharded:
            `torch.distributed.checkpoint` unpickles its `.metadata` without any protection.
    """
    folder = Path(folder)
    for file in sorted(folder.rglob(".metadata")):
        raise CheckpointError(
            f"{file} belongs to a sharded checkpoint of torch.distributed.checkpoint: it is not loaded, since that "
            "could run any code; save checkpoints with FULL_STATE_DICT instead"
        )
    for file in sorted(file for pattern in _STATES for file in folder.glob(pattern)):
        if file.is_file():
            with safe_globals():  # allows NumPy's random state
                read_checkpoint(file)
