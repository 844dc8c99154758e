"""Sheets of images: places, titles, borders, and masks of an image."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from transformers_vjepa import VJEPAConfig  # noqa: E402
from transformers_vjepa.figures.sheets import (  # noqa: E402
    BLANK,
    Tile,
    draw_image_masks,
    draw_sheet,
    enlarge_tokens,
    image_tile,
)

CONFIG = VJEPAConfig(crop_size=8, patch_size=4, frames_per_clip=1, tubelet_size=1)  # grid 1 x 2 x 2


def test_rows_and_columns_have_their_names():
    tile = Tile(torch.zeros(4, 4, 3))
    figure = draw_sheet([("one", [tile, tile]), ("two", [tile])], titles=["image", "features"])
    assert [text.get_text() for text in figure.texts] == ["one", "two", "image", "features"]
    boxes = [axis.get_position() for axis in figure.axes]
    assert len(boxes) == 3
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y0 and boxes[0].x0 == boxes[2].x0 < boxes[1].x0


def test_images_are_enlarged_by_whole_factors_with_a_border():
    image = torch.zeros(2, 2, 3)
    image[0, 1] = 1.0
    (axis,) = draw_sheet([("", [Tile(image, border="wrong")])], titles=[""]).axes
    (shown,) = (image.get_array() for image in axis.images)
    assert shown.shape == (128, 128, 3)
    assert shown[40, 90].tolist() == [1.0] * 3 and shown[90, 90].tolist() == [0.0] * 3
    assert np.allclose(shown[0, 64] * 255, [0xD1, 0x56, 0x0C])


def test_tokens_become_squares_of_their_patch():
    tokens = torch.arange(4.0).view(2, 2, 1)
    assert enlarge_tokens(tokens, CONFIG)[:, :, 0][[0, 3, 4], [0, 4, 7]].tolist() == [0.0, 1.0, 3.0]


def test_masks_of_an_image():
    image = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert image_tile(image, CONFIG).image.shape == (8, 8, 3)
    masks = {"two": ([torch.tensor([[3]])], [torch.tensor([[0]]), torch.tensor([[1, 2]])])}
    figure = draw_image_masks(
        image, {**masks, "one": ([torch.tensor([[0, 1]])], [torch.tensor([[2, 3]])])}, config=CONFIG
    )
    assert [text.get_text() for text in figure.texts] == ["two", "one", "context", "target 1", "target 2"]
    context, first, second, *_ = (axis.images[0].get_array() for axis in figure.axes)
    assert np.allclose(context[[0, 127], [0, 127], 0], [BLANK, 1.0])
    blue = 0.22 + 0.78 * np.array([0.16, 0.38, 0.75])
    assert np.allclose(first[0, 0], blue) and np.allclose(first[0, 127], 1.0)
    assert np.allclose(second[0, 127], blue) and np.allclose(second[0, 0], 1.0)
