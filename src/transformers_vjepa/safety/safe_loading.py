"""
Checkpoints that nobody vouches for: what resuming unpickles is looked through before, and runs no code.

The Trainer reads its own files with `weights_only=True`, which refuses code, but in words that advise to turn this
off. The sharded files of `torch.distributed.checkpoint` are unpickled without any such bound.
"""

import io
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from transformers.trainer_pt_utils import safe_globals

from .atomic_files import atomic_path

# Plain data that the Trainer unpickles when it resumes. (It writes `training_args.bin`, and never reads it.)
_STATES = ("optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "pytorch_model*.bin")
_SHARDED = "torch.distributed.checkpoint"
# What the description of a sharded checkpoint is made of.
_PLAIN = {
    f"{_SHARDED}.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    f"{_SHARDED}.filesystem": {"_StorageInfo"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "PurePosixPath"},
    "collections": {"OrderedDict"},
}
_ANOTHER = "resume from another checkpoint"


class _MetadataUnpickler(pickle.Unpickler):
    """Makes what describes a sharded checkpoint, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _PLAIN.get(module, ()):
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return super().find_class(module, name)


def screen_checkpoint(folder: str | os.PathLike) -> None:
    """
    Looks through what resuming from a checkpoint folder unpickles; tensors stay in their files.

    Raises:
        CheckpointError: a file with more than tensors and plain data, or a damaged one.
    """
    folder = Path(folder)
    for file in sorted(file for pattern in _STATES for file in folder.glob(pattern)):
        if file.is_file():
            with safe_globals():  # of numpy: its random state
                read_checkpoint(file)
    for file in sorted(folder.rglob(".metadata")):
        _screen_shards(file)


def _screen_shards(description: Path) -> None:
    """Refuses code in the description of a sharded checkpoint, and in what is not a tensor in its files."""
    try:
        with open(description, "rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"it is a {type(metadata).__name__}")
        pickled = {
            name for name, kind in metadata.state_dict_metadata.items() if isinstance(kind, BytesStorageMetadata)
        }
        stored = [
            (index.fqn, str(info.relative_path), info.offset, info.length, info.transform_descriptors)
            for index, info in metadata.storage_data.items()
        ]
    except pickle.UnpicklingError as error:
        raise CheckpointError(refusal(description, error)) from error
    except DAMAGED as error:
        raise CheckpointError(f"{description} is damaged ({type(error).__name__}): {_ANOTHER}") from error
    for name, path, offset, length, transforms in stored:
        if PurePath(path).name != path or transforms:
            raise CheckpointError(f"{description} names {path!r}, which is no plain file beside it: {_ANOTHER}")
        if name in pickled:
            _screen_bytes(description.parent / path, name, offset=offset, length=length)


def _screen_bytes(path: Path, name: str, *, offset: int, length: int) -> None:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            torch.load(io.BytesIO(file.read(length)), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(refusal(f"{path} ({name})", error)) from error
    except (OSError, *DAMAGED) as error:
        raise CheckpointError(f"{path} is damaged at {name} ({type(error).__name__}): {_ANOTHER}") from error


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


def save_checkpoint(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Writes a file that `read_checkpoint`, and the published code, read; it appears once it is complete."""
    with atomic_path(path) as unfinished:
        torch.save(dict(checkpoint), unfinished)


__all__ = [
    "DAMAGED",
    "CheckpointError",
    "read_checkpoint",
    "refusal",
    "save_checkpoint",
    "screen_checkpoint",
]
