"""The plan of a study: its jobs, measurements and clips, and the evaluation of what is missing."""

import json

import numpy as np
import pytest
import torch
from videos import write_video

from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.splits import class_names_of, with_classes
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling
from transformers_vjepa.study.kinds import IMAGES, VIDEOS
from transformers_vjepa.study.plan import (
    Measurement,
    StudyClips,
    evaluate,
    jobs,
    kept_steps,
    labelled_clips,
    measurements,
    scores,
)


def test_long_jobs_come_first():
    names = [job.name for job in jobs(VIDEOS, ["baselines", "untrained", "vjepa"], [1, 0])]
    assert names == ["vjepa-seed1", "vjepa-seed0", "untrained-seed1", "untrained-seed0", "baselines"]


@pytest.mark.parametrize(
    "arms, seeds, message",
    [
        (["features"], [0], "unknown arm 'features': choose from vjepa, pixels"),
        (["vjepa"], [0, 0], r"seeds=\[0, 0\]: give at least one seed, and each seed once"),
        (["vjepa"], [], "give at least one"),
    ],
)
def test_jobs_that_make_no_study_are_refused(arms, seeds, message):
    with pytest.raises(ValueError, match=message):
        jobs(VIDEOS, arms, seeds)


def test_the_arms_of_images():
    names = [job.name for job in jobs(IMAGES, IMAGES.choices, [0])]
    assert names == [
        *("ijepa-seed0", "pixels-seed0", "multiblock-seed0", "raster-seed0", "block-seed0", "random-seed0"),
        *("target_scale_small-seed0", "target_scale_large-seed0", "context_scale_small-seed0", "targets_1-seed0"),
        *("targets_2-seed0", "targets_at_input-seed0", "untrained-seed0", "baselines"),
    ]
    with pytest.raises(ValueError, match="unknown arm 'vjepa': choose from ijepa, pixels"):
        jobs(IMAGES, ["vjepa"], [0])
    found = measurements(IMAGES, "ijepa", steps=10, tasks=["appearance"], labels=200, label_counts=[200])
    assert [(item.step, item.read_out) for item in found[:6]] == [
        *((10, "ridge"), (10, "neighbours"), (10, "attentive"), (10, "mean"), (2, "ridge"), (2, "mean")),
    ]
    assert [
        item.read_out
        for item in measurements(
            IMAGES, "raw_pixels", steps=None, **{"tasks": ["appearance"], "labels": 5, "label_counts": [5]}
        )
    ] == ["ridge", "neighbours"]


def test_a_run_keeps_a_checkpoint_every_fifth():
    assert kept_steps(600) == [120, 240, 360, 480]
    assert kept_steps(7) == [2, 4, 6]
    assert kept_steps(1) == []


def test_what_is_measured():
    counts = {"tasks": ["motion"], "labels": 200, "label_counts": [120, 2400]}
    tube = measurements(VIDEOS, "random_tube", steps=10, **counts)
    assert tube == [Measurement(10, 200, "motion", kind) for kind in ("ridge", "neighbours", "attentive", "mean")]
    untrained = measurements(VIDEOS, "untrained", steps=0, **counts)
    more = [Measurement(0, count, "motion", kind) for count in (120, 2400) for kind in ("ridge", "attentive")]
    assert untrained == [Measurement(0, *list(vars(item).values())[1:]) for item in tube] + more
    vjepa = measurements(VIDEOS, "vjepa", steps=10, **counts)
    assert {(item.step, item.read_out) for item in vjepa if item.step < 10} == {
        (step, kind) for step in (2, 4, 6, 8) for kind in ("ridge", "attentive")
    }
    flow = measurements(VIDEOS, "optical_flow", steps=None, **counts)
    assert [(item.labels, item.read_out) for item in flow] == [
        (200, "ridge"),
        (200, "neighbours"),
        (2400, "ridge"),
        (2400, "neighbours"),
    ]
    # Where the main table is one of the compared counts, nothing is measured twice.
    both = measurements(VIDEOS, "pixels", steps=10, tasks=["motion"], labels=200, label_counts=[200])
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
    settings["weights"] = {7: "0f"}
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
        "weights": "0f",
    }
    rows = evaluate(wanted, features, clips, **settings)
    assert calls == wanted and [row["read_out"] for row in rows] == ["ridge", "neighbours"]
    assert json.loads(settings["path"].read_text()) == rows
    # Another model in the folder of the run: the rows of the earlier one are not taken for it.
    again = evaluate(wanted, features, clips, **settings | {"weights": {7: "1a"}})
    assert calls == [*wanted, *wanted] and [row["weights"] for row in again] == ["1a", "1a"]
    assert json.loads(settings["path"].read_text()) == again


def test_clips_come_back_from_disk(tmp_path):
    clips = small_clips()
    clips.save(tmp_path / "clips.pt")
    loaded = StudyClips.load(tmp_path / "clips.pt")
    assert torch.equal(loaded.clips["test"], clips.clips["test"]) and loaded.classes == clips.classes
    assert torch.equal(loaded.labels["label"]["train"], clips.labels["label"]["train"])
    assert [file.name for file in tmp_path.iterdir()] == ["clips.pt"]
    clips.save(tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "clips.pt").read_bytes()


def test_scores_by_hand():
    found = scores(np.array([True, False, True, True]))
    assert (found["accuracy"], found["hits"]) == (75.0, "1011")
    assert found["low"] < 75 < found["high"]


def test_test_classes_without_a_training_clip_are_refused(tmp_path):
    for name in ("train/a", "test/a", "test/b"):
        write_video(tmp_path / name / "clip.mp4", level=80)
    splits = {split: open_corpus(str(tmp_path / split)) for split in ("train", "test")}
    sampling = ClipSampling(num_frames=2, frame_step=1)
    with pytest.raises(ValueError, match=r"no training clip has the labels \[1\] of test clips"):
        labelled_clips(splits, crop_size=16, sampling=sampling)
    found = labelled_clips({**splits, "test": splits["train"]}, crop_size=16, sampling=sampling)
    assert found.classes == {"label": ["a"]} and found.labels["label"]["test"].tolist() == [0]
    assert found.clips["test"].shape == (1, 2, 16, 16, 3)


def test_test_clips_have_the_classes_of_the_training_clips(tmp_path):
    """Whatever their own numbers are; and numbers with gaps make no classes between them."""
    for name in ("train/b", "train/c", "test/a", "test/c"):
        write_video(tmp_path / name / "clip.mp4", level=80)
    (tmp_path / "train.csv").write_text("train/b/clip.mp4 7\ntrain/c/clip.mp4 2000000000\n")
    settings = {"crop_size": 16, "sampling": ClipSampling(num_frames=2, frame_step=1)}
    splits = {"train": open_corpus(tmp_path / "train.csv"), "test": open_corpus(tmp_path / "train.csv")}
    found = labelled_clips(with_classes(splits, class_names_of(splits)), **settings)
    assert found.classes == {"label": ["7", "2000000000"]} and found.labels["label"]["train"].tolist() == [0, 1]
    (tmp_path / "test.csv").write_text("test/c/clip.mp4,c\n")
    splits = {"train": open_corpus(tmp_path / "train"), "test": open_corpus(tmp_path / "test.csv")}
    found = labelled_clips(with_classes(splits, class_names_of(splits)), **settings)
    assert found.labels["label"]["test"].tolist() == [1]
    splits["test"] = open_corpus(tmp_path / "test")
    with pytest.raises(ValueError, match="the model does not have 1 of 2 classes: 'a'"):
        with_classes(splits, class_names_of(splits))
