"""
Measures the time to open a folder of many files, the time to record them as `vjepa pretrain` does at its start, and
the memory of the main process and of a worker. With `--kind images` the files are links to one small JPEG, so that the
benchmark also reads a first batch of the stream.

    python benchmarks/many_files.py --files 100000
    python benchmarks/many_files.py --files 1000000 --kind images
"""

import os
import resource
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from transformers_vjepa import ClipSampling, VJEPAConfig, clip_stream
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.corpus import IndexedCorpus
from transformers_vjepa.data.fingerprints import DATA_RECORD, check_same_data

FILES_PER_FOLDER = 1000
BATCH = 64


def private_megabytes() -> float:
    return psutil.Process().memory_full_info().uss / 1e6


def peak_megabytes() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def name_all(corpus: IndexedCorpus, sender: Connection) -> None:
    """Sends the memory in MB that a worker adds to the shared memory when the worker reads the name of every file."""
    before = private_megabytes()
    for index in range(len(corpus)):
        corpus.describe(index)
    sender.send(private_megabytes() - before)


def make_files(root: Path, *, files: int, kind: str) -> None:
    """Empty videos, or links to one image, in folders of `FILES_PER_FOLDER`."""
    for number in range(files):
        folder = root / f"{number // FILES_PER_FOLDER:04}"
        if number % FILES_PER_FOLDER == 0:
            folder.mkdir(parents=True)
            Image.new("RGB", (48, 40), (number % 256, 0, 0)).save(folder / "first.jpg")
        if kind == "images":  # one image for each folder, because a file may only have some thousand links
            os.link(folder / "first.jpg", folder / f"{number:08}.jpg")
        else:
            (folder / f"{number:08}.mp4").touch()
        if number % FILES_PER_FOLDER == FILES_PER_FOLDER - 1 or number == files - 1:
            (folder / "first.jpg").unlink()


def read_first_batch(corpus: IndexedCorpus) -> None:
    """Makes a stream of the corpus and reads its first `BATCH` images."""
    config = VJEPAConfig(crop_size=32, patch_size=8, frames_per_clip=1, tubelet_size=1)
    list(islice(clip_stream(corpus, config=config, sampling=ClipSampling(num_frames=1)), BATCH))


def timed(function: Callable[..., Any], *arguments: Any, **settings: Any) -> tuple[Any, str]:
    """The result of a call, and its time in words. On a shared machine only the processor time can be compared."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function(*arguments, **settings)
    return result, f"{time.perf_counter() - wall:.2f} s ({time.process_time() - processor:.2f} s of the processor)"


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000, help="number of files in the folder")
    parser.add_argument("--kind", choices=["videos", "images"], default="videos", help="empty videos, or images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        make_files(Path(root) / "data", files=arguments.files, kind=arguments.kind)
        before = private_megabytes()
        corpus, seconds = timed(open_corpus, Path(root) / "data")
        main_process = private_megabytes() - before
        receiver, sender = get_context("fork").Pipe(duplex=False)
        worker = get_context("fork").Process(target=name_all, args=(corpus, sender))
        worker.start()
        print(
            f"{len(corpus):,} {arguments.kind}: {seconds} to open, {main_process:.1f} MB in the main process, "
            f"{receiver.recv():.1f} MB more in a worker"
        )
        worker.join()
        _, seconds = timed(check_same_data, Path(root) / DATA_RECORD, {"0": corpus}, began=None)
        print(f"{seconds} to record names, sizes and times (vjepa pretrain)")
        if arguments.kind == "images":
            print(f"{timed(read_first_batch, corpus)[1]} to the end of the first {BATCH} images of the stream")
        print(f"{peak_megabytes():,.0f} MB at most in the main process")


if __name__ == "__main__":
    main()
