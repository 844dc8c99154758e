"""The sections of a report that compare numbers of a study: charts, one sentence on each, and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from ..figures.charts import Curve, Dot, curves, dots, pairs
from ..figures.style import Picture, percent, signed
from .page import Section, Table
from .results import ARMS, READ_OUTS, Study, Summary, verdict

#: [`~figures.style.save_picture`] with the folder filled in: takes a figure, `name` and `alt`.
Draw = Callable[..., Picture]

_LEARNT = ("vjepa", "untrained", "pixels", *(name for name, arm in ARMS.items() if arm.is_baseline))
_MASKS = ("multiblock", "random_tube", "causal", "published_truncation")
_LABEL_ARMS = ("vjepa", "untrained", "pixels")
# In these the arms are compared throughout; the other two have a section or a chart of their own.
_MAIN_READ_OUTS = ("ridge", "attentive")
_INTERVALS = "Large dots: means over seeds, small ones: seeds, lines: 95 % intervals over seeds and test clips"


def arm_label(arm: str) -> str:
    return ARMS[arm].label if arm in ARMS else arm.replace("_", " ")


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def shown_name(contrast: str) -> str:
    """The name of a contrast with a true minus sign."""
    return contrast.replace(" - ", " \N{MINUS SIGN} ")


def learnt(study: Study, draw: Draw) -> Section:
    """V-JEPA beside an untrained network, pixel prediction and what hands can make."""
    section = Section("learnt", "What was learnt")
    sentences = []
    for read_out, task in product(("ridge", "neighbours", "attentive"), study.tasks):
        if found := _summaries(study, _LEARNT, task=task, read_out=read_out):
            section.pictures.append(_dot_picture(study, found, draw, task=task, read_out=read_out, name="learnt"))
    for task in study.tasks:
        sentences += _learnt_sentence(study, task)
    section.reading = " ".join(sentences)
    section.how = (
        f"{_INTERVALS}. Encoders are frozen; every read-out sees the same {study.labels} labelled clips. Ridge "
        "regression and nearest neighbours have no training loop that could hide what features know. Hand-made "
        "descriptors (brown) have no seed."
    )
    section.tables = [_accuracy_table(study, _LEARNT, title=f"Accuracy in % with {study.labels} labelled clips")]
    return _checked(section, "no accuracy of any arm is in study.json")


def _learnt_sentence(study: Study, task: str) -> list[str]:
    read_out = next((one for one in _MAIN_READ_OUTS if study.summary("vjepa", task=task, read_out=one)), None)
    if read_out is None:
        return []
    own = study.summary("vjepa", task=task, read_out=read_out)
    others = [
        f"{arm_label(arm)} {found.mean:.1f}"
        for arm in ("untrained", "pixels")
        if (found := study.summary(arm, task=task, read_out=read_out))
    ]
    text = f"{task.capitalize()}, {READ_OUTS[read_out]}: V-JEPA {own.mean:.1f} %"
    text += f", {listed(others)}" if others else ""
    chance = study.chance(task)
    text += f", chance {chance:.1f}" if chance is not None else ""
    by_hand = [
        (found.mean, f"{arm_label(arm)} with {READ_OUTS[one]}")
        for arm, properties in ARMS.items()
        if properties.is_baseline
        for one in ("ridge", "neighbours")
        if (found := study.summary(arm, task=task, read_out=one))
    ]
    text += f"; the best descriptor made by hand ({max(by_hand)[1]}) {max(by_hand)[0]:.1f}" if by_hand else ""
    return [text + "."]


def masks(study: Study, draw: Draw) -> Section:
    """Multi-block against tubes, causal masks and the published truncation."""
    section = Section("masks", "Which masks teach")
    sentences = []
    for read_out, task in product(_MAIN_READ_OUTS, study.tasks):
        found = _summaries(study, _MASKS, task=task, read_out=read_out)
        if len(found) < 2:
            continue
        section.pictures.append(_dot_picture(study, found, draw, task=task, read_out=read_out, name="masks"))
        if read_out == "attentive" or not study.summary(_MASKS[0], task=task, read_out="attentive"):
            values = listed([f"{arm_label(arm)} {value.mean:.1f}" for arm, value in found.items()])
            sentences.append(f"{task.capitalize()}, {READ_OUTS[read_out]}: {values} %.")
    section.reading = " ".join(sentences)
    section.how = f"{_INTERVALS}. All arms train equally many steps, fewer than the V-JEPA of the other sections."
    section.tables = [_accuracy_table(study, _MASKS, title=f"Accuracy in % with {study.labels} labelled clips")]
    return _checked(section, "the study has no arm with other masks than V-JEPA's")


def pooling(study: Study, draw: Draw) -> Section:
    """Attentive against mean pooling."""
    section = Section("pooling", "Attentive or mean pooling")
    sentences, rows = [], []
    arms = ("vjepa", "untrained", "pixels", *_MASKS[1:])
    for task in study.tasks:
        found = []
        for arm in arms:
            both = [study.summary(arm, task=task, read_out=one) for one in ("attentive", "mean")]
            if all(both):
                found.append((arm, *both))
        if not found:
            continue
        marks = [(arm_label(arm), ARMS[arm].color, first.mean, second.mean) for arm, first, second in found]
        figure = pairs(
            marks,
            names=("attentive", "mean"),
            title=task.capitalize(),
            xlabel=f"accuracy in %, {study.labels} labelled clips",
            reference=study.chance(task),
        )
        alt = "; ".join(f"{name}: attentive {first:.1f}, mean {second:.1f} %" for name, _, first, second in marks)
        section.pictures.append(draw(figure, name=f"pooling-{task}", alt=alt))
        rows += [[task, arm_label(arm), str(a), str(b), signed(a.mean - b.mean)] for arm, a, b in found]
        own = next(((a, b) for arm, a, b in found if arm == "vjepa"), None)
        if own:
            sentences.append(
                f"{task.capitalize()}: on V-JEPA's tokens a probe with attentive pooling reaches {own[0].mean:.1f} %, "
                f"one with mean pooling {own[1].mean:.1f} %."
            )
    section.reading = " ".join(sentences)
    section.how = (
        "Filled: one learned query attends to all tokens. Hollow: a linear layer on their mean. Dashed: chance. "
        "Numbers: the difference in points."
    )
    header = ["task", "encoder", "attentive", "mean", "difference"]
    section.tables = [Table("Accuracy in % [95 % interval]", header, rows, first_number=2)]
    return _checked(section, "the study has no arm with both an attentive and a mean-pooled probe")


def label_efficiency(study: Study, draw: Draw) -> Section:
    """Accuracy against the number of labels."""
    section = Section("labels", "How few labels are enough")
    sentences, rows = [], []
    for read_out, task in product(_MAIN_READ_OUTS, study.tasks):
        lines, counts = [], set()
        for arm in _LABEL_ARMS:
            own = study.label_counts(arm=arm, task=task, read_out=read_out)
            found = [study.summary(arm, task=task, read_out=read_out, labels=count) for count in own]
            if len(found) < 2:
                continue
            counts |= set(own)
            lines.append(_curve(arm, own, found))
            names = [task, READ_OUTS[read_out], arm_label(arm)]
            rows += [[*names, f"{count:,}", str(value)] for count, value in zip(own, found, strict=True)]
        if not lines:
            continue
        figure = curves(
            lines,
            title=f"{task.capitalize()}, {READ_OUTS[read_out]}",
            xlabel="labelled clips (share of all)",
            ylabel="accuracy in %",
            log_ticks=_count_ticks(sorted(counts), main=study.labels),
            reference=study.chance(task),
        )
        alt = f"accuracy against labels: {task}, {READ_OUTS[read_out]}; numbers in the table below"
        section.pictures.append(draw(figure, name=f"labels-{task}-{read_out}", alt=alt))
        sentences += _label_sentence(study, task, read_out, sorted(counts))
    section.reading = (
        f"V-JEPA's lead over the untrained network in points: {'; '.join(sentences)}." if sentences else ""
    )
    section.how = "Bands: 95 % intervals over seeds and test clips. The horizontal axis is logarithmic."
    header = ["task", "read-out", "encoder", "labelled clips", "accuracy in %"]
    section.tables = [Table("Accuracy by number of labels", header, rows, first_number=3)]
    return _checked(section, "the study evaluated one number of labels only")


def _label_sentence(study: Study, task: str, read_out: str, counts: Sequence[int]) -> list[str]:
    ends = []
    for count in (counts[0], counts[-1]):
        both = [study.summary(arm, task=task, read_out=read_out, labels=count) for arm in ("vjepa", "untrained")]
        if not all(both):
            return []
        ends.append(both[0].mean - both[1].mean)
    leads = [
        f"{signed(lead)} with {count:,} labels" for lead, count in zip(ends, (counts[0], counts[-1]), strict=True)
    ]
    return [f"{task}, {READ_OUTS[read_out]}: {', '.join(leads)}"]


def _count_ticks(counts: Sequence[int], *, main: int) -> list[tuple[float, str]]:
    """Places and names on a logarithmic axis; of two that would overlap, not that of the main numbers."""
    chosen: list[int] = []
    for count in sorted(counts, key=lambda count: (count not in (counts[0], counts[-1]), count == main, count)):
        if all(abs(np.log(count / other)) > 0.17 * np.log(counts[-1] / counts[0]) for other in chosen):
            chosen.append(count)
    return [(count, f"{count:,}\n{percent(count / counts[-1])}") for count in sorted(chosen)]


def during_training(study: Study, draw: Draw) -> Section:
    """Accuracy and effective rank against pretraining steps."""
    section = Section("steps", "What pretraining adds, step by step")
    sentences, rows = [], []
    for task in study.tasks:
        lines = []
        for read_out, style in zip(_MAIN_READ_OUTS, ("-", "--"), strict=True):
            steps = [step for step in study.steps(arm="vjepa", task=task, read_out=read_out) if step > 0]
            found = [study.summary("vjepa", task=task, read_out=read_out, step=step) for step in steps]
            before = study.summary("untrained", task=task, read_out=read_out)
            if before and steps:
                steps, found = [0, *steps], [before, *found]
            if len(steps) < 3:
                continue
            lines.append(_curve("vjepa", steps, found, label=READ_OUTS[read_out], style=style))
            rows += [[task, READ_OUTS[read_out], f"{n:,}", str(s)] for n, s in zip(steps, found, strict=True)]
            best = max(range(len(found)), key=lambda place: found[place].mean)
            text = f"{task}, {READ_OUTS[read_out]}: {found[0].mean:.1f} at step {steps[0]:,}"
            text += f", {found[-1].mean:.1f} at step {steps[-1]:,}"
            sentences.append(text + (f" (best at {steps[best]:,})" if best < len(found) - 1 else ""))
        if lines:
            figure = curves(
                lines,
                title=task.capitalize(),
                xlabel="pretraining steps",
                ylabel="accuracy in %",
                reference=study.chance(task),
            )
            alt = f"accuracy on {task} against pretraining steps; numbers in the table below"
            section.pictures.append(draw(figure, name=f"steps-{task}", alt=alt))
    if section.pictures:
        section.pictures += _rank_picture(study, draw)
    section.reading = f"Accuracy in %: {'; '.join(sentences)}."
    section.how = (
        "Step 0 is the untrained network. Effective rank: in how many directions target features of different clips "
        "differ at the same position; it falls towards 1 where features collapse."
    )
    header = ["task", "read-out", "step", "accuracy in %"]
    section.tables = [Table(f"Accuracy by step, {study.labels} labelled clips", header, rows, first_number=2)]
    return _checked(section, "the study evaluated no checkpoint on the way")


def _rank_picture(study: Study, draw: Draw) -> list[Picture]:
    """Effective rank at the steps where accuracies were taken; no picture where rows do not carry it."""
    steps = [step for step in study.all_steps("vjepa") if study.ranks("vjepa", step=step)]
    values = [study.ranks("vjepa", step=step) for step in steps]
    if before := study.ranks("untrained", step=0):
        steps, values = [0, *steps], [before, *values]
    if len(steps) < 3:
        return []
    band = ([min(value) for value in values], [max(value) for value in values])
    line = Curve("V-JEPA", "vjepa", steps, [float(np.mean(value)) for value in values], band)
    figure = curves([line], title="Effective rank", xlabel="pretraining steps", ylabel="directions", from_zero=True)
    return [draw(figure, name="steps-rank", alt="effective rank of the features of the test clips against steps")]


def training(study: Study, draw: Draw) -> Section:
    """Loss and rank of all runs."""
    section = Section("training", "Training curves")
    arms = list(dict.fromkeys(run["arm"] for run in study.trained_runs))
    features = [arm for arm in arms if arm != "pixels"]
    title = "Loss of feature prediction (L1)"
    candidates = [
        _history_picture(study, draw, key="loss", arms=features, name="training-loss", title=title),
        _history_picture(
            study, draw, key="loss", arms=["pixels"], name="training-pixels", title="Loss of pixel prediction (MSE)"
        ),
        _history_picture(study, draw, key="rank", arms=arms, name="training-rank", title="Effective rank over clips"),
    ]
    section.pictures = [picture for picture in candidates if picture]
    rows = [
        [
            arm_label(run["arm"]),
            str(run["seed"]),
            f"{run['steps']:,}",
            f"{run['seconds'] / 60:.1f}",
            _last(run.get("loss"), "{:.4f}"),
            _last(run.get("rank"), "{:.1f}"),
        ]
        for run in study.trained_runs
    ]
    times = [
        f"{arm_label(arm)} {np.mean([run['seconds'] / 60 for run in study.trained_runs if run['arm'] == arm]):.1f}"
        for arm in arms
    ]
    section.reading = f"Minutes per run, mean over seeds: {listed(times)}."
    section.how = (
        "Lines: mean over seeds; bands: from the lowest seed to the highest. Losses of different targets "
        "cannot be compared with each other, and a lower loss does not mean better features: masks and targets differ."
    )
    if equal := study.settings.get("equal_time"):
        section.how += (
            f" Pixel prediction needs no target features, so a step of it is {equal['ratio']:.2f} times as fast; it "
            f"takes {equal['steps']:,} steps, as many as fit into the same time."
        )
    header = ["arm", "seed", "steps", "minutes", "last loss", "last rank"]
    section.tables = [Table("All runs", header, rows)]
    return _checked(section, "study.json holds no run that took a step")


def _last(history: Sequence[Sequence[float]] | None, pattern: str) -> str:
    return pattern.format(history[-1][1]) if history else "–"


def _history_picture(
    study: Study, draw: Draw, *, key: str, arms: Sequence[str], name: str, title: str
) -> Picture | None:
    """What runs logged: the mean over seeds and their range, or a line per seed where they logged at other steps."""
    lines = []
    for arm in arms:
        histories = [run[key] for run in study.trained_runs if run["arm"] == arm and run.get(key)]
        if not histories:
            continue
        shade = ARMS[arm].color if arm in ARMS else "ink"
        table = [np.array(history, dtype=float).T for history in histories]
        if any(not np.array_equal(part[0], table[0][0]) for part in table):
            lines += [Curve(arm_label(arm), shade, *part) for part in table]
            continue
        values = np.stack([part[1] for part in table])
        band = (values.min(axis=0), values.max(axis=0)) if len(values) > 1 else None
        lines.append(Curve(arm_label(arm), shade, table[0][0], values.mean(axis=0), band=band))
    if not lines:
        return None
    ylabel = {"loss": "loss", "rank": "directions"}[key]
    figure = curves(lines, title=title, xlabel="pretraining steps", ylabel=ylabel, markers=False)
    return draw(
        figure,
        name=name,
        alt=f"{title} against pretraining steps, {listed(list(dict.fromkeys(line.label for line in lines)))}",
    )


def expectations(study: Study, draw: Draw) -> Section:
    """The paper's findings as differences with intervals."""
    section = Section("expectations", "What the paper expects")
    names = list(dict.fromkeys(item["name"] for item in study.contrasts))
    limits = None
    if study.contrasts:
        low, high = min(item["low"] for item in study.contrasts), max(item["high"] for item in study.contrasts)
        margin = 0.04 * (high - low) or 1.0
        limits = (min(low, 0) - margin, max(high, 0) + margin)
    for place, name in enumerate(names):
        items = [item for item in study.contrasts if item["name"] == name]
        marks = [
            Dot(
                f"{item['task']}, {item['read_out']}",
                {"met": "right", "open": "muted", "contradicted": "wrong"}[verdict(item)],
                item["difference"],
                item["low"],
                item["high"],
                hollow=verdict(item) != "met",
            )
            for item in items
        ]
        figure = dots(
            marks,
            title=shown_name(name),
            xlabel="difference in points",
            reference=0,
            reference_label="",
            limits=limits,
            signed=True,
        )
        alt = "; ".join(
            f"{mark.label}: {signed(mark.mean)} [{signed(mark.low)}, {signed(mark.high)}]" for mark in marks
        )
        section.pictures.append(draw(figure, name=f"expectation-{place + 1}", alt=f"{name}: {alt}"))
    section.reading = expectations_sentence(study)
    section.how = (
        "The paper expects every difference to be positive. Blue, filled: the whole 95 % interval (paired bootstrap "
        "over seeds and test clips) is. Grey, hollow: 0 lies inside, so these runs do not decide it. Orange, hollow: "
        "the whole interval is negative. Intervals are per row and not corrected for their number."
    )
    rows = [
        [
            shown_name(item["name"]),
            item["task"],
            item["read_out"],
            f"{item['labels']:,}",
            signed(item["difference"]),
            f"[{signed(item['low'])}, {signed(item['high'])}]",
            verdict(item),
        ]
        for item in study.contrasts
    ]
    header = ["contrast", "task", "read-out", "labels", "difference", "95 % interval", "expectation"]
    section.tables = [Table("All contrasts", header, rows, first_number=3)]
    return _checked(section, "study.json holds no contrast")


def expectations_sentence(study: Study) -> str:
    """How many expectations are met, and by name those that are not."""
    if not study.contrasts:
        return ""
    by_verdict: dict[str, list[dict[str, Any]]] = {"met": [], "open": [], "contradicted": []}
    for item in study.contrasts:
        by_verdict[verdict(item)].append(item)
    text = f"{len(by_verdict['met'])} of {len(study.contrasts)} expectations of the paper are met."
    for kind, lead in (("contradicted", "The opposite holds for"), ("open", "Not decided:")):
        by_name: dict[str, list[str]] = {}
        for item in by_verdict[kind]:
            by_name.setdefault(item["name"], []).append(f"{item['task']} by {item['read_out']}")
        if by_name:
            parts = [f"{shown_name(name)} ({listed(where)})" for name, where in by_name.items()]
            text += f" {lead} {'; '.join(parts)}."
    return text


def _summaries(study: Study, arms: Sequence[str], **wanted: Any) -> dict[str, Summary]:
    found = {arm: study.summary(arm, **wanted) for arm in arms}
    return {arm: summary for arm, summary in found.items() if summary}


def _dot_picture(
    study: Study, found: dict[str, Summary], draw: Draw, *, task: str, read_out: str, name: str
) -> Picture:
    marks = [
        Dot(arm_label(arm), ARMS[arm].color, value.mean, value.low, value.high, value.seeds)
        for arm, value in found.items()
    ]
    # One axis for all read-outs of a task.
    highest = max(row["high"] for row in study.rows if row["task"] == task and row["labels"] == study.labels)
    figure = dots(
        marks,
        title=f"{task.capitalize()}, {READ_OUTS[read_out]}",
        xlabel=f"accuracy in %, {study.labels} labelled clips",
        reference=study.chance(task),
        limits=(0, min(100, max(10, 10 * math.ceil(highest / 10)))),
    )
    alt = "; ".join(f"{mark.label} {mark.mean:.1f} % [{mark.low:.1f}, {mark.high:.1f}]" for mark in marks)
    return draw(figure, name=f"{name}-{task}-{read_out}", alt=f"{task}, {READ_OUTS[read_out]}: {alt}")


def _accuracy_table(study: Study, arms: Sequence[str], *, title: str) -> Table:
    cells = [
        [(arm, task), *(study.summary(arm, task=task, read_out=read_out) for read_out in READ_OUTS)]
        for task in study.tasks
        for arm in arms
    ]
    rows = [
        [task, arm_label(arm), *(str(value) if value else "–" for value in values)]
        for (arm, task), *values in cells
        if any(values)
    ]
    return Table(f"{title} [95 % interval]", ["task", "features", *READ_OUTS.values()], rows, first_number=2)


def _curve(
    arm: str, places: Sequence[float], values: Sequence[Summary], *, label: str | None = None, style: str = "-"
) -> Curve:
    band = ([value.low for value in values], [value.high for value in values])
    return Curve(label or arm_label(arm), ARMS[arm].color, places, [value.mean for value in values], band, style)


def _checked(section: Section, missing: str) -> Section:
    """The section, or where it has no picture one that says why."""
    if section.pictures:
        section.tables = [table for table in section.tables if table.rows]
        return section
    return Section(section.key, section.title, missing=f"Not shown: {missing}.")


#: In the order of the report; each takes the study and what draws.
COMPARISONS: tuple[Callable[[Study, Draw], Section], ...] = (
    learnt,
    masks,
    pooling,
    label_efficiency,
    during_training,
    training,
    expectations,
)

__all__ = ["COMPARISONS", "Draw", "arm_label", "expectations_sentence", "listed"]
