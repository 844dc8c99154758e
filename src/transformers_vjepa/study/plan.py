"""
The plan of a study: its runs, clips and measurements.

A study is a folder. Every run and every evaluation writes its result there as soon as it is known, so an interrupted
study continues with what is missing.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import SAFE_WEIGHTS_NAME

from ..analysis.baselines import BASELINES
from ..analysis.read_outs import CLOSED_FORM, PROBES, encode_clips, labelled_subset, read_out
from ..data.corpus import IndexedCorpus
from ..data.evaluation_clips import read_evaluation_clips
from ..data.synthetic import APPEARANCES, MOTIONS, load_labels
from ..evaluation.statistics import accuracy_interval
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.modeling_vjepa import VJEPAModel
from ..pretraining.collapse import center_over_clips, effective_rank
from ..safety.atomic_files import atomic_path, write_text_atomically
from ..safety.file_hashes import file_hash
from ..safety.safe_loading import read_checkpoint
from .kinds import VIDEOS, StudyKind

#: The arms with other masks are trained for this share of the steps.
MASK_SHARE = 1 / 3
#: Share of a run from one kept checkpoint to the next.
SAVE_SHARE = 0.2
#: Pairs of clips for each kind of disturbance; a multiple of 40 gives each pair of labels equally often.
SURPRISE_PAIRS = 200


@dataclass(frozen=True)
class Job:
    """One run and its evaluation; the baselines have no seed."""

    arm: str
    seed: int | None = None

    @property
    def name(self) -> str:
        return self.arm if self.seed is None else f"{self.arm}-seed{self.seed}"


def jobs(kind: StudyKind, arms: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """
    All jobs of a study. The long runs of all seeds come first, so that no core is idle for long at the end.

    Raises:
        ValueError: an unknown arm, no seed, or a repeated seed.
    """
    if unknown := [arm for arm in arms if arm not in kind.choices]:
        raise ValueError(f"unknown arm {unknown[0]!r}: choose from {', '.join(kind.choices)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)}: give at least one seed, and each seed once")
    groups = (kind.main, "pixels"), (*kind.short_arms, "untrained")
    runs = [Job(arm, seed) for group in groups for seed in seeds for arm in group if arm in arms]
    return runs + [Job("baselines")] * ("baselines" in arms)


# Clips and labels


@dataclass(frozen=True)
class StudyClips:
    """
    The clips of a study.

    Args:
        clips: by split (`train`, `test`): uint8 (clips, frames, height, width, 3).
        labels: by task and split: int64 (clips,).
        classes: names by task.
    """

    clips: dict[str, torch.Tensor]
    labels: dict[str, dict[str, torch.Tensor]]
    classes: dict[str, list[str]]

    def save(self, path: Path) -> None:
        # Through a file: from a path, torch would write the temporary name into the file.
        with atomic_path(path, shared=True) as unfinished, open(unfinished, "wb") as file:
            torch.save(vars(self), file)

    @classmethod
    def load(cls, path: Path) -> "StudyClips":
        return cls(**read_checkpoint(path))  # memory-mapped: all processes share one copy


def built_in_clips(
    root: Path, *, crop_size: int, sampling: ClipSampling, tasks: Sequence[str] = VIDEOS.tasks
) -> StudyClips:
    """The clips of a built-in corpus ([`~data.synthetic.build_corpus`]), with the tasks `motion` and `appearance`."""
    names = {"motion": MOTIONS, "appearance": APPEARANCES}
    classes = {task: list(names[task]) for task in tasks}
    clips, labels = {}, {task: {} for task in classes}
    for split in ("train", "test"):
        records = {record.path.name: record for record in load_labels(root, split=split)}
        source = str(root / split)
        clips[split], _, paths = read_evaluation_clips(source, crop_size=crop_size, sampling=sampling)
        found = [records[Path(path).name] for path in paths]
        for task, names in classes.items():
            labels[task][split] = torch.tensor([names.index(getattr(record, task)) for record in found])
    return StudyClips(clips, labels, classes)


def labelled_clips(splits: Mapping[str, IndexedCorpus], *, crop_size: int, sampling: ClipSampling) -> StudyClips:
    """
    The clips of a real corpus, with the one task `label`, from the splits `train` and `test`. Every clip has
    a label, the place of its class in `class_names`.

    Raises:
        ValueError: a class of the test clips has no training clip.
    """
    clips, labels = {}, {}
    for split in ("train", "test"):
        clips[split], labels[split], _ = read_evaluation_clips(splits[split], crop_size=crop_size, sampling=sampling)
    if unseen := sorted(set(labels["test"].tolist()) - set(labels["train"].tolist())):
        raise ValueError(f"no training clip has the labels {unseen[:5]} of test clips: choose other splits")
    return StudyClips(clips, {"label": labels}, {"label": list(splits["train"].class_names)})


# Measurements


@dataclass(frozen=True)
class Measurement:
    """One accuracy: of a model after `step` steps, with a read-out trained on about `labels` labelled clips."""

    step: int | None
    labels: int
    task: str
    read_out: str


def kept_steps(steps: int) -> list[int]:
    """Steps at which a run that saves every `SAVE_SHARE` keeps a checkpoint, without the last step."""
    return list(range(math.ceil(steps * SAVE_SHARE), steps, math.ceil(steps * SAVE_SHARE)))


def measurements(
    kind: StudyKind, arm: str, *, steps: int | None, tasks: Iterable[str], labels: int, label_counts: Sequence[int]
) -> list[Measurement]:
    """
    All measurements of a run of `arm`, each once.

    Args:
        steps: of the run; 0 for the untrained network, `None` for baselines.
        labels: labelled clips of the main table.
        label_counts: numbers of labelled clips to compare.
    """
    wanted = []
    for task in tasks:
        if kind.arms[arm].is_baseline:
            counts = (labels, max(label_counts))
            wanted += [Measurement(steps, count, task, form) for count in counts for form in CLOSED_FORM]
            continue
        wanted += [Measurement(steps, labels, task, form) for form in (*CLOSED_FORM, *PROBES)]
        if arm in kind.label_arms:
            wanted += [Measurement(steps, count, task, form) for count in label_counts for form in kind.read_outs]
        if arm == kind.main:
            wanted += [Measurement(step, labels, task, form) for step in kept_steps(steps) for form in kind.read_outs]
    return list(dict.fromkeys(wanted))


#: Returns the features of both splits for a measurement, and further values of its row.
Features = Callable[[Measurement], tuple[dict[str, torch.Tensor], dict[str, Any]]]


def evaluate(
    wanted: Sequence[Measurement],
    features: Features,
    clips: StudyClips,
    *,
    arm: str,
    seed: int | None,
    path: Path,
    probe_steps: int,
    weights: Mapping[int | None, str],
) -> list[dict[str, Any]]:
    """
    Rows of `study.json`. Rows of an earlier call are read from `path`, except those of other weights; each new row is
    written there at once.

    Args:
        seed: also selects the labelled clips; `None` selects like 0.
        path: a JSON file of this arm and seed.
        probe_steps: see [`~analysis.read_outs.read_out`].
        weights: hash of the model after each step, see [`model_hash`]; nothing of baselines.
    """
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = [row for row in rows if row.get("weights") == weights.get(row["step"])]
    done = {tuple(row[name] for name in Measurement.__dataclass_fields__) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    for item in wanted:
        if tuple(asdict(item).values()) in done:
            continue
        both, details = features(item)
        labels = {split: values.numpy() for split, values in clips.labels[item.task].items()}
        chosen = labelled_subset(labels["train"], count=item.labels, seed=seed or 0)
        known = both["train"][torch.from_numpy(chosen)], labels["train"][chosen]
        asked = both["test"], labels["test"]
        hits = read_out(item.read_out, *known, *asked, seed=seed or 0, probe_steps=probe_steps)
        found = {"arm": arm, "seed": seed, **asdict(item), **scores(hits), **details}
        rows.append(found | ({"weights": weights[item.step]} if item.step in weights else {}))
        write_text_atomically(path, json.dumps(rows))
    return rows


def scores(hits: np.ndarray) -> dict[str, Any]:
    """Accuracy and its interval (Wilson, 95 %) in percent, and `hits` as a string of 0 and 1."""
    low, high = accuracy_interval(int(hits.sum()), len(hits))
    text = "".join("1" if hit else "0" for hit in hits)
    return {"accuracy": 100 * float(hits.mean()), "low": 100 * low, "high": 100 * high, "hits": text}


def model_folder(folder: Path, *, step: int, steps: int) -> Path:
    """Where the model of a run is after a step: at its end (`steps`) in the folder of the run, or in a checkpoint."""
    return folder if step == steps else folder / f"checkpoint-{step}"


def model_hash(folder: Path) -> str:
    """SHA-256, in hexadecimal, of the weights in a folder."""
    return file_hash(folder / SAFE_WEIGHTS_NAME)


def model_features(folder: Path, clips: StudyClips, *, steps: int) -> Features:
    """Features of the target encoder of a run, at its end (`steps`) or of a kept checkpoint; keeps the last ones."""
    last: dict[int, tuple] = {}

    def features(item: Measurement) -> tuple:
        if item.step not in last:
            last.clear()
            path = model_folder(folder, step=item.step, steps=steps)
            model = VJEPAModel.from_pretrained(path, add_predictor=False)
            both = {split: encode_clips(model, pixels) for split, pixels in clips.clips.items()}
            tokens = both["test"].flatten(1, 2)
            normalised = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:])
            last[item.step] = both, {"rank": effective_rank(center_over_clips(normalised)).item()}
        return last[item.step]

    return features


def baseline_features(name: str, clips: StudyClips) -> Features:
    """Descriptors of a baseline, the same for every measurement."""
    both = {split: BASELINES[name](pixels) for split, pixels in clips.clips.items()}
    return lambda item: (both, {})
