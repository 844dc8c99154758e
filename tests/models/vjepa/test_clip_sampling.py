"""Which frames make a clip, and the errors of videos that do not have them."""

import pickle

import pytest

from transformers_vjepa.models.vjepa.clip_sampling import (
    ClipSampling,
    CorruptVideoError,
    DecodingError,
    TooShortVideoError,
    plan_clips,
    segment_places,
)


def test_default_is_the_published_clip():
    assert ClipSampling() == ClipSampling(num_frames=16, frame_step=4, short_video="repeat_last")


def test_frames_per_second_of_a_clip():
    assert ClipSampling(num_frames=8, duration=0.5).clip_fps == 16
    assert ClipSampling(target_fps=7.5).clip_fps == 7.5
    assert ClipSampling(frame_step=2).clip_fps is None


@pytest.mark.parametrize(
    "num_frames, frame_step, expected",
    [
        # 0, 64 / 15, 128 / 15 ... 64, rounded down; the last one is moved back from 64.
        (16, 4, [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]),
        (16, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        (4, 2, [0, 2, 5, 7]),  # 0, 8 / 3, 16 / 3, 8
        (2, 3, [0, 5]),
        (1, 4, [0]),
    ],
)
def test_linspace_is_the_published_one(num_frames, frame_step, expected):
    sampling = ClipSampling(num_frames=num_frames, frame_step=frame_step, spacing="linspace")
    assert sampling.offsets() == expected


def test_plan_without_a_video():
    sampling = ClipSampling(num_frames=4, frame_step=2)  # spans 7
    assert plan_clips(10, sampling=sampling, places=segment_places(3)) == [
        [0, 2, 4, 6],
        [2, 4, 6, 8],
        [3, 5, 7, 9],
    ]
    assert plan_clips(10, sampling=sampling) == [[2, 4, 6, 8]]
    assert plan_clips(5, sampling=sampling) == [[0, 2, 4, 4]]
    assert plan_clips(20, sampling=ClipSampling(num_frames=2, target_fps=5), fps=20) == [[8, 12]]
    assert segment_places(1) == [0.5] and segment_places(5) == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(TooShortVideoError, match="<frames>: 3 frames are fewer than the 4"):
        plan_clips(3, sampling=sampling)
    with pytest.raises(DecodingError, match="mine: the frame rate is unknown"):
        plan_clips(9, sampling=ClipSampling(num_frames=2, duration=1), name="mine")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_frames": 0}, "`num_frames`=0 must be at least 1"),
        ({"frame_step": 0}, "`frame_step`=0 must be at least 1"),
        ({"frame_step": 1.5}, "`frame_step`=1.5 must be a whole number"),
        ({"target_fps": 0.0}, "`target_fps`=0.0 must be positive"),
        ({"duration": float("inf")}, "`duration`=inf must be positive and finite"),
        ({"frame_step": 4, "target_fps": 8}, "frame_step and target_fps are both given"),
        ({"short_video": "loop"}, "`short_video`='loop' must be"),
        ({"spacing": "even"}, "`spacing`='even' must be 'stride' or 'linspace'"),
        (
            {"spacing": "linspace", "target_fps": 8},
            "`spacing`='linspace' needs a whole number of frames: pass `frame_step`, not {'target_fps': 8}",
        ),
    ],
)
def test_refuses_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipSampling(**arguments)


def test_errors_travel_between_processes():
    for error in (
        DecodingError("a.mp4", "why"),
        CorruptVideoError("a.mp4", "why"),
        TooShortVideoError("a.mp4", "why", 7),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert vars(copy) == vars(error)
        assert str(copy) == str(error) == "a.mp4: why"
