import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_vjepa.data import clip_reading
from transformers_vjepa.data.clip_reading import (
    BrokenVideoMonitor,
    Reading,
    ReadingWatch,
    RefusedClipError,
    TooManyBrokenVideosError,
    describe_error,
    last_reading,
    read_frames,
)
from transformers_vjepa.data.corpus import EncodedClip
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling, CorruptVideoError, DecodingError

SAMPLING = ClipSampling(num_frames=4, frame_step=2)


def test_share_of_broken_videos_is_taken_over_the_last_thousand():
    monitor = BrokenVideoMonitor(0.05)
    error = CorruptVideoError("x.mp4", "noise")
    for _ in range(50):  # 5 % of 1,000: just at the bound
        for _ in range(19):
            monitor.succeeded()
        monitor.failed("x.mp4", error)
    for _ in range(19):
        monitor.succeeded()
    with pytest.raises(
        TooManyBrokenVideosError,
        match=r"51 of the last 1000 .*\(5.1%\), more than max_broken_share=5.0%; the last ones: .*"
        r"y.mp4 \(OSError: gone\)\. Repair or drop them",
    ):
        monitor.failed("x.mp4", error)
        monitor.failed("y.mp4", OSError("gone"))


def test_few_broken_videos_at_the_start_do_not_stop_the_run():
    monitor = BrokenVideoMonitor(0.05)
    for _ in range(19):
        monitor.failed("x.mp4", OSError("gone"))
    with pytest.raises(TooManyBrokenVideosError, match="20 of the last 20"):
        monitor.failed("x.mp4", OSError("gone"))


def test_broken_videos_are_logged_with_their_reason(caplog):
    monitor = BrokenVideoMonitor(0.05)
    with caplog.at_level(logging.WARNING):
        monitor.failed("a.mp4", CorruptVideoError("a.mp4", "noise"))
        monitor.failed("b\n.mp4", "OSError: gone")
    assert [record.getMessage() for record in caplog.records] == [
        "skipped a broken video: a.mp4 (CorruptVideoError: noise)",
        r"skipped a broken video: b\n.mp4 (OSError: gone)",
    ]
    assert {record.name for record in caplog.records} == {clip_reading.__name__}


def test_a_video_that_has_ended_a_process_is_not_read_again():
    watch = ReadingWatch(60, unreadable={"x.mp4": "its decoder crashed"})
    with pytest.raises(DecodingError, match="x.mp4.*its decoder crashed"), watch.reading("x.mp4"):
        pytest.fail("read again")
    with watch.reading("y.mp4"):
        pass


def test_the_note_names_the_video_while_it_is_read(tmp_path):
    watch = ReadingWatch(60, notes=str(tmp_path))
    with watch.reading("x\udcff.mp4"):
        assert last_reading(str(tmp_path), os.getpid()) == Reading("x\udcff.mp4", "")
    assert last_reading(str(tmp_path), os.getpid()) == Reading("", "")
    assert last_reading(str(tmp_path), 0) == Reading("", "")  # a process without a note


def test_images_come_once_and_wrong_clips_are_refused(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    path = str(tmp_path / "x.png")
    frames = read_frames(EncodedClip(path, -1, path, True), sampling=SAMPLING, num_segments=3)
    assert torch.equal(frames, torch.from_numpy(pixels).permute(2, 0, 1)[None, None])
    with pytest.raises(FileNotFoundError, match="gone.png is not a regular file"):
        read_frames(EncodedClip("gone.png", -1, "gone.png", True), sampling=SAMPLING)
    with pytest.raises(OSError, match="row 3 is empty"):
        read_frames(EncodedClip("row 3", -1, b"", False), sampling=SAMPLING)
    with pytest.raises(RefusedClipError, match="it names a file") as refused:
        read_frames(EncodedClip("row 3", -1, "/etc/passwd", False, "it names a file"), sampling=SAMPLING)
    assert describe_error(refused.value) == "RefusedClipError: it names a file"
