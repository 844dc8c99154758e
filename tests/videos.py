"""Small videos for tests."""

import io
import tarfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import torch

# Between the grey levels of two numbered frames: two steps of the luma that is stored.
LEVELS = 2 * 255 / 219


def write_video(path: Path, *, level: int, num_frames: int = 12, size: tuple[int, int] = (32, 48)) -> Path:
    """Writes an H.264 file in which every frame (height, width) is grey with brightness `level`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((*size, 3), level, dtype=np.uint8), format="rgb24")
        for _ in range(num_frames):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_numbered(
    file: Path | BinaryIO,
    *,
    num_frames: int,
    codec: str = "libx264",
    format: str | None = None,
    fps: int | Fraction = 25,
    milliseconds: Sequence[int] | None = None,
    **options: str,
) -> None:
    """
    Writes frames (48, 64) that carry their number as a grey level, above a texture that moves. They are displayed at
    the times in `milliseconds`, if these are given.
    """
    noise = np.random.default_rng(0).integers(0, 256, (16, 64 + num_frames, 1), dtype=np.uint8)
    with av.open(str(file) if isinstance(file, Path) else file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if milliseconds is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for i in range(num_frames):
            image = np.full((48, 64, 3), round(LEVELS * i), dtype=np.uint8)
            image[32:] = noise[:, i : i + 64]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def numbers_in(frames: torch.Tensor) -> list[int]:
    """The numbers in frames (..., 3, 48, 64) of [`write_numbered`]."""
    level = frames[..., 4:28, :].double().mean((-3, -2, -1)).flatten()
    return [round(value / LEVELS) for value in level.tolist()]


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Writes an uncompressed tar with these members, bytes by name."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
