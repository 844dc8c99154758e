"""The study: what is measured, what follows from hits, runs side by side, and a small study from end to end."""

import functools
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from children import child, wait_until
from transformers import TrainerCallback

from transformers_vjepa import VJEPAModel
from transformers_vjepa.commands import pretrain, study
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus, load_labels
from transformers_vjepa.evaluation.statistics import paired_bootstrap
from transformers_vjepa.pretraining import setup
from transformers_vjepa.study import plan as studies
from transformers_vjepa.study.plan import Job, Measurement, StudyClips, evaluate, jobs, kept_steps, measurements
from transformers_vjepa.study.results import contrasts, describe, final_rows, run_history, scores
from transformers_vjepa.study.runs import StudyError, run_side_by_side

# Plans


def test_long_jobs_come_first():
    names = [job.name for job in jobs(["baselines", "untrained", "vjepa"], [1, 0])]
    assert names == ["vjepa-seed1", "vjepa-seed0", "untrained-seed1", "untrained-seed0", "baselines"]


def test_masks_are_compared_in_shorter_runs(tmp_path):
    plan = study.Study(["--output_dir", str(tmp_path / "study"), "--max_steps", "100"])
    steps = {job.arm: plan.steps_of(job) for job in plan.jobs if job.arm != "pixels"}
    assert steps == {
        "vjepa": 100,
        "multiblock": 34,
        "random_tube": 34,
        "causal": 34,
        "published_truncation": 34,
        "untrained": 0,
        "baselines": None,
    }


@pytest.mark.parametrize(
    "arms, seeds, message",
    [
        (["features"], [0], "unknown arm 'features': choose of vjepa, pixels"),
        (["vjepa"], [0, 0], r"seeds=\[0, 0\]: give at least one, and each once"),
        (["vjepa"], [], "give at least one"),
    ],
)
def test_jobs_that_make_no_study_are_refused(arms, seeds, message):
    with pytest.raises(ValueError, match=message):
        jobs(arms, seeds)


def test_a_run_keeps_a_checkpoint_every_fifth():
    assert kept_steps(600) == [120, 240, 360, 480]
    assert kept_steps(7) == [2, 4, 6]
    assert kept_steps(1) == []


def test_what_is_measured():
    counts = {"tasks": ["motion"], "labels": 200, "label_counts": [120, 2400]}
    tube = measurements("random_tube", steps=10, **counts)
    assert tube == [Measurement(10, 200, "motion", kind) for kind in ("ridge", "neighbours", "attentive", "mean")]
    untrained = measurements("untrained", steps=0, **counts)
    more = [Measurement(0, count, "motion", kind) for count in (120, 2400) for kind in ("ridge", "attentive")]
    assert untrained == [Measurement(0, *list(vars(item).values())[1:]) for item in tube] + more
    vjepa = measurements("vjepa", steps=10, **counts)
    assert {(item.step, item.read_out) for item in vjepa if item.step < 10} == {
        (step, kind) for step in (2, 4, 6, 8) for kind in ("ridge", "attentive")
    }
    flow = measurements("optical_flow", steps=None, **counts)
    assert [(item.labels, item.read_out) for item in flow] == [
        (200, "ridge"),
        (200, "neighbours"),
        (2400, "ridge"),
        (2400, "neighbours"),
    ]
    # Where the main table is one of the compared counts, nothing is measured twice.
    both = measurements("pixels", steps=10, tasks=["motion"], labels=200, label_counts=[200])
    assert len(both) == len(set(both)) == 4


def small_clips(number=24):
    """Two classes that the first feature tells apart."""
    labels = torch.arange(number) % 2
    clips = torch.zeros(number, 2, 4, 4, 3, dtype=torch.uint8)
    return StudyClips(
        {"train": clips, "test": clips}, {"label": {"train": labels, "test": labels}}, {"label": ["a", "b"]}
    )


def test_only_what_is_missing_is_evaluated(tmp_path, monkeypatch):
    clips = small_clips()
    calls = []

    def features(item):
        calls.append(item)
        values = torch.stack([clips.labels["label"]["train"].float(), torch.zeros(24)], dim=1)
        return {"train": values, "test": values}, {"rank": 2.5}

    wanted = [Measurement(7, 12, "label", kind) for kind in ("ridge", "neighbours")]
    settings = {"arm": "vjepa", "seed": 1, "path": tmp_path / "results" / "a.json", "probe_steps": 5}
    first = evaluate(wanted[:1], features, clips, **settings)
    assert first[0] | {"low": None} == {
        "arm": "vjepa",
        "seed": 1,
        "step": 7,
        "labels": 12,
        "task": "label",
        "read_out": "ridge",
        "accuracy": 100.0,
        "low": None,
        "high": 100.0,
        "hits": "1" * 24,
        "rank": 2.5,
    }
    rows = evaluate(wanted, features, clips, **settings)
    assert calls == wanted and [row["read_out"] for row in rows] == ["ridge", "neighbours"]
    assert json.loads(settings["path"].read_text()) == rows


def test_clips_come_back_from_disk(tmp_path):
    clips = small_clips()
    clips.save(tmp_path / "clips.pt")
    loaded = StudyClips.load(tmp_path / "clips.pt")
    assert torch.equal(loaded.clips["test"], clips.clips["test"]) and loaded.classes == clips.classes
    assert torch.equal(loaded.labels["label"]["train"], clips.labels["label"]["train"])
    assert [file.name for file in tmp_path.iterdir()] == ["clips.pt"]


# Results


def test_scores_by_hand():
    found = scores(np.array([True, False, True, True]))
    assert (found["accuracy"], found["hits"]) == (75.0, "1011")
    assert found["low"] < 75 < found["high"]


def test_bootstrap_of_differences_that_are_all_equal_has_no_width():
    assert paired_bootstrap(np.full((3, 50), 0.5)) == (0.5, 0.5, 0.5)


def test_bootstrap_over_clips_by_hand():
    # One seed, 100 clips, of which one half differs by 1: the mean has the deviation sqrt(1/4 / 100) = 0.05.
    mean, low, high = paired_bootstrap(np.arange(100)[None] % 2.0)
    assert mean == 0.5
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.01) and high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.01)


def test_bootstrap_draws_seeds_too():
    # All clips of a seed agree, so new clips change nothing; the mean of seeds 0, 0, 1 is 0, 1/3, 2/3 or 1.
    table = np.repeat([[0.0], [0.0], [1.0]], 100, axis=1)
    mean, low, high = paired_bootstrap(table)
    # P(0) = 8/27 and P(1) = 1/27 = 3.7 %, so both ends of a 95 % interval are reached.
    assert (round(mean, 9), low, high) == (round(1 / 3, 9), 0.0, 1.0)
    assert paired_bootstrap(table) == (mean, low, high)


def row(arm, hits, *, seed=0, step=10, labels=20, read_out="ridge"):
    correct = np.array([hit == "1" for hit in hits])
    return {"arm": arm, "seed": seed, "step": step, "labels": labels, "task": "motion", "read_out": read_out} | scores(
        correct
    )


def test_contrasts_of_hand_made_hits():
    rows = [
        row("vjepa", "1110"),
        row("vjepa", "0000", step=5),  # a checkpoint on the way does not count
        row("vjepa", "1111", labels=40),
        row("vjepa", "1100", seed=1),
        row("untrained", "1000", step=0),
        row("untrained", "1110", step=0, labels=40),
        row("optical_flow", "1111", seed=None, step=None),
    ]
    found = contrasts(rows, tasks=["motion"], labels=20, label_counts=[20, 40])
    # Seed 1 has no partner. Of the lead of 50 points with 20 labels 25 are left with 40.
    assert [(item["name"], item["difference"]) for item in found] == [
        ("features - untrained", 50.0),
        ("lead over untrained, 20 - 40 labels", 25.0),
    ]
    assert all(item["low"] <= item["difference"] <= item["high"] for item in found)
    assert {item["expected"] for item in found} == {"positive"}
    assert len(final_rows(rows)) == len(rows) - 1


def test_attentive_against_mean_pooling():
    rows = [row("vjepa", "1110", read_out="attentive"), row("vjepa", "1000", read_out="mean")]
    (found,) = contrasts(rows, tasks=["motion"], labels=20, label_counts=[20])
    assert (found["name"], found["difference"], found["read_out"]) == ("attentive - mean pooling", 50.0, "attentive")


def test_the_history_of_a_run(tmp_path):
    log = [
        {"step": 10, "loss": 0.5, "clips_per_second": 32.0, "target_rank_over_clips": 3.0},
        {"step": 15, "loss": 0.25, "clips_per_second": 16.0},
        {"step": 15, "train_runtime": 99.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert run_history(tmp_path, batch_size=64) == {
        "steps": 15,
        "seconds": 10 * 64 / 32 + 5 * 64 / 16,
        "loss": [[10, 0.5], [15, 0.25]],
        "rank": [[10, 3.0]],
    }


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


# The script

TINY = """
    --frames_per_clip 4 --hidden_size 24 --num_hidden_layers 1 --num_attention_heads 2 --pred_hidden_size 12
    --pred_num_hidden_layers 1 --pred_num_attention_heads 2 --per_device_train_batch_size 4 --logging_steps 1
    --dataloader_num_workers 0
""".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "shapes"
    return build_corpus(root, config=CorpusConfig(num_train=40, num_test=40, size=32, num_frames=10), num_processes=1)


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs of scripts without the seconds that a new process takes to import everything, and without pictures."""
    monkeypatch.setattr(setup, "TrainingImages", lambda *args, **kwargs: TrainerCallback())

    def run_here(commands, **_):
        for _, _, _, name, *argv in commands.values():
            {"pretrain": pretrain, "study": study}[name].run(argv)

    monkeypatch.setattr(study, "run_side_by_side", run_here)


def command(output_dir, dataset, *changes, extra=()):
    argv = f"""
        --output_dir {output_dir} --dataset {dataset} --seeds 0 --max_steps 2 --probe_steps 5 --labels 24
        --label_counts 24 40
    """.split()
    return [*argv, *changes, "--", *TINY, *extra]


@pytest.mark.slow
def test_a_small_study(corpus, tmp_path, in_this_process, monkeypatch, capsys):
    monkeypatch.setattr(study, "_SURPRISE_PAIRS", 8)
    argv = command(tmp_path / "study", corpus, "--arms", "vjepa", "pixels", "untrained", "baselines")
    found = study.run(argv)
    assert found == json.loads((tmp_path / "study" / "study.json").read_text())
    assert found["settings"]["chance"] == {"motion": 12.5, "appearance": 20.0}
    assert (tmp_path / "study" / found["settings"]["dataset"] / "labels.csv").is_file()
    pixel_steps = found["settings"]["equal_time"]["steps"]
    steps = {run["arm"]: run["steps"] for run in found["runs"]}
    assert steps == {"vjepa": 2, "pixels": pixel_steps, "untrained": 0}
    for run in found["runs"]:
        assert (tmp_path / "study" / run["folder"] / "model.safetensors").is_file()
        assert len(run["loss"]) == run["steps"] and run["rank"]
    # The untrained network is the one that V-JEPA starts from.
    start = setup.build_from_argv(study.Study(argv).pretraining(tmp_path / "start", steps=2))[0].model.vjepa.encoder
    untrained = VJEPAModel.from_pretrained(tmp_path / "study" / "runs" / "untrained-seed0").encoder.state_dict()
    assert all(torch.equal(value, untrained[name]) for name, value in start.state_dict().items())
    # 2 tasks x (4 read-outs and 2 of them at the other count, 2 on the way; and of 5 baselines 2 at both counts)
    assert len(found["rows"]) == 2 * (3 * 6 + 2 + 5 * 2 * 2)
    assert all(len(item["hits"]) == 40 and item["low"] <= item["accuracy"] <= item["high"] for item in found["rows"])
    names = {item["name"] for item in found["contrasts"]}
    assert names == {
        "features - untrained",
        "features - pixels",
        "attentive - mean pooling",
        "lead over untrained, 24 - 40 labels",
    }
    assert {kind: entry["pairs"] for kind, entry in found["surprise"].items()} == dict.fromkeys(
        ("jump", "vanish", "reverse"), 8
    )
    assert all(entry["untrained"]["pairs"] == 8 for entry in found["surprise"].values())
    assert "motion (chance 12.5)" in capsys.readouterr().out

    # The same command does only what is missing: one of the evaluations here, and none of the runs.
    file = tmp_path / "study" / "evaluations" / "vjepa-seed0.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps(rows[1:]))
    read, calls = studies.read_out, []
    monkeypatch.setattr(studies, "read_out", lambda *args, **kwargs: calls.append(args[0]) or read(*args, **kwargs))
    monkeypatch.setattr(pretrain, "run", None)
    again = study.run(argv)
    assert calls == [rows[0]["read_out"]]
    assert sorted(map(str, again["rows"])) == sorted(map(str, found["rows"]))

    with pytest.raises(SystemExit, match=r"holds a study with learning_rate=\S+ \(asked for: 0.5\): choose another"):
        study.run([*argv, "--learning_rate", "0.5"])
    with pytest.raises(SystemExit, match="error: --job vjepa-seed7 is no part of this study: vjepa-seed0, pixels"):
        study.run([*argv[: argv.index("--")], "--job", "vjepa-seed7", *argv[argv.index("--") :]])


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

    # A run with the same arguments in the place of the demo is taken for the study's own.
    run, demo = tmp_path / "study" / "runs" / "vjepa-seed0", tmp_path / "demo"
    run.rename(demo)
    plan = study.Study(argv)
    assert plan.folder_of(Job("vjepa", 0)) == demo
    assert plan.folder_of(Job("vjepa", 1)) == run.with_name("vjepa-seed1")
    arguments = json.loads((demo / "arguments.json").read_text())
    arguments["training"]["learning_rate"] = 0.5
    (demo / "arguments.json").write_text(json.dumps(arguments))
    assert plan.folder_of(Job("vjepa", 0)) == run


def test_the_table_names_what_is_met_and_what_is_not():
    settings = {"num_test": 4, "labels": 20, "seeds": [0, 1], "chance": {"motion": 12.5}}
    rows = [row("vjepa", "1110"), row("vjepa", "1000", seed=1), row("untrained", "1000", step=0)]
    item = {"task": "motion", "read_out": "ridge", "labels": 20, "expected": "positive", "difference": 1.0}
    made = [item | {"name": name, "low": low, "high": high} for name, low, high in (("a", 1, 2), ("b", -1, 1))]
    text = describe({"settings": settings, "rows": rows, "contrasts": made})
    assert "vjepa                                 50.0" in text  # the mean of 75 and 25
    assert [line.rsplit(maxsplit=1)[-1] for line in text.splitlines()[-2:]] == ["yes", "open"]


def test_help_shows_groups_and_defaults(capsys):
    with pytest.raises(SystemExit):
        study.run(["--help"])
    text = capsys.readouterr().out
    assert "study:" in text and "data:" in text and "(outputs/study)" in text
