"""A baseline for V-JEPA: the same network, masks and schedules predict pixels instead of features."""

from typing import Any

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import (
    Masks,
    VJEPAForPreTraining,
    VJEPAForPreTrainingOutput,
    check_masks,
    gather_tokens,
    pair_masks,
)

# Added to the variance of a patch, as in the published code of MAE.
_VARIANCE_FLOOR = 1e-6


def normalised_patches(patches: torch.Tensor) -> torch.Tensor:
    """
    Flat patches (batch, tokens, values), each minus its own mean and divided by its own standard deviation
    (unbiased, with 1e-6 added to the variance; MAE, arXiv 2111.06377, section 4.1), in float32.
    """
    patches = patches.float()
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - patches.mean(dim=-1, keepdim=True)) / (variance + _VARIANCE_FLOOR).sqrt()


class VJEPAForPixelPrediction(VJEPAForPreTraining):
    """
    Masked prediction of normalised pixels (MAE, arXiv 2111.06377; of tubelets: VideoMAE, arXiv 2203.12602): a linear
    layer turns the prediction for a target token into the pixels of its patch.

    The target encoder is updated as usual, because it is evaluated later, but it is not run in a training step.
    Weights load into [`VJEPAModel`] and [`VJEPAForVideoClassification`] like those of [`VJEPAForPreTraining`].
    """

    def __init__(self, config: VJEPAConfig):
        super().__init__(config)
        patch_dim = config.in_chans * config.tubelet_size * config.patch_size**2
        # Part of the predictor, whose weights all other classes ignore when they load a checkpoint.
        self.vjepa.predictor.pixels = nn.Linear(config.hidden_size, patch_dim)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        context_mask: Masks,
        target_mask: Masks,
        variance_weight: float = 0.0,
        mask_targets_at: str = "output",
        **unused: None,
    ) -> VJEPAForPreTrainingOutput:
        """
        Args:
            pixel_values_videos, context_mask, target_mask: as for [`VJEPAForPreTraining.forward`].
            variance_weight, mask_targets_at: of the loss in feature space. They have no effect here: the loss is the
                mean squared error.
            unused: as for [`VJEPAForPreTraining.forward`]; hidden states and attentions are not returned.

        Returns:
            [`VJEPAForPreTrainingOutput`], or a tuple with `return_dict=False`. `predictions` and `targets` are
            normalised patches, `(batch, target tokens, channels * tubelet_size * patch_size^2)`;
            `target_hidden_state` is computed only without gradients, and `None` in training.

        Raises:
            TypeError, ValueError: see [`VJEPAForPreTraining.forward`].
        """
        self._resolve_outputs(False, False, unused)
        patches, grid_size = self.context_encoder.embeddings.patchify(pixel_values_videos)
        contexts = check_masks("context_mask", context_mask, *patches.shape[:2])
        targets = check_masks("target_mask", target_mask, *patches.shape[:2])

        normalised = normalised_patches(patches)
        wanted = [gather_tokens(normalised, mask) for mask in targets]
        encoded = [self.context_encoder(patches, grid_size, mask).last_hidden_state for mask in contexts]
        predictor = self.vjepa.predictor
        pairs = zip(pair_masks(encoded, targets), pair_masks(contexts, targets), targets, strict=True)
        predictions = [
            predictor.pixels(predictor(context, context_ids, target_ids, grid_size, index).last_hidden_state)
            for index, (context, context_ids, target_ids) in enumerate(pairs)
        ]
        errors = [(made.float() - right).square().mean() for made, right in zip(predictions, wanted, strict=True)]
        loss = sum(errors) / len(errors)
        features = None if torch.is_grad_enabled() else self.vjepa.encoder(patches, grid_size).last_hidden_state
        return VJEPAForPreTrainingOutput(
            loss=loss,
            prediction_loss=loss,
            predictions=predictions,
            targets=wanted,
            context_hidden_states=encoded,
            target_hidden_state=features,
        )

    def surprise(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """
        Raises:
            ValueError: the predictor of this model predicts no features.
        """
        raise ValueError("this model predicts pixels, and surprise compares features: use a VJEPAForPreTraining")
