"""
A page in the browser that looks into a model: masks and prediction errors of a clip, surprise, features, classes and
the nearest clips of a data set.

Everything that is shown is a function of the clip and the settings, and comes as HTML with its pictures inside: users
share the networks and nothing else, and no file but an upload is written or served.
"""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.corpora import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from ..figures.images import short_name
from ..figures.style import COLORS
from ..safety.private_names import check_private_names
from .analysis import ClipError, strategies
from .panels import (
    MAX_SEED,
    THUMBNAIL,
    AppModels,
    Choice,
    clip_panels,
    example_choice,
    mask_panel,
    read_or_error,
    text_of,
    upload_choice,
)

_EXAMPLES = 12
_MAX_UPLOAD = "500mb"
# Seconds: uploads are looked for once an hour, and go after six.
_UPLOADS = (3600, 6 * 3600)
_WAITING = 32


class AppError(ValueError):
    """The page cannot be shown as things are."""


class MissingAppError(ImportError):
    """The page needs gradio and matplotlib."""


# HTML ---------------------------------------------------------------------------------------------------


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
    check_private_names("gradio")
    return gradio


def _examples(models: AppModels) -> dict[int, tuple[Any, str]]:
    """First frames and captions of clips to choose from, by their places in the index."""
    found = {}
    for place in models.index.spread(_EXAMPLES):
        choice = example_choice(models, place)
        try:
            frame = read_or_error(models.looker, choice)[0].permute(1, 2, 0)
        except ClipError:  # its features were written somewhere else, or earlier
            continue
        factor = max(1, round(THUMBNAIL / frame.shape[0]))
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
        f"Model <b>{text_of(models.name)}</b>: {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{' × '.join(map(str, config.grid_size))} tokens (time × height × width). "
        f"Examples and nearest clips: {len(index):,} clips of {text_of(index.data.name)}.</p>"
    )


def _upload(gr: Any) -> Any:
    """The field for uploads. Nothing but what was uploaded to this page is read, and no address fetched."""
    field = gr.File(
        label="… or upload a video or picture",
        file_types=sorted(VIDEO_EXTENSIONS | IMAGE_EXTENSIONS),
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
        return 0 if seed is None or not 0 <= seed < MAX_SEED else int(seed) + 1

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
    "MissingAppError",
    "build_app",
    "launch_app",
    "page_style",
    "require_gradio",
]
