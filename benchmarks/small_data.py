#!/usr/bin/env python
"""
Compares the features of models with those of untrained encoders on a small labelled data set: frozen attentive probe,
frozen mean-pooled probe and fine-tuning, cross-validated over groups of clips.

    python benchmarks/small_data.py --dataset ../shared/data/ut_interaction --group_pattern 'set1_\\d+_(\\d+)_' \\
        --frame_step 8 --models outputs/demo --output_dir outputs/small_data/ut_interaction

For each seed every clip is tested once, by a classifier that was trained without the clips of its group, for a fixed
number of steps and at a fixed learning rate. Finished runs are kept: the same command resumes. The size of the frames
and the length of a file may reveal the class, so the table also shows nearest neighbours on size and length alone, and
read-outs of hand-crafted descriptors of the same clips (`analysis/baselines.py`).
"""

import json
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from transformers_vjepa import ClipSampling, VJEPAConfig
from transformers_vjepa.analysis.baselines import BASELINES
from transformers_vjepa.commands import train_classifier
from transformers_vjepa.data.evaluation_clips import read_evaluation_clips
from transformers_vjepa.data.splits import group_folds, groups_from_names
from transformers_vjepa.evaluation.probing import fit_read_out
from transformers_vjepa.evaluation.statistics import accuracy_interval
from transformers_vjepa.models.vjepa.decoding import probe_video
from transformers_vjepa.models.vjepa.media_files import VIDEO_EXTENSIONS

# Fixed learning rates: the clips are too few to also choose a rate with them.
MODES = {
    "attentive probe": ["--mode", "probe", "--pooling", "attentive", "--learning_rates", "1e-3"],
    "mean-pooled probe": ["--mode", "probe", "--pooling", "mean", "--learning_rates", "1e-2"],
    "fine-tuning": ["--mode", "finetune", "--pooling", "mean", "--learning_rate", "1e-3"]
    + ["--max_steps", "500", "--per_device_train_batch_size", "16"],
}


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    pass


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=_HelpFormatter)
    parser.add_argument("--dataset", required=True, help="a folder with a folder of clips for each class")
    parser.add_argument(
        "--group_pattern", required=True, help="regular expression; its bracket is the group of a clip"
    )
    parser.add_argument("--models", nargs="+", required=True, help="folders of models with the same architecture")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the runs and table.json")
    parser.add_argument("--num_folds", type=int, default=3, help="number of folds of the groups")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of encoders, heads and batches")
    parser.add_argument("--frame_step", type=int, default=4, help="distance between the frames of a clip")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="kinds of training")
    return parser.parse_args()


def test_results(arguments: Namespace, *, mode: str, seed: int, fold: int, model: str | None) -> dict:
    """Results of one run on its test clips; runs it first if needed. `model=None` is an untrained encoder."""
    name = f"{mode.replace(' ', '_')}-{_name(model)}-seed{seed}-fold{fold}"
    folder = arguments.output_dir / name
    file = folder / "results.json"
    if not file.is_file():
        trainer = train_classifier.run(
            [
                *MODES[mode],
                *("--model", model or arguments.models[0], "--random_encoder", str(model is None)),
                *("--dataset", arguments.dataset),
                *("--group_pattern", arguments.group_pattern, "--num_folds", str(arguments.num_folds)),
                *("--fold", str(fold), "--seed", str(seed), "--validation_fraction", "0"),
                *("--frame_step", str(arguments.frame_step), "--output_dir", str(folder)),
                *("--resume_from_checkpoint", "auto", "--logging_strategy", "no", "--report_to", "none"),
            ]
        )
        if trainer.stop_signal:
            sys.exit(128 + trainer.stop_signal)
    return json.loads(file.read_text())["test"]


def _name(model: str | None) -> str:
    return "untrained" if model is None else Path(model).name


def baseline_accuracies(arguments: Namespace) -> dict[str, float]:
    """With the same folds: 5 nearest neighbours on size and length, and ridge on hand-crafted descriptors."""
    config = VJEPAConfig.from_pretrained(arguments.models[0])
    sampling = ClipSampling(num_frames=config.frames_per_clip, frame_step=arguments.frame_step)
    clips, labels, paths = read_evaluation_clips(arguments.dataset, crop_size=config.crop_size, sampling=sampling)
    sizes = np.array([_size(path) for path in paths], dtype=float)
    features = {name: describe(clips) for name, describe in BASELINES.items()}
    groups = groups_from_names(paths, pattern=arguments.group_pattern)
    found = {name: np.empty_like(labels) for name in ("size and length", *features)}
    for held_out in group_folds(groups, num_folds=arguments.num_folds):
        rest = np.setdiff1d(np.arange(len(paths)), held_out)
        neighbours = KNeighborsClassifier(n_neighbors=5).fit(sizes[rest], labels[rest])
        found["size and length"][held_out] = neighbours.predict(sizes[held_out])
        for name, values in features.items():
            fitted = fit_read_out("ridge", values[rest], labels[rest])
            found[name][held_out] = fitted.predict(values[held_out].numpy())
    return {name: float(accuracy_score(labels, predicted)) for name, predicted in found.items()}


def _size(path: str) -> tuple[int, int, int]:
    if Path(path).suffix.lower() in VIDEO_EXTENSIONS:
        info = probe_video(path)
        return info.width, info.height, info.num_frames
    with Image.open(path) as image:
        return *image.size, 1


def result_row(arguments: Namespace, *, mode: str, model: str | None) -> dict:
    """Accuracy of each seed over all folds. The interval treats the mean of the seeds as the result of one seed."""
    accuracies, total = [], 0
    for seed in arguments.seeds:
        folds = [
            test_results(arguments, mode=mode, seed=seed, fold=fold, model=model)
            for fold in range(arguments.num_folds)
        ]
        total = sum(result["num_videos"] for result in folds)
        accuracies.append(sum(result["accuracy"] * result["num_videos"] for result in folds) / total)
    interval = accuracy_interval(round(mean(accuracies) * total), total)
    return {
        "mode": mode,
        "encoder": _name(model),
        "accuracy": mean(accuracies),
        "interval": interval,
        "seeds": accuracies,
        "num_videos": total,
    }


def main() -> None:
    arguments = parse_arguments()
    if len({_name(model) for model in arguments.models}) < len(arguments.models):
        sys.exit(
            f"error: --models {' '.join(arguments.models)}: give folders with different names, which name the runs"
        )
    encoders = (None, *arguments.models)
    rows = [result_row(arguments, mode=mode, model=model) for mode in arguments.modes for model in encoders]
    baselines = baseline_accuracies(arguments)
    found = {"rows": rows, "baselines": baselines}
    (arguments.output_dir / "table.json").write_text(json.dumps(found, indent=2) + "\n")
    print(
        f"\n{arguments.dataset}: accuracy in %, {arguments.num_folds} folds by group, {len(arguments.seeds)} seeds\n"
    )
    print(f"\n{'':20}{'encoder':14}{'mean':>7}{'95 % of one seed':>20}{'seeds':>14}")
    for row in rows:
        low, high = (100 * bound for bound in row["interval"])
        seeds = [100 * accuracy for accuracy in row["seeds"]]
        print(
            f"{row['mode']:20}{row['encoder']:14}{100 * row['accuracy']:7.1f}{f'{low:.0f}-{high:.0f}':>20}"
            f"{f'{min(seeds):.0f}-{max(seeds):.0f}':>14}"
        )
    for name, accuracy in baselines.items():
        print(f"{name.replace('_', ' '):20}{'none':14}{100 * accuracy:7.1f}")


if __name__ == "__main__":
    main()
