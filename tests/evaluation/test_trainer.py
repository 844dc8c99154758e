import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from reference import TINY
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import TrainingArguments
from transformers.trainer_utils import EvalPrediction
from videos import write_video

from transformers_vjepa import (
    ClipSampling,
    StreamPosition,
    StreamShare,
    VJEPAConfig,
    VJEPAForVideoClassification,
    clip_stream,
)
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.evaluation_clips import ClipGeometry, EvaluationClips
from transformers_vjepa.evaluation import trainer as classification_trainer
from transformers_vjepa.evaluation.probing import ProbeGrid, ProbeSettings, probe_settings
from transformers_vjepa.evaluation.trainer import (
    IGNORED,
    ClipMixing,
    UnusableSplitError,
    VJEPAClassificationArguments,
    VJEPAClassificationTrainer,
    collate_examples,
    layer_decay_groups,
    layer_depth,
)
from transformers_vjepa.training.stream_trainer import DivergedError

CLASSES = 3
SAMPLING = ClipSampling(num_frames=4, frame_step=2)


class Features(Dataset):
    """Noise around a mean for each class: (views, tokens, width)."""

    def __init__(self, number, *, seed=0, width=48, views=1, tokens=5):
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(7))
        self.labels = [index % CLASSES for index in range(number)]
        noise = torch.randn(number, views, tokens, width, generator=generator)
        self.features = means[self.labels][:, None, None] + 2 * noise

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"features": self.features[index], "labels": self.labels[index]}


def arguments(tmp_path, **changes):
    defaults = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
    }
    return VJEPAClassificationArguments(**(defaults | changes))


def config(**fields):
    return VJEPAConfig(**TINY, num_labels=CLASSES, **fields)


def tiny_grid(settings, **fields):
    torch.manual_seed(0)
    return ProbeGrid(config(**fields), settings)


def tiny_classifier(**fields):
    torch.manual_seed(0)
    return VJEPAForVideoClassification(config(**fields))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Nine still videos of three brightnesses, a folder for each."""
    root = tmp_path_factory.mktemp("videos")
    for label in range(CLASSES):
        for number in range(3):
            write_video(root / f"level{label}" / f"{number}.mp4", level=20 + 90 * label + 5 * number)
    return root


def stream(videos, model_config, position=None, *, workers=0, **settings):
    return clip_stream(
        str(videos),
        config=model_config,
        sampling=SAMPLING,
        position=position,
        seed=3,
        share=StreamShare(batch_size=4, num_workers=workers),
        **settings,
    )


def evaluation_clips(folder, **settings):
    return EvaluationClips(open_corpus(folder), ClipGeometry(crop_size=32, sampling=SAMPLING, **settings))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


# Probes


def test_a_grid_trains_every_probe_as_it_would_train_alone(tmp_path):
    settings = probe_settings([1e-3, 1e-1], [0.0, 0.1])
    together = tiny_grid(settings)
    # The norm that is clipped to is one that bites, for some probes earlier than for others.
    VJEPAClassificationTrainer(together, arguments(tmp_path, max_grad_norm=0.5), Features(10)).train()
    for probe, setting in zip(together.probes, settings, strict=True):
        alone = tiny_grid([setting])
        before = weights(alone)
        VJEPAClassificationTrainer(alone, arguments(tmp_path, max_grad_norm=0.5), Features(10)).train()
        assert not same(weights(alone), before)
        for name, value in alone.probes[0].named_parameters():
            assert torch.allclose(probe.state_dict()[name], value, atol=1e-6), name


def test_a_grid_is_evaluated_by_its_best_probe(tmp_path):
    # One probe learns, the other is too slow to leave its start.
    args = arguments(tmp_path, max_steps=-1, num_train_epochs=4, min_steps=0, save_strategy="steps")
    assert args.lay_out_steps(num_clips=30, has_validation=True) == 8
    grid = tiny_grid([ProbeSettings(1e-9, 0.0), ProbeSettings(3e-3, 0.0)])
    trainer = VJEPAClassificationTrainer(grid, args, Features(30), Features(12, seed=1, views=2))
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert [entry["step"] for entry in evaluations] == [8, 16, 24, 32]
    best = max(evaluations, key=lambda entry: entry["eval_selection_score"])
    assert trainer.state.best_metric == best["eval_selection_score"]
    assert best["eval_best_probe"] == 1
    assert best["eval_accuracy"] == best["eval_accuracy_lr0.003_wd0"] > best["eval_accuracy_lr1e-09_wd0"]
    # The model is that of the last step, whichever was best.
    assert trainer.final_step == 32
    last = evaluations[-1]["eval_selection_score"]
    assert trainer.evaluate()["eval_selection_score"] == pytest.approx(last)


@pytest.mark.parametrize("takes_best", [False, True])
def test_training_ends_with_the_last_weights_or_on_request_the_best(tmp_path, monkeypatch, capsys, takes_best):
    falling = itertools.count(0, -1)  # so the first of the evaluations, which is that of step 2, is the best
    monkeypatch.setattr(classification_trainer, "selection_score", lambda logits, labels: next(falling))

    def trainer(**changes):
        changes = {"save_strategy": "steps", "load_best_model_at_end": takes_best, "save_total_limit": 2} | changes
        args = arguments(tmp_path, **changes)
        args.lay_out_steps(num_clips=8, has_validation=True)
        return VJEPAClassificationTrainer(
            tiny_grid([ProbeSettings(1e-2, 0.0)]), args, Features(8), Features(6, seed=1)
        )

    trained = trainer()
    trained.train_or_restore(None)
    assert "Writing" not in capsys.readouterr().err  # no bar for every checkpoint
    final = 2 if takes_best else 6
    assert trained.final_step == final and trained.state.best_global_step == 2
    expected = load_file(tmp_path / f"checkpoint-{final}" / "model.safetensors")
    other = load_file(tmp_path / f"checkpoint-{8 - final}" / "model.safetensors")
    assert same(weights(trained.model), expected) and not same(expected, other)
    # A run that is through is restored to the same weights.
    restored = trainer()
    restored.train_or_restore(str(tmp_path / "checkpoint-6"))
    assert restored.final_step == final and same(weights(restored.model), expected)


def test_the_logged_loss_is_the_mean_over_probes_and_over_accumulated_batches(tmp_path):
    # Rates too small to change anything: every probe has the loss of the start in every step.
    start = math.log(CLASSES)
    grid = tiny_grid(probe_settings([1e-30, 1e-29], [0.0]))
    for probe in grid.probes:
        torch.nn.init.zeros_(probe.classifier.weight)
    args = arguments(tmp_path, max_steps=2, gradient_accumulation_steps=2)
    trainer = VJEPAClassificationTrainer(grid, args, Features(14))  # 4 and 4, then 4 and 2 clips
    trainer.train()
    logs = trainer.state.log_history
    assert [entry["loss"] for entry in logs if "loss" in entry] == pytest.approx([start, start], abs=1e-3)
    assert logs[-1]["train_loss"] == pytest.approx(start, abs=1e-3)


def test_a_probe_that_diverges_is_named(tmp_path):
    grid = tiny_grid([ProbeSettings(1e-3, 0.0), ProbeSettings(1e30, 0.0)])
    with pytest.raises(DivergedError, match=r"^the loss of lr1e\+30_wd0 is NaN or infinite at step \d: leave out"):
        VJEPAClassificationTrainer(grid, arguments(tmp_path), Features(10)).train()


def test_probing_clips_leaves_the_encoder_as_it_is(videos, tmp_path):
    encoder = tiny_classifier(drop_path_rate=0.5)
    before = weights(encoder)
    grid = tiny_grid(probe_settings([1e-2, 1e-1], [0.0]))
    start = weights(grid)
    trainer = VJEPAClassificationTrainer(grid, arguments(tmp_path), stream(videos, grid.config), encoder=encoder)
    trainer.train()
    assert same(weights(encoder), before)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in encoder.parameters())
    assert not encoder.training
    assert not same(weights(grid), start)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["clips_per_second"] > 0 and 0 < entry["data_wait_share"] < 1 for entry in logged)


def test_features_of_clips_are_those_of_the_classifier(videos, tmp_path):
    encoder, grid = tiny_classifier(), tiny_grid([ProbeSettings(1e-3, 0.0)])
    grid.write_into(encoder, 0)
    clips = evaluation_clips(videos, num_segments=2, num_views=3)
    predictions = [
        VJEPAClassificationTrainer(model, arguments(tmp_path, per_device_eval_batch_size=2), encoder=beside).predict(
            clips
        )
        for model, beside in ((grid, encoder), (encoder, None))
    ]
    assert predictions[0].predictions.shape == (9, 1, CLASSES)
    assert np.abs(predictions[0].predictions[:, 0] - predictions[1].predictions).max() < 1e-5
    assert predictions[0].label_ids.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_segments_of_the_stream_are_read_together(videos, tmp_path):
    encoder, grid = tiny_classifier(), tiny_grid([ProbeSettings(1e-2, 0.0)])
    trainer = VJEPAClassificationTrainer(
        grid, arguments(tmp_path, max_steps=1), stream(videos, grid.config, num_segments=2), encoder=encoder
    )
    (batch,) = [batch for _, batch in zip(range(1), trainer.get_train_dataloader(), strict=False)]
    assert batch["pixel_values_videos"].shape == (4, 2, 4, 3, 32, 32)
    assert trainer._features(batch).shape == (4, 1, 2 * 32, 48)
    trainer.train()


# Fine-tuning


def test_depths_of_layers():
    names = {
        "vjepa.encoder.embeddings.patch_embeddings.weight": 0,
        "vjepa.encoder.layer.0.norm1.weight": 1,
        "vjepa.encoder.layer.1.attention.query.weight": 2,
        "vjepa.encoder.layer.11.mlp.fc1.bias": 12,
        "vjepa.encoder.layernorm.bias": 13,
        "pooler.query_tokens": 13,
        "pooler.self_attention_layers.0.norm1.weight": 13,
        "classifier.weight": 13,
    }
    assert {name: layer_depth(name, num_layers=12) for name in names} == names


def test_groups_of_the_layer_wise_decay():
    model = tiny_classifier()  # two blocks
    groups = layer_decay_groups(model, learning_rate=1.0, weight_decay=0.05, layer_decay=0.5)
    # Head and final norm 1, second block 1/2, first block 1/4, embeddings 1/8; with and without decay.
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (rate, decay) for rate in (1.0, 0.5, 0.25, 0.125) for decay in (0.05, 0.0)
    ]
    found = {id(value): group for group in groups for value in group["params"]}
    assert len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        group = found[id(parameter)]
        assert group["weight_decay"] == (0.0 if name.endswith("bias") or "norm" in name else 0.05), name
    assert found[id(model.vjepa.encoder.layernorm.weight)]["lr"] == 1.0
    assert found[id(model.vjepa.encoder.layer[1].mlp.fc1.weight)]["lr"] == 0.5
    assert found[id(model.vjepa.encoder.embeddings.patch_embeddings.bias)]["lr"] == 0.125


def test_frozen_parameters_are_in_no_group():
    model = tiny_classifier()
    model.freeze_encoder()
    groups = layer_decay_groups(model, learning_rate=1.0, weight_decay=0.05, layer_decay=0.5)
    assert {group["lr"] for group in groups} == {1.0}


def rates_of(trainer, steps):
    trainer.create_optimizer_and_scheduler(num_training_steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return rates


def test_rates_are_divided_by_ten_at_the_milestones(tmp_path):
    settings = {"num_train_epochs": 5, "lr_milestones": [1, 3], "warmup_steps": 0}
    grid = tiny_grid(probe_settings([0.8], [0.0]), pooling="mean")
    # Ten steps are five epochs, so the milestones are the steps 2 and 6.
    rates = rates_of(VJEPAClassificationTrainer(grid, arguments(tmp_path, **settings)), 10)
    assert rates == pytest.approx([0.8] * 2 + [0.08] * 4 + [0.008] * 4)
    # After a warm-up of three steps.
    settings["warmup_steps"] = 3
    rates = rates_of(VJEPAClassificationTrainer(grid, arguments(tmp_path, **settings)), 10)
    assert rates == pytest.approx([0.2, 0.4, 0.06, 0.08, 0.08, 0.08, 0.008, 0.008, 0.008, 0.008])


def test_rates_for_a_number_of_clips_grow_with_the_batch(tmp_path):
    settings = {"base_batch_size": 256, "per_device_train_batch_size": 64, "gradient_accumulation_steps": 32}
    training = arguments(tmp_path, **settings, learning_rates=[0.01, 0.05], weight_decays=[0.0], learning_rate=1e-3)
    assert [probe.learning_rate for probe in training.probe_settings()] == pytest.approx([0.08, 0.4])  # 2,048 / 256
    trainer = VJEPAClassificationTrainer(tiny_classifier(), training)
    assert trainer.create_optimizer().param_groups[0]["lr"] == pytest.approx(8e-3)


@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
def test_resumed_probing_with_milestones_ends_as_the_uninterrupted_one(tmp_path, optimizer):
    settings = {"probe_optimizer": optimizer, "lr_milestones": [1, 2], "num_train_epochs": 3, "save_strategy": "steps"}
    settings |= {"save_steps": 3, "warmup_steps": 0, "max_grad_norm": 0.0}
    ends = []
    for name in ("whole", "resumed"):
        grid = tiny_grid(probe_settings([0.05, 0.5], [0.0]), pooling="mean", pooled_batch_norm=True)
        trainer = VJEPAClassificationTrainer(grid, arguments(tmp_path / name, **settings), Features(12))
        start = None
        if name == "resumed":
            start = tmp_path / "resumed" / "checkpoint-3"
            shutil.copytree(tmp_path / "whole" / "checkpoint-3", start)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
        ends.append(weights(grid))
    assert same(*ends)
    assert ends[0]["probes.0.pooler.norm.num_batches_tracked"] == 6


def test_the_optimizer_takes_the_groups_and_the_schedule_scales_them(videos, tmp_path):
    args = arguments(tmp_path, learning_rate=0.8, layer_decay=0.5, warmup_steps=4, max_steps=2, max_grad_norm=1e-9)
    model = tiny_classifier()
    trainer = VJEPAClassificationTrainer(model, args, stream(videos, model.config))
    trainer.train()
    rates = [group["lr"] for group in trainer.optimizer.param_groups[::2]]
    assert rates == pytest.approx([0.4, 0.2, 0.1, 0.05])  # two of four steps of warm-up
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry] == [0.0, 0.2]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_fine_tuning_ends_as_the_uninterrupted_one(videos, tmp_path, workers):
    def run(folder, checkpoint=None):
        # Everything that draws: drop path, the two ways of mixing, and the stream.
        args = arguments(
            folder,
            save_strategy="steps",
            mixup=0.8,
            cutmix=1.0,
            label_smoothing_factor=0.1,
            dataloader_num_workers=workers,
            max_steps=4,
        )
        args.save_steps = args.eval_steps = 2
        args.eval_strategy = "steps"
        model, position = tiny_classifier(drop_path_rate=0.5), StreamPosition()
        clips = evaluation_clips(videos)
        data = stream(videos, model.config, position, workers=workers)
        trainer = VJEPAClassificationTrainer(model, args, data, clips, position=position)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    whole = run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = run(tmp_path / "resumed", str(tmp_path / "resumed" / "checkpoint-2"))
    assert same(weights(whole.model), weights(resumed.model))
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (whole, resumed)]
    assert len(set(losses[0])) == 4
    assert losses[0] == losses[1]


@pytest.mark.parametrize("first", [2, 4])  # in the middle of an epoch of four steps, and at its end
def test_resumed_probing_ends_as_the_uninterrupted_one(tmp_path, first):
    def run(folder, checkpoint=None):
        args = arguments(folder, save_strategy="steps", save_steps=first, save_total_limit=None, max_steps=7)
        grid = tiny_grid(probe_settings([1e-3, 1e-2], [0.0, 0.1]))
        trainer = VJEPAClassificationTrainer(grid, args, Features(14))
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    whole = run(tmp_path / "whole")
    name = f"checkpoint-{first}"
    shutil.copytree(tmp_path / "whole" / name, tmp_path / "resumed" / name)
    resumed = run(tmp_path / "resumed", str(tmp_path / "resumed" / name))
    assert resumed.state.global_step == 7
    assert same(weights(whole.model), weights(resumed.model))


def test_mixing_by_hand():
    clips = torch.stack([torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)])
    labels = torch.tensor([0, 2])
    torch.manual_seed(0)
    mixed, shares = ClipMixing(CLASSES, mixup=1.0)(clips, labels)
    own = shares[0, 0].item()  # the rest is of the other clip, whose pixels are 1
    assert 0 < own < 1
    assert torch.allclose(mixed[0], torch.full_like(mixed[0], 1 - own))
    assert torch.allclose(shares, torch.tensor([[own, 0, 1 - own], [1 - own, 0, own]]))
    torch.manual_seed(1)
    mixed, shares = ClipMixing(CLASSES, cutmix=1.0)(clips.unsqueeze(1).unsqueeze(1), labels)
    assert mixed.shape == (2, 1, 1, 2, 3, 4, 4) and type(mixed) is torch.Tensor
    assert set(mixed.unique().tolist()) <= {0.0, 1.0}
    assert mixed[0].mean().item() == pytest.approx(shares[0, 2].item())  # a box, the same in all frames
    assert torch.equal(mixed[0, 0, 0, 0], mixed[0, 0, 0, 1])


def test_without_alphas_nothing_is_mixed():
    clips, labels = torch.rand(2, 2, 3, 4, 4), torch.tensor([0, 1])
    mixed, same_labels = ClipMixing(CLASSES)(clips, labels)
    assert mixed is clips and same_labels is labels


def test_the_loss_of_fine_tuning_by_hand(videos, tmp_path):
    model = tiny_classifier().eval()
    trainer = VJEPAClassificationTrainer(model, arguments(tmp_path, label_smoothing_factor=0.3))
    clips = torch.randn(2, 4, 3, 32, 32)
    labels = torch.tensor([0, 2])
    loss = trainer.compute_loss(model, {"pixel_values_videos": clips, "labels": labels})
    logs = model(clips).logits.log_softmax(-1)
    # 0.7 on the label and 0.1 on each of the three classes.
    expected = -(0.7 * logs[[0, 1], labels] + 0.1 * logs.sum(1)).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("label", "message"), [(-1, "b.mp4 has no label, and the classes"), (3, "b.mp4 has the label 3, and the classes")]
)
def test_labels_that_are_no_class_are_named(tmp_path, label, message):
    model = tiny_classifier()
    inputs = {"pixel_values_videos": torch.randn(2, 4, 3, 32, 32), "labels": torch.tensor([0, label])}
    trainer = VJEPAClassificationTrainer(model, arguments(tmp_path))
    with pytest.raises(ValueError, match=f"{message} of the model are 0 to 2"):
        trainer.compute_loss(model, inputs | {"path": ["a.mp4", "b.mp4"]})


# Evaluation


def test_broken_videos_are_left_out_of_the_metrics(videos, tmp_path, caplog):
    folder = tmp_path / "some"
    shutil.copytree(videos, folder)
    (folder / "level1" / "0.mp4").write_bytes(b"no video")
    clips = evaluation_clips(folder)
    model = tiny_classifier()
    metrics = VJEPAClassificationTrainer(model, arguments(tmp_path, per_device_eval_batch_size=1)).evaluate(clips)
    assert metrics["eval_videos_skipped"] == 1
    assert (metrics["eval_accuracy"] * 8) % 1 == pytest.approx(0)
    assert "skipped a broken video" in caplog.text


def test_a_split_without_any_readable_video_is_an_error(tmp_path):
    for number in range(3):
        write_video(tmp_path / "a" / f"{number}.mp4", level=100, num_frames=2)  # too short
    clips = evaluation_clips(tmp_path)
    trainer = VJEPAClassificationTrainer(tiny_classifier(), arguments(tmp_path))
    with pytest.raises(UnusableSplitError, match="none of the 3 clips to evaluate can be read"):
        trainer.evaluate(clips)


def test_metrics_of_a_grid_are_those_of_its_best_probe(tmp_path):
    trainer = VJEPAClassificationTrainer(tiny_grid(probe_settings([1e-3, 1e-2], [0.0])), arguments(tmp_path))
    right, wrong = np.eye(CLASSES) * 5.0, np.roll(np.eye(CLASSES), 1, axis=1) * 5.0
    logits = np.stack([wrong, right], axis=1)[[0, 1, 2, 0]]
    metrics = trainer.compute_metrics(EvalPrediction(predictions=logits, label_ids=np.array([0, 1, 0, IGNORED])))
    assert metrics["best_probe"] == 1
    assert metrics["accuracy"] == metrics["accuracy_lr0.01_wd0"] == pytest.approx(2 / 3)
    assert metrics["accuracy_lr0.001_wd0"] == pytest.approx(1 / 3)  # it takes 2 for 0
    assert metrics["videos_skipped"] == 1
    loss = math.log(math.exp(5) + 2)
    assert metrics["cross_entropy"] == pytest.approx((2 * (loss - 5) + loss) / 3)


def test_collating_keeps_the_place_of_broken_clips():
    clip = torch.full((1, 1, 2, 3, 4, 4), 7, dtype=torch.uint8)
    batch = collate_examples(
        [
            {"index": 0, "path": "a.mp4", "label": 2, "pixel_values_videos": clip},
            {"index": 1, "path": "b.mp4", "error": "CorruptVideoError: no video"},
        ]
    )
    assert batch["labels"].tolist() == [2, IGNORED]
    assert batch["path"] == ["a.mp4", "b.mp4"]
    assert batch["pixel_values_videos"].dtype == torch.uint8
    assert batch["pixel_values_videos"].flatten(1).float().mean(1).tolist() == [7, 0]


# Arguments


def test_steps_are_laid_out_by_epochs_and_at_least_so_many(tmp_path):
    args = arguments(tmp_path, max_steps=-1, num_train_epochs=3, min_steps=0, save_strategy="steps")
    assert args.lay_out_steps(num_clips=10, has_validation=True) == 3
    assert (args.max_steps, args.eval_strategy, args.eval_steps, args.save_steps) == (9, "steps", 3, 3)
    args = arguments(tmp_path, max_steps=-1, num_train_epochs=3, min_steps=1000, save_strategy="steps")
    args.lay_out_steps(num_clips=10, has_validation=False)
    assert (args.max_steps, args.save_steps, args.eval_strategy) == (1000, 50, "no")
    args = arguments(tmp_path, max_steps=5, num_train_epochs=3, min_steps=1000)
    args.lay_out_steps(num_clips=1000, has_validation=True)
    assert (args.max_steps, args.eval_steps) == (5, 5)


@pytest.mark.parametrize(
    "changes, has_validation, lacking",
    [({}, False, "validation clips"), ({"save_strategy": "no"}, True, "checkpoints")],
)
def test_the_best_checkpoint_needs_something_to_choose_by(tmp_path, changes, has_validation, lacking):
    args = arguments(tmp_path, **({"save_strategy": "steps", "load_best_model_at_end": True} | changes))
    with pytest.raises(ValueError, match=f"load_best_model_at_end=True needs {lacking}"):
        args.lay_out_steps(num_clips=8, has_validation=has_validation)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layer_decay": 0.0}, r"layer_decay=0.0 must lie in \[1e-06, 1.0\]"),
        ({"mixup": -1.0}, r"mixup=-1.0 must lie in \[0.0, inf\]"),
        ({"label_smoothing_factor": 1.5}, "label_smoothing_factor=1.5 must lie in"),
        ({"remove_unused_columns": True}, "remove_unused_columns=True does not work with V-JEPA"),
        ({"base_batch_size": 0}, "base_batch_size=0 must lie in"),
        (
            {"lr_milestones": [15, 60], "num_train_epochs": 50},
            r"lr_milestones=\[15, 60\] must be ascending epochs, above 0 and below num_train_epochs=50",
        ),
        ({"lr_milestones": [30, 15]}, r"lr_milestones=\[30, 15\] must be ascending epochs"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)


def test_other_models_and_arguments_are_refused(tmp_path):
    with pytest.raises(TypeError, match="a VJEPAModel has no classes: train a VJEPAForVideoClassification"):
        VJEPAClassificationTrainer(tiny_classifier().vjepa, arguments(tmp_path))
    with pytest.raises(TypeError, match="this trainer needs a VJEPAClassificationArguments, not a TrainingArguments"):
        VJEPAClassificationTrainer(tiny_classifier(), TrainingArguments(str(tmp_path), use_cpu=True))


def test_metrics_of_ones_own(tmp_path):
    def mine(prediction):
        return {"mine": 1.0}

    trainer = VJEPAClassificationTrainer(tiny_classifier(), arguments(tmp_path), compute_metrics=mine)
    assert trainer.compute_metrics is mine


def test_an_encoder_beside_another_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the model has its own encoder: pass `encoder` only with a ProbeGrid"):
        VJEPAClassificationTrainer(tiny_classifier(), arguments(tmp_path), encoder=tiny_classifier())
