"""The sections of a report that compare numbers of a study: charts, a sentence and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ..figures.charts import Curve, Dot, curves, dots
from ..figures.style import InlineFigure, percent, signed
from .kinds import StudyKind
from .page import Section, Table, new_section
from .results import READ_OUTS, StudyResults, Summary, verdict

#: [`~figures.style.report_figure`] with the folder filled in: takes a figure, `name` and `alt`.
Draw = Callable[..., InlineFigure]

_BELOW = "numbers in the table below"


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def learnt(study: StudyResults, draw: Draw) -> Section:
    """The main arm beside an untrained network, pixel prediction and hand-crafted descriptors."""
    kind = study.kind
    arms = (*kind.label_arms, *kind.descriptors)
    read_outs = (kind.read_outs[0], "neighbours", kind.read_outs[1])
    figures = _dot_figures(study, draw, arms, name="learnt", read_outs=read_outs)
    sentences = " ".join(_learnt_sentence(study, task) for task in study.tasks).strip()
    return new_section(
        "learnt", figures, [_accuracy_table(study, arms)], kind=kind, labels=study.labels, sentences=sentences
    )


def _learnt_sentence(study: StudyResults, task: str) -> str:
    kind = study.kind
    found = {form: study.summary(kind.main, task=task, read_out=form) for form in kind.read_outs}
    read_out = next((form for form, own in found.items() if own), None)
    if read_out is None:
        return ""
    others = _summaries(study, ("untrained", "pixels"), task=task, read_out=read_out)
    parts = [f"{kind.label(arm)} {value.mean:.1f}" for arm, value in others.items()]
    text = f"{task.capitalize()}, {READ_OUTS[read_out]}: {kind.method} {found[read_out].mean:.1f} %"
    text += f", {listed(parts)}" if parts else ""
    chance = study.chance(task)
    text += f", chance {chance:.1f}" if chance is not None else ""
    descriptors = [
        (value.mean, f"{kind.label(arm)} with {READ_OUTS[form]}")
        for form in ("ridge", "neighbours")
        for arm, value in _summaries(study, kind.descriptors, task=task, read_out=form).items()
    ]
    text += f"; best hand-crafted descriptor ({max(descriptors)[1]}): {max(descriptors)[0]:.1f}" if descriptors else ""
    return text + "."


def masks(study: StudyResults, draw: Draw) -> Section:
    """Multi-block masks beside other strategies."""
    return _arms_section("masks", study, draw, study.kind.mask_arms)


def blocks(study: StudyResults, draw: Draw) -> Section:
    """Multi-block masks with other sizes, numbers or places."""
    return _arms_section("blocks", study, draw, (study.kind.mask_arms[0], *study.kind.block_arms))


def _arms_section(key: str, study: StudyResults, draw: Draw, arms: Sequence[str]) -> Section:
    """Arms with other masks beside the first of them."""
    kind = study.kind
    figures = _dot_figures(study, draw, arms, name=key, read_outs=kind.read_outs, least=2)
    sentences = []
    for task in study.tasks:
        form = next((form for form in kind.read_outs[::-1] if study.summary(arms[0], task=task, read_out=form)), None)
        found = _summaries(study, arms, task=task, read_out=form) if form else {}
        if len(found) > 1:
            parts = [f"{kind.label(arm)} {value.mean:.1f}" for arm, value in found.items()]
            sentences.append(f"{task.capitalize()}, {READ_OUTS[form]}: {listed(parts)} %.")
    return new_section(key, figures, [_accuracy_table(study, arms)], kind=kind, sentences=" ".join(sentences))


def pooling(study: StudyResults, draw: Draw) -> Section:
    """Attentive beside mean pooling."""
    figures, sentences, rows = [], [], []
    kind = study.kind
    arms = (*kind.label_arms, *kind.mask_arms[1:])
    for task in study.tasks:
        attentive, mean = (_summaries(study, arms, task=task, read_out=form) for form in ("attentive", "mean"))
        both = [(arm, attentive[arm], mean[arm]) for arm in attentive if arm in mean]
        if not both:
            continue
        leads = {arm: signed(a.mean - b.mean) for arm, a, b in both}
        figure = dots(
            [
                Dot(kind.label(arm), kind.arms[arm].color, a.mean, a.mean, b.mean, other=b.mean, text=leads[arm])
                for arm, a, b in both
            ],
            names=("attentive", "mean"),
            title=task.capitalize(),
            xlabel=f"accuracy in %, {study.labels} labelled {study.kind.nouns}",
            reference=study.chance(task),
        )
        alt = f"attentive and mean pooling, {task}; {_BELOW}"
        figures.append(draw(figure, name=f"pooling-{task}", alt=alt))
        rows += [[task, kind.label(arm), str(a), str(b), leads[arm]] for arm, a, b in both]
        sentences += [
            f"{task.capitalize()}: on tokens of {kind.method} a probe with attentive pooling reaches {a.mean:.1f} %, "
            f"a probe with mean pooling {b.mean:.1f} %."
            for arm, a, b in both
            if arm == kind.main
        ]
    header = ["task", "encoder", "attentive", "mean", "difference"]
    table = Table("Accuracy in % [95 % interval]", header, rows, first_number=2)
    return new_section("pooling", figures, [table], kind=kind, sentences=" ".join(sentences))


def label_efficiency(study: StudyResults, draw: Draw) -> Section:
    """Accuracy against the number of labels."""
    figures, leads, rows = [], [], []
    kind = study.kind
    for read_out, task in product(kind.read_outs, study.tasks):
        found = {}
        for arm in kind.label_arms:
            counts = study.values("labels", arm=arm, task=task, read_out=read_out, final=True)
            if len(counts) > 1:
                settings = {"task": task, "read_out": read_out}
                found[arm] = {count: study.summary(arm, labels=count, **settings) for count in counts}
        if not found:
            continue
        counts = sorted(set().union(*found.values()))
        figure = curves(
            [_curve(kind, arm, values) for arm, values in found.items()],
            title=f"{task.capitalize()}, {READ_OUTS[read_out]}",
            xlabel=f"labelled {kind.nouns} (share of all)",
            ylabel="accuracy in %",
            log_ticks=_count_ticks(counts, main=study.labels),
            reference=study.chance(task),
        )
        alt = f"accuracy against labels: {task}, {READ_OUTS[read_out]}; {_BELOW}"
        figures.append(draw(figure, name=f"labels-{task}-{read_out}", alt=alt))
        for arm, values in found.items():
            names = [task, READ_OUTS[read_out], kind.label(arm)]
            rows += [[*names, f"{count:,}", str(value)] for count, value in values.items()]
        own, other = (found.get(arm, {}) for arm in (kind.main, "untrained"))
        ends = (counts[0], counts[-1])
        if all(count in own and count in other for count in ends):
            parts = [f"{signed(own[count].mean - other[count].mean)} with {count:,} labels" for count in ends]
            leads.append(f"{task}, {READ_OUTS[read_out]}: {', '.join(parts)}")
    text = f"{kind.method}'s lead over the untrained network in points: {'; '.join(leads)}." if leads else ""
    header = ["task", "read-out", "encoder", f"labelled {kind.nouns}", "accuracy in %"]
    table = Table("Accuracy by number of labels", header, rows, first_number=3)
    return new_section("labels", figures, [table], kind=kind, sentences=text)


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
    kind = study.kind
    for task in study.tasks:
        lines = []
        for read_out, style in zip(kind.read_outs, ("-", "--"), strict=True):
            steps = study.values("step", arm=kind.main, task=task, read_out=read_out, labels=study.labels)
            found = {step: study.summary(kind.main, task=task, read_out=read_out, step=step) for step in steps if step}
            start = study.summary("untrained", task=task, read_out=read_out)
            if start and found:
                found = {0: start, **found}
            if len(found) < 3:
                continue
            lines.append(_curve(kind, kind.main, found, label=READ_OUTS[read_out], style=style))
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
    table = Table(f"Accuracy by step, {study.labels} labelled {kind.nouns}", header, rows, first_number=2)
    return new_section("steps", figures, [table], kind=kind, sentences="; ".join(sentences))


def _rank_figure(study: StudyResults, draw: Draw) -> list[InlineFigure]:
    """Effective rank at the evaluated steps; no figure if fewer than three steps have ranks."""
    kind = study.kind
    found = {0: study.ranks("untrained", step=0)}
    found |= {step: study.ranks(kind.main, step=step) for step in study.values("step", arm=kind.main)}
    found = {step: ranks for step, ranks in found.items() if ranks}
    if len(found) < 3:
        return []
    band = ([min(ranks) for ranks in found.values()], [max(ranks) for ranks in found.values()])
    line = Curve(
        kind.method, kind.arms[kind.main].color, list(found), [float(np.mean(ranks)) for ranks in found.values()], band
    )
    figure = curves([line], title="Effective rank", xlabel="pretraining steps", ylabel="directions", from_zero=True)
    return [
        draw(figure, name="steps-rank", alt=f"effective rank of the features of the test {kind.nouns} against steps")
    ]


def training(study: StudyResults, draw: Draw) -> Section:
    """Loss and rank of all runs."""
    figures: list[InlineFigure] = []
    kind = study.kind
    minutes: dict[str, list[float]] = {}
    for run in study.trained_runs:
        minutes.setdefault(run["arm"], []).append(run["seconds"] / 60)
    shown = [arm for arm in minutes if arm not in kind.block_arms]  # more curves could not be told apart
    features = [arm for arm in shown if arm != "pixels"]
    for name, key, arms, title in (
        ("training-loss", "loss", features, f"Loss of feature prediction ({kind.loss})"),
        ("training-pixels", "loss", ["pixels"], "Loss of pixel prediction (MSE)"),
        ("training-rank", "rank", shown, f"Effective rank over {kind.nouns}"),
    ):
        if lines := [line for arm in arms for line in _history_curves(study, arm, key)]:
            ylabel = {"loss": "loss", "rank": "directions"}[key]
            figure = curves(lines, title=title, xlabel="pretraining steps", ylabel=ylabel, markers=False)
            names = listed(list(dict.fromkeys(line.label for line in lines)))
            figures.append(draw(figure, name=name, alt=f"{title} against pretraining steps, {names}"))
    times = [f"{kind.label(arm)} {np.mean(values):.1f}" for arm, values in minutes.items()]
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
        rows.append([kind.label(run["arm"]), *numbers, *last])
    header = ["arm", "seed", "steps", "minutes", "last loss", "last rank"]
    texts = {"times": listed(times), "equal_time": equal_time}
    return new_section("training", figures, [Table("All runs", header, rows)], kind=kind, **texts)


def _history_curves(study: StudyResults, arm: str, key: str) -> list[Curve]:
    """Logged values of an arm: the mean over seeds and their range, or a line per seed if the logged steps differ."""
    found = [np.array(run[key], dtype=float).T for run in study.trained_runs if run["arm"] == arm and run.get(key)]
    label, arms = study.kind.label(arm), study.kind.arms
    shade = arms[arm].color if arm in arms else "ink"
    if any(not np.array_equal(part[0], found[0][0]) for part in found):
        return [Curve(label, shade, *part) for part in found]
    if not found:
        return []
    values = np.stack([part[1] for part in found])
    band = (values.min(axis=0), values.max(axis=0)) if len(values) > 1 else None
    return [Curve(label, shade, found[0][0], values.mean(axis=0), band=band)]


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
    return new_section("expectations", figures, [table], kind=study.kind, sentences=_expectations_sentence(study))


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
    figures, kind = [], study.kind
    for read_out, task in product(read_outs, study.tasks):
        found = _summaries(study, arms, task=task, read_out=read_out)
        if len(found) < least:
            continue
        # One axis for all read-outs of a task.
        highest = max(row["high"] for row in study.select(task=task, labels=study.labels))
        figure = dots(
            [Dot(kind.label(arm), kind.arms[arm].color, s.mean, s.low, s.high, s.seeds) for arm, s in found.items()],
            title=f"{task.capitalize()}, {READ_OUTS[read_out]}",
            xlabel=f"accuracy in %, {study.labels} labelled {study.kind.nouns}",
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
            rows.append([task, study.kind.label(arm), *(str(value or "–") for value in values)])
    title = f"Accuracy in % with {study.labels} labelled {study.kind.nouns} [95 % interval]"
    return Table(title, ["task", "features", *READ_OUTS.values()], rows, first_number=2)


def _curve(kind: StudyKind, arm: str, found: Mapping[int, Summary], *, label: str = "", style: str = "-") -> Curve:
    means, lows, highs = ([getattr(value, name) for value in found.values()] for name in ("mean", "low", "high"))
    return Curve(label or kind.label(arm), kind.arms[arm].color, list(found), means, (lows, highs), style)


def comparisons(kind: StudyKind) -> list[Callable[[StudyResults, Draw], Section]]:
    """The sections, in the order of the report; each takes the results and the drawing function."""
    varied = [blocks] if kind.block_arms else []
    return [learnt, masks, *varied, pooling, label_efficiency, during_training, training, expectations]
