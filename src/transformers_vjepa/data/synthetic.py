"""
The built-in corpus: rendered video files with known motion and shape, for the demo, the study and the tests.

Several shapes of one kind move in one way over a faint texture that drifts independently. Each video has two
independent labels: the motion of its shapes (`MOTIONS`) and their kind (`APPEARANCES`). The corpus is made to judge
frozen features fairly:

- A single frame contains no information about the motion. The image is a torus (a shape that leaves on one side
  enters on the other), so places stay uniform; so do orientations, on the circle; and so do sizes, whose logarithm
  runs through a cycle: a shape that grows beyond the largest size fades out and returns as a small one, like a Shepard
  tone. Shapes of the other motions are drawn from the same cycle and keep their size. So each frame of each motion has
  exactly the same distribution.
- Opposite motions are one rendering in the two directions of time: `render_clip(motion="left", seed=s)` is
  `render_clip(motion="right", seed=s)` backwards, frame by frame. So statistics of unordered frames cannot tell the
  two apart.
- A shape is brighter or darker than the background, at random, and has its own colours, texture, size and angle. If
  shapes were always brighter, the sign of a pixel's change would reveal the motion to a linear read-out.
- Shapes twinkle, each in its own rhythm. Otherwise two clips of one motion would stay aligned for their whole length,
  and the ten nearest of 200 clips in frame differences would already give the motion of 54 % of other clips.
- All shapes of one radius cover the same area; everything but the two labels is drawn independently of both.
- Every frame of every video has the same mean colour. So nothing can be read off the means, and an encoder cannot
  succeed by telling dark clips from bright clips. Without this, what a whole clip shares would predict masked regions
  best, and features would hold little else.

Still, read-outs of hand-crafted descriptors (`baselines`) are not all at chance; compare features with these numbers.
In % of 800 clips, for motion (chance 12.5), with 200 and 2,400 labelled clips:

                       ridge regression    ten nearest
    mean colours            13.9  13.4     13.1  14.5    (of a crop, which shapes enter and leave)
    single frame            11.6  12.5     13.0  12.9
    raw pixels              15.4  16.8     24.6  43.9
    frame differences       13.5  15.5     18.1  31.2
    optical flow            81.8  82.2     82.2  84.5

`render_clip` can also interrupt a motion, to test whether a predictor is surprised (see `DISTURBANCES`).
"""

import csv
import dataclasses
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..safety.atomic_files import atomic_path, write_text_atomically

MOTIONS = ("left", "right", "up", "down", "rotate_clockwise", "rotate_counterclockwise", "zoom_in", "zoom_out")
# Five and eight, which have no common divisor: `_labels` needs this to be balanced.
APPEARANCES = ("disc", "ring", "triangle", "cross", "bar")
SPLITS = ("train", "test")
# What can happen to all shapes of a clip at once: nothing; a displacement; disappearance; the motion backwards.
DISTURBANCES = ("none", "jump", "vanish", "reverse")

# Increase this number with every change of a rendered pixel or of the layout on disk.
_FORMAT_VERSION = 2

# Motions that are rendered as their opposite and reversed.
_REVERSE_OF = {"left": "right", "up": "down", "rotate_counterclockwise": "rotate_clockwise", "zoom_out": "zoom_in"}

# Ranges of the random numbers of a scene, which are uniform. Lengths are fractions of the image's side, so that a
# video looks the same at every size.
_NUM_SHAPES = 5
_RADIUS = (0.085, 0.21)  # of the disc with the shape's area; log-uniform
_FADED = 0.15  # share of the cycle of sizes, at each end, over which a shape fades
_SPEED = (0.012, 0.024)  # per frame
_TURN = (math.radians(5.0), math.radians(9.0))  # per frame
_ZOOM = (0.02, 0.03)  # change of log(radius) per frame
_DRIFT = (0.0, 0.004)  # speed of the background, any direction: at most a third of the slowest shape
_JUMP = (0.2, 0.5)  # displacement by the disturbance "jump", any direction
# Lightness, in [0, 1]: mean of each frame; then background and shapes relative to the mean. The two ends of a shape's
# texture are these two multiples of its contrast.
_MEAN_LIGHTNESS = 0.45
_GROUND_LIGHTNESS = (-0.05, 0.05)
_GROUND_CHROMA = 0.03
_CONTRAST = (0.2, 0.4)
_TEXTURE = (0.6, 1.3)
_CHROMA = 0.1
# Share of its opacity that each shape loses and regains in its own rhythm, and the frames per period.
_TWINKLE = 0.7
_TWINKLE_PERIOD = (6.0, 12.0)


@dataclass(frozen=True)
class CorpusConfig:
    """
    What `build_corpus` renders.

    Args:
        num_train, num_test: videos per split. A multiple of 40 has each pair of labels equally often.
        size: height and width of a video in pixels; even (H.264 halves the colour planes), at least 16.
        num_frames: frames per video, at least 2. The default fits a clip of 8 frames at stride 2 with a random start.
        fps: frame rate written to the files; it does not change the frames.
        seed: corpora with different seeds share no scene.

    Raises:
        ValueError: a value is out of bounds.
    """

    num_train: int = 2400
    num_test: int = 800
    size: int = 48
    num_frames: int = 20
    fps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {"num_train": 1, "num_test": 1, "size": 16, "num_frames": 2, "fps": 1, "seed": 0}
        for name, lowest in bounds.items():
            value = getattr(self, name)
            if value < lowest:
                raise ValueError(f"{name} is {value}, but it must be at least {lowest}")
        if self.size % 2:
            raise ValueError(f"size is {self.size}, but H.264 needs an even one: use {self.size + 1}")


@dataclass(frozen=True)
class VideoRecord:
    """One video of a corpus and its labels."""

    path: Path
    split: str
    motion: str
    appearance: str


# --- Shapes: signed distances in units of the radius, negative inside. Each shape has the area pi of the unit disc.
# A signed distance d drawn as clip(1/2 - d in pixels, 0, 1) is an edge antialiased over one pixel.


def _box(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 1.0


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    hole = 0.55  # of the outer radius
    outer = 1.0 / math.sqrt(1.0 - hole**2)
    distance = np.hypot(u, v)
    return np.maximum(distance - outer, hole * outer - distance)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Equilateral with inradius q: area 3 sqrt(3) q^2.
    inradius = math.sqrt(math.pi / (3.0 * math.sqrt(3.0)))
    slanted = np.abs(u) * (math.sqrt(3.0) / 2.0) - v * 0.5
    return np.maximum(slanted, v) - inradius


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Two bars of length 2a and width 2wa: area (8w - 4w^2) a^2.
    width = 0.3
    arm = math.sqrt(math.pi / (8.0 * width - 4.0 * width**2))
    return np.minimum(_box(u, v, arm, width * arm), _box(u, v, width * arm, arm))


def _bar(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    aspect = 2.8
    half_width = math.sqrt(math.pi * aspect / 4.0)
    return _box(u, v, half_width, half_width / aspect)


# Distance from the centre to the farthest point of any shape: a corner of the bar.
_REACH = 1.58

_SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "ring": _ring,
    "triangle": _triangle,
    "cross": _cross,
    "bar": _bar,
}


# --- One clip.


@dataclass(frozen=True)
class Shape:
    """One shape of a scene, in the middle of the video. Its texture runs between two colours, dark and bright."""

    centre: np.ndarray  # (2,) x, y in pixels
    angle: float  # radians
    phase: float  # place in the cycle of sizes, in [0, 1)
    twinkle: float  # share of the opacity that it loses and regains
    twinkle_period: float  # frames
    twinkle_phase: float  # radians
    waves: np.ndarray  # (waves, 2) radians per radius
    wave_phases: np.ndarray  # (waves,) radians
    colours: np.ndarray  # (2, 3) the two ends of the texture, relative to the mean colour


@dataclass(frozen=True)
class Scene:
    """Everything random about a clip. A scene is drawn before the labels are known, so it is independent of them."""

    size: int  # side of the image in pixels
    shapes: tuple[Shape, ...]
    speed: float  # pixels per frame
    turn: float  # radians per frame
    zoom: float  # log(radius) per frame
    drift: np.ndarray  # (2,) pixels per frame
    jump: np.ndarray  # (2,) pixels
    background_waves: np.ndarray  # (waves, 2) radians per pixel
    background_phases: np.ndarray  # (waves,) radians
    background_colours: np.ndarray  # (2, 3) relative to the mean colour


@dataclass(frozen=True)
class _Course:
    """The content of the frames of a clip, in the order of rendering; see `_course`."""

    times: np.ndarray  # (frames,) in frames since the middle of the video
    shape_times: np.ndarray  # (frames,) the same for the motion of the shapes, which a disturbance may reverse
    displacement: np.ndarray  # (frames, 2) of all shapes, in pixels
    visible: np.ndarray  # (frames,) bool


def _waves(rng: np.random.Generator, *, number: int, shortest: float, longest: float) -> np.ndarray:
    """Wave vectors (number, 2) of any direction with wavelengths in the given range."""
    lengths = 2.0 * math.pi / rng.uniform(shortest, longest, number)
    directions = rng.uniform(0.0, 2.0 * math.pi, number)
    return np.stack([lengths * np.cos(directions), lengths * np.sin(directions)], axis=1)


def _colour(*, lightness: float, hue: float, chroma: float) -> np.ndarray:
    """RGB whose mean over the channels is `lightness`, so that hue and lightness are independent."""
    return lightness + chroma * np.cos(hue - 2.0 * math.pi / 3.0 * np.arange(3))


def _vector(rng: np.random.Generator, lengths: tuple[float, float]) -> np.ndarray:
    """(2,) of any direction, with a length in the given range."""
    direction = rng.uniform(0.0, 2.0 * math.pi)
    return rng.uniform(*lengths) * np.array([math.cos(direction), math.sin(direction)])


def _scattered_points(rng: np.random.Generator, *, number: int, side: float) -> np.ndarray:
    """Points (number, 2) on the torus that keep a distance: the best of twelve candidates each (Mitchell 1991)."""
    points = rng.uniform(0.0, side, (1, 2))
    while len(points) < number:
        candidates = rng.uniform(0.0, side, (12, 2))
        apart = np.abs(candidates[:, None] - points)
        nearest = np.hypot(*np.moveaxis(np.minimum(apart, side - apart), -1, 0)).min(axis=1)
        points = np.concatenate([points, candidates[nearest.argmax()][None]])
    return points


def _sample_shape(rng: np.random.Generator, *, centre: np.ndarray) -> Shape:
    contrast = rng.choice((-1.0, 1.0)) * rng.uniform(*_CONTRAST)
    ends = [_colour(lightness=end * contrast, hue=rng.uniform(0.0, 2.0 * math.pi), chroma=_CHROMA) for end in _TEXTURE]
    return Shape(
        centre=centre,
        angle=rng.uniform(0.0, 2.0 * math.pi),
        phase=rng.uniform(0.0, 1.0),
        twinkle=_TWINKLE,
        twinkle_period=rng.uniform(*_TWINKLE_PERIOD),
        twinkle_phase=rng.uniform(0.0, 2.0 * math.pi),
        waves=_waves(rng, number=2, shortest=1.6, longest=3.2),
        wave_phases=rng.uniform(0.0, 2.0 * math.pi, 2),
        colours=np.stack(ends),
    )


def sample_scene(seed: int | Sequence[int], *, size: int) -> Scene:
    """Draw a scene for frames of `size` x `size` pixels."""
    rng = np.random.default_rng(seed)
    centres = _scattered_points(rng, number=_NUM_SHAPES, side=size)
    hue = rng.uniform(0.0, 2.0 * math.pi)
    return Scene(
        size=size,
        shapes=tuple(_sample_shape(rng, centre=centre) for centre in centres),
        speed=size * rng.uniform(*_SPEED),
        turn=rng.uniform(*_TURN),
        zoom=rng.uniform(*_ZOOM),
        drift=size * _vector(rng, _DRIFT),
        jump=size * _vector(rng, _JUMP),
        background_waves=_waves(rng, number=4, shortest=0.15 * size, longest=0.6 * size),
        background_phases=rng.uniform(0.0, 2.0 * math.pi, 4),
        background_colours=np.stack(
            [_colour(lightness=lightness, hue=hue, chroma=_GROUND_CHROMA) for lightness in _GROUND_LIGHTNESS]
        ),
    )


def _course(scene: Scene, *, num_frames: int, backwards: bool, disturb: str, disturb_at: int) -> _Course:
    """The arrays of the finished clip, reversed if it is played backwards: the renderer knows one direction only."""
    frames = np.arange(num_frames)
    disturbed = frames >= disturb_at
    # "reverse" mirrors the motion at the last frame before the disturbance: frame p + i equals frame p - i.
    mirrored = 2 * (disturb_at - 1) - frames
    shown = np.where(disturbed & (disturb == "reverse"), mirrored, frames)
    sign, middle = (-1.0 if backwards else 1.0), (num_frames - 1) / 2
    course = (
        sign * (frames - middle),
        sign * (shown - middle),
        (disturbed & (disturb == "jump"))[:, None] * scene.jump,
        ~(disturbed & (disturb == "vanish")),
    )
    return _Course(*(array[::-1] if backwards else array for array in course))


def _plane_waves(
    x: np.ndarray, y: np.ndarray, *, waves: np.ndarray, phases: np.ndarray, sharpness: float
) -> np.ndarray:
    """A clipped sum of waves at pixels x, y (frames, size): float32 (frames, size, size) in [0, 1], rows first."""
    # A plane wave is the product of a function of x and a function of y, so all waves of a frame are one small matrix
    # product instead of a cosine per pixel. `waves` are (frames, number, 2), `phases` (number,).
    along_x = np.exp(1j * (waves[:, :, :1] * x[:, None, :] + phases[:, None])).astype(np.complex64)
    along_y = np.exp(1j * (waves[:, :, 1:] * y[:, None, :])).astype(np.complex64)
    summed = (along_y.transpose(0, 2, 1) @ along_x).real
    return np.clip(0.5 + (0.5 * sharpness / phases.size) * summed, 0.0, 1.0)


def _window(centre: np.ndarray, *, reach: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The square that a shape can touch: offsets of its pixels from the centre, and their flat indices."""
    half = math.ceil(reach + 1.0)  # antialiasing extends a corner by up to one pixel
    places = np.floor(centre).T[:, :, None] - min(half, size // 2) + np.arange(min(2 * half + 1, size))
    columns, rows = places.astype(np.int64) % size
    frames = np.arange(len(centre))[:, None, None]
    return places + 0.5 - centre.T[:, :, None], (frames * size + rows[:, :, None]) * size + columns[:, None, :]


def _render_shape(
    shape: Shape, *, scene: Scene, appearance: str, motion: str, course: _Course
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage, texture (both float32 in [0, 1]) and flat pixel indices of a shape's square: (frames, side, side)."""
    times, size = course.shape_times, scene.size
    direction = np.array({"right": (1.0, 0.0), "down": (0.0, 1.0)}.get(motion, (0.0, 0.0)))
    centre = shape.centre + scene.speed * times[:, None] * direction + course.displacement
    # y points down, so a growing angle turns clockwise on the screen.
    angle = shape.angle + (scene.turn if motion == "rotate_clockwise" else 0.0) * times
    cycle = math.log(_RADIUS[1] / _RADIUS[0])
    phase = (shape.phase + (scene.zoom / cycle if motion == "zoom_in" else 0.0) * times) % 1.0
    radius = size * _RADIUS[0] * np.exp(cycle * phase)
    opacity = course.visible * np.clip(np.minimum(phase, 1.0 - phase) / _FADED, 0.0, 1.0)
    twinkle = np.cos(2.0 * math.pi / shape.twinkle_period * course.times + shape.twinkle_phase)
    opacity = opacity * (1.0 - shape.twinkle * (0.5 + 0.5 * twinkle))

    # The largest possible size, so that a disturbance does not change the square, nor by rounding the earlier frames.
    largest = size * _RADIUS[1] if motion == "zoom_in" else radius.max()
    (x, y), pixels = _window(centre, reach=_REACH * largest, size=size)
    cosine, sine = np.cos(angle) / radius, np.sin(angle) / radius
    # Coordinates relative to the shape: rotated back by the angle, divided by the radius.
    x32, y32, c32, s32 = (array.astype(np.float32) for array in (x, y, cosine, sine))
    u = (c32[:, None] * x32)[:, None, :] + (s32[:, None] * y32)[:, :, None]
    v = (c32[:, None] * y32)[:, :, None] - (s32[:, None] * x32)[:, None, :]
    distance = _SHAPES[appearance](u, v) * radius.astype(np.float32)[:, None, None]
    coverage = np.clip(0.5 - distance, 0.0, 1.0) * opacity.astype(np.float32)[:, None, None]

    # The texture is fixed to the shape, so its wave vectors rotate and scale with the shape.
    waves = np.stack(
        [
            shape.waves[:, 0] * cosine[:, None] - shape.waves[:, 1] * sine[:, None],
            shape.waves[:, 0] * sine[:, None] + shape.waves[:, 1] * cosine[:, None],
        ],
        axis=2,
    )
    return coverage, _plane_waves(x, y, waves=waves, phases=shape.wave_phases, sharpness=2.5), pixels


def _render_light(scene: Scene, *, appearance: str, motion: str, course: _Course) -> np.ndarray:
    """Background and shapes relative to the mean colour: float32 (3, frames, size, size)."""
    pixels = np.arange(scene.size) + 0.5
    background = _plane_waves(
        pixels - scene.drift[0] * course.times[:, None],
        pixels - scene.drift[1] * course.times[:, None],
        waves=np.broadcast_to(scene.background_waves, (len(course.times), *scene.background_waves.shape)),
        phases=scene.background_phases,
        sharpness=1.5,
    )
    low, high = scene.background_colours.astype(np.float32)[:, :, None, None, None]
    light = low + (high - low) * background  # channels first, because numpy is slow on a last axis of three
    flat = light.reshape(3, -1)
    for shape in scene.shapes:
        coverage, texture, pixels = _render_shape(
            shape, scene=scene, appearance=appearance, motion=motion, course=course
        )
        for plane, (low, high) in zip(flat, shape.colours.T.astype(np.float32), strict=True):
            under = plane[pixels]
            plane[pixels] = under + coverage * (low + (high - low) * texture - under)
    return light


def _equal_means(light: np.ndarray) -> np.ndarray:
    """Give every frame and channel (..., size, size) the same mean lightness, with values in [0, 1]. In place."""
    for _ in range(3):  # clipping changes the mean again, so one pass is not enough
        light += _MEAN_LIGHTNESS - light.mean(axis=(-2, -1), keepdims=True)
        np.clip(light, 0.0, 1.0, out=light)
    return light


def render_scene(
    scene: Scene,
    *,
    motion: str,
    appearance: str,
    num_frames: int = 20,
    disturb: Literal["none", "jump", "vanish", "reverse"] = "none",
    disturb_at: int | None = None,
) -> np.ndarray:
    """Render a clip of a scene: uint8 (num_frames, size, size, 3), RGB. See [`render_clip`]."""
    for name, value, known in (
        ("motion", motion, MOTIONS),
        ("appearance", appearance, APPEARANCES),
        ("disturb", disturb, DISTURBANCES),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, but it must be one of {', '.join(known)}")
    if disturb == "none":
        disturb_at = num_frames
    elif disturb_at is None or not 1 <= disturb_at < num_frames:
        raise ValueError(f"disturb_at is {disturb_at}, but with disturb={disturb!r} it must be 1 to {num_frames - 1}")
    backwards = motion in _REVERSE_OF
    course = _course(scene, num_frames=num_frames, backwards=backwards, disturb=disturb, disturb_at=disturb_at)
    light = _render_light(scene, appearance=appearance, motion=_REVERSE_OF.get(motion, motion), course=course)
    frames = (_equal_means(light) * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 3, 0)
    return np.ascontiguousarray(frames[::-1] if backwards else frames)


def render_clip(
    *,
    motion: str,
    appearance: str,
    seed: int | Sequence[int],
    size: int = 48,
    num_frames: int = 20,
    disturb: Literal["none", "jump", "vanish", "reverse"] = "none",
    disturb_at: int | None = None,
) -> np.ndarray:
    """
    Render one clip.

    The same arguments give the same pixels. With one seed, opposite motions are each other's time reversal, and
    the frames before a disturbance are those of the undisturbed clip.

    Args:
        motion: one of `MOTIONS`. Directions are those seen on the screen.
        appearance: one of `APPEARANCES`.
        seed: seed of everything else (a non-negative integer, or several that act as one seed).
        size: height and width in pixels.
        num_frames: number of frames.
        disturb: one of `DISTURBANCES`, for all shapes: a displacement by one random vector of 0.2 to 0.5 sides
            (`"jump"`), disappearance (`"vanish"`), or the motion backwards (`"reverse"`). The background continues.
        disturb_at: the first disturbed frame, 1 to `num_frames` - 1. Ignored without a disturbance.

    Returns:
        uint8 (num_frames, size, size, 3), RGB.

    Raises:
        ValueError: `motion`, `appearance` or `disturb` is not one of the known names, or `disturb_at` is missing or
            out of range.
    """
    return render_scene(
        sample_scene(seed, size=size),
        motion=motion,
        appearance=appearance,
        num_frames=num_frames,
        disturb=disturb,
        disturb_at=disturb_at,
    )


# --- The corpus on disk.


def _labels(config: CorpusConfig, split: str) -> list[tuple[str, str]]:
    """(motion, appearance) of every video of a split, in the order of the files."""
    number = config.num_train if split == "train" else config.num_test
    # Since 8 and 5 have no common divisor, 40 successive videos have each pair once (Chinese remainder theorem). For
    # any number of videos the counts of the motions, of the appearances and of the pairs differ by at most one.
    pairs = [(MOTIONS[i % len(MOTIONS)], APPEARANCES[i % len(APPEARANCES)]) for i in range(number)]
    order = np.random.default_rng([config.seed, SPLITS.index(split)]).permutation(number)
    return [pairs[i] for i in order]


def _records(root: Path, config: CorpusConfig) -> list[VideoRecord]:
    return [
        VideoRecord(root / split / f"{index:06d}.mp4", split, motion, appearance)
        for split in SPLITS
        for index, (motion, appearance) in enumerate(_labels(config, split))
    ]


def encode_frames(frames: np.ndarray, path: Path, *, fps: int) -> None:
    """Write frames (frames, size, size, 3) as H.264 with B-frames and a keyframe at least every 12 frames."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        # b_strategy 0: B-frames at fixed places; the fast presets would omit most of them.
        # mbtree 0: for such small frames, x264's macroblock tree gives files that differ from run to run.
        options = {"crf": "18", "preset": "veryfast", "b_strategy": "0", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.max_b_frames = 2
        # One thread per file, because several processes already render the corpus.
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _render_file(job: tuple[VideoRecord, CorpusConfig]) -> None:
    """Render one video of the corpus. At module level, so that spawned processes can import the function."""
    record, config = job
    # Three numbers, while the order of the labels uses two: so no stream of random numbers is used twice.
    seed = [config.seed, SPLITS.index(record.split), int(record.path.stem)]
    labels = {"motion": record.motion, "appearance": record.appearance}
    frames = render_clip(**labels, seed=seed, size=config.size, num_frames=config.num_frames)
    # A file under its final name is a whole file: an interrupted render leaves only the other name behind.
    with atomic_path(record.path, shared=True, flush=False) as unfinished:
        encode_frames(frames, unfinished, fps=config.fps)


def _render_files(jobs: list[tuple[VideoRecord, CorpusConfig]], *, num_processes: int | None) -> None:
    from tqdm.auto import tqdm

    if num_processes is None:
        # A new process first imports this package, which takes as long as some hundred videos.
        num_processes = min(os.cpu_count() or 1, math.ceil(len(jobs) / 400))
    progress = {"total": len(jobs), "desc": "rendering the synthetic corpus", "unit": "video"}
    if num_processes <= 1:
        for job in tqdm(jobs, **progress):
            _render_file(job)
        return
    # Spawned, not forked: the caller may have threads (torch starts some), which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        for _ in tqdm(pool.map(_render_file, jobs, chunksize=16), **progress):
            pass


def _write_index(root: Path, records: list[VideoRecord]) -> None:
    rows = ["path,split,motion,appearance"]
    rows += [f"{r.path.relative_to(root).as_posix()},{r.split},{r.motion},{r.appearance}" for r in records]
    write_text_atomically(root / "labels.csv", "\n".join(rows) + "\n")
    for split in SPLITS:
        for label, names in (("motion", MOTIONS), ("appearance", APPEARANCES)):
            lines = [
                f"{r.path.relative_to(root).as_posix()} {names.index(getattr(r, label))}\n"
                for r in records
                if r.split == split
            ]
            write_text_atomically(root / f"{split}_{label}.csv", "".join(lines))


def _check_same_corpus(root: Path, wanted: dict[str, int]) -> None:
    """Raises `ValueError` if the folder holds a corpus of other settings, or other files."""
    try:
        found = json.loads((root / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(root.iterdir()):
            raise ValueError(
                f"{root} is not empty and not a synthetic corpus (it has no config.json): choose another folder, or "
                "delete the files"
            ) from None
        return
    names = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    if names:
        changes = ", ".join(f"{name} {found.get(name)} (asked for: {wanted.get(name)})" for name in names)
        raise ValueError(f"{root} holds a corpus with {changes}: delete the folder or choose another one")


def synthetic_root(output_dir: str) -> Path:
    """
    Folder of the built-in corpus, beside the runs that use it.

    Raises:
        ValueError: the output folder of the run is this folder.
    """
    root = Path(output_dir).parent / "synthetic"
    if root == Path(output_dir):
        raise ValueError(f"--output_dir {output_dir} is the folder of the built-in corpus: choose another folder")
    return root


def build_corpus(
    root: str | os.PathLike, *, config: CorpusConfig | None = None, num_processes: int | None = None
) -> Path:
    """
    Render the corpus into a folder, unless the folder already holds it.

    ```
    root/config.json             the settings; written first
    root/train/000000.mp4 ...    H.264, yuv420p, with B-frames
    root/test/000000.mp4 ...
    root/labels.csv              path,split,motion,appearance
    root/train_motion.csv        "path label" per line, the label an index in MOTIONS; the index format of the
                                 published code. Likewise test_motion, train_appearance, test_appearance.
    root/manifest.json           the settings; written last: its presence means that the corpus is complete
    ```
    Paths in these files are relative to `root`. After an interruption the next call renders the missing files. The
    frames before encoding do not depend on the number of processes.

    Worker processes are spawned, so a script calls this function under `if __name__ == "__main__":`. With several
    ranks, call it on the main rank first.

    Args:
        root: folder; created if missing.
        config: what to render; `CorpusConfig()` by default.
        num_processes: number of rendering processes. By default up to one per CPU, fewer for few videos.

    Returns:
        `root` as a path.

    Raises:
        ValueError: the folder holds a corpus of other settings, or other files.
    """
    root, config = Path(root), config or CorpusConfig()
    root.mkdir(parents=True, exist_ok=True)
    settings = {"format_version": _FORMAT_VERSION, **dataclasses.asdict(config)}
    _check_same_corpus(root, settings)
    if (root / "manifest.json").exists():
        return root
    write_text_atomically(root / "config.json", json.dumps(settings, indent=2) + "\n")
    records = _records(root, config)
    for split in SPLITS:
        (root / split).mkdir(exist_ok=True)
        for leftover in (root / split).glob("*.unfinished"):
            leftover.unlink()
    jobs = [(record, config) for record in records if not record.path.exists()]
    if jobs:
        _render_files(jobs, num_processes=num_processes)
    _write_index(root, records)
    write_text_atomically(root / "manifest.json", json.dumps(settings, indent=2) + "\n")
    return root


def load_labels(root: str | os.PathLike, *, split: Literal["train", "test"]) -> list[VideoRecord]:
    """
    The videos of one split and their labels, in the order of the files.

    Args:
        root: folder that `build_corpus` returned.
        split: one of `SPLITS`.

    Raises:
        ValueError: an unknown split.
        FileNotFoundError: the folder does not hold a complete corpus.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, but it must be one of {', '.join(SPLITS)}")
    root = Path(root)
    if not (root / "manifest.json").exists():
        raise FileNotFoundError(f"{root} does not hold a complete corpus (no manifest.json): call build_corpus first")
    with open(root / "labels.csv", encoding="utf-8", newline="") as file:
        return [
            VideoRecord(root / row["path"], row["split"], row["motion"], row["appearance"])
            for row in csv.DictReader(file)
            if row["split"] == split
        ]
