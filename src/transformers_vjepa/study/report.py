"""
The report of a study: one HTML page, with nothing to fetch, of its numbers and of pictures made from its models.

`study.json` -> `report_numbers` (sums over seeds) -> `report_comparisons` (charts and tables) and, from the models and
clips in the study's folder, `report_views` (pictures) -> `report_page` (HTML). Needs the extras `viz` and `probe`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..figures.style import save_picture, signed, theme
from ..safety.atomic_files import write_text_atomically
from .comparisons import COMPARISONS, Draw, arm_label, expectations_sentence
from .inputs import MissingInputError, ReportInputs
from .page import Card, Page, Section, render_page
from .results import ARMS, READ_OUTS, Study, verdict
from .views import VIEWS

_TINTED = ("vjepa", "untrained", "pixels", "random_tube", "causal", "published_truncation")


def write_report(study: Path, *, output: Path | None = None) -> Path:
    """
    Writes the report of a study as one HTML file, and its pictures as PNGs into a folder beside it.

    What a study lacks (an arm, a read-out, its models) is left out, and a section without anything to show says why.

    Args:
        study: folder with `study.json`.
        output: the HTML file; `report.html` in the folder by default. Pictures go to `NAME_pictures` beside it.

    Returns:
        The HTML file.

    Raises:
        FileNotFoundError, ValueError: see [`~study.results.Study`].
        ImportError: matplotlib, jinja2 or scikit-learn is missing.
    """
    study, output = Path(study), Path(study) / "report.html" if output is None else Path(output)
    numbers = Study(study)
    output.parent.mkdir(parents=True, exist_ok=True)
    with theme():
        draw = partial(save_picture, folder=output.with_name(f"{output.stem}_pictures"))
        sections = [build(numbers, draw) for build in COMPARISONS]
        sections += _views(numbers, draw)
    page = Page(
        title=_title(numbers),
        lead=_lead(numbers),
        cards=_cards(numbers),
        verdicts=_verdicts(numbers),
        legend=_legend(numbers),
        sections=sections,
        facts=_facts(numbers),
    )
    write_text_atomically(output, render_page(page))
    return output


def _views(study: Study, draw: Draw) -> list[Section]:
    try:
        inputs = ReportInputs(study)
    except MissingInputError as error:
        return [Section("pictures", "Pictures of clips", missing=f"Not shown: {error}.")]
    return [build(inputs, draw) for build in VIEWS]


def _title(study: Study) -> str:
    runs = [run for run in study.runs if run["arm"] == "vjepa"]
    if not runs:
        return "What V-JEPA learns without labels"
    minutes = np.mean([run["seconds"] for run in runs]) / 60
    return (
        f"What V-JEPA learns in {minutes:.0f} minutes without labels"
        if minutes >= 2
        else "What V-JEPA learns without labels"
    )


def _lead(study: Study) -> str:
    settings = study.settings
    seeds = settings.get("seeds") or []
    steps = next((run["steps"] for run in study.runs if run["arm"] == "vjepa"), settings.get("steps"))
    text = "An encoder learns by predicting the features of what it does not see, and is frozen. "
    text += f"Then {study.labels} labelled clips show how to read {' and '.join(study.tasks)} off its features"
    text += f"; all numbers are on {settings['num_test']:,} other clips" if settings.get("num_test") else ""
    text += f", {len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'}" if seeds else ""
    text += f", {steps:,} steps" if steps else ""
    return text + "."


def _cards(study: Study) -> list[Card]:
    cards = []
    for task in study.tasks:
        for read_out in ("ridge", "attentive"):
            own = study.summary("vjepa", task=task, read_out=read_out)
            if own is None:
                continue
            details = [f"95 % interval {own.low:.1f} to {own.high:.1f}"]
            for arm in ("untrained", "pixels"):
                if other := study.summary(arm, task=task, read_out=read_out):
                    name = "pixels" if arm == "pixels" else arm_label(arm)
                    details.append(f"{name} {other.mean:.1f} ({signed(own.mean - other.mean)})")
            chance = study.chance(task)
            details += [f"chance {chance:.1f}"] if chance is not None else []
            cards.append(Card(f"{task.capitalize()}, {READ_OUTS[read_out].split()[0]}", f"{own.mean:.1f} %", details))
    return cards


def _verdicts(study: Study) -> list[tuple[str, str]]:
    if not expectations_sentence(study):
        return []
    found = [verdict(item) for item in study.contrasts]
    text = {
        "met": "expectations of the paper met",
        "open": "not decided (0 lies in the interval)",
        "contradicted": "contradicted",
    }
    return [(f"{found.count(kind)} of {len(found)}", what) for kind, what in text.items()]


def _legend(study: Study) -> list[tuple[str, str]]:
    present = {row["arm"] for row in study.rows}
    entries = [(arm, arm_label(arm)) for arm in _TINTED if arm in present]
    has_baseline = any(ARMS[arm].is_baseline for arm in present if arm in ARMS)
    return entries + ([("baseline", "made by hand")] if has_baseline else [])


def _facts(study: Study) -> list[tuple[str, str]]:
    settings, machine = study.settings, study.machine
    facts = [
        ("data set", Path(str(settings.get("dataset", ""))).name),
        ("seeds", ", ".join(map(str, settings.get("seeds", [])))),
    ]
    facts += [(name, str(machine[name])) for name in ("cpu", "cores", "torch", "python") if name in machine]
    minutes = sum(run["seconds"] for run in study.trained_runs) / 60
    facts += [("pretraining", f"{len(study.trained_runs)} runs, {minutes:.0f} minutes in all")] if study.runs else []
    return [(name, value) for name, value in facts if value]


__all__ = ["write_report"]
