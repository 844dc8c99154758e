"""Which checkpoint of a run to go on from."""

from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoint_screening import screen_checkpoint
from .published_files import DAMAGED


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


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint: the Trainer writes its state last."""
    complete = [file.parent for file in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")]
    return max(complete, key=trained_steps, default=None)


def resolve_checkpoint(output_dir: str | Path, wanted: str | None) -> str | None:
    """
    The checkpoint to resume from.

    Args:
        output_dir: where the run writes.
        wanted: `--resume_from_checkpoint`: a folder, `"auto"` (the newest, if there is one), `"last"`, or None.

    Raises:
        ValueError: there is none, it is incomplete, or an unfinished run would be started anew; see also
            [`screen_checkpoint`].
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
    if wanted is not None and not (Path(wanted) / TRAINER_STATE_NAME).is_file():
        raise ValueError(f"{wanted} is no complete checkpoint (it has no {TRAINER_STATE_NAME}): pass 'auto'")
    if wanted is not None:
        screen_checkpoint(wanted)
    return wanted


__all__ = ["last_checkpoint", "resolve_checkpoint", "trained_steps"]
