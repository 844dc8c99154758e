"""What a classification run leaves behind: the model, what it predicts, how good that is, and what made it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedConfig

from .classification_trainer import (
    IGNORED,
    UnusableSplitError,
    VJEPAClassificationArguments,
    VJEPAClassificationTrainer,
    probe_scores,
    scores_of,
)
from .corpora import IndexedCorpus
from .features import FeatureStore
from .modeling_vjepa import VJEPAForVideoClassification
from .prediction_report import Predictions, write_report
from .probing import best_probe
from .shards import describe_change
from .visualization import plot_training_curves

# Arguments of training that a resumed run must share with the one it continues.
_FIXED = (
    "num_train_epochs max_steps min_steps learning_rate weight_decay learning_rates weight_decays lr_scheduler_type "
    "warmup_steps max_grad_norm label_smoothing_factor layer_decay mixup cutmix seed"
).split()


# Validation clips below which the choice between probes is mostly a matter of luck: one standard error of an accuracy
# is above 5 points.
_FEW_CLIPS = 100


class OtherRunError(ValueError):
    """A checkpoint of a run with other settings."""


def check_same_run(
    training: VJEPAClassificationArguments,
    settings: Mapping[str, Any],
    manifests: Mapping[str, str],
    *,
    resumes: bool,
) -> dict[str, Any]:
    """
    Records in `run.json` what makes a run, or compares it with the run that is to be resumed.

    Args:
        training: training arguments.
        settings: all other arguments.
        manifests: hash of the clips of each split.
        resumes: whether the output folder holds that run.

    Returns:
        The record.

    Raises:
        OtherRunError: it differs; the message lists what.
    """
    clips = training.per_device_train_batch_size * training.world_size * training.gradient_accumulation_steps
    values = {name: getattr(training, name) for name in _FIXED} | {"clips_per_step": clips}
    # As they come back from the file.
    record = json.loads(json.dumps({"settings": {**settings, **values}, "manifests": manifests}))
    path = Path(training.output_dir) / "run.json"
    if resumes and path.is_file():
        there = json.loads(path.read_text())
        old, new = (
            {**each["settings"], **{f"clips of {name}": value for name, value in each["manifests"].items()}}
            for each in (there, record)
        )
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if names:
            changes = "; ".join(describe_change(name, old.get(name), new.get(name)) for name in names)
            raise OtherRunError(f"{training.output_dir} holds another run: {changes}. Choose another --output_dir")
    elif training.process_index == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
    return record


def check_classes(features: FeatureStore, config: PreTrainedConfig, expected: Sequence[int]) -> None:
    """
    Raises:
        UnusableSplitError: a class of whose training clips none could be read.
    """
    lost = sorted(set(expected) - set(features.labels.tolist()))
    if lost:
        raise UnusableSplitError(
            f"no training clip of {', '.join(config.id2label[label] for label in lost[:5])} can be read, the first "
            f"broken one is {features.broken[0][1]} ({features.broken[0][2]}): repair them, or leave the class out"
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
    Writes the model of a trained classifier into its output folder, a folder of its own for what it predicts of every
    split (see [`~prediction_report.write_report`]), `curves.png` and `results.json`. All processes call it.

    Args:
        trainer: after training.
        model: takes the best probe; for fine-tuning the model that was trained.
        corpora: of every split.
        datasets: what to evaluate, by split: `"validation"` chooses the probe, `"test"` does not.
        run: what `check_same_run` returned.

    Returns:
        What to tell the user.
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
    results: dict[str, Any] = {
        "chosen": chosen,
        "chance": 1 / len(set(corpora["train"].labels.tolist())),
        "train": {
            "num_videos": len(corpora["train"]),
            **_broken_in_training(trainer.train_dataset),
            "manifest": run["manifests"]["train"],
        },
    }
    folder = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
        trainer.save_image_processor(folder)
        for name, (logits, labels) in kept.items():
            results[name] = write_report(
                [Predictions(_paths(datasets[name], readable[name]), labels, _probabilities(logits))],
                folder / name,
                class_names=[model.config.id2label[label] for label in range(model.config.num_labels)],
                broken=_broken(datasets[name], readable[name]),
                details={
                    "cross_entropy": scores_of(logits, labels)["cross_entropy"],
                    "manifest": run["manifests"][name],
                },
            )
        if any("loss" in entry for entry in trainer.state.log_history):
            plot_training_curves(trainer.state.log_history, folder / "curves.png", title=_title(trainer))
        (folder / "results.json").write_text(json.dumps({**results, "probes": probes, **run}, indent=2) + "\n")
    trainer.accelerator.wait_for_everyone()
    return summary({**results, "probes": probes}, folder)


def _title(trainer: VJEPAClassificationTrainer) -> str:
    """Of the curves: one probe may be the best at one evaluation, and another at the next."""
    number = len(trainer.model.settings) if trainer.is_probing else 1
    return f"Training of {number} probes: at each evaluation the best of them" if number > 1 else "Training"


def _choose(trainer: VJEPAClassificationTrainer, kept: Mapping[str, tuple]) -> tuple[dict[str, Any], list[dict]]:
    """What was chosen on the validation clips, and what it was chosen from."""
    chosen: dict[str, Any] = {
        "step": trainer.final_step,
        "steps": trainer.args.max_steps,
    }
    if "validation" in kept:
        chosen["still_improving"] = still_improving(trainer.state.log_history, num_clips=len(kept["validation"][1]))
    if not trainer.is_probing:
        return chosen, []
    settings = trainer.model.settings
    probes = probe_scores(*kept["validation"], settings) if "validation" in kept else []
    best = best_probe([probe["selection_score"] for probe in probes], settings) if probes else 0
    rates = {"learning_rate": settings[best].learning_rate, "weight_decay": settings[best].weight_decay}
    return {"probe": best, **rates, **chosen}, probes


def still_improving(log_history: Sequence[Mapping[str, Any]], *, num_clips: int) -> bool:
    """
    Whether the accuracy at the end is above all of the first three quarters of the run by more than its standard
    error, so that a longer run is likely to help.

    Args:
        log_history: as of a `TrainerState`: evaluations have `step` and `eval_accuracy`.
        num_clips: that are evaluated.
    """
    evaluations = [(entry["step"], entry["eval_accuracy"]) for entry in log_history if "eval_accuracy" in entry]
    if not evaluations:
        return False
    end, last = evaluations[-1]
    before = [accuracy for step, accuracy in evaluations if step <= 0.75 * end]
    return bool(before) and last - max(before) > math.sqrt(last * (1 - last) / num_clips)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(dim=-1).numpy()


def _paths(dataset: Dataset, readable: np.ndarray) -> list[str]:
    """Names of the clips that could be read."""
    if isinstance(dataset, FeatureStore):
        return list(dataset.paths)
    return [dataset.corpus.describe(index) for index in np.flatnonzero(readable).tolist()]


def _broken_in_training(dataset: Dataset) -> dict[str, Any]:
    """Training clips that could not be read; of a stream, which names them in the log, it is not known (`None`)."""
    if not isinstance(dataset, FeatureStore):
        return {"num_broken": None, "broken": None}
    return {"num_broken": len(dataset.broken), "broken": _stored_broken(dataset)}


def _stored_broken(store: FeatureStore) -> list[dict[str, str]]:
    return [{"path": path, "error": error} for _, path, error in store.broken]


def _broken(dataset: Dataset, readable: np.ndarray) -> list[dict[str, str]]:
    if isinstance(dataset, FeatureStore):
        return _stored_broken(dataset)
    items = (dataset[index] for index in np.flatnonzero(~readable).tolist())
    return [{"path": item["path"], "error": item["error"]} for item in items]


def summary(results: Mapping[str, Any], folder: str | Path) -> str:
    """A few lines: what was chosen, and every accuracy with its interval beside chance."""
    chosen = results["chosen"]
    lines = ["", f"step:       {chosen['step']} of {chosen['steps']}"]
    if "probe" in chosen:
        rates = f"learning rate {chosen['learning_rate']:g}, weight decay {chosen['weight_decay']:g}"
        number = max(len(results["probes"]), 1)
        lines.append(f"probe:      {rates}" + (f", the best of {number}" if number > 1 else ""))
    if broken := results["train"].get("num_broken"):
        number = results["train"]["num_videos"]
        lines.append(f"train:      {broken} of {number} clips cannot be read and were left out (see results.json)")
    for name in ("validation", "test"):
        if name in results:
            low, high = results[name]["accuracy_interval"]
            lines.append(
                f"{name + ':':11} {results[name]['accuracy']:.1%} right (95 %: {low:.1%} to {high:.1%}; "
                f"{results[name]['num_videos']} clips; chance {results['chance']:.1%})"
            )
            if results[name]["num_broken"]:
                lines.append(f"            {results[name]['num_broken']} more cannot be read and do not count")
    lines += [f"{'note:':11} {note}" for note in _notes(results)]
    loaders = "AutoModelForVideoClassification and AutoModelForImageClassification"
    lines.append(f"model:      {folder}   ({loaders} load it)")
    return "\n".join(lines)


def _notes(results: Mapping[str, Any]) -> list[str]:
    """What may mislead in the results."""
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
            f"{validation['num_videos']} clips are few to choose among {len(results['probes'])} probes by: give more, "
            "or fix --learning_rates and --weight_decays beforehand"
        )
        return notes
    rates = sorted({probe["learning_rate"] for probe in results["probes"]})
    if len(rates) > 1 and chosen["learning_rate"] in (rates[0], rates[-1]) and not is_perfect:
        notes.append("the best learning rate is at the edge of those tried: try others beyond it")
    if "test" not in results:
        notes.append("the probe was chosen on the validation clips, whose accuracy is therefore a little too good")
    return notes


__all__ = ["OtherRunError", "check_same_run", "finish_run", "still_improving", "summary", "check_classes"]
