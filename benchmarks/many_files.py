"""
Measures the time to open a folder of many files, and the memory that this takes in the main process and in a worker.

    python benchmarks/many_files.py --files 100000
"""

import tempfile
import time
from argparse import ArgumentParser
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.corpus import IndexedCorpus

FILES_PER_FOLDER = 1000


def private_megabytes() -> float:
    return psutil.Process().memory_full_info().uss / 1e6


def name_all(corpus: IndexedCorpus, sender: Connection) -> None:
    """Sends the memory in MB that a worker adds to the shared memory when the worker reads the name of every file."""
    before = private_megabytes()
    for index in range(len(corpus)):
        corpus.describe(index)
    sender.send(private_megabytes() - before)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000, help="number of empty files in the folder")
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as root:
        for number in range(files):
            folder = Path(root) / f"{number // FILES_PER_FOLDER:04}"
            if number % FILES_PER_FOLDER == 0:
                folder.mkdir()
            (folder / f"{number:08}.mp4").touch()
        before, started = private_megabytes(), time.perf_counter()
        corpus = open_corpus(root)
        seconds = time.perf_counter() - started
        receiver, sender = get_context("fork").Pipe(duplex=False)
        main_process = private_megabytes() - before
        worker = get_context("fork").Process(target=name_all, args=(corpus, sender))
        worker.start()
        print(
            f"{len(corpus):,} files: {seconds:.2f} s to open, {main_process:.1f} MB in the main process, "
            f"{receiver.recv():.1f} MB more in a worker"
        )
        worker.join()


if __name__ == "__main__":
    main()
