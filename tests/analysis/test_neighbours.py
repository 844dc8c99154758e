"""The nearest clips by their features."""

import torch

from transformers_vjepa.analysis.neighbours import nearest_clips, standardised_directions


def test_nearest_clips_leave_out_the_clip_itself():
    features = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1], [0.9, 0.1]])
    nearest = nearest_clips(features, number=2)
    assert nearest.shape == (5, 2) and nearest[0, 0] == 4 and nearest[4, 0] == 0
    assert all(index not in row for index, row in enumerate(nearest.tolist()))


def test_directions_are_standardised_over_the_reference():
    reference = torch.tensor([[0.0, 10.0], [2.0, 30.0]])  # means 1 and 20, deviations sqrt(2) and 10 sqrt(2)
    direction = standardised_directions(torch.tensor([[4.0, 60.0]]), reference=reference)
    torch.testing.assert_close(direction, torch.tensor([[0.6, 0.8]]))
