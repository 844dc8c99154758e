"""The numbers behind the figures of the app."""

import numpy as np
import pytest
import torch
from torch.nn.functional import layer_norm

from transformers_vjepa import VJEPAConfig, VJEPAForVideoClassification
from transformers_vjepa.app.analysis import (
    Classifier,
    draw_mask_errors,
    encode_video,
    explained_variance,
    strategies,
)
from transformers_vjepa.figures.images import draw_feature_colors, draw_heat, heat_limits
from transformers_vjepa.models.vjepa.decoding import probe_video
from transformers_vjepa.pretraining.masking import Masks

from .conftest import TINY


def test_prediction_errors_by_hand(models, clip):
    analyzer = models.analyzer
    model, config = analyzer.model, analyzer.config
    context, target = torch.tensor([[0, 5, 9, 20]]), torch.tensor([[1, 2, 33]])
    found = analyzer.mask_errors(clip, Masks([context], [target]))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = ((clip / 255 - mean) / std)[None]
    with torch.no_grad():
        wanted = layer_norm(model.vjepa(pixels).last_hidden_state, (config.hidden_size,))[0, target[0]]
        patches, grid = model.context_encoder.embeddings.patchify(pixels)
        seen = model.context_encoder(patches, grid, context).last_hidden_state
        predicted = model.vjepa.predictor(seen, context, target, grid).last_hidden_state[0]
    errors = found.tokens.flatten()
    torch.testing.assert_close(errors[target[0]], (predicted - wanted).abs().mean(-1), atol=1e-5, rtol=1e-4)
    assert int(errors.isfinite().sum()) == 3 and found.tokens.shape == (1, *config.grid_size)
    torch.testing.assert_close(found.means, (predicted - wanted).abs().mean()[None], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.guess, wanted.abs().mean()[None], atol=1e-5, rtol=1e-4)


def test_context_stays_as_it_is_in_the_map_of_errors(models, clip):
    analyzer = models.analyzer
    everything = torch.arange(64)[None]
    masks = Masks([everything[:, :32]], [everything[:, 32:]])  # two time steps each
    [image] = draw_mask_errors(clip, analyzer.mask_errors(clip, masks), config=analyzer.config).axes[0].get_images()
    shown = np.asarray(image.get_array())[..., :3]
    step = shown.shape[1] // 4
    first = clip[0].permute(1, 2, 0).numpy()
    factor = shown.shape[0] // 32
    assert np.array_equal(shown[::factor, : 32 * factor : factor], first)
    third = clip[4].permute(1, 2, 0).numpy()
    assert not np.array_equal(shown[::factor, 2 * step : 2 * step + 32 * factor : factor], third)


def test_only_the_first_step_of_the_surprise_map_is_grey(models, clip):
    surprise = models.analyzer.surprise(clip)
    axes = draw_heat(
        [("clip", clip, {"surprise": surprise})], limits=heat_limits(surprise), config=models.analyzer.config
    ).axes
    [image] = axes[1].get_images()
    shown = np.asarray(image.get_array())[..., :3]
    factor, step = shown.shape[0] // 32, shown.shape[1] // 4
    first, second = (shown[::factor, start : start + 32 * factor : factor] for start in (0, step))
    grey = 0.25 * clip[0].float().mean(0) / 255 + 0.55
    np.testing.assert_allclose(first, 255 * grey.numpy()[..., None].repeat(3, -1), atol=0.51)
    assert (first.max(-1) == first.min(-1)).all() and (second.max(-1) != second.min(-1)).any()


def test_surprise_and_features_are_those_of_the_model(models, clip):
    analyzer = models.analyzer
    with torch.no_grad():
        expected = analyzer.model.surprise(analyzer.pixels(clip))[0]
        features = analyzer.model.vjepa(analyzer.pixels(clip)).last_hidden_state
    torch.testing.assert_close(analyzer.surprise(clip), expected, equal_nan=True)
    tokens = analyzer.tokens(clip)
    assert tokens.shape == (1, 4, 16, 24)
    torch.testing.assert_close(tokens.flatten(1, 2), features)


def test_principal_components_by_hand(models, clip):
    torch.manual_seed(0)
    tokens = torch.zeros(1, 4, 16, 24)
    tokens[..., :3] = torch.randn(1, 4, 16, 3)
    assert explained_variance(tokens) == pytest.approx(1, abs=1e-5)
    values = torch.randn(64, 24)
    variances = torch.from_numpy(np.linalg.eigvalsh(np.cov(values.numpy().T)))
    share = explained_variance(values.view(1, 4, 16, 24))
    assert share == pytest.approx(float(variances[-3:].sum() / variances.sum()), abs=1e-4)
    figure = draw_feature_colors(
        clip[None], [("features", tokens)], shown=0, name="clip", config=models.analyzer.config
    )
    rows = figure.axes
    assert len(rows) == 2 and rows[1].get_images()[0].get_array().shape[2] == 4


def test_top_classes_are_the_softmax_of_the_logits(models, clip):
    torch.manual_seed(0)
    model = VJEPAForVideoClassification(VJEPAConfig(**TINY, num_labels=7)).eval()
    found = Classifier(model, models.analyzer.processor, name="probe").top_classes(clip, number=5)
    with torch.no_grad():
        shares = model(models.analyzer.pixels(clip)).logits[0].softmax(-1)
    assert [share for _, share in found] == pytest.approx(shares.sort(descending=True).values[:5].tolist())
    assert found[0][0] == f"LABEL_{int(shares.argmax())}"


def test_the_video_of_a_clip_plays(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_video(clip, side=100))
    info = probe_video(path)
    assert (info.num_frames, info.width, info.height) == (8, 96, 96)
    path.write_bytes(encode_video(clip[:, :, :31, :31], side=90))
    assert probe_video(path).width == 31 * 4  # enlarged by a whole number, to an even side


def test_only_masks_that_fit_are_offered():
    assert strategies(VJEPAConfig(**TINY)) == ["multiblock", "random_tube", "causal_multiblock_6"]
    assert strategies(VJEPAConfig(crop_size=64, patch_size=8, frames_per_clip=1, tubelet_size=1)) == [
        "image_multiblock",
        "image_raster",
        "image_block",
        "image_random",
    ]
