"""
The manifest of a checkpoint, or of a finished output folder: size and SHA-256 of each file.

    {"step": 30, "run": "0f3c...", "files": {"model.safetensors": {"size": 1234, "sha256": "9a1b..."}, ...}}

The manifest is the last file to be written. So a folder with a manifest was complete, and damage inside a file, a lost
file or a file of another step is found before a run resumes.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm
from transformers.trainer import TRAINING_ARGS_NAME

from ..safety.atomic_files import write_text_atomically
from ..safety.file_hashes import file_hash

MANIFEST_NAME = "manifest.json"
# Weights, settings and processors of a finished model.
_MODEL_FILES = ("model*.safetensors", "model*.safetensors.index.json", "*config.json")
# What a run reads when it resumes: such a file must be in the manifest. Other files, such as notes, may be added.
_READ = (
    *("model*.safetensors", "pytorch_model*.bin", "adapter_model*", "*.index.json", "config.json"),
    *("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "position.json", "stream_*.json"),
)
# Files that are read side by side: weights and optimizer are the large ones.
_THREADS = 4
# A bar appears only if hashing takes longer.
_SECONDS_WITHOUT_BAR = 5.0
# SHA-256 of files by path, size and time of the last change: a command checks a checkpoint when it selects the
# checkpoint, and again when it loads it.
_known: dict[tuple[Path, int, int], str] = {}


class ManifestError(ValueError):
    """A manifest cannot be read."""


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes, and SHA-256 in hexadecimal digits, of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """
    What a folder held when it was complete.

    Args:
        step: optimizer steps that were trained.
        run: an identifier that all checkpoints of a run share, also after it was resumed.
        files: by their path in the folder, with `/`.
    """

    step: int
    run: str
    files: dict[str, FileRecord]


def model_files(folder: str | Path) -> list[Path]:
    """Weights, settings and processors in a folder."""
    return sorted({file for pattern in _MODEL_FILES for file in Path(folder).glob(pattern) if file.is_file()})


def checkpoint_files(folder: str | Path) -> list[Path]:
    """All files of a checkpoint, without the manifest and the pickled training arguments, which no run reads."""
    files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
    return [file for file in files if file.name not in (MANIFEST_NAME, TRAINING_ARGS_NAME)]


def _hashes(files: Sequence[Path], *, description: str) -> list[str]:
    """SHA-256 of files; memory does not depend on their sizes."""
    total = sum(file.stat().st_size for file in files)
    settings = {"unit": "B", "unit_scale": True, "desc": description, "leave": False, "delay": _SECONDS_WITHOUT_BAR}
    with tqdm(total=total, **settings) as bar, ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(lambda file: file_hash(file, progress=bar.update), files))


def write_manifest(folder: str | Path, files: Sequence[Path], *, step: int, run: str) -> None:
    """
    Writes `manifest.json` of a folder, atomically.

    Args:
        files: [`checkpoint_files`] or [`model_files`] of the folder.
        step, run: see [`Manifest`].
    """
    folder = Path(folder)
    hashes = _hashes(files, description=f"hashing {folder.name}")
    records = {
        file.relative_to(folder).as_posix(): FileRecord(file.stat().st_size, sha256)
        for file, sha256 in zip(files, hashes, strict=True)
    }
    text = json.dumps(asdict(Manifest(step, run, records)), indent=2, sort_keys=True)
    write_text_atomically(folder / MANIFEST_NAME, text + "\n")


def read_manifest(folder: str | Path) -> Manifest | None:
    """
    The manifest of a folder; `None` if there is none.

    Raises:
        ManifestError: the manifest is damaged.
    """
    file = Path(folder) / MANIFEST_NAME
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        files = {name: FileRecord(**values) for name, values in record["files"].items()}
        manifest = Manifest(record["step"], record["run"], files)
        if type(manifest.step) is not int or not isinstance(manifest.run, str):
            raise ValueError("step is not a whole number, or run is not a text")
        if any(".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute() for name in files):
            raise ValueError("it names files outside of its folder")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ManifestError(f"{file} is damaged ({_reason(error)})") from error
    return manifest


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def difference(folder: str | Path, manifest: Manifest, *, hashes: bool = True, alone: bool = True) -> str | None:
    """
    The first file that differs from the manifest, in words; `None` if all files are as they were written.

    Args:
        hashes: compare the contents; otherwise only names and sizes.
        alone: refuse files that a run would read when it resumes and that the manifest does not name.
    """
    folder = Path(folder)
    for name, record in manifest.files.items():
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        if (size := file.stat().st_size) != record.size:
            return f"{file} is damaged (it has {size:,} bytes, and {record.size:,} were written)"
    if alone:
        there = {file.relative_to(folder).as_posix(): file for pattern in _READ for file in folder.glob(pattern)}
        added = sorted(there.keys() - manifest.files.keys())
        if added:
            return f"{there[added[0]]} does not belong to this checkpoint (its {MANIFEST_NAME} does not name the file)"
    return _wrong_contents(folder, manifest) if hashes else None


def _wrong_contents(folder: Path, manifest: Manifest) -> str | None:
    keys = {}
    for name in manifest.files:
        status = (folder / name).stat()
        keys[name] = ((folder / name).resolve(), status.st_size, status.st_mtime_ns)
    new = [name for name, key in keys.items() if key not in _known]
    found = _hashes([folder / name for name in new], description=f"checking {folder.name}")
    _known.update({keys[name]: sha256 for name, sha256 in zip(new, found, strict=True)})
    for name, key in keys.items():
        if _known[key] != manifest.files[name].sha256:
            return (
                f"{folder / name} is damaged (its SHA-256 is not that of the file which step {manifest.step} wrote: "
                "the contents have changed, or the file is from another step)"
            )
    return None
