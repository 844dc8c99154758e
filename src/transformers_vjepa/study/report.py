"""
The report of a study: one HTML page that loads nothing else, with charts of its numbers and images from its models.

`study.json` -> `results` (summaries over seeds) -> `comparisons` (charts and tables) and, from the models and clips in
the folder of the study, `views` (images) -> `page` (HTML). Needs the extras `viz` and `probe`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..figures.style import report_figure, signed, theme
from ..safety.atomic_files import write_text_atomically
from .comparisons import Draw, comparisons
from .inputs import MissingInputError, ReportInputs
from .kinds import VIDEOS
from .page import Card, Page, Section, render_page
from .results import READ_OUTS, StudyResults, verdict
from .views import views


def write_report(study: Path, *, output: Path | None = None) -> Path:
    """
    Writes the report of a study as one HTML file, and its figures as PNGs into a folder beside it; returns the HTML
    file.

    If a study lacks an arm, a read-out or models, their figures are left out. A section without figures says why.

    Args:
        study: folder with `study.json`.
        output: the HTML file; `report.html` in the folder by default. Figures go to `NAME_pictures` beside it.

    Raises:
        FileNotFoundError, ValueError: see [`~study.results.StudyResults`].
        ImportError: matplotlib or scikit-learn is missing.
    """
    results, output = StudyResults(Path(study)), Path(output or Path(study) / "report.html")
    output.parent.mkdir(parents=True, exist_ok=True)
    with theme():
        draw = partial(report_figure, folder=output.with_name(f"{output.stem}_pictures"))
        sections = [build(results, draw) for build in comparisons(results.kind)]
        sections += _views(results, draw)
    parts = {"cards": _cards(results), "verdicts": _verdicts(results), "legend": _legend(results)}
    page = Page(_title(results), _lead(results), **parts, sections=sections, facts=_facts(results))
    write_text_atomically(output, render_page(page))
    return output


def _views(study: StudyResults, draw: Draw) -> list[Section]:
    try:
        inputs = ReportInputs(study)
    except MissingInputError as error:
        title = "Images of clips" if study.kind is VIDEOS else "Images"
        return [Section("pictures", title, missing=f"Not shown: {error}.")]
    return [build(inputs, draw) for build in views(study.kind)]


def _title(study: StudyResults) -> str:
    seconds = [run["seconds"] for run in study.runs if run["arm"] == study.kind.main]
    minutes = np.mean(seconds) / 60 if seconds else 0
    return f"What {study.kind.method} learns{f' in {minutes:.0f} minutes' if minutes >= 2 else ''} without labels"


def _lead(study: StudyResults) -> str:
    settings = study.settings
    seeds = settings.get("seeds") or []
    steps = next((run["steps"] for run in study.runs if run["arm"] == study.kind.main), settings.get("steps"))
    nouns = study.kind.nouns
    text = f"An encoder learns by predicting the features of hidden parts of {nouns}, and is frozen. Then classifiers "
    text += f"of {' and '.join(study.tasks)} are trained on its features of {study.labels} labelled {nouns}"
    text += f"; all numbers are for {settings['num_test']:,} other {nouns}" if settings.get("num_test") else ""
    text += f", {len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'}" if seeds else ""
    text += f", {steps:,} steps" if steps else ""
    return text + "."


def _cards(study: StudyResults) -> list[Card]:
    cards = []
    for task in study.tasks:
        for read_out in study.kind.read_outs:
            own = study.summary(study.kind.main, task=task, read_out=read_out)
            if own is None:
                continue
            details = [f"95 % interval {own.low:.1f} to {own.high:.1f}"]
            for arm in ("untrained", "pixels"):
                if other := study.summary(arm, task=task, read_out=read_out):
                    details.append(f"{arm} {other.mean:.1f} ({signed(own.mean - other.mean)})")
            chance = study.chance(task)
            details += [f"chance {chance:.1f}"] if chance is not None else []
            cards.append(Card(f"{task.capitalize()}, {READ_OUTS[read_out].split()[0]}", f"{own.mean:.1f} %", details))
    return cards


def _verdicts(study: StudyResults) -> list[tuple[str, str]]:
    if not study.contrasts:
        return []
    found = [verdict(item) for item in study.contrasts]
    texts = {
        "met": "expectations of the paper met",
        "open": "not decided (0 lies in the interval)",
        "contradicted": "contradicted",
    }
    return [(f"{found.count(kind)} of {len(found)}", text) for kind, text in texts.items()]


def _legend(study: StudyResults) -> list[tuple[str, str]]:
    """Colours and names of the arms that are present; of arms with one colour the first names it."""
    present = {row["arm"] for row in study.rows}
    entries: dict[str, str] = {}
    for name, arm in study.kind.arms.items():
        if name in present and name not in study.kind.block_arms:
            entries.setdefault(arm.color, "hand-crafted" if arm.is_baseline else arm.label)
    return list(entries.items())


def _facts(study: StudyResults) -> list[tuple[str, str]]:
    settings, machine = study.settings, study.machine
    facts = {
        "data set": Path(str(settings.get("dataset", ""))).name,
        "seeds": ", ".join(map(str, settings.get("seeds", []))),
        **{name: str(machine[name]) for name in ("cpu", "cores", "torch", "python") if name in machine},
    }
    minutes = sum(run["seconds"] for run in study.trained_runs) / 60
    facts |= {"pretraining": f"{len(study.trained_runs)} runs, {minutes:.0f} minutes in all"} if study.runs else {}
    return [(name, value) for name, value in facts.items() if value]
