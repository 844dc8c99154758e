"""The clips that a classifier learns from, is chosen by and is tested on: three parts that share nothing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from transformers import PreTrainedConfig
from transformers.utils import logging

from .corpora import EncodedClip, IndexedCorpus, SequentialCorpus, SubsetCorpus, open_corpus
from .evaluation import align_labels
from .splits import (
    SplitError,
    group_folds,
    groups_from_names,
    stratified_fraction,
    stratified_split,
    write_manifest,
)

logger = logging.get_logger(__name__)


class RelabelledCorpus:
    """
    A corpus with other class indices, such as those of a model that knows the classes in another order.

    Args:
        corpus: every clip has a label.
        labels: new label of every label of the corpus.
        class_names: names of the new labels.
    """

    def __init__(self, corpus: IndexedCorpus, labels: Sequence[int], *, class_names: Sequence[str]) -> None:
        self._corpus = corpus
        self._new_labels = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names)

    @property
    def labels(self) -> np.ndarray:
        return self._new_labels[self._corpus.labels]

    def __len__(self) -> int:
        return len(self._corpus)

    def describe(self, index: int) -> str:
        return self._corpus.describe(index)

    def read(self, index: int) -> EncodedClip:
        clip = self._corpus.read(index)
        return clip._replace(label=int(self._new_labels[clip.label]))


@dataclass(frozen=True)
class SplitPlan:
    """
    How a labelled corpus is divided.

    Args:
        validation_fraction: share of the clips (of each class, or of the groups) that chooses between probes and
            checkpoints; 0 for none.
        num_folds, fold: test on fold `fold` (from 0) of the groups.
        group_pattern: regular expression with one group that finds the group of a clip in its path, such as the
            recording it was cut from; clips of a group are never divided.
        train_fraction: share of the training clips of each class that is used.
        seed: draws the clips; with groups it numbers the fold that validates.

    Raises:
        SplitError: a value out of range, or folds without groups.
    """

    validation_fraction: float = 0.2
    num_folds: int | None = None
    fold: int | None = None
    group_pattern: str | None = None
    train_fraction: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise SplitError(f"validation_fraction={self.validation_fraction} must lie in [0, 1)")
        if not 0 < self.train_fraction <= 1:
            raise SplitError(f"train_fraction={self.train_fraction} must lie in (0, 1]")
        if (self.num_folds is None) != (self.fold is None):
            raise SplitError(f"num_folds={self.num_folds} and fold={self.fold} go together: give both or neither")
        if self.num_folds is not None:
            if self.group_pattern is None:
                raise SplitError("folds are made of groups: give a group_pattern, such as 'take(\\d+)'")
            if not 0 <= self.fold < self.num_folds:
                raise SplitError(f"fold={self.fold} must lie in [0, num_folds={self.num_folds})")


def open_labelled(source: str, *, split: str = "train", video_column: str | None = None) -> IndexedCorpus:
    """
    A corpus in which every clip has a label.

    Raises:
        FileNotFoundError, ValueError: see [`open_corpus`]; a corpus that can only be streamed, that is empty, or
            with clips that have no label.
    """
    corpus = open_corpus(source, split=split, video_column=video_column)
    if isinstance(corpus, SequentialCorpus):
        raise ValueError(f"{source!r} can only be streamed, and splits need all labels: download it first")
    if len(corpus) == 0:
        raise SplitError(f"{source} holds no clips: give another folder or index")
    unlabelled = np.flatnonzero(corpus.labels < 0)
    if len(unlabelled):
        raise ValueError(
            f"{len(unlabelled)} of {len(corpus)} clips of {source} have no label, the first is "
            f"{corpus.describe(int(unlabelled[0]))}: put every class into a folder of its name, or give an index with "
            "'path label' per line"
        )
    return corpus


def split_corpus(corpus: IndexedCorpus, plan: SplitPlan, *, has_validation: bool, has_test: bool) -> dict:
    """
    Indices of `"train"`, and of `"validation"` and `"test"` where they come out of this corpus, too.

    Args:
        has_validation, has_test: these clips come from elsewhere.

    Raises:
        SplitError: a part or a class would have no clip; a pattern that does not match.
    """
    labels, names = corpus.labels, corpus.class_names
    rest = np.arange(len(corpus))
    parts: dict[str, np.ndarray] = {}
    groups = None
    if plan.group_pattern is not None:
        paths = [corpus.describe(index) for index in range(len(corpus))]
        groups = np.array(groups_from_names(paths, pattern=plan.group_pattern))
    if plan.num_folds is not None:
        if has_test:
            raise SplitError(f"a test data set and num_folds={plan.num_folds}: choose one of them")
        parts["test"] = group_folds(list(groups), num_folds=plan.num_folds)[plan.fold]
        rest = np.setdiff1d(rest, parts["test"])
    if plan.validation_fraction > 0 and not has_validation:
        kept, held_out = _hold_out(labels[rest], groups[rest] if groups is not None else None, plan, names)
        parts["validation"], rest = rest[held_out], rest[kept]
    if plan.train_fraction < 1:
        rest = rest[stratified_fraction(labels[rest], fraction=plan.train_fraction, seed=plan.seed, class_names=names)]
    return {"train": rest, **parts}


def _hold_out(
    labels: np.ndarray, groups: np.ndarray | None, plan: SplitPlan, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the clips that stay, and of those that validate."""
    if groups is None:
        return stratified_split(labels, fraction=plan.validation_fraction, seed=plan.seed, class_names=names)
    num_folds = max(2, min(round(1 / plan.validation_fraction), len(set(groups))))
    folds = group_folds(list(groups), num_folds=num_folds)
    held_out = folds[plan.seed % len(folds)]
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def labelled_splits(
    dataset: str,
    plan: SplitPlan,
    *,
    validation_dataset: str | None = None,
    test_dataset: str | None = None,
    video_column: str | None = None,
) -> dict[str, IndexedCorpus]:
    """
    Corpora `"train"` and, where there are any, `"validation"` and `"test"`.

    Raises:
        FileNotFoundError, ValueError: see [`open_labelled`] and [`split_corpus`].
    """
    corpus = open_labelled(dataset, video_column=video_column)
    others = {"validation": validation_dataset, "test": test_dataset}
    opened = {
        name: open_labelled(source, split=name, video_column=video_column) for name, source in others.items() if source
    }
    parts = split_corpus(corpus, plan, has_validation="validation" in opened, has_test="test" in opened)
    for name, indices in parts.items():
        if len(indices) == 0:
            raise SplitError(f"the {name} split of {dataset} is empty: {len(corpus)} clips are too few for this plan")
    splits = {name: SubsetCorpus(corpus, indices) for name, indices in parts.items()} | opened
    _warn_of_shared_clips(splits)
    return splits


def _warn_of_shared_clips(splits: dict[str, IndexedCorpus]) -> None:
    """Data sets that are given apart may hold the same files."""
    names = {name: {_full_name(corpus, index) for index in range(len(corpus))} for name, corpus in splits.items()}
    for one, other in combinations(names, 2):
        if shared := names[one] & names[other]:
            logger.warning(
                f"{len(shared)} clips are both in the {one} and in the {other} split, such as {min(shared)}: "
                "results on them say nothing about new clips"
            )


def _full_name(corpus: IndexedCorpus, index: int) -> str:
    name = corpus.describe(index)
    return name if "://" in name else os.path.abspath(name)


def with_model_labels(corpora: dict[str, IndexedCorpus], config: PreTrainedConfig) -> dict[str, IndexedCorpus]:
    """
    The splits with the class indices of the model.

    Raises:
        ValueError: labels that the model does not have, or of which the training clips have none.
    """
    names = [config.id2label[label] for label in range(config.num_labels)]
    splits = {
        name: RelabelledCorpus(corpus, align_labels(corpus, config), class_names=names)
        for name, corpus in corpora.items()
    }
    known = set(splits["train"].labels.tolist())
    for name, corpus in splits.items():
        strange = sorted(set(corpus.labels.tolist()) - known)
        if strange:
            classes = ", ".join(names[label] for label in strange[:5])
            raise SplitError(
                f"{len(strange)} classes of the {name} split have no training clip ({classes}): "
                "give clips of every class to learn from, or leave these out"
            )
    return splits


def write_manifests(corpora: dict[str, IndexedCorpus], folder: Path) -> None:
    """`train.csv`, `validation.csv` and `test.csv`, each a data set by itself."""
    for name, corpus in corpora.items():
        write_manifest(corpus, folder / f"{name}.csv")


__all__ = [
    "RelabelledCorpus",
    "SplitPlan",
    "labelled_splits",
    "open_labelled",
    "split_corpus",
    "with_model_labels",
    "write_manifests",
]
