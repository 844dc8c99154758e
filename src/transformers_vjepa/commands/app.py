"""
Look into a model in the browser: the clip as the model sees it, masks and prediction errors, surprise over time,
features, the nearest clips of a data set and, with a classifier, the most probable classes.

    vjepa app                                                        # after vjepa demo
    vjepa app --model outputs/mine --dataset videos/ --classifier outputs/probe

The app listens on this machine only and downloads nothing. It shows an upload only to the user who uploaded it.
It needs the extra "app": pip install 'transformers_vjepa[app]'.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.hf_argparser import HfArg

from ..app.analysis import Classifier, ClipAnalyzer
from ..app.index import ClipIndex, build_index, open_index, open_labelled, small_corpus
from ..app.page import AppError, MissingAppError, build_app, check_port, launch_app, require_gradio
from ..app.panels import AppModels
from ..command_line.parsing import MISTAKES, parse_with_recipe, user_errors
from ..data.clip_reading import TooManyBrokenVideosError
from ..data.synthetic import synthetic_root
from ..evaluation.protocols import load_classifier
from ..hub.loading import load_processor, load_whole
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining


@dataclass(kw_only=True)
class AppArguments:
    """The model and clips to show, and the address of the page."""

    _argument_group_name = "app"

    model: str = HfArg(default="outputs/demo", help="Folder of a pretrained model.")
    dataset: str | None = HfArg(
        default=None,
        help="Examples, among which near ones are searched: a folder of videos or images, an index, tars, Parquet, "
        "or features that vjepa extract_features wrote for this model. By default the built-in corpus beside the "
        "model; without it, a few rendered clips of the same kind.",
    )
    classifier: str | None = HfArg(default=None, help="Folder of a classifier, to show classes.")
    max_clips: int = HfArg(default=2000, help="Largest number of clips to take, evenly spaced.")
    cache_dir: str | None = HfArg(
        default=None, help="Folder for the features of the data set; by default app_cache in the model's folder."
    )
    host: str = HfArg(default="127.0.0.1", help="Address to listen on; 0.0.0.0 admits other machines.")
    port: int = HfArg(default=7860, help="Port to listen on.")
    share: bool = HfArg(default=False, help="Also open a public link through gradio's server.")
    use_cpu: bool = HfArg(default=False, help="Compute on the CPU.")

    def __post_init__(self) -> None:
        for name, low, high in (("port", 1, 65535), ("max_clips", 1, 1_000_000)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"--{name} {getattr(self, name)} must lie in [{low}, {high}]")


def check_folder(name: str, remedy: str) -> None:
    """Raises a FileNotFoundError, with the remedy, for a folder without a model."""
    if not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(f"{name} has no model (no config.json): {remedy}")


def load_analyzer(name: str, device: torch.device) -> ClipAnalyzer:
    """
    Raises:
        FileNotFoundError: the folder has no model.
        ValueError: the model has no predictor, or damaged weights.
    """
    check_folder(name, "run vjepa demo first, or give --model the folder of a pretrained model")
    remedy = "the app shows predictions, so give a model from pretraining, with its predictor"
    model = load_whole(VJEPAForPreTraining, name, remedy=remedy, local_files_only=True)
    return ClipAnalyzer(model.to(device).eval(), load_processor(name, model.config))


def load_named_classifier(name: str, device: torch.device) -> Classifier:
    """
    Raises:
        FileNotFoundError: the folder has no model.
        ValueError: the model is not a classifier, or predicts numbers.
    """
    check_folder(name, "train a classifier with vjepa train_classifier")
    model, processor = load_classifier(name)
    if model.config.problem_type == "regression" or model.config.num_labels < 2:
        raise ValueError(f"{name} has {model.config.num_labels} outputs and no classes: leave --classifier out")
    return Classifier(model.to(device), processor, Path(name).name)


def index_clips(arguments: AppArguments, analyzer: ClipAnalyzer) -> ClipIndex:
    """The clips to show with their features, which are read or computed."""
    cache = Path(arguments.cache_dir) if arguments.cache_dir else Path(arguments.model) / "app_cache"
    dataset = str(synthetic_root(arguments.model)) if arguments.dataset is None else arguments.dataset
    if arguments.dataset is None and not (Path(dataset) / "manifest.json").is_file():
        return build_index(analyzer, small_corpus(cache / "corpus", sampling=analyzer.sampling), folder=cache)
    if (Path(dataset) / "settings.json").is_file():  # features
        return open_index(dataset, analyzer, max_clips=arguments.max_clips)
    return build_index(analyzer, open_labelled(dataset, max_clips=arguments.max_clips), folder=cache)


def parse_arguments(argv: Sequence[str]) -> AppArguments:
    """The command line overrides the recipe, which overrides the defaults."""
    return parse_with_recipe(argv, (AppArguments,), description=__doc__)[0]


def load(argv: Sequence[str]) -> tuple[AppArguments, AppModels]:
    """The arguments of a command line, and the models and clips of the page."""
    with user_errors(*MISTAKES, MissingAppError, TooManyBrokenVideosError):
        arguments = parse_arguments(argv)
        require_gradio()  # before the models are loaded
        check_port(arguments.host, arguments.port)
        has_accelerator = torch.accelerator.is_available() and not arguments.use_cpu
        device = torch.accelerator.current_accelerator() if has_accelerator else torch.device("cpu")
        analyzer = load_analyzer(arguments.model, device)
        classifier = load_named_classifier(arguments.classifier, device) if arguments.classifier is not None else None
        index = index_clips(arguments, analyzer)
    return arguments, AppModels(Path(arguments.model).resolve().name, analyzer, index, classifier)


def main() -> None:
    arguments, models = load(sys.argv[1:])
    with user_errors(AppError):
        page = build_app(models)
        launch_app(page, host=arguments.host, port=arguments.port, share=arguments.share)
