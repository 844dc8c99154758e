"""Pictures of clips: what is computed for them, by hand; and strips of images."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining  # noqa: E402
from transformers_vjepa.figures import images as pictures  # noqa: E402
from transformers_vjepa.figures.images import Strip  # noqa: E402
from transformers_vjepa.models.vjepa.modeling_vjepa import VJEPAAttentivePooler  # noqa: E402

CONFIG = VJEPAConfig(
    crop_size=16,
    patch_size=4,
    frames_per_clip=4,
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    pred_hidden_size=12,
    pred_num_hidden_layers=1,
    pred_num_attention_heads=2,
)  # grid 2 x 4 x 4


def test_attention_weights_are_those_of_the_pooler():
    torch.manual_seed(0)
    pooler = VJEPAAttentivePooler(VJEPAConfig(hidden_size=12, num_attention_heads=1)).eval()
    torch.nn.init.normal_(pooler.query_tokens)
    for parameter in pooler.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(3, 7, 12)
    weights = pictures.attention_weights(pooler, tokens)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    layer = pooler.cross_attention_layer
    normed = layer.norm1(tokens)
    with torch.no_grad():
        by_hand = weights[:, None] @ layer.cross_attn.v_proj(normed)  # one head: the weighted mean of the values
    torch.testing.assert_close(by_hand, layer.cross_attn(pooler.query_tokens, normed).detach())


def test_attended_tokens_by_hand():
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(pictures.attended_tokens(weights), torch.tensor([4.0, 2.0, 1.0]))


def test_nearest_clips_leave_out_the_clip_itself():
    features = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1], [0.9, 0.1]])
    nearest = pictures.nearest_clips(features, number=2)
    assert nearest.shape == (5, 2) and nearest[0, 0] == 4 and nearest[4, 0] == 0
    assert all(index not in row for index, row in enumerate(nearest.tolist()))


def test_strips_are_joined_with_clear_gaps_and_a_border():
    strip = Strip("a", torch.zeros(2, 4, 4, 3), border="right")
    joined = pictures._joined(strip)
    factor, gap = 128 // 4, 128 // 26
    assert joined.shape == (4 * factor, 2 * (4 * factor + gap), 4)
    assert joined[0, 0].tolist() == [11, 108, 182, 255]  # #0b6cb6
    assert joined[64, 64].tolist() == [0, 0, 0, 255]
    assert joined[64, 4 * factor + 1].tolist() == [0, 0, 0, 0]  # between the images: nothing


def test_a_figure_of_strips_has_a_row_each_and_the_titles_once():
    strips = [Strip("clip", torch.rand(2, 8, 8, 3)), Strip("map", torch.rand(2, 8, 8, 3), is_first=True)]
    figure = pictures.draw_strips(strips, titles=["frames 0–1", "frames 2–3"], title="name")
    assert [[text.get_text() for text in axis.texts] for axis in figure.axes] == [
        ["clip", "frames 0–1", "frames 2–3"],
        ["map"],
    ]
    first, second = (axis.get_position() for axis in figure.axes)
    assert first.y0 > second.y1 and first.y1 <= 1 and second.y0 >= 0
    assert [text.get_text() for text in figure.texts] == ["name"]


def test_titles_name_the_frames_of_a_time_step():
    assert pictures.frame_titles(CONFIG) == ["frames 0–1", "frames 2–3"]
    still = VJEPAConfig(crop_size=16, patch_size=4, frames_per_clip=1, tubelet_size=1)
    assert pictures.frame_titles(still) == ["frame 0"]
    titles = pictures.frame_titles(VJEPAConfig(crop_size=16, patch_size=4, frames_per_clip=64))
    assert titles[:5] == ["0–1", "", "", "", "8–9"] and len(titles) == 32


def test_heat_is_dark_at_low_and_bright_at_high():
    frames = torch.full((1, 4, 4, 3), 0.5)
    dark, bright = (
        pictures._heat(frames, torch.full((1, 2, 2), value), low=1.0, high=3.0).mean() for value in (1.0, 3.0)
    )
    assert float(dark) == pytest.approx(0.42 * 0.5, abs=0.01) and float(bright) > 0.6


@pytest.mark.parametrize(
    ("arm", "dropped"), [("vjepa", False), ("random_tube", False), ("published_truncation", True)]
)
def test_masks_of_the_arms(arm, dropped):
    masks = pictures.strategy_masks(CONFIG, arm, batch_size=8)
    assert len(masks.context_mask) == (1 if arm == "random_tube" else 2)
    shares = [context.shape[1] + target.shape[1] for context, target in zip(*masks, strict=True)]
    assert (min(shares) < CONFIG.num_patches) is dropped
    clip = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    figure = pictures.draw_masks(clip, masks.context_mask, masks.target_mask, config=CONFIG, title=arm)
    assert len(figure.axes) == len(masks.context_mask)
    assert ("dropped" in figure.axes[-1].texts[0].get_text()) is dropped


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="context_frames"):
        pictures.strategy_masks(CONFIG, "causal", batch_size=2)  # six frames of context in a clip of four


def test_prediction_errors_cover_every_token():
    torch.manual_seed(0)
    model = VJEPAForPreTraining(CONFIG).eval()
    clips = torch.randn(3, 4, 3, 16, 16)
    errors = pictures.prediction_errors(model, clips)
    assert errors.tokens.shape == errors.reference.shape == (3, 2, 4, 4)
    assert errors.tokens.isfinite().all() and (errors.tokens > 0).all()
    same = pictures.prediction_errors(model, clips[:1].expand(3, -1, -1, -1, -1))
    assert float(same.reference.max()) < 1e-5  # the average of equal clips is each of them


def test_names_are_shortened():
    assert pictures.short_name("rotate_counterclockwise") == "rotate ccw"
    assert pictures.short_name("rotate_clockwise") == "rotate cw"
    assert pictures.short_name("a very long name of a class") == "a very long n…"


def test_neighbours_are_marked_by_their_labels():
    clips = torch.zeros(3, 4, 3, 16, 16, dtype=torch.uint8)
    labels = {"motion": np.array([0, 0, 1]), "appearance": np.array([1, 0, 1])}
    names = {"motion": ["left", "right"], "appearance": ["disc", "ring"]}
    figure = pictures.draw_neighbours(clips, torch.tensor([1, 2]), labels, query=0, class_names=names, config=CONFIG)
    found = [axis.texts[0].get_text() for axis in figure.axes]
    assert found == ["query\nleft\nring", "left ✓\ndisc ✗", "right ✗\nring ✓"]
