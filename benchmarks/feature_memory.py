#!/usr/bin/env python
"""
Measures the memory for writing the tokens of many clips to disk, and for reading them in random order, as the training
of a probe does. The tokens have the shape of ViT-L's tokens (1568 x 1024, 3.2 MB a clip in bfloat16) and random
values, because the network is not measured. Linux only. The files are removed at the end.

    python benchmarks/feature_memory.py --clips 10000 --folder /path/with/32/GB
"""

import os
import shutil
import threading
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, RawDescriptionHelpFormatter
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader

from transformers_vjepa import VJEPAConfig
from transformers_vjepa.data.file_corpus import FileCorpus
from transformers_vjepa.evaluation.features import FeatureSettings, FeatureStore, write_features
from transformers_vjepa.evaluation.shards import PassOptions


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    pass


class RandomTokens(torch.nn.Module):
    """Takes the place of an encoder: gives random tokens of the same shape without computing them."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.config = VJEPAConfig()
        self.encoder = torch.nn.Linear(1, 1)
        self.noise = torch.randn(8, 1568, 1024, dtype=torch.bfloat16)

    def get_vision_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.noise[: len(pixels)]


class AnonymousMemory:
    """Measures the largest memory of this process, in MB without mapped files, while the block runs."""

    def __enter__(self) -> "AnonymousMemory":
        self.start = self.peak = self._now()
        self._done = False
        self._watch = threading.Thread(target=self._follow)
        self._watch.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done = True
        self._watch.join()

    @staticmethod
    def _now() -> float:
        info = psutil.Process().memory_info()
        return (info.rss - info.shared) / 1e6

    def _follow(self) -> None:
        while not self._done:
            self.peak = max(self.peak, self._now())
            time.sleep(0.02)


def write(folder: str, clips: int) -> None:
    """Stores the features of `clips` images."""
    with TemporaryDirectory() as images:
        image = os.path.join(images, "image.jpg")
        Image.new("RGB", (300, 260), (9, 99, 199)).save(image)
        corpus = FileCorpus([image] * clips, labels=[index % 400 for index in range(clips)])
        model = RandomTokens()
        with AnonymousMemory() as memory:
            features = FeatureSettings(kind="tokens", dtype="bfloat16")
            write_features(model, corpus, folder, features=features, options=PassOptions(progress=False))
    _report("write", clips, folder, memory)


def read(folder: str, clips: int) -> None:
    """Reads all features once, shuffled, in batches of 16."""
    with AnonymousMemory() as memory:
        seen = sum(len(batch["labels"]) for batch in DataLoader(FeatureStore(folder), batch_size=16, shuffle=True))
    if seen != clips:
        raise RuntimeError(f"read {seen} of {clips} clips")
    _report("read", clips, folder, memory)


def _report(what: str, clips: int, folder: str, memory: AnonymousMemory) -> None:
    size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e9
    print(f"{what:5} {clips:6} clips, {size:5.1f} GB: {memory.start:4.0f} MB before, at most {memory.peak:4.0f} MB")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=_HelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[500, 2000], help="numbers of clips, one run for each")
    parser.add_argument("--folder", required=True, help="folder for the features")
    arguments = parser.parse_args()
    for clips in arguments.clips:
        folder = os.path.join(arguments.folder, f"features-{clips}")
        for step in (write, read):
            process = get_context("spawn").Process(target=step, args=(folder, clips))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
