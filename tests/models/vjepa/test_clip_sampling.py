"""Which frames make a clip, and the errors of videos that do not have them."""

import pickle
from fractions import Fraction
from math import floor, inf, nan

import numpy as np
import pytest

from transformers_vjepa.models.vjepa.clip_sampling import (
    ClipSampling,
    CorruptVideoError,
    DecodingError,
    TooShortVideoError,
    has_constant_rate,
    plan_clips,
    plausible_fps,
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


RATES = [1, 10, 12.5, 15, 24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 50, 60000 / 1001, 60, 120, 240]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    "tick, rounding",
    [(0.001, round), (0.001, floor), (1 / 90000, round), (1 / 600, round), (Fraction(1, 15360), floor)],
    ids=["ms", "ms_cut", "ts", "mov", "mp4"],
)
def test_rounded_times_of_a_constant_rate_are_constant(rate, tick, rounding):
    times = np.array([rounding(i / rate / tick) for i in range(1000)]) * float(tick)
    assert has_constant_rate(times, tick=float(tick))
    if tick <= 0.001:  # written again by a program that counts milliseconds and shifts the start
        assert has_constant_rate(np.round(times + 0.0123, 3), tick=1 / 90000)


@pytest.mark.parametrize(
    "times, tick",
    [
        ([*range(25), *range(26, 51)], 1),  # a frame is missing, and the clock counts frames
        ([0, 0.04, 0.08, 0.12, 60], 0.001),
        ([*np.arange(60) / 60, *(1 + np.arange(10) / 10)], 1 / 90000),
        ([0, 0.033, 0.071, 0.1], 1 / 90000),
    ],
)
def test_other_times_are_not_constant(times, tick):
    assert not has_constant_rate(times, tick=tick)


def test_few_times_are_constant():
    assert has_constant_rate([0, 7], tick=0.001) and has_constant_rate([3], tick=0.001)


@pytest.mark.parametrize("fps", [None, 0, -25, 5.6e-16, 1 / 3601, 1000, 90000, inf, nan])
def test_implausible_rates_are_unknown(fps):
    assert plausible_fps(fps) is None
    with pytest.raises(DecodingError, match="rate.*use `frame_step`"):
        plan_clips(20, sampling=ClipSampling(num_frames=4, target_fps=5), fps=fps)
    assert len(plan_clips(20, sampling=ClipSampling(num_frames=4, frame_step=2), fps=fps)[0]) == 4


@pytest.mark.parametrize("fps", [1 / 3600, 0.5, Fraction(30000, 1001), 999.9])
def test_plausible_rates(fps):
    assert plausible_fps(fps) == float(fps)


class TestVariableRates:
    # 60 frames in the first second, then 10 per second for 4 seconds.
    TIMES = [*(i / 60 for i in range(60)), *(1 + i / 10 for i in range(40))]
    # 25 per second, with a pause of a minute after 30 frames.
    PAUSE = [*(i * 0.04 for i in range(30)), *(61.16 + i * 0.04 for i in range(30))]

    @pytest.mark.parametrize("spacing", [{"target_fps": 4}, {"duration": 4}])
    def test_times_choose_the_frames(self, spacing):
        plan = plan_clips(
            100, sampling=ClipSampling(num_frames=16, **spacing), places=(0, 1), fps=20.2, times=self.TIMES
        )
        # At 0, 0.25, 0.5 ... 3.75 seconds; from 1 second on the frame that is shown.
        assert plan[0] == [0, 15, 30, 45, 60, 62, 65, 67, 70, 72, 75, 77, 80, 82, 85, 87]
        # At 1.15 ... 4.9 seconds, the time of the last frame.
        assert plan[1] == [61, 64, 66, 69, 71, 74, 76, 79, 81, 84, 86, 89, 91, 94, 96, 99]

    def test_a_pause_repeats_the_frame_that_is_shown(self):
        sampling = ClipSampling(num_frames=8, target_fps=5)
        first, middle, last = plan_clips(60, sampling=sampling, places=(0, 0.5, 1), fps=0.95, times=self.PAUSE)
        assert first == [0, 5, 10, 15, 20, 25, 29, 29]  # 1.4 seconds: no frame of the time after the pause
        assert middle == [29] * 8
        # At 60.92, 61.12, 61.32 ... 62.32 seconds.
        assert last == [29, 29, 34, 39, 44, 49, 54, 59]

    def test_a_frame_counts_as_shown_half_the_usual_distance_before_its_time(self):
        sampling = ClipSampling(num_frames=3, target_fps=10)  # 0, 0.1, 0.2
        times = [0, 0.049, 0.104, 0.151, 0.226, 0.26]  # usually 0.049 apart
        assert plan_clips(6, sampling=sampling, places=(0,), times=times) == [[0, 2, 3]]

    def test_short_videos(self):
        times = [0, 0.04, 0.08, 0.5]
        sampling = ClipSampling(num_frames=4, target_fps=2)  # spans 1.5 seconds
        assert plan_clips(4, sampling=sampling, places=(0, 1), times=times) == [[0, 3, 3, 3]] * 2
        refusing = ClipSampling(num_frames=4, target_fps=2, short_video="refuse")
        with pytest.raises(TooShortVideoError, match="0.5 seconds are less than the 1.5 .*use a closer spacing"):
            plan_clips(4, sampling=refusing, times=times)

    def test_frame_steps_ignore_times(self):
        sampling = ClipSampling(num_frames=4, frame_step=2)
        assert plan_clips(60, sampling=sampling, places=(0,), times=self.PAUSE) == [[0, 2, 4, 6]]


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
