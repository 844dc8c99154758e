"""Pictures: the files, what they show of context, target and dropped tokens, and their errors."""

import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from transformers_vjepa.evaluation.statistics import accuracy_interval
from transformers_vjepa.figures import images as visualization
from transformers_vjepa.figures.charts import plot_class_accuracies, plot_confusion_matrix, plot_training_curves
from transformers_vjepa.figures.images import plot_feature_pca, plot_masked_clips
from transformers_vjepa.models.vjepa.configuration_vjepa import VJEPAConfig

CONFIG = VJEPAConfig(crop_size=32, patch_size=16, frames_per_clip=4, tubelet_size=2)  # grid 2 x 2 x 2
LOGS = [
    {"step": 10, "loss": 0.8, "learning_rate": 1e-4, "context_ratio_0": 0.4, "context_ratio_1": 0.2},
    {"step": 20, "loss": 0.7, "learning_rate": 2e-4, "context_ratio_0": 0.4, "context_ratio_1": 0.2},
    {"step": 20, "train_runtime": 12.0},
    {"loss": 1.0},
]


def white_clips(batch: int = 2) -> torch.Tensor:
    return torch.full((batch, 4, 3, 32, 32), 255, dtype=torch.uint8)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def share(image: np.ndarray, color: tuple[float, ...]) -> float:
    return float((np.abs(image - np.array(color) * 255).max(-1) < 12).mean())


def test_curves_have_the_title_they_are_given(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **kwargs: titles.append(text))
    plot_training_curves([{"step": 1, "loss": 0.5, "data_wait_share": 0.1}], tmp_path / "a.png", title="Mine")
    assert titles == ["Mine"]


def test_training_curves(tmp_path):
    path = plot_training_curves(LOGS, tmp_path / "new" / "curves.png")
    assert path == tmp_path / "new" / "curves.png"
    height, width, _ = pixels(path).shape
    assert width > 2.5 * height  # three panels in one row: loss, learning rate, masks


def test_curves_by_hand():
    assert visualization._curves(LOGS, {"loss": "train"}) == {"train": ([10.0, 20.0], [0.8, 0.7])}
    masks = visualization._curves(LOGS, {"context_ratio_": "context, mask"})
    assert masks == {"context, mask 0": ([10.0, 20.0], [0.4, 0.4]), "context, mask 1": ([10.0, 20.0], [0.2, 0.2])}


def test_all_panels_are_drawn(tmp_path):
    keys = [key for *_, curves in visualization._PANELS for key in curves]
    entry = {key + "0" if key.endswith("_") else key: 0.5 for key in keys}
    image = pixels(plot_training_curves([{"step": step, **entry} for step in (1, 2)], tmp_path / "all.png"))
    assert image.shape[0] > 900 and image.shape[1] > 1500


def test_curves_with_nothing_to_draw_are_refused(tmp_path):
    with pytest.raises(ValueError, match="none of the 1 entries of `log_history`"):
        plot_training_curves([{"step": 1, "epoch": 0.1}], tmp_path / "curves.png")


def test_painted_tokens_by_hand():
    kinds = visualization._token_kinds(torch.tensor([0, 4]), torch.tensor([1, 2, 3, 5]), CONFIG)
    assert kinds.flatten().tolist() == [0, 1, 1, 1, 0, 1, 2, 2]
    frames = torch.ones(2, 32, 32, 3)
    painted = visualization._paint_tokens(frames, kinds, 16)
    assert painted[0, :16, :16].equal(frames[0, :16, :16])  # context: as it is
    target = 0.22 + 0.78 * torch.tensor(visualization._TARGET_COLOR)
    torch.testing.assert_close(painted[0, :16, 16:], target.expand(16, 16, 3))
    dropped = torch.tensor(visualization._DROPPED_COLOR)
    assert painted[1, 16, 0].equal(dropped) and painted[1, 16, 15].equal(dropped)  # ends of the cross
    assert painted[1, 16, 8].tolist() == [1.0, 1.0, 1.0]


def test_sheet_of_masks_shows_context_target_and_dropped_tokens(tmp_path):
    context, target = torch.tensor([[0, 4]]), torch.tensor([[1, 2, 3, 5, 6, 7]])
    tint = tuple(0.22 + 0.78 * c for c in visualization._TARGET_COLOR)
    full = pixels(plot_masked_clips(white_clips(1), [context], [target], config=CONFIG, path=tmp_path / "full.png"))
    assert 0.15 < share(full, tint) < 0.4
    assert share(full, visualization._DROPPED_COLOR) < 0.01  # the legend alone
    cut = pixels(
        plot_masked_clips(white_clips(1), [context], [target[:, :3]], config=CONFIG, path=tmp_path / "cut.png")
    )
    assert share(cut, tint) == pytest.approx(share(full, tint) / 2, rel=0.1)
    assert share(cut, visualization._DROPPED_COLOR) > 0.01


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_nothing_above_few_frames_is_cut_off(tmp_path, steps):
    config = VJEPAConfig(crop_size=32, patch_size=16, frames_per_clip=steps, tubelet_size=1)
    clips, mask = torch.full((1, steps, 3, 32, 32), 255, dtype=torch.uint8), torch.tensor([[0]])
    masks = plot_masked_clips(clips, [mask], [mask + 1], config=config, path=tmp_path / "masks.png")
    features = torch.rand(1, config.num_patches, 4, generator=torch.Generator().manual_seed(0))
    colors = plot_feature_pca(clips, [(0, features)], config=config, path=tmp_path / "features.png")
    for path in (masks, colors):
        above = pixels(path)[:60]
        assert above.min() < 100 and above[:, :3].min() == above[:, -3:].min() == above[0].min() == 255


def test_sheet_of_masks_with_a_shared_context_and_few_clips(tmp_path):
    context, targets = torch.tensor([[0]] * 3), [torch.tensor([[1, 2]] * 3), torch.tensor([[2, 3]] * 3)]
    args = {"config": CONFIG, "path": tmp_path / "sheet.png"}
    one = pixels(plot_masked_clips(white_clips(3), [context], targets, max_clips=1, **args))
    two = pixels(plot_masked_clips(white_clips(3), [context], targets, max_clips=2, **args))
    assert two.shape[0] > one.shape[0] + 3 * 100 and two.shape[1] == one.shape[1]


def test_sheet_of_masks_refuses_what_does_not_match(tmp_path):
    mask, args = torch.tensor([[0], [1]]), {"config": CONFIG, "path": tmp_path / "sheet.png"}
    with pytest.raises(ValueError, match="2 context masks do not go with 3 target masks"):
        plot_masked_clips(white_clips(), [mask] * 2, [mask] * 3, **args)
    with pytest.raises(ValueError, match="a mask of 1 clips does not go with 2 clips"):
        plot_masked_clips(white_clips(), [mask[:1]], [mask], **args)
    with pytest.raises(ValueError, match=r"torch.float32 .* wants torch.uint8 of shape \(batch, 4, 3, 32, 32\)"):
        plot_masked_clips(white_clips().float(), [mask], [mask], **args)


def test_feature_pca(tmp_path):
    features = torch.zeros(2, 8, 5)
    features[:, :4, 2] = 10.0  # the first tubelet differs from the second
    features += 0.01 * torch.rand(features.shape, generator=torch.Generator().manual_seed(0))
    path = plot_feature_pca(white_clips(), [(0, features), (500, features)], config=CONFIG, path=tmp_path / "pca.png")
    assert path.stat().st_size > 5000
    components, colors = visualization._principal_colors(features, None)
    assert components.shape == (5, 3) and colors.shape == (2, 8, 3)
    assert (colors[:, :4, 0] > 0.99).all() and (colors[:, 4:, 0] < 0.01).all()
    # Signs follow the snapshot before.
    _, flipped = visualization._principal_colors(features, -components)
    torch.testing.assert_close(flipped, 1 - colors, atol=1e-4, rtol=0)


def test_feature_pca_of_collapsed_features_is_one_colour():
    _, colors = visualization._principal_colors(torch.ones(1, 8, 4), None)
    assert colors.unique().numel() == 1


def test_feature_pca_refuses_what_does_not_match(tmp_path):
    args = {"config": CONFIG, "path": tmp_path / "pca.png"}
    with pytest.raises(ValueError, match="`snapshots` is empty"):
        plot_feature_pca(white_clips(), [], **args)
    with pytest.raises(ValueError, match=r"step 7 have shape \(2, 7, 5\).*want \(2, 8, channels\)"):
        plot_feature_pca(white_clips(), [(7, torch.zeros(2, 7, 5))], **args)
    with pytest.raises(ValueError, match="at least 3 channels"):
        plot_feature_pca(white_clips(), [(7, torch.zeros(2, 8, 2))], **args)


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install transformers_vjepa\[viz\]"):
        plot_training_curves(LOGS, tmp_path / "curves.png")


def test_single_channel_clips_are_drawn_grey():
    config = VJEPAConfig(crop_size=32, patch_size=16, frames_per_clip=4, in_chans=1)
    frames = visualization._tubelet_frames(torch.full((1, 4, 1, 32, 32), 51, dtype=torch.uint8), config)
    torch.testing.assert_close(frames, torch.full((1, 2, 32, 32, 3), 0.2))


class Texts:
    """Keeps figures instead of writing them, and lists what the last one says."""

    def __init__(self, monkeypatch):
        self.figures = []
        monkeypatch.setattr(visualization, "_save", lambda figure, path: self.figures.append(figure))

    def __call__(self):
        return {text.get_text() for text in self.figures[-1].findobj(lambda artist: hasattr(artist, "get_text"))}


def test_confusion_matrix(tmp_path):
    from matplotlib import colormaps

    matrix = np.array([[8, 2, 0], [0, 10, 0], [5, 0, 5]])
    image = pixels(plot_confusion_matrix(matrix, ["kick", "hug", "push"], tmp_path / "new" / "confusion.png"))
    # The shades of a full cell, of a half and of none.
    assert all(share(image, colormaps["Blues"](part)[:3]) > 0.02 for part in (1.0, 0.5, 0.0))


def test_confusion_matrix_names_and_counts(tmp_path, monkeypatch):
    texts = Texts(monkeypatch)
    matrix = np.diag([7] * 20)
    matrix[3, 4] = 13
    plot_confusion_matrix(matrix, [f"class {n}" for n in range(20)], tmp_path / "x.png")
    assert {"7", "13", "class 0", "class 19", "predicted", "Confusion matrix: 140 of 153 right (91.5%)"} <= texts()
    many = np.diag([7] * 21)
    many[3, 4] = 13
    plot_confusion_matrix(many, [f"class {n}" for n in range(21)], tmp_path / "x.png")
    assert "13" not in texts() and "class 20" in texts()
    assert any("class 3 \N{RIGHTWARDS ARROW} class 4" in text for text in texts())
    plot_confusion_matrix(np.eye(400, dtype=int), [f"class {n}" for n in range(400)], tmp_path / "x.png")
    assert "predicted class (number)" in texts() and "class 0" not in texts()


def test_confusion_matrix_of_400_classes_keeps_its_size(tmp_path):
    image = pixels(plot_confusion_matrix(np.eye(400, dtype=int), ["x" * 50] * 400, tmp_path / "x.png"))
    assert max(image.shape) < 2000


def test_confusion_matrix_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"`matrix` of shape \(2, 3\) must be square"):
        plot_confusion_matrix(np.ones((2, 3)), ["a", "b"], tmp_path / "x.png")
    with pytest.raises(ValueError, match="count at least one clip"):
        plot_confusion_matrix(np.zeros((2, 2)), ["a", "b"], tmp_path / "x.png")
    with pytest.raises(ValueError, match="1 class names do not go with 2 classes"):
        plot_confusion_matrix(np.eye(2), ["a"], tmp_path / "x.png")


def test_class_accuracies_are_sorted_with_intervals(tmp_path, monkeypatch):
    texts = Texts(monkeypatch)
    names = ["kick", "hug", "none", "push"]
    plot_class_accuracies(
        [0.5, 1.0, float("nan"), 0.0], [10, 4, 0, 6], names, tmp_path / "x.png", interval=accuracy_interval
    )
    [axis] = texts.figures[-1].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["hug  (4)", "kick  (10)", "push  (6)"]
    assert [bar.get_width() for bar in axis.patches] == [1.0, 0.5, 0.0]
    [intervals] = axis.collections
    # Wilson interval of 5 of 10.
    assert intervals.get_segments()[1][:, 0] == pytest.approx([0.2366, 0.7634], abs=1e-4)
    assert "Accuracy 45.0%, mean of 3 classes with clips 50.0%" in texts()


def test_of_many_classes_the_best_and_the_worst_are_drawn(tmp_path, monkeypatch):
    texts = Texts(monkeypatch)
    plot_class_accuracies(
        np.arange(100) / 99,
        [99] * 100,
        [f"class {n}" for n in range(100)],
        tmp_path / "x.png",
        interval=accuracy_interval,
    )
    best, worst = ([label.get_text() for label in axis.get_yticklabels()] for axis in texts.figures[-1].axes)
    assert best == [f"class {n}  (99)" for n in range(99, 79, -1)]
    assert worst == [f"class {n}  (99)" for n in range(19, -1, -1)]


def test_class_accuracies_are_written(tmp_path):
    image = pixels(
        plot_class_accuracies(
            [0.5, 1.0], [10, 4], ["kick", "hug"], tmp_path / "classes.png", interval=accuracy_interval
        )
    )
    assert image.shape[1] > 600


def test_class_accuracies_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="3 class names do not go with 2 classes"):
        plot_class_accuracies([0.5, 1.0], [10, 4], ["a", "b", "c"], tmp_path / "x.png", interval=accuracy_interval)
    with pytest.raises(ValueError, match="must count at least one clip of 2 classes"):
        plot_class_accuracies([0.5, 1.0], [0, 0], ["a", "b"], tmp_path / "x.png", interval=accuracy_interval)
