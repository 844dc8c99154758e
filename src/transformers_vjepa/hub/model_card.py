"""Model cards, the `README.md` of a model: usage, training, results and licence."""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from transformers import IJepaConfig, TrainerState, TrainingArguments
from transformers.utils import CONFIG_NAME

from ..conversion.ijepa import is_stock_folder
from ..models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from ..safety.sanitizing import log_line
from .names import is_hub_id

#: Name of the card in a folder and in a repository.
CARD_NAME = "README.md"
#: Folder with the template and the cards of released models.
CARDS = Path(__file__).parent / "model_cards"
#: Licence of the published V-JEPA and I-JEPA weights.
PUBLISHED_LICENSE = "cc-by-nc-4.0"
#: Arguments that do not change what a model learns.
INCIDENTAL = re.compile(
    "(output|logging)_dir|resume_.*|save_.*|logging_.*|disable_tqdm|run_name|report_to|dataloader_.*|cache_videos|"
    "decode_timeout|use_cpu|ddp_.*|fsdp.*|.*hub_.*|push_to_hub|eval_.*|metric_for_best_model|greater_is_better"
)
# Arguments of `TrainingArguments` that do; the Trainer sets some of the others itself.
_OF_TRAINER = (
    "per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_steps seed data_seed bf16 fp16 "
    "optim adam_beta1 adam_beta2 adam_epsilon torch_compile"
).split()
_CLASSIFIER = "VJEPAForVideoClassification"
# The place in a card's usage that names the model.
_NAMED_IN_USAGE = re.compile(r'\n## How to use it\n.*?(?:from_pretrained\(|model=)"([^"]*)"', flags=re.DOTALL)


# Licences


@dataclass(frozen=True)
class Heritage:
    """
    The models that a model was trained from.

    Args:
        base_models: their ids on the Hub.
        license: their licence; None if they name none.
    """

    base_models: tuple[str, ...] = ()
    license: str | None = None

    def license_of(self, wanted: str | None) -> str | None:
        """
        The licence of a model with this heritage; `wanted` is the user's choice, or None.

        Raises:
            ValueError: the heritage is non-commercial, and the user wants another licence.
        """
        if not (self.license or "").startswith("cc-by-nc"):
            return wanted
        if wanted not in (None, self.license):
            raise ValueError(
                f"licence {wanted!r} is not allowed: these weights come from weights under {self.license}, and this "
                "licence also applies to them: leave the licence out"
            )
        return self.license


def heritage_of(model: str | os.PathLike | None, *, token: str | None = None) -> Heritage:
    """
    The heritage that a model passes on to models trained from it, read from the card (`README.md`) of a folder or of a
    repository on the Hub; None has no heritage. `token` is for private repositories.
    """
    if model is None:
        return Heritage()
    own_id = [str(model)] if is_hub_id(str(model)) else []
    try:
        if own_id:
            data = ModelCard.load(str(model), token=token, ignore_metadata_errors=True).data.to_dict()
        else:
            data = metadata_load(Path(model) / CARD_NAME) or {}
    except (OSError, ValueError, yaml.YAMLError):  # the card is missing or not readable
        return Heritage(tuple(own_id))
    bases = own_id or data.get("base_model") or []  # a folder has no id, but its own base models may have
    bases = [bases] if isinstance(bases, str) else bases
    license_ = data.get("license")
    return Heritage(tuple(map(str, bases)), license_ if isinstance(license_, str) else None)


def _license_text(license_: str | None) -> str:
    text = f"The weights are under {license_}." if license_ else "The author has not named a licence for the weights."
    if license_ == PUBLISHED_LICENSE:
        text = "CC BY-NC 4.0: not for commercial use. This licence also applies to models trained from these weights."
    return f"{text} The code beside the weights is under Apache-2.0."


# Released models

# Released V-JEPA encoders by preset, and released I-JEPA models by the name of their card.
_ENCODERS = ("vitl16", "vith16", "vith16-384")
_IMAGE_ENCODERS = {
    "ijepa-vith14-1k": "ijepa-vith14",
    "ijepa-vith14-22k": "ijepa-vith14",
    "ijepa-vith16-448-1k": "ijepa-vith16-448",
    "ijepa-vitg16-22k": "ijepa-vitg16",
}
# Data sets of the published probes, by the number of classes.
_PROBES = {400: "k400", 174: "ssv2", 1000: "in1k", 205: "places205", 10_000: "inat21"}
_ARCHITECTURE = (
    "patch_size crop_size frames_per_clip tubelet_size hidden_size num_attention_heads num_hidden_layers mlp_ratio "
    "uniform_power pred_hidden_size pred_num_hidden_layers pred_num_attention_heads"
).split()


def _has_architecture(config: VJEPAConfig, preset: str) -> bool:
    wanted = VJEPAConfig.from_preset(preset)
    names = {*_ARCHITECTURE, *PRESETS[preset]} - {"pred_loss"}  # an objective, not a size
    return all(getattr(config, name) == getattr(wanted, name) for name in names)


def is_released(config: VJEPAConfig) -> bool:
    """Whether published V-JEPA or I-JEPA weights have this architecture."""
    return any(_has_architecture(config, name) for name in (*_ENCODERS, *_IMAGE_ENCODERS.values()))


def released_card(config: VJEPAConfig, *, is_classifier: bool, source: str = "") -> ModelCard | None:
    """
    The card of the published V-JEPA or I-JEPA model with this architecture, or None.

    Args:
        source: name of the published file, or id on the Hub. Two published I-JEPA models differ only in their data:
            `22k` in the name stands for ImageNet-22k, `1k` for ImageNet-1k.
    """
    if config.is_image_model:
        fitting = [card for card, preset in _IMAGE_ENCODERS.items() if _has_architecture(config, preset)]
        data = re.search(r"(22|(?<!\d)1)k", source.lower())
        name = next((card for card in fitting if data and card.endswith(f"-{data[0]}")), None)
        return None if name is None or is_classifier else ModelCard.load(CARDS / f"{name}.md")
    preset = next((name for name in _ENCODERS if _has_architecture(config, name)), None)
    probe = _PROBES.get(config.num_labels) if is_classifier else ""
    if preset is None or probe is None:
        return None
    return ModelCard.load(CARDS / f"vjepa-{preset}{f'-{probe}' if probe else ''}.md")


# The training


@dataclass
class RunDetails:
    """
    Facts about a training that the trainer does not know, for the card.

    Args:
        command: the command, such as `"vjepa pretrain"`.
        sources: the data, as the user named them.
        arguments: dataclasses of arguments; values that differ from the defaults are shown.
        heritage: heritage of the model that the training started from.
        start: the model that the training started from, as the user named it.
        license: the user's choice; a non-commercial heritage replaces None.

    Raises:
        ValueError: the heritage does not allow the licence.
    """

    command: str = "transformers_vjepa"
    sources: Sequence[str] = ()
    arguments: Sequence[Any] = ()
    heritage: Heritage = field(default_factory=Heritage)
    start: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        self.license = self.heritage.license_of(self.license)


def public_name(value: str) -> str:
    """A path without its folders, an address without secrets, a Hub id unchanged; each with its weight, `=0.5`."""
    name, separator, weight = value.rpartition("=")
    if separator and re.fullmatch(r"[\d.]+", weight):
        return f"{public_name(name)}={weight}"
    is_path = "://" not in value and not is_hub_id(value.partition(":")[0]) and ("/" in value or os.sep in value)
    return log_line(Path(value).name or "data" if is_path else value)


def _as_code(text: str) -> str:
    """Untrusted text as code, inside a table or a list."""
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def _public(value: Any) -> Any:
    """The value of an argument as YAML can represent it, without folders of this machine."""
    if isinstance(value, Enum):
        return _public(value.value)
    if isinstance(value, (list, tuple)):
        return [_public(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _public(item) for key, item in value.items()}
    return value if isinstance(value, (int, float, type(None))) else public_name(str(value))


def recipe_of(arguments: Sequence[Any]) -> str:
    """YAML of the arguments that differ from their defaults and change what a model learns."""
    values = {}
    for part in arguments:
        of_trainer = isinstance(part, TrainingArguments)
        declared = vars(type(part)).get("__annotations__", {})
        for item in fields(part):
            if INCIDENTAL.fullmatch(item.name) or (of_trainer and item.name not in {*declared, *_OF_TRAINER}):
                continue
            default = item.default if item.default_factory is MISSING else item.default_factory()
            value = _public(getattr(part, item.name))
            if value != _public(default) and value is not None:
                values[item.name] = value
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip() if values else ""


def _hardware() -> str:
    """The accelerator or the kind of processor; nothing that identifies the machine."""
    if not torch.accelerator.is_available():
        return f"{platform.machine()} CPU, {torch.get_num_threads()} threads per process"
    kind = torch.accelerator.current_accelerator().type
    return torch.cuda.get_device_name(0) if kind == "cuda" else kind


# Cards


def _metadata(
    config: VJEPAConfig | None, scores: Mapping[str, Any], details: RunDetails, *, architecture: str, name: str
) -> ModelCardData:
    """The part of a card that the Hub reads."""
    is_image_model = config is not None and config.is_image_model
    medium = "image" if is_image_model else "video"
    task = "image-feature-extraction" if is_image_model else "feature-extraction"
    if architecture == _CLASSIFIER:
        task = f"{medium}-classification"
    sources = [source.rpartition("=")[0] or source for source in details.sources]
    clips = public_name(sources[0]) if sources else "the user's own clips"
    evaluations = [
        EvalResult(
            task_type=task,
            dataset_type=clips if is_hub_id(clips) else re.sub(r"[^\w.-]+", "-", clips),
            dataset_name=clips,
            dataset_split=split,
            metric_type="accuracy",
            metric_name="accuracy, 95 % {:.3f} to {:.3f}".format(*values["accuracy_interval"]),
            metric_value=round(values["accuracy"], 4),
        )
        for split, values in scores.items()
    ]
    return ModelCardData(
        library_name="transformers",
        license=details.license,
        pipeline_tag=None if config is None else task,
        tags=["vjepa", medium],
        base_model=list(details.heritage.base_models) or None,
        datasets=[hub_id for source in sources if is_hub_id(hub_id := source.partition(":")[0])] or None,
        metrics=["accuracy"] if evaluations else None,
        model_name=name if evaluations else None,
        eval_results=evaluations or None,
    )


def make_card(
    folder: str | Path,
    config: VJEPAConfig | None,
    *,
    architecture: str,
    model_id: str | None = None,
    details: RunDetails | None = None,
    state: TrainerState | None = None,
    clips_per_step: int = 1,
    clips_seen: int | None = None,
    processes: int = 1,
) -> ModelCard:
    """
    The card of a model.

    Args:
        folder: folder with the images and results to show; links are relative to it.
        config: configuration of the model; None for a repository of processors.
        architecture: class name of the model.
        model_id: the name to load the model by, `user/name`; by default the name of the folder.
        details, state: of the training.
        clips_per_step: global batch, over all processes; the last one if it changed.
        clips_seen: clips in all; by default `clips_per_step` times the steps.
        processes: number of processes of the training.
    """
    folder, details = Path(folder), details or RunDetails()
    model_id = model_id or folder.resolve().name
    title = model_id.split("/")[-1]
    file = folder / "results.json"  # of a finished classification
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    evaluated = (name for name in ("validation", "test") if results.get(name, {}).get("accuracy") is not None)
    scores = {name: results[name] for name in evaluated}
    run = {}
    if state is not None:
        run = {"state": state, "clips_per_step": clips_per_step, "clips_seen": clips_seen, "processes": processes}
        versions = {name: version(name) for name in ("torch", "transformers", "transformers_vjepa")}
        run |= {"hardware": _hardware(), "versions": versions}
    return ModelCard.from_template(
        _metadata(config, scores, details, architecture=architecture, name=title),
        template_path=str(CARDS / "template.md"),
        title=title,
        model_id=model_id,
        architecture=architecture,
        config=config,
        has_labels=architecture == _CLASSIFIER,
        is_image_model=config is not None and config.is_image_model,
        data=[_as_code(public_name(source)) for source in details.sources],
        start=_as_code(public_name(details.start)) if details.start else None,
        **run,
        command=details.command,
        recipe=recipe_of(details.arguments),
        results=results,
        scores=scores,
        folder=folder,
        license_text=_license_text(details.license),
    )


def _renamed(text: str, model_id: str) -> str:
    """A card for another repository: replaces the old name in the usage and the title, and changes nothing else."""
    if (used := _NAMED_IN_USAGE.search(text)) is None:
        return text
    old, new = (name.rpartition("/")[2] for name in (used[1], model_id))
    text = text.replace(f'("{used[1]}"', f'("{model_id}"').replace(f'model="{used[1]}"', f'model="{model_id}"')
    return re.sub(rf"\A(\s*)# {re.escape(old)}(?=\n)", lambda title: f"{title[1]}# {new}", text)


def stock_card(
    folder: str | Path, *, model_id: str | None = None, license: str | None = None, base_models: Sequence[str] = ()
) -> ModelCard:
    """The card of a folder with a stock I-JEPA model; the arguments are those of [`card_of_folder`]."""
    folder = Path(folder)
    config, model_id = IJepaConfig.from_pretrained(folder), model_id or folder.resolve().name
    is_classifier = "IJepaForImageClassification" in (config.architectures or ())
    data = ModelCardData(
        library_name="transformers",
        license=license,
        pipeline_tag="image-classification" if is_classifier else "image-feature-extraction",
        tags=["ijepa", "image"],
        base_model=list(base_models) or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(CARDS / "stock_template.md"),
        title=model_id.split("/")[-1],
        model_id=model_id,
        config=config,
        is_classifier=is_classifier,
        license_text=_license_text(license).partition(" The code beside")[0],
    )


def card_of_folder(
    folder: str | Path, *, model_id: str | None = None, license: str | None = None, base_models: Sequence[str] = ()
) -> ModelCard:
    """
    The card in a folder or, without one, a new card from the files of the folder.

    Args:
        folder: folder with a model or a processor.
        model_id: the name to load the model by.
        license: replaces the licence of the card.
        base_models: ids of the models that a new card names as base models.

    Raises:
        ValueError: the card names a non-commercial licence, and `license` is another one.
    """
    folder = Path(folder)
    if (folder / CARD_NAME).is_file():
        card = ModelCard.load(folder / CARD_NAME)
        if model_id is not None:
            card.text = _renamed(card.text, model_id)
        if license is not None:
            card.data.license = Heritage(license=card.data.get("license")).license_of(license)
            text = _license_text(card.data.license)
            card.text = re.sub(r"(?<=\n## Licence\n\n).*?(?=\n\n|\Z)", lambda _: text, card.text, flags=re.S)
        return card
    if is_stock_folder(folder):
        return stock_card(folder, model_id=model_id, license=license, base_models=base_models)
    config = VJEPAConfig.from_pretrained(folder) if (folder / CONFIG_NAME).is_file() else None
    architecture = next(iter((config.architectures if config is not None else None) or []), "")
    details = RunDetails(heritage=Heritage(tuple(base_models)), license=license)
    return make_card(folder, config, architecture=architecture, model_id=model_id, details=details)


def write_card(card: ModelCard, folder: str | Path) -> None:
    """Writes a card into a folder."""
    (Path(folder) / CARD_NAME).write_text(str(card), encoding="utf-8")


def replace_placeholder_card(folder: str | Path, *, repo_id: str) -> None:
    """Replaces the empty card that `push_to_hub` of transformers writes; any other card stays as it is."""
    file = Path(folder) / CARD_NAME
    if file.is_file() and "[More Information Needed]" in file.read_text(encoding="utf-8"):
        tags = ModelCard.load(file).data.tags or []
        file.unlink()
        card = card_of_folder(folder, model_id=repo_id)
        card.data.tags = [*card.data.tags, *(tag for tag in tags if tag not in card.data.tags)]
        write_card(card, folder)
