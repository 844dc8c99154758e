"""
The sections of a report that show clips or images: masks, features, attention, neighbours, errors and others.

A clip is a figure with a column for each time step. Images are rows of one sheet ([`~study.image_views`]).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..analysis import surprise as surprises
from ..analysis.attention import attended_tokens, attention_weights
from ..analysis.feature_decoder import decode_predictions, draw_decoded_clip, train_decoder
from ..analysis.neighbours import nearest_clips
from ..analysis.prediction_errors import PredictionErrors, draw_error_maps, prediction_errors
from ..analysis.read_outs import fit_probe, time_means
from ..command_line.parsing import names_given
from ..evaluation.probing import fit_read_out
from ..figures import images
from ..figures.charts import Curve, Dot, curves, dots, draw_confusion_matrix
from ..figures.sheets import draw_image_masks, draw_sheet, image_tile
from ..figures.style import InlineFigure, percent
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..pretraining.arguments import parse_arguments
from ..pretraining.masking import Masks, sample_masks
from ..pretraining.setup import choose_masks
from . import image_views, plan
from .comparisons import Draw, listed
from .inputs import ReportInputs
from .kinds import StudyKind
from .page import Section, Table, new_section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Batch size of the recipe: the published truncation cuts to the shortest mask of the batch.
_BATCH_SIZE = 32
_NEIGHBOURS = 5
_IMAGES = 6  # rows of a sheet
_HALF_WIDTH = 490  # CSS pixels: two figures side by side
_ERROR_CLIPS = 200
_DECODER_CLIPS = 640
_DECODER_STEPS = 200
_DISTURBANCES = {"jump": "shapes jump", "vanish": "shapes vanish", "reverse": "motion reverses"}


def shown_clips(inputs: ReportInputs, *, number: int, limit: int | None = None) -> list[int]:
    """
    Indices of test clips before `limit` to show: of different classes of the first task, selected by a fixed seed and
    not by their content.
    """
    labels = inputs.labels(next(iter(inputs.class_names)))[:limit]
    order = np.random.default_rng(1).permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    places = np.linspace(0, len(first) - 1, min(number, len(first))).round().astype(int)
    return order[first[places]].tolist()


def _shown_figures(
    inputs: ReportInputs,
    draw: Draw,
    draw_clip: Callable[[int], Figure],
    columns: Callable[[], image_views.Columns],
    *,
    name: str,
    alt: str,
    number: int = 4,
    limit: int | None = None,
) -> list[InlineFigure]:
    """A figure of each of the [`shown_clips`]; of images one sheet with these columns."""
    if inputs.config.is_image_model:
        titles, tiles = columns()
        rows = [
            (inputs.class_text(index, "\n"), [image_tile(inputs.test[index], inputs.config), *tiles(index)])
            for index in shown_clips(inputs, number=_IMAGES, limit=limit)
        ]
        return [draw(draw_sheet(rows, titles=["image", *titles]), name=name, alt=alt)]
    chosen = enumerate(shown_clips(inputs, number=number, limit=limit), start=1)
    return [
        draw(draw_clip(index), name=f"{name}-{place}", alt=f"{alt}: {inputs.class_text(index)}")
        for place, index in chosen
    ]


def arm_masks(kind: StudyKind, config: VJEPAConfig, arm: str, *, batch_size: int) -> Masks:
    """
    Masks for a batch, from the strategy that an arm trains with.

    Raises:
        ValueError: the strategy does not fit the geometry.
    """
    argv = ["--config", kind.recipe, *(kind.arms[arm].arguments or ())]
    _, _, training = parse_arguments(argv)
    choose_masks(config, training, names_given(argv))
    generator = torch.Generator().manual_seed(3)
    settings = {"batch_size": batch_size, "generator": generator, "truncation": training.mask_truncation}
    return sample_masks(config, training.mask_generators(), **settings)


def _masks_of_arms(inputs: ReportInputs) -> dict[str, Masks]:
    """A batch of masks of each arm of the study whose masks fit the grid, once where arms have the same masks."""
    arms = {run["arm"] for run in inputs.study.runs} | {inputs.kind.mask_arms[0]}
    found: dict[str, Masks] = {}
    for arm in (arm for arm in inputs.kind.short_arms if arm in arms):
        try:
            masks = arm_masks(inputs.kind, inputs.config, arm, batch_size=_BATCH_SIZE)
        except ValueError:  # the study trained with other masks: the masks of this arm do not fit its clips
            continue
        tokens = [mask.tolist() for group in masks for mask in group]
        if all(tokens != [mask.tolist() for group in other for mask in group] for other in found.values()):
            found[arm] = masks
    return found


def mask_images(inputs: ReportInputs, draw: Draw) -> Section:
    """The visible part of a clip under the masks of every arm."""
    kind, config = inputs.kind, inputs.config
    clip = inputs.test[shown_clips(inputs, number=1)[0]]
    figures, rows, sheet = [], [], {}
    for arm, masks in _masks_of_arms(inputs).items():
        name = f"{kind.label(arm)} ({kind.method})" if arm == kind.mask_arms[0] else kind.label(arm)
        if config.is_image_model:
            sheet[name.replace(" ", "\n", 1)] = masks
        else:
            figure = images.draw_masks(clip, masks.context_mask, masks.target_mask, config=config, title=name)
            figures.append(draw(figure, name=f"masks-shown-{arm}", alt=f"context and targets: {name}"))
        contexts = masks.context_mask * (len(masks.target_mask) // len(masks.context_mask))
        for number, pair in enumerate(zip(contexts, masks.target_mask, strict=True), start=1):
            rows.append([name, str(number), *(percent(mask.shape[1] / config.num_patches) for mask in pair)])
    if sheet:
        figure = draw_image_masks(clip, sheet, config=config)
        figures = [draw(figure, name="masks-shown", alt="context and targets of each arm")]
    header = ["masks", "target" if config.is_image_model else "generator", "context", "target"]
    table = Table("Share of tokens", header, rows)
    return new_section("mask-pictures", figures, [table], kind=kind, batch_size=_BATCH_SIZE)


def feature_colors(inputs: ReportInputs, draw: Draw) -> Section:
    """Principal components of features as colours."""
    features = [(inputs.kind.label(arm), inputs.test_features(arm)) for arm in inputs.arms]

    def colors(index: int) -> Figure:
        name = inputs.class_text(index, "\n")
        return images.draw_feature_colors(inputs.test, features, shown=index, name=name, config=inputs.config)

    rows = []
    for arm, values in features:
        by_place = values.flatten(1, 2)
        tokens = by_place.flatten(0, 1)
        variances = torch.linalg.svdvals(tokens - tokens.mean(dim=0)).square()
        shared = by_place.mean(dim=0, keepdim=True)
        position = (shared - shared.mean(dim=1, keepdim=True)).square().mean() / tokens.var(dim=0).mean()
        rows.append([arm, percent(float(variances[:3].sum() / variances.sum())), percent(float(position))])
    columns = partial(image_views.feature_columns, dict(features), inputs.config)
    figures = _shown_figures(inputs, draw, colors, columns, name="features", alt="features as colours")
    table = Table("Variance of tokens", ["features", "variance in 3 components", "variance by position alone"], rows)
    shares = listed([f"{arm} {share}" for arm, share, _ in rows])
    return new_section("features", figures, [table], kind=inputs.kind, shares=shares)


def attention(inputs: ReportInputs, draw: Draw) -> Section:
    """Tokens that the query of attentive probes attends to."""
    config = inputs.config
    tokens = inputs.test_features(inputs.main).flatten(1, 2)
    maps, rows, parts = {}, [], []
    for task in inputs.class_names:
        features, labels = inputs.labelled_features(inputs.main, task)
        grid = fit_probe("attentive", features.flatten(1, 2), labels, seed=inputs.study.first_seed)
        weights = attention_weights(grid.probes[0].pooler, tokens)
        with torch.inference_mode():
            right = grid(tokens[:, None]).logits[:, 0].argmax(-1).numpy() == inputs.labels(task)
        by_step = weights.unflatten(1, (config.grid_size[0], -1)).sum(dim=2).mean(dim=0)
        maps[task] = weights.unflatten(1, config.grid_size)
        spread = f"{attended_tokens(weights).mean():.0f} of {tokens.shape[1]}"
        rows.append([task, f"{100 * right.mean():.1f}", spread, ", ".join(map(percent, by_step.tolist()))])
        parts.append(f"for {task} over {spread} tokens")

    limits = (0, 3 / tokens.shape[1])

    def heat(index: int) -> Figure:
        shown = {task: weights[index] for task, weights in maps.items()}
        clips = [(inputs.class_text(index, "\n"), inputs.test[index], shown)]
        return images.draw_heat(clips, limits=limits, config=config)

    columns = partial(image_views.heat_columns, inputs.test, maps, limits=limits, config=config)
    figures = _shown_figures(inputs, draw, heat, columns, name="attention", alt="attention of probes")
    header = ["probe", "accuracy in %", "attended tokens (exp. of entropy)", "share of each time step"]
    if config.is_image_model:  # it has one time step
        header, rows = header[:-1], [row[:-1] for row in rows]
    table = Table("Attention", header, rows)
    settings = {"labels": inputs.study.labels, "spreads": listed(parts)}
    return new_section("attention", figures, [table], kind=inputs.kind, **settings)


def neighbours(inputs: ReportInputs, draw: Draw) -> Section:
    """The nearest clips by feature."""
    labels = {task: inputs.labels(task) for task in inputs.class_names}
    shares, nearest = {}, {}
    for arm in inputs.arms:
        nearest[arm] = nearest_clips(time_means(inputs.test_features(arm)), number=_NEIGHBOURS).numpy()
        same = [(values[nearest[arm]] == values[:, None]).mean() for values in labels.values()]
        shares[arm] = [f"{100 * share:.1f}" for share in same]
    chance = [f"{100 * np.mean([(values == value).mean() for value in values]):.1f}" for values in labels.values()]

    def nearest_to(query: int) -> Figure:
        settings = {"query": query, "class_names": inputs.class_names, "config": inputs.config}
        return images.draw_neighbours(inputs.test, nearest[inputs.main][query].tolist(), labels, **settings)

    kind = inputs.kind
    first = torch.from_numpy(next(iter(labels.values())))
    nearest_shown = torch.from_numpy(nearest[inputs.main])
    columns = partial(image_views.neighbour_columns, inputs.test, nearest_shown, first, inputs.config)
    alt = f"{_NEIGHBOURS} nearest {kind.nouns} by {kind.method}'s features"
    figures = _shown_figures(inputs, draw, nearest_to, columns, name="neighbours", alt=alt)
    parts = [
        f"{share} % share its {task} (chance {by_chance} %)"
        for share, task, by_chance in zip(shares[inputs.main], labels, chance, strict=True)
    ]
    rows = [[kind.label(arm), *values] for arm, values in shares.items()] + [["chance", *chance]]
    title = f"Share of the {_NEIGHBOURS} nearest test {kind.nouns} with the label of the query, %"
    values = {"task": next(iter(labels)), "count": _NEIGHBOURS, "shares": listed(parts)}
    return new_section("neighbours", figures, [Table(title, ["features", *labels], rows)], kind=kind, **values)


def errors(inputs: ReportInputs, draw: Draw) -> Section:
    """Prediction error over space and time."""
    clips, config = inputs.test[:_ERROR_CLIPS], inputs.config
    found = prediction_errors(inputs.pretraining_model(inputs.main), inputs.normalized(clips))
    alt = "mean prediction error at every place of the token grid"
    figures = [draw(draw_error_maps(found, config=config), name="errors-map", alt=alt)]
    error, reference = float(found.tokens.nanmean()), float(found.reference.mean())
    if config.is_image_model:
        rows = [["predictor", f"{error:.3f}"], ["average feature", f"{reference:.3f}"]]
        table = Table("Mean L1 error", ["features", "error"], rows)
    else:
        figure, table = _errors_over_time(found, config)
        alt = "error of the prediction and of the average feature over time"
        figures.append(draw(figure, name="errors-time", alt=alt))
    limits = images.heat_limits(found.tokens)

    def heat(index: int) -> Figure:
        shown = [(inputs.class_text(index, "\n"), clips[index], {"error": found.tokens[index]})]
        return images.draw_heat(shown, limits=limits, config=config)

    settings = {"name": "errors", "alt": f"prediction error over the {inputs.kind.nouns}"}
    maps = {"error": found.tokens}
    columns = partial(image_views.heat_columns, clips, maps, limits=limits, config=config)
    figures += _shown_figures(inputs, draw, heat, columns, **settings, number=2, limit=len(clips))
    change = f"{percent(abs(1 - error / reference))} {'smaller' if error < reference else 'larger'}"
    values = {"number": len(clips), "error": error, "reference": reference, "change": change}
    return new_section("errors", figures, [table], kind=inputs.kind, **values)


def _errors_over_time(found: PredictionErrors, config: VJEPAConfig) -> tuple[Figure, Table]:
    steps = images.middle_frames(config)
    by_step = found.tokens.nanmean(dim=(0, 2, 3)), found.reference.mean(dim=(0, 2, 3))
    lines = [
        Curve("predictor", "vjepa", steps, by_step[0].numpy()),
        Curve("average feature of that place", "untrained", steps, by_step[1].numpy()),
    ]
    figure = curves(lines, title="Error over time", xlabel="frame of the clip", ylabel="mean L1 error", from_zero=True)
    rows = [[f"{step:g}", f"{by_step[0][place]:.3f}", f"{by_step[1][place]:.3f}"] for place, step in enumerate(steps)]
    return figure, Table("Mean L1 error by time step", ["frame (middle)", "predictor", "average feature"], rows, 0)


def decoded(inputs: ReportInputs, draw: Draw) -> Section:
    """Predictions as pixels, through a decoder trained on features of the target encoder."""
    model, config = inputs.pretraining_model(inputs.main), inputs.config
    batches = [inputs.normalized(part) for part in inputs.train[:_DECODER_CLIPS].split(_BATCH_SIZE)]
    decoder = train_decoder(model, batches, steps=_DECODER_STEPS)
    clips = inputs.test[:_ERROR_CLIPS]
    masks = arm_masks(inputs.kind, config, inputs.main, batch_size=len(clips))
    context, target = masks.context_mask[0], masks.target_mask if config.is_image_model else masks.target_mask[0]
    found = decode_predictions(model, decoder, inputs.normalized(clips), context_mask=context, target_mask=target)

    def rows_of(index: int) -> Figure:
        return draw_decoded_clip(found, shown=index, processor=inputs.processor, config=config)

    alt = "predictions decoded into pixels"
    columns = partial(image_views.decoded_columns, found, processor=inputs.processor, config=config)
    figures = _shown_figures(inputs, draw, rows_of, columns, name="decoded", alt=alt, limit=len(clips))
    sources = {
        "target features": found.from_targets,
        "predictions": found.from_predictions,
        "mean colour": found.context,
    }
    losses = {
        name: float((clip - found.original).square().mean(dim=2)[found.predicted].mean())
        for name, clip in sources.items()
    }
    rows = [[name, f"{loss:.4f}"] for name, loss in losses.items()]
    table = Table("Hidden region, mean squared error of normalised pixels", ["decoded from", "error"], rows)
    parts = [f"{loss:.3f} from the {name}" for name, loss in losses.items()]
    return new_section("decoded", figures, [table], kind=inputs.kind, losses=listed(parts))


def surprise(inputs: ReportInputs, draw: Draw) -> Section:
    """Prediction errors of disturbed and undisturbed clips."""
    if not inputs.is_built_in:
        return new_section("surprise", [], [], kind=inputs.kind)
    models = {arm: inputs.pretraining_model(arm) for arm in inputs.arms if arm != "pixels"}
    settings = {"frame_step": inputs.processor.frame_step, "processor": inputs.processor}
    found = surprises.measure_disturbances(models, num_pairs=plan.SURPRISE_PAIRS, **settings)
    numbers = inputs.study.surprise or surprises.summarise(found[inputs.main], untrained=found.get("untrained"))
    marks, rows = _surprise_numbers(inputs.kind, numbers)
    labels = {"title": "Which clips are disturbed", "xlabel": "pairs told right, %"}
    alt = "; ".join(f"{mark.label} {mark.mean:.1f} %" for mark in marks)
    figures = [draw(dots(marks, **labels, reference=50, limits=(0, 100)), name="surprise", alt=alt)]
    for kind, result in found[inputs.main].items():
        figure = surprises.draw_surprise_curves(result, config=inputs.config)
        alt = f"surprise over time of disturbed and undisturbed clips: {kind}"
        figures.append(draw(figure, name=f"surprise-{kind}", alt=alt))
        figure = surprises.draw_surprise_example(result, config=inputs.config)
        alt = f"an undisturbed and a disturbed clip, and their surprise: {kind}"
        figures.append(draw(figure, name=f"surprise-{kind}-clips", alt=alt))
    parts = [f"{mark.label.split(',')[0]} {mark.mean:.0f} %" for mark in marks if mark.color != "untrained"]
    table = Table("Pairs", ["disturbance", "model", "pairs", "right", "%", "95 % interval"], rows, 2)
    return new_section("surprise", figures, [table], kind=inputs.kind, shares=", ".join(parts))


def _surprise_numbers(kind: StudyKind, numbers: Mapping[str, Mapping[str, Any]]) -> tuple[list[Dot], list[list[str]]]:
    """Dots and rows of a table, of the main arm and, if it was measured, of the untrained network."""
    marks, rows = [], []
    for disturbance, entry in numbers.items():
        for arm, values in ((kind.main, entry), ("untrained", entry.get("untrained"))):
            if values:
                share = 100 * values["correct"] / values["pairs"]
                names = [_DISTURBANCES.get(disturbance, disturbance), kind.label(arm)]
                marks.append(Dot(", ".join(names), kind.arms[arm].color, share, values["low"], values["high"]))
                interval = f"[{values['low']:.1f}, {values['high']:.1f}]"
                rows.append([*names, f"{values['pairs']:,}", f"{values['correct']:,}", f"{share:.1f}", interval])
    return marks, rows


def confusions(inputs: ReportInputs, draw: Draw) -> Section:
    """Confusion matrices."""
    figures, tables, sentences = [], [], []
    for task, names in inputs.class_names.items():
        features, labels = inputs.labelled_features(inputs.main, task)
        fitted = fit_read_out("ridge", time_means(features), torch.from_numpy(labels))
        predicted = fitted.predict(time_means(inputs.test_features(inputs.main)).numpy())
        matrix = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(matrix, (inputs.labels(task), predicted), 1)
        names = [images.short_name(name) for name in names]
        right, total = np.trace(matrix), matrix.sum()
        figure = draw_confusion_matrix(matrix, names)
        alt = f"confusion matrix of {task}: {right} of {total} right"
        figures.append(draw(figure, name=f"confusion-{task}", alt=alt, max_width=_HALF_WIDTH))
        rows = [[name, *map(str, counts)] for name, counts in zip(names, matrix, strict=True)]
        tables.append(Table(f"Counts, {task}: true by predicted", ["true", *names], rows))
        off = matrix - np.diag(np.diag(matrix))
        true, taken = np.unravel_index(off.argmax(), off.shape)
        if off[true, taken]:
            share = percent(off[true, taken] / matrix[true].sum())
            sentences.append(
                f"{task.capitalize()}: {100 * right / total:.1f} % right; most frequent confusion: {names[true]} "
                f"taken for {names[taken]} ({share} of its {inputs.kind.nouns})."
            )
    values = {"labels": inputs.study.labels, "sentences": " ".join(sentences)}
    return new_section("confusions", figures, tables, kind=inputs.kind, **values)


def views(kind: StudyKind) -> list[Callable[[ReportInputs, Draw], Section]]:
    """The sections, in the order of the report; each takes the inputs and the drawing function."""
    moving = [surprise] if "motion" in kind.tasks else []
    return [mask_images, feature_colors, attention, neighbours, errors, decoded, confusions, *moving]
