"""The command `vjepa train_classifier`, run as its users run it."""

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from children import in_two_processes, run_command
from PIL import Image
from reference import TINY
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    get_scheduler,
)
from transformers.utils import logging
from videos import write_video

from transformers_vjepa import (
    ClipSampling,
    VJEPAClassificationArguments,
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPAModel,
    VJEPAVideoProcessor,
    read_clip,
)
from transformers_vjepa.command_line.parsing import RECIPES
from transformers_vjepa.commands import evaluate, train_classifier
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.splits import manifest_hash
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus
from transformers_vjepa.evaluation import reports, setup
from transformers_vjepa.evaluation.arguments import DataArguments, ModelArguments

CLASSES = ("bright", "dark", "grey")
LEVELS = {"bright": 220, "dark": 20, "grey": 120}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pretraining checkpoint as `vjepa pretrain` writes it."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(folder)
    VJEPAVideoProcessor(crop_size=32, frame_step=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight still videos of each of three brightnesses; their names say which of four takes they are from."""
    root = tmp_path_factory.mktemp("videos")
    for name, level in LEVELS.items():
        for number in range(8):
            write_video(root / name / f"{number}_take{number // 2}.mp4", level=level + number)
    return root


def command(model, dataset, output_dir, **settings):
    defaults = {
        "model": model,
        "dataset": dataset,
        "output_dir": output_dir,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "disable_tqdm": "true",
    }
    if settings.get("mode") != "finetune":
        defaults |= {"learning_rates": "0.001 0.01", "feature_dtype": "float32"}
    settings = {name: value for name, value in (defaults | settings).items() if value is not None}
    return [part for name, value in settings.items() for part in (f"--{name}", *str(value).split())]


def results_of(folder):
    return json.loads((Path(folder) / "results.json").read_text())


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def probe(model, videos, tmp_path_factory):
    """A run of the command with test clips: its output folder, and what it printed to both streams."""
    folder = tmp_path_factory.mktemp("probe") / "run"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        train_classifier.run(command(model, videos, folder, test_dataset=videos, max_steps=200))
    return SimpleNamespace(folder=folder, printed=out.getvalue(), bars=err.getvalue())


def test_disable_tqdm_is_for_all_bars(probe):
    assert not any(name in probe.bars for name in ("features:", "Loading weights", "Writing model shards"))
    assert logging.is_progress_bar_enabled()


def test_a_probe_learns_brightness(probe):
    results = results_of(probe.folder)
    assert results["validation"]["accuracy"] == results["test"]["accuracy"] == 1.0
    assert [entry["learning_rate"] for entry in results["probes"]] == [0.001, 0.01]
    assert results["chosen"]["learning_rate"] in (0.001, 0.01)
    assert results["settings"]["seed"] == 42 and results["settings"]["num_segments"] == 1


def test_the_summary_has_the_interval_of_the_results(probe):
    low, high = results_of(probe.folder)["test"]["accuracy_interval"]
    assert 0.8 < low < high == 1
    assert f"test:       100.0% right (95 %: {low:.1%} to 100.0%; 24 clips; chance 33.3%)" in probe.printed


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_split_is_recorded_with_its_hash(probe, split):
    assert results_of(probe.folder)[split]["manifest"] == manifest_hash(open_corpus(probe.folder / f"{split}.csv"))


def test_files_of_a_run(probe):
    assert {file.name for file in probe.folder.glob("*.png")} == {"curves.png"}
    assert {file.name for file in (probe.folder / "test").iterdir()} == {
        "classes.png",
        "confusion.png",
        "predictions.parquet",
        "results.json",
    }


def test_the_output_folder_is_a_model(model, probe):
    classifier = AutoModelForVideoClassification.from_pretrained(probe.folder)
    assert classifier.config.id2label == dict(enumerate(CLASSES))
    encoder = VJEPAModel.from_pretrained(model)
    assert torch.equal(classifier.vjepa.encoder.layernorm.weight, encoder.encoder.layernorm.weight)


def test_the_processors_come_with_the_model_and_its_checkpoints(probe):
    assert AutoVideoProcessor.from_pretrained(probe.folder).frame_step == 2  # as in the pretrained model
    for folder in (probe.folder, probe.folder / "checkpoint-200"):
        assert AutoImageProcessor.from_pretrained(folder).crop_size["height"] == 32


def test_predictions_are_those_of_the_saved_model(probe):
    classifier = AutoModelForVideoClassification.from_pretrained(probe.folder)
    processor = AutoVideoProcessor.from_pretrained(probe.folder)
    table = pq.read_table(probe.folder / "test" / "predictions.parquet").to_pylist()
    row = next(row for row in table if row["path"].endswith("grey/3_take1.mp4"))
    clip = read_clip(row["path"], sampling=ClipSampling(num_frames=4, frame_step=2))
    with torch.no_grad():
        probabilities = classifier(**processor(clip, return_tensors="pt")).logits.softmax(-1)[0]
    assert np.abs(np.array(row["probabilities"]) - probabilities.numpy()).max() < 1e-4
    assert (row["label"], row["predicted"]) == (2, 2)


def test_a_run_in_python_is_that_of_the_command(model, videos, tmp_path):
    train_classifier.run(command(model, videos, tmp_path / "command"))
    run = setup.build(
        ModelArguments(model=str(model)),
        DataArguments(dataset=str(videos), feature_dtype="float32"),
        VJEPAClassificationArguments(
            str(tmp_path / "python"),
            max_steps=4,
            per_device_train_batch_size=4,
            learning_rates=[0.001, 0.01],
            disable_tqdm=True,
            use_cpu=not torch.accelerator.is_available(),
        ),
    )
    run.train()
    assert "validation:" in run.finish()
    assert same(weights(tmp_path / "command"), weights(tmp_path / "python"))


def test_the_recipe_of_the_card_has_the_steps_that_were_asked_for(model, videos, tmp_path):
    for asked, wanted in (({"max_steps": 3}, "max_steps: 3"), ({"max_steps": None, "min_steps": 2}, "min_steps: 2")):
        run = tmp_path / wanted.partition(":")[0]
        train_classifier.run(command(model, videos, run, num_train_epochs=0.1, **asked))
        recipe = (run / "README.md").read_text().partition("```yaml\n")[2]
        assert wanted in recipe and recipe.count("_steps: ") == 1


def test_features_are_computed_once(model, videos, tmp_path, capsys):
    run = tmp_path / "run"
    train_classifier.run(command(model, videos, run))
    shards = {file: file.stat().st_mtime_ns for file in (run / "features").rglob("*.safetensors")}
    assert {file.parent.name for file in shards} == {"train", "validation"}
    shutil.rmtree(run / "checkpoint-4")
    train_classifier.run(command(model, videos, run, learning_rates=0.1))
    assert {file: file.stat().st_mtime_ns for file in shards} == shards
    shutil.rmtree(run / "checkpoint-4")
    with pytest.raises(SystemExit, match="error: .*features/train was made with other settings: .*frame_step"):
        train_classifier.run(command(model, videos, run, frame_step=3))


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "mean", "num_pooled_layers": 2, "num_segments": 2, "num_views": 3},
        {"num_pooler_layers": 1, "weight_decays": "0.0 0.1"},
        {"augment": "true", "num_segments": 2, "num_views": 2},
        {"augment": "true", "dataloader_num_workers": 2, "pooling": "mean"},
        {"mode": "finetune", "num_views": 2, "drop_path_rate": 0.2, "mixup": 0.8, "cutmix": 1.0},
        {"mode": "finetune", "augment": "false", "num_segments": 2, "validation_fraction": 0},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_every_way_runs(model, videos, tmp_path, settings):
    trainer = train_classifier.run(command(model, videos, tmp_path / "run", **settings))
    assert trainer.state.global_step == 4
    config = AutoModelForVideoClassification.from_pretrained(tmp_path / "run").config
    assert config.pooling == settings.get("pooling", "attentive")
    assert config.num_pooler_layers == settings.get("num_pooler_layers", 0)
    assert config.num_pooled_layers == settings.get("num_pooled_layers", 1)
    encoder, ours = VJEPAModel.from_pretrained(model), VJEPAModel.from_pretrained(tmp_path / "run")
    moved = not torch.equal(encoder.encoder.layer[0].mlp.fc1.weight, ours.encoder.layer[0].mlp.fc1.weight)
    assert moved == (settings.get("mode") == "finetune")
    probes = len(results_of(tmp_path / "run")["probes"])
    assert probes == {"finetune": 0}.get(settings.get("mode"), 4 if "weight_decays" in settings else 2)


@pytest.mark.parametrize("settings", [{}, {"augment": "true"}, {"mode": "finetune", "drop_path_rate": 0.5}])
def test_resumed_run_ends_as_the_uninterrupted_one(model, videos, tmp_path, settings, capsys):
    settings = {"save_total_limit": 9, "per_device_train_batch_size": 8, "max_steps": 6} | settings
    train_classifier.run(command(model, videos, tmp_path / "whole", **settings))
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed", ignore=shutil.ignore_patterns("checkpoint-6", "*.json"))
    for file in (*(tmp_path / "whole").rglob("features/*/*.json"), *(tmp_path / "whole").rglob("checkpoint-3/*.json")):
        shutil.copy(file, tmp_path / "resumed" / file.relative_to(tmp_path / "whole"))
    shutil.copy(tmp_path / "whole" / "run.json", tmp_path / "resumed")
    train_classifier.run(command(model, videos, tmp_path / "resumed", resume_from_checkpoint="auto", **settings))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    checkpoints = [load_file(tmp_path / name / "checkpoint-6" / "model.safetensors") for name in ("whole", "resumed")]
    assert same(*checkpoints)
    # Once more there is nothing to train, and everything is written again.
    (tmp_path / "resumed" / "results.json").unlink()
    train_classifier.run(command(model, videos, tmp_path / "resumed", resume_from_checkpoint="auto", **settings))
    assert results_of(tmp_path / "resumed")["validation"] == results_of(tmp_path / "whole")["validation"]


def test_another_run_is_not_resumed(model, videos, tmp_path):
    train_classifier.run(command(model, videos, tmp_path / "run"))
    with pytest.raises(SystemExit, match="continue it with --resume_from_checkpoint auto"):
        train_classifier.run(command(model, videos, tmp_path / "run"))
    split = (tmp_path / "run" / "train.csv").read_text()
    changed = {"learning_rates": "0.5", "split_seed": 1, "resume_from_checkpoint": "auto"}
    with pytest.raises(SystemExit) as error:
        train_classifier.run(command(model, videos, tmp_path / "run", **changed))
    assert "learning_rates was [0.001, 0.01] and is [0.5]" in str(error.value)
    assert "clips of train changed" in str(error.value) and "split_seed was 0 and is 1" in str(error.value)
    assert (tmp_path / "run" / "train.csv").read_text() == split  # still that of the run that is there


@pytest.mark.parametrize("augment", ["true", "false"])
def test_replaced_files_and_models_are_noticed(model, videos, tmp_path, augment):
    shutil.copytree(videos, tmp_path / "videos")
    shutil.copytree(model, tmp_path / "model")
    settings = {"max_steps": 2, "augment": augment, "per_device_train_batch_size": 24}
    settings |= {"validation_fraction": 0, "learning_rates": 0.01, "save_total_limit": 9}
    arguments = (tmp_path / "model", tmp_path / "videos", tmp_path / "run")
    train_classifier.run(command(*arguments, **settings))
    resumed = command(*arguments, **settings, resume_from_checkpoint="auto")
    encoder = VJEPAForPreTraining.from_pretrained(model)
    encoder.vjepa.encoder.layernorm.bias.data += 1
    encoder.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit, match="holds another run: encoder_weights changed. Choose another"):
        train_classifier.run(resumed)
    shutil.copytree(model, tmp_path / "model", dirs_exist_ok=True)
    train_classifier.run(resumed)
    write_video(tmp_path / "videos" / "dark" / "3_take1.mp4", level=250, num_frames=30)
    expected = "another size, or that could not be reached: 1, such as dark/3_take1.mp4"
    with pytest.raises(SystemExit, match=expected):
        train_classifier.run(resumed)


def test_an_untrained_encoder_depends_on_the_seed_alone(model, videos, tmp_path):
    encoders = {}
    for name, settings in {"a": {}, "b": {"pooling": "mean"}, "c": {"seed": 1}}.items():
        train_classifier.run(command(model, videos, tmp_path / name, random_encoder="true", **settings))
        encoders[name] = {key: value for key, value in weights(tmp_path / name).items() if key.startswith("vjepa.")}
    assert same(encoders["a"], encoders["b"])
    name = "vjepa.encoder.layer.0.mlp.fc1.weight"
    assert not torch.equal(encoders["a"][name], encoders["c"][name])
    assert not torch.equal(encoders["a"][name], weights(model)[name])


def test_an_architecture_by_name(videos, tmp_path):
    settings = {"random_encoder": "true", "crop_size": 32, "frames_per_clip": 2, "max_steps": 1, "frame_step": 1}
    train_classifier.run(command("vitt16", videos, tmp_path / "run", **settings))
    assert AutoModelForVideoClassification.from_pretrained(tmp_path / "run").config.hidden_size == 192


def test_the_model_is_used_as_it_was_trained(model, videos, tmp_path):
    # Eight frames a second: the processor of the new model has this rate, and so have runs that start from it.
    train_classifier.run(command(model, videos, tmp_path / "run", target_fps=8, max_steps=1))
    assert AutoVideoProcessor.from_pretrained(tmp_path / "run").fps == 8
    train_classifier.run(command(tmp_path / "run", videos, tmp_path / "next", max_steps=1))
    settings = json.loads((tmp_path / "next" / "features" / "train" / "settings.json").read_text())
    assert "target_fps" in str(settings) and AutoVideoProcessor.from_pretrained(tmp_path / "next").fps == 8
    train_classifier.run(command(tmp_path / "run", videos, tmp_path / "other", frame_step=3, max_steps=1))
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "other")
    assert (processor.frame_step, processor.fps) == (3, None)


def test_few_labels_and_folds_of_takes(model, videos, tmp_path):
    settings = {"group_pattern": r"take(\d)", "num_folds": 4, "fold": 1, "train_fraction": 0.5, "weight_decays": 0.1}
    train_classifier.run(command(model, videos, tmp_path / "run", **settings))
    takes = {
        split: {line.split("take")[1][0] for line in (tmp_path / "run" / f"{split}.csv").read_text().splitlines()}
        for split in ("train", "validation", "test")
    }
    assert takes["test"] == {"1"} and takes["validation"] == {"0"} and takes["train"] <= {"2", "3"}
    assert len((tmp_path / "run" / "train.csv").read_text().splitlines()) == 6  # two of four of each class


@pytest.mark.parametrize("mode", ["probe", "finetune"])
def test_images(model, tmp_path, mode):
    for name, level in LEVELS.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (40, 36), (level + number,) * 3).save(tmp_path / "images" / name / f"{number}.png")
    run = tmp_path / "run"
    train_classifier.run(command(model, tmp_path / "images", run, mode=mode))
    assert results_of(run)["validation"]["num_videos"] == 3
    # A second data set, which calls its classes by other names in another order.
    shutil.copytree(tmp_path / "images", tmp_path / "test")
    (tmp_path / "test" / "bright").rename(tmp_path / "test" / "Grey")
    (tmp_path / "test" / "grey").rename(tmp_path / "test" / "BRIGHT")
    settings = {"mode": mode, "test_dataset": tmp_path / "test"}
    train_classifier.run(command(model, tmp_path / "images", tmp_path / "other", **settings))
    assert (tmp_path / "other" / "test.csv").read_text().splitlines()[0].endswith("BRIGHT/0.png 0")


def test_the_built_in_corpus(model, tmp_path, monkeypatch):
    small = CorpusConfig(num_train=40, num_test=8, size=32, num_frames=10)
    monkeypatch.setattr(
        "transformers_vjepa.training.arguments.build_corpus",
        lambda root: build_corpus(root, config=small, num_processes=1),
    )
    run = tmp_path / "run"
    train_classifier.run(command(model, "synthetic:motion", run, validation_fraction=0.4))
    results = results_of(run)
    assert results["test"]["num_videos"] == 8
    assert AutoModelForVideoClassification.from_pretrained(run).config.id2label[4] == "rotate_clockwise"
    train_classifier.run(command(model, "synthetic:appearance", tmp_path / "other"))
    assert len(AutoModelForVideoClassification.from_pretrained(tmp_path / "other").config.id2label) == 5
    # Its index files are data sets like any other.
    index = tmp_path / "synthetic" / "train_motion.csv"
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefgh"))
    train_classifier.run(command(model, index, tmp_path / "index", labels=names))
    assert AutoModelForVideoClassification.from_pretrained(tmp_path / "index").config.id2label[7] == "h"


def test_broken_videos_are_counted(model, videos, tmp_path, capsys):
    shutil.copytree(videos, tmp_path / "some")
    shutil.copytree(videos, tmp_path / "test")
    (tmp_path / "some" / "dark" / "0_take0.mp4").write_bytes(b"no video")
    write_video(tmp_path / "test" / "dark" / "1_take0.mp4", level=20, num_frames=3)  # a clip has 4
    for mode in ("probe", "finetune"):
        settings = {"mode": mode, "test_dataset": tmp_path / "test"}
        train_classifier.run(command(model, tmp_path / "some", tmp_path / mode, **settings))
        test = results_of(tmp_path / mode)["test"]
        assert (test["num_videos"], test["num_broken"]) == (23, 1)
        assert "TooShortVideoError" in test["broken"][0]["error"]
        assert "1 more cannot be read and do not count" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"augment": "true"}, {"mode": "finetune", "learning_rate": 0.01}])
def test_two_processes_train_as_one(model, videos, tmp_path, settings):
    # Adam's usual epsilon would turn rounding differences of tiny gradients into whole steps. Two steps, because two
    # processes fill up the last batch of an epoch of features.
    settings = {"adam_epsilon": 0.01, "warmup_steps": 0, "test_dataset": videos, "max_steps": 2} | settings
    arguments = command(model, videos, tmp_path / "two", **settings)
    output = in_two_processes(run_command, "train_classifier", arguments, folder=tmp_path / "printed")
    assert output.count("test: ") == 1
    train_classifier.run(command(model, videos, tmp_path / "one", per_device_train_batch_size=8, **settings))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=1e-4), name
    for split in ("validation", "test"):
        expected, got = (results_of(tmp_path / run)[split] for run in ("one", "two"))
        assert got["num_videos"] == expected["num_videos"]
        assert got["cross_entropy"] == pytest.approx(expected["cross_entropy"], abs=1e-4)


OWN_RECIPES = sorted(file for kind in ("probe", "finetune") for file in RECIPES.glob(f"{kind}_*.yaml"))


@pytest.mark.parametrize("recipe", OWN_RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_has_a_schedule(tmp_path, recipe):
    argv = ["--config", str(recipe), "--output_dir", str(tmp_path), "--bf16", "false"]
    arguments, _, training = train_classifier.parse_arguments(argv)
    assert arguments.mode == recipe.stem.partition("_")[0]
    training.lay_out_steps(num_clips=10 * training.per_device_train_batch_size, has_validation=True)
    if training.lr_milestones:
        return  # test_trainer.py has this schedule
    schedule = get_scheduler(
        training.lr_scheduler_type,
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate),
        num_warmup_steps=training.get_warmup_steps(training.max_steps),
        num_training_steps=training.max_steps,
        scheduler_specific_kwargs=training.lr_scheduler_kwargs,
    )
    factors = [schedule.lr_lambdas[0](step) for step in range(training.max_steps + 1)]
    assert max(factors) == pytest.approx(1)
    last = (training.lr_scheduler_kwargs or {}).get("min_lr_rate", 0)
    assert last <= factors[-1] == pytest.approx(last, rel=0.06, abs=1e-12)  # it forgets one step of the warm-up


IMAGE_RECIPES = [file for file in OWN_RECIPES if "ijepa" in file.stem]


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    """An image model with four blocks."""
    folder = tmp_path_factory.mktemp("image_model")
    torch.manual_seed(0)
    image = {"frames_per_clip": 1, "tubelet_size": 1, "num_hidden_layers": 4, "pred_num_mask_tokens": 1}
    config = VJEPAConfig(**TINY | image)
    VJEPAForPreTraining(config).save_pretrained(folder)
    VJEPAVideoProcessor.for_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Four images of each of three brightnesses."""
    root = tmp_path_factory.mktemp("images")
    for name, level in LEVELS.items():
        (root / name).mkdir()
        for number in range(4):
            Image.new("RGB", (48, 36), (level + number,) * 3).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize("recipe", IMAGE_RECIPES, ids=lambda path: path.stem)
def test_every_recipe_for_images_runs(image_model, images, tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(reports, "_draw", lambda *_, **__: None)  # charts take most of the time
    monkeypatch.setattr(reports, "_draw_curves", lambda *_: None)
    changes = {"config": recipe, "model": image_model, "dataset": images, "output_dir": tmp_path / "run"}
    changes |= {"validation_dataset": images, "max_steps": 1, "per_device_train_batch_size": 4, "bf16": "false"}
    changes |= {"dataloader_num_workers": 0, "disable_tqdm": "true", "save_strategy": "no"}
    if "1pct" in recipe.stem:
        changes["train_fraction"] = 0.5
    train_classifier.run([part for name, value in changes.items() for part in (f"--{name}", str(value))])
    settings = results_of(tmp_path / "run")["settings"]
    assert settings["pooling"] == "mean" and results_of(tmp_path / "run")["validation"]["num_videos"] == 12
    config = AutoModelForImageClassification.from_pretrained(tmp_path / "run").config
    assert config.num_pooled_layers == (4 if "last4" in recipe.stem else 1)


def test_published_recipes_for_images(tmp_path):
    def parse(name):
        recipe = str(RECIPES / f"{name}.yaml")
        return train_classifier.parse_arguments(["--config", recipe, "--output_dir", str(tmp_path), "--bf16", "false"])

    for name in ("probe_in1k_ijepa_vith14", "probe_in1k_ijepa_vith14_last4"):
        _, _, training = parse(name)
        assert training.probe_optimizer == "lars" and training.per_device_train_batch_size * 64 == 16384
        assert (training.learning_rates, training.weight_decays) == ([0.01, 0.05, 0.001], [0.0005, 0.0])
        assert (training.num_train_epochs, training.lr_milestones) == (50, [15, 30, 45])
    for name, epochs, milestones, crop in (
        ("probe_cifar100_ijepa_vith14", 28, [8, 16, 24], "random"),
        ("probe_places205_ijepa_vith14", 14, [4, 8, 12], "random"),
        ("probe_inat18_ijepa_vith14", 84, [24, 48, 72], "random"),
        ("probe_clevr_count_ijepa_vith14", 50, [], "center"),
        ("probe_clevr_dist_ijepa_vith14", 100, [], "center"),
    ):
        _, data, training = parse(name)
        assert (training.num_train_epochs, training.lr_milestones, data.train_crop) == (epochs, milestones, crop)
        assert training.probe_optimizer == "sgd" and training.per_device_train_batch_size * 8 == 256
        assert (training.learning_rates, training.weight_decays) == ([0.01], [0.0005])
    for name, decay, rate, batch, drop_path, mixing in (
        ("finetune_in1k_1pct_ijepa_vith14", 0.4, 3e-5, 8 * 64, 0, (0, 0)),
        ("finetune_in1k_1pct_ijepa_vitl16", 0.05, 3e-5, 8 * 64, 0, (0, 0)),
        ("finetune_in1k_ijepa_vith16_448", 0.04, 1e-4, 11 * 48, 0.25, (0.8, 1.0)),
    ):
        arguments, data, training = parse(name)
        assert (training.weight_decay, training.learning_rate, training.layer_decay) == (decay, rate, 0.75)
        assert training.per_device_train_batch_size * {512: 64, 528: 48}[batch] == batch
        assert (arguments.drop_path_rate, (training.mixup, training.cutmix)) == (drop_path, mixing)
        assert data.auto_augment == "rand" and training.num_train_epochs == 50
        assert data.train_fraction == (0.01 if "1pct" in name else 1)


def test_published_recipes(tmp_path):
    def parse(name):
        recipe = str(RECIPES / f"{name}.yaml")
        return train_classifier.parse_arguments(["--config", recipe, "--output_dir", str(tmp_path), "--bf16", "false"])

    for name, segments, views, clips, decay in (
        ("probe_k400_vitl16", 8, 3, 4, 0.01),
        ("probe_ssv2_vitl16", 2, 3, 4, 0.01),
        ("probe_in1k_vitl16", 1, 1, 16, 0.001),
    ):
        _, data, training = parse(name)
        assert (data.num_segments, data.num_views, data.augment) == (segments, views, True)
        assert (training.per_device_train_batch_size, training.num_train_epochs) == (clips, 20)
        assert (training.learning_rates, training.weight_decays) == ([1e-3], [decay])
        assert training.get_warmup_steps(1000) == 0
    for name, drop_path, epochs, rate, last in (
        ("finetune_k400_vitl16", 0.1, 35, 2e-3, 1e-6),
        ("finetune_ssv2_vitl16", 0.2, 15, 5e-4, 1.5e-4),
    ):
        arguments, _, training = parse(name)
        assert (arguments.drop_path_rate, training.num_train_epochs) == (drop_path, epochs)
        assert (training.learning_rate, training.layer_decay, training.weight_decay) == (rate, 0.75, 0.05)
        assert training.get_warmup_steps(epochs * 100) in (499, 500)  # five epochs
        assert rate * training.lr_scheduler_kwargs["min_lr_rate"] == pytest.approx(last)
        assert rate * training.lr_scheduler_kwargs["warmup_lr_rate"] == pytest.approx(1e-6)


def test_without_arguments_it_probes_the_demo():
    arguments, data, training = train_classifier.parse_arguments([])
    assert (arguments.model, data.dataset, data.frame_step) == ("outputs/demo", "synthetic:motion", 2)
    assert len(training.learning_rates) > 2
    assert train_classifier.parse_arguments(["--dataset", "videos"])[0].model is None
    _, data, _ = train_classifier.parse_arguments(["--target_fps", "5"])
    assert (data.frame_step, data.target_fps) == (None, 5.0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": None}, "error: no model: give a pretraining checkpoint"),
        ({"model": "no/model"}, "error: --model no/model is not a model folder here .* cannot be loaded from the Hub"),
        ({"dataset": "/no/such/folder"}, "error: .*/no/such/folder"),
        ({"learning_rates": "-1"}, "error: learning_rate=-1.0 must be positive"),
        ({"validation_fraction": 0}, "error: 2 probes and no validation clips to choose by"),
        ({"validation_fraction": 2}, "error: validation_fraction=2.0 must lie in"),
        ({"train_fraction": 0.01}, "error: class 'bright' has 6 clips and would keep none at fraction=0.01"),
        ({"group_pattern": "scene([0-9])"}, r"error: 'scene\(\[0-9\]\)' does not match"),
        ({"num_folds": 2, "fold": 0}, "error: folds consist of groups"),
        ({"num_segments": 0}, "error: `num_segments`=0 must be at least 1"),
        ({"learning_rate": 0.1, "mixup": 1}, "error: --learning_rate, --mixup has no effect with --mode probe"),
        ({"mode": "finetune", "weight_decays": 0}, "error: --weight_decays has no effect with --mode finetune"),
        ({"frame_step": 2, "target_fps": 5}, "error: frame_step and target_fps are both given"),
        ({"frame_step": 0}, "error: `frame_step`=0 must be at least 1"),
        (
            {"save_steps": 5},
            "error: --save_steps cannot be set, since the length of a run decides when",
        ),
        ({"validation_fraction": 0, "learning_rates": 1, "load_best_model_at_end": 1}, "error: .* validation clips"),
        ({"resume_from_checkpoint": "last"}, "error: no checkpoint in"),
        ({"layer_decay": 2}, "error: layer_decay=2.0 must lie in"),
        (
            {"num_pooled_layers": 2},
            "error: --num_pooled_layers 2 needs --pooling mean: attentive pooling reads the last",
        ),
        ({"num_pooled_layers": 3, "pooling": "mean"}, r"error: .*`num_pooled_layers`=3 must lie in \[1, num_hidden_l"),
        ({"pooled_batch_norm": "true"}, "error: --pooled_batch_norm true needs --pooling mean"),
        (
            {"auto_augment": "rand"},
            "error: --auto_augment rand has no effect without augmentation: add --augment true",
        ),
        ({"num_neighbors": 5}, "error: --num_neighbors has no effect with --mode probe: leave it out$"),
        ({"lr_milestones": "60"}, r"error: lr_milestones=\[60.0\] must be ascending epochs"),
        ({"label_column": "label", "dataset": "/no/such.parquet"}, "error: .*/no/such.parquet"),
        ({"dataset": "synthetic:motion", "output_dir": "synthetic"}, "error: .*is the folder of the built-in corpus"),
    ],
)
def test_mistakes_end_with_one_line(model, videos, tmp_path, changes, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or the Hub is asked again and again
    arguments = {"model": model, "dataset": videos, "output_dir": tmp_path / "run"} | changes
    with pytest.raises(SystemExit, match=message) as exit_info:
        train_classifier.run(command(**{"model": None, **arguments}))
    assert str(exit_info.value).count("\n") <= 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_features_that_are_deleted_during_the_training_end_with_one_line(
    model, videos, tmp_path, num_workers, monkeypatch
):
    def build_and_delete(*arguments):
        job = build(*arguments)
        shutil.rmtree(tmp_path / "features")
        return job

    build = train_classifier.build
    monkeypatch.setattr(train_classifier, "build", build_and_delete)
    with pytest.raises(
        SystemExit, match=r"^error: .*features-\d+.safetensors cannot be read any more \(No such.*\): run"
    ):
        train_classifier.run(command(model, videos, tmp_path, dataloader_num_workers=num_workers))


def test_unlabelled_clips_end_with_one_line(model, videos, tmp_path):
    with pytest.raises(SystemExit, match="error: 8 of 8 clips of .*grey have no label"):
        train_classifier.run(command(model, videos / "grey", tmp_path / "run"))


def test_one_class_ends_with_one_line(model, videos, tmp_path):
    shutil.copytree(videos / "grey", tmp_path / "videos" / "grey")
    with pytest.raises(SystemExit, match="error: .*/videos has clips of one class only, grey: add clips of another"):
        train_classifier.run(command(model, tmp_path / "videos", tmp_path / "run"))


def test_label_sets_that_do_not_match_end_with_one_line(model, videos, tmp_path):
    shutil.copytree(videos / "grey", tmp_path / "other" / "purple")
    with pytest.raises(SystemExit, match="error: the model does not have 1 of 1 classes: 'purple'"):
        train_classifier.run(command(model, videos, tmp_path / "run", test_dataset=tmp_path / "other"))
    index = tmp_path / "index.csv"
    index.write_text("".join(f"{videos}/grey/{n}_take{n // 2}.mp4 {n % 4}\n" for n in range(8)))
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n")
    with pytest.raises(
        SystemExit,
        match=r"error: .*names.txt names 3 classes, 'a' first, and there are 4: .*index.csv has labels up to 3",
    ):
        train_classifier.run(command(model, index, tmp_path / "run", labels=names))


# Classes


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Still videos of twelve brightnesses, in folders 0 to 11."""
    root = tmp_path_factory.mktemp("numbered") / "videos"
    for label in range(12):
        write_video(root / str(label) / "0.mp4", level=10 + 20 * label, num_frames=8)
    return root


@pytest.fixture(scope="module")
def numbered_probe(model, numbered, tmp_path_factory):
    """A probe that was trained on an index of numbers, and knows every clip."""
    folder = tmp_path_factory.mktemp("numbered_probe")
    index = index_of(numbered, folder / "index.csv", "{path},{label}")
    train_classifier.run(command(model, index, folder / "run", **ONE_PROBE))
    return folder / "run"


ONE_PROBE = {"learning_rates": 0.03, "validation_fraction": 0, "max_steps": 150, "per_device_train_batch_size": 12}


def index_of(videos, file, line, labels=range(12)):
    """An index of the videos in numbered folders."""
    rows = [(path, label) for label in labels for path in sorted((videos / str(label)).iterdir())]
    file.write_text("".join(line.format(path=path, label=label) + "\n" for path, label in rows))
    return file


def class_names_of(folder):
    return list(AutoModelForVideoClassification.from_pretrained(folder).config.id2label.values())


def accuracy(probe, dataset, output_dir, **settings):
    settings = {"model": probe, "dataset": dataset, "output_dir": output_dir, "use_cpu": "true"} | settings
    return evaluate.run([part for name, value in settings.items() for part in (f"--{name}", str(value))])["accuracy"]


@pytest.mark.parametrize(
    "line", ["{path} {label}", "{path},{label}.0", '"{path}","{label}"', "{path};{label:02d}", None]
)
def test_numbers_mean_the_same_classes_in_every_form(numbered, numbered_probe, tmp_path, line):
    assert class_names_of(numbered_probe) == [f"LABEL_{label}" for label in range(12)]
    dataset = numbered if line is None else index_of(numbered, tmp_path / "index.csv", line)
    assert accuracy(numbered_probe, dataset, tmp_path / "out") == 1


def test_folders_of_numbers_are_the_classes_of_these_numbers(model, numbered, numbered_probe, tmp_path):
    train_classifier.run(command(model, numbered, tmp_path / "run", **ONE_PROBE))
    assert class_names_of(tmp_path / "run") == [str(label) for label in range(12)]
    index = index_of(numbered, tmp_path / "index.csv", "{path} {label}")
    assert accuracy(tmp_path / "run", index, tmp_path / "of_index") == 1
    # A part of the classes is still these classes, for both models.
    for label in (0, 5, 11):
        shutil.copytree(numbered / str(label), tmp_path / "some" / str(label))
    assert accuracy(tmp_path / "run", tmp_path / "some", tmp_path / "of_some") == 1
    for matching in ("name", "number"):
        out = tmp_path / f"generic_{matching}"
        assert accuracy(numbered_probe, tmp_path / "some", out, label_matching=matching) == 1


def test_numbers_with_gaps_are_the_names_of_their_classes(model, numbered, tmp_path):
    index = index_of(numbered, tmp_path / "index.csv", "{path} {label}00000000", labels=(0, 5, 11))
    train_classifier.run(command(model, index, tmp_path / "run", **ONE_PROBE))
    assert class_names_of(tmp_path / "run") == ["0", "500000000", "1100000000"]
    for name, dataset in {"index": index, "manifest": tmp_path / "run" / "train.csv"}.items():
        assert accuracy(tmp_path / "run", dataset, tmp_path / name) == 1
    with pytest.raises(
        SystemExit, match="error: the model does not have 1 of 1 classes: '1'. It knows '0', '500000000'"
    ):
        accuracy(tmp_path / "run", index_of(numbered, tmp_path / "one.csv", "{path} {label}", [1]), tmp_path / "one")


def test_names_do_not_match_a_model_without_names(numbered, numbered_probe, tmp_path):
    index = index_of(numbered, tmp_path / "index.csv", "{path},class {label:02d}")
    with pytest.raises(SystemExit, match="does not have 12 of 12 classes: .*--label_matching number"):
        accuracy(numbered_probe, index, tmp_path / "out")
    assert accuracy(numbered_probe, index, tmp_path / "out", label_matching="number") == 1


def test_names_of_numbered_classes(model, numbered, tmp_path):
    index = index_of(numbered, tmp_path / "index.csv", "{path} {label}", labels=range(3))
    settings = {"labels": tmp_path / "names.txt", "max_steps": 1, "validation_fraction": 0, "learning_rates": 0.1}
    (tmp_path / "names.txt").write_text("class\na\nb\nc\n")
    train_classifier.run(command(model, index, tmp_path / "run", **settings))
    assert class_names_of(tmp_path / "run") == ["a", "b", "c"]
    (tmp_path / "names.txt").write_text("klasse\na\nb\nc\n")  # a header that nobody knows
    with pytest.raises(SystemExit, match="names.txt names 4 classes, 'klasse' first, and there are 3"):
        train_classifier.run(command(model, index, tmp_path / "other", **settings))


def test_other_names_make_another_run(model, numbered, tmp_path):
    index = index_of(numbered, tmp_path / "index.csv", "{path} {label}", labels=range(2))
    settings = {"labels": tmp_path / "names.txt", "max_steps": 1, "validation_fraction": 0, "learning_rates": 0.1}
    (tmp_path / "names.txt").write_text("a\nb\n")
    train_classifier.run(command(model, index, tmp_path / "run", **settings))
    (tmp_path / "names.txt").write_text("b\na\n")
    with pytest.raises(SystemExit, match="holds another run: class_names changed"):
        train_classifier.run(command(model, index, tmp_path / "run", resume_from_checkpoint="auto", **settings))


def test_a_class_name_that_is_not_utf8(model, videos, tmp_path):
    index = tmp_path / "index.csv"
    rows = [
        (path, name) for path, name in zip(sorted(videos.rglob("*.mp4")), ["café"] * 8 + ["bar"] * 8, strict=False)
    ]
    index.write_bytes("".join(f"{path},{name}\n" for path, name in rows).encode("cp1252"))
    train_classifier.run(command(model, index, tmp_path / "run", learning_rates=0.01))
    assert class_names_of(tmp_path / "run") == ["bar", r"caf\xe9"]
    results = results_of(tmp_path / "run")["validation"]
    assert [entry["name"] for entry in results["classes"]] == ["bar", r"caf\xe9"]
    rows = pq.read_table(tmp_path / "run" / "validation" / "predictions.parquet").to_pylist()
    assert {row["label_name"] for row in rows} == {"bar", r"caf\xe9"}
    assert 0 <= accuracy(tmp_path / "run", index, tmp_path / "out") <= 1


def test_splits_as_folders_are_refused_as_classes(model, videos, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(videos, tmp_path / "data" / split)
    with pytest.raises(SystemExit, match="error: 48 of 48 clips of .*data have no label"):
        train_classifier.run(command(model, tmp_path / "data", tmp_path / "run"))


@pytest.mark.parametrize("mode", ["probe", "finetune"])
def test_splits_without_a_readable_video_end_with_one_line(model, videos, tmp_path, mode):
    for name in CLASSES:
        write_video(tmp_path / "short" / name / "0.mp4", level=9, num_frames=2)
    message = {"probe": "error: .*test has no features of any clip", "finetune": "error: none of the 3 clips"}[mode]
    with pytest.raises(SystemExit, match=message):
        train_classifier.run(
            command(model, videos, tmp_path / "run", mode=mode, test_dataset=tmp_path / "short", max_steps=1)
        )


def test_a_class_without_a_readable_training_clip_ends_with_one_line(model, videos, tmp_path):
    shutil.copytree(videos, tmp_path / "some")
    for file in (tmp_path / "some" / "dark").iterdir():
        file.write_bytes(b"no video")
    with pytest.raises(SystemExit, match="error: no training clip of dark can be read; the first broken clip is"):
        train_classifier.run(command(model, tmp_path / "some", tmp_path / "run", validation_dataset=videos))


def test_an_encoder_of_other_sizes_than_its_configuration_is_refused(videos, tmp_path):
    VJEPAModel(VJEPAConfig(**TINY)).save_pretrained(tmp_path / "model")
    VJEPAConfig(**TINY | {"hidden_size": 2 * TINY["hidden_size"]}).save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit, match="error: .*: vjepa.encoder.* has another size than config.json says .* such"):
        train_classifier.run(command(tmp_path / "model", videos, tmp_path / "run"))


def test_a_folder_without_an_encoder_is_refused(videos, tmp_path):
    VJEPAConfig(**TINY).save_pretrained(tmp_path / "model")
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(
        SystemExit, match="error: .*model has no weights for vjepa.encoder.* so it holds no V-JEPA encoder"
    ):
        train_classifier.run(command(tmp_path / "model", videos, tmp_path / "run"))
