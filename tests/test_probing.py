import pytest
import torch
from reference import TINY
from videos import write_video

from transformers_vjepa import ClipSampling, VJEPAConfig, VJEPAModel, VJEPAVideoProcessor, read_clip
from transformers_vjepa.probing import extract_time_means, knn_predict


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


def test_neighbours_by_hand():
    # On the unit circle: two classes on the right and one above; standardised by the symmetric training set.
    train = torch.tensor([[2.0, 0.1], [2.0, -0.1], [-2.0, 0.1], [-2.0, -0.1], [0.1, 2.0], [-0.1, -2.0]])
    labels = [0, 0, 1, 1, 2, 2]
    test = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
    assert knn_predict(train, labels, test, k=1).tolist() == [0, 1, 2]
    assert knn_predict(train, labels, test, k=2).tolist()[:2] == [0, 1]


def test_a_near_neighbour_outvotes_two_far_ones():
    train = torch.tensor([[1.0, 0.0], [-0.6, 1.0], [-0.6, -1.0], [0.2, 0.0]])
    # Seen from (1, 0) the first is at cosine 1; the two of class 1 are on the other side and do not count.
    assert knn_predict(train, [0, 1, 1, 0], torch.tensor([[1.0, 0.0]]), k=4).tolist() == [0]


@pytest.mark.parametrize(
    "labels, k, message",
    [([0, 1], 3, r"k=3 must lie in \[1, 2\]"), ([0, 1], 0, "k=0 must lie"), ([0], 1, "1 labels for 2 training")],
)
def test_wrong_calls_are_refused(labels, k, message):
    with pytest.raises(ValueError, match=message):
        knn_predict(torch.eye(2), labels, torch.eye(2), k=k)
