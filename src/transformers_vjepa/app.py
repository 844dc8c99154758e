"""
A page in the browser that looks into a model: masks and prediction errors of a clip, surprise, features, classes and
the nearest clips of a data set.

Everything that is shown is a function of the clip and the settings, and comes as HTML with its pictures inside: users
share the networks and nothing else, and no file but an upload is written or served.
"""

import base64
import html
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .clip_analysis import (
    ClipError,
    Looker,
    draw_features,
    draw_mask_errors,
    draw_surprise_curve,
    draw_surprise_map,
    encode_video,
    explained_variance,
    limits,
    read_clip_of,
    strategies,
    top_classes,
)
from .clip_index import ClipIndex, Neighbour, votes
from .corpora import VIDEO_EXTENSIONS, FileCorpus, IndexedCorpus
from .encoded_clips import NO_LABEL, PICTURE_EXTENSIONS
from .modeling_vjepa import VJEPAForVideoClassification
from .report_numbers import percent
from .report_page import COLORS, inline_picture, theme
from .report_pictures import draw_masks, short_name
from .video_processing_vjepa import VJEPAVideoProcessor

_EXAMPLES = 12
_SHOWN_NEIGHBOURS = 6
_VOTERS = 10
_THUMBNAIL = 128
# Time steps whose images can be told apart where two pictures stand side by side.
_FEW_STEPS = 5
_MAX_SEED = 2**31 - 1
_MAX_UPLOAD = "500mb"
# Seconds: uploads are looked for once an hour, and go after six.
_UPLOADS = (3600, 6 * 3600)
_WAITING = 32


class AppError(ValueError):
    """The page cannot be shown as things are."""


class MissingAppError(ImportError):
    """The page needs gradio and matplotlib."""


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
        clip = _read(looker, choice)
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
    if seed is None or not 0 <= seed <= _MAX_SEED or seed != int(seed):
        return _problem(f"The seed must be a whole number from 0 to {_MAX_SEED:,}")
    if strategy not in strategies(looker.config):
        return _problem(f"The masks must be one of {', '.join(strategies(looker.config))}")
    try:
        clip = _read(looker, choice)
    except ClipError:
        return ""  # the panels of the clip say why
    masks = looker.masks(strategy, seed=int(seed))
    errors = looker.mask_errors(clip, masks)
    with theme():
        pictures = [
            _picture(
                draw_masks(clip, masks, config=looker.config),
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
    low, high = limits(errors.tokens)
    return _panel(
        "What is hidden, and how well it is predicted",
        "The context encoder sees what is left as it is; the predictor must find the features of the blue tokens. "
        f"It misses them by <b>{means}</b> (mean L1); guessing zeros, the mean of every token's normalised features, "
        f"misses them by {guess}.",
        _parts(looker, *pictures),
        how=f"Errors from dark ({low:.2f}) to bright ({high:.2f}); what is context is shown as it is.",
    )


def _read(looker: Looker, choice: Choice) -> torch.Tensor:
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
        f"Of the classifier {_text(classifier.name)}, from one clip in the middle of the video.",
        f'<table class="bars">{body}</table>',
    )


def _surprise_panel(looker: Looker, clip: torch.Tensor) -> str:
    title = "Surprise over time"
    surprise = looker.surprise(clip)
    if surprise is None:
        return _panel(title, "This model sees a single time step, which nothing precedes.")
    means = surprise[1:].mean(dim=(1, 2))
    step = int(means.argmax()) + 1
    low, high = limits(surprise)
    first = step * looker.config.tubelet_size
    pictures = [
        _picture(
            draw_surprise_map(clip, surprise, config=looker.config),
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
        f"<b>{_text(task)}</b>: " + ", ".join(f"{_text(_plain(label))} {count}" for label, count in counts)
        for task, counts in tally.items()
    ]
    reading = f"Of {len(index):,} clips ({_text(index.data.name)}), by the features of the whole clip."
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
        clip = _read(models.looker, choice)
        picture = _video(clip, label=f"{choice.name}: {labels}" if labels else choice.name, side=_THUMBNAIL)
    except ClipError:
        picture = '<div class="gone">file not found</div>'
    same = " · this clip" if neighbour.is_same else ""
    caption = f"<b>{neighbour.score:.3f}</b>{same}<br>{_text(labels)}<br><small>{_text(choice.name)}</small>"
    return f"<li>{picture}<div>{caption}</div></li>"


# HTML ---------------------------------------------------------------------------------------------------


def _text(text: str) -> str:
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
    return f'<p class="problem" role="alert">{_text(message)}</p>'


def _status(choice: Choice) -> str:
    labels = ", ".join(f"{task} {_plain(label)}" for task, label in choice.labels.items())
    labels = f" <span>({_text(labels)})</span>" if labels else ""
    return f'<p class="status" role="status">Shown: <b>{_text(choice.name)}</b>{labels}</p>'


def _picture(figure: Any, *, name: str, alt: str) -> str:
    picture = inline_picture(figure, name=name, alt=alt)
    return f'<figure class="{name}" role="img" aria-label="{_text(alt)}">{picture.svg}</figure>'


def _parts(looker: Looker, *pictures: str) -> str:
    """Pictures side by side, or those of many time steps, whose images are small, as wide as the page."""
    kind = "parts many" if looker.config.grid_size[0] > _FEW_STEPS else "parts"
    return f'<div class="{kind}">{"".join(pictures)}</div>'


def _video(clip: torch.Tensor, *, label: str, side: int = 224, controls: bool = False) -> str:
    data = base64.b64encode(encode_video(clip, side=side)).decode()
    shown = " controls" if controls else ""
    return (
        f'<video autoplay loop muted playsinline{shown} aria-label="{_text(label)}" title="{_text(label)}" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )


def _bar(name: str, share: float, number: str) -> str:
    meter = f'<meter min="0" max="1" value="{share:.4f}" aria-label="{_text(name)}">{number}</meter>'
    return f"<tr><th scope=row>{_text(_plain(name))}</th><td>{meter}</td><td>{number}</td></tr>"


def _tones() -> tuple[str, str]:
    """CSS variables of the figures, for the light and the dark page."""
    light, dark = ("".join(f"--{name}: {pair[tone]}; " for name, pair in COLORS.items()) for tone in (0, 1))
    return light, dark


def page_style() -> str:
    """CSS of the page."""
    light, dark = _tones()
    return (
        f".vjepa {{ --sans: system-ui, sans-serif; --raised: #f3f5f7; {light} }}\n"
        f".dark .vjepa {{ --raised: #1e2329; {dark} }}\n{_STYLE}"
    )


_STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.gradio-container .gap, .gradio-container .column, .gradio-container .row { gap: 14px; }
#examples .grid-wrap { max-height: none; overflow: visible; }
#examples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
#examples .caption-label { font-size: 11px; max-width: 100%; }
.vjepa, .vjepa .html-container { padding: 0 !important; min-width: 0; }
@media (max-width: 640px) {
  .gradio-container .fillable { padding: 12px !important; }
  #examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
}
.vjepa { color: var(--ink); font: 15px/1.5 var(--sans); }
.vjepa h1 { font-size: 27px; line-height: 1.2; font-weight: 700; letter-spacing: -0.02em; margin: 6px 0 6px; }
.vjepa h2 { font-size: 18px; line-height: 1.3; font-weight: 650; margin: 0 0 4px; }
.vjepa p { margin: 0 0 8px; }
.vjepa .lead, .vjepa .how, .vjepa .status span { color: var(--muted); }
.vjepa .how { font-size: 13px; margin: 8px 0 0; }
.vjepa .panel { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.vjepa .parts { display: flex; flex-wrap: wrap; gap: 16px 28px; align-items: flex-start; }
.vjepa figure { margin: 0; flex: 1 1 320px; max-width: 540px; min-width: 0; }
.vjepa .many figure { flex-basis: 100%; max-width: 720px; }
.vjepa .many .surprise-curve { max-width: 480px; }
.vjepa figure svg { display: block; width: 100%; height: auto; overflow: visible; }
.vjepa figure image { image-rendering: pixelated; }
.vjepa video { display: block; width: 100%; max-width: 320px; border-radius: 8px; image-rendering: pixelated;
  background: #000; aspect-ratio: 1; }
.vjepa .tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 14px; width: 100%;
  list-style: none; margin: 0; padding: 0; }
.vjepa .tiles li { margin: 0; padding: 0; min-width: 0; overflow-wrap: anywhere; font-size: 13px; line-height: 1.4; }
.vjepa .tiles small { color: var(--muted); }
.vjepa .tiles video, .vjepa .gone { width: 100%; aspect-ratio: 1; margin-bottom: 6px; border-radius: 8px; }
.vjepa .gone { background: var(--raised); display: grid; place-items: center; color: var(--muted); }
.vjepa .bars { width: 100%; border-collapse: collapse; table-layout: fixed; }
.vjepa .bars th { text-align: left; width: 44%; font-weight: 500; padding: 2px 10px 2px 0; overflow-wrap: anywhere; }
.vjepa .bars td:last-child { text-align: right; font-variant-numeric: tabular-nums; width: 3.5em; }
.vjepa meter { width: 100%; height: 14px; }
.vjepa .problem { border-left: 4px solid var(--wrong); background: var(--raised); border-radius: 6px;
  padding: 10px 14px; overflow-wrap: anywhere; }
.vjepa .status { overflow-wrap: anywhere; margin: 0; }
"""


# The page -----------------------------------------------------------------------------------------------


def require_gradio() -> Any:
    """
    The module.

    Raises:
        MissingAppError: it, or what draws the pictures, is not installed.
    """
    # Before the import, which reads it; an offline machine would wait for an answer.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingAppError(
            f"the app needs {error.name or 'gradio'}, which is not installed: pip install 'transformers_vjepa[app]'"
        ) from error
    return gradio


def _examples(models: AppModels) -> dict[int, tuple[Any, str]]:
    """First frames and captions of clips to choose from, by their places in the index."""
    found = {}
    for place in models.index.spread(_EXAMPLES):
        choice = example_choice(models, place)
        try:
            frame = _read(models.looker, choice)[0].permute(1, 2, 0)
        except ClipError:  # its features were written somewhere else, or earlier
            continue
        factor = max(1, round(_THUMBNAIL / frame.shape[0]))
        caption = ", ".join(map(short_name, choice.labels.values())) or choice.name
        found[place] = (frame.repeat_interleave(factor, 0).repeat_interleave(factor, 1).numpy(), caption)
    if not found:
        raise AppError(
            f"not one clip of {models.index.data.name} can be read here: give --dataset the videos themselves"
        )
    return found


def _heading(models: AppModels) -> str:
    config, index = models.looker.config, models.index
    return (
        '<h1>What this V-JEPA sees</h1><p class="lead">'
        f"Model <b>{_text(models.name)}</b>: {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{' × '.join(map(str, config.grid_size))} tokens (time × height × width). "
        f"Examples and nearest clips: {len(index):,} clips of {_text(index.data.name)}.</p>"
    )


def _upload(gr: Any) -> Any:
    """The field for uploads. Nothing but what was uploaded to this page is read, and no address fetched."""
    field = gr.File(
        label="… or upload a video or picture",
        file_types=sorted(VIDEO_EXTENSIONS | PICTURE_EXTENSIONS),
        type="filepath",
        height=150,
        elem_id="upload",
    )
    move = field.async_move_resource_to_block_cache

    async def move_files_only(path: Any) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("addresses are not read: upload the file", print_exception=False)
        return await move(path)

    field.async_move_resource_to_block_cache = move_files_only
    return field


def build_app(models: AppModels) -> Any:
    """
    The page.

    Args:
        models: what it shows clips with.

    Returns:
        `gradio.Blocks`, for [`launch_app`].

    Raises:
        MissingAppError: gradio is missing.
        AppError: no clip of the index can be read.
    """
    gr = require_gradio()
    shown = _examples(models)
    names = strategies(models.looker.config)
    with gr.Blocks(title="V-JEPA", analytics_enabled=False, delete_cache=_UPLOADS) as page:
        chosen = gr.State(("example", next(iter(shown))))
        gr.HTML(_heading(models), elem_classes="vjepa", apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                examples = gr.Gallery(
                    list(shown.values()),
                    label="Choose a clip",
                    columns=4,
                    object_fit="contain",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    format="png",
                    elem_id="examples",
                )
                upload = _upload(gr)
            with gr.Column(scale=4, min_width=300):
                status, clip = (_output(gr, name) for name in ("status", "clip"))
        with gr.Row(equal_height=True):
            strategy = gr.Dropdown(names, value=names[0], label="Masks", scale=2, min_width=160, elem_id="strategy")
            seed = gr.Number(0, label="Seed of the masks", precision=0, scale=2, min_width=110, elem_id="seed")
            again = gr.Button("Other masks", scale=1, min_width=110, elem_id="again")
        masks = _output(gr, "masks")
        surprise = _output(gr, "surprise")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300):
                features, classes = (_output(gr, name) for name in ("features", "classes"))
            with gr.Column(min_width=300):
                nearest = _output(gr, "nearest")
        outputs = [status, clip, classes, surprise, features, nearest, masks]
        widgets = _Widgets(chosen, examples, upload, strategy, seed, again, outputs)
        _connect(page, models=models, places=list(shown), widgets=widgets)
    return page


def _output(gr: Any, name: str) -> Any:
    return gr.HTML("", elem_id=name, elem_classes="vjepa", apply_default_css=False)


def _chosen(models: AppModels, state: tuple[str, Any]) -> Choice:
    kind, what = state
    return example_choice(models, what) if kind == "example" else upload_choice(what)


@dataclass(frozen=True)
class _Widgets:
    """What can be clicked, and what it changes."""

    chosen: Any
    examples: Any
    upload: Any
    strategy: Any
    seed: Any
    again: Any
    outputs: list[Any]


def _connect(page: Any, *, models: AppModels, places: Sequence[int], widgets: _Widgets) -> None:
    """What happens on a click. The clip that is looked at is kept per session; networks run one at a time."""
    gr = require_gradio()
    chosen, upload, seed, outputs = widgets.chosen, widgets.upload, widgets.seed, widgets.outputs
    one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "networks", "show_progress": "minimal"}

    def show(state: tuple[str, Any], strategy: str, seed: float | None) -> list[str]:
        choice = _chosen(models, state)
        return [*clip_panels(models, choice), mask_panel(models, choice, strategy=strategy, seed=seed)]

    def show_example(event: gr.SelectData, strategy: str, seed: float | None) -> list[Any]:
        state = ("example", places[int(event.index)])
        return [state, None, *show(state, strategy, seed)]

    def show_upload(path: str | None, strategy: str, seed: float | None) -> list[Any]:
        if path is None:
            return [gr.skip()] * (1 + len(outputs))
        state = ("upload", str(path))
        return [state, *show(state, strategy, seed)]

    def show_masks(state: tuple[str, Any], strategy: str, seed: float | None) -> str:
        return mask_panel(models, _chosen(models, state), strategy=strategy, seed=seed)

    def next_seed(seed: float | None) -> int:
        return 0 if seed is None or not 0 <= seed < _MAX_SEED else int(seed) + 1

    settings = [widgets.strategy, seed]
    page.load(show, [chosen, *settings], outputs, api_visibility="private", **one_at_a_time)
    widgets.examples.select(
        show_example,
        settings,
        [chosen, upload, *outputs],
        api_visibility="private",
        trigger_mode="always_last",
        **one_at_a_time,
    )
    upload.upload(
        show_upload,
        [upload, *settings],
        [chosen, *outputs],
        api_name="look",
        trigger_mode="always_last",
        **one_at_a_time,
    )
    mask_inputs = {"fn": show_masks, "inputs": [chosen, *settings], "outputs": outputs[-1:]}
    gr.on(
        [widgets.strategy.input, seed.submit, seed.blur],
        **mask_inputs,
        api_name="masks",
        trigger_mode="always_last",
        **one_at_a_time,
    )
    widgets.again.click(next_seed, seed, seed, api_visibility="private", queue=False, show_progress="hidden").then(
        **mask_inputs, api_visibility="private", **one_at_a_time
    )


def check_port(host: str, port: int) -> None:
    """
    Raises:
        AppError: the port is taken, or is none of this machine.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        raise AppError(f"port {port} of {host} cannot be listened on: choose another one with --port") from error


def launch_app(
    page: Any,
    *,
    host: str = "127.0.0.1",
    port: int | None = 7860,
    share: bool = False,
    wait: bool = True,
    announce: Callable[[str], None] = print,
) -> str:
    """
    Serves the page.

    Args:
        page: what [`build_app`] gives.
        host: address to listen on; the default lets nobody in but this machine.
        port: `None` takes a free one.
        share: also open a public link through gradio's server.
        wait: until Ctrl-C.
        announce: is told the addresses.

    Returns:
        The address.

    Raises:
        AppError: the port is taken.
    """
    gr = require_gradio()
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}  # none is fetched
    page.queue(max_size=_WAITING)
    try:
        _, address, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            theme=gr.themes.Default(primary_hue="blue", neutral_hue="slate", **fonts),
            css=page_style(),
            allowed_paths=[],
            max_file_size=_MAX_UPLOAD,
            state_session_capacity=1000,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            show_error=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise AppError(f"port {port} of {host} cannot be listened on: choose another one with --port") from error
    announce(f"the app is at {address}" + (f" and at {public}" if public else "") + "   (Ctrl-C ends it)")
    if wait:
        page.block_thread()
    return address


__all__ = [
    "AppError",
    "AppModels",
    "Choice",
    "Classifier",
    "ClipPanels",
    "MissingAppError",
    "build_app",
    "clip_panels",
    "example_choice",
    "launch_app",
    "mask_panel",
    "page_style",
    "require_gradio",
    "upload_choice",
]
