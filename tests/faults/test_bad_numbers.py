"""Numbers that go wrong in clips, losses and gradients, and features that collapse."""

import math
from itertools import count

import pytest
import torch
from reference import TINY
from torch import nn
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPATrainer, VJEPATrainingArguments
from transformers_vjepa.models.vjepa.modeling_vjepa import gather_tokens, prediction_error
from transformers_vjepa.pretraining.trainer import CollapseError
from transformers_vjepa.training.checkpoints import is_complete
from transformers_vjepa.training.stream_trainer import DivergedError


class Clips(IterableDataset):
    """Endless noise; clip `bad` is a float clip with `value` in one pixel."""

    def __init__(self, config, *, bad=None, value=math.nan):
        self.config, self.bad, self.value = config, bad, value

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        shape = (self.config.frames_per_clip, 3, self.config.crop_size, self.config.crop_size)
        for number in count():
            pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
            if self.bad is not None:
                pixels = pixels / 255
                if number == self.bad:
                    pixels[0, 0, 0, 0] = self.value
            yield {"pixel_values_videos": pixels, "clip_seed": number, "path": f"clip{number}.mp4"}


def trainer_of(tmp_path, *, model_class=VJEPAForPreTraining, dataset=None, **changes):
    torch.manual_seed(0)
    model = model_class(VJEPAConfig(**TINY))
    settings = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    } | changes
    return VJEPATrainer(model, VJEPATrainingArguments(**settings), dataset or Clips(model.config))


class SixteenClips(IterableDataset):
    """A corpus in memory: coarse random patterns, smoothed, over and over."""

    def __init__(self):
        coarse = torch.randint(0, 256, (64, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
        frames = nn.functional.interpolate(coarse, size=(TINY["crop_size"], TINY["crop_size"]), mode="bilinear")
        self.clips = frames.to(torch.uint8).unflatten(0, (16, TINY["frames_per_clip"]))

    def __iter__(self):
        for number in count():
            clip = number % len(self.clips)
            yield {"pixel_values_videos": self.clips[clip], "clip_seed": number, "path": f"clip{clip}.mp4"}


class WithoutStopGradient(VJEPAForPreTraining):
    """The mistake that self-distillation must not make: context encoder and targets meet where it is easiest."""

    def forward(self, pixel_values_videos, context_mask, target_mask, **kwargs):
        outputs = super().forward(pixel_values_videos, context_mask, target_mask, **kwargs)
        patches, grid_size = self.context_encoder.embeddings.patchify(pixel_values_videos)
        tokens = self.context_encoder(patches, grid_size).last_hidden_state
        targets = nn.functional.layer_norm(tokens, tokens.shape[-1:])
        errors = [
            prediction_error(prediction, gather_tokens(targets, mask)).mean()
            for prediction, mask in zip(outputs.predictions, target_mask, strict=True)
        ]
        outputs.loss = sum(errors) / len(errors)
        return outputs


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Spoiled:
    """Puts `value` into one gradient of a model during backward `call` (from 0), and keeps the weights before it."""

    def __init__(self, model, *, call, value, times=1):
        self.model, self.call, self.value, self.times, self.calls = model, call, value, times, 0
        model.context_encoder.layernorm.weight.register_hook(self.spoil)

    def spoil(self, gradient):
        self.calls += 1
        if self.call < self.calls <= self.call + self.times:
            self.before = weights_of(self.model)
            gradient = gradient.clone()
            gradient[0] = self.value
        return gradient


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_in_a_clip(tmp_path, value):
    """Floats can hold it: uint8 clips, as the stream gives them, cannot."""
    config = VJEPAConfig(**TINY)
    trainer = trainer_of(tmp_path, dataset=Clips(config, bad=5, value=value))
    with pytest.raises(DivergedError, match="the loss is nan at step 2 on the videos clip4.mp4, clip5.mp4: lower"):
        trainer.train()
    assert trainer.schedule_step == 2


def test_in_the_loss(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    before = weights_of(trainer.model)
    forward = trainer.model.forward

    def infinite(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        outputs.loss = outputs.loss * math.inf
        return outputs

    monkeypatch.setattr(trainer.model, "forward", infinite)
    with pytest.raises(DivergedError, match="the loss is inf at step 0 on the videos clip0.mp4, clip1.mp4"):
        trainer.train()
    assert unchanged(trainer.model, before)


@pytest.mark.parametrize("max_grad_norm", [0.0, 10.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_in_a_gradient(tmp_path, value, max_grad_norm):
    """The loss says nothing; the run ends before the weights are touched, and names all batches of the step."""
    settings = {"gradient_accumulation_steps": 2, "max_grad_norm": max_grad_norm, "clip_grad_from_step": 0}
    trainer = trainer_of(tmp_path, **settings)
    spoiled = Spoiled(trainer.model, call=2, value=value)
    message = (
        f"the loss is finite at step 1, but the norm of its gradients is {value} on the videos clip4.mp4, clip5.mp4, "
        "clip6.mp4, clip7.mp4"
    )
    with pytest.raises(DivergedError, match=message):
        trainer.train()
    assert unchanged(trainer.model, spoiled.before)
    assert trainer.schedule_step == 1


def test_many_videos_are_not_all_named(tmp_path):
    dataset = Clips(VJEPAConfig(**TINY), bad=5)
    trainer = trainer_of(tmp_path, dataset=dataset, per_device_train_batch_size=40)
    with pytest.raises(DivergedError, match="on the videos clip0.mp4, .* clip30.mp4, clip31.mp4 and 8 more: lower"):
        trainer.train()


def test_videos_without_names(tmp_path):
    with pytest.raises(DivergedError, match=r"on the videos \(no names\): lower the learning rate, or check these vi"):
        trainer_of(tmp_path).check_loss(torch.tensor(math.nan), {})


# fp16


def with_scaler(trainer, monkeypatch):
    """torch's scaler, on the CPU, where accelerate makes none: in fp16 the trainer and the optimizer ask for it."""
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.accelerator.native_amp = True
    monkeypatch.setattr(type(trainer.accelerator), "mixed_precision", "fp16")
    return trainer.accelerator.scaler


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_overflow_of_fp16_moves_nothing_but_the_scale(tmp_path, monkeypatch, value):
    trainer = trainer_of(tmp_path, max_steps=3)
    scaler = with_scaler(trainer, monkeypatch)
    spoiled = Spoiled(trainer.model, call=1, value=value)
    targets, rates = [], []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            targets.append(weights_of(trainer.model))
            rates.append((trainer.schedule_step, scaler.get_scale()))

    trainer.add_callback(Watch())
    trainer.train()
    assert unchanged(trainer.model, targets[2]) and not unchanged(trainer.model, targets[1])
    assert all(torch.equal(value, spoiled.before[name]) for name, value in targets[1].items())
    # The schedules of the third step are those of the second update.
    assert rates == [(1, 1024.0), (1, 512.0), (2, 512.0)]
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry.get("ema_momentum") for entry in logged] == [
        pytest.approx(0.998),
        None,
        pytest.approx(0.998 + 0.002 / 3.75),
    ]


def test_unscaled_gradients_are_those_without_a_scaler(tmp_path, monkeypatch):
    plain = trainer_of(tmp_path, max_steps=2)
    plain.train()
    scaled = trainer_of(tmp_path, max_steps=2)
    with_scaler(scaled, monkeypatch)
    scaled.train()
    norms = [[entry["grad_norm"] for entry in run.state.log_history if "loss" in entry] for run in (plain, scaled)]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)  # it computes in half precision, too


def test_an_overflow_of_fp16_at_any_scale_ends_the_run(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, max_steps=100)
    scaler = with_scaler(trainer, monkeypatch)
    spoiled = Spoiled(trainer.model, call=0, value=math.nan, times=1000)
    with pytest.raises(DivergedError, match="the loss is finite at step 21, but the norm of its gradients is nan"):
        trainer.train()
    assert scaler.get_scale() == 2.0**-11
    assert unchanged(trainer.model, spoiled.before)


# Collapse

LEARNS_FAST = {
    "per_device_train_batch_size": 4,
    "max_steps": 60,
    "warmup_steps": 1,
    "start_learning_rate": 3e-3,
    "learning_rate": 3e-3,
    "logging_steps": 10,
    "collapse_action": "stop",
}


def test_a_collapse_on_purpose_ends_the_run_with_a_checkpoint(tmp_path):
    """Within 40 steps: the spread over clips falls from 0.7 through 0.11 (step 20) to 0.04 (step 30)."""
    no_ema = {"ema_momentum": 0.0, "final_ema_momentum": 0.0}
    settings = LEARNS_FAST | no_ema
    trainer = trainer_of(tmp_path, model_class=WithoutStopGradient, dataset=SixteenClips(), **settings)
    with pytest.raises(CollapseError, match="collapse at step .*: target_std_over_clips=.* is below 0.05"):
        trainer.train()
    stopped = trainer.state.global_step
    assert stopped <= 40
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{stopped}" and is_complete(checkpoint)


def test_a_healthy_run_at_the_same_rate_does_not_trip_the_alarm(tmp_path):
    trainer = trainer_of(tmp_path, dataset=SixteenClips(), **LEARNS_FAST)
    trainer.train()
    spreads = [entry["target_std_over_clips"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(spreads) == 6 and min(spreads) > 0.2
