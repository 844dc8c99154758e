"""Which frames of a video make a clip, and the errors of videos that do not have these frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

#: Bounds of a frame rate, in frames per second: one frame per hour, and 1000 (excluded), which is the clock of
#: Matroska and not a rate. Other rates (0, infinity, 5.6e-16) come from wrong headers, and count as unknown.
MIN_FPS, MAX_FPS = 1 / 3600, 1000.0


class DecodingError(ValueError):
    """
    A video that does not have the requested frames. It can be pickled, so that a data-loader worker can pass it on.

    Attributes:
        source (`str`): name of the video for logs: its path, or its kind and size.
        reason (`str`): the problem, and the remedy.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class NoVideoStreamError(DecodingError):
    """A file with sound only, or a folder without images."""


class CorruptVideoError(DecodingError):
    """A file that is not a video, or whose requested frames do not decode or are damaged."""


class TooShortVideoError(DecodingError):
    """
    A video with fewer frames than requested.

    Attributes:
        num_frames (`int`): number of frames of the video.
    """

    def __init__(self, source: str, reason: str, num_frames: int = 0) -> None:
        super().__init__(source, reason)
        self.args = (source, reason, num_frames)
        self.num_frames = num_frames


@dataclass(frozen=True)
class ClipSampling:
    r"""
    Which frames make a clip. One of `frame_step`, `target_fps` and `duration` sets the distance between the frames.
    Without any of them, `frame_step` is 4 (the published recipe: 16 frames, every fourth).

    By default the stride is exact: frame `i` of the clip is frame `start + floor(i * step + 0.5)` of the video, so
    step 4 gives 0, 4, 8 ... 60. Pretraining, fine-tuning and [`VJEPAVideoProcessor`] sample in this way.

    `target_fps` and `duration` count seconds. With a constant rate, the step is `fps / target_fps` frames; a
    `target_fps` above the rate of the video repeats frames. With a variable rate ([`has_constant_rate`]), the times of
    the frames decide: frame `i` of the clip is the frame that is shown at `start + i / target_fps` seconds, or the
    next one if it follows within half the usual (median) distance of frames. So a pause repeats the frame before it.

    `spacing="linspace"` is for comparisons with published numbers. The published evaluation of videos spreads the
    frames over the whole length `num_frames * frame_step` and rounds down: frame `i` is
    `start + floor(i * num_frames * frame_step / (num_frames - 1))`, and the last frame is moved back by one. Sixteen
    frames at step 4 are then 0, 4, 8, 12, 17, 21 ... 59, 63: uneven, and a little more than 4 apart.

    Args:
        num_frames (`int`, defaults to 16): frames of a clip.
        frame_step (`int`, *optional*): frames of the video from one frame of the clip to the next.
        target_fps (`float`, *optional*): frames per second of the clip.
        duration (`float`, *optional*): length of the clip in seconds: `num_frames / target_fps`.
        short_video (`str`, defaults to `"repeat_last"`): how to treat a video that is shorter than the clip.
            `"repeat_last"` reads it from its start at the exact stride and repeats its last frame; `"refuse"` raises.
            A video of fewer than `num_frames` frames is refused in both cases: its clip would be mostly a still.
        spacing (`str`, defaults to `"stride"`): `"stride"` or, with `frame_step` only, `"linspace"`; see above.

    Raises:
        ValueError: a value out of range, more than one of the three distances, or `spacing="linspace"` without a
            `frame_step`.
    """

    num_frames: int = 16
    frame_step: int | None = None
    target_fps: float | None = None
    duration: float | None = None
    short_video: Literal["repeat_last", "refuse"] = "repeat_last"
    spacing: Literal["stride", "linspace"] = "stride"

    def __post_init__(self) -> None:
        if self.frame_step is None and self.target_fps is None and self.duration is None:
            object.__setattr__(self, "frame_step", 4)
        distances = {name: getattr(self, name) for name in ("frame_step", "target_fps", "duration")}
        given = {name: value for name, value in distances.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given ({given}): pass only one of them")
        for name in ("num_frames", *given):
            value = getattr(self, name)
            whole = name in ("num_frames", "frame_step")
            if value < 1 if whole else not 0 < value < float("inf"):
                bound = "at least 1" if whole else "positive and finite"
                raise ValueError(f"`{name}`={value} must be {bound}")
            if whole and int(value) != value:
                raise ValueError(f"`{name}`={value} must be a whole number; `target_fps` takes fractions")
        for name, one, other in (("short_video", "repeat_last", "refuse"), ("spacing", "stride", "linspace")):
            if getattr(self, name) not in (one, other):
                raise ValueError(f"`{name}`={getattr(self, name)!r} must be {one!r} or {other!r}")
        if self.spacing == "linspace" and self.frame_step is None:
            raise ValueError(f"`spacing`='linspace' needs a whole number of frames: pass `frame_step`, not {given}")

    @property
    def clip_fps(self) -> float | None:
        """Frames per second of the clip; None if its frames are `frame_step` apart."""
        return self.num_frames / self.duration if self.duration else self.target_fps

    def offsets(self, fps: float | None = None) -> list[int]:
        """
        Distance, in frames of the video, from the first frame of the clip to each of its frames; ascending from 0.

        Args:
            fps: frames per second of the video; used with `target_fps` and `duration` only.

        Raises:
            ValueError: the rate is needed, and it is unknown or not plausible ([`plausible_fps`]).
        """
        if self.spacing == "linspace":
            span = self.num_frames * self.frame_step
            # In integers: a rounding error of floats could move a frame.
            return [min(i * span // max(self.num_frames - 1, 1), span - 1) for i in range(self.num_frames)]
        if self.frame_step is None and fps is None:
            raise ValueError("the frame rate is unknown, so seconds cannot become frames: use `frame_step`")
        if self.frame_step is None and plausible_fps(fps) is None:
            raise ValueError(
                f"{fps} frames per second are not a plausible rate ({MIN_FPS:.2g} to {MAX_FPS:g}), so seconds cannot "
                "become frames: use `frame_step`"
            )
        step = fps / self.clip_fps if self.frame_step is None else self.frame_step
        return [int(i * step + 0.5) for i in range(self.num_frames)]


def plausible_fps(fps: float | None) -> float | None:
    """The frame rate if it is at least `MIN_FPS` and below `MAX_FPS`; otherwise, also for NaN and None, None."""
    return float(fps) if fps is not None and MIN_FPS <= fps < MAX_FPS else None


def has_constant_rate(times: Sequence[float], *, tick: float) -> bool:
    """
    Whether frames are evenly spaced, but for the rounding of their times.

    Args:
        times: seconds at which the frames are displayed; ascending.
        tick: unit of the clock in seconds. A frame may lie one tick beside its even place, but not more than 0.4 of
            the distance of frames. One millisecond is always allowed, because many files were converted from
            containers that count milliseconds.
    """
    if len(times) < 3:
        return True
    places = np.linspace(times[0], times[-1], len(times))
    distance = (times[-1] - times[0]) / (len(times) - 1)
    # The sum is for the rounding of floats.
    return bool(np.abs(times - places).max() <= max(0.001, min(tick, 0.4 * distance)) + 1e-6)


def segment_places(num_segments: int) -> list[float]:
    """
    Places of clips spread evenly over a video, for [`plan_clips`]: from 0 for the first to 1 for the last. A single
    clip is in the middle.

    Raises:
        ValueError: fewer than one segment.
    """
    if num_segments < 1:
        raise ValueError(f"`num_segments`={num_segments} must be at least 1")
    return [0.5] if num_segments == 1 else [i / (num_segments - 1) for i in range(num_segments)]


def plan_clips(
    total: int,
    *,
    sampling: ClipSampling,
    places: Sequence[float] = (0.5,),
    fps: float | None = None,
    times: Sequence[float] | None = None,
    name: str = "<frames>",
) -> list[list[int]]:
    """
    Indices of one clip for every place in a video of `total` frames:

        place 0    |x...x...x...x|           |      place 1 ends with the last frame
        place 0.5  |      x...x...x...x      |

    Places are parts of the number of frames. If `times` are given and `sampling` counts seconds, they are parts of the
    time instead: a long pause then has a large part of the clips, as in the same video with a constant rate.

    Args:
        total: frames of the video.
        sampling: which frames make a clip.
        places: in [0, 1]; if they are uniform, all starts are equally likely.
        fps: frames per second of the video, if `sampling` needs it.
        times: seconds at which the frames are displayed, if the rate is variable; ascending, at least `total`.
        name: name of the video in errors.

    Returns:
        `sampling.num_frames` ascending indices below `total` for each place.

    Raises:
        TooShortVideoError: fewer frames than `sampling` accepts.
        DecodingError: `sampling` needs a frame rate, and it is unknown.
    """
    if total < sampling.num_frames:
        reason = f"{total} frames are fewer than the {sampling.num_frames} of a clip"
        raise TooShortVideoError(name, f"{reason}: take longer videos, or shorter clips", total)
    if times is not None and sampling.clip_fps is not None:
        return _plan_by_time(np.asarray(times[:total]), sampling=sampling, places=places, name=name)
    try:
        offsets = sampling.offsets(fps)
    except ValueError as error:
        raise DecodingError(name, str(error)) from error
    room = total - offsets[-1]
    if room < 1 and sampling.short_video == "refuse":
        reason = f"{total} frames are fewer than the {offsets[-1] + 1} that {sampling} spans: use a closer spacing"
        raise TooShortVideoError(name, reason + " or short_video='repeat_last'", total)
    starts = [min(int(place * max(room, 1)), max(room, 1) - 1) for place in places]
    return [[min(start + offset, total - 1) for offset in offsets] for start in starts]


def _plan_by_time(times: np.ndarray, *, sampling: ClipSampling, places: Sequence[float], name: str) -> list[list[int]]:
    """[`plan_clips`] for frames at these times: the rule for variable rates in [`ClipSampling`]."""
    gaps = np.diff(times)
    usual = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 0.0
    offsets = np.arange(sampling.num_frames) / sampling.clip_fps
    length = times[-1] - times[0]
    if offsets[-1] >= length + usual / 2 and sampling.short_video == "refuse":
        reason = (
            f"{length:.3g} seconds are less than the {offsets[-1]:.3g} that {sampling} spans: use a closer spacing"
        )
        raise TooShortVideoError(name, reason + " or short_video='repeat_last'", len(times))
    # How long before its time a frame counts as shown; nanoseconds for the rounding of floats.
    early = np.append(np.minimum(gaps, usual) / 2 + 1e-9, 0)
    clips = []
    for place in places:
        wanted = times[0] + place * max(length - offsets[-1], 0) + offsets
        shown = np.searchsorted(times, wanted + 1e-9, side="right") - 1
        following = np.minimum(shown + 1, len(times) - 1)
        clips.append(np.where(wanted + early[shown] >= times[following], following, shown).tolist())
    return clips
