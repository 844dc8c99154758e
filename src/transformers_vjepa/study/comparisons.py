"""The sections of a report that compare numbers of a study: charts, a sentence and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ..figures.charts import Curve, Dot, curves, dots
from ..figures.style import InlineFigure, percent, signed
from .page import Section, Table, new_section
from .plan import ARMS, LABEL_ARMS, MAIN_READ_OUTS, MASK_ARMS
from .results import READ_OUTS, StudyResults, Summary, verdict

#: [`~figures.style.report_figure`] with the folder filled in: takes a figure, `name` and `alt`.
Draw = Callable[..., InlineFigure]

_DESCRIPTORS = tuple(name for name, arm in ARMS.items() if arm.is_baseline)
_LEARNT = (*LABEL_ARMS, *_DESCRIPTORS)
_BELOW = "numbers in the table below"


def arm_label(arm: str) -> str:
    """Name of an arm in figures and tables."""
    return ARMS[arm].label if arm in ARMS else arm.replace("_", " ")


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def learnt(study: StudyResults, draw: Draw) -> Section:
    """V-JEPA beside an untrained network, pixel prediction and hand-crafted descriptors."""
    figures = _dot_figures(study, draw, _LEARNT, name="learnt", read_outs=("ridge", "neighbours", "attentive"))
    sentences = " ".join(_learnt_sentence(study, task) for task in study.tasks).strip()
    return new_section("learnt", figures, [_accuracy_table(study, _LEARNT)], labels=study.labels, sentences=sentences)


def _learnt_sentence(study: StudyResults, task: str) -> str:
    found = {kind: study.summary("vjepa", task=task, read_out=kind) for kind in MAIN_READ_OUTS}
    read_out = next((kind for kind, own in found.items() if own), None)
    if read_out is None:
        return ""
    others = _summaries(study, ("untrained", "pixels"), task=task, read_out=read_out)
    parts = [f"{arm_label(arm)} {value.mean:.1f}" for arm, value in others.items()]
    text = f"{task.capitalize()}, {READ_OUTS[read_out]}: V-JEPA {found[read_out].mean:.1f} %"
    text += f", {listed(parts)}" if parts else ""
    chance = study.chance(task)
    text += f", chance {chance:.1f}" if chance is not None else ""
    descriptors = [
        (value.mean, f"{arm_label(arm)} with {READ_OUTS[kind]}")
        for kind in ("ridge", "neighbours")
        for arm, value in _summaries(study, _DESCRIPTORS, task=task, read_out=kind).items()
    ]
    text += f"; best hand-crafted descriptor ({max(descriptors)[1]}): {max(descriptors)[0]:.1f}" if descriptors else ""
    return text + "."


def masks(study: StudyResults, draw: Draw) -> Section:
    """Multi-block masks beside tubes, causal masks and the published truncation."""
    figures = _dot_figures(study, draw, MASK_ARMS, name="masks", read_outs=MAIN_READ_OUTS, least=2)
    sentences = []
    for task in study.tasks:
        read_out = "attentive" if study.summary(MASK_ARMS[0], task=task, read_out="attentive") else "ridge"
        found = _summaries(study, MASK_ARMS, task=task, read_out=read_out)
        if len(found) > 1:
            parts = [f"{arm_label(arm)} {value.mean:.1f}" for arm, value in found.items()]
            sentences.append(f"{task.capitalize()}, {READ_OUTS[read_out]}: {listed(parts)} %.")
    return new_section("masks", figures, [_accuracy_table(study, MASK_ARMS)], sentences=" ".join(sentences))


def pooling(study: StudyResults, draw: Draw) -> Section:
    """Attentive beside mean pooling."""
    figures, sentences, rows = [], [], []
    arms = (*LABEL_ARMS, *MASK_ARMS[1:])
    for task in study.tasks:
        attentive, mean = (_summaries(study, arms, task=task, read_out=kind) for kind in ("attentive", "mean"))
        both = [(arm, attentive[arm], mean[arm]) for arm in attentive if arm in mean]
        if not both:
            continue
        leads = {arm: signed(a.mean - b.mean) for arm, a, b in both}
        figure = dots(
            [
                Dot(arm_label(arm), ARMS[arm].color, a.mean, a.mean, b.mean, other=b.mean, text=leads[arm])
                for arm, a, b in both
            ],
            names=("attentive", "mean"),
            title=task.capitalize(),
            xlabel=f"accuracy in %, {study.labels} labelled clips",
            reference=study.chance(task),
        )
        alt = f"attentive and mean pooling, {task}; {_BELOW}"
        figures.append(draw(figure, name=f"pooling-{task}", alt=alt))
        rows += [[task, arm_label(arm), str(a), str(b), leads[arm]] for arm, a, b in both]
        sentences += [
            f"{task.capitalize()}: on tokens of V-JEPA a probe with attentive pooling reaches {a.mean:.1f} %, a probe "
            f"with mean pooling {b.mean:.1f} %."
            for arm, a, b in both
            if arm == "vjepa"
        ]
    header = ["task", "encoder", "attentive", "mean", "difference"]
    table = Table("Accuracy in % [95 % interval]", header, rows, first_number=2)
    return new_section("pooling", figures, [table], sentences=" ".join(sentences))


def label_efficiency(study: StudyResults, draw: Draw) -> Section:
    """Accuracy against the number of labels."""
    figures, leads, rows = [], [], []
    for read_out, task in product(MAIN_READ_OUTS, study.tasks):
        found = {}
        for arm in LABEL_ARMS:
            counts = study.values("labels", arm=arm, task=task, read_out=read_out, final=True)
            if len(counts) > 1:
                settings = {"task": task, "read_out": read_out}
                found[arm] = {count: study.summary(arm, labels=count, **settings) for count in counts}
        if not found:
            continue
        counts = sorted(set().union(*found.values()))
        figure = curves(
            [_curve(arm, values) for arm, values in found.items()],
            title=f"{task.capitalize()}, {READ_OUTS[read_out]}",
            xlabel="labelled clips (share of all)",
            ylabel="accuracy in %",
            log_ticks=_count_ticks(counts, main=study.labels),
            reference=study.chance(task),
        )
        alt = f"accuracy against labels: {task}, {READ_OUTS[read_out]}; {_BELOW}"
        figures.append(draw(figure, name=f"labels-{task}-{read_out}", alt=alt))
        for arm, values in found.items():
            names = [task, READ_OUTS[read_out], arm_label(arm)]
            rows += [[*names, f"{count:,}", str(value)] for count, value in values.items()]
        own, other = (found.get(arm, {}) for arm in ("vjepa", "untrained"))
        ends = (counts[0], counts[-1])
        if all(count in own and count in other for count in ends):
            parts = [f"{signed(own[count].mean - other[count].mean)} with {count:,} labels" for count in ends]
            leads.append(f"{task}, {READ_OUTS[read_out]}: {', '.join(parts)}")
    text = f"V-JEPA's lead over the untrained network in points: {'; '.join(leads)}." if leads else ""
    header = ["task", "read-out", "encoder", "labelled clips", "accuracy in %"]
    table = Table("Accuracy by number of labels", header, rows, first_number=3)
    return new_section("labels", figures, [table], sentences=text)


def _count_ticks(counts: Sequence[int], *, main: int) -> list[tuple[float, str]]:
    """Places and names on a logarithmic axis; of two names that would overlap, not that of the main table."""
    chosen: list[int] = []
    for count in sorted(counts, key=lambda count: (count not in (counts[0], counts[-1]), count == main, count)):
        if all(abs(np.log(count / other)) > 0.17 * np.log(counts[-1] / counts[0]) for other in chosen):
            chosen.append(count)
    return [(count, f"{count:,}\n{percent(count / counts[-1])}") for count in sorted(chosen)]


def during_training(study: StudyResults, draw: Draw) -> Section:
    """Accuracy and effective rank against pretraining steps."""
    figures, sentences, rows = [], [], []
    for task in study.tasks:
        lines = []
        for read_out, style in zip(MAIN_READ_OUTS, ("-", "--"), strict=True):
            steps = study.values("step", arm="vjepa", task=task, read_out=read_out, labels=study.labels)
            found = {step: study.summary("vjepa", task=task, read_out=read_out, step=step) for step in steps if step}
            start = study.summary("untrained", task=task, read_out=read_out)
            if start and found:
                found = {0: start, **found}
            if len(found) < 3:
                continue
            lines.append(_curve("vjepa", found, label=READ_OUTS[read_out], style=style))
            rows += [[task, READ_OUTS[read_out], f"{step:,}", str(value)] for step, value in found.items()]
            first, *_, last = found
            best = max(found, key=lambda step, found=found: found[step].mean)
            ends = ", ".join(f"{found[step].mean:.1f} at step {step:,}" for step in (first, last))
            text = f"{task}, {READ_OUTS[read_out]}: {ends}"
            sentences.append(text + (f" (best at {best:,})" if best != last else ""))
        if lines:
            labels = {"title": task.capitalize(), "xlabel": "pretraining steps", "ylabel": "accuracy in %"}
            figure = curves(lines, **labels, reference=study.chance(task))
            alt = f"accuracy on {task} against pretraining steps; {_BELOW}"
            figures.append(draw(figure, name=f"steps-{task}", alt=alt))
    if figures:
        figures += _rank_figure(study, draw)
    header = ["task", "read-out", "step", "accuracy in %"]
    table = Table(f"Accuracy by step, {study.labels} labelled clips", header, rows, first_number=2)
    return new_section("steps", figures, [table], sentences="; ".join(sentences))


def _rank_figure(study: StudyResults, draw: Draw) -> list[InlineFigure]:
    """Effective rank at the evaluated steps; no figure if fewer than three steps have ranks."""
    found = {0: study.ranks("untrained", step=0)}
    found |= {step: study.ranks("vjepa", step=step) for step in study.values("step", arm="vjepa")}
    found = {step: ranks for step, ranks in found.items() if ranks}
    if len(found) < 3:
        return []
    band = ([min(ranks) for ranks in found.values()], [max(ranks) for ranks in found.values()])
    line = Curve("V-JEPA", "vjepa", list(found), [float(np.mean(ranks)) for ranks in found.values()], band)
    figure = curves([line], title="Effective rank", xlabel="pretraining steps", ylabel="directions", from_zero=True)
    return [draw(figure, name="steps-rank", alt="effective rank of the features of the test clips against steps")]


def training(study: StudyResults, draw: Draw) -> Section:
    """Loss and rank of all runs."""
    figures: list[InlineFigure] = []
    minutes: dict[str, list[float]] = {}
    for run in study.trained_runs:
        minutes.setdefault(run["arm"], []).append(run["seconds"] / 60)
    features = [arm for arm in minutes if arm != "pixels"]
    for name, key, arms, title in (
        ("training-loss", "loss", features, "Loss of feature prediction (L1)"),
        ("training-pixels", "loss", ["pixels"], "Loss of pixel prediction (MSE)"),
        ("training-rank", "rank", list(minutes), "Effective rank over clips"),
    ):
        if lines := [line for arm in arms for line in _history_curves(study, arm, key)]:
            ylabel = {"loss": "loss", "rank": "directions"}[key]
            figure = curves(lines, title=title, xlabel="pretraining steps", ylabel=ylabel, markers=False)
            shown = listed(list(dict.fromkeys(line.label for line in lines)))
            figures.append(draw(figure, name=name, alt=f"{title} against pretraining steps, {shown}"))
    times = [f"{arm_label(arm)} {np.mean(values):.1f}" for arm, values in minutes.items()]
    equal_time = ""
    if equal := study.settings.get("equal_time"):
        equal_time = (
            f" Pixel prediction needs no target features, so its steps are {equal['ratio']:.2f} times as fast. Its "
            f"runs have {equal['steps']:,} steps, which take the same time."
        )
    rows = []
    for run in study.trained_runs:
        numbers = [str(run["seed"]), f"{run['steps']:,}", f"{run['seconds'] / 60:.1f}"]
        last = [f"{run[key][-1][1]:.{digits}f}" if run.get(key) else "–" for key, digits in (("loss", 4), ("rank", 1))]
        rows.append([arm_label(run["arm"]), *numbers, *last])
    header = ["arm", "seed", "steps", "minutes", "last loss", "last rank"]
    texts = {"times": listed(times), "equal_time": equal_time}
    return new_section("training", figures, [Table("All runs", header, rows)], **texts)


def _history_curves(study: StudyResults, arm: str, key: str) -> list[Curve]:
    """Logged values of an arm: the mean over seeds and their range, or a line per seed if the logged steps differ."""
    found = [np.array(run[key], dtype=float).T for run in study.trained_runs if run["arm"] == arm and run.get(key)]
    shade = ARMS[arm].color if arm in ARMS else "ink"
    if any(not np.array_equal(part[0], found[0][0]) for part in found):
        return [Curve(arm_label(arm), shade, *part) for part in found]
    if not found:
        return []
    values = np.stack([part[1] for part in found])
    band = (values.min(axis=0), values.max(axis=0)) if len(values) > 1 else None
    return [Curve(arm_label(arm), shade, found[0][0], values.mean(axis=0), band=band)]


def expectations(study: StudyResults, draw: Draw) -> Section:
    """The paper's findings as differences with intervals."""
    figures = []
    low = min([0, *(item["low"] for item in study.contrasts)])
    high = max([0, *(item["high"] for item in study.contrasts)])
    margin = 0.04 * (high - low) or 1.0
    shades = {"met": "right", "open": "muted", "contradicted": "wrong"}
    for place, name in enumerate(dict.fromkeys(item["name"] for item in study.contrasts), start=1):
        marks = []
        for item in study.contrasts:
            if item["name"] == name:
                found, values = verdict(item), (item["difference"], item["low"], item["high"])
                label = f"{item['task']}, {item['read_out']}"
                marks.append(Dot(label, shades[found], *values, hollow=found != "met", text=signed(values[0])))
        figure = dots(
            marks,
            title=_shown_name(name),
            xlabel="difference in points",
            reference=0,
            reference_label="",
            limits=(low - margin, high + margin),
        )
        figures.append(draw(figure, name=f"expectation-{place}", alt=f"{name}; {_BELOW}"))
    rows = [
        [
            *(_shown_name(item["name"]), item["task"], item["read_out"], f"{item['labels']:,}"),
            *(signed(item["difference"]), f"[{signed(item['low'])}, {signed(item['high'])}]", verdict(item)),
        ]
        for item in study.contrasts
    ]
    header = ["contrast", "task", "read-out", "labels", "difference", "95 % interval", "expectation"]
    table = Table("All contrasts", header, rows, first_number=3)
    return new_section("expectations", figures, [table], sentences=_expectations_sentence(study))


def _shown_name(contrast: str) -> str:
    """The name of a contrast with a true minus sign."""
    return contrast.replace(" - ", " \N{MINUS SIGN} ")


def _expectations_sentence(study: StudyResults) -> str:
    """The number of met expectations, and the names of the others."""
    by_verdict: dict[str, dict[str, list[str]]] = {"met": {}, "open": {}, "contradicted": {}}
    for item in study.contrasts:
        by_verdict[verdict(item)].setdefault(item["name"], []).append(f"{item['task']} by {item['read_out']}")
    met = sum(map(len, by_verdict["met"].values()))
    text = f"{met} of {len(study.contrasts)} expectations of the paper are met."
    for kind, lead in (("contradicted", "The opposite holds for"), ("open", "Not decided:")):
        parts = [f"{_shown_name(name)} ({listed(where)})" for name, where in by_verdict[kind].items()]
        text += f" {lead} {'; '.join(parts)}." if parts else ""
    return text


def _summaries(study: StudyResults, arms: Sequence[str], **wanted: Any) -> dict[str, Summary]:
    """The summaries that exist, by arm."""
    found = {arm: study.summary(arm, **wanted) for arm in arms}
    return {arm: summary for arm, summary in found.items() if summary}


def _dot_figures(
    study: StudyResults, draw: Draw, arms: Sequence[str], *, name: str, read_outs: Sequence[str], least: int = 1
) -> list[InlineFigure]:
    """A chart of the accuracies of arms for each read-out and task that at least `least` arms have."""
    figures = []
    for read_out, task in product(read_outs, study.tasks):
        found = _summaries(study, arms, task=task, read_out=read_out)
        if len(found) < least:
            continue
        # One axis for all read-outs of a task.
        highest = max(row["high"] for row in study.select(task=task, labels=study.labels))
        figure = dots(
            [Dot(arm_label(arm), ARMS[arm].color, s.mean, s.low, s.high, s.seeds) for arm, s in found.items()],
            title=f"{task.capitalize()}, {READ_OUTS[read_out]}",
            xlabel=f"accuracy in %, {study.labels} labelled clips",
            reference=study.chance(task),
            limits=(0, min(100, max(10, 10 * math.ceil(highest / 10)))),
        )
        alt = f"accuracies: {task}, {READ_OUTS[read_out]}; {_BELOW}"
        figures.append(draw(figure, name=f"{name}-{task}-{read_out}", alt=alt))
    return figures


def _accuracy_table(study: StudyResults, arms: Sequence[str]) -> Table:
    rows = []
    for task, arm in product(study.tasks, arms):
        values = [study.summary(arm, task=task, read_out=read_out) for read_out in READ_OUTS]
        if any(values):
            rows.append([task, arm_label(arm), *(str(value or "–") for value in values)])
    title = f"Accuracy in % with {study.labels} labelled clips [95 % interval]"
    return Table(title, ["task", "features", *READ_OUTS.values()], rows, first_number=2)


def _curve(arm: str, found: Mapping[int, Summary], *, label: str = "", style: str = "-") -> Curve:
    means, lows, highs = ([getattr(value, name) for value in found.values()] for name in ("mean", "low", "high"))
    return Curve(label or arm_label(arm), ARMS[arm].color, list(found), means, (lows, highs), style)


#: In the order of the report; each takes the results and the drawing function.
COMPARISONS: tuple[Callable[[StudyResults, Draw], Section], ...] = (
    learnt,
    masks,
    pooling,
    label_efficiency,
    during_training,
    training,
    expectations,
)
