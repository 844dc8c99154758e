"""Charts of numbers: dots with intervals, curves, training curves, confusion matrices and accuracies per class."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import SHEET_WIDTH, color, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.29  # inches
# Panels of the training curves: the keys to draw by the title of the panel, and their names in the legend. A key that
# ends in "_" stands for all keys with a number after it.
_GRADIENTS = "Gradient norm before clipping"
_PANELS: dict[str, dict[str, str]] = {
    "Loss": {"loss": "train", "eval_loss": "eval"},
    "Validation (share of clips)": {"eval_accuracy": "accuracy", "eval_macro_f1": "macro F1"},
    "Validation loss (cross-entropy)": {"eval_cross_entropy": "validation"},
    "Learning rate": {"learning_rate": "learning rate"},
    "Weight decay": {"weight_decay": "weight decay"},
    "EMA momentum": {"ema_momentum": "momentum"},
    "Standard deviation of features": {
        "target_std_over_clips": "target, over clips",
        "target_std_over_tokens": "target, over tokens",
        "predictor_std": "predictor",
    },
    "Effective rank of target features": {
        "target_rank_over_clips": "over clips",
        "target_rank_over_tokens": "over tokens",
    },
    _GRADIENTS: {"encoder_grad_norm": "encoder", "predictor_grad_norm": "predictor"},
    "Masks (share of tokens)": {"context_ratio_": "context, mask", "target_ratio_": "target, mask"},
    "Throughput (clips / s)": {"clips_per_second": "clips / s"},
    "Waiting for data (share of the step)": {"data_wait_share": "data wait"},
}
_LINE_COLORS = ("vjepa", "pixels", "random_tube", "causal", "untrained", "published_truncation")
_DASHED: dict[str, Any] = {"color": color("muted"), "linewidth": 1.1, "linestyle": (0, (4, 3)), "zorder": 1}
_SMALL: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "va": "bottom", "color": color("muted")}
# Above this number, the names of classes cannot be read beside a confusion matrix.
_MAX_NAMED_CLASSES = 60


@dataclass(frozen=True)
class Dot:
    """
    A row of [`dots`].

    Attributes:
        label: on the left.
        color: a name of [`~figures.style.COLORS`].
        mean: place of the large dot.
        low, high: ends of the line.
        values: places of small dots above the line.
        other: place of a second, hollow dot.
        hollow: whether the large dot is hollow.
        text: on the right; by default the mean.
    """

    label: str
    color: str
    mean: float
    low: float
    high: float
    values: Sequence[float] = ()
    other: float | None = None
    hollow: bool = False
    text: str = ""


@dataclass(frozen=True)
class Curve:
    """A line of [`curves`]; `band` has the lower and the upper ends of an interval at each point."""

    label: str
    color: str
    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None
    style: str = "-"


def dots(
    rows: Sequence[Dot],
    *,
    title: str,
    xlabel: str,
    reference: float | None = None,
    reference_label: str = "chance",
    limits: tuple[float, float] | None = None,
    names: tuple[str, str] | None = None,
) -> Figure:
    """
    One row per entry: a large dot on a line, with a number on the right.

    Args:
        rows: from top to bottom.
        reference: place of a vertical line, such as chance.
        limits: of the horizontal axis.
        names: of the filled and of the hollow dots, for a legend.
    """
    axis = new_figure(SHEET_WIDTH, 1.0 + (0.35 if names else 0) + _ROW * len(rows)).subplots()
    for place, row in enumerate(rows):
        shade, clear = color(row.color), color("paper")
        axis.plot([row.low, row.high], [place, place], color=shade, linewidth=2, solid_capstyle="round", zorder=3)
        # Not clipped: a mean of 0 or 100 % lies on the edge of the axes.
        look = {"mec": shade, "mew": 1.8, "clip_on": False}
        axis.plot(row.mean, place, "o", markersize=7.5, mfc=clear if row.hollow else shade, zorder=5, **look)
        if row.other is not None:
            axis.plot(row.other, place, "o", markersize=7, mfc=clear, zorder=4, **look)
        if len(row.values) > 1:
            axis.plot(row.values, [place - 0.3] * len(row.values), "o", color=shade, markersize=3, zorder=4)
        text = row.text or f"{row.mean:.1f}"
        axis.text(1.015, place, text, transform=axis.get_yaxis_transform(), va="center")
    if reference is not None:
        axis.axvline(reference, **_DASHED)
        where = {"xy": (reference, 1), "xycoords": ("data", "axes fraction"), "xytext": (0, 1), "ha": "center"}
        axis.annotate(reference_label, **where, **_SMALL)
    if names is not None:
        shared: dict[str, Any] = {"color": color("muted"), "markersize": 7}
        handles = axis.plot([], [], "o", **shared) + axis.plot([], [], "o", mfc=color("paper"), mew=1.8, **shared)
        _legend_below(axis, handles, names, columns=2)
    axis.set_yticks(range(len(rows)), [row.label for row in rows])
    axis.set_ylim(len(rows) - 0.45, -0.7)
    if limits is not None:
        axis.set_xlim(*limits)
    _dress(axis, title=title, xlabel=xlabel, grid="x")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    return axis.figure


def curves(
    lines: Sequence[Curve],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    log_ticks: Sequence[tuple[float, str]] | None = None,
    reference: float | None = None,
    vertical: float | None = None,
    markers: bool = True,
    from_zero: bool = False,
) -> Figure:
    """
    Lines with bands, and a legend below where there are several labels.

    Args:
        log_ticks: makes the horizontal axis logarithmic, with these places and names of its ticks.
        reference: height of a horizontal line: chance.
        vertical: place of a vertical line.
        markers: mark every point.
        from_zero: begin the vertical axis at 0.
    """
    axis = new_figure(SHEET_WIDTH, 3.3).subplots()
    handles: dict[str, Any] = {}
    for line in lines:
        shade = color(line.color)
        if line.band is not None:
            axis.fill_between(line.x, *line.band, color=shade, alpha=0.16, linewidth=0)
        marker = "o" if markers else None
        (drawn,) = axis.plot(line.x, line.y, line.style, color=shade, linewidth=1.9, marker=marker, markersize=4.5)
        handles.setdefault(line.label, drawn)
    if reference is not None:
        axis.axhline(reference, **_DASHED)
        where = {"xy": (1, reference), "xycoords": ("axes fraction", "data"), "xytext": (0, 2), "ha": "right"}
        axis.annotate("chance", **where, **_SMALL)
    if vertical is not None:
        axis.axvline(vertical, **_DASHED)
    if log_ticks is not None:
        axis.set_xscale("log")
        axis.set_xticks([place for place, _ in log_ticks], [name for _, name in log_ticks])
        axis.minorticks_off()
    if len(handles) > 1:
        columns = 2 if max(map(len, handles)) > 16 else min(3, len(handles))
        _legend_below(axis, list(handles.values()), list(handles), columns=columns)
    _dress(axis, title=title, xlabel=xlabel, grid="y")
    axis.set_ylabel(ylabel)
    if from_zero:
        highest = max(max(line.band[1] if line.band else line.y) for line in lines)
        axis.set_ylim(0, 1.06 * float(highest))
    return axis.figure


def _dress(axis: Axes, *, title: str, xlabel: str, grid: str) -> None:
    # At the left edge of the figure, not of the axes: there is room for long titles.
    axis.figure.suptitle(title, x=0.005, ha="left", fontsize=11, fontweight="bold")
    axis.set(xlabel=xlabel, axisbelow=True)
    axis.grid(axis=grid, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)


def _legend_below(axis: Axes, handles: Sequence[Any], names: Sequence[str], *, columns: int) -> None:
    axis.figure.legend(handles, names, loc="outside lower left", ncols=columns, frameon=False, handlelength=2.8)


def plot_training_curves(
    log_history: Sequence[Mapping[str, Any]], path: str | Path, *, title: str = "Training", noun: str = "clip"
) -> Path:
    """
    Draws the logged values of a run over its steps, one panel per group of values that the run logged.

    Args:
        log_history: entries as in `TrainerState.log_history`: mappings with `step` and any numbers.
        path: file to write.
        title: above the panels.
        noun: what the model takes: "clip" or "image".

    Raises:
        ValueError: no entry has a step and a known value.
        ImportError: matplotlib is missing.
    """
    named = {
        panel.replace("clips", f"{noun}s"): {key: label.replace("clips", f"{noun}s") for key, label in keys.items()}
        for panel, keys in _PANELS.items()
    }
    panels = [(panel, found) for panel, keys in named.items() if (found := _logged_curves(log_history, keys))]
    if not panels:
        raise ValueError(
            f"none of the {len(log_history)} entries of `log_history` has a `step` and a known value such as "
            "`loss`: pass trainer.state.log_history of a run that logged at least once"
        )
    columns = min(3 if len(panels) <= 9 else 4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(4.6 * columns, 3.1 * rows + 0.5)
    for place, panel in enumerate(panels, start=1):
        axis = figure.add_subplot(rows, columns, place)
        _draw_panel(axis, *panel)
        if place > len(panels) - columns:
            axis.set_xlabel("optimizer step")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return write_figure(figure, path)


def _logged_curves(
    log_history: Sequence[Mapping[str, Any]], keys: Mapping[str, str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values by name in the legend, of the keys that occur."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    entries = [entry for entry in log_history if "step" in entry]
    for entry, (key, label) in itertools.product(entries, keys.items()):
        for name in sorted(entry):
            if match := re.fullmatch(rf"{key}(\d+)" if key.endswith("_") else rf"{key}()", name):
                steps, values = found.setdefault(f"{label} {match[1]}".strip(), ([], []))
                steps.append(float(entry["step"]))
                values.append(float(entry[name]))
    return found


def _draw_panel(axis: Axes, title: str, lines: Mapping[str, tuple[list[float], list[float]]]) -> None:
    for shade, (name, (steps, values)) in zip(itertools.cycle(_LINE_COLORS), lines.items(), strict=False):
        marker = "o" if len(steps) < 30 else None
        axis.plot(steps, values, color=color(shade), label=name, linewidth=1.6, marker=marker, markersize=3)
    drawn = [value for _, values in lines.values() for value in values]
    if title == _GRADIENTS and min(drawn) > 0:
        axis.set_yscale("log")
        # Plain numbers, because the usual labels are formulas, which figures do not set.
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}" if max(drawn) < 10 * min(drawn) else "")
    else:
        axis.ticklabel_format(axis="y", useOffset=False)  # a momentum reads 0.9985, not 5e-4 + 9.98e-1
    axis.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axis.tick_params(which="both", labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axis.legend(fontsize=8, frameon=False)


def plot_confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], path: str | Path) -> Path:
    """Writes [`draw_confusion_matrix`] into a file."""
    return write_figure(draw_confusion_matrix(matrix, class_names), path)


def draw_confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """
    Draws a row per true class, shaded by the share of its clips in each predicted class. Up to 20 classes the cells
    hold the counts. Above 60 classes the axes have numbers instead of names. Above 20 classes the most frequent
    confusions are listed beside the matrix.

    Args:
        matrix: integer counts (classes, classes), true by predicted.
        class_names: names of the classes.

    Raises:
        ValueError: the matrix is not square or has no clip, or the number of names differs.
        ImportError: matplotlib is missing.
    """
    from matplotlib.colors import PowerNorm

    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.sum() == 0:
        raise ValueError(f"`matrix` of shape {matrix.shape} must be square and count at least one clip")
    number = len(matrix)
    _check_classes(class_names, number)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(0.42 * number, 3.6), 9.5)
    # Room for names on two sides: about 0.085 inches per letter at this size.
    names = 0.6 if number > _MAX_NAMED_CLASSES else 0.5 + 0.085 * max(map(len, _shortened(class_names)))
    has_list = number > 20 and matrix.sum() > np.trace(matrix)
    width = side + names + 1.1
    # "constrained" cuts the names off where the axes are square.
    figure = new_figure(width + (4.4 if has_list else 0), side + names + 0.5, layout="compressed")
    if has_list:
        axis, beside = figure.subplots(1, 2, width_ratios=(width, 4.4))
        _list_confusions(beside, matrix, class_names)
    else:
        axis = figure.subplots()
    # The root makes small shares visible where there are many classes.
    norm = PowerNorm(1 if number <= 20 else 0.5, vmin=0, vmax=1)
    image = axis.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    if number <= 20:
        _write_counts(axis, matrix, shares)
    _label_classes(axis, class_names)
    axis.spines[:].set_color(color("line"))
    bar = figure.colorbar(image, ax=axis, shrink=0.7, pad=0.02, ticks=np.linspace(0, 1, 6), format="{x:.0%}")
    bar.set_label("share of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    right, total = np.trace(matrix), matrix.sum()
    title = f"Confusion matrix: {right:,} of {total:,} right ({right / total:.1%})"
    axis.set_title(title, fontsize=11, fontweight="bold", loc="left")
    return figure


def _list_confusions(axis: Axes, matrix: np.ndarray, class_names: Sequence[str]) -> None:
    """The 40 most frequent confusions, as text."""
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind="stable")[:40]
    lines = []
    for row, column in zip(*np.unravel_index(order, off.shape), strict=True):
        if off[row, column]:
            true, predicted = _shortened([class_names[row], class_names[column]], length=24)
            counts = f"{off[row, column]:\N{FIGURE SPACE}>4} / {matrix[row].sum():\N{FIGURE SPACE}<5}"
            lines.append(f"{counts} {true} \N{RIGHTWARDS ARROW} {predicted}")
    axis.axis("off")
    axis.set_title("Most frequent confusions", fontsize=11, fontweight="bold", loc="left")
    header = "clips / all    true \N{RIGHTWARDS ARROW} predicted"
    axis.text(0, 0.99, header, fontsize=8, va="top", color=color("muted"))
    axis.text(0, 0.965, "\n".join(lines), fontsize=8, va="top", linespacing=1.55)


def _write_counts(axis: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    """Counts in the cells, white on a dark shade and black on a light one; empty cells stay empty."""
    size = 9 if len(counts) <= 12 else 7
    for row, column in zip(*np.nonzero(counts), strict=True):
        ink = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, color=ink)


def _label_classes(axis: Axes, class_names: Sequence[str]) -> None:
    """Names of the classes on both sides where they can be read, else their numbers."""
    number = len(class_names)
    if number > _MAX_NAMED_CLASSES:
        axis.set(xlabel="predicted class (number)", ylabel="true class (number)")
        axis.tick_params(labelsize=8)
        return
    size = 9 if number <= 20 else 6
    names = _shortened(class_names)
    axis.set_xticks(range(number), names, rotation=90 if number > 8 else 40, fontsize=size)
    axis.set_yticks(range(number), names, fontsize=size)
    if number <= 8:
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axis.tick_params(length=0)
    axis.set(xlabel="predicted", ylabel="true")


def plot_class_accuracies(
    accuracies: Sequence[float],
    counts: Sequence[int],
    class_names: Sequence[str],
    path: str | Path,
    *,
    interval: Callable[[int, int], tuple[float, float]],
) -> Path:
    """
    Draws the accuracy of every class as a bar with its interval, sorted; of more than 40 classes the 20 best and the
    20 worst. Classes without a clip are left out.

    Args:
        accuracies: share of right clips of each class, in [0, 1]; any value for a class without a clip.
        counts: clips of each class.
        class_names: names of the classes.
        path: file to write.
        interval: takes the number of right clips and of all clips, returns the bounds of the interval in [0, 1].

    Raises:
        ValueError: no clip, or numbers of values that differ.
        ImportError: matplotlib is missing.
    """
    accuracies, counts = np.asarray(accuracies, dtype=float), np.asarray(counts)
    _check_classes(class_names, len(accuracies))
    if counts.shape != accuracies.shape or counts.sum() == 0:
        raise ValueError(f"`counts` of shape {counts.shape} must count at least one clip of {len(accuracies)} classes")
    present = np.flatnonzero(counts)
    order = present[np.argsort(-accuracies[present], kind="stable")]
    groups = [("", order)] if len(order) <= 40 else [("20 best", order[:20]), ("20 worst", order[-20:])]
    mean, total = accuracies[present].mean(), (accuracies[present] * counts[present]).sum() / counts.sum()
    figure = new_figure(7.6, 1.5 + sum(0.27 * len(group) + 0.4 for _, group in groups))
    heights = [len(group) for _, group in groups]
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axis, (title, group) in zip(axes[:, 0], groups, strict=True):
        _draw_class_bars(axis, accuracies[group], counts[group], [class_names[index] for index in group], interval)
        axis.axvline(total, color=color("muted"), linewidth=1, linestyle="--", zorder=3)
        axis.set_title(title, fontsize=9, loc="right", color=color("muted"))
    axes[-1, 0].set_xlabel("accuracy, with 95 % interval; dashed: all clips", fontsize=9)
    of = f"of {len(order)} classes" if len(order) == len(class_names) else f"of {len(order)} classes with clips"
    figure.suptitle(f"Accuracy {total:.1%}, mean {of} {mean:.1%}", fontsize=11, fontweight="bold")
    return write_figure(figure, path)


def _draw_class_bars(
    axis: Axes,
    accuracies: np.ndarray,
    counts: np.ndarray,
    names: Sequence[str],
    interval: Callable[[int, int], tuple[float, float]],
) -> None:
    rows = np.arange(len(names))
    correct = np.rint(accuracies * counts).astype(int)
    bounds = np.array([interval(int(c), int(n)) for c, n in zip(correct, counts, strict=True)])
    # Rounding errors must not make a length negative.
    errors = np.maximum(np.stack([accuracies - bounds[:, 0], bounds[:, 1] - accuracies]), 0)
    axis.barh(rows, accuracies, height=0.72, color=color("vjepa"), alpha=0.4, zorder=2)
    look = {"fmt": "none", "ecolor": color("vjepa"), "elinewidth": 1.3, "capsize": 2.5, "zorder": 4}
    axis.errorbar(accuracies, rows, xerr=errors, **look)
    labels = [f"{name}  ({count})" for name, count in zip(_shortened(names, length=40), counts, strict=True)]
    axis.set_yticks(rows, labels, fontsize=8)
    axis.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))  # the best on top
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25, zorder=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _check_classes(class_names: Sequence[str], number: int) -> None:
    if len(class_names) != number or number == 0:
        raise ValueError(f"{len(class_names)} class names for {number} classes: pass one name for each class")


def _shortened(names: Sequence[str], *, length: int = 28) -> list[str]:
    return [name if len(name) <= length else name[: length - 1] + "\N{HORIZONTAL ELLIPSIS}" for name in names]
