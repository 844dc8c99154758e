"""The command `vjepa pretrain`; with `--dry_run` it prints what the run would do."""

import sys

from ..command_line.parsing import MISTAKES, names_given, user_errors
from ..pretraining.setup import FAULTS
from ..pretraining.setup import run as run_pretraining
from ..pretraining.trainer import VJEPATrainer
from .dry_run import describe_pretraining


def run(argv: list[str]) -> VJEPATrainer | None:
    """One pretraining run from its command line; with `--dry_run` prints what it would do, and returns `None`."""
    if "dry_run" in names_given(argv):
        with user_errors(*MISTAKES, *FAULTS):
            print(describe_pretraining(argv))
        return None
    return run_pretraining(argv)


def main() -> None:
    trainer = run(sys.argv[1:])
    if trainer and trainer.stop_signal:
        sys.exit(128 + trainer.stop_signal)  # as shells report the end by a signal
