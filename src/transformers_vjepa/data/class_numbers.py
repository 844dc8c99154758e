"""
Which class a label of a data set is: the one rule for numbers and names, whatever the format of the data set.

A label is a number or a name. A name that is a number (`"3"`, `"03"`, `"3.0"`) is that number. If all labels are
numbers, they are the classes of the model with these numbers. Otherwise all labels are names, in sorted order.
"""

from collections.abc import Iterable

import numpy as np

from .corpus import NO_LABEL

#: Largest label that counts as a class by its number. A model has an output for every class up to the largest label.
MAX_CLASSES = 100_000


def as_number(name: str) -> int | None:
    """The whole number that a name is, or `None`: `"3"`, `"03"` and `"3.0"` are 3, and `"3.5"` is a name."""
    try:
        value = float(name)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def number_labels(labels: Iterable[int | str | None], *, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """
    Number the labels of a data set.

    Args:
        labels: a label for each clip; `None` or -1: no label.
        source: the name of the data set in errors.

    Returns:
        The class of each clip, int64 (clips,), -1 if unknown; and the names of the classes, empty if the labels are
        numbers.

    Raises:
        ValueError: numbers beside names, or a number that is larger than `MAX_CLASSES`.
    """
    values = [NO_LABEL if label is None else label for label in labels]
    values = [value if (number := as_number(str(value))) is None else number for value in values]
    names = sorted({value for value in values if isinstance(value, str)})
    numbers = [value for value in values if not isinstance(value, str)]
    if not names:
        if numbers and (largest := max(numbers)) > MAX_CLASSES:
            raise ValueError(f"{source} has the label {largest}: labels are class numbers from 0 to {MAX_CLASSES}")
        return np.array(numbers, dtype=np.int64), ()
    if mixed := [number for number in numbers if number != NO_LABEL]:
        raise ValueError(f"{source} has numbers ({mixed[0]}) and names ({names[0]!r}) as labels: use one of them")
    place = {name: number for number, name in enumerate(names)} | {NO_LABEL: NO_LABEL}
    return np.array([place[value] for value in values], dtype=np.int64), tuple(names)
