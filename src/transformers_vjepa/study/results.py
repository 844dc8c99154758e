"""The results of a study: accuracies with intervals, the paper's expectations as differences, and a table."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..analysis.read_outs import CLOSED_FORM, PROBES
from ..evaluation.statistics import paired_bootstrap
from .kinds import KINDS, StudyKind

STUDY_FILE = "study.json"
READ_OUTS = {
    "ridge": "ridge regression",
    "neighbours": "nearest neighbours",
    "attentive": "attentive probe",
    "mean": "mean-pooled probe",
}
Verdict = Literal["met", "open", "contradicted"]


def kind_of(settings: dict[str, Any]) -> StudyKind:
    """
    The kind of a study with these settings. Older settings do not name it: they are of studies of videos.

    Raises:
        ValueError: an unknown kind.
    """
    name = settings.get("kind", "videos")
    if name not in KINDS:
        raise ValueError(f"{STUDY_FILE} is a study of {name!r}, and this version knows {' and '.join(KINDS)}")
    return KINDS[name]


def final_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of finished runs: those of the last step of their arm and seed."""
    last: dict[tuple, int] = {}
    for row in rows:
        key = row["arm"], row["seed"]
        last[key] = max(last.get(key, 0), row["step"] or 0)
    return [row for row in rows if (row["step"] or 0) == last[row["arm"], row["seed"]]]


def _hits(rows: Iterable[dict[str, Any]]) -> np.ndarray:
    """(rows, test clips), 0 or 1."""
    return np.array([[hit == "1" for hit in row["hits"]] for row in rows], dtype=float)


def contrasts(
    kind: StudyKind, rows: Sequence[dict[str, Any]], *, tasks: Iterable[str], labels: int, label_counts: Sequence[int]
) -> list[dict[str, Any]]:
    """
    The paper's expectations as differences in points of accuracy, positive where they hold. Expectations about arms
    that were not evaluated are left out.
    """
    by_key: dict[tuple, dict[int, dict[str, Any]]] = {}
    for row in final_rows(rows):
        by_key.setdefault((row["task"], row["arm"], row["read_out"], row["labels"]), {})[row["seed"]] = row
    few, most = min(label_counts), max(label_counts)
    found = []
    for task in tasks:
        # Name, read-out, labels, and the evaluations to add and to subtract in turn.
        wanted: list[tuple[str, str, int, list[tuple]]] = []
        for form in kind.read_outs:
            pairs = kind.expectations.items()
            wanted += [(name, form, labels, [(arm, form, labels) for arm in arms]) for name, arms in pairs]
            if kind.expects_of_read_outs:
                lead = [(kind.main, few), ("untrained", few), ("untrained", most), (kind.main, most)]
                terms = [(arm, form, count) for arm, count in lead]
                wanted.append((f"lead over untrained, {few} - {most} labels", form, few, terms))
        if kind.expects_of_read_outs:
            pooled = [(kind.main, form, labels) for form in ("attentive", "mean")]
            wanted.append(("attentive - mean pooling", "attentive", labels, pooled))
        for name, form, count, terms in wanted:
            parts = [by_key.get((task, *term), {}) for term in terms]
            seeds = sorted(set.intersection(*map(set, parts)))
            if seeds:
                tables = [_hits(part[seed] for seed in seeds) for part in parts]
                table = sum(tables[::2]) - sum(tables[1::2])
                names = {"name": name, "task": task, "read_out": form, "labels": count, "expected": "positive"}
                values = (100 * value for value in paired_bootstrap(table))
                found.append(names | dict(zip(("difference", "low", "high"), values, strict=True)))
    return found


def verdict(contrast: dict[str, Any]) -> Verdict:
    """
    Compares an interval with the expected positive sign: "met" (the interval is positive), "contradicted" (the
    interval is negative) or "open" (0 lies inside).
    """
    return "met" if contrast["low"] > 0 else "contradicted" if contrast["high"] < 0 else "open"


def run_history(folder: Path, *, batch_size: int) -> dict[str, Any]:
    """Logged loss and effective rank of a run, and the seconds of its steps, without pauses between sessions."""
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
    """Processor, number of cores and versions, for `study.json`."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}


def describe(study: dict[str, Any]) -> str:
    """The main table, and the paper's expectations, as text."""
    settings, kinds = study["settings"], (*CLOSED_FORM, *PROBES)
    nouns = kind_of(settings).nouns
    labels = settings["labels"]
    accuracies: dict[tuple, list[float]] = {}
    for row in final_rows(study["rows"]):
        key = (row["arm"], row["task"], row["read_out"], row["labels"])
        accuracies.setdefault(key, []).append(row["accuracy"])
    lines = [
        f"Accuracy in % on {settings['num_test']} test {nouns}, read off {labels} labelled {nouns} "
        f"(mean of seeds {', '.join(map(str, settings['seeds']))})"
    ]
    for task, chance in settings["chance"].items():
        lines += ["", f"{task} (chance {chance:.1f})".ljust(30) + "".join(kind.rjust(12) for kind in kinds)]
        for arm in dict.fromkeys(arm for arm, *_ in accuracies):
            found = [accuracies.get((arm, task, kind, labels)) for kind in kinds]
            lines.append(arm.ljust(30) + "".join(f"{np.mean(part):12.1f}" if part else " " * 12 for part in found))
    lines += [
        "",
        f"In points, with 95 % intervals over seeds and test {nouns}; the paper expects all to be positive",
        "",
    ]
    words = {"met": "yes", "contradicted": "no", "open": "open"}
    for item in study["contrasts"]:
        lines.append(
            f"{item['name']:44}{item['task']:12}{item['read_out']:12}"
            f"{item['difference']:+7.1f} [{item['low']:+.1f}, {item['high']:+.1f}]  {words[verdict(item)]}"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Summary:
    """Accuracy of an arm in percent: the mean over seeds, its 95 % interval, and every seed."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


class StudyResults:
    """
    The results in a study folder, from its `study.json`.

    Attributes:
        settings, rows, runs, contrasts, machine, surprise: the parts of `study.json`.
        kind: videos or images.
        trained_runs: runs with at least one step.
        tasks: such as motion and appearance.
        labels: labelled clips of the main table.
        first_seed: seed of the models that images show.

    Raises:
        FileNotFoundError: the folder has no `study.json`.
        ValueError: `study.json` is not JSON, lacks settings or rows, or is a study of an unknown kind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / STUDY_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{folder} has no {STUDY_FILE}: run vjepa study --output_dir {folder} first")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is not valid JSON ({error}): remove the file and repeat the study") from error
        if missing := {"settings", "rows"} - data.keys():
            raise ValueError(f"{file} lacks {', '.join(sorted(missing))}: pass a file that vjepa study has written")
        self.settings: dict[str, Any] = data["settings"]
        self.kind = kind_of(self.settings)
        self.rows: list[dict[str, Any]] = data["rows"]
        self.runs: list[dict[str, Any]] = data.get("runs") or []
        self.contrasts: list[dict[str, Any]] = data.get("contrasts") or []
        self.machine: dict[str, Any] = data.get("machine") or {}
        self.surprise: dict[str, dict[str, Any]] = data.get("surprise") or {}
        self.trained_runs = [run for run in self.runs if run["steps"] > 0]
        self.tasks = list(self.settings.get("classes") or dict.fromkeys(row["task"] for row in self.rows))
        self.labels = int(self.settings["labels"])
        self.first_seed: int = min(self.settings.get("seeds") or [0])
        self._final = final_rows(self.rows)
        self._summaries: dict[tuple, Summary | None] = {}

    def chance(self, task: str) -> float | None:
        """Accuracy of guessing, in percent."""
        return (self.settings.get("chance") or {}).get(task)

    def run_folder(self, arm: str) -> Path | None:
        """Folder of the existing model of an arm with the smallest seed."""
        for run in sorted((run for run in self.runs if run["arm"] == arm), key=lambda run: run["seed"]):
            folder = self.folder / run["folder"]  # an absolute path stays absolute
            if (folder / "config.json").is_file():
                return folder
        return None

    def select(self, *, final: bool = False, **wanted: Any) -> list[dict[str, Any]]:
        """Rows with the `wanted` values; with `final`, only rows of finished runs. A step of `None` counts as 0."""
        rows = self._final if final else self.rows
        return [row for row in rows if all((row[name] or 0) == (value or 0) for name, value in wanted.items())]

    def values(self, name: str, *, final: bool = False, **wanted: Any) -> list[int]:
        """The different values of a column in [`select`] rows, ascending."""
        return sorted({row[name] or 0 for row in self.select(final=final, **wanted)})

    def summary(
        self, arm: str, *, task: str, read_out: str, labels: int | None = None, step: int | None = None
    ) -> Summary | None:
        """
        Accuracy of an arm, or `None` without such an evaluation.

        Args:
            labels: labelled clips; those of the main table by default.
            step: of pretraining; the last one by default.
        """
        wanted = {"arm": arm, "task": task, "read_out": read_out, "labels": self.labels if labels is None else labels}
        key = (*wanted.values(), step)
        if key not in self._summaries:
            rows = self.select(final=True, **wanted) if step is None else self.select(step=step, **wanted)
            self._summaries[key] = _summarise(rows) if rows else None
        return self._summaries[key]

    def ranks(self, arm: str, *, step: int) -> list[float]:
        """Effective rank of the features of the test clips after a step, of every seed that has it."""
        return list({row["seed"]: row["rank"] for row in self.select(arm=arm, step=step) if "rank" in row}.values())


def _summarise(rows: Sequence[dict[str, Any]]) -> Summary:
    values = tuple(float(row["accuracy"]) for row in rows)
    _, low, high = paired_bootstrap(_hits(rows), draws=1000)
    return Summary(float(np.mean(values)), 100 * low, 100 * high, values)
