"""The results of a study: final rows, means, intervals, contrasts, verdicts, and the table."""

import json

import numpy as np
import pytest

from transformers_vjepa.study.kinds import IMAGES, VIDEOS
from transformers_vjepa.study.plan import scores
from transformers_vjepa.study.results import StudyResults, contrasts, describe, final_rows, run_history, verdict


def row(arm="vjepa", hits="1100", *, seed=0, step=10, labels=200, read_out="ridge", **changes):
    names = {"arm": arm, "seed": seed, "step": step, "labels": labels, "task": "motion", "read_out": read_out}
    return {**names, **scores(np.array([hit == "1" for hit in hits])), **changes}


def write(folder, rows, **others):
    data = {"settings": {"labels": 200, "seeds": [0, 1], "chance": {"motion": 12.5}}, "rows": rows, **others}
    (folder / "study.json").write_text(json.dumps(data))
    return StudyResults(folder)


def test_rows_of_checkpoints_count_only_where_a_step_is_asked_for(tmp_path):
    rows = [row(step=5, hits="0001"), row(hits="0111"), row(seed=1, hits="1111"), row(labels=50, hits="0000")]
    study = write(tmp_path, rows)
    assert study.summary("vjepa", task="motion", read_out="ridge").mean == 87.5
    assert study.summary("vjepa", task="motion", read_out="ridge", step=5).seeds == (25.0,)
    assert study.summary("vjepa", task="motion", read_out="ridge", labels=50).mean == 0.0
    assert study.summary("vjepa", task="motion", read_out="attentive") is None
    assert study.values("labels", arm="vjepa", task="motion", read_out="ridge", final=True) == [50, 200]
    assert study.values("step", arm="vjepa", task="motion", read_out="ridge") == [5, 10]
    assert study.tasks == ["motion"] and study.chance("motion") == 12.5 and study.chance("label") is None


def test_interval_of_hits_without_doubt_has_no_width(tmp_path):
    found = write(tmp_path, [row(hits="1" * 40), row(seed=1, hits="1" * 40)])
    summary = found.summary("vjepa", task="motion", read_out="ridge")
    assert (summary.low, summary.mean, summary.high) == (100.0, 100.0, 100.0)
    assert str(summary) == "100.0 [100.0, 100.0]"


def test_interval_is_that_of_the_binomial_and_wider_where_seeds_differ(tmp_path):
    half = "10" * 200
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one = write(tmp_path / "a", [row(hits=half)]).summary("vjepa", task="motion", read_out="ridge")
    assert one.low == pytest.approx(50 - 4.9, abs=0.6) and one.high == pytest.approx(50 + 4.9, abs=0.6)
    rows = [row(seed=seed, hits=hits) for seed, hits in enumerate(("1" * 320 + "0" * 80, half, "1" * 80 + "0" * 320))]
    apart = write(tmp_path / "b", rows).summary("vjepa", task="motion", read_out="ridge")
    assert apart.mean == pytest.approx(50) and apart.high - apart.low > 2 * (one.high - one.low)


def test_models_are_found_relative_to_the_study_and_absolute(tmp_path):
    for name in ("runs/a", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    runs = [
        {"arm": "vjepa", "seed": 1, "steps": 3, "folder": "runs/a"},
        {"arm": "vjepa", "seed": 0, "steps": 3, "folder": "runs/gone"},
        {"arm": "pixels", "seed": 0, "steps": 0, "folder": str(tmp_path / "elsewhere")},
    ]
    study = write(tmp_path, [row()], runs=runs)
    assert study.run_folder("vjepa") == tmp_path / "runs" / "a"
    assert study.run_folder("pixels") == tmp_path / "elsewhere"
    assert study.run_folder("causal") is None
    assert [run["arm"] for run in study.trained_runs] == ["vjepa", "vjepa"]


def test_ranks_by_step(tmp_path):
    rows = [row(rank=3.0), row(read_out="attentive", rank=3.0), row(seed=1, rank=5.0), row(step=5)]
    study = write(tmp_path, rows)
    assert study.ranks("vjepa", step=10) == [3.0, 5.0] and study.ranks("vjepa", step=5) == []
    assert study.values("step", arm="vjepa") == [5, 10]


def test_verdicts_follow_the_interval():
    assert verdict({"low": 0.1, "high": 3.0}) == "met"
    assert verdict({"low": -0.1, "high": 3.0}) == "open"
    assert verdict({"low": -3.0, "high": -0.1}) == "contradicted"


def test_errors_name_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no study.json: run vjepa study"):
        StudyResults(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        StudyResults(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks rows, settings"):
        StudyResults(tmp_path)


# Contrasts and the table


def test_contrasts_of_hand_made_hits():
    rows = [
        row("vjepa", "1110"),
        row("vjepa", "0000", step=5),  # a checkpoint on the way does not count
        row("vjepa", "1111", labels=400),
        row("vjepa", "1100", seed=1),
        row("untrained", "1000", step=0),
        row("untrained", "1110", step=0, labels=400),
        row("optical_flow", "1111", seed=None, step=None),
    ]
    found = contrasts(VIDEOS, rows, tasks=["motion"], labels=200, label_counts=[200, 400])
    # Seed 1 has no partner. Of the lead of 50 points with 200 labels 25 are left with 400.
    assert [(item["name"], item["difference"]) for item in found] == [
        ("features - untrained", 50.0),
        ("lead over untrained, 200 - 400 labels", 25.0),
    ]
    assert all(item["low"] <= item["difference"] <= item["high"] for item in found)
    assert {item["expected"] for item in found} == {"positive"}
    assert len(final_rows(rows)) == len(rows) - 1


def test_contrasts_of_images():
    rows = [
        row("ijepa", "1110", read_out="mean"),
        row("multiblock", "1110", read_out="mean"),
        row("raster", "1000", read_out="mean"),
        row("targets_at_input", "1111", read_out="mean"),
        row("ijepa", "1111", read_out="attentive"),  # that attentive pooling is better, the paper does not say
    ]
    found = contrasts(IMAGES, rows, tasks=["motion"], labels=200, label_counts=[200])
    assert [(item["name"], item["difference"]) for item in found] == [
        ("multi-block - rasterized", 50.0),
        ("masked at the output - at the input", -25.0),
    ]


def test_studies_without_a_kind_are_of_videos(tmp_path):
    study = write(tmp_path, [row()])
    assert study.kind is VIDEOS
    settings = {**study.settings, "kind": "images"}
    (tmp_path / "study.json").write_text(json.dumps({"settings": settings, "rows": []}))
    assert StudyResults(tmp_path).kind is IMAGES
    (tmp_path / "study.json").write_text(json.dumps({"settings": {**settings, "kind": "sounds"}, "rows": []}))
    with pytest.raises(ValueError, match="is a study of 'sounds', and this version knows videos and images"):
        StudyResults(tmp_path)


def test_attentive_against_mean_pooling():
    rows = [row("vjepa", "1110", read_out="attentive"), row("vjepa", "1000", read_out="mean")]
    (found,) = contrasts(VIDEOS, rows, tasks=["motion"], labels=200, label_counts=[200])
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


def test_the_table_names_what_is_met_and_what_is_not():
    settings = {"num_test": 4, "labels": 200, "seeds": [0, 1], "chance": {"motion": 12.5}}
    rows = [row("vjepa", "1110"), row("vjepa", "1000", seed=1), row("untrained", "1000", step=0)]
    item = {"task": "motion", "read_out": "ridge", "labels": 200, "expected": "positive", "difference": 1.0}
    made = [item | {"name": name, "low": low, "high": high} for name, low, high in (("a", 1, 2), ("b", -1, 1))]
    text = describe({"settings": settings, "rows": rows, "contrasts": made})
    assert "vjepa                                 50.0" in text  # the mean of 75 and 25
    assert [line.rsplit(maxsplit=1)[-1] for line in text.splitlines()[-2:]] == ["yes", "open"]
