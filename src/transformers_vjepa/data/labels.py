"""Class names, from public lists or files, and the match between the classes of a data set and those of a model."""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from torchvision.models import get_weight
from transformers import PreTrainedConfig

from .class_numbers import are_numbers, as_number, class_text, same_name
from .corpora import Corpus
from .corpus import NO_LABEL
from .file_corpus import is_header, open_text, split_columns
from .table_corpus import SequentialCorpus

# Names of classes


class LabelError(ValueError):
    """Class names that do not fit the model."""


def _from_package(file: str) -> list[str]:
    return json.loads((files(__package__) / "class_names" / file).read_text())


def _from_torchvision(weights: str) -> list[str]:
    return list(get_weight(weights).meta["categories"])


#: Data set and the reader of its names, by its number of classes. The ids are those of the published probes:
#: Kinetics-400 in alphabetical order, Something-Something v2 as its label file numbers the templates, ImageNet-1k
#: in the order of the WordNet ids. Places205 is read from a folder per class, which numbers the classes by sorted
#: folder name; its own `categoryIndex_places205.csv` has another order.
_LABEL_SETS = {
    174: ("Something-Something v2", partial(_from_package, "something_something_v2.json")),
    205: ("Places205", partial(_from_package, "places205.json")),
    400: ("Kinetics-400", partial(_from_torchvision, "R3D_18_Weights.KINETICS400_V1")),
    1000: ("ImageNet-1k", partial(_from_torchvision, "ResNet50_Weights.IMAGENET1K_V1")),
}
# iNaturalist 2021 names 10,000 species, a list too long for the package.
_NOT_IN_PACKAGE = {10000: "iNaturalist 2021"}


def public_class_names(num_labels: int) -> tuple[str, list[str]] | None:
    """The public data set with `num_labels` classes: its name and its class names by id; `None` if none is known."""
    if num_labels not in _LABEL_SETS:
        return None
    name, read = _LABEL_SETS[num_labels]
    return name, read()


def read_class_names(
    path: str | os.PathLike, num_labels: int | None = None, *, more_with_ids: bool = False
) -> list[str]:
    """
    Read class names from a file, in the order of the ids.

    Args:
        path: JSON (a list; or a dict from id to name or from name to id) or text in UTF-8: one name per line; or in
            each line an id and a name in either order, separated by a comma, semicolon, tab or space. A first line
            that names the columns (`class`, `id,name`) is skipped.
        num_labels: number of classes of the model; `None` allows any number.
        more_with_ids: whether a file with ids may name more classes than `num_labels`. Without ids, one line too many
            may shift all names.

    Raises:
        LabelError: another number of names, ids that are not 0 to `num_labels` - 1, a name given twice, or a file that
            is not text.
    """
    try:
        with open_text(path) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise LabelError(f"{path} is not text in UTF-8 ({error}): convert it, for example with iconv") from error
    try:
        content = json.loads(text, object_pairs_hook=partial(_each_once, path=path))
    except json.JSONDecodeError:
        content = _parse_lines([line.strip() for line in text.splitlines() if line.strip()])
        if isinstance(content, _Pairs):
            content = _each_once(content, path=path)
    names = _in_order(content, path)
    may_be_more = more_with_ids and isinstance(content, dict)
    if num_labels is not None and len(names) != num_labels and not (may_be_more and len(names) > num_labels):
        raise LabelError(
            f"{path} names {len(names)} classes, {names[0]!r} first, and there are {num_labels}: give one name for "
            f"each class from 0 to {num_labels - 1}"
        )
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise LabelError(f"{path} names classes twice: {', '.join(map(repr, twice))}")
    return names


class _Pairs(list):
    """Pairs of an id and a name, in either order."""


def _each_once(pairs: list[tuple[str, Any]], *, path: str | os.PathLike) -> dict[str, Any]:
    if twice := [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]:
        raise LabelError(f"{path} has {twice[0]!r} twice: give each id and each name once")
    return dict(pairs)


def _parse_lines(lines: list[str]) -> list[str]:
    """The names in lines of text, or `_Pairs` if each line has an id and a name."""
    if lines and is_header(lines[0]):
        lines = lines[1:]
    rows = [split_columns(line) for line in lines]
    if all(len(row) == 2 for row in rows) and any(all(row[column].isdecimal() for row in rows) for column in (0, 1)):
        return _Pairs(map(tuple, rows))
    for pattern, place in ((r"(\d+)\s+(.+)", 0), (r"(.+?)\s+(\d+)", 1)):
        pairs = [match.groups() for line in lines if (match := re.fullmatch(pattern, line))]
        # Names may begin or end with a number (`level 1`): ids are 0, 1, 2 ... or, by mistake, 1, 2, 3 ...
        ids = sorted(int(pair[place]) for pair in pairs)
        names = {pair[1 - place] for pair in pairs}
        if len(ids) == len(lines) == len(names) and ids in (list(range(len(ids))), list(range(1, len(ids) + 1))):
            return _Pairs(pairs)
    return [line.strip('"') if line.count('"') == 2 else line for line in lines]


def _in_order(content: Any, path: str | os.PathLike) -> list[str]:
    if not isinstance(content, list | dict):
        raise LabelError(f"{path} holds a {type(content).__name__}: expected a list, a dict or one name per line")
    if not content:
        raise LabelError(f"{path} names no classes: give a list, a dict or one name per line")
    if isinstance(content, list):
        return [str(name) for name in content]
    if all(str(key).isdecimal() for key in content):
        by_id = {int(key): str(name) for key, name in content.items()}
    elif all(str(value).isdecimal() for value in content.values()):
        by_id = {int(value): name for name, value in content.items()}
    else:
        raise LabelError(f"{path} maps neither ids to names nor names to ids")
    if sorted(by_id) != list(range(len(content))):
        raise LabelError(f"{path} must have each of the ids 0 to {len(content) - 1} once")
    return [by_id[index] for index in range(len(content))]


def find_class_names(num_labels: int, file: str | os.PathLike | None = None) -> tuple[list[str], str]:
    """
    The class names for a model with `num_labels` classes, and their source in words: a file, a public list, or
    LABEL_0, LABEL_1 and so on.

    Args:
        num_labels: number of classes of the model.
        file: names to use instead of a public list; see `read_class_names`.

    Raises:
        LabelError: the file does not fit.
    """
    if file is not None:
        return read_class_names(file, num_labels), f"from {file}"
    if known := public_class_names(num_labels):
        return known[1], known[0]
    generic = generic_class_names(num_labels)
    reason = f"no public list of {num_labels} classes is known"
    if num_labels in _NOT_IN_PACKAGE:
        reason = f"the names of {_NOT_IN_PACKAGE[num_labels]} are not part of the package"
    return generic, f"LABEL_0 to LABEL_{num_labels - 1}: {reason} (name them with --labels FILE)"


# Classes of a data set and classes of a model

_GENERIC_NAME = re.compile(r"LABEL_\d+")
# Punctuation that tells names apart (`C#`, `A&B`, `50%`), and in numbers (`-10 deg`, `.5 m`, `1.5 m`, `4:3`).
_SIGNS = "#&%@*"
_IN_NUMBER = re.compile(r"(?<!\w)[-–.]+(?=\d)|(?<=\d)[.,:/](?=\d)")
_BY_NUMBER = "or, if both have the same order, match labels by number (vjepa evaluate --label_matching number)"


class LabelMismatchError(ValueError):
    """A data set with classes that the model does not have."""


def generic_class_names(num_labels: int) -> list[str]:
    """LABEL_0, LABEL_1 ...: the names that transformers gives to classes without names."""
    return [f"LABEL_{index}" for index in range(num_labels)]


def model_class_names(config: PreTrainedConfig) -> list[str]:
    """The names of the classes of a model, by class, as [`class_text`]."""
    return [class_text(str(config.id2label[index])) for index in range(config.num_labels)]


def are_matched_by_name(corpus: Corpus, names: Sequence[str], *, by: Literal["name", "number"] = "name") -> bool:
    """
    Whether [`align_labels`] matches the classes of a corpus and a model by name: if the classes of the corpus have
    names that are not numbers, or if classes of the model have names that are numbers.
    """
    has_names = bool(corpus.class_names) and not are_numbers(corpus.class_names)
    return by == "name" and (has_names or any(as_number(name) is not None for name in names))


def align_labels(corpus: Corpus, names: Sequence[str], *, by: Literal["name", "number"] = "name") -> dict[int, int]:
    """
    Find the class of the model for each label of a corpus. Names match if they are equal, or else if they differ only
    in case, underscores, spaces, accents' form or punctuation. Symbols and the signs of numbers count. A name that is
    a number equals this number. Numbers meet a model whose names are not numbers by class number.

    Args:
        corpus: the corpus, with or without `class_names`.
        names: the names of the classes of the model, see [`model_class_names`].
        by: `"number"` ignores the names: label 3 is class number 3, or the class that is called 3 if the names of all
            classes of the model are numbers.

    Returns:
        The class of the model for each label. A label that the model does not know, and that no clip has, is missing.

    Raises:
        LabelMismatchError: classes that the model does not have, or has twice; the message lists them.
    """
    used = None if isinstance(corpus, SequentialCorpus) else np.unique(corpus.labels[corpus.labels >= 0]).tolist()
    if are_matched_by_name(corpus, names, by=by):
        labels = dict(enumerate(corpus.class_names))
        if not labels:
            known = {as_number(name) for name in names} - {None} if used is None else used
            labels = {number: str(number) for number in known}
        return _align_names(labels, names, labels.keys() if used is None else used)
    classes = {as_number(name): index for index, name in enumerate(names)}
    if not are_numbers(names):
        classes = {index: index for index in range(len(names))}
    numbers = {label: label for label in (range(len(corpus.class_names)) if used is None else used)}
    if by == "name":  # names that are numbers
        numbers |= {label: as_number(name) for label, name in enumerate(corpus.class_names) if label in numbers}
    if unknown := sorted(set(numbers.values()) - classes.keys()):
        raise LabelMismatchError(
            f"the data set has the label {unknown[-1]}, the model {len(names)} classes (numbers {min(classes)} to "
            f"{max(classes)}): evaluate a model that was trained on these classes"
        )
    return {label: classes[number] for label, number in numbers.items()} if numbers else classes


def _spelling(name: str) -> int | str:
    """
    A class name without punctuation: `stand up!` equals `stand-up`. Everything else stays: letters with their marks,
    symbols (`C++`, `10 °`), and the signs of numbers.
    """
    key = same_name(name)
    if isinstance(key, int):
        return key
    in_numbers = {place for match in _IN_NUMBER.finditer(key) for place in range(*match.span())}
    kept = (
        char if place in in_numbers or char in _SIGNS or not _is_punctuation(char) else " "
        for place, char in enumerate(key)
    )
    return " ".join("".join(kept).split()) or key


def _is_punctuation(char: str) -> bool:
    """Also spaces and invisible characters."""
    return char == "`" or unicodedata.category(char)[0] in "PZ" or unicodedata.category(char) in ("Cc", "Cf")


def _align_names(ours: Mapping[int, str], theirs: Sequence[str], used: Collection[int]) -> dict[int, int]:
    places: list[dict[Any, list[int]]] = []
    keys: tuple[Callable[[str], Any], ...] = (str, same_name, _spelling)  # the strictest that finds a class counts
    for key in keys:
        places.append({})
        for index, name in enumerate(theirs):
            places[-1].setdefault(key(name), []).append(index)
    found = {
        label: next((classes for key, at in zip(keys, places, strict=True) if (classes := at.get(key(name)))), [])
        for label, name in ours.items()
    }
    if unknown := [ours[label] for label in used if not found[label]]:
        generic = all(map(_GENERIC_NAME.fullmatch, theirs))
        known = f"The classes of the model have no names ({_some(theirs)})" if generic else f"It knows {_some(theirs)}"
        remedy = "Name them (id2label in config.json)" if generic else "Rename them"
        raise LabelMismatchError(
            f"the model does not have {len(unknown)} of {len(used)} classes: {_some(unknown)}. {known}. {remedy}, "
            f"{_BY_NUMBER}"
        )
    if twice := [ours[label] for label in used if len(found[label]) > 1]:
        raise LabelMismatchError(
            f"the model has more than one class of these names: {_some(twice)}. Rename, {_BY_NUMBER}"
        )
    aligned = {label: classes[0] for label, classes in found.items() if len(classes) == 1}
    taken: dict[int, str] = {}
    for label in used:
        if (other := taken.setdefault(aligned[label], ours[label])) != ours[label]:
            raise LabelMismatchError(
                f"the classes {other!a} and {ours[label]!a} of the data set are one class of the model, "
                f"{theirs[aligned[label]]!a}: make them one, {_BY_NUMBER}"
            )
    return aligned


def map_labels(labels: np.ndarray, classes: Mapping[int, int], *, paths: Sequence[str]) -> np.ndarray:
    """
    Classes of the model for labels of clips, int64 (clips,). Labels below 0 are unknown and become -1.

    Args:
        classes: see [`align_labels`].
        paths: names of the clips, for errors.

    Raises:
        LabelMismatchError: a label that the model does not know. Labels of streamed data are not known earlier.
    """
    for path, label in zip(paths, labels.tolist(), strict=True):
        if label >= 0 and label not in classes:
            raise LabelMismatchError(
                f"{path} has label {label}, the model knows labels up to {max(classes, default=NO_LABEL)}: evaluate a "
                "model that was trained on these classes"
            )
    return np.array([classes[label] if label >= 0 else NO_LABEL for label in labels.tolist()], dtype=np.int64)


def match_classes(
    corpus: Corpus, names: Sequence[str], *, by: Literal["name", "number"] = "name"
) -> tuple[Corpus, dict[int, int]]:
    """
    A corpus, and the class of the model for each of its labels; see [`align_labels`], which has the same arguments.
    The labels of a streamed corpus come one by one, numbers or names. Each is matched by the same rules when it comes,
    so the streamed corpus that is returned has the classes of the model as labels; a clip is refused whose label the
    model does not have.
    """
    classes = align_labels(corpus, names, by=by)
    if not isinstance(corpus, SequentialCorpus) or corpus.class_names:
        return corpus, classes
    find = partial(_class_of, numbers=classes, names=tuple(names) if by == "name" else None)
    return corpus.with_classes(find), {label: label for label in range(len(names))}


def _class_of(label: int | str, *, numbers: Mapping[int, int], names: Sequence[str] | None) -> int:
    if isinstance(label, str):
        if names is None:
            raise LabelMismatchError("it is a name, and labels are matched by number")
        return _align_names({0: label}, names, [0])[0]
    if label not in numbers:
        raise LabelMismatchError(f"the model has {len(numbers)} classes (numbers {min(numbers)} to {max(numbers)})")
    return numbers[label]


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name) for name in names[:5]) + rest
