"""The sections of a report that look at clips: masks, features, attention, neighbours, errors, confusions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ..analysis.feature_decoder import decode_predictions, draw_decoded_clip, train_decoder
from ..analysis.prediction_errors import (
    attended_tokens,
    attention_weights,
    draw_error_example,
    draw_error_maps,
    nearest_clips,
    prediction_errors,
    strategy_masks,
)
from ..analysis.read_outs import fit_probe, time_means
from ..analysis.surprise import (
    DISTURBANCES,
    DisturbedPairs,
    Surprise,
    disturbed_pairs,
    draw_surprise,
    measure_surprise,
    summarise,
)
from ..evaluation.probing import fit_read_out
from ..figures.charts import Curve, Dot, curves, dots, plot_confusion_matrix
from ..figures.images import draw_attention, draw_feature_colors, draw_masks, draw_neighbours, short_name
from ..figures.style import percent
from .comparisons import Draw, arm_label, listed
from .inputs import ReportInputs
from .page import Section, Table

_MASK_ARMS = ("multiblock", "random_tube", "causal", "published_truncation")
# Of the recipe; the published truncation cuts to the shortest mask of so many clips.
_BATCH_SIZE = 32
_NEIGHBOURS = 5
# CSS pixels: two such pictures stand side by side.
_HALF_WIDTH = 490
_ERROR_CLIPS = 200
_DECODER_BATCHES = 20
_DECODER_STEPS = 200
# A multiple of 40 has each motion and appearance equally often.
_SURPRISE_PAIRS = 200
_DISTURBANCES = {"jump": "shapes jump", "vanish": "shapes vanish", "reverse": "motion reverses"}


def shown_clips(inputs: ReportInputs, *, number: int, limit: int | None = None) -> list[int]:
    """
    Test clips to show, of those before `limit`: by a fixed seed, not by what they look like, and of different classes
    of the first task.
    """
    labels = inputs.labels(next(iter(inputs.class_names)))[:limit]
    order = np.random.default_rng(1).permutation(len(labels))
    first = dict(sorted({int(labels[index]): int(index) for index in reversed(order)}.items()))
    chosen = list(first.values())
    places = np.linspace(0, len(chosen) - 1, min(number, len(chosen))).round().astype(int)
    return [chosen[place] for place in places]


def mask_pictures(inputs: ReportInputs, draw: Draw) -> Section:
    """What the masks of every arm leave to see."""
    section = Section("mask-pictures", "What the masks hide")
    clip = inputs.test[shown_clips(inputs, number=1)[0]]
    arms = {run["arm"] for run in inputs.study.runs} | {"multiblock"}
    rows = []
    for arm in _MASK_ARMS:
        if arm not in arms:
            continue
        try:
            masks = strategy_masks(inputs.config, arm, batch_size=_BATCH_SIZE)
        except ValueError:  # the study trained with other masks: these do not fit the clips
            continue
        name = "multi-block (V-JEPA)" if arm == "multiblock" else arm_label(arm)
        figure = draw_masks(clip, masks.context_mask, masks.target_mask, config=inputs.config, title=name)
        section.pictures.append(draw(figure, name=f"masks-shown-{arm}", alt=f"context and targets: {name}"))
        tokens = inputs.config.num_patches
        rows += [
            [name, str(index + 1), percent(context.shape[1] / tokens), percent(target.shape[1] / tokens)]
            for index, (context, target) in enumerate(zip(masks.context_mask, masks.target_mask, strict=True))
        ]
    section.reading = (
        "The context encoder sees what is left as it is; the predictor must find the features of what is blue; what "
        "is crossed out in red is neither, cut off so that all clips of a batch have masks of one length."
    )
    section.how = (
        f"One clip, one draw of masks, in a batch of {_BATCH_SIZE}. The first frame of every time step is shown."
    )
    section.tables = [Table("Share of tokens", ["masks", "generator", "context", "target"], rows)]
    return section


def feature_colors(inputs: ReportInputs, draw: Draw) -> Section:
    """PCA maps."""
    section = Section("features", "What features see")
    clips = shown_clips(inputs, number=4)
    features = [(arm_label(arm), inputs.test_features(arm)) for arm in inputs.arms]
    for place, index in enumerate(clips):
        figure = draw_feature_colors(
            inputs.test, features, shown=index, name=_label(inputs, index), config=inputs.config
        )
        names = _class_text(inputs, index)
        section.pictures.append(draw(figure, name=f"features-{place + 1}", alt=f"features as colours: {names}"))
    rows = []
    for arm, values in features:
        tokens = values.flatten(1, 2).flatten(0, 1)
        variances = torch.linalg.svdvals(tokens - tokens.mean(dim=0)).square()
        by_place = values.flatten(1, 2)
        shared = by_place.mean(dim=0, keepdim=True)
        position = (shared - shared.mean(dim=1, keepdim=True)).square().mean() / tokens.var(dim=0).mean()
        rows.append([arm, percent(float(variances[:3].sum() / variances.sum())), percent(float(position))])
    parts = [f"{share} of it in the {arm} encoder's" for arm, share, _ in rows]
    section.reading = (
        "Features as colours: their first three principal components over all test clips, as red, green and blue. The "
        f"variance of tokens that they hold: {listed(parts)}."
    )
    section.how = "Tokens of one colour have like features. Colours of different encoders mean nothing to each other."
    header = ["features", "variance in 3 components", "variance by position alone"]
    section.tables = [Table("Variance of tokens", header, rows)]
    return section


def attention(inputs: ReportInputs, draw: Draw) -> Section:
    """Where the query of attentive probes looks."""
    section = Section("attention", "Where the probe looks")
    tokens = inputs.test_features("vjepa").flatten(1, 2)
    maps, rows = [], []
    for task in inputs.class_names:
        features, labels = inputs.labelled_features("vjepa", task)
        grid = fit_probe("attentive", features.flatten(1, 2), labels, seed=inputs.study.first_seed)
        weights = attention_weights(grid.probes[0].pooler, tokens)
        with torch.inference_mode():
            right = grid(tokens[:, None]).logits[:, 0].argmax(-1).numpy() == inputs.labels(task)
        by_step = weights.unflatten(1, (inputs.config.grid_size[0], -1)).sum(dim=2).mean(dim=0)
        maps.append((task, weights))
        rows.append(
            [
                task,
                f"{100 * right.mean():.1f}",
                f"{attended_tokens(weights).mean():.0f} of {tokens.shape[1]}",
                ", ".join(percent(float(share)) for share in by_step),
            ]
        )
    for place, index in enumerate(shown_clips(inputs, number=4)):
        figure = draw_attention(inputs.test, maps, shown=index, name=_label(inputs, index), config=inputs.config)
        names = _class_text(inputs, index)
        section.pictures.append(draw(figure, name=f"attention-{place + 1}", alt=f"attention of probes: {names}"))
    parts = [f"for {task} over {spread} tokens" for task, _, spread, _ in rows]
    section.reading = (
        f"The attention of a probe on V-JEPA's features is spread {listed(parts)} (mean of the test clips)."
    )
    section.how = (
        f"Probes of {inputs.study.labels} labelled clips; weights of their query, averaged over heads, over the "
        "frames in grey. Dark: none; brightest: three times the share of even attention, or more. Tokens also hold "
        "what their neighbours show."
    )
    header = ["probe", "accuracy in %", "attended tokens (exp. of entropy)", "share of each time step"]
    section.tables = [Table("Attention", header, rows)]
    return section


def neighbours(inputs: ReportInputs, draw: Draw) -> Section:
    """The nearest clips by feature."""
    section = Section("neighbours", "Nearest clips by feature")
    labels = {task: inputs.labels(task) for task in inputs.class_names}
    rows, nearest = [], None
    for arm in inputs.arms:
        nearest = nearest_clips(time_means(inputs.test_features(arm)), number=_NEIGHBOURS)
        shares = [(values[nearest.numpy()] == values[:, None]).mean() for values in labels.values()]
        rows.append([arm_label(arm), *(f"{100 * share:.1f}" for share in shares)])
    chance = [f"{100 * np.mean([(values == value).mean() for value in values]):.1f}" for values in labels.values()]
    rows.append(["chance", *chance])
    for place, query in enumerate(shown_clips(inputs, number=4)):
        figure = draw_neighbours(
            inputs.test, nearest[query], labels, query=query, class_names=inputs.class_names, config=inputs.config
        )
        alt = f"{_class_text(inputs, query)}, and its {_NEIGHBOURS} nearest clips by V-JEPA's features"
        section.pictures.append(draw(figure, name=f"neighbours-{place + 1}", alt=alt))
    own = next(row for row in rows if row[0] == arm_label("vjepa"))
    parts = [
        f"{share} % share its {task} (chance {by_chance} %)"
        for share, task, by_chance in zip(own[1:], labels, chance, strict=True)
    ]
    section.reading = f"Of the {_NEIGHBOURS} nearest test clips of a test clip, by V-JEPA's features, {listed(parts)}."
    first = next(iter(labels))
    section.how = (
        "By the cosine of features averaged over space at each time step, standardised. Queries are chosen by chance. "
        f"Border: blue where the {first} is that of the query, orange where it is not; ✓ and ✗ say so for each label."
    )
    header = ["features", *labels]
    section.tables = [
        Table(f"Share of the {_NEIGHBOURS} nearest test clips with the label of the query, %", header, rows)
    ]
    return section


def errors(inputs: ReportInputs, draw: Draw) -> Section:
    """Prediction error over space and time."""
    section = Section("errors", "Where the prediction errs")
    clips = inputs.test[:_ERROR_CLIPS]
    found = prediction_errors(inputs.pretraining_model("vjepa"), inputs.normalized(clips))
    section.pictures.append(
        draw(
            draw_error_maps(found, config=inputs.config),
            name="errors-map",
            alt="mean prediction error at every place of the token grid, per time step",
        )
    )
    steps = inputs.config.tubelet_size * (np.arange(inputs.config.grid_size[0]) + 0.5) - 0.5
    by_step = found.tokens.nanmean(dim=(0, 2, 3)), found.reference.mean(dim=(0, 2, 3))
    lines = [
        Curve("predictor", "vjepa", steps, by_step[0].numpy()),
        Curve("average feature of that place", "untrained", steps, by_step[1].numpy()),
    ]
    figure = curves(lines, title="Error over time", xlabel="frame of the clip", ylabel="mean L1 error", from_zero=True)
    section.pictures.append(
        draw(figure, name="errors-time", alt="prediction error over time, beside that of an average")
    )
    for place, index in enumerate(shown_clips(inputs, number=2, limit=len(clips))):
        figure = draw_error_example(clips, found, shown=index, name=_label(inputs, index), config=inputs.config)
        alt = f"prediction error over the frames: {_class_text(inputs, index)}"
        section.pictures.append(draw(figure, name=f"errors-{place + 1}", alt=alt))
    error, reference = float(found.tokens.nanmean()), float(found.reference.mean())
    change = "of that error is gone" if error < reference else "comes on top: it predicts worse than an average"
    section.reading = (
        f"The predictor misses the normalised target features by {error:.3f} (mean L1); the average feature of each "
        f"place, which needs no context, by {reference:.3f}. {percent(abs(1 - error / reference))} {change}."
    )
    section.how = (
        f"{len(clips)} test clips, multi-block masks, each token as target of several masks. Over the frames, dark to "
        "bright: 5th to 95th percentile of all errors."
    )
    rows = [[f"{step:g}", f"{by_step[0][place]:.3f}", f"{by_step[1][place]:.3f}"] for place, step in enumerate(steps)]
    section.tables = [Table("Mean L1 error by time step", ["frame (middle)", "predictor", "average feature"], rows, 0)]
    return section


def decoded(inputs: ReportInputs, draw: Draw) -> Section:
    """Predictions as pixels, through a decoder that was trained on features of the target encoder."""
    section = Section("decoded", "What the predictor imagines")
    model = inputs.pretraining_model("vjepa")
    batches = [inputs.normalized(part) for part in inputs.training_batches(batch_size=32, number=_DECODER_BATCHES)]
    decoder = train_decoder(model, batches, steps=_DECODER_STEPS)
    clips = inputs.test[:_ERROR_CLIPS]
    masks = strategy_masks(inputs.config, "vjepa", batch_size=len(clips))
    context, target = masks.context_mask[0], masks.target_mask[0]
    found = decode_predictions(model, decoder, inputs.normalized(clips), context_mask=context, target_mask=target)
    for place, index in enumerate(shown_clips(inputs, number=4, limit=len(clips))):
        figure = draw_decoded_clip(found, shown=index, processor=inputs.processor, config=inputs.config)
        alt = f"predictions decoded into pixels: {_class_text(inputs, index)}"
        section.pictures.append(draw(figure, name=f"decoded-{place + 1}", alt=alt))
    hidden = target.shape[1] / inputs.config.num_patches
    losses = [
        (name, float((clip - found.original).square().mean() / hidden))
        for name, clip in (
            ("target features", found.from_targets),
            ("predictions", found.from_predictions),
            ("mean colour", found.context),
        )
    ]
    section.reading = (
        "Features turned back into pixels. In the hidden region the mean squared error is "
        f"{listed([f'{loss:.3f} from the {name}' for name, loss in losses])}, in units of the normalised pixels."
    )
    section.how = (
        "The decoder sees one token at a time and was trained on features of the target encoder, not on predictions: "
        "what it cannot show from those (third row), features do not hold; the last row is what the predictor makes "
        "of the context. Blur means that it averages over what might be there."
    )
    rows = [[name, f"{loss:.4f}"] for name, loss in losses]
    section.tables = [Table("Hidden region, mean squared error of normalised pixels", ["decoded from", "error"], rows)]
    return section


def surprise(inputs: ReportInputs, draw: Draw) -> Section:
    """Whether the prediction error tells disturbed clips from undisturbed ones."""
    section = Section("surprise", "What surprises the predictor")
    if not inputs.is_built_in:
        section.missing = "Not shown: disturbed clips can be rendered for the built-in corpus only."
        return section
    settings = {"config": inputs.config, "frame_step": inputs.processor.frame_step, "num_pairs": _SURPRISE_PAIRS}
    pairs = {kind: disturbed_pairs(kind, **settings) for kind in DISTURBANCES}
    found = {kind: _surprise_of("vjepa", inputs, clips) for kind, clips in pairs.items()}
    control = None
    if "untrained" in inputs.arms:
        control = {kind: _surprise_of("untrained", inputs, clips) for kind, clips in pairs.items()}
    numbers = inputs.study.surprise or summarise(found, untrained=control)
    marks, rows = _surprise_numbers(numbers)
    figure = dots(
        marks, title="Which clips are disturbed", xlabel="pairs told right, %", reference=50, limits=(0, 100)
    )
    alt = "; ".join(f"{mark.label} {mark.mean:.1f} %" for mark in marks)
    section.pictures.append(draw(figure, name="surprise", alt=alt))
    for kind, result in found.items():
        alt = f"surprise over time of disturbed and undisturbed clips, and an example: {kind}"
        picture = draw(draw_surprise({kind: result}, config=inputs.config), name=f"surprise-{kind}", alt=alt)
        section.pictures.append(picture)
    parts = [f"{mark.label.split(',')[0]} {mark.mean:.0f} %" for mark in marks if mark.color == "vjepa"]
    section.reading = (
        "Pairs of clips, as they should be and with exchanged ends: how often the disturbed ones have the larger "
        f"prediction error at the first step after the exchange: {', '.join(parts)}; by chance 50 %."
    )
    section.how = (
        "The predictor sees the time steps before and predicts the next; disturbed and undisturbed clips have the "
        "same steps to predict, so that only the prediction can tell them apart. Lines: 95 % intervals over pairs. "
        "Curves: means over pairs; dashed: the exchange."
    )
    section.tables = [Table("Pairs", ["disturbance", "model", "pairs", "right", "%", "95 % interval"], rows, 2)]
    return section


def _surprise_of(arm: str, inputs: ReportInputs, clips: DisturbedPairs) -> Surprise:
    return measure_surprise(inputs.pretraining_model(arm), clips, processor=inputs.processor)


def _surprise_numbers(numbers: Mapping[str, Mapping[str, Any]]) -> tuple[list[Dot], list[list[str]]]:
    """Marks and rows of a table, of V-JEPA and, where there is one, of the untrained network."""
    marks, rows = [], []
    for kind, entry in numbers.items():
        for arm, values in (("vjepa", entry), ("untrained", entry.get("untrained"))):
            if not values:
                continue
            share = 100 * values["correct"] / values["pairs"]
            names = [_DISTURBANCES.get(kind, kind), arm_label(arm)]
            marks.append(Dot(", ".join(names), arm, share, values["low"], values["high"]))
            interval = f"[{values['low']:.1f}, {values['high']:.1f}]"
            rows.append([*names, f"{values['pairs']:,}", f"{values['correct']:,}", f"{share:.1f}", interval])
    return marks, rows


def confusions(inputs: ReportInputs, draw: Draw) -> Section:
    """Which classes are taken for which."""
    section = Section("confusions", "What is mistaken for what")
    sentences = []
    for task, names in inputs.class_names.items():
        features, labels = inputs.labelled_features("vjepa", task)
        fitted = fit_read_out("ridge", time_means(features), torch.from_numpy(labels))
        predicted = fitted.predict(time_means(inputs.test_features("vjepa")).numpy())
        matrix = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(matrix, (inputs.labels(task), predicted), 1)
        shown = [short_name(name) for name in names]
        picture = draw(
            lambda path, matrix=matrix, shown=shown: plot_confusion_matrix(matrix, shown, path),
            name=f"confusion-{task}",
            max_width=_HALF_WIDTH,
            alt=f"confusion matrix of {task}: {np.trace(matrix)} of {matrix.sum()} right",
        )
        section.pictures.append(picture)
        section.tables.append(_confusion_table(task, matrix, shown))
        off = matrix - np.diag(np.diag(matrix))
        true, taken = np.unravel_index(off.argmax(), off.shape)
        if off.max() > 0:
            right = np.trace(matrix) / matrix.sum()
            share = off[true, taken] / matrix[true].sum()
            sentences.append(
                f"{task.capitalize()}: {100 * right:.1f} % right; the most frequent mistake is "
                f"{shown[true]} taken for {shown[taken]} ({percent(share)} of its clips)."
            )
    section.reading = " ".join(sentences)
    section.how = f"Ridge regression on V-JEPA's features, {inputs.study.labels} labelled clips, first seed."
    return section


def _confusion_table(task: str, matrix: np.ndarray, names: list[str]) -> Table:
    rows = [[name, *map(str, counts)] for name, counts in zip(names, matrix, strict=True)]
    return Table(f"Counts, {task}: true by predicted", ["true", *names], rows)


def _label(inputs: ReportInputs, index: int) -> str:
    """Classes of a test clip, one per line."""
    return _class_text(inputs, index).replace(", ", "\n")


def _class_text(inputs: ReportInputs, index: int) -> str:
    return ", ".join(short_name(names[inputs.labels(task)[index]]) for task, names in inputs.class_names.items())


#: In the order of the report; each takes the inputs and what draws.
VIEWS: tuple[Callable[[ReportInputs, Draw], Section], ...] = (
    mask_pictures,
    feature_colors,
    attention,
    neighbours,
    errors,
    decoded,
    confusions,
    surprise,
)

__all__ = ["VIEWS", "shown_clips"]
