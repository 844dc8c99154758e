"""The output folder of an evaluation or a training run: predictions, results, charts and the model."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedConfig
from transformers.utils import logging

from ..data.corpora import Corpus
from ..data.corpus import IndexedCorpus
from ..data.labels import model_class_names
from ..data.table_corpus import SequentialCorpus
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..safety.atomic_files import write_text_atomically
from ..safety.sanitizing import decodable, json_text
from .features import FeatureStore
from .metrics import TOP_K, prediction_metrics, top_k_hits
from .probing import best_probe, cross_entropy
from .shards import describe_broken, describe_changes
from .statistics import accuracy_interval
from .trainer import (
    IGNORED,
    UnusableSplitError,
    VJEPAClassificationArguments,
    VJEPAClassificationTrainer,
    probe_scores,
)

logger = logging.get_logger(__name__)

# Columns of predictions.parquet.
_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.int64()),
        ("predicted", pa.int64()),
        ("label_name", pa.string()),
        ("predicted_name", pa.string()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)
# Above this number of classes a confusion matrix is neither kept in memory nor drawn.
_MAX_CONFUSION_CLASSES = 1000
# Training arguments that a resumed run must share with the run that it continues.
_FIXED = (
    "num_train_epochs max_steps min_steps learning_rate weight_decay learning_rates weight_decays lr_scheduler_type "
    "warmup_steps max_grad_norm label_smoothing_factor layer_decay mixup cutmix seed probe_optimizer base_batch_size "
    "lr_milestones"
).split()
#: Setting of a run: a hash of the names of the classes, in their order.
CLASSES_RECORD = "class_names"
# With fewer validation clips, the choice between probes is mostly luck: one standard error of an accuracy is above
# 5 points.
_FEW_CLIPS = 100


class EmptyReportError(ValueError):
    """No video of a split could be read."""


class OtherRunError(ValueError):
    """A checkpoint of a run with other settings."""


# Predictions of a split ----------------------------------------------------------------------------------


class Predictions(NamedTuple):
    """Predictions for some clips."""

    paths: Sequence[str]
    #: int64 (clips,): classes of the model, -1 if unknown.
    labels: np.ndarray
    #: float32 (clips, classes).
    probabilities: np.ndarray


def write_prediction_report(
    batches: Iterable[Predictions],
    folder: str | os.PathLike,
    *,
    class_names: Sequence[str],
    broken: Sequence[Mapping[str, str]] = (),
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Writes the results of a split: `predictions.parquet`, `results.json` and, if videos have labels and matplotlib is
    installed, `confusion.png` (up to 1,000 classes) and `classes.png`.

    Args:
        batches: predictions, as from [`read_predictions`]; one batch at a time is in memory.
        folder: created if it does not exist.
        class_names: names of the model's classes.
        broken: path and error of the videos that could not be read.
        details: more entries of `results.json`, such as the protocol and the model.

    Returns:
        The contents of `results.json`: `num_videos`, `num_labelled`, `num_broken`, `broken`; of the labelled videos
        `accuracy`, `accuracy_interval` (95 %, Wilson), `commonest_class_share` (the accuracy of always answering the
        commonest class), `top5_accuracy` (of more than five classes), `macro_f1` and `classes`; the versions of the
        packages; and `details`.

    Raises:
        EmptyReportError: no predictions.
        ImportError: scikit-learn is missing, and videos have labels.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept: list[tuple[np.ndarray, ...]] = []
    with pq.ParquetWriter(folder / "predictions.parquet", _SCHEMA) as writer:
        for batch in batches:
            predicted = batch.probabilities.argmax(axis=1)
            writer.write_table(_table(batch, predicted, class_names))
            kept.append((batch.labels, predicted, top_k_hits(batch.probabilities, batch.labels)))
    if not kept:
        example = f", such as {broken[0]['path']} ({broken[0]['error']})" if broken else ""
        raise EmptyReportError(f"no video could be classified; {len(broken)} are broken{example}")
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
    write_text_atomically(folder / "results.json", json_text(results))
    if known.any():
        _draw(labels[known], predicted[known], results["classes"], class_names, folder=folder)
    return results


def _table(batch: Predictions, predicted: np.ndarray, class_names: Sequence[str]) -> pa.Table:
    """`path`, `label` and `predicted` (class indices), their names, and the `probabilities` of every video."""
    names = np.array([*class_names, None], dtype=object)  # the last one is that of the label -1
    offsets = np.arange(len(predicted) + 1, dtype=np.int32) * batch.probabilities.shape[1]
    columns = {
        "path": pa.array([*map(decodable, batch.paths)], pa.string()),
        "label": batch.labels,
        "predicted": predicted,
        "label_name": pa.array(names[batch.labels], pa.string()),
        "predicted_name": pa.array(names[predicted], pa.string()),
        "probabilities": pa.ListArray.from_arrays(offsets, pa.array(batch.probabilities.astype(np.float32).ravel())),
    }
    return pa.table(columns, schema=_SCHEMA)


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
        logger.warning("charts need matplotlib: pip install transformers_vjepa[viz]")
        return
    from ..figures.charts import plot_class_accuracies, plot_confusion_matrix  # matplotlib is an extra

    number = len(class_names)
    if number <= _MAX_CONFUSION_CLASSES:
        matrix = np.bincount(labels * number + predicted, minlength=number**2).reshape(number, number)
        plot_confusion_matrix(matrix, class_names, folder / "confusion.png")
    else:
        logger.warning(f"a confusion matrix of {number} classes is not drawn (at most {_MAX_CONFUSION_CLASSES})")
    accuracies, counts, names = zip(*((c["accuracy"], c["num_videos"], c["name"]) for c in classes), strict=True)
    plot_class_accuracies(accuracies, counts, names, folder / "classes.png", interval=accuracy_interval)


def describe_results(results: Mapping[str, Any], *, kind: str = "videos") -> str:
    """The results of [`write_prediction_report`] in a few lines; `kind` names what was classified."""
    lines = [f"{results['num_videos']} {kind}, {results['num_broken']} broken"]
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
            lines.append(f"computed over the {results['num_labelled']} {kind} that have a label")
    return "\n".join(lines)


# A training run ------------------------------------------------------------------------------------------


def check_same_run(
    training: VJEPAClassificationArguments,
    settings: Mapping[str, Any],
    manifests: Mapping[str, str],
    *,
    resumes: bool,
) -> dict[str, Any]:
    """
    Records all arguments (`settings` are those beside `training`) and the hashes of the clips of each split in
    `run.json`, or compares them with those of the run to resume. Returns the record.

    Raises:
        OtherRunError: the run in the output folder differs (the message lists the differences), or its record is
            damaged.
    """
    values = {name: getattr(training, name) for name in (*_FIXED, "clips_per_step")}
    # JSON there and back makes lists of tuples, as in the file.
    record = json.loads(json_text({"settings": {**settings, **values}, "manifests": manifests}))
    path = Path(training.output_dir) / "run.json"
    if resumes and path.is_file():
        there = _read_run(path)
        # An earlier version recorded fewer settings.
        both = {name: value for name, value in record["settings"].items() if name in there["settings"]}
        old, new = (
            {**each["settings"], **{f"clips of {name}": value for name, value in each["manifests"].items()}}
            for each in (there, record | {"settings": both})
        )
        if changes := describe_changes(old, new):
            raise OtherRunError(f"{training.output_dir} holds another run: {changes}. Choose another --output_dir")
    elif training.process_index == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json_text(record))
    return record


def _read_run(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(record[part], dict) for part in ("settings", "manifests")):
            return record
        raise ValueError("it has no settings and manifests")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise OtherRunError(
            f"{path} is damaged ({type(error).__name__}: {error}): choose another --output_dir, or delete this file "
            "to resume without a comparison of the settings"
        ) from error


def check_classes(features: FeatureStore, config: PreTrainedConfig, expected: Sequence[int]) -> None:
    """Raises `UnusableSplitError` if no training clip of a class could be read."""
    lost = sorted(set(expected) - set(features.labels.tolist()))
    if lost:
        raise UnusableSplitError(
            f"no training clip of {', '.join(config.id2label[label] for label in lost[:5])} can be read; the first "
            f"broken clip is {features.broken[0][1]} ({features.broken[0][2]}): repair them, or leave the class out"
        )


def finish_run(
    trainer: VJEPAClassificationTrainer,
    *,
    model: VJEPAForVideoClassification,
    corpora: Mapping[str, IndexedCorpus],
    datasets: Mapping[str, Dataset],
    run: Mapping[str, Any],
) -> str:
    """
    Writes the trained classifier to the output folder, with its predictions for each split in a sub-folder (see
    [`write_prediction_report`]), `curves.png` and `results.json`. All processes call this function.

    Args:
        trainer: after training.
        model: of a probe, the classifier that gets the best probe; of fine-tuning, the trained model.
        corpora: the clips of each split.
        datasets: the data to evaluate, by split: `"validation"` chooses the probe, `"test"` does not.
        run: the record of [`check_same_run`].

    Returns:
        A summary for the user.
    """
    predictions = {name: trainer.predict(dataset, metric_key_prefix=name) for name, dataset in datasets.items()}
    readable = {name: each.label_ids != IGNORED for name, each in predictions.items()}
    kept = {
        name: (predictions[name].predictions[rows], predictions[name].label_ids[rows])
        for name, rows in readable.items()
    }
    chosen, probes = _choose(trainer, kept)
    if trainer.is_probing:
        kept = {name: (logits[:, chosen["probe"]], labels) for name, (logits, labels) in kept.items()}
        trainer.model.write_into(model, chosen["probe"])
    results: dict[str, Any] = {"chosen": chosen, **training_record(corpora["train"], trainer.train_dataset, run)}
    folder = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
        trainer.save_image_processor(folder)
        for name, (logits, labels) in kept.items():
            paths, broken = _paths_and_broken(datasets[name], readable[name])
            results[name] = write_prediction_report(
                [Predictions(paths, labels, torch.from_numpy(logits).softmax(dim=-1).numpy())],
                folder / name,
                class_names=model_class_names(model.config),
                broken=broken,
                details={"cross_entropy": cross_entropy(logits, labels), "manifest": run["manifests"][name]},
            )
        _draw_curves(trainer, folder / "curves.png")
        write_text_atomically(folder / "results.json", json_text({**results, "probes": probes, **run}))
    trainer.accelerator.wait_for_everyone()
    return summary({**results, "probes": probes}, folder, kind=kind_of_clips(corpora["train"]))


def _draw_curves(trainer: VJEPAClassificationTrainer, path: Path) -> None:
    if not any("loss" in entry for entry in trainer.state.log_history):
        return
    from ..figures.charts import plot_training_curves  # matplotlib is an extra

    number = len(trainer.model.settings) if trainer.is_probing else 1
    # The best probe may change from one evaluation to the next.
    title = f"Training of {number} probes: at each evaluation the best of them" if number > 1 else "Training"
    plot_training_curves(trainer.state.log_history, path, title=title)


def training_record(corpus: IndexedCorpus, dataset: Any, run: Mapping[str, Any]) -> dict[str, Any]:
    """The entries `chance` and `train` of `results.json`; `dataset`: stream or features of the training clips."""
    # The broken clips of a stream are named only in the log.
    lost = describe_broken(dataset.broken) if isinstance(dataset, FeatureStore) else None
    return {
        "chance": 1 / len(set(corpus.labels.tolist())),
        "train": {
            "num_videos": len(corpus),
            "num_broken": None if lost is None else len(lost),
            "broken": lost,
            "manifest": run["manifests"]["train"],
        },
    }


def kind_of_clips(corpus: Corpus, *, otherwise: str = "clips") -> str:
    """What messages call the items of a corpus: "images" if the first item is an image."""
    if isinstance(corpus, SequentialCorpus) or not len(corpus):
        return otherwise
    try:
        return "images" if corpus.read(0).is_image else otherwise
    except (OSError, pa.ArrowInvalid):
        return otherwise  # a broken file, which a pass counts and names


def _choose(trainer: VJEPAClassificationTrainer, kept: Mapping[str, tuple]) -> tuple[dict[str, Any], list[dict]]:
    """The choice on the validation clips, and the scores of all probes."""
    chosen: dict[str, Any] = {"step": trainer.final_step, "steps": trainer.args.max_steps}
    if "validation" in kept:
        chosen["still_improving"] = still_improving(trainer.state.log_history, num_clips=len(kept["validation"][1]))
    if not trainer.is_probing:
        return chosen, []
    settings = trainer.model.settings
    probes = probe_scores(*kept["validation"], settings) if "validation" in kept else []
    best = best_probe([probe["selection_score"] for probe in probes], settings) if probes else 0
    return {"probe": best, **asdict(settings[best]), **chosen}, probes


def still_improving(log_history: Sequence[Mapping[str, Any]], *, num_clips: int) -> bool:
    """
    Whether the accuracy at the end exceeds every accuracy in the first three quarters of the run by more than its
    standard error, so that a longer run is likely to help.

    Args:
        log_history: of a `TrainerState`; entries of evaluations have `step` and `eval_accuracy`.
        num_clips: number of clips that are evaluated.
    """
    evaluations = [(entry["step"], entry["eval_accuracy"]) for entry in log_history if "eval_accuracy" in entry]
    if not evaluations:
        return False
    end, last = evaluations[-1]
    before = [accuracy for step, accuracy in evaluations if step <= 0.75 * end]
    return bool(before) and last - max(before) > math.sqrt(last * (1 - last) / num_clips)


def _paths_and_broken(dataset: Dataset, readable: np.ndarray) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the clips that could be read, and path and error of the others."""
    if isinstance(dataset, FeatureStore):
        return list(dataset.paths), describe_broken(dataset.broken)
    items = (dataset[index] for index in np.flatnonzero(~readable).tolist())
    paths = [dataset.corpus.describe(index) for index in np.flatnonzero(readable).tolist()]
    return paths, [{"path": item["path"], "error": item["error"]} for item in items]


def split_lines(results: Mapping[str, Any], *, kind: str) -> list[str]:
    """Broken training clips, and the accuracy of each split with its interval and chance level; `kind` names clips."""
    lines = []
    if broken := results["train"].get("num_broken"):
        number = results["train"]["num_videos"]
        lines.append(f"train:      {broken} of {number} {kind} cannot be read and were left out (see results.json)")
    for name in ("validation", "test"):
        if name in results:
            low, high = results[name]["accuracy_interval"]
            lines.append(
                f"{name + ':':11} {results[name]['accuracy']:.1%} right (95 %: {low:.1%} to {high:.1%}; "
                f"{results[name]['num_videos']} {kind}; chance {results['chance']:.1%})"
            )
            if results[name]["num_broken"]:
                lines.append(f"            {results[name]['num_broken']} more cannot be read and do not count")
    return lines


def summary(results: Mapping[str, Any], folder: str | Path, *, kind: str = "clips") -> str:
    """A few lines: the chosen step and probe, and the accuracy of each split with its interval and chance level."""
    chosen = results["chosen"]
    lines = ["", f"step:       {chosen['step']} of {chosen['steps']}"]
    if "probe" in chosen:
        rates = f"learning rate {chosen['learning_rate']:g}, weight decay {chosen['weight_decay']:g}"
        number = max(len(results["probes"]), 1)
        lines.append(f"probe:      {rates}" + (f", the best of {number}" if number > 1 else ""))
    lines += split_lines(results, kind=kind)
    lines += [f"{'note:':11} {note}" for note in _notes(results, kind=kind)]
    loaders = "AutoModelForVideoClassification and AutoModelForImageClassification"
    lines.append(f"model:      {folder}   ({loaders} load it)")
    return "\n".join(lines)


def _notes(results: Mapping[str, Any], *, kind: str) -> list[str]:
    """Warnings about results that may mislead."""
    chosen, validation = results["chosen"], results.get("validation")
    notes = []
    if validation is None:
        return notes
    is_perfect = validation["accuracy"] == 1
    if chosen["still_improving"] and not is_perfect:
        notes.append("still getting better at the end: train longer (--num_train_epochs, --min_steps)")
    if len(results["probes"]) < 2:
        return notes
    if validation["num_videos"] < _FEW_CLIPS:
        notes.append(
            f"{validation['num_videos']} {kind} are few to choose among {len(results['probes'])} probes: give more "
            f"{kind}, or fix --learning_rates and --weight_decays beforehand"
        )
        return notes
    rates = sorted({probe["learning_rate"] for probe in results["probes"]})
    if len(rates) > 1 and chosen["learning_rate"] in (rates[0], rates[-1]) and not is_perfect:
        notes.append("the best learning rate is at the edge of the range: try values beyond it")
    if "test" not in results:
        notes.append(f"the probe was chosen on the validation {kind}, whose accuracy is therefore a little too high")
    return notes
