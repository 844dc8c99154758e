"""
Features decoded into pixels, to see what features hold and what the predictor predicts.

The decoder is trained on features of a frozen target encoder, normalised like the targets of the predictor. Then it
decodes the predictions for masked regions. The decoder sees one token at a time: the image at a place comes from the
features of that place, and nothing is filled in from its surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..figures.images import TARGET_COLOR, Strip, draw_strips, frame_titles
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, gather_tokens
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from .read_outs import minimise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 256  # of the hidden layers
_LEARNING_RATE, _WEIGHT_DECAY = 2e-3, 0.01
_WARMUP = 0.05  # share of the steps


def unpatchify(patches: torch.Tensor, *, config: VJEPAConfig) -> torch.Tensor:
    """
    Clips (batch, frames, channels, height, width) from flat patches: the inverse of [`VJEPAEmbeddings.patchify`].

    Args:
        patches: (batch, num_patches, channels * tubelet_size * patch_size^2), in the order time, height, width.
        config: geometry of the clips.

    Raises:
        ValueError: the patches do not fit `config`.
    """
    time, rows, columns = config.grid_size
    channels, tubelet, patch = config.in_chans, config.tubelet_size, config.patch_size
    expected = (config.num_patches, channels * tubelet * patch**2)
    if patches.ndim != 3 or tuple(patches.shape[1:]) != expected:
        raise ValueError(
            f"patches of shape {tuple(patches.shape)} do not make clips of {config.frames_per_clip} x "
            f"{config.crop_size} x {config.crop_size}: pass (batch, {expected[0]}, {expected[1]})"
        )
    blocks = patches.reshape(-1, time, rows, columns, channels, tubelet, patch, patch)
    clips = blocks.permute(0, 1, 5, 4, 2, 6, 3, 7)
    return clips.reshape(-1, time * tubelet, channels, rows * patch, columns * patch)


def new_decoder(config: VJEPAConfig) -> nn.Sequential:
    """
    An MLP with two hidden layers, the same for all tokens. It decodes normalised features (batch, tokens, hidden_size)
    into the pixels of their tubelets (batch, tokens, channels * tubelet_size * patch_size^2).
    """
    hidden = [nn.Linear(config.hidden_size, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH), nn.GELU()]
    return nn.Sequential(*hidden, nn.Linear(_WIDTH, config.in_chans * config.tubelet_size * config.patch_size**2))


def train_decoder(model: VJEPAForPreTraining, batches: Sequence[torch.Tensor], *, steps: int) -> nn.Sequential:
    """
    Trains a decoder on whole clips, with the mean squared error of the normalised pixels, AdamW and a cosine schedule,
    and returns it in evaluation mode. The model gets no gradient, and the global random state does not change.

    Args:
        model: encodes the clips; the decoder is created on its device.
        batches: normalised clips (batch, frames, channels, height, width), used in turn.
        steps: optimizer steps, of one batch each.

    Raises:
        ValueError: fewer than one step, or no batch.
    """
    if steps < 1 or not batches:
        raise ValueError(f"steps={steps} with {len(batches)} batches: pass at least one step and one batch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = new_decoder(model.config)
    decoder.to(model.device)

    def loss_of_step(step: int) -> torch.Tensor:
        clips = batches[step % len(batches)].to(model.device)
        with torch.no_grad():
            patches, grid_size = model.vjepa.encoder.embeddings.patchify(clips)
            features = model.vjepa.encoder(patches, grid_size).last_hidden_state
            targets = nn.functional.layer_norm(features, features.shape[-1:])
        return nn.functional.mse_loss(decoder(targets), patches)

    optimizer = torch.optim.AdamW(decoder.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    minimise(loss_of_step, optimizer, steps=steps, warmup=max(1, round(_WARMUP * steps)))
    return decoder.eval()


@dataclass(frozen=True)
class DecodedClips:
    """
    Clips (batch, frames, channels, height, width) in normalised pixels; unknown pixels are 0, the mean colour.

    Attributes:
        original: the clips.
        context: the part that the context encoder sees.
        hidden: bool (batch, frames, height, width), the part that the context encoder does not see.
        predicted: bool (batch, frames, height, width), the targets.
        from_targets: context, and target tokens decoded from features of the target encoder: the best possible result
            of a prediction.
        from_predictions: context, and target tokens decoded from the predictions.
    """

    original: torch.Tensor
    context: torch.Tensor
    hidden: torch.Tensor
    predicted: torch.Tensor
    from_targets: torch.Tensor
    from_predictions: torch.Tensor


@torch.no_grad()
def decode_predictions(
    model: VJEPAForPreTraining,
    decoder: nn.Sequential,
    pixel_values_videos: torch.Tensor,
    *,
    context_mask: torch.Tensor,
    target_mask: torch.Tensor | Sequence[torch.Tensor],
) -> DecodedClips:
    """
    Predictions decoded into pixels. The model should be in evaluation mode.

    Args:
        model: frozen.
        decoder: trained on features of `model`.
        pixel_values_videos: normalised clips (batch, frames, channels, height, width).
        context_mask, target_mask: int64 token indices (batch, tokens) of one mask, or several targets of one context
            (I-JEPA); where targets overlap, the last one is shown. Tokens in neither stay 0.

    Raises:
        ValueError: see [`VJEPAForPreTraining.forward`].
    """
    patches, _ = model.vjepa.encoder.embeddings.patchify(pixel_values_videos)
    targets = [target_mask] if isinstance(target_mask, torch.Tensor) else list(target_mask)
    output = model(pixel_values_videos, [context_mask], targets)
    context, hidden = torch.zeros_like(patches), torch.ones_like(patches, dtype=torch.bool)
    predicted = torch.zeros_like(hidden)
    rows = torch.arange(len(patches), device=patches.device)[:, None]
    context[rows, context_mask] = gather_tokens(patches, context_mask)
    hidden[rows, context_mask] = False
    clips = {"original": patches, "context": context, "from_targets": context.clone()}
    clips["from_predictions"] = context.clone()
    for mask, wanted, prediction in zip(targets, output.targets, output.predictions, strict=True):
        predicted[rows, mask] = True
        clips["from_targets"][rows, mask] = decoder(wanted).to(patches.dtype)
        clips["from_predictions"][rows, mask] = decoder(prediction).to(patches.dtype)
    found = {name: unpatchify(clip, config=model.config) for name, clip in clips.items()}
    places = {"hidden": hidden, "predicted": predicted}
    places = {name: unpatchify(place, config=model.config)[:, :, 0] for name, place in places.items()}
    return DecodedClips(**found, **places)


def draw_decoded_clip(
    decoded: DecodedClips, *, shown: int, processor: VJEPAVideoProcessor, config: VJEPAConfig
) -> Figure:
    """
    A clip, its context (the hidden part is blue), and the hidden part decoded from target features and from
    predictions, one row each.

    Args:
        shown: index of the clip to show.
        processor: has the mean and the standard deviation that the pixels were normalised with.
    """
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (processor.image_mean, processor.image_std))
    rows = {
        "clip": decoded.original,
        "context": decoded.context,
        "from target\nfeatures": decoded.from_targets,
        "from\npredictions": decoded.from_predictions,
    }
    first = slice(None, None, config.tubelet_size)
    frames = {name: (clips[shown, first].float() * std + mean).permute(0, 2, 3, 1) for name, clips in rows.items()}
    hidden = decoded.hidden[shown, first, :, :, None]
    frames["context"] = torch.where(hidden, torch.tensor(TARGET_COLOR), frames["context"])
    return draw_strips([Strip(*row) for row in frames.items()], titles=frame_titles(config))
