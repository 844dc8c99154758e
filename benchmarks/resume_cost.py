#!/usr/bin/env python
"""
Measures how long resuming takes: the time from the start of training to the first batch, at an early and at a late
step, for a folder of videos and for the same videos in streamed tars.

    python benchmarks/resume_cost.py
"""

import tarfile
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from datasets import IterableDataset, load_dataset
from transformers import TrainerCallback

from transformers_vjepa import (
    ClipSampling,
    StreamPosition,
    StreamShare,
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPATrainer,
    VJEPATrainingArguments,
    clip_stream,
)
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus

# The network is so small that reading clips takes nearly all of the time.
CONFIG = VJEPAConfig(
    crop_size=32,
    patch_size=8,
    frames_per_clip=4,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    pred_hidden_size=12,
    pred_num_hidden_layers=1,
    pred_num_attention_heads=2,
)


class FirstBatch(Exception):
    """Raised when the first batch has arrived."""


class StopAtFirstBatch(TrainerCallback):
    def on_step_begin(self, *args, **kwargs):
        raise FirstBatch


class SaveAt(TrainerCallback):
    def __init__(self, steps: list[int]):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps


def build_trainer(source: str | IterableDataset, output_dir: Path, *, workers: int, steps: list[int]) -> VJEPATrainer:
    args = VJEPATrainingArguments(
        str(output_dir),
        per_device_train_batch_size=4,
        max_steps=max(steps) + 1,
        logging_steps=100,
        save_strategy="no",
        save_total_limit=None,
        dataloader_num_workers=workers,
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
    )
    position = StreamPosition()
    stream = clip_stream(
        source,
        config=CONFIG,
        sampling=ClipSampling(num_frames=4, frame_step=2),
        position=position,
        share=StreamShare.from_training_arguments(args),
    )
    return VJEPATrainer(VJEPAForPreTraining(CONFIG), args, stream, position=position)


def seconds_to_first_batch(trainer: VJEPATrainer, checkpoint: Path | None) -> float:
    trainer.add_callback(StopAtFirstBatch())
    started = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except FirstBatch:
        return time.perf_counter() - started
    raise RuntimeError("training ended without a batch")


def write_tars(folder: Path, output: Path, *, number: int) -> list[str]:
    videos = sorted(folder.rglob("*.mp4"))
    output.mkdir()
    for shard in range(number):
        with tarfile.open(output / f"{shard}.tar", "w") as archive:
            for video in videos[shard::number]:
                archive.add(video, arcname=video.name)
    return sorted(str(path) for path in output.iterdir())


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 1000], help="steps to resume at")
    parser.add_argument("--videos", type=int, default=1600, help="videos of the corpus")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved runs for each step")
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        settings = CorpusConfig(num_train=arguments.videos, num_test=1, size=32, num_frames=10)
        videos = build_corpus(root / "corpus", config=settings) / "train"
        tars = write_tars(videos, root / "tars", number=8)
        corpora = {
            "folder, at random": lambda: str(videos),
            "tars, streamed": lambda: load_dataset(
                "webdataset", data_files={"train": tars}, split="train", streaming=True
            ),
        }
        for name, corpus in corpora.items():
            output = root / name
            kind = {"workers": arguments.workers, "steps": arguments.steps}
            trainer = build_trainer(corpus(), output, **kind)
            trainer.add_callback(SaveAt(arguments.steps))
            started = time.perf_counter()
            trainer.train()
            print(f"{name}: {max(arguments.steps)} steps trained in {time.perf_counter() - started:.0f} s")
            times: dict[int, list[float]] = {step: [] for step in [0, *arguments.steps]}
            for _ in range(arguments.repeats):
                for step in times:
                    checkpoint = output / f"checkpoint-{step}" if step else None
                    times[step].append(seconds_to_first_batch(build_trainer(corpus(), output, **kind), checkpoint))
            for step, values in times.items():
                low, middle, high = (1000 * pick(values) for pick in (min, median, max))
                print(f"  step {step:5}: {middle:.0f} ms [{low:.0f}-{high:.0f}]")


if __name__ == "__main__":
    main()
