"""What a study found: accuracies with intervals, the paper's expectations as differences, and a table."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..analysis.read_outs import CLOSED_FORM, PROBES
from ..evaluation.statistics import accuracy_interval, paired_bootstrap

# Read-outs in which expectations are put to the test: a closed form and the published probe.
_READ_OUTS = ("ridge", "attentive")
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


STUDY_FILE = "study.json"
_DRAWS = 1000


@dataclass(frozen=True)
class Arm:
    """
    One line of a comparison.

    Attributes:
        label: its name in pictures and tables.
        color: a name of [`~figures.style.COLORS`].
        is_baseline: a descriptor made by hand, with no network and no seed.
    """

    label: str
    color: str
    is_baseline: bool = False


ARMS: dict[str, Arm] = {
    "vjepa": Arm("V-JEPA", "vjepa"),
    "untrained": Arm("untrained", "untrained"),
    "pixels": Arm("pixel prediction", "pixels"),
    "multiblock": Arm("multi-block", "vjepa"),
    "random_tube": Arm("random tubes", "random_tube"),
    "causal": Arm("causal multi-block", "causal"),
    "published_truncation": Arm("published truncation", "published_truncation"),
    "mean_colours": Arm("mean colours", "baseline", is_baseline=True),
    "single_frame": Arm("single frame", "baseline", is_baseline=True),
    "raw_pixels": Arm("raw pixels", "baseline", is_baseline=True),
    "frame_differences": Arm("frame differences", "baseline", is_baseline=True),
    "optical_flow": Arm("optical flow", "baseline", is_baseline=True),
}
READ_OUTS = {
    "ridge": "ridge regression",
    "neighbours": "nearest neighbours",
    "attentive": "attentive probe",
    "mean": "mean-pooled probe",
}


@dataclass(frozen=True)
class Summary:
    """Accuracy of an arm in percent: the mean over seeds, its 95 % interval, and every seed."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


class Study:
    """
    A study folder.

    Args:
        folder: holds `study.json`.

    Raises:
        FileNotFoundError: there is no `study.json`.
        ValueError: it is no JSON, or lacks settings or rows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / STUDY_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{folder} has no {STUDY_FILE}: run vjepa study --output_dir {folder} first")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is no JSON ({error}): remove it, and run the study again") from error
        missing = {"settings", "rows"} - data.keys()
        if missing:
            raise ValueError(f"{file} lacks {', '.join(sorted(missing))}: it is not what vjepa study writes")
        self.settings: dict[str, Any] = data["settings"]
        self.rows: list[dict[str, Any]] = data["rows"]
        self.runs: list[dict[str, Any]] = data.get("runs") or []
        self.contrasts: list[dict[str, Any]] = data.get("contrasts") or []
        self.machine: dict[str, Any] = data.get("machine") or {}
        self.surprise: dict[str, dict[str, Any]] = data.get("surprise") or {}
        self._summaries: dict[tuple, Summary | None] = {}
        self._last_steps: dict[tuple[str, Any], int] = {}
        for row in self.rows:
            key = (row["arm"], row["seed"])
            self._last_steps[key] = max(self._last_steps.get(key, 0), row["step"] or 0)

    @property
    def tasks(self) -> list[str]:
        """What was read off, such as motion and appearance."""
        return list(self.settings.get("classes") or dict.fromkeys(row["task"] for row in self.rows))

    @property
    def labels(self) -> int:
        """Labelled clips behind the main numbers."""
        return int(self.settings["labels"])

    @property
    def first_seed(self) -> int:
        """The seed whose models the pictures show."""
        return min(self.settings.get("seeds") or [0])

    @property
    def trained_runs(self) -> list[dict[str, Any]]:
        """Runs that took a step."""
        return [run for run in self.runs if run["steps"] > 0]

    def chance(self, task: str) -> float | None:
        """Percent of hits of a guess."""
        return (self.settings.get("chance") or {}).get(task)

    def run_folder(self, arm: str) -> Path | None:
        """The model of the first seed of an arm that is still there."""
        for run in sorted((run for run in self.runs if run["arm"] == arm), key=lambda run: run["seed"]):
            folder = self.folder / run["folder"]  # stays as it is where it is absolute
            if (folder / "config.json").is_file():
                return folder
        return None

    def is_final(self, row: dict[str, Any]) -> bool:
        """Whether a row is of the end of its run, not of a checkpoint on the way."""
        return (row["step"] or 0) == self._last_steps[row["arm"], row["seed"]]

    def summary(
        self, arm: str, *, task: str, read_out: str, labels: int | None = None, step: int | None = None
    ) -> Summary | None:
        """
        Accuracy of an arm, or `None` where it was not evaluated so.

        Args:
            labels: labelled clips; those of the main numbers by default.
            step: of pretraining; the last one by default.
        """
        wanted = {"arm": arm, "task": task, "read_out": read_out, "labels": self.labels if labels is None else labels}
        key = (*wanted.values(), step)
        if key not in self._summaries:
            rows = [
                row
                for row in self.rows
                if all(row[name] == value for name, value in wanted.items())
                and (self.is_final(row) if step is None else (row["step"] or 0) == step)
            ]
            self._summaries[key] = _summed_up(rows) if rows else None
        return self._summaries[key]

    def ranks(self, arm: str, *, step: int) -> list[float]:
        """Effective rank of the features of the test clips after a step, of every seed that has it."""
        rows = [row for row in self.rows if row["arm"] == arm and (row["step"] or 0) == step and "rank" in row]
        return list({row["seed"]: row["rank"] for row in rows}.values())

    def label_counts(self, *, arm: str, task: str, read_out: str) -> list[int]:
        """Numbers of labelled clips that the end of an arm was evaluated with, ascending."""
        return self._values("labels", arm=arm, task=task, read_out=read_out, final=True)

    def steps(self, *, arm: str, task: str, read_out: str) -> list[int]:
        """Pretraining steps that an arm was evaluated at, with the labels of the main numbers, ascending."""
        return self._values("step", arm=arm, task=task, read_out=read_out, labels=self.labels)

    def all_steps(self, arm: str) -> list[int]:
        """Steps that an arm was evaluated at in any way, ascending."""
        return self._values("step", arm=arm)

    def _values(self, name: str, *, final: bool = False, **wanted: Any) -> list[int]:
        return sorted(
            {
                row[name] or 0
                for row in self.rows
                if all(row[key] == value for key, value in wanted.items()) and (self.is_final(row) or not final)
            }
        )


def _summed_up(rows: Sequence[dict[str, Any]]) -> Summary:
    values = tuple(float(row["accuracy"]) for row in rows)
    hits = [row.get("hits") or "" for row in rows]
    if not hits[0] or len({len(one) for one in hits}) > 1:
        low, high = (float(np.mean([row[bound] for row in rows])) for bound in ("low", "high"))
        return Summary(float(np.mean(values)), low, high, values)
    matrix = np.array([[character == "1" for character in one] for one in hits], dtype=float)
    _, low, high = paired_bootstrap(matrix, draws=_DRAWS)
    return Summary(float(np.mean(values)), 100 * low, 100 * high, values)


def verdict(contrast: dict[str, Any]) -> str:
    """
    What an interval says about an expected sign: "met" (all of it on the expected side of 0), "contradicted" (all on
    the other side) or "open" (0 lies inside).
    """
    low, high = contrast["low"], contrast["high"]
    if contrast.get("expected", "positive") != "positive":
        low, high = -high, -low
    return "met" if low > 0 else "contradicted" if high < 0 else "open"


__all__ = [
    "ARMS",
    "READ_OUTS",
    "STUDY_FILE",
    "Arm",
    "Study",
    "Summary",
    "contrasts",
    "describe",
    "describe_machine",
    "final_rows",
    "run_history",
    "scores",
    "verdict",
]
