"""Charts: numbers beside the marks, axes and legends; training curves, confusion matrices, accuracies per class."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import colormaps  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

from transformers_vjepa.evaluation.statistics import accuracy_interval  # noqa: E402
from transformers_vjepa.figures.charts import (  # noqa: E402
    Curve,
    Dot,
    curves,
    dots,
    draw_confusion_matrix,
    plot_class_accuracies,
    plot_confusion_matrix,
    plot_training_curves,
)
from transformers_vjepa.figures.style import color  # noqa: E402

LOGS = [
    {"step": 10, "loss": 0.8, "learning_rate": 1e-4, "context_ratio_0": 0.4, "context_ratio_1": 0.2},
    {"step": 20, "loss": 0.7, "learning_rate": 2e-4, "context_ratio_0": 0.4, "context_ratio_1": 0.2},
    {"step": 20, "train_runtime": 12.0},
    {"loss": 1.0},
]


def texts(figure):
    figure.draw_without_rendering()
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def all_texts(figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.fixture
def written(monkeypatch):
    """The figures that are written, in place of their files."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    return figures


# Dots, pairs, curves


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


def test_a_row_may_have_its_own_text():
    figure = dots([Dot("a", "wrong", -3.0, -5.0, -1.0, text="−3.0")], title="t", xlabel="x")
    assert texts(figure) == ["−3.0"]


def test_two_dots_of_a_row_have_names():
    row = Dot("a", "vjepa", 60.0, 60.0, 42.5, other=42.5)
    figure = dots([row], names=("attentive", "mean"), title="t", xlabel="x", reference=12.5, reference_label="")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["attentive", "mean"]
    _, filled, hollow = figure.axes[0].lines[:3]
    assert (filled.get_xdata()[0], hollow.get_xdata()[0]) == (60.0, 42.5)
    faces = [to_hex(line.get_markerfacecolor()) for line in (filled, hollow)]
    assert faces == [color("vjepa"), color("paper")]


def test_curves_on_a_logarithmic_axis():
    lines = [Curve("a", "vjepa", [10, 100], [1, 2], band=([0, 1], [2, 3])), Curve("b", "pixels", [10, 100], [2, 3])]
    ticks = [(10, "10\n10 %"), (100, "100\n100 %")]
    figure = curves(lines, title="t", xlabel="x", ylabel="y", log_ticks=ticks, reference=0.5)
    axis = figure.axes[0]
    assert axis.get_xscale() == "log"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["10\n10 %", "100\n100 %"]
    assert texts(figure) == ["chance"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_one_line_needs_no_legend_and_may_start_at_zero():
    figure = curves([Curve("a", "vjepa", [0, 1], [5, 6])], title="t", xlabel="x", ylabel="y", from_zero=True)
    assert not figure.legends and figure.axes[0].get_ylim() == pytest.approx((0, 6.36))


# Training curves


def test_training_curves_have_a_panel_for_each_group_of_values(tmp_path, written):
    plot_training_curves(LOGS, tmp_path / "curves.png", title="Mine")
    [figure] = written
    assert figure.get_suptitle() == "Mine"
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert list(panels) == ["Loss", "Learning rate", "Masks (share of tokens)"]
    [loss] = panels["Loss"].lines
    assert (loss.get_xdata().tolist(), loss.get_ydata().tolist()) == ([10.0, 20.0], [0.8, 0.7])
    masks = {line.get_label(): line.get_ydata().tolist() for line in panels["Masks (share of tokens)"].lines}
    assert masks == {"context, mask 0": [0.4, 0.4], "context, mask 1": [0.2, 0.2]}
    assert {axis.get_xlabel() for axis in figure.axes} == {"optimizer step"}


def test_training_curves_are_written_into_a_new_folder(tmp_path):
    path = plot_training_curves(LOGS, tmp_path / "new" / "curves.png")
    assert path == tmp_path / "new" / "curves.png"
    height, width, _ = pixels(path).shape
    assert width > 2.5 * height  # three panels in one row


KEYS = """
    loss eval_loss eval_accuracy eval_macro_f1 eval_cross_entropy learning_rate weight_decay ema_momentum
    target_std_over_clips target_std_over_tokens predictor_std target_rank_over_clips target_rank_over_tokens
    encoder_grad_norm predictor_grad_norm context_ratio_0 target_ratio_0 clips_per_second data_wait_share
""".split()


def test_all_logged_values_are_drawn(tmp_path, written):
    logs = [{"step": step, **{key: 0.5 for key in KEYS}} for step in (1, 2)]
    plot_training_curves(logs, tmp_path / "all.png")
    assert sum(len(axis.lines) for axis in written[0].axes) == len(KEYS)
    assert len(written[0].axes) == 12
    scales = {axis.get_title(loc="left"): axis.get_yscale() for axis in written[0].axes}
    assert [name for name, scale in scales.items() if scale == "log"] == ["Gradient norm before clipping"]


def test_labels_of_the_logarithmic_axis_are_plain_numbers(tmp_path, written):
    logs = [{"step": step, "encoder_grad_norm": value} for step, value in ((1, 0.06), (2, 0.4))]
    plot_training_curves(logs, tmp_path / "norms.png")
    labels = [label.get_text() for label in written[0].axes[0].get_yticklabels(which="both")]
    assert {"0.1", "0.2", "0.4"} <= set(labels) and not any("$" in label for label in labels)


def test_curves_with_nothing_to_draw_are_refused(tmp_path):
    with pytest.raises(ValueError, match="none of the 1 entries of `log_history`"):
        plot_training_curves([{"step": 1, "epoch": 0.1}], tmp_path / "curves.png")


# Confusion matrices


def test_confusion_matrix_is_shaded_by_the_share_of_the_true_class(tmp_path):
    matrix = np.array([[8, 2, 0], [0, 10, 0], [5, 0, 5]])
    image = pixels(plot_confusion_matrix(matrix, ["kick", "hug", "push"], tmp_path / "new" / "confusion.png"))
    for share in (1.0, 0.5, 0.0):
        shade = np.array(colormaps["Blues"](share)[:3]) * 255
        assert (np.abs(image - shade).max(-1) < 12).mean() > 0.02


def test_up_to_20_classes_have_counts_and_more_have_a_list():
    matrix = np.diag([7] * 20)
    matrix[3, 4] = 13
    found = all_texts(draw_confusion_matrix(matrix, [f"class {n}" for n in range(20)]))
    assert {"7", "13", "class 0", "class 19", "predicted", "Confusion matrix: 140 of 153 right (91.5%)"} <= found
    many = np.diag([7] * 21)
    many[3, 4] = 13
    found = all_texts(draw_confusion_matrix(many, [f"class {n}" for n in range(21)]))
    assert "13" not in found and "class 20" in found
    assert any("class 3 \N{RIGHTWARDS ARROW} class 4" in text for text in found)


def test_400_classes_have_numbers_and_the_figure_keeps_its_size(tmp_path):
    names = [f"class {n} {'x' * 50}" for n in range(400)]
    found = all_texts(draw_confusion_matrix(np.eye(400, dtype=int), names))
    assert "predicted class (number)" in found and not any("class 0" in text for text in found)
    assert max(pixels(plot_confusion_matrix(np.eye(400, dtype=int), names, tmp_path / "x.png")).shape) < 2000


def test_confusion_matrix_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"`matrix` of shape \(2, 3\) must be square"):
        draw_confusion_matrix(np.ones((2, 3)), ["a", "b"])
    with pytest.raises(ValueError, match="count at least one clip"):
        draw_confusion_matrix(np.zeros((2, 2)), ["a", "b"])
    with pytest.raises(ValueError, match="1 class names for 2 classes: pass one name for each class"):
        draw_confusion_matrix(np.eye(2), ["a"])


# Accuracies per class


def test_class_accuracies_are_sorted_with_intervals(tmp_path, written):
    names = ["kick", "hug", "none", "push"]
    accuracies, counts = [0.5, 1.0, float("nan"), 0.0], [10, 4, 0, 6]
    plot_class_accuracies(accuracies, counts, names, tmp_path / "x.png", interval=accuracy_interval)
    [axis] = written[0].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["hug  (4)", "kick  (10)", "push  (6)"]
    assert [bar.get_width() for bar in axis.patches] == [1.0, 0.5, 0.0]
    [intervals] = axis.collections
    # Wilson interval of 5 of 10.
    assert intervals.get_segments()[1][:, 0] == pytest.approx([0.2366, 0.7634], abs=1e-4)
    assert "Accuracy 45.0%, mean of 3 classes with clips 50.0%" in all_texts(written[0])


def test_of_many_classes_the_best_and_the_worst_are_drawn(tmp_path, written):
    names = [f"class {n}" for n in range(100)]
    plot_class_accuracies(np.arange(100) / 99, [99] * 100, names, tmp_path / "x.png", interval=accuracy_interval)
    best, worst = ([label.get_text() for label in axis.get_yticklabels()] for axis in written[0].axes)
    assert best == [f"class {n}  (99)" for n in range(99, 79, -1)]
    assert worst == [f"class {n}  (99)" for n in range(19, -1, -1)]


def test_class_accuracies_are_written(tmp_path):
    path = plot_class_accuracies(
        [0.5, 1.0], [10, 4], ["kick", "hug"], tmp_path / "classes.png", interval=accuracy_interval
    )
    assert path == tmp_path / "classes.png" and pixels(path).shape[1] > 600


def test_class_accuracies_refuse_other_numbers(tmp_path):
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        plot_class_accuracies([0.5, 1.0], [10, 4], ["a", "b", "c"], tmp_path / "x.png", interval=accuracy_interval)
    with pytest.raises(ValueError, match="must count at least one clip of 2 classes"):
        plot_class_accuracies([0.5, 1.0], [0, 0], ["a", "b"], tmp_path / "x.png", interval=accuracy_interval)
