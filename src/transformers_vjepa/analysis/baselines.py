"""
Hand-crafted descriptors of clips, for the same read-outs as learned features: results without learning.

Each of [`BASELINES`] takes uint8 clips (clips, frames, height, width, 3) and returns float32 (clips, numbers). The
first two descriptors contain no motion. The next two contain all frames, but do not describe motion. `optical_flow`
describes motion by a textbook method.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

#: Bins of directions in `optical_flow`: the first is to the right, the others follow clockwise on the screen.
NUM_DIRECTIONS = 8
_SIDE = 16  # pixels of the reduced images
_WINDOW, _STRIDE = 9, 4  # pixels, of the windows in which flow is estimated
_BLUR = 1.0  # standard deviation in pixels: gradients of a blurred image hold for displacements of about a pixel
_CLIPS_AT_ONCE = 128


def _check_clips(clips: torch.Tensor, *, least_frames: int = 1) -> None:
    if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype != torch.uint8 or 0 in clips.shape:
        raise ValueError(
            f"clips of shape {tuple(clips.shape)} and type {clips.dtype}: pass uint8 (clips, frames, height, width, 3)"
        )
    if clips.shape[1] < least_frames:
        raise ValueError(f"clips of {clips.shape[1]} frame: differences and flow need at least {least_frames} frames")


def _small(clips: torch.Tensor) -> torch.Tensor:
    """float32 (clips, frames, 3, 16, 16) in [0, 1]; each pixel is the mean of an area."""
    _check_clips(clips)
    chunks = [
        F.interpolate(chunk.flatten(0, 1).permute(0, 3, 1, 2).float() / 255.0, size=(_SIDE, _SIDE), mode="area")
        for chunk in clips.split(_CLIPS_AT_ONCE)
    ]
    return torch.cat(chunks).unflatten(0, clips.shape[:2])


def mean_colours(clips: torch.Tensor) -> torch.Tensor:
    """
    The mean of every channel of every frame, in [0, 1]: float32 (clips, frames * 3).

    Args:
        clips: uint8 (clips, frames, height, width, 3).

    Raises:
        ValueError: clips of another shape or type.
    """
    _check_clips(clips)
    # In chunks, because doubles take eight times the memory.
    means = [chunk.double().mean(dim=(2, 3)) / 255.0 for chunk in clips.split(_CLIPS_AT_ONCE)]
    return torch.cat(means).flatten(1).float()


def single_frame(clips: torch.Tensor) -> torch.Tensor:
    """
    The middle frame (of an even number the second of the two) at 16 x 16: red, green, blue and their mean, as float32
    (clips, 4 * 256). Arguments and errors: see [`mean_colours`].
    """
    _check_clips(clips)
    middle = clips.shape[1] // 2
    frame = _small(clips[:, middle : middle + 1])[:, 0]
    return torch.cat([frame, frame.mean(dim=1, keepdim=True)], dim=1).flatten(1)


def raw_pixels(clips: torch.Tensor) -> torch.Tensor:
    """All frames at 16 x 16: float32 (clips, frames * 3 * 256). Arguments and errors: see [`mean_colours`]."""
    return _small(clips).flatten(1)


def frame_differences(clips: torch.Tensor) -> torch.Tensor:
    """
    Differences of successive frames at 16 x 16: float32 (clips, (frames - 1) * 3 * 256). Arguments and errors: see
    [`mean_colours`]; at least two frames are needed.
    """
    _check_clips(clips, least_frames=2)
    return _small(clips).diff(dim=1).flatten(1)


def _blurred_grey(clips: torch.Tensor) -> torch.Tensor:
    """float32 (clips, frames, height, width) in [0, 1]: the mean of the channels, blurred."""
    places = torch.arange(-3, 4, dtype=torch.float32)
    weights = torch.exp(-0.5 * (places / _BLUR).square())
    weights = weights / weights.sum()
    grey = clips.float().mean(dim=-1).flatten(0, 1)[:, None] / 255.0
    grey = F.pad(grey, (3, 3, 3, 3), mode="replicate")
    grey = F.conv2d(F.conv2d(grey, weights.view(1, 1, 1, 7)), weights.view(1, 1, 7, 1))
    return grey[:, 0].unflatten(0, clips.shape[:2])


def local_motion(clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Displacement, rotation and growth of the image in small windows: the least squares of Lucas and Kanade (1981), with
    rotation and scale as unknowns beside the displacement. A window without visible motion gives zeros.

    Args:
        clips: uint8 (clips, frames, height, width, 3), at least 2 frames and 9 x 9 pixels.

    Returns:
        float32 (clips, frames - 1, windows, 4): displacement to the right and downwards, in pixels per frame,
        growth of lengths (as a share) and clockwise turn (radians) per frame; and the weight of each window, float32
        (clips, frames - 1, windows): its contrast, in [0, 1].

    Raises:
        ValueError: clips of another shape or type, or too small.
    """
    _check_clips(clips, least_frames=2)
    if min(clips.shape[2:4]) < _WINDOW:
        raise ValueError(f"clips of {clips.shape[2]} x {clips.shape[3]} pixels: flow needs at least {_WINDOW} pixels")
    grey = _blurred_grey(clips)
    mean = (grey[:, 1:] + grey[:, :-1]) / 2.0
    along_y, along_x = torch.gradient(mean, dim=(2, 3))
    parts = torch.stack([along_x, along_y, grey.diff(dim=1)], dim=2).flatten(0, 1)
    windows = F.unfold(parts, _WINDOW, stride=_STRIDE).unflatten(1, (3, -1)).permute(1, 0, 3, 2)  # 3 x (pairs, L, 81)
    along_x, along_y, along_t = windows
    offsets = torch.arange(_WINDOW, dtype=torch.float32) - _WINDOW // 2
    y, x = (grid.flatten() for grid in torch.meshgrid(offsets, offsets, indexing="ij"))
    near = torch.exp(-0.5 * (x.square() + y.square()) / (_WINDOW / 4.0) ** 2)
    # A moving point keeps its brightness: gradient . velocity = -change; velocity = (u + g x - c y, v + g y + c x).
    seen = torch.stack([along_x, along_y, along_x * x + along_y * y, along_y * x - along_x * y], dim=-1)
    weighted = (seen * near[:, None]).transpose(-1, -2)
    normal, right = weighted @ seen, -weighted @ along_t[..., None]
    # The ridge prevents a huge displacement along a straight edge, where every displacement fits. Growth and turn move
    # the pixels of a window by about 2 pixels per unit, so their weight is four times as large.
    ridge = 1e-3 * torch.diag(torch.tensor([1.0, 1.0, 4.0, 4.0]))
    motion = torch.linalg.solve(normal + ridge, right)[..., 0]
    contrast = ((along_x.square() + along_y.square()) @ near / near.sum()).sqrt()
    pairs = (clips.shape[0], clips.shape[1] - 1)
    return motion.unflatten(0, pairs), contrast.unflatten(0, pairs)


def optical_flow(clips: torch.Tensor) -> torch.Tensor:
    """
    A histogram of [`local_motion`] over a whole clip; the weight of a window is its contrast.

    Args:
        clips: see [`local_motion`].

    Returns:
        float32 (clips, 8 + 7): the mean speed in pixels per frame in each of eight directions (to the right, then
        clockwise on the screen, each 45 degrees wide); the mean displacement to the right and downwards; the means of
        the positive and of the negative parts of growth and of clockwise turn; the mean speed.

    Raises:
        ValueError: see [`local_motion`].
    """
    found = []
    for chunk in clips.split(_CLIPS_AT_ONCE):
        motion, weights = (values.flatten(1, 2) for values in local_motion(chunk))
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-6)
        right, down, growth, turn = motion.unbind(-1)
        speed = torch.hypot(right, down)
        bins = torch.round(torch.atan2(down, right) * NUM_DIRECTIONS / (2.0 * torch.pi)).long() % NUM_DIRECTIONS
        histogram = torch.zeros(len(chunk), NUM_DIRECTIONS).scatter_add_(1, bins, weights * speed)
        statistics = [right, down, growth.relu(), (-growth).relu(), turn.relu(), (-turn).relu(), speed]
        found.append(torch.cat([histogram, *((weights * s).sum(dim=1, keepdim=True) for s in statistics)], dim=1))
    return torch.cat(found)


#: Name of each descriptor, and its function.
BASELINES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    function.__name__: function
    for function in (mean_colours, single_frame, raw_pixels, frame_differences, optical_flow)
}
#: The descriptors that a single frame has.
IMAGE_BASELINES = {name: BASELINES[name] for name in ("mean_colours", "raw_pixels")}
