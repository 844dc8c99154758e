"""decord and torchcodec: the frames that PyAV reads, or a refusal that names the reason."""

import io

import av
import pytest
from videos import numbers_in, write_numbered

from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling, DecodingError
from transformers_vjepa.models.vjepa.decoding import decode_frames, probe_video, read_clip

FRAMES = 60
OPEN = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3:open-gop=1", "qp": "4"}
CLOSED = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3", "qp": "4"}
# Container, codec and its options; why decord and torchcodec refuse the file (None: they read it).
NO_INDEX, NO_TIMES = "has no index of its frames", "does not store when its frames are displayed"
NEXT_GROUP = "depend on frames after the next keyframe"
FILES = {
    "h264.mp4": ("mp4", "libx264", CLOSED, None, None),
    "h264.mkv": ("matroska", "libx264", CLOSED, None, None),
    "h264_open.mp4": ("mp4", "libx264", OPEN, NEXT_GROUP, None),
    "h264_open.mkv": ("matroska", "libx264", OPEN, NEXT_GROUP, None),
    "h264.ts": ("mpegts", "libx264", CLOSED, NO_INDEX, NO_INDEX),
    "h264_b.avi": ("avi", "libx264", CLOSED, NO_TIMES, NO_TIMES),
    "h264_refresh.mp4": (
        "mp4",
        "libx264",
        {"x264-params": "keyint=12:scenecut=0:intra-refresh=1:bframes=0", "qp": "4"},
        "keyframes depend on other frames",
        "keyframes depend on other frames",
    ),
    "mpeg4_b.mp4": ("mp4", "mpeg4", {"bf": "2", "g": "12", "qmax": "2"}, NEXT_GROUP, None),
    "mpeg4_b.avi": ("avi", "mpeg4", {"bf": "2", "g": "12", "qmax": "2"}, NEXT_GROUP, NO_TIMES),
    "mpeg4.avi": ("avi", "mpeg4", {"bf": "0", "g": "12", "qmax": "2"}, None, None),
    "mpeg2_b.mpg": ("mpeg", "mpeg2video", {"bf": "2", "g": "12", "qmax": "2"}, NEXT_GROUP, NO_INDEX),
    "h264.flv": ("flv", "libx264", CLOSED, None, None),
}


@pytest.fixture(params=["decord", "torchcodec"])
def backend(request) -> str:
    file = io.BytesIO()
    write_numbered(file, num_frames=2, format="mp4")
    try:
        probe_video(file.getvalue(), backend=request.param)
    except ImportError as error:
        pytest.skip(f"{request.param} is not usable here: {str(error).splitlines()[0]}")
    return request.param


def written(name: str) -> bytes:
    file = io.BytesIO()
    container, codec, options, *_ = FILES[name]
    write_numbered(file, num_frames=FRAMES, codec=codec, format=container, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_the_right_frames_or_a_refusal(name, backend):
    data, reason = written(name), FILES[name][3 if backend == "decord" else 4]
    for wanted in ([0, 13, 25, 59], [11, 12], [50], [22, 24]):
        assert numbers_in(decode_frames(data, wanted)) == wanted
        if reason is None:
            assert numbers_in(decode_frames(data, wanted, backend=backend)) == wanted
        elif "keyframes" not in reason or wanted[-1] > 12:
            with pytest.raises(DecodingError, match=f"{backend} would return wrong.*{reason}.*backend='pyav'"):
                decode_frames(data, wanted, backend=backend)


def test_number_rate_and_times_are_those_of_pyav(backend):
    data = written("h264.mkv")
    assert probe_video(data, backend=backend) == probe_video(data)
    sampling = ClipSampling(num_frames=8, target_fps=7)
    assert numbers_in(read_clip(data, sampling=sampling, backend=backend)) == numbers_in(
        read_clip(data, sampling=sampling)
    )


def test_lost_packets_and_edit_lists(backend, tmp_path):
    data = written("h264.ts")
    with pytest.raises(DecodingError, match="packets of the file are damaged|depend on|no index"):
        decode_frames(data[: 188 * 40] + data[188 * 41 :], [5], backend=backend)
    path = tmp_path / "cut.mp4"
    with av.open(io.BytesIO(written("h264.mp4"))) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:  # starts 5 frames before 0: an edit list leaves these out
                shift = 5 * int(1 / (25 * packet.time_base))
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    info = probe_video(path)
    first = numbers_in(decode_frames(path, [0]))[0]
    assert info.num_frames == FRAMES - first
    if first and backend == "decord":
        with pytest.raises(DecodingError, match="not displayed .an edit list."):
            decode_frames(path, [0], backend=backend)
    else:
        assert numbers_in(decode_frames(path, [0, 30], backend=backend)) == [first, first + 30]


def test_two_videos_in_one_file(backend, tmp_path):
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as target:
        sources = [av.open(io.BytesIO(written(name))) for name in ("h264.mp4", "mpeg4_b.mp4")]
        copies = [target.add_stream_from_template(source.streams.video[0]) for source in sources]
        for source, copy in zip(sources, copies, strict=True):
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
            source.close()
    if backend == "decord":
        with pytest.raises(DecodingError, match="2 video streams, and decord cannot be told which to read"):
            decode_frames(path, [7], backend=backend)
    else:
        assert numbers_in(decode_frames(path, [7, 40], backend=backend)) == [7, 40]
        assert (decode_frames(path, [7], backend=backend) == decode_frames(path, [7])).all()


def test_file_objects_can_be_read_again(backend):
    file = io.BytesIO(written("h264.mp4"))
    file.read(7)
    for _ in range(2):
        assert numbers_in(decode_frames(file, [3, 40], backend=backend)) == [3, 40]
