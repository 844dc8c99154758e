"""
From videos to `pixel_values_videos`: [`VJEPAVideoProcessor`], for scripts, pipelines and the Hub.

`clip_transforms` crops and normalises frames, `clip_sampling` selects them, `decoding` reads them. The image processor
shares the settings and the steps of this processor ([`VJEPAProcessorMixin`]).
"""

import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers.image_processing_utils import BatchFeature, get_size_dict
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    is_pil_image,
)
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, convert_to_rgb, make_batched_metadata

from .clip_sampling import ClipSampling, DecodingError, TooShortVideoError, plan_clips, segment_places
from .clip_transforms import (
    CROP_RATIO,
    CROP_SCALE,
    augment_clip,
    center_crop,
    check_augmentation,
    evaluation_resize_edge,
    normalize,
    resize_and_crop_views,
    resize_short_side,
)
from .configuration_vjepa import FROM_FILE, VJEPAConfig, refuse_misspelling, warn_of_unknown
from .decoding import decode_frames, probe_video, read_clip, read_segments
from .media_files import read_address, rgb_pixels


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor))


def _channel_error(shape: Sequence[int]) -> ValueError:
    return ValueError(
        f"a clip of shape {tuple(shape)} is not RGB: pass (frames, 3, height, width) or (frames, height, width, 3); "
        "`do_convert_rgb=True` converts grey (1 channel) and transparent (4 channels) clips"
    )


def _stack_frames(frames: Sequence[Any]) -> np.ndarray | torch.Tensor:
    """One clip of these images. PIL images of every mode become RGB."""
    frames = [rgb_pixels(frame) if is_pil_image(frame) else frame for frame in frames]
    shapes = sorted({tuple(frame.shape) for frame in frames})
    if len(shapes) > 1:
        raise ValueError(
            f"frames of one clip have different shapes {shapes[:3]}: a list of images is one clip; pass a batch of "
            "images as one list per image, [[image], [image]]"
        )
    return torch.stack(frames) if isinstance(frames[0], torch.Tensor) else np.stack(frames)


_FILES = (str, bytes, os.PathLike)
# Names in the file of a processor that are not settings.
_WRITTEN_BY_TRANSFORMERS = {
    "feature_extractor_type",
    "image_processor_type",
    "model_input_names",
    "processor_class",
    "video_processor_type",
}


def _as_clips(videos: Any) -> Iterator[Any]:
    """Videos in any form that [`VJEPAVideoProcessor`] takes, as arrays of rank 4; files as they are."""
    if isinstance(videos, _FILES):
        yield videos
    elif is_pil_image(videos):
        yield _stack_frames([videos])
    elif _is_array(videos):
        if videos.ndim not in (3, 4, 5):
            raise ValueError(
                f"a video of shape {tuple(videos.shape)} has rank {videos.ndim}: pass an image (rank 3), "
                "a clip (frames, channels, height, width) (rank 4) or a batch of clips (rank 5)"
            )
        for clip in videos if videos.ndim == 5 else [videos[None] if videos.ndim == 3 else videos]:
            # Checked before the base class does, whose error does not name the shape.
            if not {1, 3, 4} & {clip.shape[1], clip.shape[3]}:
                raise _channel_error(clip.shape)
            yield clip
    elif isinstance(videos, (list, tuple)) and videos:
        if all(is_pil_image(item) or (_is_array(item) and item.ndim == 3) for item in videos):
            yield _stack_frames(videos)
        else:
            for item in videos:
                yield from _as_clips(item)
    else:
        given = "an empty list" if isinstance(videos, (list, tuple)) else f"a {type(videos).__name__}"
        raise ValueError(
            f"{given} is not a video: pass arrays, tensors, PIL images, lists of them, a path or the bytes of a file"
        )


def _are_frame_files(videos: Any) -> bool:
    """Whether these are lists of videos of frames, each the path of an image: transformers reads this form."""
    for _ in range(3):
        if not (isinstance(videos, (list, tuple)) and videos):
            return False
        videos = videos[0]
    return isinstance(videos, str)


def _fetch(source: str | bytes | os.PathLike) -> str | bytes | os.PathLike | io.BytesIO:
    """The content of a URL, with the URL as its name in errors; any other source unchanged."""
    if not (isinstance(source, str) and "://" in source):
        return source
    fetched = io.BytesIO(read_address(source, name=source))
    fetched.name = source
    return fetched


def _metadata_of(source: Any, frames_indices: list[int] | None) -> VideoMetadata:
    """Length, rate and size of a file, as transformers notes them."""
    info = probe_video(source)
    duration = None if info.fps is None else info.num_frames / info.fps
    return VideoMetadata(info.num_frames, info.fps, info.width, info.height, duration, "pyav", frames_indices)


def _read_frames(source: Any, sample_indices_fn: Callable | None) -> tuple[torch.Tensor, VideoMetadata]:
    """All frames of a file, or those that the function selects: uint8 (frames, 3, height, width)."""
    metadata = _metadata_of(source, None)
    while True:
        total = metadata.total_num_frames
        try:
            if sample_indices_fn is None:
                metadata.frames_indices = list(range(total))
                # One clip of all frames, so that the rules of clips for lost frames hold.
                return read_clip(source, sampling=ClipSampling(num_frames=total, frame_step=1)), metadata
            metadata.frames_indices = [int(index) for index in sample_indices_fn(metadata=metadata)]
            return decode_frames(source, metadata.frames_indices), metadata
        except TooShortVideoError as error:  # the header promises more frames than there are
            if error.num_frames >= total:
                raise
            metadata.total_num_frames = error.num_frames
            metadata.duration = error.num_frames / metadata.fps if metadata.fps else None


def _given_metadata(videos: list[Any], given: Any) -> list[VideoMetadata]:
    """The metadata of each video, from any form that transformers takes. That of files is not used."""
    if given is None:
        return [_metadata_of_array(video) if _is_array(video) else VideoMetadata(0) for video in videos]
    pairs = zip(make_batched_metadata(videos, given), videos, strict=True)
    return [_checked(metadata, video) if _is_array(video) else metadata for metadata, video in pairs]


def _metadata_of_array(video: np.ndarray | torch.Tensor) -> VideoMetadata:
    height, width = video.shape[2:] if video.shape[1] in (1, 3, 4) else video.shape[1:3]
    return VideoMetadata(len(video), height=height, width=width, frames_indices=list(range(len(video))))


def _checked(metadata: VideoMetadata, video: np.ndarray | torch.Tensor) -> VideoMetadata:
    """A copy of the metadata of an array, if it fits the array."""
    if metadata.total_num_frames != len(video):
        raise ValueError(
            f"`video_metadata` says total_num_frames={metadata.total_num_frames}, and the array has {len(video)} "
            "frames: pass the number and the rate of the frames in the array"
        )
    if metadata.fps is not None and not 0 < metadata.fps < math.inf:
        raise ValueError(f"`video_metadata` says fps={metadata.fps}: pass a positive number, or None if unknown")
    return VideoMetadata(**metadata)


def _as_tensor(video: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(video, torch.Tensor):
        return video
    # torch shares memory with an array only if the array is writable and all strides are positive.
    if not video.flags.writeable or any(stride < 0 for stride in video.strides):
        video = video.copy()
    return torch.from_numpy(video)


def _channels_first(video: torch.Tensor, input_data_format: str | ChannelDimension | None) -> torch.Tensor:
    """A clip with channels first or last as (frames, channels, height, width), without a copy."""
    if input_data_format is None:
        for channels in (3, 1, 4):
            first, last = video.shape[1] == channels, video.shape[3] == channels
            if first and last:
                raise ValueError(
                    f"two axes of shape {tuple(video.shape)} could be the channels: pass "
                    '`input_data_format="channels_first"` or `"channels_last"`'
                )
            if first or last:
                return video if first else video.permute(0, 3, 1, 2)
        return video
    return video.permute(0, 3, 1, 2) if input_data_format == ChannelDimension.LAST else video


def _crop_edge(crop_size: int | Sequence[int] | dict[str, int] | SizeDict) -> int:
    """Side of a square crop, from any form that processors take."""
    size = crop_size if isinstance(crop_size, SizeDict) else get_size_dict(crop_size, param_name="crop_size")
    height, width = size["height"], size["width"]
    if height != width or height is None or height < 1:
        raise ValueError(f"`crop_size`={crop_size} must be a square of at least 1 pixel: pass the side of the square")
    return height


def _with_resize_edge(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the `size` that belongs to a new `crop_size`, unless `size` is given too."""
    if kwargs.get("crop_size") is None or kwargs.get("size") is not None:
        return kwargs
    return {**kwargs, "size": {"shortest_edge": evaluation_resize_edge(_crop_edge(kwargs["crop_size"]))}}


class VJEPAProcessorMixin:
    """
    Settings and steps that the video and the image processor share; an image is a clip of one frame. List this class
    before the processor class of transformers.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 256}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def __init__(self, **kwargs: Any) -> None:
        if type(self)._auto_class is None:  # as in the configuration
            kwargs.pop("auto_map", None)
        is_file = kwargs.pop(FROM_FILE, False)
        for name in kwargs.keys() - self._known_names():
            if not is_file:
                refuse_misspelling(type(self).__name__, name, kwargs[name], known=self._known_names())
            warn_of_unknown(type(self).__name__, name, known=self._known_names())
        super().__init__(**_with_resize_edge(kwargs))

    @classmethod
    def _known_names(cls) -> set[str]:
        return cls.valid_kwargs.__annotations__.keys() | _WRITTEN_BY_TRANSFORMERS

    @classmethod
    def from_dict(cls, dictionary: dict[str, Any], **kwargs: Any) -> Any:
        """
        As in the base class, but `crop_size` in `kwargs` also replaces the stored `size`.

        Raises:
            ValueError: a misspelled setting in `kwargs`; those of `dictionary`, a file, are stored with a warning.
        """
        if not kwargs.get("return_unused_kwargs"):
            for name, value in kwargs.items():
                refuse_misspelling(cls.__name__, name, value, known=cls._known_names())
        return super().from_dict({**dictionary, FROM_FILE: True}, **_with_resize_edge(kwargs))

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> Any:
        """The processor of a JSON file; see `from_dict`."""
        with open(json_file, encoding="utf-8") as file:
            return cls.from_dict(json.load(file))

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """
        Writes the settings, as `save_pretrained` does.

        Raises:
            ValueError: settings that were changed to values with which the processor would not load.
        """
        type(self)(**{**self.to_dict(), FROM_FILE: True})
        super().to_json_file(json_file_path)

    @staticmethod
    def _given(kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call that are not None, with the `size` that follows from them."""
        # None stands for the setting of the processor; the base class would take None as the value.
        return _with_resize_edge({name: value for name, value in kwargs.items() if value is not None})

    def convert_to_rgb(self, frames: torch.Tensor) -> torch.Tensor:
        """
        Grey frames (frames, channels, height, width) with three equal channels, transparent uint8 frames over white.
        """
        rgb = convert_to_rgb(tvF.grayscale_to_rgb(frames), input_data_format=ChannelDimension.FIRST)
        # Blending returns floats on the scale of uint8.
        return rgb if rgb.dtype == frames.dtype else rgb.round().to(frames.dtype)

    def _prepare_input_videos(
        self,
        videos: list[np.ndarray | torch.Tensor],
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: str | torch.device | None = None,
    ) -> list[torch.Tensor]:
        """Arrays of rank 4 as RGB tensors (frames, 3, height, width), uint8 or float32, on the device."""
        prepared = []
        for array in videos:
            clip = _as_tensor(array)
            if clip.ndim != 4 or 0 in clip.shape:
                raise ValueError(
                    f"a clip of shape {tuple(clip.shape)}: pass rank 4, (frames, channels, height, width) or channels "
                    "last, with at least one frame and pixel"
                )
            clip = _channels_first(clip, input_data_format)
            if do_convert_rgb and clip.shape[1] in (1, 4):
                clip = self.convert_to_rgb(clip)
            if clip.shape[1] != 3:
                raise _channel_error(clip.shape)
            if clip.dtype != torch.uint8:
                if not clip.is_floating_point():
                    raise ValueError(f"a clip of {clip.dtype}: pass uint8 in [0, 255] or floats in [0, 1]")
                clip = clip.float()
            prepared.append(clip if device is None else clip.to(device))
        return prepared

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        crop_edge = _crop_edge(kwargs["crop_size"])
        size = dict(kwargs["size"])
        if set(size) != {"shortest_edge"} or size["shortest_edge"] < 1:
            raise ValueError(f'`size`={size} must be {{"shortest_edge": pixels}}, or the number of these pixels')
        if kwargs["do_resize"] and kwargs["do_center_crop"] and size["shortest_edge"] < crop_edge:
            raise ValueError(
                f"`size`={size} is smaller than the crop of {crop_edge} pixels: leave `size` out to get "
                f"{evaluation_resize_edge(crop_edge)}"
            )
        if kwargs["resample"] not in (PILImageResampling.BILINEAR, InterpolationMode.BILINEAR):
            raise ValueError(f"`resample`={kwargs['resample']!r}: V-JEPA uses bilinear resizing only, leave it out")
        return kwargs

    def _evaluation_crop(self, clip: torch.Tensor, *, settings: dict[str, Any]) -> torch.Tensor:
        """Resizes and crops (frames, channels, height, width) as the settings ask for it."""
        if settings["do_resize"]:
            clip = resize_short_side(clip, edge=settings["size"].shortest_edge)
        return center_crop(clip, size=settings["crop_size"].height) if settings["do_center_crop"] else clip

    def _values(self, clip: torch.Tensor, *, settings: dict[str, Any]) -> torch.Tensor:
        """Rescales and normalises as the settings ask for it; uint8 stays uint8 if both steps are off."""
        if not (settings["do_rescale"] or settings["do_normalize"]):
            return clip
        return normalize(
            clip,
            scale=settings["rescale_factor"] if settings["do_rescale"] and clip.dtype == torch.uint8 else 1.0,
            mean=settings["image_mean"] if settings["do_normalize"] else 0.0,
            std=settings["image_std"] if settings["do_normalize"] else 1.0,
            dtype=torch.float32,
        )

    def _check_floats(self, clip: torch.Tensor, *, settings: dict[str, Any]) -> None:
        if not (settings["do_rescale"] and clip.is_floating_point()):
            return
        low, high = (bound.item() for bound in torch.aminmax(clip))
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"a float clip with values from {low:g} to {high:g}: floats must lie in [0, 1]; pass "
                "uint8, divide by 255, or pass `do_rescale=False` to skip this check"
            )

    def _as_batch(
        self, name: str, values: list[torch.Tensor], return_tensors: str | None, *, remedy: str
    ) -> BatchFeature:
        shapes = sorted({tuple(value.shape) for value in values})
        if return_tensors is not None and len(shapes) > 1:
            raise ValueError(
                f"inputs of shapes {shapes[:3]} do not make a batch: {remedy}, or leave out `return_tensors` to get "
                "a list"
            )
        return BatchFeature(data={name: values}, tensor_type=return_tensors)


class VJEPAVideoProcessorKwargs(VideosKwargs, total=False):
    """Arguments that [`VJEPAVideoProcessor`] adds to those of all video processors."""

    frame_step: int | None
    num_segments: int | None
    num_views: int | None
    random_crop_scale: list[float] | tuple[float, ...] | None
    random_crop_ratio: list[float] | tuple[float, ...] | None
    flip_probability: float | int | None
    training: bool | None
    generator: torch.Generator | None


class VJEPAVideoProcessor(VJEPAProcessorMixin, BaseVideoProcessor):
    r"""
    Videos to `pixel_values_videos` of shape (videos, frames, channels, crop, crop), float32.

    The default is the published evaluation: short side resized to crop x 256 / 224 (bilinear, no antialiasing), centre
    crop, values in [0, 1], ImageNet mean and standard deviation. The settings or the call choose other modes (only the
    call chooses training):

    - `do_sample_frames=True` (as pipelines do) takes a clip from the middle of each video: `num_frames` frames at an
      exact stride of `frame_step`, or of `fps` frames per second if the video has a rate. (In other models of
      transformers, `fps` takes the whole video. Here a clip always has `num_frames` frames, as the model needs.) A
      video that is shorter than the clip is read from its start, and its last frame is repeated. A video with fewer
      than `num_frames` frames is refused. An array of exactly `num_frames` frames without a rate is the clip.
    - `num_segments=8`, with `do_sample_frames`: 8 clips, spread evenly from the first frame to the last.
    - `num_views=3`: the short side is resized to the crop (`size` is not used), and 3 evenly spaced crops are taken
      along the long side.
    - `training=True, generator=generator`: random resized crop and horizontal flip, drawn once for each clip.

    With several segments or views the shape is (videos, views, segments, frames, channels, crop, crop).
    `VJEPAForVideoClassification` takes this shape: it joins the segments of a view and averages over the views.

    **Videos**: one video or a batch, as numpy arrays, torch tensors, PIL images or file paths. Rank 5 is a batch of
    clips. Rank 4 and a list of images are one clip. A single image is a clip of one frame, which the model repeats; a
    batch of images is `[[image], [image]]`. Channels come first or last. With `do_convert_rgb`, grey and transparent
    arrays become RGB (PIL images always do). A file is a path, a folder of frames, an address, or the bytes of a file.
    One decoder reads all of it, or with `do_sample_frames` the frames of the clips. It applies the rotation of the
    file.

    **Rates**: files know their rate. The rate of an array is given by `video_metadata`, in any form that transformers
    takes: `[{"fps": 25.0, "total_num_frames": len(array)}]`. With a rate, `fps` takes the same frames from the array
    as from the file. `return_metadata=True` returns the metadata of each video. Its `frames_indices` are the frames
    that were taken; they are `None` for files with `do_sample_frames`, which are planned while they are decoded.

    **Values**: uint8 values, which are multiplied by `rescale_factor`, or floats in [0, 1]. Other floats are refused,
    except with `do_rescale=False`.

    Args:
        crop_size (`int` or `dict`, defaults to 224): side of the square crop, in pixels. A new value, here, in
            `from_pretrained` or in a call, also changes `size`, unless `size` is given too.
        size (`int` or `dict`, defaults to `{"shortest_edge": 256}`): short side before the centre crop, in pixels.
        image_mean, image_std (default to the ImageNet values): one number per channel, on the scale 0 to 1.
        do_resize, do_center_crop, do_rescale, do_normalize, do_convert_rgb (`bool`, default to `True`): steps to run.
            With neither `do_rescale` nor `do_normalize`, uint8 frames stay uint8.
        rescale_factor (`float`, defaults to 1 / 255): factor for uint8 frames.
        do_sample_frames (`bool`, defaults to `False`): take clips from the videos, as described above.
        num_frames, frame_step (`int`, default to 16, 4): frames of a clip, and frames of the video from one frame of
            the clip to the next; for `do_sample_frames`.
        num_segments (`int`, defaults to 1): clips of each video, for `do_sample_frames`.
        num_views (`int`, defaults to 1): spatial views of each video.
        random_crop_scale, random_crop_ratio (default to (0.3, 1.0), (0.75, 1.35)): bounds of the area share and of
            width / height of the training crops.
        flip_probability (`float`, defaults to 0.5): probability of the flip in training.

    Only in calls: `training`, `generator` (`torch.Generator`, on the CPU), `return_tensors` and the common arguments
    of video processors.

    Raises:
        ValueError: a video or a setting that does not fit the description above, or an argument that is a misspelt
            setting. (Unknown settings in files are stored with a warning.) For a file that cannot be read, the
            subclass `DecodingError`.
        TypeError: a call with an unknown argument.

    Examples:

    ```python
    import torch
    from transformers_vjepa import VJEPAVideoProcessor

    processor = VJEPAVideoProcessor(crop_size=64, num_frames=8, frame_step=2)
    video = torch.randint(0, 256, (40, 3, 72, 96), dtype=torch.uint8)
    inputs = processor(video, do_sample_frames=True, return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, 8, 3, 64, 64)
    inputs = processor(video, do_sample_frames=True, num_segments=2, num_views=3, return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, 3, 2, 8, 3, 64, 64)
    ```
    """

    valid_kwargs = VJEPAVideoProcessorKwargs
    num_frames = 16
    frame_step = 4
    num_segments = 1
    num_views = 1
    random_crop_scale = CROP_SCALE
    random_crop_ratio = CROP_RATIO
    flip_probability = 0.5

    def __init__(self, **kwargs: Unpack[VJEPAVideoProcessorKwargs]) -> None:
        for name in ("training", "generator"):
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` is not a setting of the processor: pass it in the call")
        super().__init__(**kwargs)

    def preprocess(self, videos: Any, **kwargs: Unpack[VJEPAVideoProcessorKwargs]) -> BatchFeature:
        """Implements the call; see the class."""
        given = self._given(kwargs)
        num_segments = given.get("num_segments", self.num_segments)
        if given.get("do_sample_frames", self.do_sample_frames):
            videos, metadata = self._sample_clips(videos, given=given, num_segments=num_segments)
            # Sampling and layout are done; the base class must not repeat them.
            given.update(do_sample_frames=False, input_data_format=ChannelDimension.FIRST, video_metadata=metadata)
        elif num_segments > 1:
            raise ValueError(
                f"`num_segments`={num_segments} takes several clips from a video: pass the video with "
                "`do_sample_frames=True`, or a clip with `num_segments=1`"
            )
        elif not _are_frame_files(videos):
            # The base class gets arrays in one common form.
            videos, metadata = self._read_all(videos, given.get("video_metadata"))
            given["video_metadata"] = metadata
        return super().preprocess(videos, **given)

    @classmethod
    def for_config(cls, config: VJEPAConfig) -> "VJEPAVideoProcessor":
        """The processor for a model without one: clips of its size and length, every fourth frame."""
        return cls(crop_size=config.crop_size, num_frames=config.frames_per_clip)

    def clip_sampling(self, **changes: Any) -> ClipSampling:
        """
        The frames that this processor takes for a clip: `num_frames` frames, `frame_step` apart or `fps` per second.

        Args:
            changes: arguments of `ClipSampling` (None is ignored). A spacing replaces the one of the settings.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        if not given.keys() & {"frame_step", "target_fps", "duration"}:
            given |= {"target_fps": self.fps} if self.fps else {"frame_step": self.frame_step}
        return ClipSampling(**{"num_frames": self.num_frames, **given})

    def sample_frames(
        self, metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **others: Any
    ) -> np.ndarray:
        """
        Indices of the frames that `do_sample_frames=True` takes from a video, for functions of transformers such as
        `load_video(path, sample_indices_fn=processor.sample_frames)`.

        Args:
            metadata: length and rate of the video.
            num_frames, fps, others: arguments of the call: `frame_step` and `num_segments`; others have no effect.

        Returns:
            int64 (segments x frames,), below `metadata.total_num_frames`.

        Raises:
            ValueError: a video that is too short, or without a rate where `fps` needs one.
        """
        sampling = self.clip_sampling(num_frames=num_frames, target_fps=fps, frame_step=others.get("frame_step"))
        places = segment_places(others.get("num_segments") or self.num_segments)
        if sampling.clip_fps and metadata.fps is None:
            reason = "the frame rate is unknown: pass it as `video_metadata`, or use `frame_step` instead of `fps`"
            raise DecodingError("<array>", reason)
        total = metadata.total_num_frames
        plan = plan_clips(total, sampling=sampling, places=places, fps=metadata.fps, name="<array>")
        return np.array([index for clip in plan for index in clip])

    def _sample_clips(
        self, videos: Any, *, given: dict[str, Any], num_segments: int
    ) -> tuple[list[torch.Tensor], list[VideoMetadata]]:
        """For each file or array, its clips one after the other: (segments x frames, channels, height, width)."""
        spacing = {"num_frames": given.get("num_frames"), "frame_step": given.get("frame_step")}
        sampling = self.clip_sampling(**spacing, target_fps=given.get("fps"))
        input_data_format = given.get("input_data_format", self.input_data_format)
        sampled, noted = [], []
        videos = list(_as_clips(videos))
        for video, metadata in zip(videos, _given_metadata(videos, given.get("video_metadata")), strict=True):
            if isinstance(video, _FILES):
                source = _fetch(video)
                sampled.append(read_segments(source, num_segments=num_segments, sampling=sampling).flatten(0, 1))
                if given.get("return_metadata"):
                    metadata = _metadata_of(source, None)
            else:
                if len(video) == sampling.num_frames and metadata.fps is None:
                    # The number of frames of a clip: the video was sampled before.
                    indices = list(range(len(video))) * num_segments
                else:
                    indices = self.sample_frames(metadata, fps=given.get("fps"), num_segments=num_segments, **spacing)
                    indices = indices.tolist()
                metadata.frames_indices = indices
                sampled.append(_channels_first(_as_tensor(video[indices]), input_data_format))
            noted.append(metadata)
        return sampled, noted

    def _read_all(self, videos: Any, metadata: Any) -> tuple[list[Any], list[VideoMetadata]]:
        """All frames of each file or array."""
        videos = list(_as_clips(videos))
        noted = _given_metadata(videos, metadata)
        read = [
            _read_frames(_fetch(video), None) if isinstance(video, _FILES) else (video, note)
            for video, note in zip(videos, noted, strict=True)
        ]
        return [video for video, _ in read], [note for _, note in read]

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Callable | None = None) -> Any:
        """As in the base class, but with the decoder that reads every file of this package."""
        if isinstance(video_url_or_urls, list):
            fetched = (self.fetch_videos(item, sample_indices_fn=sample_indices_fn) for item in video_url_or_urls)
            return list(zip(*fetched, strict=True))
        return _read_frames(_fetch(video_url_or_urls), sample_indices_fn)

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        ClipSampling(num_frames=kwargs["num_frames"], frame_step=kwargs["frame_step"])
        for name in ("num_segments", "num_views"):
            if kwargs[name] < 1:
                raise ValueError(f"`{name}`={kwargs[name]} must be at least 1")
        scale, ratio = (tuple(kwargs[name]) for name in ("random_crop_scale", "random_crop_ratio"))  # lists in JSON
        check_augmentation(
            scale=scale, ratio=ratio, flip_probability=kwargs["flip_probability"], prefix="random_crop_"
        )
        return {**kwargs, "random_crop_scale": scale, "random_crop_ratio": ratio}

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        training = bool(kwargs["training"])
        for name in ("num_views", "num_segments"):
            if training and kwargs[name] > 1:
                raise ValueError(f"`training=True` with `{name}`={kwargs[name]}: choose one of them")
        if training != (kwargs["generator"] is not None):
            raise ValueError(
                "`training=True` and `generator` need each other: pass both, with `generator=torch.Generator()` as "
                "the source of the random crops, or neither of them for evaluation"
            )
        if (training or kwargs["num_views"] > 1) and not (kwargs["do_resize"] and kwargs["do_center_crop"]):
            raise ValueError(
                "`training=True` and `num_views` include resizing and cropping: leave `do_resize` and "
                "`do_center_crop` on"
            )

    def _crops(self, clip: torch.Tensor, *, settings: dict[str, Any]) -> list[torch.Tensor]:
        """The crops of (frames, channels, height, width): one, or one for each view."""
        crop = settings["crop_size"].height
        if settings["training"]:
            bounds = {"scale": settings["random_crop_scale"], "ratio": settings["random_crop_ratio"]}
            draws = {"generator": settings["generator"], "flip_probability": settings["flip_probability"]}
            return [augment_clip(clip, size=crop, **bounds, **draws)]
        if settings["num_views"] > 1:
            return list(resize_and_crop_views(clip, size=crop, num_views=settings["num_views"]))
        return [self._evaluation_crop(clip, settings=settings)]

    def _preprocess(
        self, videos: list[torch.Tensor], return_tensors: str | None = None, **settings: Any
    ) -> BatchFeature:
        num_segments = settings["num_segments"]
        pixel_values = []
        for clip in videos:
            self._check_floats(clip, settings=settings)
            views = [self._values(crop, settings=settings) for crop in self._crops(clip, settings=settings)]
            # Until here the segments follow each other on the axis of the frames, as all frames get the same steps.
            several = len(views) > 1 or num_segments > 1
            pixel_values.append(torch.stack(views).unflatten(1, (num_segments, -1)) if several else views[0])
        remedy = "pass videos with the same number of frames and leave `do_center_crop` on"
        return self._as_batch("pixel_values_videos", pixel_values, return_tensors, remedy=remedy)


__all__ = ["VJEPAProcessorMixin", "VJEPAVideoProcessor"]
