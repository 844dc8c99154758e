#!/usr/bin/env python
"""
Shows which parts of the small recipe (`tiny_cpu`) matter. Each short study undoes one difference from the published
recipe, or changes one number. The curves and the table are written to the output folder.

    python benchmarks/tiny_recipe.py                                     # about half an hour on two CPU cores
    python benchmarks/tiny_recipe.py --seeds 0 --variants recipe "published recipe"

Finished runs are kept: the same command resumes.
"""

import json
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from statistics import mean
from typing import Any

from transformers_vjepa.commands import study

NO_VICREG = ["--context_variance_weight", "0", "--context_covariance_weight", "0"]
SLOW_TARGET = ["--ema_momentum", "0.998"]
SMALL_WEIGHTS = ["--initializer_range", "0.02"]
VARIANTS = {
    "recipe": [],
    "published recipe": [*NO_VICREG, *SLOW_TARGET, *SMALL_WEIGHTS, "--learning_rate", "6.25e-4"],
    "without VICReg": NO_VICREG,
    "EMA 0.998": SLOW_TARGET,
    "initial weights 0.02": SMALL_WEIGHTS,
    "learning rate 4e-3": ["--learning_rate", "4e-3"],
    "VICReg 1, 0.04": ["--context_variance_weight", "1", "--context_covariance_weight", "0.04"],
}
READ_OUTS = (("motion", "ridge"), ("motion", "attentive"), ("appearance", "ridge"), ("appearance", "attentive"))


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    pass


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=_HelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/tiny_recipe"), help="folder for the output files"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants to run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of networks, clips and masks")
    parser.add_argument("--max_steps", type=int, default=800, help="steps of each run")
    return parser.parse_args()


def run_variant(name: str, arguments: Namespace) -> dict[str, Any]:
    """A study of one variant: the trained network and the untrained network it starts from."""
    folder = arguments.output_dir / name.replace(" ", "_").replace(",", "")
    argv = ["--output_dir", str(folder), "--arms", "vjepa", "untrained", "--max_steps", str(arguments.max_steps)]
    argv += ["--seeds", *map(str, arguments.seeds), "--label_counts", "200"]
    return study.run([*argv, "--", *VARIANTS[name]])


def accuracies(found: dict[str, Any], *, arm: str, task: str, read_out: str) -> dict[int, list[float]]:
    """Accuracies by step, one for each seed."""
    rows = [r for r in found["rows"] if (r["arm"], r["task"], r["read_out"]) == (arm, task, read_out)]
    rows = [row for row in rows if row["labels"] == found["settings"]["labels"]]
    return {step: [r["accuracy"] for r in rows if r["step"] == step] for step in sorted({r["step"] for r in rows})}


def table(studies: dict[str, dict[str, Any]]) -> str:
    """Mean accuracy over the seeds and its range, before and after training."""
    lines = ["| | " + " | ".join(f"{task}, {kind}" for task, kind in READ_OUTS) + " | effective rank |"]
    lines += ["| --- " * (len(READ_OUTS) + 2) + "|"]
    for name, found in studies.items():
        cells = []
        for task, kind in READ_OUTS:
            before = accuracies(found, arm="untrained", task=task, read_out=kind)[0]
            after = list(accuracies(found, arm="vjepa", task=task, read_out=kind).values())[-1]
            cells.append(f"{mean(before):.1f} → {mean(after):.1f} [{min(after):.1f}-{max(after):.1f}]")
        ranks = [row["rank"] for row in found["rows"] if row["step"] == found["settings"]["steps"]]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {mean(ranks):.0f} |")
    return "\n".join(lines)


def draw(studies: dict[str, dict[str, Any]], path: Path) -> None:
    """Accuracy over the steps: a panel for each task and read-out, a line for each variant."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (task, kind) in zip(figure.subplots(2, 2, sharex=True).flat, READ_OUTS, strict=True):
        for name, found in studies.items():
            before = accuracies(found, arm="untrained", task=task, read_out=kind)
            curve = before | accuracies(found, arm="vjepa", task=task, read_out=kind)
            axes.plot(list(curve), [mean(values) for values in curve.values()], marker="o", label=name)
        axes.axhline(found["settings"]["chance"][task], color="0.6", linestyle=":")
        axes.set(title=f"{task}, {kind}", xlabel="pretraining steps", ylabel="accuracy in %")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def main() -> None:
    arguments = parse_arguments()
    studies = {name: run_variant(name, arguments) for name in arguments.variants}
    draw(studies, arguments.output_dir / "curves.png")
    text = table(studies)
    (arguments.output_dir / "table.md").write_text(text + "\n", encoding="utf-8")
    (arguments.output_dir / "studies.json").write_text(json.dumps(studies) + "\n")
    print(f"\n{text}\n\n{arguments.output_dir / 'curves.png'}")


if __name__ == "__main__":
    main()
