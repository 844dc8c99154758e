import sys
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest

from transformers_vjepa.evaluation.metrics import (
    ClassificationMetric,
    classification_metrics,
    compute_metrics,
    top_k_hits,
)


def test_metrics_by_hand():
    scores = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [1.0, 0.0, 5.0]])
    # Predicted 0 1 1 2. Class 0: all right. Class 1: one of two predicted, all found. Class 2: one of two found.
    values = classification_metrics(scores, np.array([0, 1, 2, 2]))
    assert values == pytest.approx({"accuracy": 3 / 4, "macro_f1": (1 + 2 / 3 + 2 / 3) / 3})


def test_top5_by_hand():
    scores = np.tile([6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0], (3, 1))
    values = classification_metrics(scores, np.array([0, 4, 5]))
    assert values["accuracy"] == pytest.approx(1 / 3)
    assert values["top5_accuracy"] == pytest.approx(2 / 3)


def test_equal_scores_count_from_the_lowest_class():
    assert top_k_hits(np.zeros((2, 8)), np.array([4, 5])).tolist() == [True, False]


def test_class_that_is_never_hit_counts_zero():
    scores = np.eye(2)[[1, 1]]
    assert classification_metrics(scores, np.array([0, 1]))["macro_f1"] == pytest.approx((0 + 2 / 3) / 2)


def test_for_the_trainer():
    logits, labels = np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1])
    for predictions in (logits, (logits, np.zeros(3))):
        values = compute_metrics(SimpleNamespace(predictions=predictions, label_ids=labels))
        assert values["accuracy"] == 0.5


def test_is_a_metric_of_the_library():
    metric = ClassificationMetric(keep_in_memory=True)
    assert isinstance(metric, evaluate.Metric)
    metric.add_batch(predictions=[[1.0, 0.0]], references=[0])
    metric.add_batch(predictions=[[1.0, 0.0]], references=[1])
    assert metric.compute()["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), r"scores of shape \(2, 3\) and labels of shape \(3,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), "with at least one clip"),
        (np.zeros((2, 3)), np.array([0, 3]), "labels from 0 to 3 do not fit 3 classes"),
        (np.zeros((2, 3)), np.array([0, -1]), "labels from -1 to 0 do not fit 3 classes"),
        (np.array([[0.0, np.nan]]), np.array([0]), "1 of 1 clips have scores that are NaN or infinite"),
    ],
)
def test_values_that_do_not_fit_are_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(scores, labels)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=r"pip install transformers_vjepa\[probe\]"):
        classification_metrics(np.zeros((1, 2)), np.array([0]))
