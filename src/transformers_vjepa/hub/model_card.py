"""Model cards: what a model is, how it came to be and what it is worth, for its `README.md`."""

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
from transformers import PreTrainedConfig, TrainerState, TrainingArguments
from transformers.utils import CONFIG_NAME

from ..models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from ..safety.sanitizing import log_line
from .names import is_hub_id

#: Licence of the published V-JEPA and I-JEPA weights.
PUBLISHED_LICENSE = "cc-by-nc-4.0"


@dataclass(frozen=True)
class Heritage:
    """
    Args:
        base_models: ids on the Hub of what a model was trained from.
        license: licence of what it was trained from; None where none is named.
    """

    base_models: tuple[str, ...] = ()
    license: str | None = None

    def license_of(self, wanted: str | None) -> str | None:
        """
        The licence of a model with this heritage.

        Args:
            wanted: what its maker chooses; None: nothing.

        Raises:
            ValueError: another one than that of non-commercial weights it was trained from.
        """
        if not (self.license or "").startswith("cc-by-nc"):
            return wanted
        if wanted not in (None, self.license):
            raise ValueError(
                f"licence {wanted!r} for weights that come from others under {self.license}, which holds for what is "
                "made of them: leave it out"
            )
        return self.license


def heritage_of(model: str | os.PathLike | None, *, token: str | None = None) -> Heritage:
    """
    What is inherited from a model.

    Args:
        model: a folder with its card (`README.md`), an id on the Hub, or None: nothing.
        token: for private repositories.
    """
    if model is None:
        return Heritage()
    try:
        if is_hub_id(str(model)):
            data = ModelCard.load(str(model), token=token, ignore_metadata_errors=True).data.to_dict()
            bases = [str(model)]
        else:
            # A folder has no id; what it comes from may have one.
            data = metadata_load(Path(model) / "README.md") or {}
            bases = data.get("base_model") or []
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that cannot be read
        return Heritage((str(model),) if is_hub_id(str(model)) else ())
    license_ = data.get("license")
    bases = [bases] if isinstance(bases, str) else bases
    return Heritage(tuple(map(str, bases)), license_ if isinstance(license_, str) else None)


#: Where the cards are.
CARDS = Path(__file__).parent / "model_cards"
_ENCODERS = ("vitl16", "vith16", "vith16-384")
# The published probes are known by their number of classes.
_PROBES = {400: "k400", 174: "ssv2", 1000: "in1k", 205: "places205", 10_000: "inat21"}


def _has_architecture(config: VJEPAConfig, preset: str) -> bool:
    wanted = VJEPAConfig.from_preset(preset).to_dict()
    names = VJEPAConfig.__dataclass_fields__.keys() & {
        *PRESETS[preset],
        *"patch_size crop_size frames_per_clip tubelet_size hidden_size num_attention_heads num_hidden_layers".split(),
        *"mlp_ratio uniform_power pred_hidden_size pred_num_hidden_layers pred_num_attention_heads".split(),
    }
    return all(getattr(config, name) == wanted[name] for name in names)


def is_released(config: VJEPAConfig) -> bool:
    """Whether the published V-JEPA or I-JEPA weights have this architecture."""
    return any(_has_architecture(config, name) for name in PRESETS if name in _ENCODERS or name.startswith("ijepa"))


def released_card(config: VJEPAConfig, *, is_classifier: bool) -> ModelCard | None:
    """The card of the published V-JEPA model with this architecture; None where there is none."""
    for preset in _ENCODERS:
        if _has_architecture(config, preset):
            probe = _PROBES.get(config.num_labels) if is_classifier else None
            if is_classifier and probe is None:
                return None
            return ModelCard.load(CARDS / f"vjepa-{preset}{f'-{probe}' if probe else ''}.md")
    return None


#: Name of the card in a folder and in a repository.
CARD_NAME = "README.md"
#: Arguments that change nothing of what is learnt.
INCIDENTAL = re.compile(
    "(output|logging)_dir|resume_.*|save_.*|logging_.*|disable_tqdm|run_name|report_to|dataloader_.*|cache_videos|"
    "decode_timeout|use_cpu|ddp_.*|fsdp.*|.*hub_.*|push_to_hub|eval_.*|metric_for_best_model|greater_is_better"
)
# What decides what is learnt of the arguments that are any Trainer's: it replaces some of the others by itself.
_OF_TRAINER = (
    "per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_steps seed data_seed bf16 fp16 "
    "optim adam_beta1 adam_beta2 adam_epsilon torch_compile"
).split()
# Where the usage of a card names the model.
_NAMED_IN_USAGE = re.compile(r'\n## How to use it\n.*?(?:from_pretrained\(|model=)"([^"]*)"', flags=re.DOTALL)
#: Pictures that a card shows where a folder has them, and their titles.
PICTURES = {
    "pictures/curves.png": "Loss and diagnostics over the steps",
    "pictures/masks.png": "Context (as it is) and targets (blue)",
    "pictures/features.png": "Principal components of the features as training went on",
    "curves.png": "Loss and accuracy over the steps",
    "validation/confusion.png": "Confusions on the validation clips",
    "validation/classes.png": "Accuracy of each class on the validation clips",
    "test/confusion.png": "Confusions on the test clips",
    "test/classes.png": "Accuracy of each class on the test clips",
}
# What stands in the cards that transformers makes up where there is none.
_PLACEHOLDER = "[More Information Needed]"


@dataclass
class RunDetails:
    """
    What only who started a training knows of it, for the card.

    Args:
        command: what was run, such as `"vjepa pretrain"`.
        sources: data, as they were named.
        arguments: dataclasses of arguments; what differs from their defaults is shown.
        heritage: of the model that it started from.
        start: the model that it started from, as it was named.
        license: chosen by the user; that of the heritage where it binds.

    Raises:
        ValueError: a licence that the heritage forbids.
    """

    command: str = "transformers_vjepa"
    sources: Sequence[str] = ()
    arguments: Sequence[Any] = ()
    heritage: Heritage = field(default_factory=Heritage)
    start: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        self.license = self.heritage.license_of(self.license)


# What is shown of names


def public_name(value: str) -> str:
    """A path without its folders, an address without its secrets; an id on the Hub as it is; weights stay behind."""
    name, separator, weight = value.rpartition("=")
    if separator and re.fullmatch(r"[\d.]+", weight):
        return f"{public_name(name)}={weight}"
    if "://" in value:
        return log_line(value)
    if is_hub_id(value.partition(":")[0]) or ("/" not in value and os.sep not in value):
        return log_line(value)
    return log_line(Path(value).name or "data")


def _as_code(text: str) -> str:
    """Text of strangers inside a table or a list."""
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def _public(value: Any) -> Any:
    """The value of an argument as YAML takes it, without folders of this machine."""
    if isinstance(value, Enum):
        return _public(value.value)
    if isinstance(value, str):
        return public_name(value)
    if isinstance(value, (list, tuple)):
        return [_public(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _public(item) for key, item in value.items()}
    return value if isinstance(value, (int, float, type(None))) else public_name(str(value))


def recipe_of(arguments: Sequence[Any]) -> str:
    """YAML of what differs from the defaults of dataclasses of arguments and decides what is learnt."""
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


def hardware() -> str:
    """Accelerator, or kind of processor, and the versions of what computed; nothing that names the machine."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is not None and device.type == "cuda":
        name = torch.cuda.get_device_name(0)
    elif device is not None:
        name = device.type
    else:
        name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads a process"
    return name


# Parts of a card


def _run_rows(
    state: TrainerState, *, clips_per_step: int, clips_seen: int | None, processes: int
) -> list[tuple[str, str]]:
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    rates = [entry["clips_per_second"] for entry in state.log_history if "clips_per_second" in entry]
    steps = f"{state.global_step:,}" + (
        f" of {state.max_steps:,}: training goes on" if state.global_step < state.max_steps else ""
    )
    seen = state.global_step * clips_per_step if clips_seen is None else clips_seen
    is_mixed = seen != state.global_step * clips_per_step  # the run went on with another global batch
    rows = [
        ("steps", steps),
        ("clips of a step", f"{clips_per_step:,}" + (" in the end, others before" if is_mixed else "")),
        ("clips seen", f"{seen:,}"),
    ]
    if losses:
        rows.append(("loss, first and last logged", f"{losses[0]:.4f}, {losses[-1]:.4f}"))
    if rates:
        rows.append(("clips per second", f"{sum(rates) / len(rates):.1f}"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformers_vjepa"))
    return [*rows, ("processes", str(processes)), ("hardware", hardware()), ("versions", versions)]


def _results_of(folder: Path) -> dict[str, Any]:
    """What a classification run has written; nothing where it has not (yet)."""
    file = folder / "results.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _result_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for split in ("validation", "test"):
        if results.get(split, {}).get("accuracy") is not None:
            scores = results[split]
            low, high = (f"{100 * bound:.1f}" for bound in scores["accuracy_interval"])
            rows.append(
                {
                    "split": split,
                    "accuracy": f"{100 * scores['accuracy']:.1f}",
                    "interval": f"{low} to {high}",
                    "number": f"{scores['num_videos']:,}",
                    "chance": f"{100 * results['chance']:.1f}",
                }
            )
    return rows


def _protocol(results: Mapping[str, Any]) -> str:
    settings, chosen = results.get("settings", {}), results.get("chosen", {})
    lines = [
        f"Protocol: {settings.get('num_segments', 1)} clips of each video x {settings.get('num_views', 1)} crops, "
        f"weights of step {chosen.get('step')} of {chosen.get('steps')}; intervals are Wilson's, over clips."
    ]
    if results.get("probes"):
        lines.append(
            f"The probe is the best of {len(results['probes'])} on the validation clips, whose accuracy is therefore "
            "a little too good; test clips, where there are any, were looked at once, after that."
        )
    broken = {split: results[split]["num_broken"] for split in ("validation", "test") if split in results}
    if any(broken.values()):
        lines.append(f"Clips that could not be read and do not count: {broken}.")
    return " ".join(lines)


def _eval_results(results: Mapping[str, Any], *, task: str, sources: Sequence[str]) -> list[EvalResult]:
    name = public_name(sources[0]) if sources else "the user's own clips"
    return [
        EvalResult(
            task_type=task,
            dataset_type=name if is_hub_id(name) else re.sub(r"[^\w.-]+", "-", name),
            dataset_name=name,
            dataset_split=split,
            metric_type="accuracy",
            metric_name=f"accuracy, 95 % {low:.3f} to {high:.3f}",
            metric_value=round(results[split]["accuracy"], 4),
        )
        for split in ("validation", "test")
        if results.get(split, {}).get("accuracy") is not None
        for low, high in [results[split]["accuracy_interval"]]
    ]


def _kind(config: PreTrainedConfig | None, architecture: str) -> str:
    of_images = config is not None and config.is_image_model
    if architecture == "VJEPAForVideoClassification":
        return "image-classification" if of_images else "video-classification"
    return "image-feature-extraction" if of_images else "feature-extraction"


def _summary(config: PreTrainedConfig | None, architecture: str) -> str:
    if config is None:
        return "Processors of V-JEPA clips."
    text = _SUMMARIES.get(architecture, _PRETRAINED)
    return text.replace("video clips", "pictures").replace("clips", "pictures") if config.is_image_model else text


def _license_text(license_: str | None) -> str:
    if license_ == PUBLISHED_LICENSE:
        return (
            "CC BY-NC 4.0: not for commercial use. It holds for what is trained from these weights, too. The code "
            "beside them is under Apache-2.0."
        )
    if license_:
        return f"The weights are under {license_}. The code beside the weights is under Apache-2.0."
    return "The maker of this model has named none yet. The code beside the weights is under Apache-2.0."


_SUMMARIES = {
    "VJEPAForVideoClassification": "A classifier of video clips on a V-JEPA encoder.",
    "VJEPAForPixelPrediction": "An encoder that learnt from clips without labels: it predicted masked pixels.",
}
_PRETRAINED = (
    "A V-JEPA encoder that learnt from clips without labels, by predicting the features of masked regions. "
    "`AutoModel` gives the target (moving-average) encoder, which is the one to use, and the predictor."
)

# Cards


def _metadata(
    config: VJEPAConfig | None, results: Mapping[str, Any], details: RunDetails, *, architecture: str, name: str
) -> ModelCardData:
    """What the Hub reads of a card."""
    task = _kind(config, architecture)
    sources = [source.rpartition("=")[0] or source for source in details.sources]
    evaluations = _eval_results(results, task=task, sources=sources)
    return ModelCardData(
        library_name="transformers",
        license=details.license,
        pipeline_tag=task if config is not None else None,
        tags=["vjepa", "image" if config is not None and config.is_image_model else "video"],
        base_model=list(details.heritage.base_models) or None,
        datasets=[source.partition(":")[0] for source in sources if is_hub_id(source.partition(":")[0])] or None,
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
        folder: its pictures and results are shown; links are relative to it.
        config: of the model; None: a repository of processors.
        architecture: name of the class of the model.
        model_id: how it is to be loaded, `user/name`; by default the name of the folder.
        details: of the training that made it.
        state: where that training stands.
        clips_per_step: of all processes together, in the end.
        clips_seen: in all; by default as many as steps of that size make.
        processes: that trained it.
    """
    folder, details = Path(folder), details or RunDetails()
    model_id = model_id or folder.resolve().name
    results = _results_of(folder)
    data = _metadata(config, results, details, architecture=architecture, name=model_id.split("/")[-1])
    run = None
    if state is not None:
        run = [] if details.start is None else [("started from", _as_code(public_name(details.start)))]
        run += _run_rows(state, clips_per_step=clips_per_step, clips_seen=clips_seen, processes=processes)
    return ModelCard.from_template(
        data,
        template_path=str(CARDS / "template.md"),
        title=model_id.split("/")[-1],
        model_id=model_id,
        summary=_summary(config, architecture),
        config=config,
        has_labels=architecture == "VJEPAForVideoClassification",
        is_image_model=config is not None and config.is_image_model,
        data=[_as_code(public_name(source)) for source in details.sources],
        run=run,
        command=details.command,
        recipe=recipe_of(details.arguments),
        results=_result_rows(results),
        protocol=_protocol(results),
        pictures=[{"path": path, "title": title} for path, title in PICTURES.items() if (folder / path).is_file()],
        license_text=_license_text(details.license),
    )


def _renamed(text: str, model_id: str) -> str:
    """A card for another repository: where the usage and the title name the old one; what somebody wrote stays."""
    if (used := _NAMED_IN_USAGE.search(text)) is None:
        return text
    old, new = (name.rpartition("/")[2] for name in (used[1], model_id))
    text = text.replace(f'("{used[1]}"', f'("{model_id}"').replace(f'model="{used[1]}"', f'model="{model_id}"')
    return re.sub(rf"\A(\s*)# {re.escape(old)}(?=\n)", lambda title: f"{title[1]}# {new}", text)


def card_of_folder(folder: str | Path, *, model_id: str | None = None, license: str | None = None) -> ModelCard:
    """
    The card that a folder has, or one made from what is in it.

    Args:
        folder: with a model, or a processor.
        model_id: how it is to be loaded.
        license: replaces that of the card.

    Raises:
        ValueError: another licence than that of non-commercial weights.
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
    config = VJEPAConfig.from_pretrained(folder) if (folder / CONFIG_NAME).is_file() else None
    architecture = next(iter((config.architectures if config is not None else None) or []), "")
    details = RunDetails(license=license)
    return make_card(folder, config, architecture=architecture, model_id=model_id, details=details)


def write_card(card: ModelCard, folder: str | Path) -> None:
    """Writes a card into a folder."""
    (Path(folder) / CARD_NAME).write_text(str(card), encoding="utf-8")


def replace_placeholder_card(folder: str | Path, *, repo_id: str) -> None:
    """Puts a card of ours where `push_to_hub` has made up one of gaps; a card that somebody wrote stays."""
    file = Path(folder) / CARD_NAME
    if file.is_file() and _PLACEHOLDER in file.read_text(encoding="utf-8"):
        tags = ModelCard.load(file).data.tags or []
        file.unlink()
        card = card_of_folder(folder, model_id=repo_id)
        card.data.tags = [*card.data.tags, *(tag for tag in tags if tag not in card.data.tags)]
        write_card(card, folder)


__all__ = [
    "CARDS",
    "CARD_NAME",
    "INCIDENTAL",
    "PICTURES",
    "PUBLISHED_LICENSE",
    "Heritage",
    "RunDetails",
    "card_of_folder",
    "heritage_of",
    "is_released",
    "make_card",
    "public_name",
    "recipe_of",
    "released_card",
    "replace_placeholder_card",
    "write_card",
]
