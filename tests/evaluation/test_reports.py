"""Reports of a split, and of a training run."""

import json
import resource
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from reference import TINY

from transformers_vjepa import VJEPAConfig, VJEPAForVideoClassification
from transformers_vjepa.data.file_corpus import FileCorpus
from transformers_vjepa.evaluation import reports
from transformers_vjepa.evaluation.probing import ProbeGrid, probe_settings
from transformers_vjepa.evaluation.reports import (
    EmptyReportError,
    OtherRunError,
    Predictions,
    check_classes,
    check_same_run,
    describe_results,
    finish_run,
    still_improving,
    summary,
    write_prediction_report,
)
from transformers_vjepa.evaluation.statistics import accuracy_interval
from transformers_vjepa.evaluation.trainer import (
    UnusableSplitError,
    VJEPAClassificationArguments,
    VJEPAClassificationTrainer,
)

# Predictions of a split

NAMES = ["a", "b", "c", "d", "e", "f"]


def one_hot(*classes, number=6):
    return (0.5 * np.eye(number)[list(classes)] + 0.5 / number).astype(np.float32)


BATCHES = [
    Predictions(["0.mp4", "1.mp4"], np.array([0, 1]), one_hot(0, 0)),
    Predictions(["2.mp4", "3.mp4", "4.mp4"], np.array([1, -1, 5]), one_hot(1, 2, 0)),
]


def test_report_by_hand(tmp_path):
    broken = [{"path": "x.mp4", "error": "CorruptVideoError: noise"}]
    results = write_prediction_report(BATCHES, tmp_path, class_names=NAMES, broken=broken, details={"model": "m"})
    assert results == json.loads((tmp_path / "results.json").read_text()) | {
        "accuracy_interval": accuracy_interval(2, 4),
        "classes": results["classes"],
    }
    assert (results["num_videos"], results["num_labelled"], results["num_broken"]) == (5, 4, 1)
    assert results["accuracy"] == 0.5 and results["model"] == "m" and results["broken"] == broken
    # Labels 0 1 1 5, predicted 0 0 1 0: F1 of 0 is 2 * 1 / (2 + 2), of 1 is 2/3, of 5 is 0.
    assert results["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    # Equal probabilities count from the lowest class, so 5 is the sixth.
    assert results["top5_accuracy"] == 0.75
    assert [(c["name"], c["num_videos"], c["accuracy"]) for c in results["classes"]] == [
        ("a", 1, 1.0),
        ("b", 2, 0.5),
        ("f", 1, 0.0),
    ]
    assert set(results["versions"]) == {"transformers_vjepa", "transformers", "torch", "av"}
    for name in ("confusion.png", "classes.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 200


def test_predictions_file(tmp_path):
    write_prediction_report(BATCHES, tmp_path / "new", class_names=NAMES)
    rows = pq.read_table(tmp_path / "new" / "predictions.parquet").to_pylist()
    assert [row["path"] for row in rows] == [f"{number}.mp4" for number in range(5)]
    assert [row["label"] for row in rows] == [0, 1, 1, -1, 5]
    assert [row["label_name"] for row in rows] == ["a", "b", "b", None, "f"]
    assert [row["predicted"] for row in rows] == [0, 0, 1, 2, 0]
    assert [row["predicted_name"] for row in rows] == ["a", "a", "b", "c", "a"]
    assert rows[3]["probabilities"] == one_hot(2)[0].tolist()


def test_without_labels_there_are_predictions_only(tmp_path):
    batch = Predictions(["0.mp4"], np.array([-1]), one_hot(3))
    results = write_prediction_report([batch], tmp_path, class_names=NAMES)
    assert results["accuracy"] is None and "macro_f1" not in results and "classes" not in results
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.parquet", "results.json"]
    assert describe_results(results) == "1 videos, 0 broken\nno video has a label: predictions only"


def test_few_classes_have_no_top5(tmp_path):
    batch = Predictions(["0.mp4"], np.array([1]), one_hot(1, number=3))
    results = write_prediction_report([batch], tmp_path, class_names=NAMES[:3])
    assert results["accuracy"] == 1 and "top5_accuracy" not in results
    assert "top-5" not in describe_results(results)


def test_many_classes_have_no_confusion_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "_MAX_CONFUSION_CLASSES", 5)
    write_prediction_report(BATCHES, tmp_path, class_names=NAMES)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["classes.png"]


def test_without_matplotlib_there_are_no_charts(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(reports, "find_spec", lambda name: None)
    messages = []
    monkeypatch.setattr(reports.logger, "warning", messages.append)
    write_prediction_report(BATCHES, tmp_path, class_names=NAMES)
    assert not list(tmp_path.glob("*.png")) and (tmp_path / "results.json").exists()
    assert messages == ["charts need matplotlib: pip install transformers_vjepa[viz]"]


def test_results_in_words(tmp_path):
    text = describe_results(write_prediction_report(BATCHES, tmp_path, class_names=NAMES))
    assert text.splitlines() == [
        "5 videos, 0 broken",
        "accuracy        50.00%   (95 %: 15.00% to 85.00%)",
        "to compare      50.00%   (always the commonest class)",
        "top-5 accuracy  75.00%",
        "macro F1        0.3889",
        "computed over the 4 videos that have a label",
    ]


def test_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(EmptyReportError, match=r"no video could be classified; 1 are broken, such as x.mp4 \(noise\)"):
        write_prediction_report([], tmp_path, class_names=NAMES, broken=[{"path": "x.mp4", "error": "noise"}])


# A training run

RESULTS = {
    "chosen": {
        "probe": 1,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "step": 100,
        "steps": 100,
        "still_improving": False,
    },
    "chance": 0.25,
    "train": {"num_videos": 200, "num_broken": 0},
    "validation": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "num_videos": 100, "num_broken": 0},
    "probes": [{"learning_rate": rate} for rate in (0.001, 0.01, 0.1)],
}


def arguments(tmp_path, **changes):
    return VJEPAClassificationArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **changes)


def test_summary_says_what_was_chosen_and_how_good_it_is():
    test = {"accuracy": 0.4, "accuracy_interval": [0.25, 0.5], "num_videos": 30, "num_broken": 2}
    train = {"num_videos": 200, "num_broken": 9}
    assert "train:      9 of 200 clips cannot be read and were left out" in summary(RESULTS | {"train": train}, "out")
    lines = summary(RESULTS | {"test": test}, "out").splitlines()
    assert lines[1:] == [
        "step:       100 of 100",
        "probe:      learning rate 0.01, weight decay 0.1, the best of 3",
        "validation: 50.0% right (95 %: 40.0% to 60.0%; 100 clips; chance 25.0%)",
        "test:       40.0% right (95 %: 25.0% to 50.0%; 30 clips; chance 25.0%)",
        "            2 more cannot be read and do not count",
        "model:      out   (AutoModelForVideoClassification and AutoModelForImageClassification load it)",
    ]


def test_summary_warns_of_what_may_mislead():
    def notes(*, chosen=None, validation=None, probes=RESULTS["probes"], **splits):
        results = RESULTS | splits | {"probes": probes, "chosen": RESULTS["chosen"] | (chosen or {})}
        results["validation"] = RESULTS["validation"] | (validation or {})
        return [line for line in summary(results, "out").splitlines() if line.startswith("note:       ")]

    test = {"test": RESULTS["validation"]}
    assert notes(**test) == []
    (optimistic,) = notes()  # nothing but the clips that chose
    assert "chosen on the validation clips, whose accuracy is therefore" in optimistic
    assert notes(probes=RESULTS["probes"][1:2]) == []  # nothing to choose from
    (late,) = notes(chosen={"still_improving": True}, **test)
    assert "still getting better at the end" in late
    (edge,) = notes(chosen={"learning_rate": 0.1}, **test)
    assert "the best learning rate is at the edge of the range" in edge
    (few,) = notes(validation={"num_videos": 11}, chosen={"learning_rate": 0.1})
    assert "11 clips are few to choose among 3 probes: give more" in few
    everything = {"still_improving": True, "learning_rate": 0.1}
    (few,) = notes(chosen=everything, validation={"accuracy": 1.0, "num_videos": 11})  # with luck
    assert "11 clips are few" in few


def test_a_run_still_improves_if_its_end_is_above_all_of_its_first_three_quarters():
    def history(*accuracies):
        entries = [{"step": 10 * (n + 1), "eval_accuracy": accuracy} for n, accuracy in enumerate(accuracies)]
        return [{"step": 10, "loss": 1.0}, *entries]

    # The standard error of one half of 100 clips is 0.05.
    assert still_improving(history(0.2, 0.3, 0.44, 0.5), num_clips=100)
    assert not still_improving(history(0.2, 0.3, 0.46, 0.5), num_clips=100)
    assert not still_improving(history(0.2, 0.3, 0.44, 0.5), num_clips=50)
    assert not still_improving(history(0.44, 0.3, 0.2, 0.1), num_clips=100)
    assert not still_improving(history(0.5), num_clips=100)
    assert not still_improving([{"step": 10, "loss": 1.0}], num_clips=100)


def test_a_run_is_recorded_and_compared(tmp_path):
    record = check_same_run(arguments(tmp_path), {"mode": "probe"}, {"train": "abc"}, resumes=False)
    assert json.loads((tmp_path / "run.json").read_text()) == record
    assert record["settings"]["clips_per_step"] == 32
    # The same number of clips in a step may be put together in another way.
    same = arguments(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=4)
    assert check_same_run(same, {"mode": "probe"}, {"train": "abc"}, resumes=True) == record
    with pytest.raises(
        OtherRunError, match="clips of train was 'abc' and is 'x'; clips_per_step was 32 and is 4; mode"
    ):
        other = arguments(tmp_path, per_device_train_batch_size=4)
        check_same_run(other, {"mode": "finetune"}, {"train": "x"}, resumes=True)


def test_the_record_of_a_run_is_whole_or_absent(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))  # bytes, as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            check_same_run(arguments(tmp_path), {"mode": "probe"}, {"train": "abc"}, resumes=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.glob("*run.json*")) == []


@pytest.mark.parametrize(
    "text", ["", '{"settings": {"mode"', "[1]", "{}", '{"settings": 1, "manifests": {}}', "[" * 10**5]
)
def test_a_damaged_record_of_a_run_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(OtherRunError, match=r"run.json is damaged \(.*or delete this file to resume"):
        check_same_run(arguments(tmp_path), {"mode": "probe"}, {"train": "abc"}, resumes=True)


def test_classes_that_cannot_be_read_are_named():
    config = VJEPAConfig(id2label=dict(enumerate("abc")), label2id={"a": 0, "b": 1, "c": 2})
    store = SimpleNamespace(labels=np.array([0, 0]), broken=[(3, "x.mp4", "OSError: gone")])
    check_classes(store, config, [0])
    with pytest.raises(
        UnusableSplitError, match=r"no training clip of b, c can be read; .* is x.mp4 \(OSError: gone\)"
    ):
        check_classes(store, config, [0, 1, 2])


class TwoClips(torch.utils.data.Dataset):
    """Features of two clips, as an evaluation data set that knows its corpus."""

    corpus = FileCorpus(["a.mp4", "b.mp4", "c.mp4"], labels=[0, 1, 1])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            return {"index": 1, "path": "b.mp4", "error": "OSError: gone"}
        return {"features": torch.full((1, 2, 48), index - 1.0), "label": int(self.corpus.labels[index])}


def test_the_best_probe_of_validation_is_the_one_that_is_tested_and_saved(tmp_path):
    torch.manual_seed(0)
    config = VJEPAConfig(**TINY, pooling="mean", num_labels=2)
    grid, model = ProbeGrid(config, probe_settings([1e-3, 1e-2], [0.0])), VJEPAForVideoClassification(config)
    with torch.no_grad():  # the first probe has everything wrong, the second everything right
        for probe, sign in zip(grid.probes, (1, -1), strict=True):
            probe.classifier.weight.copy_(torch.tensor([[1.0], [-1.0]]) * sign)
    trainer = VJEPAClassificationTrainer(grid, arguments(tmp_path, disable_tqdm=True))
    run = {"settings": {"model": "m"}, "manifests": {"train": "0", "validation": "1", "test": "2"}}
    corpora = {name: TwoClips.corpus for name in run["manifests"]}
    said = finish_run(
        trainer, model=model, corpora=corpora, datasets={"validation": TwoClips(), "test": TwoClips()}, run=run
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["chosen"]["probe"], results["chosen"]["learning_rate"]) == (1, 0.01)
    assert [probe["accuracy"] for probe in results["probes"]] == [0, 1]
    assert results["test"]["accuracy"] == 1 and results["test"]["manifest"] == "2"
    assert results["test"]["broken"] == [{"path": "b.mp4", "error": "OSError: gone"}]
    saved = VJEPAForVideoClassification.from_pretrained(tmp_path)
    assert torch.equal(saved.classifier.weight, grid.probes[1].classifier.weight)
    assert "test:       100.0% right" in said and "1 more cannot be read" in said
