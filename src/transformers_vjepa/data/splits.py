"""Training, validation and test clips: stratified shares, folds of whole groups, splits of corpora, and manifests."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from transformers.utils import logging

from ..models.vjepa.decoding import natural_order
from ..safety.sanitizing import without_secrets
from .class_numbers import are_numbers, as_number, check_distinct
from .corpora import open_corpus
from .corpus import IndexedCorpus, RelabelledCorpus, SubsetCorpus
from .file_corpus import frame_folders
from .labels import align_labels
from .table_corpus import SequentialCorpus

logger = logging.get_logger(__name__)


class SplitError(ValueError):
    """A split that is impossible, or that would leave a class, a fold or a part empty."""


# Shares of every class


def _check_fraction(fraction: float, *, upper_is_open: bool) -> None:
    if not 0 < fraction <= 1 or (upper_is_open and fraction == 1):
        raise SplitError(f"fraction={fraction} must lie in (0, 1{')' if upper_is_open else ']'}")


def _shuffled_classes(labels: Sequence[int], *, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Each class with the indices of its clips, in an order that depends only on the seed and the class."""
    labels = np.asarray(labels)
    if len(labels) == 0:
        raise SplitError("there are no clips to split: check the data set, and the selection from it")
    if (unknown := int((labels < 0).sum())) > 0:
        raise SplitError(f"{unknown} of {len(labels)} clips have no label: leave them out, or label them")
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        yield int(label), np.random.default_rng([seed, int(label)]).permutation(members)


def _name(label: int, class_names: Sequence[str]) -> str:
    return repr(class_names[label]) if label < len(class_names) else str(label)


def stratified_fraction(
    labels: Sequence[int], *, fraction: float, seed: int, class_names: Sequence[str] = ()
) -> np.ndarray:
    """
    Choose a share of the clips of every class, rounded half up to whole clips. With the same seed a smaller fraction
    is a part of a larger one.

    Args:
        labels: class of every clip, 0 or more.
        fraction: in (0, 1].
        seed: determines the choice.
        class_names: names for errors.

    Returns:
        Indices of the chosen clips, ascending.

    Raises:
        SplitError: a class would keep no clip, there are no clips or no labels, or the fraction is out of range.
    """
    _check_fraction(fraction, upper_is_open=False)
    chosen = []
    for label, members in _shuffled_classes(labels, seed=seed):
        keep = int(len(members) * fraction + 0.5)
        if keep == 0:
            raise SplitError(
                f"class {_name(label, class_names)} has {len(members)} clips and would keep none at "
                f"fraction={fraction:g}: use at least {0.5 / len(members):.4g}, or add clips"
            )
        chosen.append(members[:keep])
    return np.sort(np.concatenate(chosen))


def stratified_split(
    labels: Sequence[int], *, fraction: float, seed: int, class_names: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """
    Hold out a share of every class, rounded half up, but at least one clip and never all clips.

    Args:
        labels, seed, class_names: see [`stratified_fraction`].
        fraction: share to hold out, in (0, 1).

    Returns:
        Indices of the remaining clips, and of the held-out clips; ascending.

    Raises:
        SplitError: a class of one clip, no clips, no labels, or a fraction out of range.
    """
    _check_fraction(fraction, upper_is_open=True)
    rest, held_out = [], []
    for label, members in _shuffled_classes(labels, seed=seed):
        if len(members) < 2:
            raise SplitError(
                f"class {_name(label, class_names)} has 1 clip, which cannot be on both sides of a split: add clips, "
                "or give a separate validation set"
            )
        count = min(max(int(len(members) * fraction + 0.5), 1), len(members) - 1)
        held_out.append(members[:count])
        rest.append(members[count:])
    return np.sort(np.concatenate(rest)), np.sort(np.concatenate(held_out))


# Groups and folds


def groups_from_names(names: Sequence[str], *, pattern: str) -> list[str]:
    """
    Read the group of every clip, for example the recording that contains the clip, from the name of the clip.

    Args:
        names: paths or names.
        pattern: regular expression that is searched in each name; its only pair of parentheses matches the group.

    Raises:
        SplitError: an invalid pattern, another number of parentheses, or a name that the pattern does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SplitError(f"{pattern!r} is not a regular expression: {error}") from error
    if expression.groups != 1:
        raise SplitError(f"{pattern!r} has {expression.groups} brackets: put exactly one around the group's name")
    groups = []
    for name in names:
        match = expression.search(name)
        if match is None:
            raise SplitError(f"{pattern!r} does not match {name!r}: every clip needs a group")
        groups.append(match[1])
    return groups


def group_folds(groups: Sequence[str], *, num_folds: int) -> list[np.ndarray]:
    """
    Folds of whole groups, for a cross-validation that never divides a group. The group names are sorted in natural
    order (2 before 10) and cut into runs; their numbers of groups differ by at most one, longer runs first.

    Args:
        groups: name of the group of every clip.
        num_folds: at least 2.

    Returns:
        For every fold the indices of its held-out clips, ascending.

    Raises:
        SplitError: fewer groups than folds, or fewer than two folds.
    """
    names = sorted(set(groups), key=natural_order)
    if num_folds < 2:
        raise SplitError(f"num_folds={num_folds} must be at least 2")
    if len(names) < num_folds:
        raise SplitError(f"{len(names)} groups do not make {num_folds} folds: use at most {len(names)}")
    return [np.flatnonzero(np.isin(groups, run)) for run in np.array_split(names, num_folds)]


# Splits of labelled corpora


@dataclass(frozen=True)
class SplitPlan:
    """
    How to divide a labelled corpus.

    Args:
        validation_fraction: share of the clips (of each class, or of the groups) for validation, which chooses among
            probes and checkpoints; 0 for none.
        num_folds, fold: test on fold `fold` (from 0) of the groups.
        group_pattern: regular expression with one group that finds the group of a clip in its path, for example the
            recording that contains the clip; the clips of a group stay together.
        train_fraction: share of the training clips of each class to use.
        seed: determines the choice of clips; with groups, the number of the fold for validation.

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
                raise SplitError("folds consist of groups: give a group_pattern, such as 'take(\\d+)'")
            if not 0 <= self.fold < self.num_folds:
                raise SplitError(f"fold={self.fold} must lie in [0, num_folds={self.num_folds})")


def open_labelled_corpus(
    source: str, *, split: str = "train", video_column: str | None = None, label_column: str | None = None
) -> IndexedCorpus:
    """
    Open a corpus in which every clip has a label.

    Raises:
        FileNotFoundError, ValueError: see [`open_corpus`]; a corpus that can only be streamed, that is empty, with
            clips that have no label, or with two classes whose names are one name in two spellings.
    """
    corpus = open_corpus(source, split=split, video_column=video_column, label_column=label_column)
    if isinstance(corpus, SequentialCorpus):
        raise ValueError(f"{source!r} can only be streamed, but splits need all labels: download it first")
    if len(corpus) == 0:
        raise SplitError(f"{source} holds no clips: give another folder or index")
    unlabelled = np.flatnonzero(corpus.labels < 0)
    if len(unlabelled):
        raise ValueError(
            f"{len(unlabelled)} of {len(corpus)} clips of {source} have no label, the first is "
            f"{corpus.describe(int(unlabelled[0]))}: put the clips of each class into a folder with its name, or give "
            "an index with 'path label' per line, or name the column of the labels of a table (label_column)"
        )
    check_distinct(corpus.class_names, source=without_secrets(str(source)))
    return corpus


def split_corpus(
    corpus: IndexedCorpus, plan: SplitPlan, *, has_validation: bool, has_test: bool
) -> dict[str, np.ndarray]:
    """
    Indices of `"train"`, and of `"validation"` and `"test"` if the plan takes them from this corpus.

    Args:
        has_validation, has_test: whether these clips come from another data set.

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
            raise SplitError(f"a test data set and num_folds={plan.num_folds} were given: choose one of them")
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
    """Indices of the remaining clips, and of the validation clips."""
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
    label_column: str | None = None,
) -> dict[str, IndexedCorpus]:
    """
    The corpora `"train"` and, if the plan or the arguments give them, `"validation"` and `"test"`.

    Raises:
        FileNotFoundError, ValueError: see [`open_labelled_corpus`] and [`split_corpus`].
    """
    corpus = open_labelled_corpus(dataset, video_column=video_column, label_column=label_column)
    others = {"validation": validation_dataset, "test": test_dataset}
    opened = {
        name: open_labelled_corpus(source, split=name, video_column=video_column, label_column=label_column)
        for name, source in others.items()
        if source
    }
    parts = split_corpus(corpus, plan, has_validation="validation" in opened, has_test="test" in opened)
    if len(parts) > 1 and plan.group_pattern is None and (frames := frame_folders(corpus)):
        raise SplitError(
            f"{len(frames)} folders of {dataset}, such as {frames[0]}, hold numbered images, as the frames of a video "
            "do, which a split would divide: list the folders in an index ('folder,class' in each line) to read each "
            "as a video, or keep the images of a folder together (--group_pattern '(.+)/'), or split single images "
            "(--group_pattern '(.+)')"
        )
    for name, indices in parts.items():
        if len(indices) == 0:
            raise SplitError(f"the {name} split of {dataset} is empty: {len(corpus)} clips are too few for this plan")
    splits = {name: SubsetCorpus(corpus, indices) for name, indices in parts.items()} | opened
    _warn_of_shared_clips(splits)
    return splits


def _warn_of_shared_clips(splits: dict[str, IndexedCorpus]) -> None:
    """Separate data sets may contain the same files."""
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


def class_names_of(corpora: dict[str, IndexedCorpus]) -> list[str]:
    """
    The names of the classes of the training clips, by class. Without names these are the numbers that occur as labels
    of any split, in ascending order: `["0", "5", "11"]`.
    """
    if names := corpora["train"].class_names:
        return list(names)
    numbered = (corpus.labels for corpus in corpora.values() if not corpus.class_names)
    return [str(number) for number in np.unique(np.concatenate([*numbered]))]


def with_classes(corpora: dict[str, IndexedCorpus], names: Sequence[str]) -> dict[str, IndexedCorpus]:
    """
    The splits with the classes of a model as labels, see [`align_labels`].

    Args:
        corpora: the splits, with `"train"`.
        names: names of the classes of the model.

    Raises:
        ValueError: labels that the model does not have, or without a training clip.
    """
    splits = {
        name: RelabelledCorpus(corpus, align_labels(corpus, names), class_names=names)
        for name, corpus in corpora.items()
    }
    known = set(splits["train"].labels.tolist())
    for name, corpus in splits.items():
        if untrained := sorted(set(corpus.labels.tolist()) - known):
            classes = ", ".join(names[label] for label in untrained[:5])
            raise SplitError(
                f"{len(untrained)} classes of the {name} split have no training clip ({classes}): "
                "add training clips of these classes, or leave the classes out"
            )
    return splits


# Manifests


def _manifest_lines(corpus: IndexedCorpus) -> Iterator[bytes]:
    labels = corpus.labels.tolist()
    if are_numbers(corpus.class_names):  # classes are matched by these numbers wherever the manifest is read
        labels = [label if label < 0 else as_number(corpus.class_names[label]) for label in labels]
    for index, label in enumerate(labels):
        name = corpus.describe(index)
        if "\n" in name or "\r" in name:
            raise SplitError(f"{name!r} has a line break, which a manifest cannot hold: rename the file")
        yield os.fsencode(f"{_full_name(corpus, index)} {label}\n")


def manifest_hash(corpus: IndexedCorpus) -> str:
    """SHA-256, in hexadecimal, of the manifest that [`write_manifest`] would write: of paths and labels."""
    digest = hashlib.sha256()
    for line in _manifest_lines(corpus):
        digest.update(line)
    return digest.hexdigest()


def write_manifest(corpus: IndexedCorpus, path: str | os.PathLike) -> None:
    """
    Record which clips a corpus holds, in the published index format: "path label" per line, -1 for an unknown label,
    with absolute paths. The label of a class whose name is a number is this number. If the clips are files, the
    manifest is itself a data set for `--dataset`. Clips in tars and Parquet are named as `file::member`.

    Args:
        corpus: the corpus to record.
        path: the file; missing folders are created.

    Raises:
        SplitError: a path with a line break.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.writelines(_manifest_lines(corpus))


def write_manifests(corpora: dict[str, IndexedCorpus], folder: Path) -> None:
    """Write `train.csv`, `validation.csv` and `test.csv`; each is a data set by itself."""
    for name, corpus in corpora.items():
        write_manifest(corpus, folder / f"{name}.csv")
