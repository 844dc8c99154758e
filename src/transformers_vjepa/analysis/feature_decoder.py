"""
Features back into pixels, to see what they hold and what the predictor imagines.

The decoder is trained on the features of a frozen target encoder, normalised as the predictor has to predict them,
and only then shown what the predictor says about masked regions. It sees one token at a time: whatever a picture shows
at a place was in the features of that place, and nothing was filled in from around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import nn

from ..figures.images import TARGET_COLOR, Strip, draw_strips, frame_titles
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, gather_tokens
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor

# Warm-up of the learning rate, as a share of the steps; a cosine to 0 follows.
_WARMUP = 0.05


def unpatchify(patches: torch.Tensor, *, config: VJEPAConfig) -> torch.Tensor:
    """
    Clips from flat patches: the inverse of [`VJEPAEmbeddings.patchify`].

    Args:
        patches: (batch, num_patches, channels * tubelet_size * patch_size^2), in the order time, height, width.
        config: geometry of the clips.

    Returns:
        (batch, frames, channels, height, width).

    Raises:
        ValueError: patches that do not fit `config`.
    """
    (time, rows, columns), channels = config.grid_size, config.in_chans
    tubelet, patch = config.tubelet_size, config.patch_size
    expected = (config.num_patches, channels * tubelet * patch**2)
    if patches.ndim != 3 or tuple(patches.shape[1:]) != expected:
        raise ValueError(
            f"patches of shape {tuple(patches.shape)} do not make clips of {config.frames_per_clip} x "
            f"{config.crop_size} x {config.crop_size}: pass (batch, {expected[0]}, {expected[1]})"
        )
    blocks = patches.reshape(-1, time, rows, columns, channels, tubelet, patch, patch)
    clips = blocks.permute(0, 1, 5, 4, 2, 6, 3, 7)
    return clips.reshape(-1, time * tubelet, channels, rows * patch, columns * patch)


class FeatureDecoder(nn.Module):
    """
    The pixels of a token's tubelet from its normalised features: an MLP with two hidden layers, the same for all
    tokens.

    Args:
        config: of the model whose features it decodes.
        width: of the hidden layers.
    """

    def __init__(self, config: VJEPAConfig, *, width: int = 256):
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            nn.Linear(config.hidden_size, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, config.in_chans * config.tubelet_size * config.patch_size**2),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`features` (batch, tokens, hidden_size): (batch, tokens, channels * tubelet_size * patch_size^2)."""
        return self.layers(features)


@torch.no_grad()
def _target_features(model: VJEPAForPreTraining, patches: torch.Tensor, grid_size: tuple[int, int, int]):
    """What the predictor has to predict of every token: (batch, num_patches, hidden_size)."""
    features = model.vjepa.encoder(patches, grid_size).last_hidden_state
    return nn.functional.layer_norm(features, features.shape[-1:])


def _endless(batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    while True:
        number = 0
        for number, batch in enumerate(batches, start=1):  # noqa: B007
            yield batch
        if not number:
            raise ValueError("`batches` has no more clips: pass a list, a DataLoader, or an iterator that goes on")


def train_decoder(
    model: VJEPAForPreTraining,
    batches: Iterable[torch.Tensor],
    *,
    steps: int = 300,
    learning_rate: float = 2e-3,
    width: int = 256,
    seed: int = 0,
) -> FeatureDecoder:
    """
    Trains a decoder on whole clips, with the mean squared error of the (normalised) pixels, AdamW and a cosine
    schedule. The model is only read: no gradient reaches it. Its random state is put back afterwards.

    Args:
        model: gives the features; the decoder is made on its device.
        batches: normalised clips (batch, frames, channels, height, width), begun again where they end.
        steps: optimizer steps, of one batch each.
        learning_rate: its highest value.
        width: see [`FeatureDecoder`].
        seed: of the initial weights.

    Returns:
        The decoder, in evaluation mode.

    Raises:
        ValueError: fewer than one step, or no clips.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = FeatureDecoder(model.config, width=width)
    decoder.to(model.device)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=learning_rate, weight_decay=0.01)
    warmup = max(1, round(_WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    source = _endless(batches)
    for _ in range(steps):
        patches, grid_size = model.vjepa.encoder.embeddings.patchify(next(source).to(model.device))
        decoded = decoder(_target_features(model, patches, grid_size))
        loss = nn.functional.mse_loss(decoded, patches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return decoder.eval()


@dataclass(frozen=True)
class DecodedClips:
    """
    Clips (batch, frames, channels, height, width) in normalised pixels; 0, the mean colour, where nothing is known.

    Attributes:
        original: as they are.
        context: what the context encoder sees.
        hidden: bool (batch, frames, height, width), where it sees nothing.
        from_targets: context, and the target tokens decoded from the features of the target encoder: the best that
            predictions could look like.
        from_predictions: context, and the target tokens decoded from what the predictor predicts.
    """

    original: torch.Tensor
    context: torch.Tensor
    hidden: torch.Tensor
    from_targets: torch.Tensor
    from_predictions: torch.Tensor


@torch.no_grad()
def decode_predictions(
    model: VJEPAForPreTraining,
    decoder: FeatureDecoder,
    pixel_values_videos: torch.Tensor,
    *,
    context_mask: torch.Tensor,
    target_mask: torch.Tensor,
) -> DecodedClips:
    """
    What the predictor imagines where it sees nothing. The model should be in evaluation mode.

    Args:
        model: frozen.
        decoder: trained on the features of `model`.
        pixel_values_videos: normalised clips (batch, frames, channels, height, width).
        context_mask, target_mask: int64 token indices (batch, tokens) of the first mask generator. Tokens in neither
            stay 0.

    Raises:
        ValueError: see [`VJEPAForPreTraining.forward`].
    """
    patches, _ = model.vjepa.encoder.embeddings.patchify(pixel_values_videos)
    output = model(pixel_values_videos, context_mask, target_mask)
    context, hidden = torch.zeros_like(patches), torch.ones_like(patches, dtype=torch.bool)
    rows = torch.arange(len(patches), device=patches.device)[:, None]
    context[rows, context_mask] = gather_tokens(patches, context_mask)
    hidden[rows, context_mask] = False
    clips = {"original": patches, "context": context}
    for name, features in (("from_targets", output.targets[0]), ("from_predictions", output.predictions[0])):
        clips[name] = context.clone()
        clips[name][rows, target_mask] = decoder(features).to(patches.dtype)
    found = {name: unpatchify(clip, config=model.config) for name, clip in clips.items()}
    return DecodedClips(**found, hidden=unpatchify(hidden, config=model.config)[:, :, 0])


def draw_decoded_clip(
    decoded: DecodedClips, *, shown: int, processor: VJEPAVideoProcessor, config: VJEPAConfig
) -> Figure:
    """
    A clip as it is, what the context encoder sees of it (the hidden part is blue), and the rest decoded from
    features: those of the target encoder, and those that the predictor imagines.

    Args:
        decoded: what [`~analysis.feature_decoder.decode_predictions`] gives.
        shown: which clip to show.
        processor: has the mean and standard deviation that the pixels were normalised with.
    """
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (processor.image_mean, processor.image_std))
    rows = {
        "clip": decoded.original,
        "context": decoded.context,
        "from target\nfeatures": decoded.from_targets,
        "from\npredictions": decoded.from_predictions,
    }
    hidden = decoded.hidden[shown, :: config.tubelet_size, :, :, None]
    strips = []
    for label, clips in rows.items():
        frames = (clips[shown, :: config.tubelet_size].float() * std + mean).permute(0, 2, 3, 1)
        if label == "context":
            frames = torch.where(hidden, torch.tensor(TARGET_COLOR), frames)
        strips.append(Strip(label, frames))
    return draw_strips(strips, titles=frame_titles(config))


__all__ = [
    "DecodedClips",
    "FeatureDecoder",
    "decode_predictions",
    "draw_decoded_clip",
    "train_decoder",
    "unpatchify",
]
