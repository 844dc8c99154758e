"""
Crops, resizing, flips and normalisation of the frames of a clip.

The functions take one clip, (frames, channels, height, width), uint8 or float, and keep its dtype. `size` is the side
of a square result in pixels. Resizing is bilinear without antialiasing, as published. Random choices come from an
explicit generator. The training stream calls the functions directly and keeps the frames in uint8.

Permute frames that a decoder delivers as (frames, height, width, channels) instead of copying them: torch resizes this
memory layout faster than planes (measured: 1.5 to 2.5 times on x86), and a copy would cost more than the resize.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tvF
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

#: Share of the frame's area, and width / height, of the training crops in the published pretraining recipe.
CROP_SCALE = (0.3, 1.0)
CROP_RATIO = (0.75, 1.35)

#: Automatic augmentations by name.
AutoAugment = Literal["none", "rand"]
#: Crops of training clips by name.
TrainingCrop = Literal["random", "center"]

_CROP_TRIES = 10
# RandAugment fills what a rotation or shift uncovers with the mean colour of ImageNet, as MAE's augmentation does.
_RAND_AUGMENT = v2.RandAugment(
    num_ops=2,
    magnitude=9,
    interpolation=InterpolationMode.BILINEAR,
    fill=[round(255 * mean) for mean in IMAGENET_DEFAULT_MEAN],
)


def _check_frames(frames: torch.Tensor) -> None:
    if frames.ndim != 4 or 0 in frames.shape:
        raise ValueError(
            f"frames of shape {tuple(frames.shape)}: pass one clip as a tensor (frames, channels, height, "
            "width) with at least one frame and pixel"
        )


def check_augmentation(
    *,
    scale: Sequence[float],
    ratio: Sequence[float],
    flip_probability: float = 0.5,
    auto_augment: str = "none",
    crop: str = "random",
    prefix: str = "",
) -> None:
    """
    Checks the settings of [`augment_clip`]; errors call them `prefix` + `scale` and `prefix` + `ratio`.

    Raises:
        ValueError: `scale` is not a pair with 0 < low <= high <= 1, `ratio` is not a pair with 0 < low <= high, the
            probability lies outside [0, 1], or an unknown `auto_augment` or `crop`.
    """
    for name, value, upper in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
        if len(value) != 2 or not 0 < value[0] <= value[1] <= upper:
            bound = "" if math.isinf(upper) else f" <= {upper:g}"
            raise ValueError(f"`{prefix}{name}`={tuple(value)} must be a pair with 0 < low <= high{bound}")
    if not 0 <= flip_probability <= 1:
        raise ValueError(f"`flip_probability`={flip_probability} must lie in [0, 1]")
    for name, value, choices in (("auto_augment", auto_augment, AutoAugment), ("crop", crop, TrainingCrop)):
        if value not in get_args(choices):
            raise ValueError(f"`{name}`={value!r} must be one of {', '.join(get_args(choices))}")


def sample_crop_box(
    height: int,
    width: int,
    *,
    generator: torch.Generator,
    scale: Sequence[float] = CROP_SCALE,
    ratio: Sequence[float] = CROP_RATIO,
) -> tuple[int, int, int, int]:
    """
    Draws the box of a random resized crop, with the distribution of `torchvision.transforms.RandomResizedCrop` (which
    takes no generator): the area is uniform in `scale` times the frame's area, the logarithm of width / height is
    uniform between the logarithms of `ratio`, the position is uniform. A box that does not fit is drawn again. After
    ten tries, the result is the largest central box with the nearest allowed aspect ratio.

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
    check_augmentation(scale=scale, ratio=ratio)

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


def _resize(frames: torch.Tensor, size: list[int]) -> torch.Tensor:
    # uint8 stays uint8 (in fixed point, if the CPU supports it).
    return tvF.resize(frames, size, interpolation=InterpolationMode.BILINEAR, antialias=False)


def crop_and_resize(
    frames: torch.Tensor, *, box: tuple[int, int, int, int], size: int, flip: bool = False
) -> torch.Tensor:
    """
    Cuts one box out of all frames and resizes it to a square. Only pixels of the box are read: the cost is that of the
    crop, not of the frame.

    Args:
        frames: (frames, channels, height, width).
        box: top, left, height and width, in pixels.
        size: side of the result, in pixels.
        flip: mirror left and right, after resizing.

    Returns:
        (frames, channels, size, size), contiguous. uint8 values differ from the rounded float result by at most one
        grey level.

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
    resized = _resize(frames[..., top : top + box_height, left : left + box_width], [size, size])
    if flip:
        resized = resized.flip(-1)
    # A worker process that sends a view would send the full frames.
    return resized.contiguous()


def augment_clip(
    frames: torch.Tensor,
    *,
    size: int,
    generator: torch.Generator,
    scale: Sequence[float] = CROP_SCALE,
    ratio: Sequence[float] = CROP_RATIO,
    flip_probability: float = 0.5,
    auto_augment: AutoAugment = "none",
    crop: TrainingCrop = "random",
) -> torch.Tensor:
    """
    Training augmentation: a random resized crop ([`sample_crop_box`]), or with `crop="center"` that of
    [`resize_and_center_crop`]; a horizontal flip; and, with `auto_augment="rand"`, RandAugment ([`rand_augment`]). All
    are the same for all frames. From (frames, channels, height, width) to (frames, channels, size, size).

    Raises:
        ValueError: frames that are not one clip, or settings that [`check_augmentation`] refuses.
    """
    _check_frames(frames)
    check_augmentation(
        scale=scale, ratio=ratio, flip_probability=flip_probability, auto_augment=auto_augment, crop=crop
    )
    height, width = frames.shape[-2:]
    box = sample_crop_box(height, width, generator=generator, scale=scale, ratio=ratio)
    # Drawn for every probability, so that another probability does not change the boxes that follow.
    flip = torch.rand((), generator=generator).item() < flip_probability
    if crop == "center":
        clip = resize_and_center_crop(frames, size=size)
        clip = clip.flip(-1).contiguous() if flip else clip
    else:
        clip = crop_and_resize(frames, box=box, size=size, flip=flip)
    return rand_augment(clip, generator=generator) if auto_augment == "rand" else clip


def rand_augment(frames: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """
    RandAugment (arXiv 1909.13719) as torchvision has it: two random operations of magnitude 9 out of 30, the same for
    all frames. The published fine-tuning of I-JEPA (appendix A.2) takes that of MAE, which draws the magnitudes from a
    normal distribution around 9.

    Args:
        frames: uint8 (frames, 3, height, width).
        generator: source of the draws. The global generator of torch stays as it is.

    Returns:
        uint8, of the same shape, contiguous.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    # torchvision draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return _RAND_AUGMENT(frames).contiguous()


def evaluation_resize_edge(crop_size: int) -> int:
    """Short side before the centre crop of the published evaluation: crop x 256 / 224, in whole pixels."""
    return crop_size * 256 // 224


def resize_short_side(frames: torch.Tensor, *, edge: int) -> torch.Tensor:
    """
    Resizes (frames, channels, height, width) so that the shorter side has `edge` pixels. The longer side keeps the
    aspect ratio, rounded down.
    """
    return _resize(frames, [edge])


def center_crop(frames: torch.Tensor, *, size: int) -> torch.Tensor:
    """
    The central square (frames, channels, size, size) of (frames, channels, height, width), contiguous.

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


def resize_and_center_crop(frames: torch.Tensor, *, size: int) -> torch.Tensor:
    """
    Geometry of the published evaluation: resizes the short side of (frames, channels, height, width) to
    `evaluation_resize_edge(size)`, then crops the centre. Returns (frames, channels, size, size), contiguous.

    Raises:
        ValueError: frames that are not one clip.
    """
    _check_frames(frames)
    return center_crop(resize_short_side(frames, edge=evaluation_resize_edge(size)), size=size)


def resize_and_crop_views(frames: torch.Tensor, *, size: int, num_views: int = 3) -> torch.Tensor:
    """
    Spatial views of the multi-view evaluation (published: 3): resizes the short side of (frames, channels, height,
    width) to the crop, then takes evenly spaced crops along the long side, left to right or top to bottom. Returns
    (num_views, frames, channels, size, size).

    Raises:
        ValueError: frames that are not one clip, or fewer than two views.
    """
    _check_frames(frames)
    if num_views < 2:
        raise ValueError(f"`num_views`={num_views} must be at least 2: use `resize_and_center_crop` for one view")
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
    # On the CPU: checks of constants on an accelerator would synchronise.
    mean, std = (torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1, 1) for value in (mean, std))
    for name, value in (("mean", mean), ("std", std)):
        if len(value) not in (1, frames.shape[-3]):
            raise ValueError(
                f"`{name}` has {len(value)} values for {frames.shape[-3]} channels: pass one value per channel"
            )
    if not (std > 0).all():
        raise ValueError(f"`std`={std.flatten().tolist()} must be greater than 0 everywhere")
    # In bfloat16, factor and offset would be wrong by more than a grey level: round the result, not the constants.
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
    (frames / 255 - mean) / std, on the device of the frames.

    Args:
        frames: uint8 (..., channels, height, width), any number of leading axes.
        mean, std: one value per channel, or one for all, on the scale 0 to 1.
        dtype: floating type of the result.

    Returns:
        The same shape as `frames`, of type `dtype`; computed in at least float32.

    Raises:
        ValueError: frames that are not uint8, or `mean` or `std` that do not fit the channels.
    """
    if frames.dtype != torch.uint8:
        raise ValueError(f"frames of {frames.dtype}: pass uint8 (floats may be normalised already)")
    return normalize(frames, scale=1 / 255, mean=mean, std=std, dtype=dtype)
