"""Load a model or a processor completely, from a folder or the Hub, or raise an error of one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from transformers.utils import CONFIG_NAME, logging

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
            model, info = model_class.from_pretrained(name, output_loading_info=True, **settings)
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
