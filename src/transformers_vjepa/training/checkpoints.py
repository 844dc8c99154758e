"""
Select a checkpoint to resume from; write checkpoints atomically.

A checkpoint is written into `OUTPUT/_unfinished` and renamed to `OUTPUT/checkpoint-N` once all of it is on the disk.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from ..hub.names import is_hub_id
from ..hub.transfer import download_checkpoint
from ..safety.atomic_files import flush_to_disk
from ..safety.safe_loading import DAMAGED, CheckpointError, screen_checkpoint

#: Folder, inside the output folder, in which checkpoints are written. Uploads to the Hub leave out such names.
UNFINISHED = "_unfinished"
# Files of a checkpoint: the position in the stream, and the cursors of each process in streamed corpora.
_POSITION_NAME = "position.json"
_CURSORS_NAME = "stream_{rank}.json"


class UnusableCheckpointError(RuntimeError):
    """A checkpoint cannot be written, is damaged, or lacks the files to resume from it."""


# Reading


def trained_steps(checkpoint: str | Path) -> int:
    """
    Optimizer steps that a checkpoint has trained.

    Raises:
        ValueError: its state is damaged.
    """
    file = Path(checkpoint) / TRAINER_STATE_NAME
    try:
        steps = TrainerState.load_from_json(str(file)).global_step
    except DAMAGED as error:
        raise ValueError(f"{file} is damaged ({error}): move or delete its folder") from error
    if type(steps) is not int or steps < 0:
        raise ValueError(f"{file} is damaged (global_step is {steps!r}): move or delete its folder")
    return steps


def is_complete(checkpoint: str | Path) -> bool:
    """Whether a folder is a complete checkpoint: it has the state of the Trainer, which is written last."""
    folder = Path(checkpoint)
    if folder.resolve().parent.name == UNFINISHED:
        return False
    try:
        state = json.loads((folder / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):  # absent, or cut off
        return False
    return isinstance(state, dict) and "global_step" in state


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """The complete checkpoints of a run, in no order."""
    return [folder for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if is_complete(folder)]


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The complete checkpoint with the most steps."""
    return max(complete_checkpoints(output_dir), key=trained_steps, default=None)


def _remedy(checkpoint: Path) -> str:
    """What to do instead of resuming from a damaged checkpoint."""
    steps = trained_steps(checkpoint)
    earlier = [folder for folder in complete_checkpoints(checkpoint.parent) if trained_steps(folder) < steps]
    if not earlier:
        return f"{checkpoint.parent} has no earlier checkpoint, so start a new run in another --output_dir"
    return f"resume from the checkpoint before, --resume_from_checkpoint {max(earlier, key=trained_steps)}"


def _damaged(file: Path, error: Exception) -> UnusableCheckpointError:
    return UnusableCheckpointError(f"{file} is damaged ({error}): {_remedy(file.parent)}")


@contextmanager
def damaged_weights(checkpoint: str | Path) -> Iterator[None]:
    """
    Around the loading of the weights of a checkpoint.

    Raises:
        UnusableCheckpointError: the weights are damaged; the message names the file and the checkpoint before.
    """
    try:
        yield
    except SafetensorError as error:
        raise _damaged(Path(checkpoint) / SAFE_WEIGHTS_NAME, error) from error


def resolve_checkpoint(output_dir: str | Path, wanted: str | None, *, token: str | None = None) -> str | None:
    """
    The checkpoint to resume from; `None`: a new run starts.

    Args:
        wanted: `--resume_from_checkpoint`: a folder, `"auto"` (the newest checkpoint, if there is one), `"last"`,
            `user/name` or `user/name@revision` on the Hub (see [`~hub.transfer.download_checkpoint`]), or None.
        token: for private repositories.

    Raises:
        ValueError: the checkpoint is absent or incomplete, or a new run would start over an earlier run; see also
            [`screen_checkpoint`].
        HubError: the checkpoint cannot be downloaded.
    """
    last = last_checkpoint(output_dir)
    if wanted in ("auto", "last", "true", "True"):
        if last is None and wanted != "auto":
            raise ValueError(f"no checkpoint in {output_dir}: leave out --resume_from_checkpoint to start a new run")
        wanted = None if last is None else str(last)
    elif wanted is None and last is not None:
        raise ValueError(
            f"{last} is a checkpoint of an earlier run: continue it with --resume_from_checkpoint auto, "
            "or choose another --output_dir"
        )
    elif wanted is not None and is_hub_id(wanted.partition("@")[0]):
        wanted = str(download_checkpoint(wanted, token=token))
    if wanted is None:
        return None
    if not is_complete(wanted):
        raise ValueError(
            f"{wanted} is not a complete checkpoint ({TRAINER_STATE_NAME} is absent or cut off, or the checkpoint was "
            "never finished): pass 'auto'"
        )
    try:
        screen_checkpoint(wanted)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_remedy(Path(wanted))}") from error
    return wanted


def check_resumable(checkpoint: str | Path) -> None:
    """
    Raises:
        UnusableCheckpointError: the checkpoint has weights only; a run would resume with a new optimizer.
    """
    if not (Path(checkpoint) / SCHEDULER_NAME).is_file():
        raise UnusableCheckpointError(
            f"{checkpoint} has no {SCHEDULER_NAME}, only weights (save_only_model): start a new run from these "
            "weights (--init_from)"
        )


# The position in the stream


def write_position(checkpoint: Path, *, batches: int, clips: int) -> None:
    """Writes how much of the stream is consumed: batches of each process, and clips of all processes together."""
    (checkpoint / _POSITION_NAME).write_text(json.dumps({"batches": batches, "clips": clips}))


def _read_record(file: Path, kind: type) -> dict[str, Any]:
    """Names and their values, all of one type, from a JSON file."""
    try:
        record = json.loads(file.read_text())
        if not isinstance(record, dict) or any(type(value) is not kind for value in record.values()):
            raise ValueError(f"not every value is of type {kind.__name__}")
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    return record


def read_position(checkpoint: str | Path) -> dict[str, int]:
    """
    `batches` and `clips` of [`write_position`]; empty if the checkpoint has no position.

    Raises:
        UnusableCheckpointError: the file is damaged.
    """
    file = Path(checkpoint) / _POSITION_NAME
    return _read_record(file, int) if file.is_file() else {}


def write_cursors(checkpoint: Path, cursors: dict[str, str], *, rank: int) -> None:
    """Writes the cursors of one process in streamed corpora, see [`~data.lanes.record_cursors`]."""
    (checkpoint / _CURSORS_NAME.format(rank=rank)).write_text(json.dumps(cursors))


def read_cursors(checkpoint: str | Path) -> dict[str, str]:
    """
    The cursors of all processes.

    Raises:
        UnusableCheckpointError: a file is damaged.
    """
    cursors: dict[str, str] = {}
    for file in sorted(Path(checkpoint).glob(_CURSORS_NAME.format(rank="*"))):
        cursors |= _read_record(file, str)
    return cursors


# Writing


def remove_unfinished(output_dir: str | Path) -> None:
    """Removes the partial checkpoint of a run that was killed or could not write."""
    folder = Path(output_dir) / UNFINISHED
    if folder.is_dir():
        shutil.rmtree(folder)


def finish_checkpoint(unfinished: Path, final: Path) -> None:
    """
    Renames a checkpoint that all processes have written. After a power cut the checkpoint is complete, or absent.
    """
    for path in [*unfinished.rglob("*"), unfinished]:
        flush_to_disk(path)
    if final.exists():  # an earlier checkpoint of the same step
        final.rename(unfinished.with_name(f"replaced-{final.name}"))
    unfinished.rename(final)
    flush_to_disk(final.parent)
    remove_unfinished(final.parent)


def remove_old_checkpoints(output_dir: str | Path, *, limit: int | None, keep: Sequence[str | Path]) -> None:
    """
    Removes the oldest complete checkpoints while there are more than `limit` (None or 0: no limit), but never those of
    `keep`.
    """
    if limit is None or limit <= 0:
        return
    kept = {Path(folder).resolve() for folder in keep}
    # Some file systems count in seconds, so that files share a time.
    ages = {
        folder: ((folder / TRAINER_STATE_NAME).stat().st_mtime, trained_steps(folder))
        for folder in complete_checkpoints(output_dir)
    }
    removable = [folder for folder in sorted(ages, key=ages.get) if folder.resolve() not in kept]
    for folder in removable[: max(0, len(ages) - limit)]:
        trash = Path(output_dir) / UNFINISHED / folder.name
        trash.parent.mkdir(exist_ok=True)
        folder.rename(trash)  # atomic: half a checkpoint must not look complete
    remove_unfinished(output_dir)


@contextmanager
def checkpoint_errors(checkpoint: str | Path) -> Iterator[None]:
    """
    Around the writing of a checkpoint, a folder or file in the output folder of the run.

    Raises:
        UnusableCheckpointError: the disk is full or fails. The message has the path, the free space and the remedy.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error)
        if isinstance(error, RuntimeError):
            if "inline_container" not in reason and "PytorchStreamWriter" not in reason:
                raise  # not from torch's file writer
            reason = "a write was cut off"
        run = next(folder for folder in Path(checkpoint).absolute().parents if folder.is_dir())
        free = shutil.disk_usage(run).free / 1e6
        last = last_checkpoint(run)
        remedy = f"resume from {last} with --resume_from_checkpoint auto" if last else "start again"
        raise UnusableCheckpointError(
            f"cannot write {checkpoint} ({reason}), {free:.1f} MB are free: free some space, then {remedy}"
        ) from error
