"""The runs of a study: folders and steps, runs side by side, and small studies from end to end."""

import functools
import json
import os
import shutil
import signal
import sys

import pytest
import torch
from children import child, wait_until
from transformers import TrainerCallback

from transformers_vjepa import VJEPAModel
from transformers_vjepa.commands import pretrain, study
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus, load_labels
from transformers_vjepa.pretraining import setup
from transformers_vjepa.study import plan, runs
from transformers_vjepa.study.plan import Job
from transformers_vjepa.study.runs import StudyError, run_side_by_side


def test_masks_are_compared_in_shorter_runs(tmp_path):
    runner = study.parse_arguments(["--output_dir", str(tmp_path / "study"), "--max_steps", "100"])
    steps = {job.arm: runner.steps_of(job) for job in runner.jobs if job.arm != "pixels"}
    masks = dict.fromkeys(("multiblock", "random_tube", "causal", "published_truncation"), 34)
    assert steps == {"vjepa": 100, **masks, "untrained": 0, "baselines": None}


def test_a_study_of_images(tmp_path):
    runner = study.parse_arguments(["--images", "--output_dir", str(tmp_path / "study"), "--max_steps", "100"])
    steps = {job.arm: runner.steps_of(job) for job in runner.jobs if job.arm != "pixels"}
    masks = ("multiblock", "raster", "block", "random", "target_scale_small", "target_scale_large")
    masks += ("context_scale_small", "targets_1", "targets_2", "targets_at_input")
    assert steps == {"ijepa": 100, **dict.fromkeys(masks, 34), "untrained": 0, "baselines": None}
    argv = runner.pretraining(tmp_path / "run", steps=5, arm="target_scale_small")
    assert argv[:2] == ["--config", "tiny_images"] and argv[-3:] == ["--mask_target_scale", "0.075", "0.2"]
    real = study.parse_arguments(["--images", "--dataset", str(tmp_path), "--output_dir", str(tmp_path / "study")])
    assert {job.arm for job in real.jobs} == {"ijepa", "pixels", "untrained", "baselines"}
    assert study.parse_arguments(["--images"]).arguments.output_dir == "outputs/image_study"
    assert study.parse_arguments([]).arguments.output_dir == "outputs/study"


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["--images", "--", "--frames_per_clip", "8"],
            "frames_per_clip=8 does not fit a study of images: leave",
        ),
        (["--", "--frames_per_clip", "1"], "frames_per_clip=1 does not fit a study of videos: pass --images"),
        (
            ["--images", "--arms", "context_scale_small", "--", "--crop_size", "24"],
            "the masks of context_scale_small do not fit: a single target .* or leave context_scale_small out",
        ),
    ],
)
def test_studies_that_do_not_fit_are_refused_before_a_run(tmp_path, argv, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        study.run(["--output_dir", str(tmp_path / "study"), *argv])
    assert not (tmp_path / "study" / "settings.json").exists()


def test_arms_change_the_arguments_of_pretraining(tmp_path):
    runner = study.parse_arguments(["--output_dir", str(tmp_path), "--max_steps", "7", "--", "--hidden_size", "24"])
    argv = runner.pretraining(tmp_path / "run", steps=5, arm="random_tube", seed=3)
    assert argv[-4:] == ["--hidden_size", "24", "--mask_strategy", "random_tube"]
    options = dict(zip(argv[::2], argv[1::2], strict=True))
    assert (options["--max_steps"], options["--seed"]) == ("5", "3")


# Runs side by side


def python(code):
    return [sys.executable, "-c", code]


def test_runs_side_by_side(tmp_path):
    commands = {str(number): python(f"import os; print({number}, os.environ['OMP_NUM_THREADS'])") for number in (1, 2)}
    run_side_by_side(commands, logs=tmp_path, num_processes=os.cpu_count())
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"1.log": "1 1\n", "2.log": "2 1\n"}


SAVES = "import pathlib, time\ntry:\n    pathlib.Path({0!r}, 'up').touch(); time.sleep(60)\nfinally:\n    "
SAVES += "pathlib.Path({0!r}, 'saved').touch()"


def test_a_failure_is_told_and_stops_the_others(tmp_path):
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path)!r}, 'up').exists(): time.sleep(0.05)\n"
    commands = {"long": python(SAVES.format(str(tmp_path))), "bad": python(f"{wait}raise SystemExit('no luck')")}
    with pytest.raises(StudyError, match=r"bad ended with code 1: no luck \(see .*bad.log\)"):
        run_side_by_side(commands, logs=tmp_path / "logs", num_processes=2)
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
def test_a_signal_lets_the_runs_save(tmp_path):
    commands = {"a": python(SAVES.format(str(tmp_path)))}
    runs = functools.partial(run_side_by_side, commands, logs=tmp_path / "logs", num_processes=1)
    with child(runs, output=tmp_path / "printed.txt") as process:
        wait_until((tmp_path / "up").exists, process)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() != 0
    assert (tmp_path / "saved").exists()


# Small studies

TINY = """
    --frames_per_clip 4 --hidden_size 24 --num_hidden_layers 1 --num_attention_heads 2 --pred_hidden_size 12
    --pred_num_hidden_layers 1 --pred_num_attention_heads 2 --per_device_train_batch_size 4 --logging_steps 1
    --dataloader_num_workers 0
""".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "shapes"
    return build_corpus(root, config=CorpusConfig(num_train=40, num_test=40, size=32, num_frames=10), num_processes=1)


@pytest.fixture(scope="module")
def in_this_process():
    """Runs the processes of a study in this one, which has imported everything, and without images."""

    def run_here(commands, **_):
        for _, _, _, name, *argv in commands.values():
            {"pretrain": pretrain, "study": study}[name].run(argv)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "TrainingImages", lambda *args, **kwargs: TrainerCallback())
        patch.setattr(plan, "SURPRISE_PAIRS", 8)
        for module in (study, runs):
            patch.setattr(module, "run_side_by_side", run_here)
        yield


def command(output_dir, dataset, *changes):
    argv = f"""
        --output_dir {output_dir} --dataset {dataset} --seeds 0 --max_steps 2 --probe_steps 5 --labels 24
        --label_counts 24 40
    """.split()
    return [*argv, *changes, "--", *TINY]


@pytest.fixture(scope="module")
def small(corpus, tmp_path_factory, in_this_process):
    """A study of four arms: its command line, its folder, and what the command returned."""
    folder = tmp_path_factory.mktemp("small") / "study"
    argv = command(folder, corpus, "--arms", "vjepa", "pixels", "untrained", "baselines")
    return argv, folder, study.run(argv)


@pytest.mark.slow
def test_a_study_writes_its_settings_and_runs(small):
    _, folder, found = small
    assert found == json.loads((folder / "study.json").read_text())
    assert found["settings"]["chance"] == {"motion": 12.5, "appearance": 20.0}
    assert (folder / found["settings"]["dataset"] / "labels.csv").is_file()
    steps = {run["arm"]: run["steps"] for run in found["runs"]}
    assert steps == {"vjepa": 2, "pixels": found["settings"]["equal_time"]["steps"], "untrained": 0}
    for run in found["runs"]:
        assert (folder / run["folder"] / "model.safetensors").is_file()
        assert len(run["loss"]) == run["steps"] and run["rank"]


@pytest.mark.slow
def test_the_untrained_network_is_the_one_that_vjepa_starts_from(small, tmp_path):
    argv, folder, _ = small
    trainer, _ = setup.build_from_argv(study.parse_arguments(argv).pretraining(tmp_path / "start", steps=2))
    start = trainer.model.vjepa.encoder
    untrained = VJEPAModel.from_pretrained(folder / "runs" / "untrained-seed0").encoder.state_dict()
    assert all(torch.equal(value, untrained[name]) for name, value in start.state_dict().items())


@pytest.mark.slow
def test_a_study_evaluates_every_arm_and_compares_them(small):
    *_, found = small
    # 2 tasks x (4 read-outs and 2 of them at the other count, 2 on the way; and of 5 baselines 2 at both counts)
    assert len(found["rows"]) == 2 * (3 * 6 + 2 + 5 * 2 * 2)
    assert all(len(item["hits"]) == 40 and item["low"] <= item["accuracy"] <= item["high"] for item in found["rows"])
    assert {item["name"] for item in found["contrasts"]} == {
        "features - untrained",
        "features - pixels",
        "attentive - mean pooling",
        "lead over untrained, 24 - 40 labels",
    }
    pairs = {kind: (entry["pairs"], entry["untrained"]["pairs"]) for kind, entry in found["surprise"].items()}
    assert pairs == dict.fromkeys(("jump", "vanish", "reverse"), (8, 8))


@pytest.mark.slow
def test_the_same_command_does_only_what_is_missing(small, monkeypatch, capsys):
    argv, folder, found = small
    file = folder / "evaluations" / "vjepa-seed0.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps(rows[1:]))
    read, calls = plan.read_out, []
    monkeypatch.setattr(plan, "read_out", lambda *args, **kwargs: calls.append(args[0]) or read(*args, **kwargs))
    monkeypatch.setattr(setup, "run", None)
    again = study.run(argv)
    assert calls == [rows[0]["read_out"]]
    assert sorted(map(str, again["rows"])) == sorted(map(str, found["rows"]))
    assert "motion (chance 12.5)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_folder_of_another_study_and_an_unknown_job_are_refused(small):
    argv, *_ = small
    with pytest.raises(SystemExit, match=r"has a study with learning_rate=\S+ \(requested: 0.5\): choose another"):
        study.run([*argv, "--learning_rate", "0.5"])
    message = "error: --job vjepa-seed7 is not in this study: choose from vjepa-seed0, pixels"
    with pytest.raises(SystemExit, match=message):
        study.run([*argv[: argv.index("--")], "--job", "vjepa-seed7", *argv[argv.index("--") :]])


@pytest.mark.slow
def test_images_of_the_built_in_corpus_are_studied(corpus, tmp_path, in_this_process, capsys):
    arms = ["ijepa", "multiblock", "raster", "targets_at_input", "untrained", "baselines"]
    argv = command(tmp_path / "study", corpus, "--images", "--arms", *arms)
    found = study.run(
        ["1" if item == "4" and argv[place - 1] == "--frames_per_clip" else item for place, item in enumerate(argv)]
    )
    assert found["settings"]["kind"] == "images" and found["settings"]["chance"] == {"appearance": 20.0}
    assert {run["arm"]: run["steps"] for run in found["runs"]} == {
        **{"ijepa": 2, "multiblock": 1, "raster": 1, "targets_at_input": 1, "untrained": 0}
    }
    at = json.loads((tmp_path / "study" / "runs" / "targets_at_input-seed0" / "arguments.json").read_text())
    assert at["training"]["mask_targets_at"] == "input" and at["training"]["mask_strategy"] == "image_multiblock"
    assert {row["arm"] for row in found["rows"]} == {*arms, "mean_colours", "raw_pixels"} - {"baselines"}
    assert {item["name"] for item in found["contrasts"]} == {
        *("features - untrained", "multi-block - rasterized", "masked at the output - at the input"),
    }
    assert "surprise" not in found and "on 40 test images, read off 24 labelled images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_study_of_real_videos_and_the_run_of_the_demo(corpus, tmp_path, in_this_process):
    for record in load_labels(corpus, split="train"):
        if record.appearance in ("disc", "bar"):
            folder = tmp_path / "videos" / record.appearance
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(record.path, folder / f"take{int(record.path.stem) % 4}_{record.path.name}")
    split = ["--num_folds", "4", "--fold", "1", "--group_pattern", r"take(\d)_", "--label_counts", "4"]
    argv = command(tmp_path / "study", tmp_path / "videos", "--labels", "400", "--arms", "vjepa", *split)
    found = study.run(argv)
    assert found["settings"]["classes"] == {"label": ["bar", "disc"]}
    train, test = ((tmp_path / "study" / f"{part}.csv").read_text().splitlines() for part in ("train", "test"))
    assert len(train) + len(test) == 16 and found["settings"]["labels"] == len(train)
    assert all("take1_" in line for line in test) and not any("take1_" in line for line in train)
    assert {len(item["hits"]) for item in found["rows"]} == {len(test)}

    # Probes hold a labelled clip of each class out.
    few = command(tmp_path / "study", tmp_path / "videos", "--labels", "400", "--arms", "vjepa", *split[:-1], "2")
    with pytest.raises(SystemExit, match="error: --label_counts 2 leaves a class without two labelled clips"):
        study.run(few)

    # The clips of the study are those with which it began.
    other = next((tmp_path / "videos" / "disc").glob("take2_*.mp4"))
    kept = tmp_path / "kept.mp4"
    shutil.copy2(other, kept)
    shutil.copy(next((tmp_path / "videos" / "bar").glob("take3_*.mp4")), other)
    with pytest.raises(SystemExit, match=r"not those with which \S+study was begun: files with another size.*folder$"):
        study.run(argv)
    shutil.copy2(kept, other)
    study.run(argv)

    # A run with the same arguments in the folder of the demo is used as a run of the study.
    run, demo = tmp_path / "study" / "runs" / "vjepa-seed0", tmp_path / "demo"
    run.rename(demo)
    runner = study.parse_arguments(argv)
    assert runner.folder_of(Job("vjepa", 0)) == demo
    assert runner.folder_of(Job("vjepa", 1)) == run.with_name("vjepa-seed1")
    arguments = json.loads((demo / "arguments.json").read_text())
    arguments["training"]["learning_rate"] = 0.5
    (demo / "arguments.json").write_text(json.dumps(arguments))
    assert runner.folder_of(Job("vjepa", 0)) == run


def test_help_shows_groups_and_defaults(capsys):
    with pytest.raises(SystemExit):
        study.run(["--help"])
    text = capsys.readouterr().out
    assert "study:" in text and "data:" in text and "outputs/study" in text and "outputs/image_study" in text
    assert "The paper's findings in miniature" in text
