"""
The paper's findings in miniature: which runs are compared, what is read off each, and what follows from it.

A study is a folder. Every run and every evaluation leaves its result there as soon as it has it, so a study that was
interrupted does only what is missing; `study.json` is made of them at the end.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..analysis.baselines import BASELINES
from ..analysis.read_outs import CLOSED_FORM, PROBES, encode_clips, labelled_subset, read_out
from ..data.corpora import IndexedCorpus
from ..data.evaluation_clips import read_evaluation_clips
from ..data.synthetic import APPEARANCES, MOTIONS, load_labels
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.modeling_vjepa import VJEPAModel
from ..pretraining.collapse import center_over_clips, effective_rank
from ..safety.atomic_files import atomic_path, write_text_atomically
from ..safety.safe_loading import read_checkpoint
from .results import scores

#: What each arm changes of the recipe, as arguments of pretrain.py. The first is V-JEPA itself; pixels do not
#: collapse, so their arm goes without the terms against it.
TRAINED_ARMS: dict[str, tuple[str, ...]] = {
    "vjepa": (),
    "pixels": (
        *("--prediction_target", "pixels"),
        *("--context_variance_weight", "0", "--context_covariance_weight", "0"),
    ),
    "multiblock": (),
    "random_tube": ("--mask_strategy", "random_tube"),
    "causal": ("--mask_strategy", "causal_multiblock_6"),
    "published_truncation": ("--mask_truncation", "published"),
}
#: Masks are compared with one another in shorter runs (`MASK_SHARE` of the steps): `multiblock` is V-JEPA's among
#: them.
MASK_ARMS = ("multiblock", "random_tube", "causal", "published_truncation")
MASK_SHARE = 1 / 3
ARMS = (*TRAINED_ARMS, "untrained", "baselines")
# Arms whose need of labels is compared.
_LABEL_ARMS = ("vjepa", "untrained", "pixels")
#: The read-outs in which arms, label counts and checkpoints are compared.
MAIN_READ_OUTS = ("ridge", "attentive")
#: Share of a run from one kept checkpoint to the next.
SAVE_SHARE = 0.2


@dataclass(frozen=True)
class Job:
    """One run and its evaluation; the hand-made baselines have no seed."""

    arm: str
    seed: int | None = None

    @property
    def name(self) -> str:
        return self.arm if self.seed is None else f"{self.arm}-seed{self.seed}"


def jobs(arms: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """
    Everything there is to do, longest first.

    Raises:
        ValueError: an arm that does not exist, no seed, or one twice.
    """
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise ValueError(f"unknown arm {unknown[0]!r}: choose of {', '.join(ARMS)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)}: give at least one, and each once")
    # The long ones of all seeds first: a short one at the end leaves no core idle for long.
    runs = [Job(arm, seed) for seed in seeds for arm in ("vjepa", "pixels") if arm in arms]
    runs += [
        Job(arm, seed) for seed in seeds for arm in ARMS if arm in arms and arm not in ("vjepa", "pixels", "baselines")
    ]
    return runs + [Job("baselines")] * ("baselines" in arms)


# --- Clips and labels.


@dataclass(frozen=True)
class StudyClips:
    """
    What models and baselines see.

    Args:
        clips: by split (`train`, `test`): uint8 (clips, frames, height, width, 3).
        labels: by task and split: int64 (clips,).
        classes: names by task.
    """

    clips: dict[str, torch.Tensor]
    labels: dict[str, dict[str, torch.Tensor]]
    classes: dict[str, list[str]]

    def save(self, path: Path) -> None:
        with atomic_path(path, shared=True) as unfinished:
            torch.save(vars(self), unfinished)

    @classmethod
    def load(cls, path: Path) -> "StudyClips":
        return cls(**read_checkpoint(path))  # mapped: one copy in memory, however many processes


def built_in_clips(root: Path, *, crop_size: int, sampling: ClipSampling) -> StudyClips:
    """The clips of a built-in corpus ([`~data.synthetic.build_corpus`]), with the tasks `motion` and `appearance`."""
    classes = {"motion": list(MOTIONS), "appearance": list(APPEARANCES)}
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
    The clips of a real corpus, with the one task `label`.

    Args:
        splits: `train` and `test`, every clip with a label.

    Raises:
        ValueError: a class of the test clips has no training clip.
    """
    clips, labels = {}, {}
    for split in ("train", "test"):
        clips[split], labels[split], _ = read_evaluation_clips(splits[split], crop_size=crop_size, sampling=sampling)
    if strange := sorted(set(labels["test"].tolist()) - set(labels["train"].tolist())):
        raise ValueError(f"test clips have the labels {strange[:5]}, of which no training clip is: split otherwise")
    number = int(labels["train"].max()) + 1
    names = list(getattr(splits["train"], "class_names", ())) or [str(label) for label in range(number)]
    return StudyClips(clips, {"label": labels}, {"label": names})


# --- What is read off which model.


@dataclass(frozen=True)
class Measurement:
    """One accuracy: of a model after `step` steps, read off about `labels` labelled clips."""

    step: int | None
    labels: int
    task: str
    read_out: str


def kept_steps(steps: int) -> list[int]:
    """Steps after which a run that saves every `SAVE_SHARE` keeps a checkpoint, without the last."""
    return list(range(math.ceil(steps * SAVE_SHARE), steps, math.ceil(steps * SAVE_SHARE)))


def measurements(
    arm: str, *, steps: int | None, tasks: Iterable[str], labels: int, label_counts: Sequence[int]
) -> list[Measurement]:
    """
    What is read off a run of `arm`, each once.

    Args:
        steps: of the run; 0 for the untrained network, `None` for baselines.
        labels: labelled clips of the main table.
        label_counts: numbers of labelled clips that are compared.
    """
    wanted = []
    for task in tasks:
        if arm in BASELINES:
            counts = (labels, max(label_counts))
            wanted += [Measurement(steps, count, task, kind) for count in counts for kind in CLOSED_FORM]
            continue
        wanted += [Measurement(steps, labels, task, kind) for kind in (*CLOSED_FORM, *PROBES)]
        if arm in _LABEL_ARMS:
            wanted += [Measurement(steps, count, task, kind) for count in label_counts for kind in MAIN_READ_OUTS]
        if arm == "vjepa":
            wanted += [Measurement(step, labels, task, kind) for step in kept_steps(steps) for kind in MAIN_READ_OUTS]
    return list(dict.fromkeys(wanted))


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
) -> list[dict[str, Any]]:
    """
    Rows of `study.json`, those of an earlier call taken from `path`; every new one is written there at once.

    Args:
        features: gives the features of both splits for a measurement, and what rows should say besides.
        seed: also decides which clips are labelled; `None` takes 0.
        path: a JSON file of this arm and seed.
        probe_steps: see [`~analysis.read_outs.read_out`].
    """
    rows = json.loads(path.read_text()) if path.exists() else []
    done = {tuple(row[name] for name in Measurement.__dataclass_fields__) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    for item in wanted:
        if tuple(asdict(item).values()) in done:
            continue
        both, details = features(item)
        labels = {split: values.numpy() for split, values in clips.labels[item.task].items()}
        chosen = labelled_subset(labels["train"], count=item.labels, seed=seed or 0)
        train_features, train_labels = both["train"][torch.from_numpy(chosen)], labels["train"][chosen]
        hits = read_out(
            item.read_out,
            train_features,
            train_labels,
            both["test"],
            labels["test"],
            seed=seed or 0,
            probe_steps=probe_steps,
        )
        rows.append({"arm": arm, "seed": seed, **asdict(item), **scores(hits), **details})
        write_text_atomically(path, json.dumps(rows))
    return rows


def model_features(folder: Path, clips: StudyClips, *, steps: int) -> Features:
    """Features of the target encoder of a run, at its end (`steps`) or of a kept checkpoint; the last one is kept."""
    last: dict[int, tuple] = {}

    def features(item: Measurement) -> tuple:
        if item.step not in last:
            last.clear()
            path = folder if item.step == steps else folder / f"checkpoint-{item.step}"
            model = VJEPAModel.from_pretrained(path, add_predictor=False)
            both = {split: encode_clips(model, pixels) for split, pixels in clips.clips.items()}
            tokens = both["test"].flatten(1, 2)
            normalised = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:])
            last[item.step] = both, {"rank": effective_rank(center_over_clips(normalised)).item()}
        return last[item.step]

    return features


def baseline_features(name: str, clips: StudyClips) -> Features:
    both = {split: BASELINES[name](pixels) for split, pixels in clips.clips.items()}
    return lambda item: (both, {})


# --- Runs side by side.


__all__ = [
    "ARMS",
    "MAIN_READ_OUTS",
    "MASK_ARMS",
    "MASK_SHARE",
    "SAVE_SHARE",
    "TRAINED_ARMS",
    "Job",
    "Measurement",
    "StudyClips",
    "baseline_features",
    "built_in_clips",
    "evaluate",
    "jobs",
    "kept_steps",
    "labelled_clips",
    "measurements",
    "model_features",
]
