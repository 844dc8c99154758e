"""The video processor: inputs, sampling, steps and settings."""

import functools
import http.server
import json
import logging
import threading
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import torch
from pixels import generator, grey_levels, published_transforms, random_clip
from reference import TINY
from transformers import AutoVideoProcessor
from transformers.video_utils import VideoMetadata, load_video

from transformers_vjepa.models.vjepa import media_files
from transformers_vjepa.models.vjepa.clip_sampling import (
    ClipSampling,
    CorruptVideoError,
    DecodingError,
    TooShortVideoError,
)
from transformers_vjepa.models.vjepa.clip_transforms import (
    augment_clip,
    center_crop,
    crop_and_resize,
    normalize_clips,
    resize_and_center_crop,
    resize_and_crop_views,
    resize_short_side,
)
from transformers_vjepa.models.vjepa.configuration_vjepa import VJEPAConfig
from transformers_vjepa.models.vjepa.decoding import read_segments
from transformers_vjepa.models.vjepa.video_processing_vjepa import VJEPAVideoProcessor


@pytest.fixture
def processor() -> VJEPAVideoProcessor:
    return VJEPAVideoProcessor(crop_size=32)


# --- against the published code


def test_eval_crops_match_published(shared, processor):
    reference = published_transforms(shared)
    center = processor(reference["frames"], return_tensors="pt")["pixel_values_videos"]
    assert (grey_levels(center[0]) - grey_levels(reference["eval.center"])).abs().max() < 1.01
    views = processor(reference["frames"], num_views=3, return_tensors="pt")["pixel_values_videos"]
    assert views.shape == (1, 3, 1, 8, 3, 32, 32)
    for i, view in enumerate(views[0, :, 0]):
        assert (grey_levels(view) - grey_levels(reference[f"eval.view{i}"])).abs().max() < 1.01


# --- the processor: inputs


def input_kinds(clip: np.ndarray) -> dict[str, object]:
    """Every form of one clip, given as (frames, height, width, channels)."""
    first = np.ascontiguousarray(clip.transpose(0, 3, 1, 2))
    images = [PIL.Image.fromarray(frame) for frame in clip]
    read_only = clip.copy()
    read_only.flags.writeable = False
    return {
        "numpy channels last": clip,
        "numpy channels first": first,
        "numpy batch": clip[None],
        "numpy mirrored memory": np.ascontiguousarray(clip[:, ::-1])[:, ::-1],
        "numpy read-only": read_only,
        "torch channels last": torch.from_numpy(clip),
        "torch channels first": torch.from_numpy(first),
        "torch batch": torch.from_numpy(first)[None],
        "list of arrays": list(clip),
        "list of tensors": list(torch.from_numpy(first)),
        "list of clips": [clip],
        "tuple of clips": (torch.from_numpy(first),),
        "list of images": images,
        "list of lists of images": [images],
    }


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return random_clip(4, 45, 60, 3).numpy()


def test_all_inputs_give_the_same_values(clip, processor):
    expected = normalize_clips(resize_and_center_crop(torch.from_numpy(clip).permute(0, 3, 1, 2), size=32))
    for name, videos in input_kinds(clip).items():
        values = processor(videos, return_tensors="pt")["pixel_values_videos"]
        assert values.shape == (1, 4, 3, 32, 32) and values.dtype == torch.float32, name
        # Planar and interleaved channels take different fixed-point paths, with equal results here.
        torch.testing.assert_close(values[0], expected, atol=1e-6, rtol=0, msg=name)


def test_floats_give_the_same_values_within_a_grey_level(clip, processor):
    expected = grey_levels(processor(clip, return_tensors="pt")["pixel_values_videos"])
    for dtype in (np.float16, np.float32, np.float64):
        values = processor((clip / 255).astype(dtype), return_tensors="pt")["pixel_values_videos"]
        assert values.dtype == torch.float32
        assert (grey_levels(values) - expected).abs().max() < 1.2


def test_batches_of_different_sizes(processor):
    videos = [random_clip(4, 3, 45, 60), random_clip(4, 3, 70, 40, seed=1).permute(0, 2, 3, 1).numpy()]
    batch = processor(videos, return_tensors="pt")["pixel_values_videos"]
    assert batch.shape == (2, 4, 3, 32, 32)
    for row, video in zip(batch, videos, strict=True):
        assert torch.equal(row, processor(video, return_tensors="pt")["pixel_values_videos"][0])
    listed = processor(videos)["pixel_values_videos"]
    assert isinstance(listed, list) and torch.equal(listed[1], batch[1])
    assert processor(videos, return_tensors="np")["pixel_values_videos"].dtype == np.float32


def test_images_are_clips_of_one_frame(clip, processor):
    image = PIL.Image.fromarray(clip[0])
    expected = processor(clip[:1], return_tensors="pt")["pixel_values_videos"]
    for videos in (image, clip[0], [image], [[image]]):
        assert torch.equal(processor(videos, return_tensors="pt")["pixel_values_videos"], expected)
    batch = processor([[image], [image]], return_tensors="pt")["pixel_values_videos"]
    assert batch.shape == (2, 1, 3, 32, 32)


def test_grey_and_transparent_become_rgb(clip, processor):
    grey = clip[..., :1]
    expected = processor(grey.repeat(3, axis=-1), return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(processor(grey, return_tensors="pt")["pixel_values_videos"], expected)
    images = [PIL.Image.fromarray(frame[..., 0]) for frame in clip]
    assert torch.equal(processor(images, return_tensors="pt")["pixel_values_videos"], expected)
    # Half transparent black over white: 255 x (1 - 51 / 255) = 204.
    veil = np.zeros((2, 40, 40, 4), dtype=np.uint8)
    veil[..., 3] = 51
    values = processor(veil, do_normalize=False, return_tensors="pt")["pixel_values_videos"]
    torch.testing.assert_close(values, torch.full((1, 2, 3, 32, 32), 204 / 255))


def test_ambiguous_channels_follow_the_given_format(processor):
    ambiguous = random_clip(2, 3, 40, 3)
    first = processor(ambiguous, input_data_format="channels_first", return_tensors="pt")
    last = processor(ambiguous.permute(0, 2, 3, 1), input_data_format="channels_last", return_tensors="pt")
    assert torch.equal(first["pixel_values_videos"], last["pixel_values_videos"])


@pytest.mark.parametrize(
    ("videos", "match"),
    [
        (torch.zeros(8, 8), r"shape \(8, 8\) has rank 2"),
        (np.zeros((1, 1, 2, 3, 8, 8)), "has rank 6"),
        ([np.zeros((8, 8))], "has rank 2"),
        ([], "an empty list is not a video"),
        (3, "a int is not a video"),
        ([Path("gone.mp4")], "gone.mp4: there is no such file"),
        (torch.zeros(2, 5, 8, 8), r"shape \(2, 5, 8, 8\) is not RGB: pass"),
        (torch.zeros(0, 3, 8, 8), "at least one frame"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), r"a clip of torch.int64: pass uint8"),
        (torch.full((2, 3, 8, 8), 2.0), r"from 2 to 2: floats must lie in \[0, 1\]"),
        (torch.full((2, 3, 8, 8), -0.5), r"from -0.5 to -0.5"),
        (torch.full((2, 3, 8, 8), float("nan")), "from nan to nan"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], r"different shapes .*\[\[image\], \[image\]\]"),
        (torch.zeros(2, 3, 40, 3), "pass `input_data_format="),
    ],
)
def test_input_errors(processor, videos, match):
    with pytest.raises(ValueError, match=match):
        processor(videos, return_tensors="pt")


def test_grey_is_refused_without_conversion(processor):
    with pytest.raises(ValueError, match="is not RGB.*`do_convert_rgb=True` converts"):
        processor(random_clip(2, 1, 8, 8), do_convert_rgb=False)


def test_unequal_clips_do_not_make_a_batch(processor):
    videos = [random_clip(4, 3, 40, 40), random_clip(5, 3, 40, 40)]
    with pytest.raises(ValueError, match=r"\(4, 3, 32, 32\), \(5, 3, 32, 32\)\] do not make a batch"):
        processor(videos, return_tensors="pt")
    assert [len(clip) for clip in processor(videos)["pixel_values_videos"]] == [4, 5]


def test_reads_files(shared, processor):
    path = str(shared / "data" / "decoder" / "unordered.mov")
    whole = processor(path, return_tensors="pt")["pixel_values_videos"]
    assert whole.shape == (1, 4, 3, 32, 32)
    sampled = {"num_frames": 2, "frame_step": 2, "do_sample_frames": True}
    two = processor([path, path], **sampled, return_tensors="pt")["pixel_values_videos"]
    # Starts 0 and 1 leave room for frames 0 and 2, or 1 and 3: the middle one is the second.
    assert torch.equal(two, whole[:, 1::2].expand(2, -1, -1, -1, -1))


# --- the processor: sampling


LEVELS = 2 * 255 / 219  # between frames: two steps of the luma that a file stores


@pytest.fixture(scope="module")
def steps() -> torch.Tensor:
    """Frame `i` of 100 is grey of level `LEVELS * i`."""
    return (LEVELS * torch.arange(100)).round().to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 36, 48)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """The same frames, as exact as the codec stores them."""
    return write_steps(tmp_path_factory.mktemp("video") / "steps.mp4", num_frames=100)


def write_steps(path: Path, *, num_frames: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 36, 48, "yuv420p"
        for i in range(num_frames):
            image = np.full((36, 48, 3), round(LEVELS * i), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def frame_numbers(pixel_values: torch.Tensor) -> list[int]:
    levels = grey_levels(pixel_values).mean((-3, -2, -1)).flatten()
    return (levels / LEVELS).round().int().tolist()


def sampled_numbers(processor: VJEPAVideoProcessor, videos: object, **arguments) -> list[int]:
    values = processor(videos, do_sample_frames=True, return_tensors="pt", **arguments)["pixel_values_videos"]
    assert values.shape[-4:] == (arguments.get("num_frames", 16), 3, 32, 32)
    return frame_numbers(values)


def test_samples_the_middle_clip_at_a_true_stride(processor, file, steps):
    # 16 frames at step 4 span 61, which leaves 40 starts; the middle one is 20.
    expected = list(range(20, 81, 4))
    data = file.read_bytes()
    for videos in (str(file), file, data, [data], [str(file)], steps, steps.numpy(), steps[None]):
        assert sampled_numbers(processor, videos) == expected
    # 4 frames at step 1 span 4: 97 starts.
    for videos in (str(file), data, steps):
        assert sampled_numbers(processor, videos, num_frames=4, frame_step=1) == [48, 49, 50, 51]
    stored = VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1, do_sample_frames=True)
    assert frame_numbers(stored(data, return_tensors="pt")["pixel_values_videos"]) == [48, 49, 50, 51]


def test_samples_at_a_rate(processor, file, steps):
    # 5 of 25 frames per second is every fifth: 4 span 16, which leaves 85 starts.
    assert sampled_numbers(processor, str(file), num_frames=4, fps=5) == [42, 47, 52, 57]
    # A spacing in the call replaces any spacing of the settings.
    stored = VJEPAVideoProcessor(crop_size=32, num_frames=4, fps=5)
    assert stored.clip_sampling() == ClipSampling(num_frames=4, target_fps=5)
    assert stored.clip_sampling(frame_step=3, num_frames=None) == ClipSampling(num_frames=4, frame_step=3)
    assert processor.clip_sampling(duration=2.0).frame_step is None
    with pytest.raises(DecodingError, match="<array>: the frame rate is unknown.*`video_metadata`.*`frame_step`"):
        processor(steps, do_sample_frames=True, fps=5)
    with pytest.raises(DecodingError, match="<array>: the frame rate is unknown"):
        processor(steps, do_sample_frames=True, fps=5, video_metadata=[{"total_num_frames": 100}])


@pytest.mark.parametrize("fps", [25, 10, 7.5, 3])
def test_frames_of_a_known_rate_are_sampled_as_their_file(processor, file, steps, fps):
    rate = {"total_num_frames": 100, "fps": 25.0}
    asked = {"num_frames": 4, "fps": fps}
    expected = sampled_numbers(processor, str(file), **asked)
    for videos, metadata in (
        (steps, rate),
        (steps, [rate]),
        (steps, [[rate]]),
        (steps.numpy(), VideoMetadata(**rate)),
        ([steps], [VideoMetadata(**rate)]),
    ):
        assert sampled_numbers(processor, videos, **asked, video_metadata=metadata) == expected
    segments = {**asked, "num_segments": 3}
    expected = sampled_numbers(processor, str(file), **segments)
    assert sampled_numbers(processor, steps, **segments, video_metadata=[rate]) == expected
    # The same rule as a function for transformers.
    noted = VideoMetadata(**rate)
    assert processor.sample_frames(noted, **segments).tolist() == expected
    frames, metadata = load_video(str(file), sample_indices_fn=functools.partial(processor.sample_frames, **segments))
    assert len(frames) == 12 and metadata.frames_indices.tolist() == expected


def test_frames_of_a_known_rate_are_not_taken_for_a_clip(processor, steps):
    """An array with as many frames as a clip was sampled before, unless its rate says how to sample it."""
    asked = {"num_frames": 4, "fps": 5}
    assert sampled_numbers(processor, steps[:4], **asked) == [0, 1, 2, 3]
    rate = {"total_num_frames": 4, "fps": 10}
    assert sampled_numbers(processor, steps[:4], **asked, video_metadata=[rate]) == [0, 2, 3, 3]


def test_returns_metadata(processor, file, steps):
    def metadata(videos, **arguments):
        return processor(videos, return_metadata=True, **arguments)["video_metadata"]

    (whole,) = metadata(str(file))
    assert (whole.total_num_frames, whole.fps, whole.duration) == (100, 25.0, 4.0)
    assert (whole.height, whole.width, whole.frames_indices) == (36, 48, list(range(100)))
    asked = {"do_sample_frames": True, "num_frames": 4, "fps": 5}
    rate = {"total_num_frames": 100, "fps": 25.0}
    of_file, of_array = metadata([file.read_bytes(), steps], **asked, video_metadata=[rate, rate])
    assert (of_file.total_num_frames, of_file.fps, of_file.height) == (100, 25.0, 36)
    assert (of_array.fps, of_array.frames_indices, of_array.timestamps[0]) == (25.0, [42, 47, 52, 57], 42 / 25)
    (unknown,) = metadata(steps, do_sample_frames=True)
    assert (unknown.fps, unknown.height, unknown.frames_indices[:2]) == (None, 36, [20, 24])
    assert "video_metadata" not in processor(steps)


@pytest.mark.parametrize("name", ["video_90.mov", "sample_h263.ts", "unordered.mov"])
def test_whole_files_have_the_pixels_of_their_clips(shared, processor, name):
    """One decoder for both ways: with the rotation of the file, whatever its header says about its length."""
    path = shared / "data" / "decoder" / name
    whole = processor(str(path), return_tensors="pt")["pixel_values_videos"]
    sampling = {"do_sample_frames": True, "num_frames": 2, "frame_step": whole.shape[1] - 1}
    ends = processor(str(path), **sampling, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(whole[:, [0, -1]], ends)
    for videos in (path, [path.read_bytes()]):
        assert torch.equal(processor(videos, return_tensors="pt")["pixel_values_videos"], whole)


def test_frames_as_files_are_read_as_in_transformers(processor, tmp_path):
    """A list of videos of frames: three levels of lists."""
    # Not PNG: transformers reads it with torchcodec, whose zlib may clash with that of another library of the process.
    frames = [tmp_path / f"{index}.webp" for index in range(3)]
    for index, path in enumerate(frames):
        PIL.Image.new("RGB", (48, 36), (index, 0, 0)).save(path, lossless=True)
    values = processor([[[str(path) for path in frames]]], do_normalize=False, return_tensors="pt")
    assert (values["pixel_values_videos"][0, :, 0, 0, 0] * 255).round().tolist() == [0, 1, 2]


def test_samples_every_video_of_a_batch(processor, file, steps):
    mixed = [str(file), steps[:61].permute(0, 2, 3, 1).numpy(), file.read_bytes()]
    # 61 frames have one start.
    expected = [*range(20, 81, 4), *range(0, 61, 4), *range(20, 81, 4)]
    assert sampled_numbers(processor, mixed) == expected
    assert sampled_numbers(processor, [[mixed[0]], mixed[1:]]) == expected
    # `input_data_format` describes arrays, not files. 4 frames at step 4 span 13: 88 starts.
    last = {"input_data_format": "channels_last", "num_frames": 4}
    assert sampled_numbers(processor, [str(file), steps.permute(0, 2, 3, 1)], **last) == [44, 48, 52, 56] * 2


def test_segments_from_the_first_to_the_last_frame(processor, file, steps):
    arguments = {"num_frames": 4, "frame_step": 5, "num_segments": 3}  # spans 16
    expected = [0, 5, 10, 15, 42, 47, 52, 57, 84, 89, 94, 99]
    for videos in (str(file), steps):
        assert sampled_numbers(processor, videos, **arguments) == expected
        values = processor(videos, do_sample_frames=True, return_tensors="pt", **arguments)["pixel_values_videos"]
        assert values.shape == (1, 1, 3, 4, 3, 32, 32)


def test_segments_and_views_are_two_axes(processor):
    video = random_clip(12, 3, 40, 60)
    batch = processor(
        [video, video.flip(0)],
        do_sample_frames=True,
        num_frames=2,
        frame_step=3,
        num_segments=2,
        num_views=3,
        return_tensors="pt",
    )["pixel_values_videos"]
    assert batch.shape == (2, 3, 2, 2, 3, 32, 32)
    segments = (video[[0, 3]], video[[8, 11]])
    for index, segment in enumerate(segments):
        assert torch.equal(batch[0, :, index], normalize_clips(resize_and_crop_views(segment, size=32)))
    assert torch.equal(batch[1, :, 0], batch[0, :, 1].flip(1))
    # One view and several segments: the centre crop.
    centre = processor(video, do_sample_frames=True, num_frames=2, frame_step=3, num_segments=2, return_tensors="pt")
    expected = torch.stack([normalize_clips(resize_and_center_crop(segment, size=32)) for segment in segments])
    assert torch.equal(centre["pixel_values_videos"][0, 0], expected)


def test_short_videos(processor, tmp_path, steps):
    path = write_steps(tmp_path / "short.mp4", num_frames=18)
    for videos in (str(path), steps[:18]):
        assert sampled_numbers(processor, videos) == [0, 4, 8, 12, 16] + [17] * 11
    # A video with the number of frames of a clip is the clip.
    assert sampled_numbers(processor, steps[:16]) == list(range(16))
    assert sampled_numbers(processor, steps[:16], num_segments=2) == [*range(16), *range(16)]
    path = write_steps(tmp_path / "still.mp4", num_frames=15)
    for videos, name in ((str(path), "still.mp4"), (steps[:15], "<array>")):
        with pytest.raises(
            TooShortVideoError, match=f"{name}: 15 frames are fewer than the 16 of a clip: take longer"
        ):
            processor(videos, do_sample_frames=True)


def test_samples_where_the_header_promises_too_much(shared, processor):
    path = shared / "data/decoder/RATRACE_wave_f_nm_np1_fr_goo_37.avi"
    clips = read_segments(path, num_segments=2)
    for videos in (str(path), path.read_bytes()):
        values = processor(videos, do_sample_frames=True, num_segments=2, return_tensors="pt")["pixel_values_videos"]
        for clip, segment in zip(values[0, 0], clips, strict=True):
            assert torch.equal(clip, normalize_clips(resize_and_center_crop(segment, size=32)))


def test_samples_a_url(processor, file, monkeypatch):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(file.parent))
    handler.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            assert sampled_numbers(processor, f"{address}/{file.name}") == list(range(20, 81, 4))
            assert len(processor(f"{address}/{file.name}")["pixel_values_videos"][0]) == 100
            with pytest.raises(FileNotFoundError, match="gone.mp4"):
                processor(f"{address}/gone.mp4", do_sample_frames=True)
            monkeypatch.setattr(media_files, "MAX_FILE_BYTES", file.stat().st_size - 1)
            with pytest.raises(CorruptVideoError, match="its address sends more than"):
                processor(f"{address}/{file.name}", do_sample_frames=True)
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("videos", "arguments", "error", "match"),
    [
        ("gone.mp4", {}, DecodingError, "gone.mp4: there is no such file"),
        (b"not a video", {}, CorruptVideoError, "<11 bytes>"),
        (3, {}, ValueError, "a int is not a video"),
        (torch.zeros(20, 5, 8, 8), {}, ValueError, "is not RGB"),
        (torch.zeros(20, 3, 8, 8), {"num_frames": 0}, ValueError, "`num_frames`=0 must be at least 1"),
        (torch.zeros(20, 3, 8, 8), {"num_segments": 0}, ValueError, "`num_segments`=0 must be at least 1"),
        (
            torch.zeros(20, 3, 8, 8),
            {"video_metadata": [{"fps": 25, "total_num_frames": 100}]},
            ValueError,
            "total_num_frames=100, and the array has 20 frames: pass the number and the rate",
        ),
        (
            torch.zeros(20, 3, 8, 8),
            {"video_metadata": [{"fps": 0, "total_num_frames": 20}]},
            ValueError,
            "says fps=0: pass a positive number",
        ),
        (
            torch.zeros(2, 20, 3, 8, 8),
            {"video_metadata": [{"total_num_frames": 20}]},
            ValueError,
            "Received 2 videos but 1",
        ),
        (
            torch.zeros(20, 3, 8, 8),
            {"training": True, "generator": generator(), "num_segments": 2},
            ValueError,
            "`num_segments`=2: choose one of them",
        ),
    ],
)
def test_sampling_errors(processor, videos, arguments, error, match):
    with pytest.raises(error, match=match):
        processor(videos, do_sample_frames=True, **arguments)


def test_inputs_that_need_sampling(processor, steps):
    with pytest.raises(ValueError, match="`num_segments`=8 takes several.*`do_sample_frames=True`.*`num_segments=1`"):
        processor(steps, num_segments=8)


# --- the processor: steps


def test_steps_can_be_left_out(clip, processor):
    raw = processor(clip, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values_videos"]
    assert raw.dtype == torch.uint8
    full = processor(clip, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(normalize_clips(raw), full)
    rescaled = processor(clip, do_normalize=False, return_tensors="pt")["pixel_values_videos"]
    torch.testing.assert_close(rescaled, raw.float() / 255)
    same_size = processor(clip, do_resize=False, do_center_crop=False, return_tensors="pt")
    assert same_size["pixel_values_videos"].shape == (1, 4, 3, 45, 60)
    torch.testing.assert_close(
        grey_levels(same_size["pixel_values_videos"][0]).round().permute(0, 2, 3, 1),
        torch.from_numpy(clip).float(),
    )
    as_given = processor(torch.full((1, 3, 8, 8), 300.0), do_rescale=False, do_normalize=False)
    assert torch.allclose(as_given["pixel_values_videos"][0], torch.tensor(300.0))


def test_views_have_an_axis_of_their_own(processor):
    wide, tall = random_clip(2, 3, 40, 60), random_clip(2, 3, 60, 40, seed=1)
    batch = processor([wide, tall], num_views=3, return_tensors="pt")["pixel_values_videos"]
    assert batch.shape == (2, 3, 1, 2, 3, 32, 32)
    assert torch.equal(batch[0, :, 0], normalize_clips(resize_and_crop_views(wide, size=32)))
    assert torch.equal(batch[1, :, 0], normalize_clips(resize_and_crop_views(tall, size=32)))
    listed = processor([wide, tall], num_views=3)["pixel_values_videos"]
    assert [clip.shape for clip in listed] == [(3, 1, 2, 3, 32, 32)] * 2
    stored = VJEPAVideoProcessor(crop_size=32, num_views=3)
    assert torch.equal(stored([wide, tall], return_tensors="pt")["pixel_values_videos"], batch)


def test_training_mode(processor):
    clips = [random_clip(2, 3, 40, 60), random_clip(2, 3, 40, 60)]
    batch = processor(clips, training=True, generator=generator(), return_tensors="pt")["pixel_values_videos"]
    draws = generator()
    expected = [normalize_clips(augment_clip(clip, size=32, generator=draws)) for clip in clips]
    assert torch.equal(batch, torch.stack(expected))
    assert not torch.equal(batch[0], batch[1])
    still = VJEPAVideoProcessor(
        crop_size=32, random_crop_scale=[1.0, 1.0], random_crop_ratio=[1.5, 1.5], flip_probability=0
    )
    values = still(clips[0], training=True, generator=generator(), return_tensors="pt")["pixel_values_videos"]
    whole = crop_and_resize(clips[0], box=(0, 0, 40, 60), size=32)
    assert torch.equal(values[0], normalize_clips(whole))


# --- the processor: settings


def test_size_follows_the_crop(processor):
    default = VJEPAVideoProcessor()
    assert default.size.shortest_edge == 256 and default.crop_size.height == 224
    for crop_size in (384, {"height": 384, "width": 384}, (384, 384)):
        assert VJEPAVideoProcessor(crop_size=crop_size).size.shortest_edge == 438
    assert VJEPAVideoProcessor(crop_size=384, size=400).size.shortest_edge == 400
    clip = random_clip(2, 3, 40, 60)
    values = processor(clip, crop_size=16, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(values[0], normalize_clips(resize_and_center_crop(clip, size=16)))
    values = processor(clip, crop_size=16, size=30, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(values[0], normalize_clips(center_crop(resize_short_side(clip, edge=30), size=16)))
    unset = processor(clip, crop_size=None, num_views=None, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(unset, processor(clip, return_tensors="pt")["pixel_values_videos"])


def test_save_and_load(tmp_path, clip):
    AutoVideoProcessor.register(VJEPAConfig, VJEPAVideoProcessor, exist_ok=True)
    saved = VJEPAVideoProcessor(
        crop_size=48,
        size=50,
        image_mean=[0.5, 0.4, 0.3],
        num_views=3,
        num_frames=8,
        frame_step=2,
        random_crop_scale=(0.5, 1.0),
    )
    saved.save_pretrained(tmp_path)
    for cls in (VJEPAVideoProcessor, AutoVideoProcessor):
        loaded = cls.from_pretrained(tmp_path)
        assert isinstance(loaded, VJEPAVideoProcessor)
        assert loaded.to_dict() == saved.to_dict()
        assert torch.equal(
            loaded(clip, return_tensors="pt")["pixel_values_videos"],
            saved(clip, return_tensors="pt")["pixel_values_videos"],
        )
        smaller = cls.from_pretrained(tmp_path, crop_size=28)
        assert (smaller.crop_size.height, smaller.size.shortest_edge) == (28, 32)
    stored = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert stored["size"] == {"shortest_edge": 50} and stored["crop_size"] == {"height": 48, "width": 48}
    assert "training" not in stored and "generator" not in stored


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"crop_size": {"height": 32, "width": 48}}, "must be a square"),
        ({"crop_size": 0}, "must be a square of at least 1 pixel"),
        ({"size": {"height": 40, "width": 40}}, r'must be \{"shortest_edge": pixels\}'),
        ({"crop_size": 32, "size": 30}, "smaller than the crop of 32 pixels: leave `size` out to get 36"),
        ({"resample": 3}, "V-JEPA uses bilinear resizing only"),
        ({"num_views": 0}, "`num_views`=0 must be at least 1"),
        ({"num_segments": 0}, "`num_segments`=0 must be at least 1"),
        ({"num_frames": 0}, "`num_frames`=0 must be at least 1"),
        ({"frame_step": 0}, "`frame_step`=0 must be at least 1"),
        ({"random_crop_scale": (0.3, 2.0)}, r"`random_crop_scale`=\(0.3, 2.0\) must be a pair"),
        ({"random_crop_ratio": (2.0, 1.0)}, r"`random_crop_ratio`=\(2.0, 1.0\) must be a pair"),
        ({"flip_probability": -0.1}, "`flip_probability`=-0.1 must lie in"),
        ({"training": True}, "`training` is not a setting of the processor"),
        ({"generator": generator()}, "`generator` is not a setting of the processor"),
    ],
)
def test_setting_errors(settings, match):
    with pytest.raises(ValueError, match=match):
        VJEPAVideoProcessor(**settings)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"training": True}, "`training=True` and `generator` need each other"),
        ({"generator": generator()}, "`training=True` and `generator` need each other"),
        ({"training": True, "generator": generator(), "num_views": 3}, "choose one of them"),
        ({"num_views": 3, "do_resize": False}, "leave `do_resize` and `do_center_crop` on"),
        ({"do_resize": False, "crop_size": 64}, "8 x 8 pixels are smaller than the crop of 64"),
    ],
)
def test_call_errors(processor, arguments, match):
    with pytest.raises(ValueError, match=match):
        processor(random_clip(2, 3, 8, 8), **arguments)


def test_a_misspelt_setting_is_refused_in_calls_and_kept_in_files(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers_vjepa"), "propagate", True)
    message = "`num_frame=8` is not a field of VJEPAVideoProcessor: did you mean `num_frames`"
    with pytest.raises(ValueError, match=message):
        VJEPAVideoProcessor(num_frame=8)
    processor = VJEPAVideoProcessor()
    processor.num_frame = 8
    processor.save_pretrained(tmp_path)
    assert "did you mean `num_frames`" in caplog.text
    caplog.clear()
    for cls in (VJEPAVideoProcessor, AutoVideoProcessor):
        assert cls.from_pretrained(tmp_path).num_frame == 8
        assert "`num_frame` is not a field of VJEPAVideoProcessor: it is stored but has no effect" in caplog.text
        caplog.clear()
        with pytest.raises(ValueError, match=message):
            cls.from_pretrained(tmp_path, num_frame=8)
    assert VJEPAVideoProcessor.from_json_file(tmp_path / "video_preprocessor_config.json").num_frame == 8


def test_settings_that_would_not_load_are_not_saved(tmp_path):
    processor = VJEPAVideoProcessor()
    processor.crop_size = 384
    with pytest.raises(ValueError, match="smaller than the crop of 384 pixels"):
        processor.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_arguments_are_refused(processor):
    with pytest.raises(TypeError, match="num_view"):
        processor(random_clip(2, 3, 8, 8), num_view=3)


def test_the_processor_of_a_model_gives_its_clips():
    processor = VJEPAVideoProcessor.for_config(VJEPAConfig(**TINY))
    assert processor.clip_sampling().num_frames == TINY["frames_per_clip"]
    assert processor.crop_size.height == TINY["crop_size"]
