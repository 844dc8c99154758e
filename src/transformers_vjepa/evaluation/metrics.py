"""Accuracy, top-5 accuracy and macro F1, through the `evaluate` library and without a download."""

from importlib import import_module
from typing import Any

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction

from ..safety.private_names import check_private_names

check_private_names("evaluate")
#: A label among this number of highest scores counts as a hit of the top-5 accuracy.
TOP_K = 5


class ClassificationMetric(evaluate.Metric):
    """
    Accuracy, top-5 accuracy (of more than five classes) and macro F1 of scores of all classes. This is an
    [`evaluate.Metric`] of its own, because `evaluate.load` would download a script from the Hub.

    `compute(predictions=scores, references=labels)` takes scores (clips, classes) of any scale and integer labels
    (clips,). Of equal scores, the lower class counts first, as in `argmax`. Macro F1 is the mean over the classes that
    occur among labels or predictions; a class without a hit counts 0.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: scores (clips, classes); references: labels (clips,)",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        hits = top_k_hits(scores, labels) if scores.shape[1] > TOP_K else None
        return prediction_metrics(scores.argmax(axis=1), labels, top_k=hits)


def top_k_hits(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Which labels are among the five highest scores, bool (clips,). Of equal scores, the lower class counts first.

    Args:
        scores: (clips, classes).
        labels: (clips,).
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP_K]
    return (best == labels[:, None]).any(axis=1)


def check_scikit_learn() -> None:
    """Raises `ImportError` if scikit-learn, which computes the metrics, is missing."""
    try:
        import_module("sklearn.metrics")
    except ImportError as error:
        raise ImportError("metrics need scikit-learn: pip install transformers_vjepa[probe]") from error


def prediction_metrics(
    predicted: np.ndarray, labels: np.ndarray, *, top_k: np.ndarray | None = None
) -> dict[str, float]:
    """
    Accuracy, macro F1 and, from the hits of [`top_k_hits`], top-5 accuracy of predicted classes (clips,).

    Raises:
        ImportError: scikit-learn is missing.
    """
    check_scikit_learn()
    from sklearn.metrics import accuracy_score, f1_score  # an extra

    values = {"accuracy": float(accuracy_score(labels, predicted))}
    if top_k is not None:
        values[f"top{TOP_K}_accuracy"] = float(np.mean(top_k))
    return values | {"macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0))}


def classification_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """
    [`ClassificationMetric`] of arrays.

    Args:
        scores: logits or probabilities (clips, classes).
        labels: (clips,), in [0, classes).

    Raises:
        ValueError: no clips, shapes that do not fit, scores that are not finite, or labels out of range.
        ImportError: scikit-learn is missing.
    """
    scores, labels = np.asarray(scores, dtype=np.float32), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"scores of shape {scores.shape} and labels of shape {labels.shape}: pass (clips, classes) and (clips,), "
            "with at least one clip"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()} do not fit {scores.shape[1]} classes: leave out clips "
            "without a label, and align the labels with the model's"
        )
    if not np.isfinite(scores).all():
        broken = int((~np.isfinite(scores)).any(axis=1).sum())
        raise ValueError(
            f"{broken} of {len(scores)} clips have scores that are NaN or infinite: check the weights of the model"
        )
    # In memory, because all processes of a Trainer compute at once and would wait for each other's cache file.
    return ClassificationMetric(keep_in_memory=True).compute(predictions=scores, references=labels)


def compute_metrics(eval_prediction: EvalPrediction) -> dict[str, float]:
    """
    [`classification_metrics`] for `Trainer(compute_metrics=...)`. `predictions` may be a tuple that begins with the
    scores.
    """
    scores = eval_prediction.predictions
    return classification_metrics(scores[0] if isinstance(scores, tuple) else scores, eval_prediction.label_ids)
