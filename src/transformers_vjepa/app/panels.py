"""What the app shows of a clip: one function for each panel."""

import base64
import html
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..data.corpora import NO_LABEL, FileCorpus, IndexedCorpus
from ..figures.images import draw_heat, draw_masks, heat_limits
from ..figures.style import inline_figure, percent, theme
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from .analysis import (
    ClipError,
    Looker,
    draw_features,
    draw_mask_errors,
    draw_surprise_curve,
    encode_video,
    explained_variance,
    read_clip_of,
    strategies,
    top_classes,
)
from .index import ClipIndex, Neighbour, votes

_SHOWN_NEIGHBOURS = 6
_VOTERS = 10
THUMBNAIL = 128
# Time steps whose images can be told apart where two pictures stand side by side.
_FEW_STEPS = 5
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Classifier:
    """A classifier and how it sees videos."""

    model: VJEPAForVideoClassification
    processor: VJEPAVideoProcessor
    name: str


@dataclass(frozen=True)
class AppModels:
    """
    What all users of the app share; none of it changes.

    Attributes:
        name: of the model, for people.
        looker: the model.
        index: clips to choose from, and to look for near ones.
        classifier: names classes.
    """

    name: str
    looker: Looker
    index: ClipIndex
    classifier: Classifier | None = None


class Choice(NamedTuple):
    """
    The clip that someone looks at.

    Attributes:
        corpus: where it is.
        index: its place there.
        name: what people call it.
        labels: what is known of it.
    """

    corpus: IndexedCorpus
    index: int
    name: str
    labels: dict[str, str]


class ClipPanels(NamedTuple):
    """HTML of what depends on the clip alone; `status` says what is shown, or what is wrong."""

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
    """A file that was uploaded."""
    return Choice(FileCorpus([path], labels=[NO_LABEL]), 0, os.path.basename(path), {})


def clip_panels(models: AppModels, choice: Choice) -> ClipPanels:
    """What is shown of a clip; where it cannot be read, a message."""
    looker = models.looker
    try:
        clip = read_or_error(looker, choice)
        classes = _classes_panel(models, choice)
    except ClipError as error:
        return ClipPanels(_problem(f"{choice.name} cannot be shown: {error}. Choose another one."), *[""] * 5)
    tokens = looker.tokens(clip)
    with theme():
        surprise, features = _surprise_panel(looker, clip), _features_panel(looker, clip, tokens)
    nearest = _nearest_panel(models, tokens)
    return ClipPanels(_status(choice), _clip_panel(looker, clip, choice), classes, surprise, features, nearest)


def mask_panel(models: AppModels, choice: Choice, *, strategy: str, seed: float | None) -> str:
    """Masks over a clip and the prediction errors they lead to, as HTML; nothing for a clip that cannot be read."""
    looker = models.looker
    if seed is None or not 0 <= seed <= MAX_SEED or seed != int(seed):
        return _problem(f"The seed must be a whole number from 0 to {MAX_SEED:,}")
    if strategy not in strategies(looker.config):
        return _problem(f"The masks must be one of {', '.join(strategies(looker.config))}")
    try:
        clip = read_or_error(looker, choice)
    except ClipError:
        return ""  # the panels of the clip say why
    masks = looker.masks(strategy, seed=int(seed))
    errors = looker.mask_errors(clip, masks)
    with theme():
        pictures = [
            _picture(
                draw_masks(clip, masks.context_mask, masks.target_mask, config=looker.config),
                name="masks",
                alt="the frames of the clip: context as it is, targets blue",
            ),
            _picture(
                draw_mask_errors(clip, errors, config=looker.config),
                name="errors",
                alt="error of the prediction at every target token, dark to bright",
            ),
        ]
    means = " and ".join(f"{mean:.3f}" for mean in errors.means.tolist())
    guess = " and ".join(f"{mean:.3f}" for mean in errors.guess.tolist())
    low, high = heat_limits(errors.tokens)
    return _panel(
        "What is hidden, and how well it is predicted",
        "The context encoder sees what is left as it is; the predictor must find the features of the blue tokens. "
        f"It misses them by <b>{means}</b> (mean L1); guessing zeros, the mean of every token's normalised features, "
        f"misses them by {guess}.",
        _parts(looker, *pictures),
        how=f"Errors from dark ({low:.2f}) to bright ({high:.2f}); what is context is shown as it is.",
    )


def read_or_error(looker: Looker, choice: Choice) -> torch.Tensor:
    return read_clip_of(choice.corpus, choice.index, crop_size=looker.config.crop_size, sampling=looker.sampling)


def _clip_panel(looker: Looker, clip: torch.Tensor, choice: Choice) -> str:
    frames, size = len(clip), clip.shape[-1]
    what = f"{frames} frames" if frames > 1 else "1 frame"
    video = _video(clip, label=f"{choice.name} as the model sees it", controls=True)
    return _panel("The clip as the model sees it", f"{what} of {size} × {size} pixels, {_distance(looker)}.", video)


def _distance(looker: Looker) -> str:
    sampling = looker.sampling
    if sampling.frame_step is None:
        return f"{sampling.clip_fps:g} per second, from the middle of the video"
    every = "every frame" if sampling.frame_step == 1 else f"one frame in {sampling.frame_step}"
    return f"{every}, from the middle of the video"


def _classes_panel(models: AppModels, choice: Choice) -> str:
    if models.classifier is None:
        return ""
    classifier = models.classifier
    config = classifier.model.config
    sampling = classifier.processor.clip_sampling(num_frames=config.frames_per_clip)
    clip = read_clip_of(choice.corpus, choice.index, crop_size=config.crop_size, sampling=sampling)
    rows = top_classes(classifier.model, clip, processor=classifier.processor)
    body = "".join(_bar(name, share, percent(share)) for name, share in rows)
    return _panel(
        "Most probable classes",
        f"Of the classifier {text_of(classifier.name)}, from one clip in the middle of the video.",
        f'<table class="bars">{body}</table>',
    )


def _surprise_panel(looker: Looker, clip: torch.Tensor) -> str:
    title = "Surprise over time"
    surprise = looker.surprise(clip)
    if surprise is None:
        return _panel(title, "This model sees a single time step, which nothing precedes.")
    means = surprise[1:].mean(dim=(1, 2))
    step = int(means.argmax()) + 1
    low, high = heat_limits(surprise)
    first = step * looker.config.tubelet_size
    pictures = [
        _picture(
            draw_heat([("clip", clip, {"surprise": surprise})], limits=(low, high), config=looker.config),
            name="surprise",
            alt="surprise at every token, dark to bright, over the frames",
        )
    ]
    if len(means) > 1:
        figure = draw_surprise_curve(surprise, config=looker.config)
        pictures.append(_picture(figure, name="surprise-curve", alt=f"surprise over time: {_numbers(means)}"))
    return _panel(
        title,
        "How wrong the predictor is about each time step, having seen the steps before it and no more. Most at frame "
        f"{first}: <b>{means.max():.3f}</b>; mean {means.mean():.3f}.",
        _parts(looker, *pictures),
        how=f"Dark ({low:.2f}) to bright ({high:.2f}). Nothing precedes the first step.",
    )


def _features_panel(looker: Looker, clip: torch.Tensor, tokens: torch.Tensor) -> str:
    title = "Features as colours"
    if tokens.shape[-1] < 3:
        return _panel(title, f"Features of width {tokens.shape[-1]} have no three components to show.")
    share = percent(explained_variance(tokens))
    figure = draw_features(clip, tokens, config=looker.config)
    return _panel(
        title,
        "The first three principal components of the target encoder's tokens as red, green and blue; they hold "
        f"<b>{share}</b> of the variance.",
        _parts(looker, _picture(figure, name="features", alt="features as colours, under the frames")),
        how="Tokens of one colour have like features. Components are of this clip: do not compare colours of two.",
    )


def _nearest_panel(models: AppModels, tokens: torch.Tensor) -> str:
    index = models.index
    # One more than vote: the clip itself may be among them.
    found = index.nearest(index.query(tokens), number=_VOTERS + 1)
    tiles = "".join(_tile(models, neighbour) for neighbour in found[:_SHOWN_NEIGHBOURS])
    tally = votes(index, found, number=_VOTERS)
    voters = sum(not neighbour.is_same for neighbour in found[: _VOTERS + 1])
    lines = [
        f"<b>{text_of(task)}</b>: " + ", ".join(f"{text_of(_plain(label))} {count}" for label, count in counts)
        for task, counts in tally.items()
    ]
    reading = f"Of {len(index):,} clips ({text_of(index.data.name)}), by the features of the whole clip."
    if lines:
        reading += f" Labels of the nearest {min(voters, _VOTERS)} others, " + "; ".join(lines)
        reading += ": a count of labelled neighbours, not a classifier's probabilities."
    return _panel(
        "Nearest clips",
        reading,
        f'<ul class="tiles">{tiles}</ul>',
        how="Score: cosine of the features averaged over space at each time step, standardised over the data set; "
        "1 is the clip itself.",
    )


def _tile(models: AppModels, neighbour: Neighbour) -> str:
    choice = example_choice(models, neighbour.place)
    labels = ", ".join(map(_plain, choice.labels.values()))
    try:
        clip = read_or_error(models.looker, choice)
        picture = _video(clip, label=f"{choice.name}: {labels}" if labels else choice.name, side=THUMBNAIL)
    except ClipError:
        picture = '<div class="gone">file not found</div>'
    same = " · this clip" if neighbour.is_same else ""
    caption = f"<b>{neighbour.score:.3f}</b>{same}<br>{text_of(labels)}<br><small>{text_of(choice.name)}</small>"
    return f"<li>{picture}<div>{caption}</div></li>"


def text_of(text: str) -> str:
    """Text inside HTML; names of files may hold anything, and the page's templates read braces."""
    return html.escape(text).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def _plain(label: str) -> str:
    return label.replace("_", " ")


def _numbers(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.2f}" for value in values.tolist())


def _panel(title: str, reading: str, *parts: str, how: str = "") -> str:
    how = f'<p class="how">{how}</p>' if how else ""
    return f'<section class="panel"><h2>{title}</h2><p>{reading}</p>{"".join(parts)}{how}</section>'


def _problem(message: str) -> str:
    return f'<p class="problem" role="alert">{text_of(message)}</p>'


def _status(choice: Choice) -> str:
    labels = ", ".join(f"{task} {_plain(label)}" for task, label in choice.labels.items())
    labels = f" <span>({text_of(labels)})</span>" if labels else ""
    return f'<p class="status" role="status">Shown: <b>{text_of(choice.name)}</b>{labels}</p>'


def _picture(figure: Any, *, name: str, alt: str) -> str:
    picture = inline_figure(figure, name=name, alt=alt)
    return f'<figure class="{name}" role="img" aria-label="{text_of(alt)}">{picture.svg}</figure>'


def _parts(looker: Looker, *pictures: str) -> str:
    """Pictures side by side, or those of many time steps, whose images are small, as wide as the page."""
    kind = "parts many" if looker.config.grid_size[0] > _FEW_STEPS else "parts"
    return f'<div class="{kind}">{"".join(pictures)}</div>'


def _video(clip: torch.Tensor, *, label: str, side: int = 224, controls: bool = False) -> str:
    data = base64.b64encode(encode_video(clip, side=side)).decode()
    shown = " controls" if controls else ""
    return (
        f'<video autoplay loop muted playsinline{shown} aria-label="{text_of(label)}" title="{text_of(label)}" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )


def _bar(name: str, share: float, number: str) -> str:
    meter = f'<meter min="0" max="1" value="{share:.4f}" aria-label="{text_of(name)}">{number}</meter>'
    return f"<tr><th scope=row>{text_of(_plain(name))}</th><td>{meter}</td><td>{number}</td></tr>"


__all__ = [
    "AppModels",
    "Choice",
    "Classifier",
    "ClipPanels",
    "clip_panels",
    "example_choice",
    "mask_panel",
    "upload_choice",
]
