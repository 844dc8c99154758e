"""The frames of a video from the packets of its container: order, lost frames, clocks that start again."""

import pytest

from transformers_vjepa.models.vjepa.frame_table import FrameTable, Mark

# Two groups I P B B P B B; decoding order, 10 ticks a frame. The second group is closed.
DISPLAY = [0, 3, 1, 2, 6, 4, 5, 7, 10, 8, 9, 13, 11, 12]
KEYFRAMES = (0, 7)


def marks(display=DISPLAY, keyframes=KEYFRAMES, *, damaged=(), hidden=()):
    return [
        Mark(
            10 * (number + 1),
            10 * at,
            size=100,
            is_keyframe=at in keyframes,
            is_hidden=at in hidden,
            is_damaged=at in damaged,
        )
        for at, number in enumerate(display)
    ]


def numbers(table):
    """For each frame, the number of the frame in `DISPLAY`; None for a lost one."""
    return [None if position is None else DISPLAY[position % len(DISPLAY)] for position in table.positions]


def test_display_order_and_runs():
    table = FrameTable(marks(), tick=0.004)
    assert numbers(table) == list(range(14)) and table.num_lost == 0
    assert table.times == list(range(10, 150, 10))
    assert table.is_seekable and not table.has_open_groups
    # Frames 2, 6 and 8: one run from the first keyframe, one from the second.
    assert table.runs([3, 4, 9]) == [(0, {3, 4}), (7, {9})]
    assert table.keyframes_of(9) == [7] and table.previous_keyframe(7) == 0 == table.previous_keyframe(0)


def test_frames_before_a_keyframe_need_the_group_before():
    display = [0, 3, 1, 2, 6, 4, 5]  # the keyframe is frame 6; 4 and 5 depend on 3, too
    table = FrameTable(marks(display, keyframes=(0, 4)), tick=0.004)
    assert table.has_open_groups
    assert table.keyframes_of(5) == [4, 0] and table.keyframes_of(4) == [4]
    assert table.runs([5, 4]) == [(0, {5, 4})]


@pytest.mark.parametrize(
    "damaged, expected",
    [
        # FFmpeg marks the packet before the damaged one: both are lost, and all that follow in the group.
        ([3], [0, 1, None, 3, None, None, None, *range(7, 14)]),
        ([4], [0, 1, 2, 3, None, None, None, *range(7, 14)]),
        # The first keyframe: nothing to start from before the second.
        ([0], [None] * 7 + list(range(7, 14))),
        # The second keyframe is damaged. The loss has no end, but frame 10 shows that 8 and 9 are missing.
        ([6], [0, 1, 2, 3, 4, None, 6]),
        ([9], [*range(8), 8, None, 10][:8] + [None, None, 10]),
    ],
)
def test_lost_frames_keep_their_places(damaged, expected):
    table = FrameTable(marks(damaged=damaged), tick=0.004)
    assert numbers(table) == expected
    assert table.num_lost == 14 - sum(number is not None for number in expected)
    assert table.times == [10 * (number + 1) for number in range(len(expected))]
    assert [at for at in range(14) if table.kept[at]] == sorted(
        DISPLAY.index(number) for number in expected if number is not None
    )


def test_frames_that_vanished_completely_have_places():
    packets = marks(damaged=[4])
    table = FrameTable([*packets[:5], *packets[6:]], tick=0.004)  # without the packet of frame 4
    assert table.times == list(range(10, 150, 10)) and table.positions[4:7] == [None] * 3
    assert table.num_lost == 3


def test_frames_before_a_keyframe_after_a_loss_are_lost():
    display = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    table = FrameTable(marks(display, keyframes=(0, 4), damaged=[2]), tick=0.004)
    assert table.positions == [0, None, None, 1, None, None, 4, 8, 9, 7]


def test_joined_streams_continue():
    # The second stream starts with the clock of the first.
    table = FrameTable(marks() + marks(), tick=0.1, restarts=True)
    assert table.times == list(range(10, 290, 10)) and table.num_lost == 0
    assert numbers(table) == list(range(14)) * 2
    assert not table.is_seekable
    # Elsewhere times decide, as they stand.
    assert FrameTable(marks() + marks(), tick=0.1).times[:4] == [10, 10, 20, 20]


def test_a_join_in_the_middle_of_a_group_loses_frames_to_the_next_keyframe():
    table = FrameTable(marks() + marks()[3:], tick=0.1, restarts=True)
    assert table.num_lost >= 4
    assert numbers(table)[:14] == list(range(14))
    assert table.positions[-8:] == [None, 18, 20, 21, 19, 23, 24, 22]


def test_packets_that_are_not_displayed():
    # Before the first keyframe, and left out by an edit list.
    table = FrameTable(marks(keyframes=(7,)), tick=0.004)
    assert numbers(table) == list(range(7, 14)) and table.num_lost == 0
    table = FrameTable(marks(hidden=range(7)), tick=0.004)
    assert numbers(table) == list(range(7, 14)) and table.num_lost == 0 and all(table.kept)


def test_containers_without_times():
    packets = [mark._replace(pts=None) for mark in marks()]
    assert FrameTable(packets, tick=0.004).times == list(range(0, 140, 10))  # those of decoding
    packets = [mark._replace(dts=None) for mark in packets]
    table = FrameTable(packets, tick=0.004)
    assert table.times is None and table.num_frames == 14 and not table.is_seekable
    assert FrameTable([], tick=0.004).num_frames == 0


def test_a_damaged_time_does_not_make_millions_of_places():
    packets = marks(damaged=[3])
    far = [mark._replace(pts=mark.pts + 10**12, dts=mark.dts + 10**12) for mark in packets[7:]]
    table = FrameTable([*packets[:7], *far], tick=0.004)
    assert table.num_frames <= 2 * len(packets) and table.num_lost >= 4
