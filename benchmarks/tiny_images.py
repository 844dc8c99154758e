#!/usr/bin/env python
"""
Compares I-JEPA by the recipe `tiny_images` with an untrained encoder, with pixel prediction in equal time and with raw
pixels, on frozen features: of single frames of the built-in corpus, and of photographs of hands.

    python benchmarks/tiny_images.py                                          # the built-in corpus
    python benchmarks/tiny_images.py --hands ../shared/data/sign_digits       # the photographs too

The hands have one photographer for each run of files: 40 photographers with ten digits each. The photographers are
divided into as many folds as there are seeds. The network of a seed sees no photograph of its test fold, neither in
pretraining nor in the read-out, so every photograph is tested once. "In place" means that a read-out gets all tokens
of an image side by side, instead of their mean.

Two runs go side by side. Finished runs and measurements are kept: the same command resumes.
"""

import json
import re
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from transformers_vjepa.analysis.read_outs import CLOSED_FORM, ReadOut
from transformers_vjepa.data.corpus import SubsetCorpus
from transformers_vjepa.data.splits import open_labelled_corpus
from transformers_vjepa.data.synthetic import build_corpus
from transformers_vjepa.evaluation.statistics import paired_bootstrap
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling
from transformers_vjepa.pretraining import setup
from transformers_vjepa.pretraining.arguments import parse_arguments as parse_pretraining
from transformers_vjepa.study.kinds import IMAGES
from transformers_vjepa.study.plan import (
    Features,
    Measurement,
    StudyClips,
    baseline_features,
    built_in_clips,
    evaluate,
    labelled_clips,
    model_features,
    model_hash,
)
from transformers_vjepa.study.runs import VJEPA, run_side_by_side
from transformers_vjepa.training.checkpoints import was_finished

READ_OUTS: tuple[ReadOut, ...] = (*CLOSED_FORM, "mean")
DESCRIPTORS = ("mean_colours", "raw_pixels")
# Steps to measure the speeds of the two arms. The first of them decode the corpus.
RACE_STEPS = 100
# Numbers of files further apart than this belong to another series of photographs.
SERIES_GAP = 100


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    pass


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=_HelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/tiny_images"), help="folder of all output")
    parser.add_argument("--hands", type=Path, help="folder of the photographs, with a folder for each digit")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of networks, images and masks")
    parser.add_argument("--labels", type=int, default=200, help="labelled images of the main columns")
    parser.add_argument("--max_steps", type=int, help="steps of I-JEPA on the built-in corpus; default: the recipe's")
    parser.add_argument("--hands_steps", type=int, help="steps of I-JEPA on the hands; default: the recipe's")
    return parser.parse_args()


def photographers(numbers: Sequence[int], digits: Sequence[int]) -> np.ndarray:
    """
    The photographer of each photograph, counted from 0. A photographer shows the digits from 0 on, in files that
    follow each other. One of them shows a 5 before the 0.

    Args:
        numbers: number of each file.
        digits: digit of each photograph.
    """
    found, current, length, last = np.empty(len(numbers), int), -1, 0, -SERIES_GAP
    for index in np.argsort(numbers):
        if numbers[index] - last > SERIES_GAP or (digits[index] == 0 and length > 1):
            current, length = current + 1, 0
        found[index], length, last = current, length + 1, numbers[index]
    return found


class Comparison:
    """
    All runs and measurements on one corpus.

    Args:
        name: of the folder of its runs.
        arguments: the command line.
        task: label that is read out.
        clips: images and labels for the read-outs, by seed.
        datasets: what `vjepa pretrain` reads, by seed.
        steps: steps of I-JEPA; `None` for the recipe's.
    """

    def __init__(
        self,
        name: str,
        arguments: Namespace,
        *,
        task: str,
        clips: Mapping[int, StudyClips],
        datasets: Mapping[int, str],
        steps: int | None,
    ) -> None:
        self.folder, self.seeds, self.labels = arguments.output_dir / name, arguments.seeds, arguments.labels
        self.task, self.clips, self.datasets = task, clips, datasets
        self.steps = steps or parse_pretraining(["--config", "tiny_images"])[2].max_steps

    def command(self, arm: str, *, seed: int, folder: Path, steps: int) -> list[str]:
        """Arguments of `vjepa pretrain`."""
        return [
            *("--config", "tiny_images", "--dataset", self.datasets[seed], "--seed", str(seed)),
            *("--max_steps", str(steps), "--output_dir", str(folder), "--resume_from_checkpoint", "auto"),
            *("--disable_tqdm", "true", "--report_to", "none", *IMAGES.arms[arm].arguments),
        ]

    def pixel_steps(self) -> int:
        """Steps of pixel prediction that take as long as those of I-JEPA: both run side by side for a while."""
        file = self.folder.parent / "speeds.json"
        if not file.exists():
            race, seed = self.folder.parent / "race", self.seeds[0]
            commands = {
                arm: [
                    *(*VJEPA, "pretrain", *self.command(arm, seed=seed, folder=race / arm, steps=RACE_STEPS)),
                    *("--save_strategy", "no"),
                ]
                for arm in ("ijepa", "pixels")
            }
            run_side_by_side(commands, logs=race, num_processes=2)
            file.write_text(json.dumps({arm: images_per_second(race / arm) for arm in commands}))
        speeds = json.loads(file.read_text())
        return round(self.steps * speeds["pixels"] / speeds["ijepa"])

    def train(self) -> dict[str, int]:
        """Trains what is missing. Returns the steps of each arm."""
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = {"ijepa": self.steps, "pixels": self.pixel_steps(), "untrained": 0}
        commands = {}
        for seed in self.seeds:
            for arm in ("ijepa", "pixels"):
                folder = self.folder / f"{arm}-seed{seed}"
                if not was_finished(folder, steps=steps[arm]):
                    run = self.command(arm, seed=seed, folder=folder, steps=steps[arm])
                    commands[folder.name] = [*VJEPA, "pretrain", *run]
            if not (folder := self.folder / f"untrained-seed{seed}").is_dir():
                model, _, training = parse_pretraining(self.command("ijepa", seed=seed, folder=folder, steps=1))
                set_seed(seed)
                setup.build_model(model, training).save_pretrained(folder)
        run_side_by_side(commands, logs=self.folder / "logs", num_processes=2)
        return steps

    def measure(self) -> list[dict[str, Any]]:
        """Trains and measures what is missing. A row for each arm, seed, read-out and number of labels."""
        rows = []
        for arm, steps in self.train().items():
            for seed in self.seeds:
                folder = self.folder / f"{arm}-seed{seed}"
                features, weights = model_features(folder, self.clips[seed], steps=steps), {steps: model_hash(folder)}
                rows += self._rows(arm, seed, features, READ_OUTS, steps, weights)
                rows += self._rows(f"{arm}, in place", seed, in_place(features), CLOSED_FORM, steps, weights)
        for name in DESCRIPTORS:
            for seed in self.seeds:
                features = baseline_features(name, self.clips[seed])
                rows += self._rows(name, seed, features, CLOSED_FORM, None, {})
        return rows

    def _rows(
        self,
        arm: str,
        seed: int,
        features: Features,
        read_outs: Sequence[ReadOut],
        steps: int | None,
        weights: Mapping[int | None, str],
    ) -> list[dict[str, Any]]:
        number = len(self.clips[seed].labels[self.task]["train"])
        counts = sorted({min(self.labels, number), number})
        wanted = [Measurement(steps, count, self.task, kind) for count in counts for kind in read_outs]
        path = self.folder / "evaluations" / f"{arm}-seed{seed}.json"
        return evaluate(
            wanted, features, self.clips[seed], arm=arm, seed=seed, path=path, probe_steps=400, weights=weights
        )


def in_place(features: Features) -> Features:
    """All tokens of an image side by side, so that a closed form knows the place of each, as it does of raw pixels."""

    def flat(item: Measurement) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        both, details = features(item)
        return {split: tokens.flatten(1) for split, tokens in both.items()}, details

    return flat


def images_per_second(folder: Path) -> float:
    """Median of the logged speeds, without the first log."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return median([entry["clips_per_second"] for entry in log if "clips_per_second" in entry][1:])


def hits(rows: list[dict], *, arm: str, read_out: str, most_labels: bool) -> list[np.ndarray]:
    """Right answers of each seed: 0 or 1 for each test image."""
    found = [row for row in rows if (row["arm"], row["read_out"]) == (arm, read_out)]
    choose = max if most_labels else min
    count = {row["seed"]: choose(r["labels"] for r in found if r["seed"] == row["seed"]) for row in found}
    return [np.array(list(row["hits"]), int) for row in found if row["labels"] == count[row["seed"]]]


def table(rows: list[dict], *, is_cross_validated: bool) -> str:
    """
    Accuracy in %, its range over the seeds, and its lead over the untrained encoder with a 95 % interval: over seeds
    and test images, or over the photographs if every seed has others.
    """
    columns = [(kind, most) for most in (False, True) for kind in READ_OUTS]
    lines = ["| | " + " | ".join(f"{kind}, {'all' if most else 'few'} labels" for kind, most in columns) + " |"]
    lines += ["| --- " * (len(columns) + 1) + "|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        cells = []
        for kind, most in columns:
            right = hits(rows, arm=arm, read_out=kind, most_labels=most)
            if not right:
                cells.append("")
                continue
            shares = [100 * seed.mean() for seed in right]
            place = ", in place" if arm.endswith("in place") else ""
            base = hits(rows, arm=f"untrained{place}", read_out=kind, most_labels=most)
            leads = [one - other for one, other in zip(right, base, strict=True)]
            crossed = np.concatenate(leads)[None] if is_cross_validated else np.stack(leads)
            lead, low, high = (100 * value for value in paired_bootstrap(crossed))
            text = f"{mean(shares):.1f} [{min(shares):.1f}-{max(shares):.1f}]"
            cells.append(text if arm.startswith("untrained") else f"{text}; {lead:+.1f} [{low:+.1f}, {high:+.1f}]")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shapes(arguments: Namespace) -> Comparison:
    """Single frames of the built-in corpus, and the kind of their shapes."""
    root = build_corpus(arguments.output_dir / "synthetic")
    clips = built_in_clips(root, crop_size=crop_size(), sampling=ClipSampling(num_frames=1), tasks=IMAGES.tasks)
    return Comparison(
        "shapes",
        arguments,
        task="appearance",
        clips=dict.fromkeys(arguments.seeds, clips),
        datasets=dict.fromkeys(arguments.seeds, str(root / "train")),
        steps=arguments.max_steps,
    )


def hands(arguments: Namespace) -> Comparison:
    """Photographs of hands, and their digits. The folds are interleaved: each has photographers of both series."""
    corpus = open_labelled_corpus(str(arguments.hands))
    paths = [corpus.describe(index) for index in range(len(corpus))]
    numbers = [int(re.search(r"IMG_(\d+)", path)[1]) for path in paths]
    digits = [int(corpus.class_names[label]) for label in corpus.labels]
    folds = photographers(numbers, digits) % len(arguments.seeds)
    clips, datasets = {}, {}
    for fold, seed in enumerate(arguments.seeds):
        parts = {"train": np.flatnonzero(folds != fold), "test": np.flatnonzero(folds == fold)}
        splits = {split: SubsetCorpus(corpus, indices) for split, indices in parts.items()}
        clips[seed] = labelled_clips(splits, crop_size=crop_size(), sampling=ClipSampling(num_frames=1))
        index = arguments.output_dir / f"hands-fold{fold}.txt"
        index.write_text("".join(f"{Path(paths[place]).resolve()}\n" for place in parts["train"]))
        datasets[seed] = str(index)
    return Comparison("hands", arguments, task="label", clips=clips, datasets=datasets, steps=arguments.hands_steps)


def crop_size() -> int:
    return setup.build_config(parse_pretraining(["--config", "tiny_images"])[0]).crop_size


def main() -> None:
    arguments = parse_arguments()
    if arguments.hands and len(arguments.seeds) < 2:
        sys.exit("error: --hands needs at least two --seeds, because each seed holds out other photographers")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    texts = []
    for make in (hands, shapes) if arguments.hands else (shapes,):
        comparison = make(arguments)
        rows = comparison.measure()
        (comparison.folder / "rows.json").write_text(json.dumps(rows) + "\n")
        texts.append(f"{comparison.folder.name}\n\n{table(rows, is_cross_validated=make is hands)}\n")
        print(f"\n{texts[-1]}")
    (arguments.output_dir / "table.md").write_text("\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
