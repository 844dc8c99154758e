"""Small videos for tests."""

import io
import tarfile
from pathlib import Path

import av
import numpy as np


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


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Writes an uncompressed tar with these members, bytes by name."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
