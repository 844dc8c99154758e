"""The columns of the sheets of a study of images."""

import pytest
import torch

pytest.importorskip("matplotlib")

from transformers_vjepa import VJEPAConfig, VJEPAVideoProcessor  # noqa: E402
from transformers_vjepa.analysis.feature_decoder import DecodedClips  # noqa: E402
from transformers_vjepa.figures.sheets import BLANK  # noqa: E402
from transformers_vjepa.study.image_views import (  # noqa: E402
    decoded_columns,
    feature_columns,
    heat_columns,
    neighbour_columns,
)

CONFIG = VJEPAConfig(crop_size=8, patch_size=4, frames_per_clip=1, tubelet_size=1)  # grid 1 x 2 x 2
IMAGES = torch.arange(3, dtype=torch.uint8).mul(100).view(3, 1, 1, 1, 1).expand(3, 1, 3, 8, 8)


def test_features_are_a_column_for_each_encoder():
    torch.manual_seed(0)
    titles, tiles = feature_columns({"a": torch.randn(3, 1, 4, 5), "b": torch.randn(3, 1, 4, 5)}, CONFIG)
    assert list(titles) == ["a", "b"]
    first, _ = tiles(1)
    assert first.image.shape == (8, 8, 3) and (first.image[:4, :4] == first.image[0, 0]).all()


def test_tokens_without_a_value_are_blank():
    values = torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]).view(1, 1, 2, 2).expand(3, 1, 2, 2)
    titles, tiles = heat_columns(IMAGES, {"error": values}, limits=(0.0, 1.0), config=CONFIG)
    (tile,) = tiles(0)
    assert titles == ["error"] and (tile.image[4:, :4] == BLANK).all() and (tile.image[:4] != BLANK).any()
    assert tile.image[0, 7].sum() > tile.image[0, 0].sum()


def test_neighbours_have_a_border_by_their_label():
    nearest, labels = torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.tensor([0, 0, 1])
    titles, tiles = neighbour_columns(IMAGES, nearest, labels, CONFIG)
    assert titles == ["1", "2"]
    assert [(round(float(tile.image[0, 0, 0]) * 255), tile.border) for tile in tiles(0)] == [
        (100, "right"),
        (200, "wrong"),
    ]


def test_decoded_images_are_blank_where_nothing_is_predicted():
    grey = torch.zeros(1, 1, 3, 8, 8)
    hidden, predicted = torch.ones(1, 1, 8, 8, dtype=torch.bool), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hidden[..., :4] = False
    predicted[..., :4, 4:] = True
    decoded = DecodedClips(grey, grey, hidden, predicted, grey, grey + 1)
    processor = VJEPAVideoProcessor.for_config(CONFIG)
    titles, tiles = decoded_columns(decoded, processor=processor, config=CONFIG)
    assert titles == ["context", "target features", "predictions"]
    context, wanted, predictions = (tile.image for tile in tiles(0))
    mean = torch.tensor(processor.image_mean)
    assert torch.allclose(context[0, 0], mean) and (context[:, 4:] == BLANK).all()
    assert torch.allclose(wanted[0, 7], mean) and (wanted[4:, 4:] == BLANK).all()
    assert torch.allclose(predictions[0, 7], mean + torch.tensor(processor.image_std))
