"""
A page in the browser that looks into a model: masks and prediction errors of a clip, surprise, features, classes and
the nearest clips of a data set.

All of the page is a function of the clip and the settings, and arrives as HTML with its images inside. Users share
the networks and nothing else. The app writes and serves no files except uploads.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..figures.images import short_name
from ..figures.style import COLORS
from ..models.vjepa.media_files import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from ..safety.private_names import check_private_names
from .analysis import ClipError, strategies
from .index import spread
from .panels import (
    MAX_SEED,
    THUMBNAIL,
    AppModels,
    Choice,
    clip_panels,
    example_choice,
    mask_panel,
    text_of,
    upload_choice,
)

_EXAMPLES = 12
_MAX_UPLOAD = "500mb"
# In seconds: how often old uploads are deleted, and how old they may become.
_UPLOADS = (3600, 6 * 3600)
_MAX_WAITING = 32
# Settings of every event that runs a model: models run for one user at a time.
_ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "networks", "show_progress": "minimal"}


class AppError(ValueError):
    """The page cannot be shown."""


class MissingAppError(ImportError):
    """The page needs gradio and matplotlib."""


def page_style() -> str:
    """CSS of the page, with the colours of the figures as variables for the light and the dark page."""
    light, dark = ("".join(f"--{name}: {pair[tone]}; " for name, pair in COLORS.items()) for tone in (0, 1))
    return (
        f".vjepa {{ --sans: system-ui, sans-serif; --raised: #f3f5f7; {light} }}\n"
        f".dark .vjepa {{ --raised: #1e2329; {dark} }}\n"
        + Path(__file__).with_name("app.css").read_text(encoding="utf-8")
    )


def require_gradio() -> Any:
    """
    The module `gradio`.

    Raises:
        MissingAppError: gradio or matplotlib is not installed.
    """
    # gradio reads the variable when it is imported. With analytics, an offline machine would wait for an answer.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingAppError(
            f"the app needs {error.name or 'gradio'}, which is not installed: pip install 'transformers_vjepa[app]'"
        ) from error
    check_private_names("gradio")
    return gradio


def _examples(models: AppModels) -> dict[int, tuple[Any, str]]:
    """First frames and captions of the clips to choose from, by their places in the index."""
    found = {}
    for place in spread(len(models.index), _EXAMPLES):
        choice = example_choice(models, place)
        try:
            frame = choice.read(models.analyzer)[0].permute(1, 2, 0)
        except ClipError:  # the features may be from another machine or of deleted files
            continue
        factor = max(1, round(THUMBNAIL / frame.shape[0]))
        caption = ", ".join(map(short_name, choice.labels.values())) or choice.name
        found[place] = (frame.repeat_interleave(factor, 0).repeat_interleave(factor, 1).numpy(), caption)
    if not found:
        config = models.analyzer.config
        raise AppError(
            f"no {config.noun} of {models.index.data.name} can be read: give --dataset the {config.medium}s themselves"
        )
    return found


def _heading(models: AppModels) -> str:
    config, index = models.analyzer.config, models.index
    noun, (_, height, width) = config.noun, config.grid_size
    grid = f"{height} × {width} tokens (height × width)"
    if not config.is_image_model:
        grid = f"{' × '.join(map(str, config.grid_size))} tokens (time × height × width)"
    return (
        f'<h1>What this {_family(models)} sees</h1><p class="lead">'
        f"Model <b>{text_of(models.name)}</b>: {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{grid}. Examples and nearest {noun}s: {len(index):,} {noun}s of {text_of(index.data.name)}.</p>"
    )


def _family(models: AppModels) -> str:
    return "I-JEPA" if models.analyzer.config.is_image_model else "V-JEPA"


def _upload(gr: Any, models: AppModels) -> Any:
    """The field for uploads. The app reads only files that were uploaded to this page, and fetches no URLs."""
    is_image_model = models.analyzer.config.is_image_model
    field = gr.File(
        label="… or upload an image" if is_image_model else "… or upload a video or image",
        file_types=sorted(IMAGE_EXTENSIONS if is_image_model else VIDEO_EXTENSIONS | IMAGE_EXTENSIONS),
        type="filepath",
        height=150,
        elem_id="upload",
    )
    move = field.async_move_resource_to_block_cache

    async def move_files_only(path: Any) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("the app does not read URLs: upload the file", print_exception=False)
        return await move(path)

    field.async_move_resource_to_block_cache = move_files_only
    return field


def build_app(models: AppModels) -> Any:
    """
    The page as `gradio.Blocks`, for [`launch_app`].

    Raises:
        MissingAppError: gradio is missing.
        AppError: no clip of the index can be read.
    """
    gr = require_gradio()
    shown = _examples(models)
    names = strategies(models.analyzer.config)
    with gr.Blocks(title=_family(models), analytics_enabled=False, delete_cache=_UPLOADS) as page:
        chosen = gr.State(("example", next(iter(shown))))
        gr.HTML(_heading(models), elem_classes="vjepa", apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                examples = gr.Gallery(
                    list(shown.values()),
                    label=f"Choose {'an image' if models.analyzer.config.is_image_model else 'a clip'}",
                    columns=4,
                    object_fit="contain",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    format="png",
                    elem_id="examples",
                )
                upload = _upload(gr, models)
            with gr.Column(scale=4, min_width=300):
                status, clip = (_output(gr, name) for name in ("status", "clip"))
        with gr.Row(equal_height=True):
            strategy = gr.Dropdown(names, value=names[0], label="Masks", scale=2, min_width=160, elem_id="strategy")
            seed = gr.Number(0, label="Seed of the masks", precision=0, scale=2, min_width=110, elem_id="seed")
            again = gr.Button("Other masks", scale=1, min_width=110, elem_id="again")
        masks, surprise = (_output(gr, name) for name in ("masks", "surprise"))
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300):
                features, classes = (_output(gr, name) for name in ("features", "classes"))
            with gr.Column(min_width=300):
                nearest = _output(gr, "nearest")
        outputs = [status, clip, classes, surprise, features, nearest, masks]
        widgets = [chosen, examples, upload, strategy, seed, again]
        _connect(gr, page, models=models, places=list(shown), widgets=widgets, outputs=outputs)
    return page


def _output(gr: Any, name: str) -> Any:
    return gr.HTML("", elem_id=name, elem_classes="vjepa", apply_default_css=False)


def _connect(
    gr: Any, page: Any, *, models: AppModels, places: Sequence[int], widgets: Sequence[Any], outputs: list[Any]
) -> None:
    """What happens on a click. Each session keeps its chosen clip in `chosen`."""
    chosen, examples, upload, strategy, seed, again = widgets

    def choice_of(state: tuple[str, Any]) -> Choice:
        kind, place = state
        return example_choice(models, place) if kind == "example" else upload_choice(place)

    def show(state: tuple[str, Any], strategy: str, seed: float | None) -> list[str]:
        choice = choice_of(state)
        return [*clip_panels(models, choice), mask_panel(models, choice, strategy=strategy, seed=seed)]

    # gradio passes the event to the argument with this type hint.
    def show_example(event: gr.SelectData, strategy: str, seed: float | None) -> list[Any]:
        state = ("example", places[int(event.index)])
        return [state, None, *show(state, strategy, seed)]

    def show_upload(path: str | None, strategy: str, seed: float | None) -> list[Any]:
        if path is None:
            return [gr.skip()] * (1 + len(outputs))
        state = ("upload", str(path))
        return [state, *show(state, strategy, seed)]

    def show_masks(state: tuple[str, Any], strategy: str, seed: float | None) -> str:
        return mask_panel(models, choice_of(state), strategy=strategy, seed=seed)

    def next_seed(seed: float | None) -> int:
        return 0 if seed is None or not 0 <= seed < MAX_SEED else int(seed) + 1

    settings = [strategy, seed]
    private: dict[str, Any] = {"api_visibility": "private", **_ONE_AT_A_TIME}
    last: dict[str, Any] = {"trigger_mode": "always_last", **_ONE_AT_A_TIME}
    page.load(show, [chosen, *settings], outputs, **private)
    examples.select(show_example, settings, [chosen, upload, *outputs], **private | last)
    upload.upload(show_upload, [upload, *settings], [chosen, *outputs], api_name="look", **last)
    masks = {"fn": show_masks, "inputs": [chosen, *settings], "outputs": outputs[-1:]}
    gr.on([strategy.input, seed.submit, seed.blur], **masks, api_name="masks", **last)
    clicked = again.click(next_seed, seed, seed, api_visibility="private", queue=False, show_progress="hidden")
    clicked.then(**masks, **private)


def _port_error(host: str, port: int | None) -> AppError:
    return AppError(f"cannot listen on port {port} of {host}: choose another port with --port")


def check_port(host: str, port: int) -> None:
    """
    Raises:
        AppError: the port is in use, or this machine does not have the address.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        raise _port_error(host, port) from error


def launch_app(
    page: Any, *, host: str = "127.0.0.1", port: int | None = 7860, share: bool = False, wait: bool = True
) -> str:
    """
    Serves the page; prints and returns its address.

    Args:
        page: see [`build_app`].
        host: address to listen on; only this machine can reach the default.
        port: `None` takes a free port.
        share: also open a public link through gradio's server.
        wait: return only after Ctrl-C.

    Raises:
        AppError: the port is in use.
    """
    gr = require_gradio()
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}  # no font is downloaded
    off = ("run_history", "ssr_mode", "pwa", "mcp_server", "enable_monitoring", "show_error", "inbrowser")
    page.queue(max_size=_MAX_WAITING)
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
            quiet=True,
            prevent_thread_lock=True,
            **dict.fromkeys(off, False),
        )
    except OSError as error:
        raise _port_error(host, port) from error
    print(f"the app is at {address}" + (f" and at {public}" if public else "") + "   (Ctrl-C ends it)")
    if wait:
        page.block_thread()
    return address
