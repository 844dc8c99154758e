"""Prediction errors over space and time, and their figures."""

import pytest
import torch

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining
from transformers_vjepa.analysis.prediction_errors import PredictionErrors, draw_error_maps, prediction_errors

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


def test_prediction_errors_cover_every_token():
    torch.manual_seed(0)
    model = VJEPAForPreTraining(CONFIG).eval()
    clips = torch.randn(3, 4, 3, 16, 16)
    errors = prediction_errors(model, clips)
    assert errors.tokens.shape == errors.reference.shape == (3, 2, 4, 4)
    assert errors.tokens.isfinite().all() and (errors.tokens > 0).all()
    same = prediction_errors(model, clips[:1].expand(3, -1, -1, -1, -1))
    assert float(same.reference.max()) < 1e-5  # the average of equal clips is each of them


def test_errors_of_images_come_from_the_masks_of_images():
    sizes = {"frames_per_clip": 1, "tubelet_size": 1, "crop_size": 32, "pred_num_mask_tokens": 1}  # grid 1 x 8 x 8
    torch.manual_seed(0)
    model = VJEPAForPreTraining(VJEPAConfig(**{**CONFIG.to_diff_dict(), **sizes})).eval()
    errors = prediction_errors(model, torch.randn(2, 1, 3, 32, 32))
    assert errors.tokens.shape == (2, 1, 8, 8)
    # A corner is in few blocks, so it may never be a target.
    assert errors.tokens.isfinite().float().mean() > 0.9 and errors.tokens[:, :, 2:6, 2:6].isfinite().all()


def test_the_maps_are_means_over_clips_on_one_scale():
    pytest.importorskip("matplotlib")
    tokens = torch.stack([torch.zeros(2, 4, 4), torch.arange(32.0).view(2, 4, 4)])
    errors = PredictionErrors(tokens, tokens)
    axes = draw_error_maps(errors, config=CONFIG).axes
    assert [axis.get_title() for axis in axes[:2]] == ["frames 0–1", "frames 2–3"]
    for step in (0, 1):
        (image,) = axes[step].images
        assert image.get_array().tolist() == (tokens[1, step] / 2).tolist() and image.get_clim() == (0, 15.5)
