"""What a study found: accuracies with intervals, the paper's expectations as differences, and a table."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .metrics import accuracy_interval
from .read_outs import CLOSED_FORM, PROBES

# Read-outs in which expectations are put to the test: a closed form and the published probe.
_READ_OUTS = ("ridge", "attentive")

_DRAWS = 2000
# Pairs of arms that the paper has an opinion on: the first is expected to be the better one.
_PAIRS = {
    "features - untrained": ("vjepa", "untrained"),
    "features - pixels": ("vjepa", "pixels"),
    "multi-block - random tube": ("multiblock", "random_tube"),
    "multi-block - causal": ("multiblock", "causal"),
    "balanced - published truncation": ("multiblock", "published_truncation"),
}


def scores(hits: np.ndarray) -> dict[str, Any]:
    """Accuracy and its interval (Wilson, 95 %) in percent, and `hits` as a string of 0 and 1."""
    low, high = accuracy_interval(int(hits.sum()), len(hits))
    text = "".join("1" if hit else "0" for hit in hits)
    return {"accuracy": 100 * float(hits.mean()), "low": 100 * low, "high": 100 * high, "hits": text}


def paired_bootstrap(differences: np.ndarray, *, draws: int = _DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """
    Mean of paired differences, and its 95 % interval over new draws of both seeds and test clips (percentiles of the
    bootstrap of a table with crossed rows and columns; A. Owen, "The pigeonhole bootstrap", 2007).

    Args:
        differences: (seeds, test clips), such as hits minus hits.
        draws: of the bootstrap.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    num_seeds, num_clips = differences.shape
    rows = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=draws)
    columns = rng.multinomial(num_clips, np.full(num_clips, 1 / num_clips), size=draws)
    means = ((rows @ differences) * columns).sum(axis=1) / (num_seeds * num_clips)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def final_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of finished runs: those of the last step of their arm and seed."""
    rows = list(rows)
    last: dict[tuple, int] = {}
    for row in rows:
        key = row["arm"], row["seed"]
        last[key] = max(last.get(key, 0), row["step"] or 0)
    return [row for row in rows if (row["step"] or 0) == last[row["arm"], row["seed"]]]


def contrasts(
    rows: Iterable[dict[str, Any]], *, tasks: Iterable[str], labels: int, label_counts: Sequence[int]
) -> list[dict[str, Any]]:
    """The paper's expectations as differences in points of accuracy, positive where they hold; of what there is."""
    hits: dict[tuple, dict[int, np.ndarray]] = {}
    for row in final_rows(rows):
        key = row["arm"], row["task"], row["read_out"], row["labels"]
        hits.setdefault(key, {})[row["seed"]] = np.array([hit == "1" for hit in row["hits"]], dtype=float)

    found = []

    def add(name: str, task: str, read_out: str, count: int, *terms: tuple[int, tuple]) -> None:
        shared = set.intersection(*(set(hits.get(key, ())) for _, key in terms))
        if shared:
            table = sum(sign * np.stack([hits[key][seed] for seed in sorted(shared)]) for sign, key in terms)
            values = (100 * value for value in paired_bootstrap(table))
            found.append(
                {"name": name, "task": task, "read_out": read_out, "labels": count, "expected": "positive"}
                | dict(zip(("difference", "low", "high"), values, strict=True))
            )

    few, all_of_them = min(label_counts), max(label_counts)
    for task in tasks:
        for kind in _READ_OUTS:
            for name, (better, worse) in _PAIRS.items():
                add(name, task, kind, labels, (1, (better, task, kind, labels)), (-1, (worse, task, kind, labels)))
            lead = [
                (sign * side, (arm, task, kind, count))
                for sign, count in ((1, few), (-1, all_of_them))
                for side, arm in ((1, "vjepa"), (-1, "untrained"))
            ]
            name = f"lead over untrained, {few} - {all_of_them} labels"
            add(name, task, kind, few, *lead)
        pooled = [(sign, ("vjepa", task, kind, labels)) for sign, kind in ((1, "attentive"), (-1, "mean"))]
        add("attentive - mean pooling", task, "attentive", labels, *pooled)
    return found


def run_history(folder: Path, *, batch_size: int) -> dict[str, Any]:
    """
    Loss and effective rank as a run logged them, and the seconds that its steps took, pauses between sessions not
    counted.
    """
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    log = [entry for entry in log if "loss" in entry]
    seconds, before = 0.0, 0
    for entry in log:
        seconds += (entry["step"] - before) * batch_size / entry["clips_per_second"]
        before = entry["step"]
    rank = "target_rank_over_clips"
    return {
        "steps": before,
        "seconds": seconds,
        "loss": [[entry["step"], entry["loss"]] for entry in log],
        "rank": [[entry["step"], entry[rank]] for entry in log if rank in entry],
    }


def describe_machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def describe(study: dict[str, Any]) -> str:
    """The main table, and the paper's expectations, as text."""
    settings, rows = study["settings"], final_rows(study["rows"])
    kinds, labels = (*CLOSED_FORM, *PROBES), settings["labels"]
    lines = [
        f"Accuracy in % on {settings['num_test']} test clips, read off {labels} labelled clips "
        f"(mean of seeds {', '.join(map(str, settings['seeds']))})"
    ]
    arms = dict.fromkeys(row["arm"] for row in rows)
    for task, chance in settings["chance"].items():
        lines += ["", f"{task} (chance {chance:.1f})".ljust(30) + "".join(kind.rjust(12) for kind in kinds)]
        for arm in arms:
            cells = []
            for kind in kinds:
                key = (arm, task, kind, labels)
                found = [r["accuracy"] for r in rows if (r["arm"], r["task"], r["read_out"], r["labels"]) == key]
                cells.append(f"{np.mean(found):12.1f}" if found else " " * 12)
            lines.append(arm.ljust(30) + "".join(cells))
    lines += ["", "In points, with 95 % intervals over seeds and test clips; the paper expects all to be positive", ""]
    for item in study["contrasts"]:
        verdict = "yes" if item["low"] > 0 else "no" if item["high"] < 0 else "open"
        lines.append(
            f"{item['name']:44}{item['task']:12}{item['read_out']:12}"
            f"{item['difference']:+7.1f} [{item['low']:+.1f}, {item['high']:+.1f}]  {verdict}"
        )
    return "\n".join(lines)


__all__ = ["contrasts", "describe", "describe_machine", "final_rows", "paired_bootstrap", "run_history", "scores"]
