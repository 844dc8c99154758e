"""
Look into a model in the browser: the clip as the model sees it, masks and prediction errors, surprise over time,
features, the nearest clips of a data set and, with a classifier, the most probable classes.

    vjepa app                                                        # after vjepa demo
    vjepa app --model outputs/mine --dataset videos/ --classifier outputs/probe

It listens on this machine only, fetches nothing, and shows what is uploaded to nobody else. Needs the extra "app":
pip install 'transformers_vjepa[app]'.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..app.analysis import Looker
from ..app.index import ClipIndex, LabelledCorpus, build_index, open_index, open_labelled, small_corpus
from ..app.page import AppError, MissingAppError, build_app, check_port, launch_app, require_gradio
from ..app.panels import AppModels, Classifier
from ..command_line.parsing import MISTAKES, parse_with_recipe, user_errors
from ..data.clip_reading import TooManyBrokenVideosError
from ..evaluation.protocols import load_classifier
from ..hub.loading import load_processor, load_whole
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining
from ..pretraining.setup import synthetic_root


@dataclass(kw_only=True)
class AppArguments:
    """What is looked at, and where."""

    _argument_group_name = "app"

    model: str = field(default="outputs/demo", metadata={"help": "Folder of a pretrained model."})
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Examples and clips to find near ones in: a folder of videos, an index, tars, Parquet, or what "
            "vjepa extract_features wrote for this model. By default the built-in corpus beside the model, or a "
            "few clips of its kind."
        },
    )
    classifier: str | None = field(default=None, metadata={"help": "Folder of a classifier, to name classes."})
    max_clips: int = field(default=2000, metadata={"help": "Most clips of the data set to look at, spread evenly."})
    cache_dir: str | None = field(
        default=None, metadata={"help": "Where features of the data set are kept; app_cache in the model's folder."}
    )
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 lets the network in."})
    port: int = field(default=7860, metadata={"help": "Port to listen on."})
    share: bool = field(default=False, metadata={"help": "Also open a public link through gradio's server."})
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU."})

    def __post_init__(self) -> None:
        for name, low, high in (("port", 1, 65535), ("max_clips", 1, 1_000_000)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"--{name} {getattr(self, name)} must lie in [{low}, {high}]")

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir) if self.cache_dir else Path(self.model) / "app_cache"


def load_looker(arguments: AppArguments, device: torch.device) -> Looker:
    """
    Raises:
        ValueError: no model, one without a predictor, or damaged weights.
    """
    if not (Path(arguments.model) / "config.json").is_file():
        raise FileNotFoundError(
            f"{arguments.model} holds no model (no config.json): run vjepa demo first, or name the folder of a "
            "pretrained one with --model"
        )
    remedy = "the app shows predictions, so give a model from pretraining, with its predictor"
    model = load_whole(VJEPAForPreTraining, arguments.model, remedy=remedy, local_files_only=True)
    processor = load_processor(arguments.model, model.config)
    sampling = processor.clip_sampling(num_frames=model.config.frames_per_clip)
    return Looker(model.to(device).eval(), processor, sampling)


def load_named_classifier(name: str | None, device: torch.device) -> Classifier | None:
    """
    Raises:
        ValueError: it is none, or predicts numbers.
    """
    if name is None:
        return None
    if not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(f"{name} holds no classifier (no config.json): train one with vjepa train_classifier")
    model, processor = load_classifier(name)
    if model.config.problem_type == "regression" or model.config.num_labels < 2:
        raise ValueError(f"{name} has {model.config.num_labels} outputs and no classes: leave --classifier out")
    return Classifier(model.to(device), processor, Path(name).name)


def find_clips(arguments: AppArguments, looker: Looker) -> LabelledCorpus | None:
    """The clips to look at; nothing where the data set is a folder of features."""
    if arguments.dataset is None:
        root = synthetic_root(arguments.model)
        if (root / "manifest.json").is_file():
            return open_labelled(str(root), max_clips=arguments.max_clips)
        return small_corpus(arguments.cache / "corpus", sampling=looker.sampling)
    if (Path(arguments.dataset) / "settings.json").is_file():
        return None
    return open_labelled(arguments.dataset, max_clips=arguments.max_clips)


def index_clips(arguments: AppArguments, looker: Looker, data: LabelledCorpus | None) -> ClipIndex:
    """Features of the clips, read or written."""
    settings = {"processor": looker.processor, "sampling": looker.sampling}
    if data is None:
        return open_index(arguments.dataset, looker.model.vjepa, max_clips=arguments.max_clips, **settings)
    return build_index(looker.model.vjepa, data, folder=arguments.cache, **settings)


def parse_arguments(argv: Sequence[str]) -> AppArguments:
    """Command line over recipe over defaults."""
    [arguments] = parse_with_recipe(argv, (AppArguments,), description=__doc__)
    return arguments


def load(argv: Sequence[str]) -> tuple[AppArguments, AppModels]:
    """Everything that the page needs, from its command line."""
    with user_errors(*MISTAKES, AppError, MissingAppError):
        arguments = parse_arguments(argv)
        require_gradio()  # before the work, not after
        check_port(arguments.host, arguments.port)
        has_accelerator = torch.accelerator.is_available() and not arguments.use_cpu
        device = torch.accelerator.current_accelerator() if has_accelerator else torch.device("cpu")
        looker = load_looker(arguments, device)
        classifier = load_named_classifier(arguments.classifier, device)
        data = find_clips(arguments, looker)
    with user_errors(*MISTAKES, TooManyBrokenVideosError):
        index = index_clips(arguments, looker, data)
    return arguments, AppModels(Path(arguments.model).resolve().name, looker, index, classifier)


def main() -> None:
    arguments, models = load(sys.argv[1:])
    with user_errors(AppError):
        page = build_app(models)
        launch_app(page, host=arguments.host, port=arguments.port, share=arguments.share)
