import sys

import pytest
import torch
from reference import TINY
from videos import write_video

from transformers_vjepa import ClipSampling, VJEPAConfig, VJEPAModel, VJEPAVideoProcessor, read_clip
from transformers_vjepa.probing import extract_time_means, fit_read_out


def test_time_means_by_hand(tmp_path):
    for name, level in (("a", 40), ("b", 200), ("c", 90)):
        write_video(tmp_path / f"{name}.mp4", level=level)
    torch.manual_seed(0)
    model = VJEPAModel(VJEPAConfig(**TINY))
    sampling = ClipSampling(num_frames=4, frame_step=2)
    features, paths = extract_time_means(model, str(tmp_path), sampling=sampling, batch_size=2, progress=False)
    assert [path.rsplit("/", 1)[-1] for path in paths] == ["a.mp4", "b.mp4", "c.mp4"]
    assert features.shape == (3, 2 * 48)
    clip = read_clip(tmp_path / "b.mp4", sampling=sampling)
    pixels = VJEPAVideoProcessor(crop_size=32)(clip, return_tensors="pt")["pixel_values_videos"]
    with torch.no_grad():
        tokens = model.eval()(pixels).last_hidden_state[0]  # 2 time steps of 4 x 4 cells
    expected = torch.cat([tokens[:16].mean(0), tokens[16:].mean(0)])
    assert torch.allclose(features[1], expected, atol=1e-5)


def on_the_line(*places):
    """Features that differ along one direction; the other one is the same for all."""
    return torch.tensor([[place, 1.0] for place in places])


def test_neighbours_are_the_nearest_by_angle():
    # 11 clips of class 0 on the right and 11 of class 1 on the left; lengths do not matter.
    features = torch.cat([torch.tensor([[1.0 + i, 0.1 * i], [-1.0 - i, -0.1 * i]]) for i in range(11)])
    labels = torch.tensor([0, 1] * 11)
    read_out = fit_read_out("neighbours", features, labels)
    assert read_out.predict(torch.tensor([[100.0, 1.0], [-0.5, 0.0]]).numpy()).tolist() == [0, 1]


def test_ridge_by_hand():
    # Least squares through (-1, -1), (1, 1) and so on crosses 0 in the middle.
    read_out = fit_read_out("ridge", on_the_line(-3.0, -1.0, 1.0, 3.0), torch.tensor([0, 0, 1, 1]))
    assert read_out.predict(on_the_line(-0.1, 0.1, 5.0).numpy()).tolist() == [0, 1, 1]


def test_unknown_read_outs_are_refused():
    with pytest.raises(ValueError, match="kind='tree' is no read-out: choose one of neighbours, ridge"):
        fit_read_out("tree", on_the_line(0.0, 1.0), torch.tensor([0, 1]))


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r"pip install transformers_vjepa\[probe\]"):
        fit_read_out("ridge", on_the_line(0.0, 1.0), torch.tensor([0, 1]))
