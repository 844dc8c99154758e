"""Checks of a conversion: are the weights the same bits, and are the outputs those of the published code?"""

from collections.abc import Callable, Mapping

import torch

from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification


def differing_tensors(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that only one side has, or whose type, shape or bits differ."""

    def differs(name: str) -> bool:
        first, second = ours.get(name), theirs.get(name)
        if first is None or second is None or first.dtype != second.dtype or first.shape != second.shape:
            return True
        as_bytes = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (first, second))
        return not torch.equal(*as_bytes)  # compared as floats, NaN would differ from itself

    return sorted(filter(differs, ours.keys() | theirs.keys()))


def _clips(clips: torch.Tensor) -> torch.Tensor:
    """Published order (batch, channels, frames, height, width) to ours; images stay as they are."""
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
    The largest absolute difference of each output that the reference holds and the model computes.

    Args:
        model: a converted model.
        reference: inputs and outputs of the published code, all of them optional:
            - `clip` (batch, 3, frames, height, width) or `image` (batch, 3, height, width) with `target.tokens`, the
              tokens of the unmasked target encoder, and for a classifier `logits_single_clip`;
            - for a classifier `views.clip.segment{i}.view{j}` with `views.probabilities`, which are averaged over
              the views.

    Raises:
        ValueError: an output has another shape.
    """
    model.eval()
    outputs: dict[str, Callable[[], torch.Tensor]] = {}
    is_classifier = isinstance(model, VJEPAForVideoClassification)
    clips, views = reference.get("clip", reference.get("image")), _views(reference)
    if clips is not None:
        outputs["target.tokens"] = lambda: model.vjepa.get_vision_features(_clips(clips))
    if clips is not None and is_classifier:
        outputs["logits_single_clip"] = lambda: model(_clips(clips)).logits
    if views is not None and is_classifier:
        outputs["views.probabilities"] = lambda: model(views).logits.softmax(dim=-1)
    differences = {}
    for name in outputs.keys() & reference.keys():
        output = outputs[name]()
        if output.shape != reference[name].shape:
            raise ValueError(
                f"{name} of the reference has shape {tuple(reference[name].shape)}, the model gives "
                f"{tuple(output.shape)}: the reference belongs to another model"
            )
        differences[name] = (output - reference[name]).abs().max().item()
    return differences
