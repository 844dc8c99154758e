"""Load a model or a processor completely, from a folder or the Hub, or raise an error of one line."""

from collections.abc import Iterator
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
    """Loads without the table of missing and new weights that `from_pretrained` logs."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def load_whole(model_class: type[Model], name: str, *, remedy: str, **settings: Any) -> Model:
    """
    A model of which a checkpoint holds every weight.

    Args:
        model_class: what to load.
        name: folder or Hub id.
        remedy: what an error says of a checkpoint that lacks some.
        settings: of `from_pretrained`.

    Raises:
        ValueError: weights that are missing or damaged.
        OSError: nothing is there.
        HubError: it cannot be had from the Hub.
    """
    try:
        with loading(name), without_load_report():  # what is missing is said below, in a line
            model, info = model_class.from_pretrained(name, output_loading_info=True, **settings)
    except SafetensorError as error:
        raise ValueError(f"the weights of {name} are damaged ({error}): copy or download them again") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name} has no weights for {missing[0]} ({len(missing)} missing): {remedy}")
    return model


def load_processor(name: str, config: VJEPAConfig, *, token: str | None = None) -> VJEPAVideoProcessor:
    """The video processor beside a model, or the default one where it has none."""
    try:
        return VJEPAVideoProcessor.from_pretrained(name, token=token)
    except OSError:
        logger.warning(f"{name} has no video processor: pixels are normalised with ImageNet's mean and deviation")
        return VJEPAVideoProcessor.for_config(config)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """
    Around the loading of a model by name.

    Raises:
        FileNotFoundError: it begins with a folder of this machine, but is not there, or has no model in it.
        HubError: it cannot be had from the Hub; what is wrong with a folder goes on as it is.
    """
    first = str(name).partition("/")[0]
    if "/" in str(name) and Path(first).is_dir() and not Path(name).exists():  # a slip: do not ask the Hub for minutes
        beside = f", though there is {first}" if first else ""
        raise FileNotFoundError(f"there is no folder {name} here{beside}: check the name")
    if Path(name).is_dir() and not (Path(name) / CONFIG_NAME).is_file():
        checkpoints = sorted(Path(name).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
        remedy = f"the run has not ended; {checkpoints[-1]} is a model" if checkpoints else "check the name"
        raise FileNotFoundError(f"{name} holds no model (no {CONFIG_NAME}): {remedy}")
    try:
        yield
    except OSError as error:
        if not is_hub_id(name):
            raise
        raise HubError(explain(error, name)) from error


__all__ = [
    "load_processor",
    "load_whole",
    "loading",
    "without_load_report",
]
