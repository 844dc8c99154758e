"""Images of clips: strips, masks, features as colours, surprise, neighbours; the pixels are checked by hand."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from PIL import Image  # noqa: E402

from transformers_vjepa.figures.images import (  # noqa: E402
    Strip,
    draw_feature_colors,
    draw_heat,
    draw_masks,
    draw_neighbours,
    draw_strips,
    frame_titles,
    heat_colors,
    heat_limits,
    middle_frames,
    plot_feature_pca,
    plot_masked_clips,
    principal_colors,
    short_name,
    tubelet_frames,
)
from transformers_vjepa.models.vjepa.configuration_vjepa import VJEPAConfig  # noqa: E402

CONFIG = VJEPAConfig(crop_size=32, patch_size=16, frames_per_clip=4, tubelet_size=2)  # grid 2 x 2 x 2
BLUE = np.array([0.16, 0.38, 0.75])  # of target tokens
RED = [217, 26, 26]  # of the cross of dropped tokens


def white_clips(batch: int = 2) -> torch.Tensor:
    return torch.full((batch, 4, 3, 32, 32), 255, dtype=torch.uint8)


def images_of(figure) -> list[np.ndarray]:
    """RGBA of each row of images."""
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes]


def labels_of(figure) -> list[str]:
    return [axis.texts[0].get_text() for axis in figure.axes]


def size_of(path) -> tuple[int, int]:
    return Image.open(path).size


# Strips


def test_strips_are_joined_with_clear_gaps_and_a_border():
    figure = draw_strips([Strip("a", torch.zeros(2, 4, 4, 3), border="right")], titles=["", ""])
    (joined,) = images_of(figure)
    factor, gap = 128 // 4, 128 // 26
    assert joined.shape == (4 * factor, 2 * (4 * factor + gap), 4)
    assert joined[0, 0].tolist() == [11, 107, 181, 255]  # #0b6bb5
    assert joined[64, 64].tolist() == [0, 0, 0, 255]
    assert joined[64, 4 * factor + 1].tolist() == [0, 0, 0, 0]  # between the images: nothing


def test_a_figure_of_strips_has_a_row_each_and_the_titles_once():
    strips = [Strip("clip", torch.rand(2, 8, 8, 3)), Strip("map", torch.rand(2, 8, 8, 3), is_first=True)]
    figure = draw_strips(strips, titles=["frames 0–1", "frames 2–3"], title="name")
    assert [[text.get_text() for text in axis.texts] for axis in figure.axes] == [
        ["clip", "frames 0–1", "frames 2–3"],
        ["map"],
    ]
    first, second = (axis.get_position() for axis in figure.axes)
    assert first.y0 > second.y1 and first.y1 <= 1 and second.y0 >= 0
    assert [text.get_text() for text in figure.texts] == ["name"]


def test_single_images_are_tiles_in_rows_of_groups():
    labels = [("image 0", True), ("mask 0", False), ("mask 1", False), ("image 1", True), ("mask 0", False)]
    strips = [Strip(label, torch.rand(1, 8, 8, 3), is_first=first) for label, first in labels]
    figure = draw_strips(strips, titles=[""], title="name", cell=1.1)
    # The second "mask 0" stands below the first one, so its label is left out.
    assert labels_of(figure) == ["image 0", "mask 0", "mask 1", "image 1", ""]
    boxes = [axis.get_position() for axis in figure.axes]
    assert boxes[0].y0 == boxes[1].y0 == boxes[2].y0 > boxes[3].y1 and boxes[3].y0 == boxes[4].y0 >= 0
    width, height = figure.get_size_inches()
    assert [round(box.x0 * width, 2) for box in boxes] == [0.06, 1.36, 2.66, 0.06, 1.36]
    assert boxes[0].width * width == pytest.approx(boxes[0].height * height)  # square
    assert [text.get_text() for text in figure.texts] == ["name"] and boxes[0].y1 < 1


def test_many_images_take_several_rows_of_six():
    figure = draw_strips([Strip(str(number), torch.rand(1, 8, 8, 3)) for number in range(8)], titles=[""])
    places = [axis.get_position() for axis in figure.axes]
    assert [round(box.x0 * 6) for box in places] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert places[5].y0 > places[6].y1


def test_titles_name_the_frames_of_a_time_step():
    assert frame_titles(CONFIG) == ["frames 0–1", "frames 2–3"]
    still = VJEPAConfig(crop_size=16, patch_size=4, frames_per_clip=1, tubelet_size=1)
    assert frame_titles(still) == [""]
    titles = frame_titles(VJEPAConfig(crop_size=16, patch_size=4, frames_per_clip=64))
    assert titles[:5] == ["0–1", "", "", "", "8–9"] and len(titles) == 32
    assert middle_frames(CONFIG).tolist() == [0.5, 2.5]


def test_single_channel_clips_are_drawn_grey():
    config = VJEPAConfig(crop_size=32, patch_size=16, frames_per_clip=4, in_chans=1)
    frames = tubelet_frames(torch.full((1, 4, 1, 32, 32), 51, dtype=torch.uint8), config)
    torch.testing.assert_close(frames, torch.full((1, 2, 32, 32, 3), 0.2))


def test_names_are_shortened():
    assert short_name("rotate_counterclockwise") == "rotate ccw"
    assert short_name("rotate_clockwise") == "rotate cw"
    assert short_name("a very long name of a class") == "a very long n…"


# Masks


def test_masks_show_context_target_and_dropped_tokens():
    context, target = torch.tensor([[0, 4]]), torch.tensor([[1, 2, 3, 5]])  # 6 and 7 are dropped
    figure = draw_masks(white_clips(1)[0], [context], [target], config=CONFIG, title="name")
    assert labels_of(figure) == ["mask 1\ncontext 25 %\ntarget 50 %\ndropped 25 %"]
    (image,) = images_of(figure)
    token, second = 64, 128 + 128 // 26  # pixels of an enlarged token, and of the second frame
    assert (image[:token, :token, :3] == 255).all()  # context: unchanged
    blue = np.round((0.22 + 0.78 * BLUE) * 255)
    assert np.abs(image[:token, token:128, :3] - blue).max() <= 1
    below = image[token:128, second : second + token, :3]
    assert below[0, 0].tolist() == below[0, -1].tolist() == RED  # the ends of the cross
    assert below[0, token // 2].tolist() == [255, 255, 255]


def test_a_sheet_has_a_row_for_each_clip_and_each_mask(tmp_path):
    context, targets = torch.tensor([[0]] * 3), [torch.tensor([[1, 2]] * 3), torch.tensor([[2, 3]] * 3)]
    args = {"config": CONFIG, "path": tmp_path / "new" / "sheet.png"}
    one = size_of(plot_masked_clips(white_clips(3), [context], targets, max_clips=1, **args))
    two = size_of(plot_masked_clips(white_clips(3), [context], targets, max_clips=2, **args))
    assert two[0] == one[0] and two[1] > one[1] + 3 * 100


def test_a_sheet_shows_blue_targets_and_red_crosses(tmp_path):
    context, target = torch.tensor([[0, 4]]), torch.tensor([[1, 2, 3, 5, 6, 7]])

    def shares(name, target):
        path = plot_masked_clips(white_clips(1), [context], [target], config=CONFIG, path=tmp_path / name)
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        return [(np.abs(image - shade).max(-1) < 12).mean() for shade in ((0.22 + 0.78 * BLUE) * 255, RED)]

    blue, red = shares("full.png", target)
    fewer_blue, more_red = shares("cut.png", target[:, :3])
    assert 0.1 < blue < 0.4 and red < 0.001
    assert fewer_blue == pytest.approx(blue / 2, rel=0.1) and more_red > 0.01


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_nothing_above_few_frames_is_cut_off(tmp_path, steps):
    config = VJEPAConfig(crop_size=32, patch_size=16, frames_per_clip=steps, tubelet_size=1)
    clips, mask = torch.full((1, steps, 3, 32, 32), 255, dtype=torch.uint8), torch.tensor([[0]])
    masks = plot_masked_clips(clips, [mask], [mask + 1], config=config, path=tmp_path / "masks.png")
    features = torch.rand(1, config.num_patches, 4, generator=torch.Generator().manual_seed(0))
    colors = plot_feature_pca(clips, [(0, features)], config=config, path=tmp_path / "features.png")
    for path in (masks, colors):
        above = np.asarray(Image.open(path).convert("RGB"))[:60]
        assert above.min() < 100 and above[:, :3].min() == above[:, -3:].min() == above[0].min() == 255


def test_sheet_of_masks_refuses_other_numbers(tmp_path):
    mask, args = torch.tensor([[0], [1]]), {"config": CONFIG, "path": tmp_path / "sheet.png"}
    with pytest.raises(ValueError, match="2 context masks for 3 target masks: pass one per target"):
        plot_masked_clips(white_clips(), [mask] * 2, [mask] * 3, **args)
    with pytest.raises(ValueError, match="a mask of 1 clips for 2 clips: pass one row per clip"):
        plot_masked_clips(white_clips(), [mask[:1]], [mask], **args)
    with pytest.raises(ValueError, match=r"torch.float32 .* must be torch.uint8 of shape \(batch, 4, 3, 32, 32\)"):
        plot_masked_clips(white_clips().float(), [mask], [mask], **args)


# Features


def two_kinds_of_features() -> torch.Tensor:
    """(2, 8, 5): the first tubelet differs from the second, under a little noise."""
    features = torch.zeros(2, 8, 5)
    features[:, :4, 2] = 10.0
    return features + 0.01 * torch.rand(features.shape, generator=torch.Generator().manual_seed(0))


def test_principal_components_become_colours():
    features = two_kinds_of_features()
    components, colors = principal_colors(features)
    assert components.shape == (5, 3) and colors.shape == (2, 8, 3)
    assert (colors[:, :4, 0] > 0.99).all() and (colors[:, 4:, 0] < 0.01).all()
    _, flipped = principal_colors(features, before=-components)  # signs follow the earlier components
    torch.testing.assert_close(flipped, 1 - colors, atol=1e-4, rtol=0)


def test_collapsed_features_have_one_colour():
    _, colors = principal_colors(torch.ones(1, 8, 4))
    assert colors.unique().numel() == 1


def test_features_of_one_clip_beside_its_frames():
    features = two_kinds_of_features().unflatten(1, (2, 4))
    figure = draw_feature_colors(white_clips(), [("ours", features)], shown=1, name="clip", config=CONFIG)
    assert labels_of(figure) == ["clip", "ours"]
    frames, colors = images_of(figure)
    assert (frames[:, :128] == 255).all() and (colors[:, :128, 0] > 250).all() and (colors[:, 140:260, 0] < 5).all()


def test_feature_pca_has_a_row_for_each_snapshot(tmp_path):
    features = two_kinds_of_features()
    args = {"config": CONFIG, "path": tmp_path / "pca.png"}
    one = size_of(plot_feature_pca(white_clips(), [(0, features)], **args))
    two = size_of(plot_feature_pca(white_clips(), [(0, features), (500, features)], **args))
    assert two[0] == one[0] and two[1] > one[1] + 2 * 100


def test_feature_pca_refuses_other_shapes(tmp_path):
    args = {"config": CONFIG, "path": tmp_path / "pca.png"}
    with pytest.raises(ValueError, match="`snapshots` is empty"):
        plot_feature_pca(white_clips(), [], **args)
    with pytest.raises(ValueError, match=r"step 7 have shape \(2, 7, 5\) and must have \(2, 8, channels\)"):
        plot_feature_pca(white_clips(), [(7, torch.zeros(2, 7, 5))], **args)
    with pytest.raises(ValueError, match="at least 3 channels"):
        plot_feature_pca(white_clips(), [(7, torch.zeros(2, 8, 2))], **args)


# Heat, surprise, neighbours


def test_heat_is_dark_at_low_and_bright_at_high():
    frames = torch.full((1, 4, 4, 3), 0.5)
    dark, bright = (
        heat_colors(frames, torch.full((1, 2, 2), value), limits=(1.0, 3.0)).mean() for value in (1.0, 3.0)
    )
    assert float(dark) == pytest.approx(0.42 * 0.5, abs=0.01) and float(bright) > 0.6
    assert heat_limits(torch.tensor([float("nan"), *range(101)])) == pytest.approx((5, 95))


def test_maps_are_drawn_over_grey_frames_on_one_scale_and_steps_without_a_map_are_pale():
    surprise = torch.full((2, 2, 2), float("nan"))
    surprise[1] = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    clip = white_clips(1)[0]
    clips = [("a", clip, {"surprise": surprise}), ("b", clip, {"surprise": surprise.nan_to_num(5.0)})]
    figure = draw_heat(clips, limits=(0.0, 1.0), config=CONFIG)
    assert labels_of(figure) == ["a", "surprise", "b", "surprise"]
    _, first, _, second = images_of(figure)
    assert first[0, 0, :3].tolist() == [204, 204, 204] and (first[:, :128, :3] == 204).all()
    step = 128 + 128 // 26
    dark, bright = first[-1, step], first[0, step + 100]
    assert bright[:3].astype(int).sum() > dark[:3].astype(int).sum() + 30
    assert np.array_equal(first[:, step:], second[:, step:])


def test_neighbours_are_marked_by_their_labels():
    labels = {"motion": np.array([0, 0, 1]), "appearance": np.array([1, 0, 1])}
    names = {"motion": ["left", "right"], "appearance": ["disc", "ring"]}
    figure = draw_neighbours(white_clips(3), [1, 2], labels, query=0, class_names=names, config=CONFIG)
    assert labels_of(figure) == ["query\nleft\nring", "left ✓\ndisc ✗", "right ✗\nring ✓"]
