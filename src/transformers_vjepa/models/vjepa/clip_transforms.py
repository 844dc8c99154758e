"""
Crops, resizing, flips and normalisation of the frames of a clip.

The functions work on tensors of (frames, channels, height, width) and take every random choice from an
explicit generator; the training stream calls them directly and keeps the frames in uint8.

Frames that a decoder delivers as (frames, height, width, channels) are best permuted, not copied, into that
shape: torch resizes this memory layout faster than planes (measured: 1.5 to 2.5 times on x86), and the copy
would cost more than the resize.
"""

import math
from collections.abc import Sequence

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

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


def check_range(name: str, value: Sequence[float], *, upper: float) -> None:
    """
    Raises:
        ValueError: `value`, called `name` in the message, is no pair with 0 < low <= high <= `upper`.
    """
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
    check_range("scale", scale, upper=1.0)
    check_range("ratio", ratio, upper=math.inf)

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
    check_probability(flip_probability)
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
    check_range("scale", scale, upper=1.0)
    check_range("ratio", ratio, upper=math.inf)
    check_probability(flip_probability)


def check_probability(flip_probability: float) -> None:
    """
    Raises:
        ValueError: not in [0, 1].
    """
    if not 0 <= flip_probability <= 1:
        raise ValueError(f"`flip_probability`={flip_probability} must lie in [0, 1]")


def evaluation_resize_edge(crop_size: int) -> int:
    """Short side before the centre crop of the published evaluation: crop x 256 / 224, in whole pixels."""
    return crop_size * 256 // 224


def resize_short_side(frames: torch.Tensor, *, edge: int) -> torch.Tensor:
    """
    Resize (frames, channels, height, width), bilinear without antialiasing, so that the shorter side has `edge`
    pixels and the longer keeps the aspect ratio, rounded down. The type is kept; uint8 is rounded.
    """
    height, width = frames.shape[-2:]
    long = edge * max(height, width) // min(height, width)
    return _resize(frames, height=edge if height <= width else long, width=long if height <= width else edge)


def center_crop(frames: torch.Tensor, *, size: int) -> torch.Tensor:
    """
    The central square of (frames, channels, height, width), `size` pixels wide, contiguous.

    Raises:
        ValueError: the frames are smaller than the crop.
    """
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
    return center_crop(resize_short_side(frames, edge=edge), size=size)


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
    resized = resize_short_side(frames, edge=size)
    axis = -2 if resized.shape[-2] > resized.shape[-1] else -1
    margin = resized.shape[axis] - size
    starts = (margin * view // (num_views - 1) for view in range(num_views))
    return torch.stack([resized.narrow(axis, start, size) for start in starts])


def normalize(
    frames: torch.Tensor,
    *,
    scale: float,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    dtype: torch.dtype,
) -> torch.Tensor:
    """
    (frames x scale - mean) / std per channel of (..., channels, height, width), as one multiply-add in at least
    float32; the result has type `dtype`.

    Raises:
        ValueError: `mean` or `std` does not fit the channels, or a deviation is not positive.
    """
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
    return normalize(frames, scale=1 / 255, mean=mean, std=std, dtype=dtype)


__all__ = [
    "CROP_RATIO",
    "CROP_SCALE",
    "augment_clip",
    "center_crop",
    "check_augmentation",
    "check_probability",
    "check_range",
    "crop_and_resize",
    "evaluation_resize_edge",
    "normalize",
    "normalize_clips",
    "resize_and_center_crop",
    "resize_and_crop_views",
    "resize_short_side",
    "sample_crop_box",
]
