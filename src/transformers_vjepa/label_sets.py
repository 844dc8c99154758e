"""Names of the classes of public data sets, by the number of classes."""

import json
import os
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any


class LabelError(ValueError):
    """Class names that do not fit the model."""


def _from_package(file: str) -> list[str]:
    return json.loads((files(__package__) / "class_names" / file).read_text())


def _from_torchvision(weights: str) -> list[str]:
    from torchvision.models import get_weight  # slow to import, and only two lists need it

    return list(get_weight(weights).meta["categories"])


#: Data set and the reader of its names, by its number of classes; ids are those of the published probes:
#: Kinetics-400 in alphabetical order, Something-Something v2 as its label file numbers the templates, ImageNet-1k
#: in the order of the WordNet ids. Places205 is read from a folder per class, which numbers the classes by sorted
#: folder name; its own `categoryIndex_places205.csv` has another order.
_LABEL_SETS = {
    174: ("Something-Something v2", partial(_from_package, "something_something_v2.json")),
    205: ("Places205", partial(_from_package, "places205.json")),
    400: ("Kinetics-400", partial(_from_torchvision, "R3D_18_Weights.KINETICS400_V1")),
    1000: ("ImageNet-1k", partial(_from_torchvision, "ResNet50_Weights.IMAGENET1K_V1")),
}
# iNaturalist 2021 names 10,000 species: too long a list to carry along.
_NAMED_ELSEWHERE = {10000: "iNaturalist 2021"}


def public_class_names(num_labels: int) -> tuple[str, list[str]] | None:
    """Name and class names, in the order of the ids, of the data set of so many classes; None where none is known."""
    if num_labels not in _LABEL_SETS:
        return None
    name, read = _LABEL_SETS[num_labels]
    return name, read()


def read_class_names(path: str | os.PathLike, num_labels: int | None = None) -> list[str]:
    """
    Class names from a file, in the order of the ids.

    Args:
        path: JSON (a list; or a dict from id to name or from name to id) or text with one name per line.
        num_labels: classes of the model; `None` takes as many as there are.

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
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
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
        raise LabelError(f"{path} has ids other than 0 to {len(content) - 1}, each once")
    return [by_id[index] for index in range(len(content))]


def class_names(num_labels: int, file: str | os.PathLike | None = None) -> tuple[list[str], str]:
    """
    The names of a model's classes and where they come from, in words.

    Args:
        num_labels: classes of the model.
        file: names to take instead of a public list; see `read_class_names`.

    Raises:
        LabelError: the file does not fit.
    """
    if file is not None:
        return read_class_names(file, num_labels), f"from {file}"
    if known := public_class_names(num_labels):
        return known[1], known[0]
    generic = [f"LABEL_{index}" for index in range(num_labels)]
    reason = f"no public list of {num_labels} classes is known"
    if num_labels in _NAMED_ELSEWHERE:
        reason = f"the names of {_NAMED_ELSEWHERE[num_labels]} are not part of the package"
    return generic, f"LABEL_0 to LABEL_{num_labels - 1}: {reason} (name them with --labels FILE)"


__all__ = ["LabelError", "class_names", "public_class_names", "read_class_names"]
