"""Hand-crafted descriptors of clips, checked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import write_video

from transformers_vjepa.analysis.baselines import (
    BASELINES,
    frame_differences,
    local_motion,
    mean_colours,
    optical_flow,
    raw_pixels,
    single_frame,
)
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.evaluation_clips import ClipGeometry, EvaluationClips, read_evaluation_clips
from transformers_vjepa.data.synthetic import MOTIONS, CorpusConfig, build_corpus
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling


def _blob(centres, *, size: int = 32, radii=None) -> torch.Tensor:
    """A clip of one soft blob: uint8 (1, frames, size, size, 3)."""
    y, x = np.mgrid[:size, :size] + 0.5
    radii = [4.0] * len(centres) if radii is None else radii
    frames = [
        200 * np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * radius**2))
        for (column, row), radius in zip(centres, radii, strict=True)
    ]
    return torch.from_numpy(np.stack(frames).round().astype(np.uint8))[None, ..., None].expand(-1, -1, -1, -1, 3)


def test_mean_colours_are_those_of_each_frame_and_channel():
    clip = torch.zeros(2, 2, 4, 4, 3, dtype=torch.uint8)
    clip[0, 1, :, :, 0] = 255
    clip[1, 0, :2, :, 2] = 51
    expected = [[0, 0, 0, 1, 0, 0], [0, 0, 0.1, 0, 0, 0]]
    assert mean_colours(clip).dtype == torch.float32
    torch.testing.assert_close(mean_colours(clip), torch.tensor(expected), rtol=0, atol=1e-7)


def test_single_frame_is_the_middle_one_in_colour_and_grey():
    clip = torch.zeros(1, 4, 32, 32, 3, dtype=torch.uint8)
    clip[0, 2, :2, :2] = torch.tensor([255, 102, 0], dtype=torch.uint8)  # the first pixel of 16 x 16
    clip[0, [0, 1, 3]] = 77
    features = single_frame(clip).view(4, 16, 16)
    torch.testing.assert_close(features[:, 0, 0], torch.tensor([1.0, 0.4, 0.0, 1.4 / 3]))
    assert features.count_nonzero() == 3


def test_pixels_and_differences_are_means_of_areas():
    clip = torch.zeros(1, 3, 48, 48, 3, dtype=torch.uint8)
    clip[0, 1, 3:6, 0, 1] = 255  # a third of the first pixel of the second row
    pixels = raw_pixels(clip).view(3, 3, 16, 16)
    differences = frame_differences(clip).view(2, 3, 16, 16)
    assert pixels[1, 1, 1, 0].item() == pytest.approx(1 / 3) and pixels.count_nonzero() == 1
    assert differences[:, 1, 1, 0].tolist() == pytest.approx([1 / 3, -1 / 3]) and differences.count_nonzero() == 2


@pytest.mark.parametrize("number", range(8))
def test_translation_lands_in_the_bin_of_its_direction(number):
    angle = number * math.pi / 4  # clockwise on the screen, from the right
    steps = np.arange(6) - 2.5
    clip = _blob([(16 + math.cos(angle) * step, 16 + math.sin(angle) * step) for step in steps])
    flow = optical_flow(clip)[0]
    assert flow[:8].argmax() == number
    # A window on the rim sees an edge, and of its motion only the part across it (the aperture problem): the two bins
    # beside get that, the same each, and the other five nothing.
    beside = flow[[(number - 1) % 8, (number + 1) % 8]]
    assert beside[0].item() == pytest.approx(beside[1].item(), rel=0.1)
    assert flow[number] + beside.sum() > 0.98 * flow[:8].sum()
    right, down = flow[8:10].tolist()
    assert right * math.sin(angle) - down * math.cos(angle) == pytest.approx(0.0, abs=0.03)
    assert flow[14].item() == pytest.approx(flow[:8].sum().item(), rel=1e-4)
    assert 0.4 < math.hypot(right, down) < flow[14].item() < 1.0  # of the one pixel that it really moves


def test_growth_and_turn_have_their_own_numbers():
    grows = _blob([(16, 16)] * 5, radii=[4 * 1.05**step for step in range(5)])
    growth, shrinkage = optical_flow(grows)[0, 10:12].tolist()
    assert growth > 5 * shrinkage
    back_growth, back_shrinkage = optical_flow(grows.flip(1))[0, 10:12].tolist()
    assert (back_growth, back_shrinkage) == pytest.approx((shrinkage, growth), rel=1e-3, abs=1e-4)

    y, x = np.mgrid[:32, :32] + 0.5 - 16.0
    frames = []
    for step in range(5):  # an ellipse that turns clockwise by 0.1 radians per frame
        angle = 0.1 * step
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        frames.append(200 * np.exp(-(u**2) / 50 - v**2 / 8))
    turns = torch.from_numpy(np.stack(frames).astype(np.uint8))[None, ..., None].expand(-1, -1, -1, -1, 3)
    clockwise, counterclockwise = optical_flow(turns)[0, 12:14].tolist()
    assert clockwise > 3 * counterclockwise


def test_local_motion_of_a_pattern_that_fills_the_window():
    # Waves in both directions, one pixel per frame to the right and half a pixel upwards; so no window is empty.
    y, x = np.mgrid[:32, :32].astype(float)
    frames = [
        128 + 60 * np.sin((x - t) * 2 * np.pi / 12) + 60 * np.sin((y + 0.5 * t) * 2 * np.pi / 12) for t in range(4)
    ]
    clip = torch.from_numpy(np.stack(frames).round().astype(np.uint8))[None, ..., None].expand(-1, -1, -1, -1, 3)
    motion, weights = local_motion(clip)
    assert motion.shape == (1, 3, 36, 4) and weights.shape == (1, 3, 36)
    inner = motion.view(3, 6, 6, 4)[:, 1:5, 1:5].flatten(0, 2)  # the blur changes the border
    torch.testing.assert_close(inner.mean(0), torch.tensor([1.0, -0.5, 0.0, 0.0]), rtol=0, atol=0.08)


def test_still_clip_has_no_flow():
    assert optical_flow(_blob([(16, 16)] * 3)).count_nonzero() == 0
    assert optical_flow(torch.full((2, 3, 16, 16, 3), 7, dtype=torch.uint8)).count_nonzero() == 0


@pytest.mark.parametrize("name", BASELINES)
def test_number_of_clips_at_once_does_not_matter(name, monkeypatch):
    clips = torch.randint(0, 256, (5, 3, 20, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = BASELINES[name](clips)
    assert together.dtype == torch.float32 and together.shape[0] == 5 and together.ndim == 2
    monkeypatch.setattr("transformers_vjepa.analysis.baselines._CLIPS_AT_ONCE", 2)
    torch.testing.assert_close(BASELINES[name](clips), together)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(
    "clips", [torch.zeros(2, 3, 16, 16, 3), torch.zeros(3, 16, 16, 3, dtype=torch.uint8), torch.zeros(0, 3, 16, 16, 3)]
)
def test_other_shapes_and_types_are_refused(name, clips):
    with pytest.raises(ValueError, match=r"pass uint8 \(clips, frames, height, width, 3\)"):
        BASELINES[name](clips)


@pytest.mark.parametrize("name", ["frame_differences", "optical_flow"])
def test_one_frame_has_no_motion(name):
    with pytest.raises(ValueError, match="clips of 1 frame: differences and flow need at least 2"):
        BASELINES[name](torch.zeros(1, 1, 16, 16, 3, dtype=torch.uint8))


def test_images_smaller_than_a_window_are_refused():
    with pytest.raises(ValueError, match="clips of 8 x 16 pixels: flow needs at least 9"):
        optical_flow(torch.zeros(1, 2, 8, 16, 3, dtype=torch.uint8))


def test_clips_of_the_corpus_are_those_of_the_evaluation(tmp_path):
    config = CorpusConfig(num_train=5, num_test=1, size=32, num_frames=12)
    root = build_corpus(tmp_path, config=config, num_processes=1)
    sampling = ClipSampling(num_frames=4, frame_step=2)
    source = str(root / "train_motion.csv")
    clips, labels, paths = read_evaluation_clips(source, crop_size=24, sampling=sampling)
    assert clips.shape == (5, 4, 24, 24, 3) and clips.dtype == torch.uint8
    assert [Path(path).name for path in paths] == [f"00000{n}.mp4" for n in range(5)]
    rows = (root / "labels.csv").read_text().splitlines()[1:6]
    assert [MOTIONS[label] for label in labels] == [row.split(",")[2] for row in rows]
    items = EvaluationClips(open_corpus(source), ClipGeometry(crop_size=24, sampling=sampling))
    assert torch.equal(clips[3].permute(0, 3, 1, 2), items[3]["pixel_values_videos"][0, 0])


def test_broken_videos_are_left_out(tmp_path):
    sampling = ClipSampling(num_frames=2, frame_step=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "broken.mp4").write_bytes(b"noise")
    with pytest.raises(ValueError, match="none of the 1 videos of .* can be read"):
        read_evaluation_clips(str(tmp_path), crop_size=16, sampling=sampling)
    write_video(tmp_path / "a" / "whole.mp4", level=80)
    clips, labels, paths = read_evaluation_clips(str(tmp_path), crop_size=16, sampling=sampling)
    assert (len(clips), labels.tolist(), [Path(path).name for path in paths]) == (1, [0], ["whole.mp4"])
