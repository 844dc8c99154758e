import json
import math
import signal

import pytest
import torch
from reference import TINY, inputs_of, largest_difference, reference_model, reference_tensors, repeat_run
from torch.utils.data import IterableDataset
from transformers import TrainingArguments

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAModel, VJEPATrainer, VJEPATrainingArguments
from transformers_vjepa.conversion.conversion import convert_network
from transformers_vjepa.pretraining.trainer import CollapseError
from transformers_vjepa.training.stream_trainer import DivergedError


class NoiseClips(IterableDataset):
    """Endless uint8 noise with the fields of the stream."""

    def __init__(self, config):
        self.config = config

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        side = self.config.crop_size
        shape = (self.config.frames_per_clip, 3, side, side)
        number = 0
        while True:
            yield {
                "pixel_values_videos": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
                "clip_seed": number,
                "path": f"clip{number}.mp4",
                "num_skipped": int(number % 4 == 0),
            }
            number += 1


def arguments(tmp_path, **changes):
    defaults = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return VJEPATrainingArguments(**(defaults | changes))


def tiny_model(**fields):
    torch.manual_seed(0)
    return VJEPAForPreTraining(VJEPAConfig(**TINY, **fields))


def tiny_trainer(tmp_path, model=None, **changes):
    model = tiny_model() if model is None else model
    return VJEPATrainer(model, arguments(tmp_path, **changes), NoiseClips(model.config))


def steps_of(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_context_tokens_are_regularised(tmp_path):
    """With both weights the loss has both terms, of the context tokens of all clips of each mask."""
    plain, regular = [
        steps_of(trained)[0]
        for trained in (
            run_to_end(tiny_trainer(tmp_path / "plain", max_steps=1)),
            run_to_end(
                tiny_trainer(
                    tmp_path / "vicreg", max_steps=1, context_variance_weight=0.5, context_covariance_weight=2
                )
            ),
        )
    ]
    assert "context_variance_loss" not in plain
    assert 0 < regular["context_variance_loss"] < 1
    assert regular["context_covariance_loss"] > 0
    added = 0.5 * regular["context_variance_loss"] + 2 * regular["context_covariance_loss"]
    assert regular["loss"] - plain["loss"] == pytest.approx(added, rel=1e-3)


def run_to_end(trainer):
    trainer.train()
    return trainer


def test_trains_a_second_time(tmp_path):
    """With one update of schedules and target for each step, as the first time."""
    trainer = run_to_end(tiny_trainer(tmp_path))
    updates = []
    update_target = trainer.model.update_target
    trainer.model.update_target = lambda momentum: (updates.append(momentum), update_target(momentum))
    run_to_end(trainer)
    assert updates == pytest.approx([entry["ema_momentum"] for entry in steps_of(trainer)[-3:]])
    assert len(updates) == 3


# Against the published code

REFERENCES = ["vjepa_tiny_uniform", "vjepa_tiny_plain", "ijepa_tiny"]
# Names of a network, theirs and ours, and the tolerance of its final weights. Encoder and predictor move by 4e-3, the
# target encoder by 3e-5 only. In the predictor the biases of the keys differ most (by 1e-5): their gradients are
# rounding errors.
PARTS = [
    ("encoder", "context_encoder", 1e-5),
    ("target_encoder", "vjepa.encoder", 2e-6),
    ("predictor", "vjepa.predictor", 5e-5),
]


@pytest.mark.parametrize("variant", REFERENCES)
def test_the_logged_loss_is_the_published_one(shared, tmp_path, variant):
    folder = shared / "reference" / variant
    recipe = json.loads((folder / "trajectory.json").read_text()) | {"steps": 1}
    expected = reference_tensors(folder / "forward.safetensors")
    (entry,) = repeat_run(reference_model(folder), recipe, lambda step: inputs_of(expected), tmp_path)
    published = expected["loss_smooth_l1" if variant == "ijepa_tiny" else "loss"]
    assert entry["loss"] == pytest.approx(published.item(), abs=1e-5)


@pytest.mark.parametrize("variant", REFERENCES)
def test_ten_steps_match_the_published_trajectory(shared, tmp_path, variant):
    folder = shared / "reference" / variant
    recipe = json.loads((folder / "trajectory.json").read_text())
    expected = reference_tensors(folder / "trajectory.safetensors")
    model = reference_model(folder)
    model.update_target(0.0)  # the trajectory starts with the target reset to the encoder
    start = {name: value.clone() for name, value in model.state_dict().items()}
    logged = repeat_run(model, recipe, lambda step: inputs_of(expected, f"step{step}."), tmp_path)

    for step, entry in enumerate(logged):
        values = {name: series[step] for name, series in recipe["per_step"].items()}
        assert entry["loss"] == pytest.approx(values["loss"], abs=1e-5)
        assert entry["learning_rate"] == pytest.approx(values["lr"], rel=1e-9)
        assert entry["weight_decay"] == pytest.approx(values["weight_decay"], rel=1e-6)
        assert entry["ema_momentum"] == pytest.approx(values["momentum"], rel=1e-6)
        for name in ("encoder_grad_norm", "predictor_grad_norm"):  # the run of I-JEPA has none
            if values.get(name) is not None:
                assert entry[name] == pytest.approx(values[name], rel=1e-3)
    end = model.state_dict()
    for part, ours, tolerance in PARTS:
        prefix = f"final.{part}."
        published = {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}
        theirs = {f"{ours}.{name}": value for name, value in convert_network(published).items()}
        assert set(theirs) == {name for name in end if name.startswith(f"{ours}.")}
        for name, value in theirs.items():
            assert largest_difference(end[name], value) < tolerance, name
        moved = max(largest_difference(start[name], value) for name, value in theirs.items())
        assert moved > 10 * tolerance, f"{part} has hardly moved: this test shows nothing"


def model_with_known_errors(loss):
    """It predicts 1/2 for tokens of the first mask and 3 for those of the second. Targets are -1 and 1 in turn."""
    model = tiny_model(pred_loss=loss)
    predictor, signs = model.vjepa.predictor, torch.tensor([-1.0, 1.0])
    with torch.no_grad():
        for layer in predictor.layer:  # the blocks add nothing
            layer.attention.proj.weight.zero_()
            layer.mlp.fc2.weight.zero_()
        # So large that the norm leaves only signs of the mask token: one sign for each mask.
        predictor.mask_tokens.copy_(1e6 * torch.stack([-signs, signs]).repeat(1, 12).view_as(predictor.mask_tokens))
        predictor.proj.weight.copy_(1.25 / 24 * signs.repeat(12).expand(48, 24))
        predictor.proj.bias.fill_(1.75)
        model.vjepa.encoder.layernorm.weight.zero_()
        model.vjepa.encoder.layernorm.bias.copy_(signs.repeat(24))
    return model


@pytest.mark.parametrize(
    "loss, expected",
    [
        # Errors of 1/2 and 3/2 on 2 tokens, and of 2 and 4 on 6. The mean of each mask, then over the masks:
        ("l1", (1 + 3) / 2),
        ("l2", ((1 / 8 + 9 / 8) / 2 + (4 / 2 + 16 / 2) / 2) / 2),
        # Over all tokens alike; below an error of 1 half of its square, above it the error less 1/2.
        ("smooth_l1", (2 * (1 / 8 + 1) / 2 + 6 * (3 / 2 + 7 / 2) / 2) / 8),
    ],
)
def test_the_logged_loss_by_hand(tmp_path, loss, expected):
    model = model_with_known_errors(loss)
    batch = {
        "pixel_values_videos": torch.randn(2, 4, 3, 32, 32),
        "context_mask": [torch.tensor([[0, 1]] * 2)] * 2,
        "target_mask": [
            torch.tensor([[5, 6], [9, 31]]),
            torch.tensor([[2, 3, 20, 21, 22, 25], [7, 8, 15, 16, 17, 30]]),
        ],
    }
    trainer = VJEPATrainer(
        model, arguments(tmp_path, max_steps=1), NoiseClips(model.config), data_collator=lambda clips: batch
    )
    trainer.train()
    assert steps_of(trainer)[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_logs_what_a_diagnostician_wants(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.train()
    entry = steps_of(trainer)[-1]
    for name in (
        "loss learning_rate weight_decay ema_momentum context_ratio_0 context_ratio_1 target_ratio_0 target_ratio_1 "
        "target_std_over_clips target_rank_over_clips target_std_over_tokens target_rank_over_tokens predictor_std "
        "encoder_grad_norm predictor_grad_norm clips_per_second data_wait_share"
    ).split():
        assert math.isfinite(entry[name]), name
    assert 0 < entry["data_wait_share"] < 1
    assert entry["videos_skipped"] == 3  # one in each of three batches of four
    assert entry["context_ratio_0"] + entry["target_ratio_0"] == pytest.approx(1)


def test_gradient_accumulation_equals_the_larger_batch(tmp_path):
    # Equal masks lengths and losses averaged over clips: two batches of 2 make the step of one batch of 4.
    whole, parts = tiny_model(), tiny_model()
    tiny_trainer(tmp_path, whole, max_steps=2).train()
    accumulated = tiny_trainer(
        tmp_path, parts, max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    accumulated.train()
    for (name, one), two in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert largest_difference(one, two.detach()) < 1e-5, name
    assert [entry["ema_momentum"] for entry in steps_of(accumulated)] == pytest.approx([0.998, 0.998 + 0.002 / 2.5])


def test_target_follows_the_context_encoder_with_this_steps_momentum(tmp_path):
    model = tiny_model()
    before = model.vjepa.encoder.layernorm.bias.clone()
    tiny_trainer(tmp_path, model, max_steps=1, ema_momentum=0.9, start_learning_rate=1e-2).train()
    context = model.context_encoder.layernorm.bias
    assert context.abs().max() > 1e-4
    assert torch.allclose(model.vjepa.encoder.layernorm.bias, 0.9 * before + 0.1 * context, atol=1e-7)


def test_clipping_is_separate_and_starts_after_warmup(tmp_path):
    trainer = tiny_trainer(tmp_path, max_grad_norm=1e-4, clip_grad_from_step=1, max_steps=2)
    clipped = []

    def watch(optimizer, *_):
        network = trainer.model
        for part in (network.context_encoder, network.vjepa.predictor):
            gradients = [parameter.grad.norm() for parameter in part.parameters()]
            clipped.append(torch.stack(gradients).norm().item())

    trainer.create_optimizer().register_step_pre_hook(watch)
    trainer.train()
    first, second = clipped[:2], clipped[2:]
    assert max(first) > 1e-2
    assert second == pytest.approx([1e-4, 1e-4], rel=0.02)  # torch adds 1e-6 to the norm it divides by
    assert steps_of(trainer)[1]["predictor_grad_norm"] > 1e-2  # logged before clipping


def test_gradients_are_unscaled_once_a_step_and_norms_logged_without_clipping(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path, max_grad_norm=0.0, max_steps=2)
    calls = []
    monkeypatch.setattr(trainer.accelerator, "unscale_gradients", lambda *_: calls.append(1))
    trainer.train()
    assert len(calls) == 2  # fp16 refuses a second time
    assert all(entry["predictor_grad_norm"] > 0 for entry in steps_of(trainer))


def test_weight_decay_spares_vectors(tmp_path):
    trainer = tiny_trainer(tmp_path)
    decayed = trainer.get_decay_parameter_names(trainer.model)
    assert "vjepa.predictor.mask_tokens" in decayed
    assert "context_encoder.layer.0.attention.query.weight" in decayed
    assert not [name for name in decayed if name.endswith("bias") or "norm" in name]


def test_weight_decay_may_start_at_zero(tmp_path):
    trainer = tiny_trainer(tmp_path, weight_decay=0.0, final_weight_decay=0.4, max_steps=2, schedule_scale=1.0)
    trainer.train()
    groups = {group["decays"]: group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert groups == {True: pytest.approx(0.4), False: 0.0}


def test_signal_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    model = tiny_model()
    with torch.no_grad():
        model.context_encoder.layernorm.bias.fill_(float("nan"))
    with pytest.raises(DivergedError):
        tiny_trainer(tmp_path, model).train()
    assert signal.getsignal(signal.SIGINT) is before


def test_nan_loss_stops_with_step_and_names(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.context_encoder.layernorm.bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"the loss is nan at step 0 on the videos clip0.mp4, clip1.mp4"):
        tiny_trainer(tmp_path, model).train()


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_collapse_alarm(tmp_path, caplog, action):
    model = tiny_model()
    with torch.no_grad():  # features that hold position only: the tokens still differ, the clips do not
        for encoder in (model.context_encoder, model.vjepa.encoder):
            encoder.embeddings.patch_embeddings.weight.zero_()
    trainer = tiny_trainer(tmp_path, model, max_steps=1, collapse_action=action)
    if action == "stop":
        with pytest.raises(CollapseError, match="collapse at step 0: target_std_over_clips=.* is below 0.05"):
            trainer.train()
    else:
        trainer.train()
        assert "collapse at step 0: target_std_over_clips" in caplog.text
        assert steps_of(trainer)[0]["target_std_over_tokens"] > 0.1


def test_healthy_run_raises_no_alarm(tmp_path, caplog):
    tiny_trainer(tmp_path, collapse_action="stop").train()
    assert "collapse" not in caplog.text


def test_half_precision_parameters_are_refused(tmp_path):
    with pytest.raises(ValueError, match="torch.bfloat16 parameters, in which a momentum near 1 is rounded"):
        tiny_trainer(tmp_path, tiny_model().to(torch.bfloat16))


def test_other_models_and_arguments_are_refused(tmp_path):
    data = NoiseClips(tiny_model().config)
    with pytest.raises(TypeError, match="this trainer needs a VJEPAForPreTraining, not a VJEPAModel"):
        VJEPATrainer(VJEPAModel(VJEPAConfig(**TINY)), arguments(tmp_path), data)
    with pytest.raises(TypeError, match="this trainer needs a VJEPATrainingArguments, not a TrainingArguments"):
        VJEPATrainer(tiny_model(), TrainingArguments(str(tmp_path), use_cpu=True), data)


def test_pretraining_does_not_evaluate(tmp_path):
    trainer = tiny_trainer(tmp_path)
    for method in (trainer.evaluate, trainer.predict):
        with pytest.raises(NotImplementedError, match="probe them with vjepa train_classifier"):
            method(trainer.train_dataset)


def test_the_default_processor_gives_clips_of_the_models_length(tmp_path):
    processor = tiny_trainer(tmp_path).processing_class
    assert (processor.num_frames, processor.crop_size.height) == (TINY["frames_per_clip"], TINY["crop_size"])


def test_too_few_mask_tokens_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 generators, and the model has pred_num_mask_tokens=1: create the model"):
        tiny_trainer(tmp_path, tiny_model(pred_num_mask_tokens=1))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ema_momentum": 1.5}, r"ema_momentum=1.5 must lie in \[0.0, 1.0\]"),
        ({"schedule_scale": 0.5}, r"schedule_scale=0.5 must lie in \[1.0, inf\]"),
        ({"remove_unused_columns": True}, "remove_unused_columns=True does not work with V-JEPA"),
        ({"logging_nan_inf_filter": True}, "logging_nan_inf_filter=True does not work"),
        ({"max_steps": 0}, "max_steps=0 must lie in"),
        ({"learning_rate": -1.0}, r"learning_rate=-1.0 must lie in \[0.0, inf\]"),
        ({"collapse_action": "halt"}, "collapse_action='halt' must be one of warn, stop"),
        ({"mask_truncation": "all"}, "mask_truncation='all' must be one of balanced, published"),
        ({"num_train_epochs": 5}, "num_train_epochs=5 has no meaning: a stream has no end. Set max_steps"),
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_strategy='steps': pretraining does not evaluate"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)


def test_bf16_autocast_trains_with_float32_targets(tmp_path):
    model = tiny_model()
    trainer = tiny_trainer(tmp_path, model, bf16=True)
    trainer.train()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(math.isfinite(entry["loss"]) for entry in steps_of(trainer))
