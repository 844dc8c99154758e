"""
Streams and trains for a long time under faults. Checks that memory does not grow and that the losses stay the same.

    python benchmarks/soak.py --minutes 30
    python benchmarks/soak.py --part memory --clips 20000

1. Two workers read clips of a corpus with broken files. The memory of all processes at the end must be the memory
   shortly after the start.
2. A small model is trained without faults. Then the model is trained again while workers are killed at random and
   training is stopped and resumed. The losses must be bit-equal.

The exit code is 1 if a bound is broken. Linux only.
"""

import os
import random
import shutil
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch
from transformers import TrainerCallback

from transformers_vjepa import (
    ClipSampling,
    Decoding,
    StreamPosition,
    StreamShare,
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPATrainer,
    VJEPATrainingArguments,
    clip_stream,
)
from transformers_vjepa.data.clip_loader import ClipLoader
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus

NUM_VIDEOS, NUM_BROKEN, SIZE = 200, 10, 32
BATCH_SIZE, NUM_WORKERS = 4, 2
#: Steps over which each logged loss is the mean.
LOGGING_STEPS = 20
#: Largest relative change of memory from shortly after the start to the end.
MAX_CHANGE = 0.05
CONFIG = VJEPAConfig(
    crop_size=SIZE,
    patch_size=8,
    frames_per_clip=4,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    pred_hidden_size=12,
    pred_num_hidden_layers=1,
    pred_num_attention_heads=2,
)


@dataclass
class Row:
    """A line of the table at the end."""

    name: str
    figure: str
    bound: str
    holds: bool


def make_corpus(root: Path) -> None:
    """Small videos, some of which are noise or empty."""
    folder = build_corpus(root, config=CorpusConfig(num_train=NUM_VIDEOS, num_test=1, size=SIZE, num_frames=10))
    videos = sorted((folder / "train").rglob("*.mp4"))
    for number, video in enumerate(random.Random(0).sample(videos, NUM_BROKEN)):
        video.write_bytes(random.Random(number).randbytes(1000) if number % 2 else b"")


def make_stream(corpus: Path, position: StreamPosition):
    return clip_stream(
        str(corpus),
        config=CONFIG,
        sampling=ClipSampling(num_frames=4, frame_step=2),
        position=position,
        share=StreamShare(num_workers=NUM_WORKERS, batch_size=BATCH_SIZE),
        decoding=Decoding(max_broken_share=0.5),
    )


def megabytes() -> float:
    """
    Memory of this process and its workers. Shared memory is counted once. Mapped files are left out, because their
    share depends on the other processes of the machine.
    """
    kilobytes = 0
    for process in [psutil.Process(), *psutil.Process().children()]:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return kilobytes * 1024 / 1e6


def memory_row(name: str, early: float, late: float, *, count: str) -> Row:
    change = late / early - 1
    figure = f"{early:.1f} -> {late:.1f} MB ({change:+.1%}) after {count}"
    return Row(name, figure, f"+-{MAX_CHANGE:.0%}", abs(change) <= MAX_CHANGE)


def stream_clips(corpus: Path, *, is_over: Callable[[int], bool], first: int) -> Row:
    """Streams until `is_over` of the number of clips, and compares the memory after `first` clips with the last."""
    position = StreamPosition()
    loader = ClipLoader(
        make_stream(corpus, position), position=position, batch_size=BATCH_SIZE, num_workers=NUM_WORKERS
    )
    batches = iter(loader)  # kept in a variable: the workers end when this iterator is deleted
    clips, early = 0, None
    for batch in batches:
        clips += len(batch["path"])
        if early is None and clips >= first:
            early, early_clips = megabytes(), clips
        if early is not None and is_over(clips):
            break
    late = megabytes()
    loader.close()
    return memory_row("memory of streaming", early, late, count=f"{early_clips:,} and {clips:,} clips")


class StopAfter(TrainerCallback):
    """Ends training with a checkpoint when `is_over(step)` is true."""

    def __init__(self, is_over: Callable[[int], bool]) -> None:
        self.is_over = is_over

    def on_step_end(self, args, state, control, **kwargs):
        # Only at a logged step: every logged mean then covers the same steps in both runs.
        if state.global_step % LOGGING_STEPS == 0 and self.is_over(state.global_step):
            control.should_save = control.should_training_stop = True


class WatchMemory(TrainerCallback):
    """Notes the memory after the first logged steps and after the last."""

    first = 10 * LOGGING_STEPS

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.first:
            self.early = megabytes()
        if control.should_training_stop:
            self.late = megabytes()


class KillWorkers(TrainerCallback):
    """Kills a random worker, on average once in `every` steps."""

    def __init__(self, randomness: random.Random, *, every: int) -> None:
        self.random, self.every, self.killed = randomness, every, 0

    def on_step_end(self, args, state, control, **kwargs):
        if self.random.random() < 1 / self.every:
            worker = self.random.choice(psutil.Process().children())
            os.kill(worker.pid, signal.SIGKILL)
            self.killed += 1


def train(corpus: Path, output_dir: Path, *callbacks: TrainerCallback, checkpoint: Path | None = None) -> VJEPATrainer:
    position = StreamPosition()
    arguments = VJEPATrainingArguments(
        str(output_dir),
        per_device_train_batch_size=BATCH_SIZE,
        dataloader_num_workers=NUM_WORKERS,
        max_steps=1_000_000,
        logging_steps=LOGGING_STEPS,
        save_steps=1_000_000,
        save_total_limit=1,
        disable_tqdm=True,
        use_cpu=True,
        report_to="none",
    )
    torch.manual_seed(0)
    trainer = VJEPATrainer(
        VJEPAForPreTraining(CONFIG),
        arguments,
        make_stream(corpus, position),
        position=position,
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer


def losses(trainer: VJEPATrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def compare_training(corpus: Path, root: Path, *, seconds: float) -> list[Row]:
    """Trains for about half of the time, then trains the same number of steps under faults."""
    deadline = time.monotonic() + 0.45 * seconds
    calm = StopAfter(lambda step: step >= 2 * WatchMemory.first and time.monotonic() > deadline)
    memory = WatchMemory()
    undisturbed = train(corpus, root / "calm", calm, memory)
    steps = undisturbed.state.global_step
    rows = [memory_row("memory of training", memory.early, memory.late, count=f"{memory.first} and {steps:,} steps")]

    randomness = random.Random(0)
    killer = KillWorkers(randomness, every=max(50, steps // 40))
    done, stops, checkpoint = 0, 0, None
    while done < steps:
        part = min(steps, done + LOGGING_STEPS * randomness.randint(5, max(6, steps // LOGGING_STEPS // 4)))
        stop = StopAfter(lambda step, part=part: step >= part)
        disturbed = train(corpus, root / "disturbed", stop, killer, checkpoint=checkpoint)
        done, stops = disturbed.state.global_step, stops + 1
        checkpoint = root / "disturbed" / f"checkpoint-{done}"
    same = losses(disturbed) == losses(undisturbed)
    weights = undisturbed.model.state_dict()
    same_weights = all(torch.equal(weights[name], value) for name, value in disturbed.model.state_dict().items())
    faults = f"{steps:,} steps, {killer.killed} workers killed, {stops - 1} times stopped and resumed"
    rows.append(Row("losses under faults", f"{'equal' if same else 'different'}: {faults}", "equal", same))
    rows.append(Row("weights under faults", "equal" if same_weights else "different", "equal", same_weights))
    return rows


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="approximate length of the whole run")
    parser.add_argument("--part", choices=["all", "memory", "training"], default="all", help="which checks to run")
    parser.add_argument("--clips", type=int, help="number of clips to stream, instead of a third of the time")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/soak"), help="folder that is deleted first")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.output_dir, ignore_errors=True)
    corpus = arguments.output_dir / "corpus" / "train"
    # In another process, so that its memory is not counted.
    maker = get_context("spawn").Process(target=make_corpus, args=(corpus.parent,))
    maker.start()
    maker.join()
    seconds, started = 60 * arguments.minutes, time.monotonic()
    rows = []
    if arguments.part != "training":
        deadline = time.monotonic() + seconds / (3 if arguments.part == "all" else 1)
        clips = arguments.clips
        is_over = (lambda count: count >= clips) if clips else (lambda count: time.monotonic() > deadline)
        rows.append(stream_clips(corpus, is_over=is_over, first=max(2000, (clips or 0) // 10)))
    if arguments.part != "memory":
        rows += compare_training(corpus, arguments.output_dir, seconds=seconds - (time.monotonic() - started))
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("name", "figure", "bound")]
    print()
    for row in rows:
        cells = (row.name.ljust(widths[0]), row.figure.ljust(widths[1]), row.bound.ljust(widths[2]))
        print("  ".join(cells), "holds" if row.holds else "BROKEN", sep="  ")
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    sys.exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    main()
