"""Charts: numbers beside the marks, axes and legends."""

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex  # noqa: E402

from transformers_vjepa.figures.charts import Curve, Dot, curves, dots, pairs  # noqa: E402
from transformers_vjepa.figures.style import color  # noqa: E402


def texts(figure):
    figure.draw_without_rendering()
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_dots_show_mean_interval_and_seeds():
    rows = [Dot("a", "vjepa", 60.0, 55.0, 65.0, (58.0, 62.0)), Dot("b", "untrained", -3.25, -5.0, 1.0, hollow=True)]
    figure = dots(rows, title="Motion", xlabel="x", reference=12.5, limits=(-10, 70))
    assert texts(figure) == ["60.0", "-3.2", "chance"]
    axis = figure.axes[0]
    lines = [line.get_xdata() for line in axis.lines]
    assert [list(map(float, line)) for line in lines[:3]] == [[55.0, 65.0], [60.0], [58.0, 62.0]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert axis.get_xlim() == (-10, 70) and axis.get_ylim()[0] > axis.get_ylim()[1]  # the first row on top
    assert to_hex(axis.lines[1].get_markeredgecolor()) == color("vjepa")
    hollow = axis.lines[4]
    assert to_hex(hollow.get_markerfacecolor()) == color("paper")


def test_differences_have_a_true_minus():
    figure = dots([Dot("a", "wrong", -3.0, -5.0, -1.0)], title="t", xlabel="x", signed=True)
    assert texts(figure) == ["−3.0"]


def test_pairs_show_the_difference():
    figure = pairs([("a", "vjepa", 60.0, 42.5)], names=("attentive", "mean"), title="t", xlabel="x", reference=12.5)
    assert texts(figure) == ["+17.5"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["attentive", "mean"]


def test_curves_on_a_logarithmic_axis():
    lines = [Curve("a", "vjepa", [10, 100], [1, 2], band=([0, 1], [2, 3])), Curve("b", "pixels", [10, 100], [2, 3])]
    ticks = [(10, "10\n10 %"), (100, "100\n100 %")]
    figure = curves(lines, title="t", xlabel="x", ylabel="y", log_ticks=ticks, reference=0.5)
    axis = figure.axes[0]
    assert axis.get_xscale() == "log" and [tick.get_text() for tick in axis.get_xticklabels()] == [
        "10\n10 %",
        "100\n100 %",
    ]
    assert texts(figure) == ["chance"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_one_line_needs_no_legend_and_may_start_at_zero():
    figure = curves([Curve("a", "vjepa", [0, 1], [5, 6])], title="t", xlabel="x", ylabel="y", from_zero=True)
    assert not figure.legends and figure.axes[0].get_ylim() == pytest.approx((0, 6.36))
