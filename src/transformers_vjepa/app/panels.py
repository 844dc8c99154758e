"""What the app shows of a clip: one function for each panel. Panels are HTML with their figures and videos inside."""

import base64
import html
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..data.corpus import NO_LABEL, IndexedCorpus
from ..data.file_corpus import FileCorpus
from ..figures.images import draw_feature_colors, draw_heat, draw_masks, heat_limits
from ..figures.style import inline_figure, percent, theme
from ..models.vjepa.media_files import VIDEO_EXTENSIONS, extension
from .analysis import (
    Classifier,
    ClipAnalyzer,
    ClipError,
    draw_mask_errors,
    draw_surprise_curve,
    encode_image,
    encode_video,
    explained_variance,
    strategies,
)
from .index import ClipIndex, Neighbour, votes

_SHOWN_NEIGHBOURS = 6
_VOTERS = 10
THUMBNAIL = 128
# Up to this number of time steps, frames are large enough when two figures stand side by side.
_FEW_STEPS = 5
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class AppModels:
    """
    What all users of the app share; nothing of it changes.

    Attributes:
        name: of the model, as users read it.
        analyzer: the model.
        index: clips to choose from, and to search for near clips.
        classifier: names the classes of a clip.
    """

    name: str
    analyzer: ClipAnalyzer
    index: ClipIndex
    classifier: Classifier | None = None


class Choice(NamedTuple):
    """
    The clip that a user looks at.

    Attributes:
        corpus: the clips among which it is.
        index: its place in `corpus`.
        name: as users read it.
        labels: its labels by task.
    """

    corpus: IndexedCorpus
    index: int
    name: str
    labels: dict[str, str]

    def read(self, model: ClipAnalyzer | Classifier) -> torch.Tensor:
        """The clip as the model sees it, see [`ClipAnalyzer.read`]."""
        return model.read(self.corpus, self.index)


class ClipPanels(NamedTuple):
    """
    HTML of the panels that depend on the clip alone; `status` names the clip, or says why it cannot be shown. Models
    of images have no `surprise`.
    """

    status: str
    clip: str
    classes: str
    surprise: str
    features: str
    nearest: str


def example_choice(models: AppModels, place: int) -> Choice:
    """A clip of the index."""
    index = models.index
    return Choice(index.data.corpus, int(index.places[place]), index.name(place), index.labels(place))


def upload_choice(path: str) -> Choice:
    """An uploaded file."""
    return Choice(FileCorpus([path], labels=[NO_LABEL]), 0, os.path.basename(path), {})


def clip_panels(models: AppModels, choice: Choice) -> ClipPanels:
    """The panels of a clip. If the clip cannot be read, all are empty but the status, which says why."""
    analyzer = models.analyzer
    try:
        clip = choice.read(analyzer)
        classes = _classes_panel(models.classifier, choice) if models.classifier else ""
    except ClipError as error:
        message = f"{choice.name} cannot be shown: {error}. Choose another {analyzer.config.noun}."
        return ClipPanels(_problem(message), *[""] * 5)
    tokens = analyzer.tokens(clip)
    with theme():
        surprise = "" if analyzer.config.is_image_model else _surprise_panel(analyzer, clip)
        features = _features_panel(analyzer, clip, tokens)
    nearest = _nearest_panel(models, tokens)
    return ClipPanels(_status(choice), _clip_panel(analyzer, clip, choice), classes, surprise, features, nearest)


def mask_panel(models: AppModels, choice: Choice, *, strategy: str, seed: float | None) -> str:
    """Masks over a clip and the prediction errors at their targets; nothing for a clip that cannot be read."""
    analyzer = models.analyzer
    config = analyzer.config
    if seed is None or not 0 <= seed <= MAX_SEED or seed != int(seed):
        return _problem(f"The seed must be a whole number from 0 to {MAX_SEED:,}")
    if strategy not in strategies(config):
        return _problem(f"The masks must be one of {', '.join(strategies(config))}")
    try:
        clip = choice.read(analyzer)
    except ClipError:
        return ""  # the status says why
    masks = analyzer.masks(strategy, seed=int(seed))
    errors = analyzer.mask_errors(clip, masks)
    with theme():
        drawn = draw_masks(clip, masks.context_mask, masks.target_mask, config=config)
        alt = f"the {'image' if config.is_image_model else 'frames of the clip'}: context as it is, targets blue"
        figures = _figure(drawn, name="masks", alt=alt)
        drawn = draw_mask_errors(clip, errors, config=config)
        figures += _figure(drawn, name="errors", alt="error of the prediction at every target token, dark to bright")
    means, guess = (_listed(values) for values in (errors.means, errors.guess))
    low, high = heat_limits(errors.tokens)
    return _panel(
        "What is hidden, and how well it is predicted",
        "The context encoder sees the unchanged tokens. The predictor must find the features of the blue tokens: its "
        f"mean L1 error is <b>{means}</b>. Predicting zeros, the mean of every token's normalised features, has an "
        f"error of {guess}.",
        _side_by_side(analyzer, figures),
        how=f"Errors from dark ({low:.2f}) to bright ({high:.2f}); context is shown as it is.",
    )


def _listed(values: torch.Tensor) -> str:
    """Numbers as `0.512, 0.498 and 0.535`."""
    *first, last = [f"{value:.3f}" for value in values.tolist()]
    return f"{', '.join(first)} and {last}" if first else last


def _clip_panel(analyzer: ClipAnalyzer, clip: torch.Tensor, choice: Choice) -> str:
    frames, size, noun = len(clip), clip.shape[-1], analyzer.config.noun
    if analyzer.config.is_image_model:
        is_video = extension(choice.name) in VIDEO_EXTENSIONS
        part = "one frame, from the middle of the video" if is_video else "the centre of the image, as a square"
        reading = f"{size} × {size} pixels: {part}."
    else:
        sampling = analyzer.sampling
        if sampling.frame_step is None:
            distance = f"{sampling.clip_fps:g} per second"
        else:
            distance = "every frame" if sampling.frame_step == 1 else f"one frame in {sampling.frame_step}"
        count = f"{frames} {'frames' if frames > 1 else 'frame'}"
        reading = f"{count} of {size} × {size} pixels, {distance}, from the middle of the video."
    shown = _medium(clip, label=f"{choice.name} as the model sees it", controls=True)
    return _panel(f"The {noun} as the model sees it", reading, shown)


def _classes_panel(classifier: Classifier, choice: Choice) -> str:
    rows = ""
    for label, share in classifier.top_classes(choice.read(classifier)):
        number = percent(share)
        meter = f'<meter min="0" max="1" value="{share:.4f}" aria-label="{text_of(label)}">{number}</meter>'
        rows += f"<tr><th scope=row>{text_of(_plain(label))}</th><td>{meter}</td><td>{number}</td></tr>"
    part = "the image" if classifier.config.is_image_model else "one clip in the middle of the video"
    reading = f"Of the classifier {text_of(classifier.name)}, for {part}."
    return _panel("Most probable classes", reading, f'<table class="bars">{rows}</table>')


def _surprise_panel(analyzer: ClipAnalyzer, clip: torch.Tensor) -> str:
    title, config, surprise = "Surprise over time", analyzer.config, analyzer.surprise(clip)
    if surprise is None:
        return _panel(title, "This model sees a single time step, so no step precedes another.")
    means = surprise[1:].mean(dim=(1, 2))
    low, high = heat_limits(surprise)
    drawn = draw_heat([("clip", clip, {"surprise": surprise})], limits=(low, high), config=config)
    figures = _figure(drawn, name="surprise", alt="surprise at every token, dark to bright, over the frames")
    if len(means) > 1:
        values = ", ".join(f"{value:.2f}" for value in means.tolist())
        drawn = draw_surprise_curve(surprise, config=config)
        figures += _figure(drawn, name="surprise-curve", alt=f"surprise over time: {values}")
    return _panel(
        title,
        "Prediction error of each time step, given only the preceding steps. Largest at frame "
        f"{(int(means.argmax()) + 1) * config.tubelet_size}: <b>{means.max():.3f}</b>; mean {means.mean():.3f}.",
        _side_by_side(analyzer, figures),
        how=f"Dark ({low:.2f}) to bright ({high:.2f}). The first step has no preceding step.",
    )


def _features_panel(analyzer: ClipAnalyzer, clip: torch.Tensor, tokens: torch.Tensor) -> str:
    title, noun = "Features as colours", analyzer.config.noun
    place = "beside the image" if analyzer.config.is_image_model else "under the frames"
    if tokens.shape[-1] < 3:
        return _panel(title, f"Features of width {tokens.shape[-1]} have fewer than three components to show.")
    drawn = draw_feature_colors(clip[None], [("features", tokens)], shown=0, name=noun, config=analyzer.config)
    return _panel(
        title,
        "The first three principal components of the target encoder's tokens as red, green and blue. They hold "
        f"<b>{percent(explained_variance(tokens))}</b> of the variance.",
        _side_by_side(analyzer, _figure(drawn, name="features", alt=f"features as colours, {place}")),
        how=f"Tokens of the same colour have similar features. Colours of two {noun}s cannot be compared: components "
        f"are computed for each {noun}.",
    )


def _nearest_panel(models: AppModels, tokens: torch.Tensor) -> str:
    index, config = models.index, models.analyzer.config
    # One more than vote, because the clip itself may be among them.
    found = index.nearest(index.query(tokens), number=_VOTERS + 1)
    voters = min(sum(not neighbour.is_same for neighbour in found), _VOTERS)
    lines = [
        f"<b>{text_of(task)}</b>: " + ", ".join(f"{text_of(_plain(label))} ({count})" for label, count in counts)
        for task, counts in votes(index, found, number=_VOTERS).items()
    ]
    noun = config.noun
    reading = f"Of {len(index):,} {noun}s ({text_of(index.data.name)}), by the features of the whole {noun}."
    if lines:
        reading += f" Labels of the {voters} nearest other {noun}s (counts, not a classifier's probabilities): "
        reading += "; ".join(lines) + "."
    space = "space" if config.is_image_model else "space at each time step"
    tiles = "".join(_tile(models, neighbour) for neighbour in found[:_SHOWN_NEIGHBOURS])
    return _panel(
        f"Nearest {noun}s",
        reading,
        f'<ul class="tiles">{tiles}</ul>',
        how=f"Score: cosine of the features averaged over {space}, standardised over the data set; "
        f"the {noun} itself has a score of 1.",
    )


def _tile(models: AppModels, neighbour: Neighbour) -> str:
    choice = example_choice(models, neighbour.place)
    labels = ", ".join(map(_plain, choice.labels.values()))
    try:
        clip = choice.read(models.analyzer)
        shown = _medium(clip, label=f"{choice.name}: {labels}" if labels else choice.name, side=THUMBNAIL)
    except ClipError:
        shown = '<div class="gone">file not found</div>'
    same = f" · this {models.analyzer.config.noun}" if neighbour.is_same else ""
    caption = f"<b>{neighbour.score:.3f}</b>{same}<br>{text_of(labels)}<br><small>{text_of(choice.name)}</small>"
    return f"<li>{shown}<div>{caption}</div></li>"


def text_of(text: str) -> str:
    """Text for HTML. File names may hold any character; Gradio's templates would interpret braces and dollar signs."""
    return html.escape(text).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def _plain(label: str) -> str:
    return label.replace("_", " ")


def _panel(title: str, reading: str, content: str = "", *, how: str = "") -> str:
    how = f'<p class="how">{how}</p>' if how else ""
    return f'<section class="panel"><h2>{title}</h2><p>{reading}</p>{content}{how}</section>'


def _problem(message: str) -> str:
    return f'<p class="problem" role="alert">{text_of(message)}</p>'


def _status(choice: Choice) -> str:
    labels = ", ".join(f"{task} {_plain(label)}" for task, label in choice.labels.items())
    labels = f" <span>({text_of(labels)})</span>" if labels else ""
    return f'<p class="status" role="status">Shown: <b>{text_of(choice.name)}</b>{labels}</p>'


def _figure(figure: Any, *, name: str, alt: str) -> str:
    svg = inline_figure(figure, name=name, alt=alt).svg
    return f'<figure class="{name}" role="img" aria-label="{text_of(alt)}">{svg}</figure>'


def _side_by_side(analyzer: ClipAnalyzer, figures: str) -> str:
    """
    Figures side by side. Figures of many time steps have small frames and take the width of the page each. Images
    stand on one line, under labels of any height.
    """
    kind = "parts many" if analyzer.config.grid_size[0] > _FEW_STEPS else "parts"
    kind += " tiled" if analyzer.config.is_image_model else ""
    return f'<div class="{kind}">{figures}</div>'


def _medium(clip: torch.Tensor, *, label: str, side: int = 224, controls: bool = False) -> str:
    """A clip as a video; a clip of one frame as an image."""
    if len(clip) == 1:
        data = base64.b64encode(encode_image(clip[0], side=side)).decode()
        return (
            f'<img class="medium" alt="{text_of(label)}" title="{text_of(label)}" src="data:image/png;base64,{data}">'
        )
    data = base64.b64encode(encode_video(clip, side=side)).decode()
    shown = " controls" if controls else ""
    return (
        f'<video autoplay loop muted playsinline{shown} aria-label="{text_of(label)}" title="{text_of(label)}" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )
