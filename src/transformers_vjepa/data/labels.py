"""Class names, from public lists or files, and the match between the classes of a data set and those of a model."""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torchvision.models import get_weight
from transformers import PreTrainedConfig

from .corpora import Corpus
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


def read_class_names(path: str | os.PathLike, num_labels: int | None = None) -> list[str]:
    """
    Read class names from a file, in the order of the ids.

    Args:
        path: JSON (a list; or a dict from id to name or from name to id) or text with one name per line.
        num_labels: number of classes of the model; `None` allows any number.

    Raises:
        LabelError: another number of names, ids that are not 0 to `num_labels` - 1, or a name given twice.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = [line.strip() for line in text.splitlines() if line.strip()]
    names = _in_order(content, path)
    if num_labels is not None and len(names) != num_labels:
        raise LabelError(f"{path} names {len(names)} classes, the model has {num_labels}: pass its data set's file")
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise LabelError(f"{path} names classes twice: {', '.join(twice)}")
    return names


def _in_order(content: Any, path: str | os.PathLike) -> list[str]:
    if isinstance(content, list):
        return [str(name) for name in content]
    if not isinstance(content, dict):
        raise LabelError(f"{path} holds a {type(content).__name__}: expected a list, a dict or one name per line")
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
    generic = [f"LABEL_{index}" for index in range(num_labels)]
    reason = f"no public list of {num_labels} classes is known"
    if num_labels in _NOT_IN_PACKAGE:
        reason = f"the names of {_NOT_IN_PACKAGE[num_labels]} are not part of the package"
    return generic, f"LABEL_0 to LABEL_{num_labels - 1}: {reason} (name them with --labels FILE)"


# Classes of a data set and classes of a model

_GENERIC_NAME = re.compile(r"LABEL_\d+")


class LabelMismatchError(ValueError):
    """A data set with classes that the model does not have."""


def _plain(name: str) -> str:
    """A class name for comparison: `Air_drumming` equals `air drumming`."""
    return " ".join(re.findall(r"\w+", name.replace("_", " ").casefold()))


def model_class_names(config: PreTrainedConfig) -> list[str]:
    """The names of the classes of a model, by class."""
    return [config.id2label[index] for index in range(config.num_labels)]


def have_names(corpus: Corpus, config: PreTrainedConfig) -> bool:
    """Whether both a corpus and a model name their classes (LABEL_0, LABEL_1 ... do not count as names)."""
    return bool(corpus.class_names) and not all(_GENERIC_NAME.fullmatch(name) for name in model_class_names(config))


def align_labels(corpus: Corpus, config: PreTrainedConfig, *, by: Literal["name", "number"] = "name") -> np.ndarray:
    """
    Find the class of the model for each label of a corpus: by name if both have names (see [`have_names`]; case,
    underscores and punctuation are ignored), otherwise by number.

    Args:
        corpus: the corpus, with or without `class_names`.
        config: configuration of the model, with `id2label`.
        by: `"number"` ignores the names: label 0 is class 0.

    Returns:
        int64 (labels of the corpus,): class of the model, or -1 for a label that no clip has and the model does not
        know.

    Raises:
        LabelMismatchError: classes that the model does not have, or has twice; the message lists them.
    """
    used = None if isinstance(corpus, SequentialCorpus) else np.unique(corpus.labels[corpus.labels >= 0])
    if by == "name" and have_names(corpus, config):
        return _align_names(corpus.class_names, model_class_names(config), used)
    if by == "name" and corpus.class_names and len(corpus.class_names) != config.num_labels:
        # The folders of some classes are numbered from 0: their numbers may mean other classes of the model.
        raise LabelMismatchError(
            f"the data set has {len(corpus.class_names)} named classes, the model {config.num_labels} without names: "
            "they cannot be matched by name. Name the classes of the model (id2label in its config.json), or match "
            "labels by number if both have the same order"
        )
    number = max(len(corpus.class_names), 0 if used is None or not len(used) else int(used.max()) + 1)
    if number > config.num_labels:
        raise LabelMismatchError(
            f"the data set has labels up to {number - 1}, the model {config.num_labels} classes (0 to "
            f"{config.num_labels - 1}): evaluate a model that was trained on these classes"
        )
    return np.arange(config.num_labels)


def _align_names(ours: Sequence[str], theirs: Sequence[str], used: np.ndarray | None) -> np.ndarray:
    exact = {name: [index] for index, name in enumerate(theirs)} if len(set(theirs)) == len(theirs) else {}
    plain: dict[str, list[int]] = {}
    for index, name in enumerate(theirs):
        plain.setdefault(_plain(name), []).append(index)
    found = [exact.get(name) or plain.get(_plain(name), []) for name in ours]
    wanted = range(len(ours)) if used is None else used.tolist()
    if unknown := [ours[index] for index in wanted if not found[index]]:
        raise LabelMismatchError(
            f"the model does not have {len(unknown)} of {len(wanted)} classes: {_some(unknown)}. The model knows "
            f"{_some(theirs)}. Rename them, or match labels by number if both have the same order"
        )
    if twice := [ours[index] for index in wanted if len(found[index]) > 1]:
        raise LabelMismatchError(
            f"the model has more than one class of these names: {_some(twice)}. Match labels by number"
        )
    classes = [places[0] if len(places) == 1 else -1 for places in found]
    if len(set(used_classes := [classes[index] for index in wanted])) < len(used_classes):
        raise LabelMismatchError(
            "several classes of the data set match one class of the model: match labels by number"
        )
    return np.array(classes, dtype=np.int64)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name) for name in names[:5]) + rest
