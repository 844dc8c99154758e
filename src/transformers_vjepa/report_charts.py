"""The charts of a report: dots with intervals, curves and differences. Each function gives one small figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .report_numbers import signed as with_sign
from .report_page import color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches. A panel fills the width of a telephone and stands beside another one on a desk.
_WIDTH = 4.6
_ROW = 0.29


@dataclass(frozen=True)
class Dot:
    """A row of [`dots`]: a mean with its interval and single values; `color` is a name of `report_page.COLORS`."""

    label: str
    color: str
    mean: float
    low: float
    high: float
    values: Sequence[float] = ()
    hollow: bool = False


@dataclass(frozen=True)
class Curve:
    """A line of [`curves`]; `band` has its lower and upper ends."""

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
    signed: bool = False,
) -> Figure:
    """
    One row per entry: the mean (large), its interval (line) and its values (small dots above the line), with the mean
    as a number at the right.

    Args:
        rows: from top to bottom.
        reference: where to draw a vertical line, such as chance.
        limits: of the horizontal axis.
        signed: numbers with their sign.
    """
    figure = _figure(_WIDTH, 1.0 + _ROW * len(rows))
    axis = figure.subplots()
    for place, row in enumerate(rows):
        _draw_dot(axis, place, row, text=with_sign(row.mean) if signed else f"{row.mean:.1f}")
    if reference is not None:
        axis.axvline(reference, **_reference_line())
        where = {"xy": (reference, 1), "xycoords": ("data", "axes fraction"), "xytext": (0, 1), "ha": "center"}
        _name_reference(axis, reference_label, **where)
    axis.set_yticks(range(len(rows)), [row.label for row in rows])
    axis.set_ylim(len(rows) - 0.45, -0.7)
    if limits is not None:
        axis.set_xlim(*limits)
    _dress(axis, title=title, xlabel=xlabel, grid="x")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    return figure


def pairs(
    rows: Sequence[tuple[str, str, float, float]],
    *,
    names: tuple[str, str],
    title: str,
    xlabel: str,
    reference: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """
    Two values of each row, joined: the first as a filled dot, the second as a hollow one.

    Args:
        rows: label, name of the colour, first and second value.
        names: what the two are.
    """
    figure = _figure(_WIDTH, 1.35 + _ROW * len(rows))
    axis = figure.subplots()
    for place, (_, name, first, second) in enumerate(rows):
        shade = color(name)
        axis.plot([first, second], [place, place], color=shade, linewidth=1.5, zorder=2)
        axis.plot(first, place, "o", color=shade, markersize=8, zorder=4)
        axis.plot(second, place, "o", markersize=7, mfc=color("paper"), mec=shade, mew=1.8, zorder=3)
        axis.text(1.015, place, with_sign(first - second), transform=axis.get_yaxis_transform(), va="center")
    if reference is not None:
        axis.axvline(reference, **_reference_line())
    shared: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": color("muted"), "markersize": 7}
    filled = axis.plot([], [], label=names[0], **shared)
    hollow = axis.plot([], [], label=names[1], markerfacecolor=color("paper"), markeredgewidth=1.8, **shared)
    figure.legend(handles=[*filled, *hollow], loc="outside lower left", ncols=2, frameon=False, fontsize=10)
    axis.set_yticks(range(len(rows)), [row[0] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.6)
    if limits is not None:
        axis.set_xlim(*limits)
    _dress(axis, title=title, xlabel=xlabel, grid="x")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    return figure


def curves(
    lines: Sequence[Curve],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    log_ticks: Sequence[tuple[float, str]] | None = None,
    reference: float | None = None,
    markers: bool = True,
    from_zero: bool = False,
) -> Figure:
    """
    Lines with bands, and a legend below where there are several labels.

    Args:
        log_ticks: makes the horizontal axis logarithmic, with these places and names of its ticks.
        reference: where to draw a horizontal line, such as chance.
        markers: mark every point.
        from_zero: begin the vertical axis at 0.
    """
    figure = _figure(_WIDTH, 3.3)
    axis = figure.subplots()
    handles: dict[str, Any] = {}
    for line in lines:
        shade = color(line.color)
        if line.band is not None:
            axis.fill_between(line.x, *line.band, color=shade, alpha=0.16, linewidth=0)
        marker = "o" if markers else None
        (drawn,) = axis.plot(line.x, line.y, line.style, color=shade, linewidth=1.9, marker=marker, markersize=4.5)
        handles.setdefault(line.label, drawn)
    if reference is not None:
        axis.axhline(reference, **_reference_line())
        where = {"xy": (1, reference), "xycoords": ("axes fraction", "data"), "xytext": (0, 2), "ha": "right"}
        _name_reference(axis, "chance", **where)
    if log_ticks is not None:
        axis.set_xscale("log")
        axis.set_xticks([place for place, _ in log_ticks], [name for _, name in log_ticks])
        axis.minorticks_off()
    if len(handles) > 1:
        columns = 2 if max(map(len, handles)) > 16 else min(3, len(handles))
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            fontsize=10,
            handlelength=2.8,
        )
    _dress(axis, title=title, xlabel=xlabel, grid="y")
    axis.set_ylabel(ylabel)
    if from_zero:
        highest = max(max(line.band[1] if line.band else line.y) for line in lines)
        axis.set_ylim(0, 1.06 * float(highest))
    return figure


def _draw_dot(axis: Axes, place: float, row: Dot, *, text: str) -> None:
    """A row of [`dots`], with `text` at the right of the axes."""
    shade = color(row.color)
    face = color("paper") if row.hollow else shade
    axis.plot([row.low, row.high], [place, place], color=shade, linewidth=2, solid_capstyle="round", zorder=3)
    # Not clipped: a mean of 0 or 100 % lies on the edge of the axes.
    axis.plot(row.mean, place, "o", markersize=7.5, mfc=face, mec=shade, mew=1.8, zorder=5, clip_on=False)
    if len(row.values) > 1:
        axis.plot(row.values, [place - 0.3] * len(row.values), "o", color=shade, markersize=3, zorder=4)
    axis.text(1.015, place, text, transform=axis.get_yaxis_transform(), va="center")


def _reference_line() -> dict[str, Any]:
    return {"color": color("muted"), "linewidth": 1.1, "linestyle": (0, (4, 3)), "zorder": 1}


def _name_reference(axis: Axes, name: str, **where: Any) -> None:
    axis.annotate(name, textcoords="offset points", fontsize=9, va="bottom", color=color("muted"), **where)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _dress(axis: Axes, *, title: str, xlabel: str, grid: str) -> None:
    # At the left edge of the figure, not of the axes: there is room for long ones.
    axis.figure.suptitle(title, x=0.005, ha="left", fontsize=11, fontweight="bold")
    axis.set_xlabel(xlabel)
    axis.grid(axis=grid, linewidth=0.8, zorder=0)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=10)
    axis.spines[["top", "right"]].set_visible(False)


__all__ = ["Curve", "Dot", "curves", "dots", "pairs"]
