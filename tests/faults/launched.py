"""
What the launches of test_distributed.py run in each process: `launched.py FILE`, where the JSON file holds pairs: the
name of a function of this file, and a command line of the pretraining script. One pair after the other in one launch,
because starting processes takes longer than such runs.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from transformers_vjepa import VJEPATrainer
from transformers_vjepa.pretraining import setup
from transformers_vjepa.pretraining.images import TrainingImages
from transformers_vjepa.pretraining.trainer import UnevenStreamError


def build(argv: list[str]) -> tuple[VJEPATrainer, str | None]:
    """The trainer of a command line without its images: drawing takes longer than training here."""
    trainer, checkpoint = setup.build_from_argv(argv)
    trainer.remove_callback(TrainingImages)
    return trainer, checkpoint


def before_every_batch(trainer: VJEPATrainer, happens: Callable[[dict], None]) -> None:
    compute_loss = trainer.compute_loss

    def observed(model, inputs, *args, **kwargs):
        happens(inputs)
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = observed


def write_facts(trainer: VJEPATrainer, **facts) -> None:
    file = Path(trainer.args.output_dir) / f"facts_{trainer.args.process_index}.json"
    file.write_text(json.dumps(facts))


def runs(argv: list[str], *, build: Callable = build) -> None:
    """A run to its end; notes the share of the parameters that this process holds, and the videos it read."""
    trainer, checkpoint = build(argv)
    paths = []
    before_every_batch(trainer, lambda inputs: paths.extend(inputs["path"]))
    setup.train(trainer, checkpoint)
    parameters = list(trainer.model.parameters())
    local = [value.to_local() if isinstance(value, DTensor) else value for value in parameters]
    share = sum(value.numel() for value in local) / sum(value.numel() for value in parameters)
    write_facts(trainer, share_held=share, paths=paths)


def runs_with_images(argv: list[str]) -> None:
    runs(argv, build=setup.build_from_argv)


def in_the_third_step(argv: list[str], happens: Callable[[], None]) -> None:
    """Calls `happens` in the second process while the first is in the same step."""
    trainer, _ = build(argv)

    def perhaps(inputs: dict) -> None:
        if trainer.state.global_step == 2 and trainer.args.process_index == 1:
            happens()

    before_every_batch(trainer, perhaps)
    setup.train(trainer, None)


def dies(argv: list[str]) -> None:
    in_the_third_step(argv, lambda: os.kill(os.getpid(), signal.SIGKILL))


def stands_still(argv: list[str]) -> None:
    def stand_still() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # or the launcher waits 30 seconds before it kills
        time.sleep(3600)

    in_the_third_step(argv, stand_still)


class Finite(torch.utils.data.IterableDataset):
    """The first clips of a stream, without a length."""

    def __init__(self, stream, number: int):
        self.stream, self.number = stream, number

    def __iter__(self):
        return islice(self.stream, self.number)


def ends_unevenly(argv: list[str]) -> None:
    """Three batches of four clips in the first process, two in the second; notes how that ends."""
    trainer, _ = build(argv)
    trainer.train_dataset = Finite(trainer.train_dataset, 12 - 4 * trainer.args.process_index)
    try:
        trainer.train()
    except UnevenStreamError as error:
        write_facts(trainer, error=str(error), step=trainer.state.global_step)


def run_scenarios(pairs: list[tuple[str, list[str]]]) -> None:
    scenarios = {
        function.__name__: function for function in (runs, runs_with_images, dies, stands_still, ends_unevenly)
    }
    for name, argv in pairs:
        scenarios[name](argv)


if __name__ == "__main__":
    run_scenarios(json.loads(Path(sys.argv[1]).read_text()))
