"""Which videos train and which test: stratified shares, folds of whole groups, and manifests that record them."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .corpora import IndexedCorpus


class SplitError(ValueError):
    """A split that would leave a class, a fold or everything empty."""


def _check_fraction(fraction: float, *, upper_is_open: bool) -> None:
    if not 0 < fraction <= 1 or (upper_is_open and fraction == 1):
        raise SplitError(f"fraction={fraction} must lie in (0, 1{')' if upper_is_open else ']'}")


def _shuffled_classes(labels: Sequence[int], *, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """
    Every class with the indices of its clips in an order that depends on the seed and the class alone, so that a
    smaller share is part of a larger one.
    """
    labels = np.asarray(labels)
    if len(labels) == 0:
        raise SplitError("there are no clips to split: check the data set, and what was selected from it")
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
    A share of the clips of every class, rounded half up to whole clips. With the same seed a smaller fraction is a
    part of a larger one.

    Args:
        labels: class of every clip, 0 or more.
        fraction: in (0, 1].
        seed: what the choice depends on.
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
    A held-out share of every class, rounded half up but at least one clip, and never all of them.

    Args:
        labels: class of every clip, 0 or more.
        fraction: share to hold out, in (0, 1).
        seed: what the choice depends on.
        class_names: names for errors.

    Returns:
        Indices of the rest, and of the clips held out; ascending.

    Raises:
        SplitError: a class of one clip, no clips, no labels, or a fraction out of range.
    """
    _check_fraction(fraction, upper_is_open=True)
    rest, held_out = [], []
    for label, members in _shuffled_classes(labels, seed=seed):
        if len(members) < 2:
            raise SplitError(
                f"class {_name(label, class_names)} has 1 clip, which cannot be on both sides of a split: add clips, "
                "or name a validation set of its own"
            )
        count = min(max(int(len(members) * fraction + 0.5), 1), len(members) - 1)
        held_out.append(members[:count])
        rest.append(members[count:])
    return np.sort(np.concatenate(rest)), np.sort(np.concatenate(held_out))


def groups_from_names(names: Sequence[str], *, pattern: str) -> list[str]:
    """
    The group of every clip, such as the recording it was cut from, read off its name.

    Args:
        names: paths or names.
        pattern: regular expression, searched for, whose one bracket catches the group.

    Raises:
        SplitError: a pattern that is wrong or has another number of brackets, or a name that it does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SplitError(f"{pattern!r} is no regular expression: {error}") from error
    if expression.groups != 1:
        raise SplitError(f"{pattern!r} has {expression.groups} brackets: put exactly one around the group's name")
    groups = []
    for name in names:
        match = expression.search(name)
        if match is None:
            raise SplitError(f"{pattern!r} does not match {name!r}: every clip needs a group")
        groups.append(match[1])
    return groups


def _natural_order(name: str) -> list[tuple[int, int | str]]:
    """Sorts numbers inside of names by value: `seq2` before `seq10`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def group_folds(groups: Sequence[str], *, num_folds: int) -> list[np.ndarray]:
    """
    Folds of whole groups, for a cross-validation in which no group is on both sides: the group names in natural
    order (2 before 10), cut into runs whose numbers of groups differ by at most one, longer runs first.

    Args:
        groups: name of the group of every clip.
        num_folds: at least 2.

    Returns:
        For every fold the indices of its held-out clips, ascending.

    Raises:
        SplitError: fewer groups than folds, or fewer than two folds.
    """
    names = sorted(set(groups), key=_natural_order)
    if num_folds < 2:
        raise SplitError(f"num_folds={num_folds} must be at least 2")
    if len(names) < num_folds:
        raise SplitError(f"{len(names)} groups do not make {num_folds} folds: use at most {len(names)}")
    number = {name: index for index, name in enumerate(names)}
    position = np.array([number[group] for group in groups])
    return [np.flatnonzero(np.isin(position, run)) for run in np.array_split(np.arange(len(names)), num_folds)]


def _manifest_lines(corpus: IndexedCorpus) -> Iterator[bytes]:
    for index, label in enumerate(corpus.labels):
        name = corpus.describe(index)
        if "\n" in name or "\r" in name:
            raise SplitError(f"{name!r} has a line break, which a manifest cannot hold: rename the file")
        name = name if "://" in name else os.path.abspath(name)
        yield os.fsencode(f"{name} {label}\n")


def manifest_hash(corpus: IndexedCorpus) -> str:
    """SHA-256, in hexadecimal, of the manifest that [`write_manifest`] would write: of paths and labels."""
    digest = hashlib.sha256()
    for line in _manifest_lines(corpus):
        digest.update(line)
    return digest.hexdigest()


def write_manifest(corpus: IndexedCorpus, path: str | os.PathLike) -> str:
    """
    Records which clips a corpus holds, in the published index format: "path label" per line, -1 where the label is
    unknown, with absolute paths. It is itself a data set for `--dataset` where clips are files; clips inside tars
    and Parquet are named as `file::member`.

    Args:
        corpus: what to write down.
        path: the file; folders are made.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        SplitError: a path with a line break.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for line in _manifest_lines(corpus):
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


__all__ = [
    "SplitError",
    "group_folds",
    "groups_from_names",
    "manifest_hash",
    "stratified_fraction",
    "stratified_split",
    "write_manifest",
]
