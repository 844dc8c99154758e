"""
Checkpoints that nobody vouches for: what resuming unpickles is looked through before, and runs no code.

The Trainer reads its own files with `weights_only=True`, which refuses code, but in words that advise to turn this
off. The sharded files of `torch.distributed.checkpoint` are unpickled without any such bound.
"""

import io
import os
import pickle
from pathlib import Path, PurePath
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from transformers.trainer_pt_utils import safe_globals

from .published_files import DAMAGED, CheckpointError, read_checkpoint, refusal

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


__all__ = ["screen_checkpoint"]
