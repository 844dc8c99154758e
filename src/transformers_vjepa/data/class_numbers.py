"""
Which class a label of a data set is: the one rule for numbers and names, whatever the format of the data set.

A label is a number or a name. A name that is a number (`"3"`, `"03"`, `"3.0"`) is that number. If all labels of a data
set are numbers, they keep their values, and these are the names of the classes. Otherwise all labels are names, in
sorted order. Two names that differ only in case, underscores, spaces or the form of their accents are one name.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from transformers.utils import logging

from ..safety.sanitizing import decodable, log_line
from .corpus import NO_LABEL

logger = logging.get_logger(__name__)

# Numbers that mark a clip without a label: here and in PyTorch.
_NO_LABELS = (NO_LABEL, -100)
# At most 18 digits, which fit an int64: longer rows of digits are names. No exponents and no "inf": a class "1e3" or
# "Infinity" has a name.
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.0*)?")


def as_number(name: str) -> int | None:
    """The whole number that a name is, or `None`: `"3"`, `"03"` and `"3.0"` are 3, and `"3.5"` is a name."""
    name = name.strip()
    return int(name.partition(".")[0]) if _NUMBER.fullmatch(name) else None


def are_numbers(names: Sequence[str]) -> bool:
    """Whether there are names, and all of them are numbers."""
    return bool(names) and all(as_number(name) is not None for name in names)


def same_name(name: str) -> int | str:
    """A key that is equal for two spellings of one name: `"Air_drumming"` and `"air drumming"`, `"3"` and `"03"`."""
    number = as_number(name)
    if number is not None:
        return number
    return " ".join(unicodedata.normalize("NFKC", name).replace("_", " ").casefold().split())


def class_text(name: str) -> str:
    """
    A class name as text for every file and terminal: bytes that are not UTF-8 (`caf\\xe9`), other surrogates and
    control characters are escaped.
    """
    name = decodable(name)
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) == "Cc" else char for char in name
    )


def check_distinct(names: Sequence[str], *, source: str) -> None:
    """Raises `ValueError` if two of the class names of a data set are one name in two spellings."""
    seen: dict[int | str, str] = {}
    for name in names:
        if (other := seen.setdefault(same_name(name), name)) != name:
            raise ValueError(
                f"{source} has the classes {other!a} and {name!a}, which are one name in two spellings: write the "
                "name in one way, or rename one of the classes"
            )


def number_labels(labels: Iterable[Any], *, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """
    Number the labels of a data set.

    Args:
        labels: an int, float, str or bool for each clip. `None`, NaN, an empty name and negative numbers (-1; -100 in
            PyTorch): no label; other negative numbers are a warning. Spaces around a name do not count.
        source: the name of the data set in errors.

    Returns:
        The label of each clip, int64 (clips,), -1 if unknown; and the names of the labels from 0 on, in sorted order,
        or no names if the labels are numbers. See [`class_text`].

    Raises:
        ValueError: numbers beside names. Texts may be both: `"1"`, `"2"` and `"none"` are three names.
    """
    labels = [str(label) if isinstance(label, bool | np.bool_) else label for label in labels]
    distinct = {label: _number_or_name(label) for label in set(labels)}
    names = [value for value in distinct.values() if isinstance(value, str)]
    _warn_of_negative(distinct, source=source)
    if names:
        for label, value in distinct.items():
            if not isinstance(value, str) and value != NO_LABEL:
                if not isinstance(label, str):
                    raise ValueError(
                        f"{source} has numbers ({value}) and names ({min(names)!r}) as labels: use one of them"
                    )
                distinct[label] = str(value)
        names = sorted({value for value in distinct.values() if isinstance(value, str)})
        place = {name: number for number, name in enumerate(names)} | {NO_LABEL: NO_LABEL}
        distinct = {label: place[value] for label, value in distinct.items()}
    return np.fromiter(map(distinct.__getitem__, labels), dtype=np.int64, count=len(labels)), tuple(names)


def _warn_of_negative(labels: Iterable[Any], *, source: str) -> None:
    numbers = {as_number(str(label)) for label in labels} - {None, *_NO_LABELS}
    if negative := sorted(number for number in numbers if number < 0):
        logger.warning_once(
            f"{log_line(source)} has the labels {', '.join(map(str, negative[:5]))}: numbers below 0 are no classes, "
            "so these clips have no label. Number the classes from 0 on, or name them"
        )


def _number_or_name(label: Any) -> int | str:
    """A number from -1 (no label) on, or a name."""
    text = "" if label is None or label != label else str(label).strip()  # NaN differs from itself
    if (number := as_number(text)) is not None:
        return max(number, NO_LABEL)
    return class_text(text) if text else NO_LABEL


def plain_label(value: Any) -> int | str | None:
    """
    What one label is by itself, as in a stream: a number, a name, or `None` for no label.

    Raises:
        ValueError: neither int, float, str, bool nor `None`, but a list, for example.
    """
    if not (value is None or isinstance(value, int | float | str)):
        raise ValueError(f"a {type(value).__name__} is not a number or a name")
    label = _number_or_name(value)
    return None if label == NO_LABEL else label
