"""Whether a converted model is the published one: tensor by tensor, and by what it computes."""

from collections.abc import Mapping

import torch

from .modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification


def differing_tensors(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that only one side has, or whose type, shape or bits differ."""

    def same(first: torch.Tensor, second: torch.Tensor) -> bool:
        if first.dtype != second.dtype or first.shape != second.shape:
            return False
        as_bytes = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (first, second))
        return torch.equal(*as_bytes)  # unlike on floats, NaN equals itself

    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or not same(ours[name], theirs[name])
    )


def _clips(clips: torch.Tensor) -> torch.Tensor:
    """Published order (batch, channels, frames, height, width) to ours; pictures stay."""
    return clips.transpose(1, 2) if clips.ndim == 5 else clips


def _views(reference: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """All clips of a reference with several segments and views: (batch, views, segments, frames, 3, height, width)."""
    prefix = "views.clip.segment"
    places = [name[len(prefix) :].split(".view") for name in reference if name.startswith(prefix)]
    if not places:
        return None
    segments, views = (sorted({int(place[axis]) for place in places}) for axis in (0, 1))
    clips = [
        torch.stack([_clips(reference[f"{prefix}{segment}.view{view}"]) for segment in segments], dim=1)
        for view in views
    ]
    return torch.stack(clips, dim=1)


@torch.no_grad()
def reference_differences(
    model: VJEPAForPreTraining | VJEPAForVideoClassification, reference: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """
    Largest differences of a model's outputs from those that the published code gave.

    Args:
        model: a converted model.
        reference: inputs and outputs of the published code, those that are there of
            - `clip` (batch, 3, frames, height, width) or `image` (batch, 3, height, width) with `target.tokens`, the
              tokens of the unmasked target encoder, and for a classifier `logits_single_clip`;
            - for a classifier `views.clip.segment{i}.view{j}` with `views.probabilities`, which are averaged over
              the views.

    Returns:
        The largest absolute difference of each of these outputs that the reference has and the model gives.

    Raises:
        ValueError: an output of another shape.
    """
    model.eval()
    is_classifier = isinstance(model, VJEPAForVideoClassification)
    differences = {}

    def compare(name: str, output: torch.Tensor) -> None:
        if output.shape != reference[name].shape:
            raise ValueError(
                f"{name} of the reference has shape {tuple(reference[name].shape)}, the model gives "
                f"{tuple(output.shape)}: it belongs to another model"
            )
        differences[name] = (output - reference[name]).abs().max().item()

    clips = reference.get("clip", reference.get("image"))
    if clips is not None and "target.tokens" in reference:
        compare("target.tokens", model.vjepa.get_vision_features(_clips(clips)))
    if clips is not None and is_classifier and "logits_single_clip" in reference:
        compare("logits_single_clip", model(_clips(clips)).logits)
    views = _views(reference)
    if views is not None and is_classifier and "views.probabilities" in reference:
        compare("views.probabilities", model(views).logits.softmax(dim=-1))
    return differences


__all__ = ["differing_tensors", "reference_differences"]
