"""Reading with PyAV: lost packets, variable rates, false keyframes, mirrored frames, several streams."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from videos import numbers_in, write_numbered

from transformers_vjepa.models.vjepa import pyav_reader, video_reader
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling, CorruptVideoError, NoVideoStreamError
from transformers_vjepa.models.vjepa.decoding import decode_frames, probe_video, read_clip, read_segments
from transformers_vjepa.models.vjepa.pyav_reader import PyAVReader

FRAMES = 100
# A keyframe every 20, three B-frames between references; the groups are closed.
GROUPS = {"qp": "4", "x264-params": "keyint=20:min-keyint=20:scenecut=0:bframes=3:b-adapt=0:b-pyramid=none"}


def encoded(container: str, codec: str = "libx264", **options: str) -> bytes:
    file = io.BytesIO()
    write_numbered(file, num_frames=FRAMES, codec=codec, format=container, **options)
    return file.getvalue()


def plain_decoding(data: bytes) -> torch.Tensor:
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24", interpolation="BICUBIC") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def stream() -> bytes:
    return encoded("mpegts", **GROUPS)


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(pyav_reader.logger, "warning_once", messages.append)
    return messages


def video_packets(data: bytes) -> list[int]:
    """Places of the transport packets (188 bytes) of the video."""
    return [at for at in range(0, len(data), 188) if (data[at + 1] & 0x1F, data[at + 2]) == (1, 0)]


def without(data: bytes, places: list[int]) -> bytes:
    return b"".join(data[at : at + 188] for at in range(0, len(data), 188) if at not in places)


class TestLostPackets:
    @pytest.mark.parametrize("codec, options", [("libx264", GROUPS), ("mpeg2video", {"bf": "2", "g": "20"})])
    def test_every_other_frame_is_right_wherever_a_packet_is_lost(self, codec, options):
        data = encoded("mpegts", codec, **options)
        reference = plain_decoding(data)
        packets = video_packets(data)
        for place in packets[1 : -len(packets) // 5 : len(packets) // 24]:
            with PyAVReader(without(data, [place]), "x") as video:
                assert video.num_frames == FRAMES and video.fps == 25
                whole = [index for index, position in enumerate(video.table.positions) if position is not None]
                assert FRAMES - len(whole) == video.num_lost <= 27
                frames = video.read(whole)
                assert all(torch.equal(frames[index], reference[index]) for index in whole), place
                one = whole[len(whole) // 2]
                assert torch.equal(video.read([one])[one], reference[one])

    def test_the_clip_and_the_warning(self, stream, warned):
        packets = video_packets(stream)
        starts = [place for place in packets if stream[place + 1] & 0x40]  # of the frames, in decoding order
        # The packet of frame 52 is joined to the one before (frame 47), and FFmpeg marks the one before that (46).
        damaged = without(stream, [starts[49]])
        assert probe_video(damaged).lost_frames == 13
        assert warned[0].endswith("so 13 of its 100 frames are lost; clips repeat the frame before them")
        with pytest.raises(CorruptVideoError, match="frame 55 is lost, because packets are damaged or missing"):
            decode_frames(damaged, [20, 55])
        lost = {46, 47, *range(49, 60)}
        expected = [max(index for index in range(wanted + 1) if index not in lost) for wanted in range(20, 81, 4)]
        assert expected == [20, 24, 28, 32, 36, 40, 44, 48, 48, 48, 60, 64, 68, 72, 76, 80]
        assert numbers_in(read_clip(damaged)) == expected
        with pytest.raises(CorruptVideoError, match="7 of the 8 frames of a clip are lost"):
            read_clip(damaged, sampling=ClipSampling(num_frames=8, frame_step=1))
        # The segments before and after the loss are those of the whole file.
        sampling = ClipSampling(num_frames=4, frame_step=2)
        assert torch.equal(
            read_segments(damaged, num_segments=2, sampling=sampling),
            read_segments(stream, num_segments=2, sampling=sampling),
        )

    def test_a_damaged_first_packet(self, stream, warned):
        damaged = without(stream, [video_packets(stream)[3]])
        assert probe_video(damaged).lost_frames == 20
        # From any kind of source; nothing stands before the first whole frame.
        for source in (damaged, io.BytesIO(damaged)):
            assert numbers_in(decode_frames(source, [20, 99])) == [20, 99]
            assert numbers_in(read_segments(source, num_segments=3)[:, -1]) == [60, 80, 99]

    def test_a_sound_stream_loses_nothing(self, stream, warned):
        assert probe_video(stream).lost_frames == 0 and not warned

    def test_joined_streams_have_the_frames_of_both(self, stream, warned):
        joined = stream + stream
        info = probe_video(joined)
        assert (info.num_frames, info.fps) == (200, 25)
        assert numbers_in(decode_frames(joined, [0, 50, 96, 99, 100, 150, 199])) == [0, 50, 96, 99, 0, 50, 99]
        # FFmpeg marks the last two frames of the first stream: a packet may be missing before the second.
        assert info.lost_frames == 2
        assert numbers_in(read_clip(joined, sampling=ClipSampling(num_frames=4, target_fps=5))) == [
            92,
            96,
            2,
            7,
        ]  # 97 is lost

    def test_the_clock_overflows(self, stream):
        file = io.BytesIO()
        with av.open(io.BytesIO(stream)) as source, av.open(file, "w", format="mpegts") as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            shift = 2**33 - 90000 * 2 - 126000
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                    target.mux(packet)
        data = file.getvalue()
        assert probe_video(data) == probe_video(stream)
        assert numbers_in(decode_frames(data, [0, 49, 51, 99])) == [0, 49, 51, 99]

    def test_a_loss_at_the_end_shortens_the_video(self, stream, warned):
        packets = video_packets(stream)
        damaged = without(stream, [packets[-30]])
        info = probe_video(damaged)
        assert info.num_frames + info.lost_frames >= FRAMES > info.num_frames >= 80
        with PyAVReader(damaged, "x") as video:
            whole = [index for index, position in enumerate(video.table.positions) if position is not None]
        assert numbers_in(decode_frames(damaged, whole)) == whole


class TestVariableRates:
    TIMES = [*(round(1000 * i / 60) for i in range(60)), *(1000 + 100 * i for i in range(40))]
    EXPECTED = [0, 15, 30, 45, 60, 62, 65, 67, 70, 72, 75, 77, 80, 82, 85, 87]

    @pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
    def test_times_choose_the_frames(self, tmp_path, backend, suffix):
        path = tmp_path / f"variable{suffix}"
        write_numbered(path, num_frames=FRAMES, milliseconds=self.TIMES, qp="4")
        try:
            first, last = read_segments(path, num_segments=2, sampling=ClipSampling(target_fps=4), backend=backend)
        except ImportError as error:
            pytest.skip(str(error).splitlines()[0])
        assert numbers_in(first) == self.EXPECTED
        assert numbers_in(last) == [61, 64, 66, 69, 71, 74, 76, 79, 81, 84, 86, 89, 91, 94, 96, 99]
        # Places are parts of the time: the middle one starts at 0.575 of 4.9 seconds.
        clip = read_clip(path, sampling=ClipSampling(num_frames=2, duration=7.5), backend=backend)
        assert numbers_in(clip) == [35, 93]

    def test_a_frame_step_counts_frames(self, tmp_path):
        path = tmp_path / "variable.mp4"
        write_numbered(path, num_frames=FRAMES, milliseconds=self.TIMES, qp="4")
        assert numbers_in(read_clip(path)) == list(range(20, 81, 4))

    def test_times_rounded_to_milliseconds_are_a_constant_rate(self, tmp_path):
        path = tmp_path / "constant.mkv"
        write_numbered(path, num_frames=FRAMES, fps=Fraction(30000, 1001), qp="4")
        with PyAVReader(str(path), "x") as video:
            assert video.times is None and video.fps == pytest.approx(29.97, abs=0.01)
        sampling = ClipSampling(num_frames=8, target_fps=20)
        # 1.4985 frames apart, halves up.
        assert numbers_in(read_segments(path, num_segments=2, sampling=sampling)[0]) == [0, 1, 3, 4, 6, 7, 9, 10]

    def test_a_pause_in_a_gif(self, tmp_path):
        from PIL import Image

        images = [Image.new("RGB", (8, 8), (10 * i, 0, 0)) for i in range(20)]
        durations = [100] * 9 + [3000] + [100] * 10
        images[0].save(tmp_path / "x.gif", save_all=True, append_images=images[1:], duration=durations, loop=0)
        sampling = ClipSampling(num_frames=5, target_fps=2)
        clip = read_segments(tmp_path / "x.gif", num_segments=2, sampling=sampling)[0]
        assert [round(value / 10) for value in clip[:, 0, 0, 0].tolist()] == [0, 5, 9, 9, 9]


class TestKeyframes:
    @pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
    def test_frames_that_are_wrongly_marked_as_keyframes(self, codec):
        """Without a table of keyframes (`stss`), all frames of an MP4 file count as keyframes."""
        data = encoded("mp4", codec, g="20", bf="0").replace(b"stss", b"free")
        reference = plain_decoding(data)
        with av.open(io.BytesIO(data)) as container:
            assert sum(packet.is_keyframe for packet in container.demux(video=0)) > 5  # the right number
        for index in (0, 7, 33, 50, 99):
            assert torch.equal(decode_frames(data, [index])[0], reference[index]), index

    def test_intra_refresh(self):
        data = encoded("mp4", **{"x264-params": "keyint=20:scenecut=0:intra-refresh=1:bframes=0", "qp": "20"})
        reference = plain_decoding(data)
        for index in range(18, FRAMES, 9):
            assert torch.equal(decode_frames(data, [index])[0], reference[index]), index

    @pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
    def test_program_streams_have_wrong_times_after_a_seek(self, codec):
        data = encoded("mpeg", codec, bf="2", g="20")
        reference = plain_decoding(data)
        for index in range(20, FRAMES, 4):
            assert torch.equal(decode_frames(data, [index])[0], reference[index]), index

    def test_a_phone_video_with_false_keyframes(self, shared):
        data = (shared / "data/frames/false_keyframes_h263.3gp").read_bytes()
        reference = plain_decoding(data)
        wanted = [0, 60, 131, 132, 140, 221]
        assert torch.equal(decode_frames(data, wanted), reference[wanted])
        for index in (55, 120, 160):
            assert torch.equal(decode_frames(data, [index])[0], reference[index])


# Display matrices (a, b, c, d) of MP4 files, and what they do to an image (height, width, 3).
MATRICES = {
    "upright": ((1, 0, 0, 1), lambda image: image),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "upside_down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "counter_clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "mirrored_upside_down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "mirrored_clockwise": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
}


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("name", MATRICES)
def test_orientation(name, backend):
    (matrix, turned), data = MATRICES[name], bytearray(encoded("mp4"))
    plain = decode_frames(bytes(data), [30])[0].permute(1, 2, 0).numpy()
    a, b, c, d = (value * 2**16 for value in matrix)
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    if backend == "decord" and matrix[0] == 0:
        pytest.skip("decord cannot turn frames of 64x48 pixels (a named error)")
    mirrored = matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0
    try:
        if mirrored and backend != "pyav":
            with pytest.raises(
                ValueError, match=f"{backend} would return wrong frames, because its frames are to be mir"
            ):
                decode_frames(bytes(data), [30], backend=backend)
            return
        image = decode_frames(bytes(data), [30], backend=backend)[0].permute(1, 2, 0).numpy()
    except ImportError as error:
        pytest.skip(str(error).splitlines()[0])
    assert np.array_equal(image, turned(plain))


def test_a_phone_video_that_is_rotated_and_mirrored(shared):
    """Rows and columns are exchanged, which is what `ffmpeg -i FILE` shows, too."""
    path = shared / "data/frames/rotate_and_reflect.mp4"
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        stored = torch.from_numpy(frame.to_ndarray(format="rgb24", interpolation="BICUBIC")).permute(2, 0, 1)
    assert torch.equal(decode_frames(path, [0])[0], stored.transpose(1, 2))
    assert (probe_video(path).width, probe_video(path).height) == (720, 1080)


class TestStreams:
    @pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
    def test_a_cover_before_the_video(self, shared, backend):
        path = shared / "data/frames/cover_first.mkv"
        try:
            info = probe_video(path, backend=backend)
        except ImportError as error:
            pytest.skip(str(error).splitlines()[0])
        assert (info.num_frames, info.fps, info.width, info.height) == (100, 25, 160, 120)

    def test_only_a_cover(self):
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
            stream.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(NoVideoStreamError, match="no video stream, only a cover"):
            probe_video(file.getvalue())


def test_rates_that_are_not_plausible(shared):
    path = shared / "data/frames/cut_without_times.mkv"
    assert probe_video(path).fps == 25
    clip = read_clip(path, sampling=ClipSampling(num_frames=8, target_fps=5))
    assert len({frame.numpy().tobytes() for frame in clip}) == 8


def test_thousand_frames_per_second_is_no_rate(tmp_path):
    path = tmp_path / "fast.mkv"
    write_numbered(path, num_frames=20, milliseconds=range(20), qp="4")
    assert probe_video(path).fps in (None, 25)
    assert numbers_in(read_clip(path, sampling=ClipSampling(num_frames=4, frame_step=2))) == [7, 9, 11, 13]


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
def test_frames_of_a_read_are_bounded(tmp_path, monkeypatch, backend):
    path = tmp_path / "x.mp4"
    write_numbered(path, num_frames=FRAMES)
    monkeypatch.setattr(video_reader, "MAX_CLIP_BYTES", 100_000)  # 10 frames of 9216 bytes
    try:
        assert len(decode_frames(path, range(10), backend=backend)) == 10
    except ImportError as error:
        pytest.skip(str(error).splitlines()[0])
    message = "16 frames of 64x48 pixels take 147456 bytes, more than 100000: scale the video down, read fewer"
    with pytest.raises(CorruptVideoError, match=message):
        read_clip(path, backend=backend)
    with pytest.raises(CorruptVideoError, match="11 frames of 64x48"):  # one frame, eleven times
        decode_frames(path, [5] * 11, backend=backend)


def test_images_of_a_folder_are_bounded(tmp_path, monkeypatch):
    from PIL import Image

    for number in range(4):
        Image.new("RGB", (50, 40)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(video_reader, "MAX_CLIP_BYTES", 20_000)
    assert len(decode_frames(tmp_path, [0, 3, 1])) == 3
    with pytest.raises(CorruptVideoError, match="4 frames of 50x40 pixels take 24000 bytes, more than 20000"):
        decode_frames(tmp_path, [0, 1, 2, 3])
