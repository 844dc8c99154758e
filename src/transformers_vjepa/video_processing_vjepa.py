"""
From frames to `pixel_values_videos`: crops, resizing, flips and normalisation.

The functions work on tensors of (frames, channels, height, width) and take every random choice from an
explicit generator; the training stream calls them directly and keeps the frames in uint8.
[`VJEPAVideoProcessor`] wraps them for everything that holds a processor: scripts, pipelines, the Hub. The
file needs nothing else of this package, so that it can travel with a checkpoint as remote code.

Frames that a decoder delivers as (frames, height, width, channels) are best permuted, not copied, into that
shape: torch resizes this memory layout faster than planes (measured: 1.5 to 2.5 times on x86), and the copy
would cost more than the resize.
"""

import math
from collections.abc import Callable, Sequence
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
from transformers.video_utils import load_video

#: Share of the frame's area, and width / height, of the training crops in the published pretraining recipe.
CROP_SCALE = (0.3, 1.0)
CROP_RATIO = (0.75, 1.35)

_CROP_TRIES = 10


def _check_frames(frames: torch.Tensor) -> None:
    if frames.ndim != 4 or 0 in frames.shape:
        raise ValueError(
            f"frames of shape {tuple(frames.shape)}: pass one clip as a tensor (frames, channels, height, "
            "width) with at least one frame and pixel"
        )


def _check_range(name: str, value: Sequence[float], *, upper: float) -> None:
    if len(value) != 2 or not 0 < value[0] <= value[1] <= upper:
        bound = "" if math.isinf(upper) else f" <= {upper:g}"
        raise ValueError(f"`{name}`={tuple(value)} must be a pair with 0 < low <= high{bound}")


def sample_crop_box(
    height: int,
    width: int,
    *,
    generator: torch.Generator,
    scale: Sequence[float] = CROP_SCALE,
    ratio: Sequence[float] = CROP_RATIO,
) -> tuple[int, int, int, int]:
    """
    Box of a random resized crop. The law is that of `torchvision.transforms.RandomResizedCrop`, which takes
    no generator: the area is uniform in `scale` times the frame's area, the logarithm of width / height
    uniform between those of `ratio`, the position uniform. A box that does not fit is drawn again; after ten
    tries the largest central box with the nearest allowed aspect ratio is taken.

    Args:
        height, width: size of the frame, in pixels.
        generator: source of the draws.
        scale: smallest and largest share of the area, in (0, 1].
        ratio: smallest and largest width / height.

    Returns:
        Top, left, height and width of the box, in pixels; always inside the frame.

    Raises:
        ValueError: an empty frame, or a `scale` or `ratio` out of range.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a frame of {height} x {width} pixels has no crop: both sides must be at least 1")
    _check_range("scale", scale, upper=1.0)
    _check_range("ratio", ratio, upper=math.inf)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()

    def integer(high: int) -> int:
        return int(torch.randint(0, high + 1, (), generator=generator))

    for _ in range(_CROP_TRIES):
        area = height * width * uniform(*scale)
        aspect = math.exp(uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            return integer(height - box_height), integer(width - box_width), box_height, box_width

    aspect = min(max(width / height, ratio[0]), ratio[1])
    box_height = max(1, min(height, round(width / aspect)))
    box_width = max(1, min(width, round(height * aspect)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _resize(frames: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    # Without antialiasing, as published. uint8 stays uint8 (fixed-point where the processor has it).
    return tvF.resize(frames, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=False)


def crop_and_resize(
    frames: torch.Tensor, *, box: tuple[int, int, int, int], size: int, flip: bool = False
) -> torch.Tensor:
    """
    Cut one box out of all frames, then resize it to a square (bilinear, no antialiasing). Nothing outside the
    box is touched, so that the cost is that of the crop and not of the frame.

    Args:
        frames: (frames, channels, height, width), uint8 or float.
        box: top, left, height and width, in pixels.
        size: side of the result, in pixels.
        flip: mirror left and right, after resizing.

    Returns:
        (frames, channels, size, size), same type as `frames`, contiguous. uint8 is rounded: at most one grey
        level from the rounded result in float.

    Raises:
        ValueError: frames that are not one clip, or a box that does not lie inside them.
    """
    _check_frames(frames)
    top, left, box_height, box_width = box
    height, width = frames.shape[-2:]
    inside = 0 <= top and 0 <= left and top + box_height <= height and left + box_width <= width
    if not inside or box_height < 1 or box_width < 1:
        raise ValueError(
            f"box (top, left, height, width) = {tuple(box)} does not lie inside frames of {height} x {width} "
            "pixels: draw it with `sample_crop_box` for this size"
        )
    resized = _resize(frames[..., top : top + box_height, left : left + box_width], height=size, width=size)
    if flip:
        resized = resized.flip(-1)
    # A view of the full frames would take all of them along when a worker process sends it.
    return resized.contiguous()


def augment_clip(
    frames: torch.Tensor,
    *,
    size: int,
    generator: torch.Generator,
    scale: Sequence[float] = CROP_SCALE,
    ratio: Sequence[float] = CROP_RATIO,
    flip_probability: float = 0.5,
) -> torch.Tensor:
    """
    Training augmentation: a random resized crop and a horizontal flip, the same for all frames of the clip.

    Args:
        frames: (frames, channels, height, width), uint8 or float.
        size: side of the result, in pixels.
        generator: source of the draws.
        scale, ratio: see [`sample_crop_box`].
        flip_probability: probability of the flip, in [0, 1].

    Returns:
        (frames, channels, size, size), same type as `frames`.

    Raises:
        ValueError: see [`sample_crop_box`] and [`crop_and_resize`]; a probability outside [0, 1].
    """
    _check_frames(frames)
    _check_probability(flip_probability)
    height, width = frames.shape[-2:]
    box = sample_crop_box(height, width, generator=generator, scale=scale, ratio=ratio)
    # Drawn whatever the probability, so that changing it does not change the boxes that follow.
    flip = torch.rand((), generator=generator).item() < flip_probability
    return crop_and_resize(frames, box=box, size=size, flip=flip)


def check_augmentation(*, scale: Sequence[float], ratio: Sequence[float], flip_probability: float) -> None:
    """
    Raises:
        ValueError: settings that `augment_clip` would refuse.
    """
    _check_range("scale", scale, upper=1.0)
    _check_range("ratio", ratio, upper=math.inf)
    _check_probability(flip_probability)


def _check_probability(flip_probability: float) -> None:
    if not 0 <= flip_probability <= 1:
        raise ValueError(f"`flip_probability`={flip_probability} must lie in [0, 1]")


def evaluation_resize_edge(crop_size: int) -> int:
    """Short side before the centre crop of the published evaluation: crop x 256 / 224, in whole pixels."""
    return crop_size * 256 // 224


def _resize_short_side(frames: torch.Tensor, *, edge: int) -> torch.Tensor:
    height, width = frames.shape[-2:]
    long = edge * max(height, width) // min(height, width)
    return _resize(frames, height=edge if height <= width else long, width=long if height <= width else edge)


def _center_crop(frames: torch.Tensor, *, size: int) -> torch.Tensor:
    height, width = frames.shape[-2:]
    if min(height, width) < size:
        raise ValueError(
            f"frames of {height} x {width} pixels are smaller than the crop of {size}: resize the short "
            f"side to at least {size} first"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return frames[..., top : top + size, left : left + size].contiguous()


def resize_and_center_crop(frames: torch.Tensor, *, size: int, resize_edge: int | None = None) -> torch.Tensor:
    """
    Evaluation geometry: resize the short side (bilinear, no antialiasing), then crop the centre.

    Args:
        frames: (frames, channels, height, width), uint8 or float.
        size: side of the crop, in pixels.
        resize_edge: short side before the crop, in pixels; by default `size` x 256 / 224, as published.

    Returns:
        (frames, channels, size, size), same type as `frames`, contiguous.

    Raises:
        ValueError: frames that are not one clip, or `resize_edge` below `size`.
    """
    _check_frames(frames)
    edge = evaluation_resize_edge(size) if resize_edge is None else resize_edge
    return _center_crop(_resize_short_side(frames, edge=edge), size=size)


def resize_and_crop_views(frames: torch.Tensor, *, size: int, num_views: int = 3) -> torch.Tensor:
    """
    Spatial views of the multi-view evaluation: resize the short side to the crop (bilinear, no antialiasing),
    then take evenly spaced crops along the long side, left to right or top to bottom.

    Args:
        frames: (frames, channels, height, width), uint8 or float.
        size: side of the crops, in pixels.
        num_views: number of crops; published: 3.

    Returns:
        (num_views, frames, channels, size, size), same type as `frames`.

    Raises:
        ValueError: frames that are not one clip, or fewer than two views.
    """
    _check_frames(frames)
    if num_views < 2:
        raise ValueError(f"`num_views`={num_views} must be at least 2: for one view `resize_and_center_crop`")
    resized = _resize_short_side(frames, edge=size)
    axis = -2 if resized.shape[-2] > resized.shape[-1] else -1
    margin = resized.shape[axis] - size
    starts = (margin * view // (num_views - 1) for view in range(num_views))
    return torch.stack([resized.narrow(axis, start, size) for start in starts])


def _normalize(
    frames: torch.Tensor,
    *,
    scale: float,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    dtype: torch.dtype,
) -> torch.Tensor:
    """(frames x scale - mean) / std per channel of (..., channels, height, width), as one multiply-add."""
    # On the CPU, so that checking the constants does not wait for an accelerator.
    mean, std = (torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1, 1) for value in (mean, std))
    for name, value in (("mean", mean), ("std", std)):
        if len(value) not in (1, frames.shape[-3]):
            raise ValueError(
                f"`{name}` has {len(value)} values for {frames.shape[-3]} channels: pass one value for each"
            )
    if not (std > 0).all():
        raise ValueError(f"`std`={std.flatten().tolist()} must be greater than 0 everywhere")
    # bfloat16 holds neither the factor nor the offset to a grey level: round the result, not the constants.
    working = torch.promote_types(dtype, torch.float32)
    factor, offset = (value.to(frames.device, working) for value in (scale / std, -mean / std))
    return torch.addcmul(offset, frames.to(working), factor).to(dtype)


def normalize_clips(
    frames: torch.Tensor,
    *,
    mean: float | Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: float | Sequence[float] = IMAGENET_DEFAULT_STD,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """
    (frames / 255 - mean) / std, on the device where the frames are.

    Args:
        frames: uint8 (..., channels, height, width), any number of leading axes.
        mean, std: one value per channel, or one for all, on the scale 0 to 1.
        dtype: floating type of the result.

    Returns:
        Same shape as `frames`, of type `dtype`; computed in at least float32.

    Raises:
        ValueError: frames that are not uint8 (they may be normalised already), or `mean` or `std` that do not
            fit the channels.
    """
    if frames.dtype != torch.uint8:
        raise ValueError(f"frames of {frames.dtype}: pass uint8, floats may be normalised already")
    return _normalize(frames, scale=1 / 255, mean=mean, std=std, dtype=dtype)


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor))


def _channel_error(shape: Sequence[int]) -> ValueError:
    return ValueError(
        f"a clip of shape {tuple(shape)} is not RGB: pass (frames, 3, height, width) or "
        "(frames, height, width, 3); `do_convert_rgb=True` converts grey (1) and transparent (4) ones"
    )


def _stack_frames(frames: Sequence[Any]) -> np.ndarray | torch.Tensor:
    """Pictures -> one clip of them. PIL pictures become RGB whatever their mode."""
    frames = [np.asarray(f.convert("RGB")) if is_pil_image(f) else f for f in frames]
    shapes = sorted({tuple(frame.shape) for frame in frames})
    if len(shapes) > 1:
        raise ValueError(
            f"frames of one clip have different shapes {shapes[:3]}: a list of pictures is one clip; pass a "
            "batch of pictures as one list for each, [[picture], [picture]]"
        )
    return torch.stack(frames) if isinstance(frames[0], torch.Tensor) else np.stack(frames)


def _as_clips(videos: Any) -> list[np.ndarray | torch.Tensor]:
    """Every accepted form of in-memory video -> list of arrays of rank 4; see [`VJEPAVideoProcessor`]."""
    if is_pil_image(videos):
        return [_stack_frames([videos])]
    if _is_array(videos):
        if videos.ndim not in (3, 4, 5):
            raise ValueError(
                f"a video of shape {tuple(videos.shape)} has rank {videos.ndim}: pass a picture (rank 3), "
                "a clip (frames, channels, height, width) (rank 4) or a batch of clips (rank 5)"
            )
        clips = list(videos) if videos.ndim == 5 else [videos[None] if videos.ndim == 3 else videos]
        for clip in clips:
            # Before the base class looks, which does not say what it saw.
            if not {1, 3, 4} & {clip.shape[1], clip.shape[3]}:
                raise _channel_error(clip.shape)
        return clips
    if isinstance(videos, (list, tuple)) and videos:
        if all(is_pil_image(item) or (_is_array(item) and item.ndim == 3) for item in videos):
            return [_stack_frames(videos)]
        return [clip for item in videos for clip in _as_clips(item)]
    what = "an empty list" if isinstance(videos, (list, tuple)) else f"a {type(videos).__name__}"
    raise ValueError(
        f"{what} is no video: pass arrays, tensors, PIL pictures, lists of them, or a file path as a string"
    )


def _holds_paths(videos: Any) -> bool:
    if isinstance(videos, (list, tuple)):
        return any(_holds_paths(item) for item in videos)
    return isinstance(videos, str)


def _as_tensor(video: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(video, torch.Tensor):
        return video
    # torch shares memory with an array only if it may write to it and all strides are positive.
    if not video.flags.writeable or any(stride < 0 for stride in video.strides):
        video = video.copy()
    return torch.from_numpy(video)


def _channels_first(video: torch.Tensor, input_data_format: str | ChannelDimension | None) -> torch.Tensor:
    """A clip with its channels first or last -> (frames, channels, height, width), without a copy."""
    if input_data_format is None:
        for channels in (3, 1, 4):
            first, last = video.shape[1] == channels, video.shape[3] == channels
            if first and last:
                raise ValueError(
                    f"cannot tell channels from pixels in shape {tuple(video.shape)}: pass "
                    '`input_data_format="channels_first"` or `"channels_last"`'
                )
            if first or last:
                return video if first else video.permute(0, 3, 1, 2)
        return video
    return video.permute(0, 3, 1, 2) if input_data_format == ChannelDimension.LAST else video


def _crop_edge(crop_size: int | Sequence[int] | dict[str, int] | SizeDict) -> int:
    """Side of a square crop given in any of the forms that processors take."""
    size = crop_size if isinstance(crop_size, SizeDict) else get_size_dict(crop_size, param_name="crop_size")
    height, width = size["height"], size["width"]
    if height != width or height is None or height < 1:
        raise ValueError(f"`crop_size`={crop_size} must be a square of at least 1 pixel: pass its side")
    return height


def _with_resize_edge(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Let the resize edge follow a new `crop_size`, unless `size` is given too."""
    if kwargs.get("crop_size") is None or kwargs.get("size") is not None:
        return kwargs
    return {**kwargs, "size": {"shortest_edge": evaluation_resize_edge(_crop_edge(kwargs["crop_size"]))}}


class VJEPAVideoProcessorKwargs(VideosKwargs, total=False):
    """What [`VJEPAVideoProcessor`] takes beyond the arguments common to video processors."""

    num_views: int | None
    random_crop_scale: list[float] | tuple[float, ...] | None
    random_crop_ratio: list[float] | tuple[float, ...] | None
    flip_probability: float | int | None
    training: bool | None
    generator: torch.Generator | None


class VJEPAVideoProcessor(BaseVideoProcessor):
    r"""
    Videos to `pixel_values_videos` of shape (batch, frames, channels, crop, crop), float32.

    By default the published evaluation: short side to crop x 256 / 224 (bilinear, no antialiasing), centre
    crop, values to [0, 1], ImageNet mean and standard deviation. Two other modes are chosen in the call:

    - `num_views=3`: the short side becomes the crop (`size` is not used) and evenly spaced crops are taken
      along the long side. The batch grows to videos x views, the views of one video next to each other:
      `logits.softmax(-1).unflatten(0, (-1, 3)).mean(1)` averages over them.
    - `training=True, generator=generator`: random resized crop and horizontal flip, drawn once for each clip.

    **Videos**: one clip or a batch, as numpy arrays, torch tensors, PIL pictures or file paths (read whole by
    transformers with PyAV, or `num_frames` spread over the file with `do_sample_frames=True`). Rank 5 is a
    batch of clips; rank 4, or a list of pictures, one clip; a single picture a clip of one frame, which the
    model repeats. A batch of pictures is a list of clips, `[[picture], [picture]]`. Channels come first or
    last; with `do_convert_rgb` grey and transparent videos become RGB (PIL pictures always do).

    **Values**: uint8, multiplied by `rescale_factor`; or floats, which are taken to lie in [0, 1] already,
    and refused if they do not. `do_rescale=False` takes any values as they are.

    Args:
        crop_size (`int` or `dict`, defaults to 224): side of the square crop, in pixels. A new value also
            moves `size`, here, in `from_pretrained` and in a call, unless that is given with it.
        size (`int` or `dict`, defaults to `{"shortest_edge": 256}`): short side before the centre crop.
        image_mean, image_std (default to the ImageNet values): one number per channel, on the scale 0 to 1.
        do_resize, do_center_crop, do_rescale, do_normalize, do_convert_rgb (`bool`, default to `True`): steps
            to run. With neither `do_rescale` nor `do_normalize`, uint8 frames stay uint8.
        rescale_factor (`float`, defaults to 1 / 255): factor for uint8 frames.
        num_views (`int`, defaults to 1): spatial views of each video; more than 1 as described above.
        random_crop_scale, random_crop_ratio (default to (0.3, 1.0), (0.75, 1.35)): bounds of the area share
            and of width / height of the training crops.
        flip_probability (`float`, defaults to 0.5): probability of the flip in training.

    Only in calls: `training`, `generator` (`torch.Generator`, on the CPU), `return_tensors` and the common
    arguments of video processors.

    Raises:
        ValueError: a video or a setting that does not fit the above.
        TypeError: an argument that does not exist, in a call.
    """

    valid_kwargs = VJEPAVideoProcessorKwargs
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
    num_views = 1
    random_crop_scale = CROP_SCALE
    random_crop_ratio = CROP_RATIO
    flip_probability = 0.5

    def __init__(self, **kwargs: Unpack[VJEPAVideoProcessorKwargs]) -> None:
        for name in ("training", "generator"):
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` is no setting of the processor: pass it in the call")
        super().__init__(**_with_resize_edge(kwargs))

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> "VJEPAVideoProcessor":
        """As the base class; `crop_size` in `kwargs` also replaces the stored `size`."""
        return super().from_dict(video_processor_dict, **_with_resize_edge(kwargs))

    def preprocess(self, videos: Any, **kwargs: Unpack[VJEPAVideoProcessorKwargs]) -> BatchFeature:
        """The call itself; see the class."""
        # The base class reads paths; what is in memory is brought into one form here, whatever it was.
        videos = videos if _holds_paths(videos) else _as_clips(videos)
        # None stands for the processor's own setting, but the base class would take it as a value.
        given = {name: value for name, value in kwargs.items() if value is not None}
        return super().preprocess(videos, **_with_resize_edge(given))

    def fetch_videos(self, video_url_or_urls: str | list, sample_indices_fn: Callable | None = None) -> Any:
        """As the base class, but with PyAV, which carries its own FFmpeg and works wherever it installs."""
        if isinstance(video_url_or_urls, list):
            fetched = (self.fetch_videos(item, sample_indices_fn=sample_indices_fn) for item in video_url_or_urls)
            return list(zip(*fetched, strict=True))
        return load_video(video_url_or_urls, backend="pyav", sample_indices_fn=sample_indices_fn)

    def convert_to_rgb(self, video: torch.Tensor) -> torch.Tensor:
        """Grey to three equal channels, transparent uint8 over white; (frames, channels, height, width)."""
        rgb = super().convert_to_rgb(video)
        # Blending leaves floats on the scale of uint8.
        return rgb if rgb.dtype == video.dtype else rgb.round().to(video.dtype)

    def _prepare_input_videos(
        self,
        videos: list[np.ndarray | torch.Tensor],
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: str | torch.device | None = None,
    ) -> list[torch.Tensor]:
        clips = []
        for video in videos:
            clip = _as_tensor(video)
            if clip.ndim != 4 or 0 in clip.shape:
                raise ValueError(
                    f"a clip of shape {tuple(clip.shape)}: it must have rank 4, (frames, channels, height, "
                    "width) or channels last, and at least one frame and pixel"
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
            clips.append(clip if device is None else clip.to(device))
        return clips

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        crop_edge = _crop_edge(kwargs["crop_size"])
        size = {name: value for name, value in dict(kwargs["size"]).items() if value is not None}
        if set(size) != {"shortest_edge"} or size["shortest_edge"] < 1:
            raise ValueError(f'`size`={size} must be {{"shortest_edge": pixels}}, or the number of pixels')
        if kwargs["do_resize"] and kwargs["do_center_crop"] and size["shortest_edge"] < crop_edge:
            raise ValueError(
                f"`size`={size} is smaller than the crop of {crop_edge} pixels: leave `size` out to get "
                f"{evaluation_resize_edge(crop_edge)}"
            )
        if kwargs["resample"] not in (PILImageResampling.BILINEAR, InterpolationMode.BILINEAR):
            raise ValueError(f"`resample`={kwargs['resample']!r}: V-JEPA sees bilinear frames only, leave it out")
        if kwargs["num_views"] < 1:
            raise ValueError(f"`num_views`={kwargs['num_views']} must be at least 1")
        # JSON has no tuples.
        for name, upper in (("random_crop_scale", 1.0), ("random_crop_ratio", math.inf)):
            kwargs[name] = tuple(kwargs[name])
            _check_range(name, kwargs[name], upper=upper)
        _check_probability(kwargs["flip_probability"])
        return kwargs

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        training, several = bool(kwargs["training"]), kwargs["num_views"] > 1
        if training and several:
            raise ValueError(f"`training=True` with `num_views`={kwargs['num_views']}: choose one of them")
        if training != (kwargs["generator"] is not None):
            raise ValueError(
                "`training=True` and `generator` go together: pass `generator=torch.Generator()` to draw the "
                "crops from, and neither for evaluation"
            )
        if (training or several) and not (kwargs["do_resize"] and kwargs["do_center_crop"]):
            raise ValueError(
                "`training=True` and `num_views` resize and crop by themselves: leave `do_resize` and "
                "`do_center_crop` on"
            )

    def _crops(self, clip: torch.Tensor, *, settings: dict[str, Any]) -> list[torch.Tensor]:
        """(frames, channels, height, width) -> its crops: one, or one for each view."""
        crop = settings["crop_size"].height
        if settings["training"]:
            augmented = augment_clip(
                clip,
                size=crop,
                generator=settings["generator"],
                scale=settings["random_crop_scale"],
                ratio=settings["random_crop_ratio"],
                flip_probability=settings["flip_probability"],
            )
            return [augmented]
        if settings["num_views"] > 1:
            return list(resize_and_crop_views(clip, size=crop, num_views=settings["num_views"]))
        if settings["do_resize"]:
            clip = _resize_short_side(clip, edge=settings["size"].shortest_edge)
        return [_center_crop(clip, size=crop) if settings["do_center_crop"] else clip]

    def _values(self, clip: torch.Tensor, *, settings: dict[str, Any]) -> torch.Tensor:
        """Rescale and normalise as the settings say; uint8 stays uint8 where both are off."""
        if not (settings["do_rescale"] or settings["do_normalize"]):
            return clip
        return _normalize(
            clip,
            scale=settings["rescale_factor"] if settings["do_rescale"] and clip.dtype == torch.uint8 else 1.0,
            mean=settings["image_mean"] if settings["do_normalize"] else 0.0,
            std=settings["image_std"] if settings["do_normalize"] else 1.0,
            dtype=torch.float32,
        )

    def _preprocess(
        self, videos: list[torch.Tensor], return_tensors: str | None = None, **settings: Any
    ) -> BatchFeature:
        pixel_values = []
        for clip in videos:
            if settings["do_rescale"] and clip.is_floating_point():
                low, high = (bound.item() for bound in torch.aminmax(clip))
                if not (low >= 0 and high <= 1):
                    raise ValueError(
                        f"a float clip with values from {low:g} to {high:g}: floats must lie in [0, 1]; pass "
                        "uint8, divide by 255, or pass `do_rescale=False` to take them as they are"
                    )
            crops = self._crops(clip, settings=settings)
            pixel_values.extend(self._values(crop, settings=settings) for crop in crops)
        shapes = sorted({tuple(clip.shape) for clip in pixel_values})
        if return_tensors is not None and len(shapes) > 1:
            raise ValueError(
                f"clips of shapes {shapes[:3]} do not make a batch: give all videos as many frames, "
                "and leave `do_center_crop` on; without `return_tensors` they come as a list"
            )
        return BatchFeature(data={"pixel_values_videos": pixel_values}, tensor_type=return_tensors)


__all__ = [
    "CROP_RATIO",
    "CROP_SCALE",
    "VJEPAVideoProcessor",
    "augment_clip",
    "check_augmentation",
    "crop_and_resize",
    "evaluation_resize_edge",
    "normalize_clips",
    "resize_and_center_crop",
    "resize_and_crop_views",
    "sample_crop_box",
]
