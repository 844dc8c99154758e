"""Comparisons of a converted model with its source: bits of weights, and outputs."""

import pytest
import torch
from reference import TINY

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification
from transformers_vjepa.conversion.checks import differing_tensors, reference_differences


def test_differing_tensors():
    ours = {"same": torch.tensor([1.0, float("nan")]), "bits": torch.tensor(0.0), "ours": torch.ones(1)}
    theirs = {"same": ours["same"].clone(), "bits": torch.tensor(-0.0), "theirs": torch.ones(1)}
    theirs |= {"shape": torch.ones(2), "dtype": torch.ones(2)}
    ours |= {"shape": torch.ones(1, 2), "dtype": torch.ones(2).double()}
    assert differing_tensors(ours, theirs) == ["bits", "dtype", "ours", "shape", "theirs"]
    assert differing_tensors(ours, ours) == []


def test_outputs_are_compared_where_the_reference_has_them():
    model = VJEPAForVideoClassification(VJEPAConfig(**TINY, num_labels=3)).eval()
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        tokens, logits = model.vjepa(clip.transpose(1, 2)).last_hidden_state, model(clip.transpose(1, 2)).logits
    reference = {"clip": clip, "target.tokens": tokens, "logits_single_clip": logits + 0.5}
    differences = reference_differences(model, reference)
    assert differences.keys() == {"target.tokens", "logits_single_clip"}
    assert differences["target.tokens"] == pytest.approx(0, abs=1e-6)
    assert differences["logits_single_clip"] == pytest.approx(0.5, abs=1e-6)
    # A pretraining model gives no logits, and without inputs there is nothing to compare.
    pretraining = VJEPAForPreTraining(VJEPAConfig(**TINY))
    assert reference_differences(pretraining, reference).keys() == {"target.tokens"}
    assert reference_differences(model, {"logits_single_clip": logits}) == {}


def test_views_and_segments_are_put_in_their_order():
    model = VJEPAForVideoClassification(VJEPAConfig(**TINY, num_labels=3)).eval()
    clips = torch.randn(2, 3, 2, 4, 3, 32, 32)  # batch, views, segments, frames, channels, height, width
    with torch.no_grad():
        probabilities = model(clips).logits.softmax(dim=-1)
    reference = {
        f"views.clip.segment{segment}.view{view}": clips[:, view, segment].transpose(1, 2)
        for segment in range(2)
        for view in range(3)
    }
    found = reference_differences(model, reference | {"views.probabilities": probabilities})
    assert found == {"views.probabilities": pytest.approx(0, abs=1e-6)}


def test_outputs_of_another_model_are_refused():
    model = VJEPAForPreTraining(VJEPAConfig(**TINY))
    reference = {"clip": torch.zeros(1, 3, 4, 32, 32), "target.tokens": torch.zeros(1, 32, 64)}
    with pytest.raises(ValueError, match=r"target.tokens of the reference has shape \(1, 32, 64\), the model gives"):
        reference_differences(model, reference)
