"""Decoding: rendered videos whose frames carry their index as a grey level, and unusual real files."""

import io
import re
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from videos import numbers_in, write_numbered

from transformers_vjepa.models.vjepa.clip_sampling import (
    ClipSampling,
    CorruptVideoError,
    DecodingError,
    NoVideoStreamError,
    TooShortVideoError,
)
from transformers_vjepa.models.vjepa.decoding import (
    VideoCache,
    VideoInfo,
    decode_frames,
    probe_video,
    read_clip,
    read_segments,
)
from transformers_vjepa.models.vjepa.pyav_reader import PyAVReader

FRAMES, FPS = 100, 25


def _render(path: Path, *, frames: int = FRAMES, codec: str = "libx264", **options: str) -> Path:
    write_numbered(path, num_frames=frames, codec=codec, fps=FPS, **options)
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames of H.264 at 25 fps: a keyframe every 20, three non-reference B-frames between references."""
    params = "keyint=20:min-keyint=20:scenecut=0:bframes=3:b-adapt=0:b-pyramid=none"
    return _render(tmp_path_factory.mktemp("video") / "b_frames.mp4", qp="4", **{"x264-params": params})


@pytest.fixture(scope="session")
def avi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as MPEG-4 with B-frames in AVI, which stores no times."""
    return _render(tmp_path_factory.mktemp("video") / "b_frames.avi", codec="mpeg4", bf="2", g="20", qmax="2")


@pytest.fixture
def damaged(video: Path) -> bytes:
    """`video` with a keyframe that does not decode: the frames from 60 to 79 are lost."""
    with av.open(str(video)) as container:
        keyframes = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe]
    data = bytearray(video.read_bytes())
    data[keyframes[3] : keyframes[3] + 4] = b"\xff" * 4  # the length of the first unit of frame 60
    return bytes(data)


def _decode_all(path: Path) -> torch.Tensor:
    """Plain decoding of every frame up to the first error, as a reference."""
    frames = []
    with av.open(str(path)) as container:
        try:
            for frame in container.decode(video=0):
                rgb = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
                frames.append(np.rot90(rgb, k=frame.rotation // 90))
        except av.FFmpegError:
            pass
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Times of the frames that leave the decoder of PyAV."""
    times: list[int] = []
    keep = PyAVReader._keep

    def counting_keep(self, frames, *arguments):
        frames = list(frames)
        times.extend(frame.pts for frame in frames)
        keep(self, frames, *arguments)

    monkeypatch.setattr(PyAVReader, "_keep", counting_keep)
    return times


class TestSampling:
    def test_stride_is_true_and_the_clip_is_centred(self, video):
        clip = read_clip(video)
        assert clip.shape == (16, 3, 48, 64)
        assert clip.dtype == torch.uint8
        assert clip.is_contiguous()
        assert numbers_in(clip) == list(range(20, 81, 4))  # 61 frames span, 40 starts: the middle one is 20

    @pytest.mark.parametrize(
        "sampling, expected",
        [
            (ClipSampling(num_frames=4, frame_step=1), [48, 49, 50, 51]),
            (ClipSampling(num_frames=4, target_fps=12.5), [47, 49, 51, 53]),
            (
                ClipSampling(num_frames=4, target_fps=10),
                [46, 49, 51, 54],
            ),  # offsets 0, 2.5, 5, 7.5, halves up
            (ClipSampling(num_frames=4, target_fps=50), [49, 50, 50, 51]),  # offsets 0, 0.5, 1, 1.5
            (ClipSampling(num_frames=4, duration=0.8), [42, 47, 52, 57]),  # 20 frames, one in five
            (ClipSampling(num_frames=1, frame_step=1), [50]),
        ],
    )
    def test_spacings(self, video, sampling, expected):
        assert numbers_in(read_clip(video, sampling=sampling)) == expected

    def test_linspace_places_clips_as_a_stride_does(self, video, tmp_path):
        sampling = ClipSampling(num_frames=4, frame_step=5, spacing="linspace")  # 0, 6, 13, 19: spans 20
        # 81 starts: 0, 40 and 80.
        expected = [0, 6, 13, 19, 40, 46, 53, 59, 80, 86, 93, 99]
        assert numbers_in(read_segments(video, num_segments=3, sampling=sampling)) == expected
        assert numbers_in(read_clip(video, sampling=sampling)) == [40, 46, 53, 59]
        path = _render(tmp_path / "short.mp4", frames=18, qp="4")
        assert numbers_in(read_clip(path, sampling=ClipSampling(spacing="linspace"))) == [0, 4, 8, 12] + [17] * 12

    def test_random_starts_cover_the_video_and_replay(self, video):
        sampling = ClipSampling(num_frames=2, frame_step=96)  # starts 0 to 3
        generator = torch.Generator().manual_seed(0)
        state = generator.get_state()
        starts = [numbers_in(read_clip(video, sampling=sampling, generator=generator)[:1])[0] for _ in range(30)]
        assert set(starts) == {0, 1, 2, 3}
        generator.set_state(state)
        again = [numbers_in(read_clip(video, sampling=sampling, generator=generator)[:1])[0] for _ in range(3)]
        assert again == starts[:3]

    def test_short_video_repeats_its_last_frame(self, tmp_path):
        path = _render(tmp_path / "short.mp4", frames=18, qp="4")
        assert numbers_in(read_clip(path)) == [0, 4, 8, 12, 16] + [17] * 11

    def test_short_video_is_refused(self, tmp_path):
        path = _render(tmp_path / "short.mp4", frames=60, qp="4")
        sampling = ClipSampling(short_video="refuse")
        with pytest.raises(TooShortVideoError, match="60 frames are fewer than the 61 .*repeat_last") as raised:
            read_clip(path, sampling=sampling)
        assert raised.value.num_frames == 60
        assert len(read_clip(path)) == 16

    @pytest.mark.parametrize("short_video", ["repeat_last", "refuse"])
    def test_mostly_a_still_is_refused(self, tmp_path, short_video):
        path = _render(tmp_path / "short.mp4", frames=15)
        with pytest.raises(TooShortVideoError, match="15 frames are fewer than the 16 of a clip"):
            read_clip(path, sampling=ClipSampling(short_video=short_video))

    def test_segments_are_spread_from_the_first_to_the_last_frame(self, video):
        sampling = ClipSampling(num_frames=4, frame_step=5)  # spans 16
        segments = read_segments(video, num_segments=3, sampling=sampling)
        assert segments.shape == (3, 4, 3, 48, 64)
        assert numbers_in(segments) == [0, 5, 10, 15, 42, 47, 52, 57, 84, 89, 94, 99]
        one = read_segments(video, num_segments=1, sampling=sampling)
        assert torch.equal(one[0], read_clip(video, sampling=sampling))

    def test_random_segments_start_in_each_part_of_the_video(self, video):
        sampling = ClipSampling(num_frames=2, frame_step=40)  # 60 starts, 20 for each of three segments
        generator = torch.Generator().manual_seed(0)
        draws = [
            numbers_in(read_segments(video, num_segments=3, sampling=sampling, generator=generator)[:, 0])
            for _ in range(8)
        ]
        for segment, starts in enumerate(zip(*draws, strict=True)):
            assert 20 * segment <= min(starts) < max(starts) < 20 * (segment + 1)
        # One segment is the random clip of the same number.
        clip = read_clip(video, sampling=sampling, generator=torch.Generator().manual_seed(5))
        one = read_segments(video, num_segments=1, sampling=sampling, generator=torch.Generator().manual_seed(5))
        assert torch.equal(one[0], clip)


class TestDecoding:
    def test_frames_by_index_in_any_order(self, video):
        assert numbers_in(decode_frames(video, [99, 0, 41, 0, 20, 19])) == [99, 0, 41, 0, 20, 19]

    def test_skipping_frames_changes_no_bit(self, video, decoded):
        reference = _decode_all(video)
        assert numbers_in(reference) == list(range(FRAMES))
        for step in (1, 2, 3, 4, 7, 30):
            decoded.clear()
            wanted = list(range(1, FRAMES, step))
            assert torch.equal(decode_frames(video, wanted), reference[wanted]), step
            if step == 4:
                # References (one in four) and the wanted B-frames: half the frames are never decoded.
                assert len(decoded) <= FRAMES * 0.55

    def test_decodes_from_the_keyframe_before_the_clip(self, video, decoded):
        assert numbers_in(decode_frames(video, [85, 86])) == [85, 86]
        step = min(later - earlier for earlier, later in zip(sorted(decoded), sorted(decoded)[1:], strict=False))
        assert {time // step for time in decoded} <= set(range(80, 92))

    def test_far_apart_frames_leave_out_the_groups_between(self, video, decoded):
        assert numbers_in(decode_frames(video, [1, 81])) == [1, 81]
        assert len(decoded) <= 6

    def test_avi_with_b_frames_is_counted_from_the_start(self, avi):
        reference = _decode_all(avi)
        wanted = [0, 1, 37, 62, len(reference) - 1]
        assert torch.equal(decode_frames(avi, wanted), reference[wanted])
        assert numbers_in(reference[wanted])[:4] == wanted[:4]
        with pytest.raises(TooShortVideoError, match=f"frame {FRAMES} is beyond its {len(reference)} frames"):
            decode_frames(avi, [FRAMES])

    def test_every_kind_of_source(self, video, tmp_path):
        expected = decode_frames(video, [0, 50, 99])
        data = video.read_bytes()
        for source in (str(video), data, bytearray(data), io.BytesIO(data)):
            assert torch.equal(decode_frames(source, [0, 50, 99]), expected)
        with video.open("rb") as file:
            file.read(100)  # from any position
            assert torch.equal(decode_frames(file, [0, 50, 99]), expected)
            assert torch.equal(decode_frames(file, [0, 50, 99]), expected)
            assert not file.closed

    def test_folder_of_images_and_gif_hold_the_same_frames(self, tmp_path):
        palette = [Image.new("RGB", (6, 5), (10 * i, 255 - 10 * i, 7)) for i in range(12)]
        folder = tmp_path / "frames"
        folder.mkdir()
        (folder / "notes.txt").write_text("not a frame")
        for i, image in enumerate(palette):
            image.save(folder / f"frame{i}.png")  # frame10 sorts before frame2 as text
        palette[0].save(tmp_path / "clip.gif", save_all=True, append_images=palette[1:], duration=100, loop=0)
        expected = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in palette])
        assert torch.equal(decode_frames(folder, range(12)), expected)
        assert torch.equal(decode_frames(tmp_path / "clip.gif", range(12)), expected)
        sampling = ClipSampling(num_frames=4, frame_step=3)
        assert torch.equal(read_clip(folder, sampling=sampling), expected[1:11:3])
        assert torch.equal(read_clip(tmp_path / "clip.gif", sampling=sampling), expected[1:11:3])
        assert probe_video(folder) == VideoInfo(num_frames=12, fps=None, width=6, height=5)
        assert probe_video(tmp_path / "clip.gif") == VideoInfo(num_frames=12, fps=10.0, width=6, height=5)
        with pytest.raises(DecodingError, match="frame rate is unknown.*use `frame_step`"):
            read_clip(folder, sampling=ClipSampling(num_frames=4, target_fps=5))
        with pytest.raises(TooShortVideoError, match="frame 12 is beyond its 12 frames"):
            decode_frames(folder, [12])

    def test_folder_errors(self, tmp_path):
        with pytest.raises(NoVideoStreamError, match="has no images"):
            decode_frames(tmp_path, [0])
        Image.new("RGB", (6, 5)).save(tmp_path / "0.png")
        Image.new("RGB", (7, 5)).save(tmp_path / "1.png")
        (tmp_path / "2.png").write_bytes(b"not an image")
        with pytest.raises(CorruptVideoError, match=re.escape("size of its frames changes: [(5, 6), (5, 7)]")):
            decode_frames(tmp_path, [0, 1])
        with pytest.raises(CorruptVideoError, match="2.png is not a complete image"):
            decode_frames(tmp_path, [2])

    def test_probe(self, video):
        assert probe_video(video) == VideoInfo(num_frames=FRAMES, fps=25.0, width=64, height=48)

    def test_damage_is_refused_only_where_it_reaches(self, video, damaged):
        reference = _decode_all(video)
        for wanted in ([0, 20, 50], [80, 99]):
            assert torch.equal(decode_frames(damaged, wanted), reference[wanted])
        with pytest.raises(CorruptVideoError, match="frame 70 does not decode"):
            decode_frames(damaged, [0, 70])

    def test_cut_off_file_is_refused(self, video):
        data = video.read_bytes()
        with pytest.raises(CorruptVideoError, match="cannot open"):
            decode_frames(data[: len(data) // 2], [0])  # an MP4 keeps its index at the end

    def test_refuses_arguments(self, video, tmp_path):
        with pytest.raises(ValueError, match="none below 0"):
            decode_frames(video, [3, -1])
        with pytest.raises(ValueError, match="at least one number"):
            decode_frames(video, [])
        with pytest.raises(ValueError, match="`num_segments`=0 must be at least 1"):
            read_segments(video, num_segments=0)
        with pytest.raises(ValueError, match="`backend`='opencv' must be one of pyav, decord, torchcodec"):
            read_clip(video, backend="opencv")
        with pytest.raises(TypeError, match="`source` is a int"):
            read_clip(3)
        with pytest.raises(DecodingError, match="there is no such file"):
            read_clip(tmp_path / "gone.mp4")


# The files of the shared folder: frames that decode, width, height; or the error.
WILD = {
    "R6llTwEh07w.mp4": (303, 340, 256),
    "SOX5yA1l24A.mp4": (332, 340, 256),
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi": (72, 560, 240),
    "TrumanShow_wave_f_nm_np1_fr_med_26.avi": (48, 432, 240),
    "v_SoccerJuggling_g23_c01.avi": (240, 320, 240),
    "bear-vp9-odd-dimensions.webm": (30, 161, 121),
    "sample_av1.mp4": (30, 1080, 720),
    "sample_fragmented.mp4": (30, 1080, 720),
    "sample.mkv": (30, 1080, 720),
    "sample_h263.ts": (25, 640, 360),
    "no_duration.webm": (74, 1280, 720),
    "pigs_in_a_polka.gif": (30, 314, 273),
    "unordered.mov": (4, 50, 50),
    "video_90.mov": (3, 320, 568),  # stored 568 x 320, shown upright
    "bitmap.mp4": (5, 1, 1),
    "video_with_failing_audio.mp4": (280, 640, 360),
    "corrupted.mp4": (28, 1280, 720),
    "invalid-bitstream.webm": CorruptVideoError,
    "truncated.mp4": CorruptVideoError,
    "noise.mp4": CorruptVideoError,
    "empty.mp4": CorruptVideoError,
    "sample.audio.mp4": NoVideoStreamError,
}
READABLE = [name for name, expected in WILD.items() if isinstance(expected, tuple)]
# decord: files that it does not read, and files that its older FFmpeg converts or counts differently.
NOT_FOR_DECORD = {"sample_av1.mp4", "no_duration.webm", "pigs_in_a_polka.gif", "bitmap.mp4"}
CLOSE_FOR_DECORD = {"bear-vp9-odd-dimensions.webm": 18, "v_SoccerJuggling_g23_c01.avi": 2}
NO_TIMES = {"RATRACE_wave_f_nm_np1_fr_goo_37.avi", "TrumanShow_wave_f_nm_np1_fr_med_26.avi"}
NOT_FOR_OTHERS = {*NO_TIMES, "sample_h263.ts"}


def _available(backend: str, video: Path) -> None:
    try:
        probe_video(video, backend=backend)
    except ImportError as error:
        pytest.skip(f"{backend} is not usable here: {str(error).splitlines()[0]}")


class TestWildFiles:
    def test_table_is_complete(self, shared):
        assert {path.name for path in (shared / "data/decoder").iterdir()} == set(WILD)

    @pytest.mark.parametrize("name", WILD)
    def test_gives_its_frames_or_a_named_error(self, shared, name):
        path, expected = shared / "data/decoder" / name, WILD[name]
        if isinstance(expected, type):
            for call in (
                lambda: read_clip(path),
                lambda: probe_video(path),
                lambda: read_clip(path.read_bytes()),
            ):
                with pytest.raises(expected):
                    call()
            return
        count, width, height = expected
        info = probe_video(path)
        assert (info.width, info.height) == (width, height)
        assert decode_frames(path, [count - 1, 0]).shape == (2, 3, height, width)
        if name == "corrupted.mp4":
            with pytest.raises(CorruptVideoError, match="damaged|does not decode"):
                decode_frames(path, [40])
            with pytest.raises(CorruptVideoError):
                read_clip(path, sampling=ClipSampling(frame_step=3))
            return
        assert 0 <= info.num_frames - count <= 1
        with pytest.raises(TooShortVideoError, match=f"beyond its {count} frames") as raised:
            decode_frames(path, [0, count])
        assert raised.value.num_frames == count
        if count < 16:
            with pytest.raises(TooShortVideoError, match="of a clip"):
                read_clip(path)
        else:
            assert read_clip(path).shape == (16, 3, height, width)

    @pytest.mark.parametrize(
        "name", ["R6llTwEh07w.mp4", "unordered.mov", "sample.mkv", "sample_h263.ts", *sorted(NO_TIMES)]
    )
    def test_partial_decoding_is_bit_equal_to_full_decoding(self, shared, name):
        path = shared / "data/decoder" / name
        reference = _decode_all(path)
        assert len(reference) == WILD[name][0]
        generator = torch.Generator().manual_seed(0)
        start = int(torch.randint(len(reference) // 2, (), generator=generator))
        for step in (2, 4, 5):
            wanted = list(range(start, len(reference), step))[:16]
            assert torch.equal(decode_frames(path, wanted), reference[wanted]), (start, step)

    def test_last_segment_survives_a_header_that_promises_too_much(self, shared):
        path = shared / "data/decoder/RATRACE_wave_f_nm_np1_fr_goo_37.avi"
        reference = _decode_all(path)
        segments = read_segments(path, num_segments=2)
        assert torch.equal(segments[0], reference[0:61:4])
        assert torch.equal(segments[1], reference[11:72:4])

    def test_clip_before_the_damage_is_read(self, shared):
        path = shared / "data/decoder/corrupted.mp4"
        assert torch.equal(decode_frames(path, list(range(0, 28, 3))), _decode_all(path)[0:28:3])

    def test_concealed_damage_is_refused(self, shared):
        path = shared / "data/decoder/R6llTwEh07w.mp4"
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 200] = bytes(byte ^ 0x55 for byte in data[middle : middle + 200])
        assert torch.equal(decode_frames(bytes(data), [0, 30, 60]), decode_frames(path, [0, 30, 60]))
        with pytest.raises(CorruptVideoError, match="damaged"):
            read_segments(bytes(data), num_segments=5)

    def test_frame_rates(self, shared):
        folder = shared / "data/decoder"
        assert probe_video(folder / "sample.mkv").fps == pytest.approx(29.97, abs=0.05)  # its header claims 1000
        assert probe_video(folder / "sample_h263.ts").fps == pytest.approx(25)
        assert probe_video(folder / "SOX5yA1l24A.mp4").fps == pytest.approx(30000 / 1001)

    @staticmethod
    def read_by(backend, path, wanted):
        # decord reads ahead in its own threads, and in about one read of five reaches the damage first.
        for _ in range(20 if (path.name, backend) == ("corrupted.mp4", "decord") else 0):
            with suppress(CorruptVideoError):
                return decode_frames(path, wanted, backend=backend)
        return decode_frames(path, wanted, backend=backend)

    @pytest.mark.parametrize("backend", ["decord", "torchcodec"])
    @pytest.mark.parametrize("name", READABLE)
    def test_backends_agree(self, shared, video, backend, name):
        _available(backend, video)
        path = shared / "data/decoder" / name
        if backend == "decord" and name in NOT_FOR_DECORD:
            with pytest.raises(DecodingError, match="decord"):
                decode_frames(path, [0], backend=backend)
            return
        if name in NOT_FOR_OTHERS:
            with pytest.raises(DecodingError, match=f"{backend} would return wrong frames.*backend='pyav'"):
                decode_frames(path, [0], backend=backend)
            return
        wanted = sorted({0, 1, WILD[name][0] // 2, WILD[name][0] - 1})
        ours = decode_frames(path, wanted)
        theirs = self.read_by(backend, path, wanted)
        allowed = CLOSE_FOR_DECORD.get(name, 0) if backend == "decord" else 0
        assert (ours.int() - theirs.int()).abs().max() <= allowed

    @pytest.mark.parametrize("backend", ["decord", "torchcodec"])
    @pytest.mark.parametrize("name", [name for name in WILD if name not in READABLE])
    def test_backends_raise_the_same_errors(self, shared, video, backend, name):
        _available(backend, video)
        with pytest.raises(WILD[name]):
            read_clip(shared / "data/decoder" / name, backend=backend)


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
class TestOptionalBackends:
    def test_same_clips_from_every_kind_of_source(self, video, backend):
        _available(backend, video)
        expected = read_clip(video)
        for source in (video, video.read_bytes(), io.BytesIO(video.read_bytes())):
            assert torch.equal(read_clip(source, backend=backend), expected)
        sampling = ClipSampling(num_frames=5, target_fps=7)
        expected = read_clip(video, sampling=sampling)
        assert torch.equal(read_clip(video, sampling=sampling, backend=backend), expected)
        assert probe_video(video, backend=backend) == probe_video(video)

    def test_end_of_the_video(self, video, backend):
        _available(backend, video)
        with pytest.raises(TooShortVideoError, match="frame 100 is beyond its 100 frames"):
            decode_frames(video, [100], backend=backend)

    def test_missing_backend_names_the_extra(self, video, backend, monkeypatch):
        for module in ("decord", "torchcodec", "torchcodec.decoders"):
            monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ImportError, match=re.escape(f"pip install transformers_vjepa[{backend}]")):
            read_clip(video, backend=backend)


def test_damaged_and_hidden_images_of_a_folder(tmp_path):
    for n in range(3):
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / f"{n}.png")
    (tmp_path / "._0.png").write_bytes(b"not an image")
    assert decode_frames(tmp_path, [0, 2])[:, 0, 0, 0].tolist() == [0, 2]
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.png")
    data = bytearray((tmp_path / "1.png").read_bytes())
    start = data.index(b"IDAT") - 4
    data[start : start + 4] = (20).to_bytes(4, "big")  # the following bytes then look like the next chunk
    (tmp_path / "1.png").write_bytes(data)
    with pytest.raises(CorruptVideoError, match="1.png is not a complete image"):
        decode_frames(tmp_path, [1])


def test_a_colon_in_a_relative_path_is_not_a_protocol(video, tmp_path, monkeypatch):
    (tmp_path / "12:30.mp4").write_bytes(video.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert numbers_in(decode_frames("12:30.mp4", [7])) == [7]


def test_cached_videos_give_the_same_frames(video, tmp_path):
    """Random clips of two files, with room for one of them, read twice."""
    files = [tmp_path / "kept.mp4", tmp_path / "without_room.mp4"]
    for file in files:
        file.write_bytes(video.read_bytes())
    cache = VideoCache(FRAMES * 3 * 48 * 64)
    settings = {"num_segments": 2, "sampling": ClipSampling(num_frames=3, frame_step=2)}
    for seed in range(2):
        for file in files:
            plain = read_segments(file, generator=torch.Generator().manual_seed(seed), **settings)
            cached = read_segments(file, generator=torch.Generator().manual_seed(seed), cache=cache, **settings)
            assert torch.equal(plain, cached)
    for file in files:
        file.unlink()
    assert numbers_in(read_segments(files[0], cache=cache, **settings))[0] == 0
    with pytest.raises(DecodingError, match="no such file"):
        read_segments(files[1], cache=cache, **settings)


def test_damaged_videos_are_not_cached(damaged, tmp_path, decoded):
    """Their good frames are read as without a cache, and only the first reading tries to decode the whole video."""
    file = tmp_path / "damaged.mp4"
    file.write_bytes(damaged)
    cache, counts = VideoCache(10**9), []
    for _ in range(2):
        decoded.clear()
        frames = read_segments(file, num_segments=1, sampling=ClipSampling(num_frames=2, frame_step=1), cache=cache)
        assert numbers_in(frames) == [49, 50]
        counts.append(len(decoded))
    # First the 60 frames before the damage and the clip, then the clip alone, of the 20 frames after a keyframe.
    assert counts[0] >= 60 and counts[1] <= 20


def test_a_rotated_image_of_one_pixel(tmp_path):
    """After a rotation by 180 degrees, all strides are negative."""
    with av.open(str(tmp_path / "x.mov"), "w") as container:
        stream = container.add_stream("png", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 1, 1, "rgb24"
        image = np.full((1, 1, 3), 77, dtype=np.uint8)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray((tmp_path / "x.mov").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    for place in (0, 16):  # of the cosines
        data[matrix + place : matrix + place + 4] = (-(2**16)).to_bytes(4, "big", signed=True)
    with av.open(io.BytesIO(data)) as container:
        assert abs(next(container.decode(video=0)).rotation) == 180
    assert decode_frames(bytes(data), [0, 1]).flatten().tolist() == [77] * 6
