"""
Select a checkpoint to resume from; write checkpoints atomically.

A checkpoint is written into `OUTPUT/_unfinished` and renamed to `OUTPUT/checkpoint-N` once all of it is on the disk.
Its last file is the manifest (`training/manifests.py`). The rule for resuming: a checkpoint is whole if each file is
the one that its manifest names, and all of them are of one step. `check_checkpoint` is the only place that decides
this; `auto` takes the last whole checkpoint, and any other checkpoint is refused.
"""

import errno
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME, logging

from ..hub.model_card import CARD_NAME
from ..hub.names import is_hub_id
from ..hub.transfer import download_checkpoint
from ..safety.agreement import agreed
from ..safety.atomic_files import flush_to_disk
from ..safety.safe_loading import DAMAGED, CheckpointError, screen_checkpoint
from .manifests import MANIFEST_NAME, Manifest, ManifestError, difference, read_manifest

logger = logging.get_logger(__name__)

#: Folder, inside the output folder, in which checkpoints are written. Uploads to the Hub leave out such names.
UNFINISHED = "_unfinished"
# Beginning of the name that a checkpoint has in that folder while another one takes its place.
_REPLACED = "replaced-"
# Files of a checkpoint: the position in the stream, and the cursors of each process in streamed corpora.
_POSITION_NAME = "position.json"
_CURSORS_NAME = "stream_{rank}.json"
_FOLDER = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
# Types of the values of a Trainer's state that resuming computes with.
_NUMBER = (int, float)
_STATE = {
    "global_step": (int,),
    "max_steps": (int,),
    "train_batch_size": (int,),
    "epoch": _NUMBER,
    "total_flos": _NUMBER,
    "log_history": (list,),
    "best_metric": (*_NUMBER, type(None)),
    "best_global_step": (int, type(None)),
    "best_model_checkpoint": (str, type(None)),
    "stateful_callbacks": (dict,),
}
_LOGGED_NUMBERS = re.compile("loss|step|epoch|learning_rate|train_.*|eval_.*")
# What the errors of a write mean for the user.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class UnusableCheckpointError(RuntimeError):
    """A checkpoint cannot be written, is damaged, or lacks the files to resume from it."""


# Reading


def _wrong_value(state: TrainerState) -> str | None:
    """The first value of a state that has another type than resuming needs, in words."""
    for name, kinds in _STATE.items():
        if type(value := getattr(state, name)) not in kinds:
            return f"{name} is {value!r:.60}"
    if state.global_step < 0:
        return f"global_step is {state.global_step}"
    for entry in state.log_history:
        if not isinstance(entry, dict):
            return f"log_history has the entry {entry!r:.60}"
        for name, value in entry.items():
            if _LOGGED_NUMBERS.fullmatch(name) and not isinstance(value, _NUMBER):
                return f"log_history has {name}={value!r:.60}"
    return None


def read_state(checkpoint: str | Path) -> TrainerState:
    """
    The state of the Trainer in a checkpoint or in an output folder.

    Raises:
        ValueError: the state is absent or damaged.
    """
    file = Path(checkpoint) / TRAINER_STATE_NAME
    try:
        state = TrainerState.load_from_json(str(file))
        wrong = _wrong_value(state)
    except FileNotFoundError as error:
        raise ValueError(f"{file} is missing: move or delete its folder") from error
    except (*DAMAGED, OSError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error!s:.80}): move or delete its folder"
        ) from error
    if wrong is not None:
        raise ValueError(f"{file} is damaged ({wrong}): move or delete its folder")
    return state


def trained_steps(checkpoint: str | Path) -> int:
    """
    Optimizer steps that a checkpoint has trained.

    Raises:
        ValueError: its state is absent or damaged.
    """
    return read_state(checkpoint).global_step


def is_complete(checkpoint: str | Path) -> bool:
    """Whether a folder has the state of the Trainer and was finished. `check_checkpoint` looks at the other files."""
    folder = Path(checkpoint)
    if folder.resolve().parent.name == UNFINISHED:
        return False
    try:
        read_state(folder)
    except ValueError:  # absent, or cut off
        return False
    return True


def _folders(output_dir: str | Path) -> list[Path]:
    """Folders with the name of a checkpoint, those with the most steps first. Copies with other names do not count."""
    found = {folder: _FOLDER.fullmatch(folder.name) for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    named = {folder: int(match[1]) for folder, match in found.items() if match and folder.is_dir()}
    return sorted(named, key=named.get, reverse=True)


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run that were finished, in no order. Their files are not checked."""
    return [folder for folder in _folders(output_dir) if is_complete(folder)]


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The finished checkpoint with the most steps. Its files are not checked."""
    return max(complete_checkpoints(output_dir), key=trained_steps, default=None)


def _remedy(checkpoint: Path) -> str:
    """What to do instead of resuming from a damaged checkpoint."""
    try:
        steps = trained_steps(checkpoint)
    except ValueError:
        steps = int(match[1]) if (match := _FOLDER.fullmatch(checkpoint.name)) else 0
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
        UnusableCheckpointError: the weights are damaged or absent; the message names the file and the checkpoint
            before.
    """
    try:
        yield
    except (SafetensorError, FileNotFoundError) as error:
        raise _damaged(Path(checkpoint) / SAFE_WEIGHTS_NAME, error) from error


# Is a checkpoint whole?


def _check_without_manifest(folder: Path) -> None:
    """
    Checkpoints of earlier versions have no manifest. They are accepted with a warning if the files that every
    checkpoint has are there.

    Raises:
        CheckpointError: a file is missing.
    """
    weights = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME)
    if not any((folder / name).is_file() for name in weights):
        raise CheckpointError(f"{folder / SAFE_WEIGHTS_NAME} is missing")
    states = {
        OPTIMIZER_NAME: (folder / OPTIMIZER_NAME).is_file(),
        SCHEDULER_NAME: (folder / SCHEDULER_NAME).is_file(),
        "rng_state.pth": any(folder.glob("rng_state*.pth")),
    }
    # Without any of them the checkpoint has weights only (save_only_model): check_before_resuming refuses it.
    if any(states.values()) and (missing := [name for name, there in states.items() if not there]):
        raise CheckpointError(f"{folder / missing[0]} is missing")
    logger.warning(
        f"{folder} has no {MANIFEST_NAME} (an earlier version wrote the checkpoint, or the file was lost): damage "
        "inside its files cannot be seen"
    )


def _check_manifest(folder: Path, manifest: Manifest) -> None:
    steps, named = trained_steps(folder), _FOLDER.fullmatch(folder.name)
    if manifest.step != steps or (named and int(named[1]) != steps):
        raise CheckpointError(
            f"{folder} mixes steps: {MANIFEST_NAME} is of step {manifest.step}, {TRAINER_STATE_NAME} of step {steps}"
        )
    if found := difference(folder, manifest):
        raise CheckpointError(found)


def check_checkpoint(checkpoint: str | Path) -> None:
    """
    Checks that a checkpoint is whole before a run resumes from it. All files are read once, for their hashes.

    Raises:
        CheckpointError: the checkpoint was never finished; a file is missing, is not the file that was written, or
            does not belong to it; or a file holds code. The message names the file.
    """
    folder = Path(checkpoint)
    if not is_complete(folder):
        try:
            read_state(folder)
            reason = "it was never finished"
        except ValueError as error:
            reason = f"{str(error).rpartition(':')[0]}, or the checkpoint was never finished"
        raise CheckpointError(f"{folder} is not a complete checkpoint ({reason})")
    try:
        manifest = read_manifest(folder)
        if manifest is not None:
            _check_manifest(folder, manifest)
        screen_checkpoint(folder)
    except ManifestError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:  # the disk fails, or the file may not be read
        raise CheckpointError(f"{folder} cannot be read ({error})") from error
    if manifest is None:
        _check_without_manifest(folder)


def _check_one_run(output_dir: str | Path) -> None:
    """
    Raises:
        CheckpointError: the checkpoints belong to several runs, so that the last one may be of another run than the
            user means.
    """
    runs: dict[str, Path] = {}
    for folder in complete_checkpoints(output_dir):
        try:
            manifest = read_manifest(folder)
        except ManifestError:  # the folder is passed over
            continue
        if manifest is not None:
            runs.setdefault(manifest.run, folder)
    if len(runs) > 1:
        names = " and ".join(str(folder) for folder in [*runs.values()][:2])
        raise CheckpointError(
            f"{output_dir} has checkpoints of {len(runs)} runs, such as {names}: name the one to resume from, "
            "--resume_from_checkpoint FOLDER, or move those of the other run away"
        )


def _last_whole(output_dir: str | Path) -> str | None:
    """
    The whole checkpoint with the most steps, with a warning that names each checkpoint that was passed over; `None` if
    there is no checkpoint.

    Raises:
        CheckpointError: there are checkpoints, and none of them is whole; or they belong to several runs.
    """
    _check_one_run(output_dir)
    problems = []
    for folder in _folders(output_dir):
        try:
            check_checkpoint(folder)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            logger.warning(f"resuming from {folder}, because later checkpoints are not whole: {'; '.join(problems)}")
        return str(folder)
    if problems:
        raise CheckpointError(
            f"no checkpoint in {output_dir} is whole: {'; '.join(problems)}; start a new run in another --output_dir"
        )
    return None


def resolve_checkpoint(output_dir: str | Path, wanted: str | None, *, token: str | None = None) -> str | None:
    """
    The checkpoint to resume from, checked by [`check_checkpoint`]; `None`: a new run starts. All processes of a launch
    call this function. The first process of each machine reads the files.

    Args:
        wanted: `--resume_from_checkpoint`: a folder, `"auto"` (the last whole checkpoint, if there is one), `"last"`,
            `user/name` or `user/name@revision` on the Hub (see [`~hub.transfer.download_checkpoint`]), or None.
        token: for private repositories.

    Raises:
        ValueError: the checkpoint is absent or not whole, or a new run would start over an earlier run.
        HubError: the checkpoint cannot be downloaded.
    """
    return agreed(partial(_resolve_checkpoint, output_dir, wanted, token), on_each_machine=True)


def _resolve_checkpoint(output_dir: str | Path, wanted: str | None, token: str | None) -> str | None:
    if wanted in ("auto", "last", "true", "True"):
        found = _last_whole(output_dir)
        if found is None and wanted != "auto":
            raise ValueError(f"no checkpoint in {output_dir}: leave out --resume_from_checkpoint to start a new run")
        return found
    if wanted is None:
        if (last := last_checkpoint(output_dir)) is not None:
            raise ValueError(
                f"{last} is a checkpoint of an earlier run: continue it with --resume_from_checkpoint auto, "
                "or choose another --output_dir"
            )
        return None
    if is_hub_id(wanted.partition("@")[0]):
        wanted = str(download_checkpoint(wanted, token=token))
    try:
        check_checkpoint(wanted)
    except CheckpointError as error:
        remedy = _remedy(Path(wanted)) if is_complete(wanted) else "pass 'auto'"
        raise CheckpointError(f"{error}: {remedy}") from error
    return wanted


def check_before_loading(checkpoint: str | Path) -> None:
    """
    [`check_checkpoint`] for a trainer, in all processes.

    Raises:
        UnusableCheckpointError: the checkpoint is not whole.
    """
    try:
        agreed(partial(check_checkpoint, checkpoint), on_each_machine=True)
    except CheckpointError as error:
        raise UnusableCheckpointError(f"{error}: {_remedy(Path(checkpoint))}") from error


def check_before_resuming(checkpoint: str | Path) -> None:
    """
    Raises:
        UnusableCheckpointError: the checkpoint is not whole, or has weights only; a run would resume with a new
            optimizer.
    """
    check_before_loading(checkpoint)
    if not (Path(checkpoint) / SCHEDULER_NAME).is_file():
        raise UnusableCheckpointError(
            f"{checkpoint} has no {SCHEDULER_NAME}, only weights (save_only_model): start a new run from these "
            "weights (--init_from)"
        )


def run_of(checkpoint: str | Path) -> str | None:
    """The run that wrote a whole checkpoint; `None` if the checkpoint has no manifest."""
    manifest = read_manifest(checkpoint)
    return None if manifest is None else manifest.run


def is_finished(output_dir: str | Path, *, steps: int, hashes: bool = True) -> bool:
    """
    Whether an output folder has the finished model of at least `steps` steps, with its processors and its card: all
    that the end of a run writes.

    Args:
        hashes: compare the contents of the files with the manifest, not only names and sizes.
    """
    try:
        manifest = read_manifest(output_dir)
    except ManifestError:
        return False
    if manifest is None or manifest.step < steps or not (Path(output_dir) / CARD_NAME).is_file():
        return False
    return difference(output_dir, manifest, hashes=hashes, alone=False) is None


def was_finished(output_dir: str | Path, *, steps: int) -> bool:
    """
    [`is_finished`] by names and sizes. A folder without a manifest, of an earlier version, counts as finished if it
    has a state of `steps` steps, a model and a card, which is written last.
    """
    folder = Path(output_dir)
    if (folder / MANIFEST_NAME).exists():
        return is_finished(folder, steps=steps, hashes=False)
    files = [folder / name for name in (TRAINER_STATE_NAME, SAFE_WEIGHTS_NAME, CARD_NAME)]
    return all(file.is_file() for file in files) and trained_steps(folder) >= steps


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
    """
    Removes the partial checkpoint of a run that was killed or could not write. If the run was killed while it replaced
    a checkpoint, the earlier one gets its name back.
    """
    folder = Path(output_dir) / UNFINISHED
    for replaced in folder.glob(f"{_REPLACED}*"):
        final = folder.with_name(replaced.name.removeprefix(_REPLACED))
        if not final.exists():
            replaced.rename(final)
    if folder.is_dir():
        shutil.rmtree(folder)


def finish_checkpoint(unfinished: Path, final: Path) -> None:
    """
    Renames a checkpoint that all processes have written. After a power cut the checkpoint is complete, or absent.
    """
    for path in [*unfinished.rglob("*"), unfinished]:
        flush_to_disk(path)
    if final.exists():  # an earlier checkpoint of the same step
        final.rename(unfinished.with_name(f"{_REPLACED}{final.name}"))
    unfinished.rename(final)
    flush_to_disk(final.parent)
    remove_unfinished(final.parent)


def remove_old_checkpoints(
    output_dir: str | Path, *, limit: int | None, step: int, keep: Sequence[str | Path]
) -> None:
    """
    Removes finished checkpoints while there are more than `limit` (None or 0: no limit), but never those of `keep`.
    Those beyond `step`, the step of the run, are removed first: the run has passed them over, or has left them behind.
    Then those with the fewest steps are removed. The times of files do not matter, because clocks may be set back.
    """
    if limit is None or limit <= 0:
        return
    kept = {Path(folder).resolve() for folder in keep}
    steps = {folder: trained_steps(folder) for folder in complete_checkpoints(output_dir)}
    order = sorted(steps, key=lambda folder: (steps[folder] <= step, steps[folder]))
    removable = [folder for folder in order if folder.resolve() not in kept]
    for folder in removable[: max(0, len(steps) - limit)]:
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
        raise UnusableCheckpointError(
            f"cannot write {checkpoint} ({reason}){_write_remedy(checkpoint, error)}"
        ) from error


def _write_remedy(checkpoint: str | Path, error: Exception) -> str:
    run = Path(checkpoint).absolute().parent
    last = last_checkpoint(run)
    then = f"resume from {last} with --resume_from_checkpoint auto" if last else "start again"
    number = getattr(error, "errno", None)
    if number in _NOT_ALLOWED:
        return f": allow writing to {run}, then {then}"
    if number == errno.ENOENT:
        return f": another program has deleted files of {run}; find out which one, then {then}"
    there = next(folder for folder in (run, *run.parents) if folder.is_dir())
    free = f"{shutil.disk_usage(there).free / 1e6:.1f} MB are free"
    return f", {free}: {'free some space' if number in (*_FULL, None) else 'check the disk'}, then {then}"
