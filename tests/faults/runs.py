"""A small pretraining run through the real trainer, and how two of its checkpoints are compared."""

import json
import shutil
from pathlib import Path

import torch
from reference import TINY
from safetensors.torch import load_file
from transformers import TrainerCallback, set_seed

from transformers_vjepa import (
    ClipSampling,
    StreamPosition,
    StreamShare,
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPATrainer,
    VJEPATrainingArguments,
    clip_stream,
)

SAMPLING = ClipSampling(num_frames=4, frame_step=2)
# Values of a log that depend on the wall clock.
RATES = {"clips_per_second", "data_wait_share", "train_runtime", "train_samples_per_second", "train_steps_per_second"}


class At(TrainerCallback):
    """Calls `action` in the middle of a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


class Watched(VJEPATrainer):
    """Records the videos seen and their seeds, which decide clip, crop and masks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def compute_loss(self, model, inputs, **kwargs):
        self.seen += zip(map(Path, inputs["path"]), inputs["clip_seed"].tolist(), strict=True)
        return super().compute_loss(model, inputs, **kwargs)


def config():
    """With everything that draws random numbers in the network."""
    return VJEPAConfig(**TINY, drop_path_rate=0.3, attention_probs_dropout_prob=0.1)


def trainer_of(folder, sources, *, dataset=None, callbacks=(), shuffle_buffer=3, **changes):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "max_steps": 5,
        "warmup_steps": 2,
        "clip_grad_from_step": 1,
        "logging_steps": 1,
        "save_steps": 1,
        "save_total_limit": None,
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    } | changes
    args = VJEPATrainingArguments(**settings)
    set_seed(args.seed)
    model = VJEPAForPreTraining(config())
    position = StreamPosition()
    if dataset is None:
        dataset = clip_stream(
            sources,
            config=model.config,
            sampling=SAMPLING,
            position=position,
            seed=args.seed,
            share=StreamShare.from_training_arguments(args),
            shuffle_buffer=shuffle_buffer,
        )
    return Watched(model, args, dataset, position=position, callbacks=list(callbacks))


def resume(trainer, checkpoint):
    """Resumes from a copy of a checkpoint, in the folder of `trainer`."""
    copy = Path(trainer.args.output_dir) / checkpoint.name
    shutil.copytree(checkpoint, copy)
    torch.rand(7)  # the generators need not be where they were
    trainer.train(resume_from_checkpoint=str(copy))
    return trainer


def logs_of(checkpoint):
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in entry.items() if name not in RATES} for entry in history]


def assert_equal(ours, theirs):
    """Nested containers of tensors and numbers, bit by bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_equal(ours[name], theirs[name])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert (ours == theirs) if not hasattr(ours, "all") else (ours == theirs).all()


def assert_same_checkpoint(ours, theirs, *, rngs=("rng_state.pth",)):
    """Weights (target encoder too), optimizer, schedules, generators, place in the stream and logs: bit-equal."""
    assert_equal(load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors"))
    for name in ("optimizer.pt", "scheduler.pt", *rngs):
        states = [torch.load(folder / name, weights_only=False) for folder in (ours, theirs)]
        assert_equal(*states)
    for pattern in ("position.json", "stream_*.json"):
        files = [sorted(folder.glob(pattern)) for folder in (ours, theirs)]
        assert [file.name for file in files[0]] == [file.name for file in files[1]]
        for one, other in zip(*files, strict=True):
            assert json.loads(one.read_text()) == json.loads(other.read_text())
    assert logs_of(ours) == logs_of(theirs)
