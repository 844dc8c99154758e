"""
The frames of a video in display order, from the packets of its container; none is decoded.

Three things that containers get wrong are put right here, in one place for all decoders:

- **Lost packets.** If bytes of a packet are missing (a lost packet of a transport stream), the frames from there to
  the next whole keyframe are lost. They keep their places, so the frames after them keep their indices and times.
- **Clocks that start again**, where two transport streams were joined. The times after the jump continue the times
  before. (FFmpeg itself takes care of the overflow of this clock after 26 hours.)
- **Packets that are not displayed**: those before the first keyframe, those that an edit list leaves out, and the
  hidden references of VP8.
"""

import bisect
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

# A transport stream that jumps further back or ahead (seconds) has started its clock again; players decide in the same
# way.
_LARGEST_RETURN, _LARGEST_JUMP = 0.5, 10.0


class Mark(NamedTuple):
    """A packet: its times in units of the stream (`pts`: display, `dts`: decoding), its bytes, and its flags."""

    pts: int | None
    dts: int | None
    size: int
    is_keyframe: bool = False
    is_hidden: bool = False
    is_damaged: bool = False


class FrameTable:
    """
    The frames of a stream in display order. The packets are in decoding order:

        position (decoding order)   0     1     2     3        a frame per packet
        time                        0  1024   512  1536
        index (display order)       0     2     1     3

    Args:
        marks: the packets.
        tick: unit of their times in seconds.
        restarts: whether the clock of the container may start again (MPEG transport and program streams).

    Attributes:
        times (`list[int]`, *optional*): when the frames are displayed, ascending, in ticks; None if the container does
            not store it.
        positions (`list[int | None]`): position of each frame; None for a lost frame.
        num_lost (`int`): frames that are lost, with those after the last whole frame, which have no place.
        kept (`list[bool]`): for each position, whether the packet is to be decoded.
    """

    def __init__(self, marks: Sequence[Mark], *, tick: float, restarts: bool = False) -> None:
        self.marks = marks
        self._pts, self._dts = [mark.pts for mark in marks], [mark.dts for mark in marks]
        cuts = self._continue_clock(tick) if restarts else set()
        self._first = next((at for at, mark in enumerate(marks) if mark.is_keyframe or mark.is_damaged), 0)
        self._keyframes: list[int] = []
        self.kept, self._lost = self._whole_packets(cuts)
        shown = [at for at, mark in enumerate(marks) if self.kept[at] and not mark.is_hidden]
        self.times: list[int] | None = None
        self.positions: list[int | None] = list(shown)
        for times in (self._pts, self._dts):
            if shown and all(times[at] is not None for at in shown):
                self.positions = sorted(shown, key=times.__getitem__)
                self.times = [times[at] for at in self.positions]
                break
        self.num_lost = len(self._lost)
        if self.times is not None and self._lost:
            self._add_lost_frames()

    @property
    def num_frames(self) -> int:
        return len(self.positions)

    @property
    def is_seekable(self) -> bool:
        """Whether the time of a packet identifies its frame, so that decoding can start at any keyframe."""
        times = [mark.pts for mark, kept in zip(self.marks, self.kept, strict=True) if kept]
        return bool(self._keyframes) and None not in times and len(set(times)) == len(times) > 0

    @property
    def has_open_groups(self) -> bool:
        """Whether frames are decoded after a keyframe but displayed before it: they may depend on both sides of it."""
        keyframes, start = set(self._keyframes[1:]), None
        for at, time in enumerate(self._pts):
            if at in keyframes:
                start = time
            elif _before(time, start):
                return True
        return False

    def runs(self, positions: Iterable[int]) -> list[tuple[int, set[int]]]:
        """
        Splits positions, in ascending display order, into runs. Each run is decoded in one pass, from the keyframe at
        its position on.
        """
        runs: list[tuple[int, set[int]]] = []
        last = -1
        for position in positions:
            keyframe = self.keyframes_of(position)[-1]
            if keyframe > last:
                runs.append((keyframe, set()))
            runs[-1][1].add(position)
            last = max(last, position)
        return runs

    def keyframes_of(self, position: int) -> list[int]:
        """The keyframe before a packet, and those before that until decoding reaches the frame of the packet."""
        at = bisect.bisect_right(self._keyframes, position) - 1
        found = [self._keyframes[at]]
        # A B-frame that is decoded after a keyframe but displayed before it may need the group before.
        while at > 0 and self._pts[self._keyframes[at]] > self._pts[position]:
            at -= 1
            found.append(self._keyframes[at])
        return found

    def previous_keyframe(self, position: int) -> int:
        """The keyframe before the keyframe at this position; the first one has none and is returned itself."""
        return self._keyframes[max(bisect.bisect_left(self._keyframes, position) - 1, 0)]

    def _continue_clock(self, tick: float) -> set[int]:
        """Makes the times continue where the clock starts again, and returns the positions of these packets."""
        steps = [b - a for a, b in zip(self._dts, self._dts[1:], strict=False) if None not in (a, b)]
        ahead = [step for step in steps if 0 < step * tick <= _LARGEST_JUMP]
        usual = round(float(np.median(ahead))) if ahead else 1
        shift, shifts, cuts, last = 0, [], set(), None
        for at, dts in enumerate(self._dts):
            step = 0 if None in (dts, last) else dts - last
            if not -_LARGEST_RETURN <= step * tick <= _LARGEST_JUMP:
                shift += usual - step
                cuts.add(at)
            last = last if dts is None else dts
            shifts.append(shift)
        if shift:
            self._pts, self._dts = (
                [None if time is None else time + shift for time, shift in zip(times, shifts, strict=True)]
                for times in (self._pts, self._dts)
            )
        return cuts

    def _whole_packets(self, cuts: set[int]) -> tuple[list[bool], list[int]]:
        """
        Which packets are to be decoded, and the positions of those that should be displayed but are lost: from a
        damaged packet to the next whole keyframe. FFmpeg notices damage when it reads the next bytes, so the packet
        after the one that it marks is suspect, too. Notes the keyframes from which decoding can start.
        """
        damaged = [mark.is_damaged for mark in self.marks]
        if not any(mark.is_keyframe for mark in self.marks):
            return [not bad for bad in damaged], [at for at, bad in enumerate(damaged) if bad]
        kept, losses = [False] * self._first, []
        lost, start = False, None
        for at in range(self._first, len(self.marks)):
            mark, suspect = self.marks[at], damaged[at] or (at > 0 and damaged[at - 1])
            lost = lost or suspect or at in cuts
            if mark.is_keyframe and not suspect:
                start = at if lost or at == self._first else None
                lost = False
                self._keyframes.append(at)
            # A B-frame that is displayed before such a keyframe needs frames that are not there.
            leads = start is not None and _before(self._pts[at], self._pts[start])
            kept.append(not lost and not leads)
            # Those that lead the first keyframe of the file are not displayed.
            if not kept[-1] and not mark.is_hidden and (lost or start != self._first):
                losses.append(at)
        return kept, losses

    def _add_lost_frames(self) -> None:
        """
        Gives the lost frames the places between the frames around a loss, at the usual distance. The number of lost
        packets is not reliable: packets that vanished completely are not among them.
        """
        gaps = np.diff(self.times)
        usual = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 0.0
        old = list(zip(self.times, self.positions, strict=True))
        if self._first in self._lost and _before(self._pts[self._first], self.times[0]):
            old.insert(0, (self._pts[self._first], None))
        losses, frames = self._losses(), old[:1]
        room = len(self.marks)  # a damaged time must not make millions of places
        for (before, _), (after, position) in zip(old, old[1:], strict=False):
            if usual and any(start < after and before < end for start, end in losses):
                missing = round((after - before) / usual) - 1
                missing = missing if missing <= room else 0
                room -= max(missing, 0)
                frames += [(round(before + k * (after - before) / (missing + 1)), None) for k in range(1, missing + 1)]
            frames.append((after, position))
        self.times, self.positions = [time for time, _ in frames], [position for _, position in frames]
        self.num_lost = max(self.num_lost, self.positions.count(None))

    def _losses(self) -> list[tuple[float, float]]:
        """From when to when, in ticks, frames are lost: none is displayed before the first lost packet is decoded."""
        losses, start, known = [], None, float("-inf")
        for at in range(self._first, len(self.marks)):
            known = known if self._dts[at] is None else self._dts[at]
            if not self.kept[at] and start is None:
                start = known
            elif self.kept[at] and start is not None:
                losses.append((start, known if self._pts[at] is None else self._pts[at]))
                start = None
        return losses if start is None else [*losses, (start, float("inf"))]


def _before(time: int | None, other: int | None) -> bool:
    return time is not None and other is not None and time < other
