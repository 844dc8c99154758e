"""
Runs pretraining several times in a row, each time with a fault in one process at one step:

    faulty.py '[{"argv": [...], "rank": 1, "step": 2, "fault": "diverge"}, {"argv": [...]}]'
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
from runs import At  # noqa: E402

from transformers_vjepa.command_line.parsing import user_errors  # noqa: E402
from transformers_vjepa.pretraining import setup  # noqa: E402
from transformers_vjepa.training import stream_trainer  # noqa: E402


def kill_saving(trainer):
    """Just before the next checkpoint is renamed."""
    stream_trainer.finish_checkpoint = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def terminate(trainer):
    os.kill(os.getpid(), signal.SIGTERM)


def diverge(trainer):
    with torch.no_grad():
        trainer.model.context_encoder.layernorm.bias.fill_(float("nan"))


def fill_disk(trainer):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))


FAULTS = {function.__name__: function for function in (kill_saving, terminate, diverge, fill_disk)}


def run(argv, *, rank=0, step=0, fault=None):
    trainer, checkpoint = setup.build_from_argv(argv)
    trainer.remove_callback(setup.TrainingImages)  # drawing takes longer than the steps
    if fault and trainer.args.process_index == rank:
        trainer.add_callback(At(step, lambda *_: FAULTS[fault](trainer)))
    with user_errors(*setup.FAULTS):
        setup.train(trainer, checkpoint)


def run_all(runs):
    for settings in runs:
        run(**settings)


if __name__ == "__main__":
    run_all(json.loads(sys.argv[1]))
