"""
Checkpoints of a run: which one to go on from, and how they come to be whole or not at all.

A checkpoint is written into `OUTPUT/_unfinished` and moved to `OUTPUT/checkpoint-N` when all of it is on the disk.
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

#: Where checkpoints are written, inside the folder of the run. Uploads to the Hub leave out names of this form.
UNFINISHED = "_unfinished"
#: How much of the stream is behind a checkpoint, and how far each process is in streamed corpora.
_POSITION_NAME = "position.json"
_CURSORS_NAME = "stream_{rank}.json"


class UnusableCheckpointError(RuntimeError):
    """A checkpoint that cannot be written, is damaged, or lacks what going on from it takes."""


# Reading


def trained_steps(checkpoint: str | Path) -> int:
    """
    Optimizer steps that a checkpoint has behind it.

    Raises:
        ValueError: its state is damaged.
    """
    file = Path(checkpoint) / TRAINER_STATE_NAME
    try:
        steps = TrainerState.load_from_json(str(file)).global_step
    except DAMAGED as error:
        raise ValueError(f"{file} is damaged ({error}): move its folder away, or delete it") from error
    if type(steps) is not int or steps < 0:
        raise ValueError(f"{file} is damaged (global_step is {steps!r}): move its folder away, or delete it")
    return steps


def is_complete(checkpoint: str | Path) -> bool:
    """Whether a folder is a checkpoint that was finished: the Trainer writes its state last."""
    folder = Path(checkpoint)
    if folder.resolve().parent.name == UNFINISHED:
        return False
    try:
        state = json.loads((folder / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):  # absent, or cut off
        return False
    return isinstance(state, dict) and "global_step" in state


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """Those of a run, in no order."""
    return [folder for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if is_complete(folder)]


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The complete checkpoint with most steps."""
    return max(complete_checkpoints(output_dir), key=trained_steps, default=None)


def _one_before(checkpoint: Path) -> str:
    """What to do instead of going on from a checkpoint."""
    steps = trained_steps(checkpoint)
    earlier = [folder for folder in complete_checkpoints(checkpoint.parent) if trained_steps(folder) < steps]
    if not earlier:
        return f"there is none before it in {checkpoint.parent}, so start anew in another --output_dir"
    return f"pass the one before it, --resume_from_checkpoint {max(earlier, key=trained_steps)}"


def _damaged(file: Path, error: Exception) -> UnusableCheckpointError:
    return UnusableCheckpointError(f"{file} is damaged ({error}): {_one_before(file.parent)}")


@contextmanager
def damaged_weights(checkpoint: str | Path) -> Iterator[None]:
    """
    Names the file where the weights of a checkpoint cannot be read.

    Raises:
        UnusableCheckpointError: they are damaged; the message names the checkpoint before, if there is one.
    """
    try:
        yield
    except SafetensorError as error:
        raise _damaged(Path(checkpoint) / SAFE_WEIGHTS_NAME, error) from error


def resolve_checkpoint(output_dir: str | Path, wanted: str | None, *, token: str | None = None) -> str | None:
    """
    The checkpoint to resume from.

    Args:
        output_dir: where the run writes.
        wanted: `--resume_from_checkpoint`: a folder, `"auto"` (the newest, if there is one), `"last"`, `user/name` or
            `user/name@revision` on the Hub (see [`~hub.transfer.download_checkpoint`]), or None.
        token: for private repositories.

    Raises:
        ValueError: there is none, it is incomplete, or an unfinished run would be started anew; see also
            [`screen_checkpoint`].
        HubError: it cannot be had from the Hub.
    """
    last = last_checkpoint(output_dir)
    if wanted in ("auto", "last", "true", "True"):
        if last is None and wanted != "auto":
            raise ValueError(f"no checkpoint in {output_dir}: leave out --resume_from_checkpoint to start anew")
        wanted = None if last is None else str(last)
    elif wanted is None and last is not None:
        raise ValueError(
            f"{last} is a checkpoint of an earlier run: continue it with --resume_from_checkpoint auto, "
            "or choose another --output_dir"
        )
    elif wanted is not None and is_hub_id(wanted.partition("@")[0]):
        wanted = str(download_checkpoint(wanted, token=token))
    if wanted is not None and not is_complete(wanted):
        raise ValueError(
            f"{wanted} is no complete checkpoint (its {TRAINER_STATE_NAME} is absent or cut off, or it was never "
            "finished): pass 'auto'"
        )
    if wanted is not None:
        try:
            screen_checkpoint(wanted)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {_one_before(Path(wanted))}") from error
    return wanted


def check_resumable(checkpoint: str | Path) -> None:
    """
    Raises:
        UnusableCheckpointError: it has weights only, from which a run would go on with a new optimizer.
    """
    if not (Path(checkpoint) / SCHEDULER_NAME).is_file():
        raise UnusableCheckpointError(
            f"{checkpoint} has no {SCHEDULER_NAME}, only weights, as save_only_model leaves them: start a new run "
            "from these"
        )


# The place in the stream


def write_position(checkpoint: Path, *, batches: int, clips: int) -> None:
    """Notes what a stream has given: batches of each process, and clips of all of them together."""
    (checkpoint / _POSITION_NAME).write_text(json.dumps({"batches": batches, "clips": clips}))


def _read_record(file: Path, kind: type) -> dict[str, Any]:
    """Names and values of one kind from JSON."""
    try:
        record = json.loads(file.read_text())
        if not isinstance(record, dict) or any(type(value) is not kind for value in record.values()):
            raise ValueError(f"no {kind.__name__} for each name")
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    return record


def read_position(checkpoint: str | Path) -> dict[str, int]:
    """
    `batches` and `clips` of [`write_position`]; empty where a checkpoint has none.

    Raises:
        UnusableCheckpointError: the file is damaged.
    """
    file = Path(checkpoint) / _POSITION_NAME
    return _read_record(file, int) if file.is_file() else {}


def write_cursors(checkpoint: Path, cursors: dict[str, str], *, rank: int) -> None:
    """Notes how far one process is in streamed corpora, see [`~data.lanes.record_cursors`]."""
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
    """Removes what a run that was killed, or could not write, has left behind."""
    folder = Path(output_dir) / UNFINISHED
    if folder.is_dir():
        shutil.rmtree(folder)


def finish_checkpoint(unfinished: Path, final: Path) -> None:
    """
    Gives a checkpoint that all processes have written its name. After a power cut the name is there with all that
    belongs to it, or not at all.
    """
    for path in [*unfinished.rglob("*"), unfinished]:
        flush_to_disk(path)
    if final.exists():  # an earlier one of the same step
        final.rename(unfinished.with_name(f"replaced-{final.name}"))
    unfinished.rename(final)
    flush_to_disk(final.parent)
    remove_unfinished(final.parent)


def remove_old_checkpoints(output_dir: str | Path, *, limit: int | None, keep: Sequence[str | Path]) -> None:
    """
    Removes the oldest complete checkpoints while there are more than `limit`.

    Args:
        output_dir: where the run writes.
        limit: checkpoints to leave; None or 0: all of them.
        keep: those that stay in any case.
    """
    if limit is None or limit <= 0:
        return
    kept = {Path(folder).resolve() for folder in keep}
    # Files may share a time, where their system counts in seconds.
    ages = {
        folder: ((folder / TRAINER_STATE_NAME).stat().st_mtime, trained_steps(folder))
        for folder in complete_checkpoints(output_dir)
    }
    removable = [folder for folder in sorted(ages, key=ages.get) if folder.resolve() not in kept]
    for folder in removable[: max(0, len(ages) - limit)]:
        trash = Path(output_dir) / UNFINISHED / folder.name
        trash.parent.mkdir(exist_ok=True)
        folder.rename(trash)  # in one go: half a checkpoint must not look like one
    remove_unfinished(output_dir)


@contextmanager
def checkpoint_errors(checkpoint: str | Path) -> Iterator[None]:
    """
    Names what a full or failing disk makes of writing.

    Args:
        checkpoint: what is written, in the folder of the run.

    Raises:
        UnusableCheckpointError: with the path, what is free there, and how to go on.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error)
        if isinstance(error, RuntimeError):
            if "inline_container" not in reason and "PytorchStreamWriter" not in reason:
                raise  # not from torch's file writer
            reason = "a write was cut off"
        raise UnusableCheckpointError(_describe_failure(Path(checkpoint), reason)) from error


def _describe_failure(checkpoint: Path, reason: str) -> str:
    run = next(folder for folder in checkpoint.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(run).free / 1e6
    last = last_checkpoint(run)
    go_on = f"go on from {last} with --resume_from_checkpoint auto" if last else "start again"
    return f"cannot write {checkpoint} ({reason}), with {free:.1f} MB free there: make room, then {go_on}"
