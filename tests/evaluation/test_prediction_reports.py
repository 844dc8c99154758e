import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from transformers_vjepa.evaluation import reports as prediction_report
from transformers_vjepa.evaluation.reports import EmptyReportError, Predictions, describe_results, write_report
from transformers_vjepa.evaluation.statistics import accuracy_interval

NAMES = ["a", "b", "c", "d", "e", "f"]


def one_hot(*classes, number=6):
    return (0.5 * np.eye(number)[list(classes)] + 0.5 / number).astype(np.float32)


BATCHES = [
    Predictions(["0.mp4", "1.mp4"], np.array([0, 1]), one_hot(0, 0)),
    Predictions(["2.mp4", "3.mp4", "4.mp4"], np.array([1, -1, 5]), one_hot(1, 2, 0)),
]


def test_report_by_hand(tmp_path):
    broken = [{"path": "x.mp4", "error": "CorruptVideoError: noise"}]
    results = write_report(BATCHES, tmp_path, class_names=NAMES, broken=broken, details={"model": "m"})
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
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200


def test_predictions_file(tmp_path):
    write_report(BATCHES, tmp_path / "new", class_names=NAMES)
    rows = pq.read_table(tmp_path / "new" / "predictions.parquet").to_pylist()
    assert [row["path"] for row in rows] == [f"{number}.mp4" for number in range(5)]
    assert [row["label"] for row in rows] == [0, 1, 1, -1, 5]
    assert [row["label_name"] for row in rows] == ["a", "b", "b", None, "f"]
    assert [row["predicted"] for row in rows] == [0, 0, 1, 2, 0]
    assert [row["predicted_name"] for row in rows] == ["a", "a", "b", "c", "a"]
    assert rows[3]["probabilities"] == one_hot(2)[0].tolist()


def test_without_labels_there_are_predictions_only(tmp_path):
    batch = Predictions(["0.mp4"], np.array([-1]), one_hot(3))
    results = write_report([batch], tmp_path, class_names=NAMES)
    assert results["accuracy"] is None and "macro_f1" not in results and "classes" not in results
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.parquet", "results.json"]
    assert describe_results(results) == "1 videos, 0 broken\nno video has a label: predictions only"


def test_few_classes_have_no_top5(tmp_path):
    batch = Predictions(["0.mp4"], np.array([1]), one_hot(1, number=3))
    results = write_report([batch], tmp_path, class_names=NAMES[:3])
    assert results["accuracy"] == 1 and "top5_accuracy" not in results
    assert "top-5" not in describe_results(results)


def test_many_classes_have_no_confusion_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_report, "_MAX_CONFUSION_CLASSES", 5)
    write_report(BATCHES, tmp_path, class_names=NAMES)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["classes.png"]


def test_without_matplotlib_there_are_no_pictures(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(prediction_report, "find_spec", lambda name: None)
    messages = []
    monkeypatch.setattr(prediction_report.logger, "warning", messages.append)
    write_report(BATCHES, tmp_path, class_names=NAMES)
    assert not list(tmp_path.glob("*.png")) and (tmp_path / "results.json").exists()
    assert messages == ["no pictures without matplotlib: pip install transformers_vjepa[viz]"]


def test_results_in_words(tmp_path):
    text = describe_results(write_report(BATCHES, tmp_path, class_names=NAMES))
    assert text.splitlines() == [
        "5 videos, 0 broken",
        "accuracy        50.00%   (95 %: 15.00% to 85.00%)",
        "to compare      50.00%   (always the commonest class)",
        "top-5 accuracy  75.00%",
        "macro F1        0.3889",
        "over the 4 videos that have a label",
    ]


def test_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(EmptyReportError, match=r"not one prediction; 1 videos are broken, such as x.mp4 \(noise\)"):
        write_report([], tmp_path, class_names=NAMES, broken=[{"path": "x.mp4", "error": "noise"}])
