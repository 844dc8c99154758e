"""Features decoded into pixels: the inverse of patchify, training, the decoded places, and the figure."""

import numpy as np
import pytest
import torch

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining
from transformers_vjepa.analysis.feature_decoder import (
    DecodedClips,
    decode_predictions,
    draw_decoded_clip,
    new_decoder,
    train_decoder,
    unpatchify,
)
from transformers_vjepa.models.vjepa.video_processing_vjepa import VJEPAVideoProcessor

CONFIG = VJEPAConfig(  # grid 2 x 4 x 4
    crop_size=16,
    patch_size=4,
    frames_per_clip=4,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    pred_hidden_size=12,
    pred_num_hidden_layers=1,
    pred_num_attention_heads=2,
    initializer_range=0.1,
)


@pytest.fixture(scope="module")
def model() -> VJEPAForPreTraining:
    torch.manual_seed(0)
    return VJEPAForPreTraining(CONFIG).eval()


def random_clips(batch: int = 4) -> torch.Tensor:
    """Every patch of one random colour: what a few features can hold."""
    cells = torch.randn(batch, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return cells.repeat_interleave(4, dim=3).repeat_interleave(4, dim=4)


def pixels_of(tokens: torch.Tensor) -> torch.Tensor:
    """Which pixels (4, 16, 16) the tokens span."""
    cells = torch.zeros(32, dtype=torch.bool)
    cells[tokens] = True
    cells = cells.view(2, 4, 4)
    return cells.repeat_interleave(2, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)


def test_unpatchify_is_the_inverse_of_patchify(model):
    clips = torch.randn(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    patches, _ = model.vjepa.encoder.embeddings.patchify(clips)
    assert torch.equal(unpatchify(patches, config=CONFIG), clips)
    one_frame = VJEPAConfig(**{**CONFIG.to_diff_dict(), "frames_per_clip": 1, "tubelet_size": 1})
    images = clips[:, :1]
    patches, _ = VJEPAForPreTraining(one_frame).vjepa.encoder.embeddings.patchify(images)
    assert torch.equal(unpatchify(patches, config=one_frame), images)
    with pytest.raises(ValueError, match=r"shape \(3, 16, 48\) do not make clips of 4 x 16 x 16.*\(batch, 32, 96\)"):
        unpatchify(torch.zeros(3, 16, 48), config=CONFIG)


def test_unpatchify_by_hand():
    patches = torch.zeros(1, 32, 96)
    # Token 1 x 16 + 2 x 4 + 3: second time step, row 2, column 3. Value: channel 1, frame 1, row 2, column 3.
    patches[0, 27, 1 * 32 + 1 * 16 + 2 * 4 + 3] = 1.0
    clips = unpatchify(patches, config=CONFIG)
    assert clips.nonzero().tolist() == [[0, 3, 1, 2 * 4 + 2, 3 * 4 + 3]]


def test_decoder_learns_a_handful_of_clips_and_leaves_the_model_alone(model):
    clips = random_clips()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    decoder = train_decoder(model, [clips[:2], clips[2:]], steps=600)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not decoder.training

    tokens = torch.arange(32).expand(4, -1)
    decoded = decode_predictions(model, decoder, clips, context_mask=tokens[:, :4], target_mask=tokens[:, 4:])
    hidden = decoded.hidden.unsqueeze(2).expand_as(clips)
    assert (decoded.from_targets - clips)[hidden].square().mean() < 0.05 * clips[hidden].var()


def test_training_is_seeded_and_reads_batches_again(model):
    clips = random_clips()
    first, second, repeated = (
        train_decoder(model, batches, steps=3).state_dict() for batches in ([clips], [clips], [clips] * 3)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.equal(value, repeated[name]) for name, value in first.items())
    other = train_decoder(model, [clips, clips + 1], steps=3).state_dict()
    assert not torch.equal(first["0.weight"], other["0.weight"])
    with pytest.raises(ValueError, match="steps=3 with 0 batches: pass at least one step and one batch"):
        train_decoder(model, [], steps=3)
    with pytest.raises(ValueError, match="steps=0 with 1 batches"):
        train_decoder(model, [clips], steps=0)


def test_what_is_decoded_where(model):
    clips = random_clips(2)
    context, target = torch.tensor([[0, 5], [1, 6]]), torch.tensor([[2, 9, 31], [3, 8, 30]])
    torch.manual_seed(0)
    decoder = new_decoder(CONFIG)
    decoded = decode_predictions(model, decoder, clips, context_mask=context, target_mask=target)
    assert torch.equal(decoded.original, clips)
    for clip in range(2):
        seen, hidden = pixels_of(context[clip]), pixels_of(target[clip])
        neither = ~(seen | hidden)
        assert torch.equal(decoded.hidden[clip], ~seen) and torch.equal(decoded.predicted[clip], hidden)
        for name in ("context", "from_targets", "from_predictions"):
            frames = getattr(decoded, name)[clip].transpose(0, 1)  # channels first
            assert torch.equal(frames[:, seen], clips[clip].transpose(0, 1)[:, seen]), name
            assert (frames[:, neither] == 0).all(), name
            assert (frames[:, hidden] == 0).all() if name == "context" else (frames[:, hidden] != 0).any(), name
    with torch.no_grad():
        output = model(clips, context, target)
        for name, features in (("from_targets", output.targets), ("from_predictions", output.predictions)):
            patches, _ = model.vjepa.encoder.embeddings.patchify(getattr(decoded, name))
            for clip in range(2):
                torch.testing.assert_close(patches[clip, target[clip]], decoder(features[0])[clip])


def test_several_targets_of_one_context_are_decoded_together(model):
    clips = random_clips(2)
    context, targets = torch.tensor([[0], [1]]), [torch.tensor([[2, 9], [3, 8]]), torch.tensor([[9, 31], [8, 30]])]
    torch.manual_seed(0)
    decoder = new_decoder(CONFIG)
    decoded = decode_predictions(model, decoder, clips, context_mask=context, target_mask=targets)
    for clip, tokens in enumerate(([2, 9, 31], [3, 8, 30])):
        assert torch.equal(decoded.predicted[clip], pixels_of(torch.tensor(tokens)))
    alone = [decode_predictions(model, decoder, clips, context_mask=context, target_mask=target) for target in targets]
    first, last = (part.from_targets for part in alone)
    shown = torch.where(alone[1].predicted[:, :, None], last, first)
    torch.testing.assert_close(decoded.from_targets, shown)


def test_a_decoded_clip_is_drawn_with_its_hidden_part_in_blue():
    pytest.importorskip("matplotlib")
    grey, hidden = torch.zeros(2, 4, 3, 16, 16), torch.zeros(2, 4, 16, 16, dtype=torch.bool)
    hidden[1, :, :8] = True
    processor = VJEPAVideoProcessor.for_config(CONFIG)
    decoded = DecodedClips(grey, grey, hidden, hidden, grey, grey + 1)
    figure = draw_decoded_clip(decoded, shown=1, processor=processor, config=CONFIG)
    labels = [axis.texts[0].get_text() for axis in figure.axes]
    assert labels == ["clip", "context", "from target\nfeatures", "from\npredictions"]
    clip, context, _, predictions = (axis.images[0].get_array() for axis in figure.axes)
    mean, std = (np.array(values) for values in (processor.image_mean, processor.image_std))
    for image, expected in ((clip, mean), (predictions, mean + std)):
        assert np.abs(image[0, 0, :3] - 255 * expected).max() <= 1
    assert np.abs(context[0, 0, :3] - 255 * np.array([0.16, 0.38, 0.75])).max() <= 1
    assert np.array_equal(context[-1], clip[-1])
