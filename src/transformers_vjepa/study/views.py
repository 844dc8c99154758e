"""The sections of a report that show clips: masks, features, attention, neighbours, errors, confusions, surprise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..analysis import surprise as surprises
from ..analysis.attention import attended_tokens, attention_weights
from ..analysis.feature_decoder import decode_predictions, draw_decoded_clip, train_decoder
from ..analysis.neighbours import nearest_clips
from ..analysis.prediction_errors import draw_error_maps, prediction_errors
from ..analysis.read_outs import fit_probe, time_means
from ..evaluation.probing import fit_read_out
from ..figures import images
from ..figures.charts import Curve, Dot, curves, dots, draw_confusion_matrix
from ..figures.style import InlineFigure, percent
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..pretraining.masking import Masks, sample_masks
from . import plan
from .comparisons import Draw, arm_label, listed
from .inputs import ReportInputs
from .page import Section, Table, new_section
from .plan import ARMS, MASK_ARMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Batch size of the recipe: the published truncation cuts to the shortest mask of the batch.
_BATCH_SIZE = 32
_NEIGHBOURS = 5
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


def _clip_figures(
    inputs: ReportInputs,
    draw: Draw,
    draw_clip: Callable[[int], Figure],
    *,
    name: str,
    alt: str,
    number: int = 4,
    limit: int | None = None,
) -> list[InlineFigure]:
    """A figure of each of the [`shown_clips`]."""
    chosen = enumerate(shown_clips(inputs, number=number, limit=limit), start=1)
    return [
        draw(draw_clip(index), name=f"{name}-{place}", alt=f"{alt}: {inputs.class_text(index)}")
        for place, index in chosen
    ]


def arm_masks(config: VJEPAConfig, arm: str, *, batch_size: int) -> Masks:
    """
    Masks for a batch, from the strategy that an arm trains with.

    Raises:
        ValueError: the strategy does not fit the geometry.
    """
    arguments = ARMS[arm].arguments or ()
    settings = dict(zip(arguments[::2], arguments[1::2], strict=True))
    strategy = settings.get("--mask_strategy", "multiblock")
    truncation = settings.get("--mask_truncation", "balanced")
    generator = torch.Generator().manual_seed(3)
    return sample_masks(config, strategy, batch_size=batch_size, generator=generator, truncation=truncation)


def mask_images(inputs: ReportInputs, draw: Draw) -> Section:
    """The visible part of a clip under the masks of every arm."""
    clip = inputs.test[shown_clips(inputs, number=1)[0]]
    arms = {run["arm"] for run in inputs.study.runs} | {"multiblock"}
    figures, rows = [], []
    for arm in MASK_ARMS:
        if arm not in arms:
            continue
        try:
            masks = arm_masks(inputs.config, arm, batch_size=_BATCH_SIZE)
        except ValueError:  # the study trained with other masks: the masks of this arm do not fit its clips
            continue
        name = "multi-block (V-JEPA)" if arm == "multiblock" else arm_label(arm)
        figure = images.draw_masks(clip, masks.context_mask, masks.target_mask, config=inputs.config, title=name)
        figures.append(draw(figure, name=f"masks-shown-{arm}", alt=f"context and targets: {name}"))
        both = zip(masks.context_mask, masks.target_mask, strict=True)
        for number, pair in enumerate(both, start=1):
            rows.append([name, str(number), *(percent(mask.shape[1] / inputs.config.num_patches) for mask in pair)])
    table = Table("Share of tokens", ["masks", "generator", "context", "target"], rows)
    return new_section("mask-pictures", figures, [table], batch_size=_BATCH_SIZE)


def feature_colors(inputs: ReportInputs, draw: Draw) -> Section:
    """Principal components of features as colours."""
    features = [(arm_label(arm), inputs.test_features(arm)) for arm in inputs.arms]

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
    figures = _clip_figures(inputs, draw, colors, name="features", alt="features as colours")
    table = Table("Variance of tokens", ["features", "variance in 3 components", "variance by position alone"], rows)
    return new_section("features", figures, [table], shares=listed([f"{arm} {share}" for arm, share, _ in rows]))


def attention(inputs: ReportInputs, draw: Draw) -> Section:
    """Tokens that the query of attentive probes attends to."""
    tokens = inputs.test_features("vjepa").flatten(1, 2)
    maps, rows, parts = {}, [], []
    for task in inputs.class_names:
        features, labels = inputs.labelled_features("vjepa", task)
        grid = fit_probe("attentive", features.flatten(1, 2), labels, seed=inputs.study.first_seed)
        weights = attention_weights(grid.probes[0].pooler, tokens)
        with torch.inference_mode():
            right = grid(tokens[:, None]).logits[:, 0].argmax(-1).numpy() == inputs.labels(task)
        by_step = weights.unflatten(1, (inputs.config.grid_size[0], -1)).sum(dim=2).mean(dim=0)
        maps[task] = weights
        spread = f"{attended_tokens(weights).mean():.0f} of {tokens.shape[1]}"
        rows.append([task, f"{100 * right.mean():.1f}", spread, ", ".join(map(percent, by_step.tolist()))])
        parts.append(f"for {task} over {spread} tokens")

    def heat(index: int) -> Figure:
        shown = {task: weights[index].view(inputs.config.grid_size) for task, weights in maps.items()}
        clips = [(inputs.class_text(index, "\n"), inputs.test[index], shown)]
        return images.draw_heat(clips, limits=(0, 3 / tokens.shape[1]), config=inputs.config)

    figures = _clip_figures(inputs, draw, heat, name="attention", alt="attention of probes")
    header = ["probe", "accuracy in %", "attended tokens (exp. of entropy)", "share of each time step"]
    table = Table("Attention", header, rows)
    return new_section("attention", figures, [table], labels=inputs.study.labels, spreads=listed(parts))


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
        return images.draw_neighbours(inputs.test, nearest["vjepa"][query].tolist(), labels, **settings)

    alt = f"{_NEIGHBOURS} nearest clips by V-JEPA's features"
    figures = _clip_figures(inputs, draw, nearest_to, name="neighbours", alt=alt)
    parts = [
        f"{share} % share its {task} (chance {by_chance} %)"
        for share, task, by_chance in zip(shares["vjepa"], labels, chance, strict=True)
    ]
    rows = [[arm_label(arm), *values] for arm, values in shares.items()] + [["chance", *chance]]
    title = f"Share of the {_NEIGHBOURS} nearest test clips with the label of the query, %"
    values = {"task": next(iter(labels)), "count": _NEIGHBOURS, "shares": listed(parts)}
    return new_section("neighbours", figures, [Table(title, ["features", *labels], rows)], **values)


def errors(inputs: ReportInputs, draw: Draw) -> Section:
    """Prediction error over space and time."""
    clips, config = inputs.test[:_ERROR_CLIPS], inputs.config
    found = prediction_errors(inputs.pretraining_model("vjepa"), inputs.normalized(clips))
    alt = "mean prediction error at every place of the token grid, per time step"
    figures = [draw(draw_error_maps(found, config=config), name="errors-map", alt=alt)]
    steps = images.middle_frames(config)
    by_step = found.tokens.nanmean(dim=(0, 2, 3)), found.reference.mean(dim=(0, 2, 3))
    lines = [
        Curve("predictor", "vjepa", steps, by_step[0].numpy()),
        Curve("average feature of that place", "untrained", steps, by_step[1].numpy()),
    ]
    figure = curves(lines, title="Error over time", xlabel="frame of the clip", ylabel="mean L1 error", from_zero=True)
    alt = "error of the prediction and of the average feature over time"
    figures.append(draw(figure, name="errors-time", alt=alt))

    def heat(index: int) -> Figure:
        shown = [(inputs.class_text(index, "\n"), clips[index], {"error": found.tokens[index]})]
        return images.draw_heat(shown, limits=images.heat_limits(found.tokens), config=config)

    alt = "prediction error over the frames"
    figures += _clip_figures(inputs, draw, heat, name="errors", alt=alt, number=2, limit=len(clips))
    error, reference = float(found.tokens.nanmean()), float(found.reference.mean())
    change = f"{percent(abs(1 - error / reference))} {'smaller' if error < reference else 'larger'}"
    rows = [[f"{step:g}", f"{by_step[0][place]:.3f}", f"{by_step[1][place]:.3f}"] for place, step in enumerate(steps)]
    table = Table("Mean L1 error by time step", ["frame (middle)", "predictor", "average feature"], rows, 0)
    values = {"number": len(clips), "error": error, "reference": reference, "change": change}
    return new_section("errors", figures, [table], **values)


def decoded(inputs: ReportInputs, draw: Draw) -> Section:
    """Predictions as pixels, through a decoder trained on features of the target encoder."""
    model = inputs.pretraining_model("vjepa")
    batches = [inputs.normalized(part) for part in inputs.train[:_DECODER_CLIPS].split(_BATCH_SIZE)]
    decoder = train_decoder(model, batches, steps=_DECODER_STEPS)
    clips = inputs.test[:_ERROR_CLIPS]
    masks = arm_masks(inputs.config, "vjepa", batch_size=len(clips))
    context, target = masks.context_mask[0], masks.target_mask[0]
    found = decode_predictions(model, decoder, inputs.normalized(clips), context_mask=context, target_mask=target)

    def rows_of(index: int) -> Figure:
        return draw_decoded_clip(found, shown=index, processor=inputs.processor, config=inputs.config)

    alt = "predictions decoded into pixels"
    figures = _clip_figures(inputs, draw, rows_of, name="decoded", alt=alt, limit=len(clips))
    hidden = target.shape[1] / inputs.config.num_patches
    sources = {
        "target features": found.from_targets,
        "predictions": found.from_predictions,
        "mean colour": found.context,
    }
    losses = {name: float((clip - found.original).square().mean() / hidden) for name, clip in sources.items()}
    rows = [[name, f"{loss:.4f}"] for name, loss in losses.items()]
    table = Table("Hidden region, mean squared error of normalised pixels", ["decoded from", "error"], rows)
    parts = [f"{loss:.3f} from the {name}" for name, loss in losses.items()]
    return new_section("decoded", figures, [table], losses=listed(parts))


def surprise(inputs: ReportInputs, draw: Draw) -> Section:
    """Prediction errors of disturbed and undisturbed clips."""
    if not inputs.is_built_in:
        return new_section("surprise", [], [])
    models = {arm: inputs.pretraining_model(arm) for arm in inputs.arms if arm != "pixels"}
    settings = {"frame_step": inputs.processor.frame_step, "processor": inputs.processor}
    found = surprises.measure_disturbances(models, num_pairs=plan.SURPRISE_PAIRS, **settings)
    numbers = inputs.study.surprise or surprises.summarise(found["vjepa"], untrained=found.get("untrained"))
    marks, rows = _surprise_numbers(numbers)
    labels = {"title": "Which clips are disturbed", "xlabel": "pairs told right, %"}
    alt = "; ".join(f"{mark.label} {mark.mean:.1f} %" for mark in marks)
    figures = [draw(dots(marks, **labels, reference=50, limits=(0, 100)), name="surprise", alt=alt)]
    for kind, result in found["vjepa"].items():
        figure = surprises.draw_surprise_curves(result, config=inputs.config)
        alt = f"surprise over time of disturbed and undisturbed clips: {kind}"
        figures.append(draw(figure, name=f"surprise-{kind}", alt=alt))
        figure = surprises.draw_surprise_example(result, config=inputs.config)
        alt = f"an undisturbed and a disturbed clip, and their surprise: {kind}"
        figures.append(draw(figure, name=f"surprise-{kind}-clips", alt=alt))
    parts = [f"{mark.label.split(',')[0]} {mark.mean:.0f} %" for mark in marks if mark.color == "vjepa"]
    table = Table("Pairs", ["disturbance", "model", "pairs", "right", "%", "95 % interval"], rows, 2)
    return new_section("surprise", figures, [table], shares=", ".join(parts))


def _surprise_numbers(numbers: Mapping[str, Mapping[str, Any]]) -> tuple[list[Dot], list[list[str]]]:
    """Dots and rows of a table, of V-JEPA and, if it was measured, of the untrained network."""
    marks, rows = [], []
    for kind, entry in numbers.items():
        for arm, values in (("vjepa", entry), ("untrained", entry.get("untrained"))):
            if values:
                share = 100 * values["correct"] / values["pairs"]
                names = [_DISTURBANCES.get(kind, kind), arm_label(arm)]
                marks.append(Dot(", ".join(names), arm, share, values["low"], values["high"]))
                interval = f"[{values['low']:.1f}, {values['high']:.1f}]"
                rows.append([*names, f"{values['pairs']:,}", f"{values['correct']:,}", f"{share:.1f}", interval])
    return marks, rows


def confusions(inputs: ReportInputs, draw: Draw) -> Section:
    """Confusion matrices."""
    figures, tables, sentences = [], [], []
    for task, names in inputs.class_names.items():
        features, labels = inputs.labelled_features("vjepa", task)
        fitted = fit_read_out("ridge", time_means(features), torch.from_numpy(labels))
        predicted = fitted.predict(time_means(inputs.test_features("vjepa")).numpy())
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
                f"taken for {names[taken]} ({share} of its clips)."
            )
    return new_section("confusions", figures, tables, labels=inputs.study.labels, sentences=" ".join(sentences))


#: In the order of the report; each takes the inputs and the drawing function.
VIEWS: tuple[Callable[[ReportInputs, Draw], Section], ...] = (
    mask_images,
    feature_colors,
    attention,
    neighbours,
    errors,
    decoded,
    confusions,
    surprise,
)
