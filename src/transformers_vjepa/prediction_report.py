"""What a test leaves behind: predictions of every video, results with intervals, and pictures."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from .metrics import TOP_K, accuracy_interval, prediction_metrics, top_k_hits
from .redaction import decodable

logger = logging.get_logger(__name__)

# Above this number of classes a confusion matrix is neither kept in memory nor drawn.
_MAX_CONFUSION_CLASSES = 1000


class EmptyReportError(ValueError):
    """A test without one video that could be read."""


class Predictions(NamedTuple):
    """Predictions for some clips."""

    paths: Sequence[str]
    #: int64 (clips,): classes of the model, -1 where unknown.
    labels: np.ndarray
    #: float32 (clips, classes).
    probabilities: np.ndarray


def _write_through(
    batches: Iterable[Predictions], path: Path, class_names: Sequence[str]
) -> Iterator[tuple[Predictions, np.ndarray]]:
    """
    Writes `path`, `label` and `predicted` (class indices), their names, and the `probabilities` of every video to
    Parquet, a batch at a time, and hands each on with its predicted classes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.array([*class_names, None], dtype=object)
    schema = pa.schema(
        {
            "path": pa.string(),
            "label": pa.int64(),
            "predicted": pa.int64(),
            "label_name": pa.string(),
            "predicted_name": pa.string(),
            "probabilities": pa.list_(pa.float32()),
        }
    )
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            predicted = batch.probabilities.argmax(axis=1)
            values = pa.array(batch.probabilities.astype(np.float32).ravel())
            offsets = np.arange(len(predicted) + 1, dtype=np.int32) * batch.probabilities.shape[1]
            columns = {
                "path": pa.array([*map(decodable, batch.paths)], pa.string()),
                "label": batch.labels,
                "predicted": predicted,
                "label_name": pa.array(names[batch.labels], pa.string()),
                "predicted_name": pa.array(names[predicted], pa.string()),
                "probabilities": pa.ListArray.from_arrays(offsets, values),
            }
            writer.write_table(pa.table(columns, schema=schema))
            yield batch, predicted


def write_report(
    batches: Iterable[Predictions],
    folder: str | os.PathLike,
    *,
    class_names: Sequence[str],
    broken: Sequence[Mapping[str, str]] = (),
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Writes what a test has shown: `predictions.parquet`, `results.json` and, where there are labels, `confusion.png`
    (up to 1,000 classes) and `classes.png` (with matplotlib).

    Args:
        batches: predictions, such as [`read_predictions`] gives; one batch at a time is in memory.
        folder: made if it does not exist.
        class_names: names of the model's classes.
        broken: path and error of the videos that could not be read.
        details: what else `results.json` records, such as the protocol and the model.

    Returns:
        The contents of `results.json`: `num_videos`, `num_labelled`, `num_broken`, `broken`; of the labelled videos
        `accuracy`, `accuracy_interval` (95 %, Wilson), `commonest_class_share` (the accuracy of always answering the
        commonest class), `top5_accuracy` (of more than five classes), `macro_f1` and `classes`; the versions of the
        packages; and `details`.

    Raises:
        EmptyReportError: not one prediction.
        ImportError: scikit-learn is missing, and there are labels.
    """
    folder = Path(folder)
    kept: list[tuple[np.ndarray, ...]] = []
    for batch, predicted in _write_through(batches, folder / "predictions.parquet", class_names):
        kept.append((batch.labels, predicted, top_k_hits(batch.probabilities, batch.labels)))
    if not kept:
        example = f", such as {broken[0]['path']} ({broken[0]['error']})" if broken else ""
        raise EmptyReportError(f"there is not one prediction; {len(broken)} videos are broken{example}")
    labels, predicted, hits = (np.concatenate(column) for column in zip(*kept, strict=True))
    known = labels >= 0
    results = {
        "num_videos": len(labels),
        "num_labelled": int(known.sum()),
        "num_broken": len(broken),
        **_scores(labels[known], predicted[known], hits[known], class_names),
        **(details or {}),
        "versions": {name: version(name) for name in ("transformers_vjepa", "transformers", "torch", "av")},
        "broken": list(broken),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    if known.any():
        _draw(labels[known], predicted[known], results["classes"], class_names, folder=folder)
    return results


def _scores(labels: np.ndarray, predicted: np.ndarray, hits: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    if not len(labels):
        return {"accuracy": None, "note": "no video has a label: predictions only"}
    right = labels == predicted
    number = len(class_names)
    metrics = prediction_metrics(predicted, labels, top_k=hits if number > TOP_K else None)
    counts, correct = (np.bincount(values, minlength=number) for values in (labels, labels[right]))
    classes = [
        {
            "name": class_names[index],
            "num_videos": int(counts[index]),
            "accuracy": float(correct[index] / counts[index]),
            "accuracy_interval": accuracy_interval(int(correct[index]), int(counts[index])),
        }
        for index in np.flatnonzero(counts)
    ]
    interval = accuracy_interval(int(right.sum()), len(right))
    return {
        "accuracy": metrics.pop("accuracy"),
        "accuracy_interval": interval,
        "commonest_class_share": float(counts.max() / counts.sum()),
        **metrics,
        "classes": classes,
    }


def _draw(
    labels: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    *,
    folder: Path,
) -> None:
    if find_spec("matplotlib") is None:
        logger.warning("no pictures without matplotlib: pip install transformers_vjepa[viz]")
        return
    from .visualization import plot_class_accuracies, plot_confusion_matrix

    number = len(class_names)
    if number <= _MAX_CONFUSION_CLASSES:
        matrix = np.bincount(labels * number + predicted, minlength=number**2).reshape(number, number)
        plot_confusion_matrix(matrix, class_names, folder / "confusion.png")
    else:
        logger.warning(f"a confusion matrix of {number} classes is not drawn (at most {_MAX_CONFUSION_CLASSES})")
    accuracies, counts, names = zip(*((c["accuracy"], c["num_videos"], c["name"]) for c in classes), strict=True)
    plot_class_accuracies(accuracies, counts, names, folder / "classes.png")


def describe_results(results: Mapping[str, Any]) -> str:
    """The results in a few lines."""
    lines = [f"{results['num_videos']} videos, {results['num_broken']} broken"]
    if results["accuracy"] is None:
        lines.append(results["note"])
    else:
        low, high = results["accuracy_interval"]
        lines.append(f"accuracy       {results['accuracy']:7.2%}   (95 %: {low:.2%} to {high:.2%})")
        lines.append(f"to compare     {results['commonest_class_share']:7.2%}   (always the commonest class)")
        top = f"top{TOP_K}_accuracy"
        if top in results:
            lines.append(f"top-{TOP_K} accuracy {results[top]:7.2%}")
        lines.append(f"macro F1       {results['macro_f1']:7.4f}")
        if results["num_labelled"] < results["num_videos"]:
            lines.append(f"over the {results['num_labelled']} videos that have a label")
    return "\n".join(lines)


__all__ = ["EmptyReportError", "Predictions", "describe_results", "write_report"]
