"""
Load a model or a processor completely, from a folder or the Hub, or raise an error of one line.

A name may also stand for a stock I-JEPA model of transformers, such as `facebook/ijepa_vith14_1k`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import IJepaConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, logging

from ..conversion.ijepa import (
    config_of_stock,
    is_stock,
    is_stock_folder,
    normalisation_of_stock,
    read_stock_folder,
)
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAPreTrainedModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from .names import is_hub_id
from .transfer import HubError, explain

logger = logging.get_logger(__name__)

Model = TypeVar("Model", bound=VJEPAPreTrainedModel)


@contextmanager
def without_load_report() -> Iterator[None]:
    """Suppresses the table of missing and new weights that `from_pretrained` logs."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def is_stock_model(name: str, *, token: str | None = None) -> bool:
    """
    Whether a folder or a Hub id names a stock I-JEPA model of transformers. Of a Hub id, only `config.json` is read.

    Raises:
        OSError: there is no model with this name, or it cannot be downloaded.
    """
    if Path(name).is_dir():
        return is_stock_folder(name)
    return is_stock(PreTrainedConfig.get_config_dict(name, token=token)[0])


def stock_folder(name: str, *, token: str | None = None) -> Path:
    """The folder of a stock model: on this machine, or downloaded, without code and with safetensors only."""
    if Path(name).is_dir():
        return Path(name)
    patterns = [CONFIG_NAME, IMAGE_PROCESSOR_NAME, "model*.safetensors"]
    return Path(snapshot_download(name, token=token, allow_patterns=patterns))


def read_config(name: str, *, token: str | None = None) -> VJEPAConfig:
    """
    The configuration of a model of ours, or ours of a stock I-JEPA model.

    Raises:
        OSError, ValueError: as [`loading`]; a stock model that ours cannot express.
        HubError: the model cannot be downloaded from the Hub.
    """
    with loading(name):
        if is_stock_model(name, token=token):
            return config_of_stock(IJepaConfig.from_pretrained(name, token=token))
        return VJEPAConfig.from_pretrained(name, token=token)


def load_model(
    model_class: type[Model], name: str, *, token: str | None = None, **settings: Any
) -> tuple[Model, dict[str, Any]]:
    """
    `from_pretrained` with `output_loading_info`, for a model of ours or a stock I-JEPA model.

    Args:
        settings: arguments of `from_pretrained`.
    """
    if not is_stock_model(name, token=token):
        return model_class.from_pretrained(name, output_loading_info=True, token=token, **settings)
    stock = read_stock_folder(stock_folder(name, token=token))
    settings = {name: value for name, value in settings.items() if name != "local_files_only"}
    settings = {"config": stock.config} | settings
    with without_load_report():  # the line below says what is new
        model, info = model_class.from_pretrained(None, state_dict=stock.weights, output_loading_info=True, **settings)
    is_new = any("predictor." in key for key in info["missing_keys"])
    logger.warning(
        f"{name} is a stock I-JEPA model, an encoder without a predictor"
        f"{': the predictor is new' if is_new else ''}; left out: {', '.join(stock.dropped)}"
    )
    return model, info


def load_whole(model_class: type[Model], name: str, *, remedy: str, **settings: Any) -> Model:
    """
    Loads a model from a folder or the Hub, if its checkpoint holds every weight.

    Args:
        remedy: end of the error message for a checkpoint that lacks weights.
        settings: arguments of `from_pretrained`.

    Raises:
        ValueError: weights are missing or damaged, or have other sizes than the configuration.
        OSError: there is no model with this name.
        HubError: the model cannot be downloaded from the Hub.
    """
    try:
        with loading(name), without_load_report():  # the error below names missing weights in one line
            model, info = load_model(model_class, name, **settings)
    except SafetensorError as error:
        raise ValueError(f"the weights of {name} are damaged ({error}): copy or download them again") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"the weights of {name} have other sizes than its {CONFIG_NAME} says: copy or download both again"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name} has no weights for {missing[0]} ({len(missing)} missing): {remedy}")
    return model


def refuse_other_sizes(name: str, info: Mapping[str, Any], *, new: tuple[str, ...]) -> None:
    """
    Checks what `ignore_mismatched_sizes` has left untrained.

    Args:
        info: what `output_loading_info` returns.
        new: beginnings of the names of weights that may be new.

    Raises:
        ValueError: other weights have other sizes than the configuration.
    """
    if other := sorted(key for key, *_ in info["mismatched_keys"] if not key.startswith(new)):
        raise ValueError(
            f"{name}: {other[0]} has another size than {CONFIG_NAME} says ({len(other)} such weights): copy or "
            "download both again"
        )


def load_processor(name: str, config: VJEPAConfig, *, token: str | None = None) -> VJEPAVideoProcessor:
    """Loads the video processor of a model; without one, warns and makes the default one."""
    if is_stock_model(name, token=token):
        settings = normalisation_of_stock(stock_folder(name, token=token))
        return VJEPAVideoProcessor(crop_size=config.crop_size, num_frames=config.frames_per_clip, **settings)
    try:
        return VJEPAVideoProcessor.from_pretrained(name, token=token)
    except OSError:
        logger.warning(f"{name} has no video processor: pixels are normalised with ImageNet's mean and deviation")
        return VJEPAVideoProcessor.for_config(config)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """
    Checks the name of a model before the block loads the model, and explains errors of the Hub. Other errors of the
    block are raised unchanged.

    Raises:
        FileNotFoundError: the name begins with a folder of this machine but does not exist, or is a folder without a
            model.
        HubError: the model cannot be downloaded from the Hub.
    """
    path = Path(name)
    first = str(name).partition("/")[0]
    # Probably a typing error: without this check `from_pretrained` would ask the Hub for minutes.
    if "/" in str(name) and Path(first).is_dir() and not path.exists():
        beside = f", though there is {first}" if first else ""
        raise FileNotFoundError(f"there is no folder {name} here{beside}: check the name")
    if path.is_dir() and not (path / CONFIG_NAME).is_file():
        checkpoints = sorted(path.glob("checkpoint-*"), key=lambda folder: folder.stat().st_mtime)
        remedy = f"the run has not ended; {checkpoints[-1]} is a model" if checkpoints else "check the name"
        raise FileNotFoundError(f"{name} holds no model (no {CONFIG_NAME}): {remedy}")
    try:
        yield
    except OSError as error:
        if not is_hub_id(name):
            raise
        raise HubError(explain(error, name)) from error
