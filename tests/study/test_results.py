"""Sums over the rows of a study: which rows count, means, intervals and verdicts."""

import json

import pytest

from transformers_vjepa.figures.style import percent, signed
from transformers_vjepa.study.results import Study, verdict


def row(arm="vjepa", seed=0, step=10, labels=200, hits="1100", **changes):
    accuracy = 100 * hits.count("1") / max(len(hits), 1)
    values = {"accuracy": accuracy, "low": accuracy - 5, "high": accuracy + 7, "hits": hits}
    names = {"arm": arm, "seed": seed, "step": step, "labels": labels, "task": "motion", "read_out": "ridge"}
    return {**names, **values, **changes}


def write(folder, rows, **others):
    data = {"settings": {"labels": 200, "seeds": [0, 1], "chance": {"motion": 12.5}}, "rows": rows, **others}
    (folder / "study.json").write_text(json.dumps(data))
    return Study(folder)


def test_rows_of_checkpoints_count_only_where_a_step_is_asked_for(tmp_path):
    rows = [row(step=5, hits="0001"), row(hits="0111"), row(seed=1, hits="1111"), row(labels=50, hits="0000")]
    study = write(tmp_path, rows)
    assert study.summary("vjepa", task="motion", read_out="ridge").mean == 87.5
    assert study.summary("vjepa", task="motion", read_out="ridge", step=5).seeds == (25.0,)
    assert study.summary("vjepa", task="motion", read_out="ridge", labels=50).mean == 0.0
    assert study.summary("vjepa", task="motion", read_out="attentive") is None
    assert study.label_counts(arm="vjepa", task="motion", read_out="ridge") == [50, 200]
    assert study.steps(arm="vjepa", task="motion", read_out="ridge") == [5, 10]
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


def test_without_hits_the_intervals_of_the_rows_are_averaged(tmp_path):
    rows = [row(hits="1100"), row(seed=1, hits="1110", accuracy=75.0)]
    for one in rows:
        del one["hits"]
    summary = write(tmp_path, rows).summary("vjepa", task="motion", read_out="ridge")
    assert (summary.mean, summary.low, summary.high) == (62.5, 57.5, 69.5)


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
    assert study.all_steps("vjepa") == [5, 10]


def test_verdicts_follow_the_interval():
    assert verdict({"low": 0.1, "high": 3.0}) == "met"
    assert verdict({"low": -0.1, "high": 3.0, "expected": "positive"}) == "open"
    assert verdict({"low": -3.0, "high": -0.1}) == "contradicted"
    assert verdict({"low": -3.0, "high": -0.1, "expected": "negative"}) == "met"


def test_numbers_as_text():
    assert percent(0.254) == "25 %" and signed(-3.14) == "−3.1" and signed(2) == "+2.0"


def test_errors_name_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no study.json: run vjepa study"):
        Study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        Study(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks rows, settings"):
        Study(tmp_path)
