"""
Private and undocumented names of other libraries that this package overrides, calls, reads or sets.

A release of such a library may rename them without notice, and an overridden hook that was renamed would silently not
be called. Modules that use the names therefore call [`check_private_names`] when they are imported: a missing name or
another signature is an `ImportError` at once.
"""

import inspect
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

#: Versions with which all tests pass, for the remedy in errors.
KNOWN_VERSIONS = {
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "evaluate": "0.4.6",
    "gradio": "6.31.0",
    "torch": "2.14.1",
    "transformers": "5.24.0",
}


@dataclass(frozen=True)
class PrivateName:
    """
    One name and its use.

    Args:
        owner: where the name lives: `module`, or `module:Class`.
        name: the name.
        purpose: what this package needs the name for; completes "is needed to ...".
        parameters: names of the parameters, without `self`, separated by spaces; `None`: the signature is not checked.
        mentioned_in: for names that only objects have, or only strings: a function of the owner whose code must
            mention the name.
    """

    owner: str
    name: str
    purpose: str
    parameters: str | None = None
    mentioned_in: str | None = None

    @property
    def library(self) -> str:
        return self.owner.partition(":")[0].partition(".")[0]

    def problem(self) -> str | None:
        """The difference between the installed library and the expected name; `None`: there is no difference."""
        module, _, class_name = self.owner.partition(":")
        owner = import_module(module)
        if class_name:
            owner = getattr(owner, class_name, None)
        where = f"{self.owner.replace(':', '.')}.{self.name}"
        if self.mentioned_in is not None:
            mentioned = _mentions(owner, self.mentioned_in, self.name)
            return None if mentioned else f"no longer mentions {where} in {self.mentioned_in}"
        if not hasattr(owner, self.name):
            return f"has no {where}"
        if self.parameters is None:
            return None
        found = [name for name in inspect.signature(getattr(owner, self.name)).parameters if name != "self"]
        return None if found == self.parameters.split() else f"has {where}({', '.join(found)})"

    def check(self) -> None:
        """
        Raises:
            ImportError: see [`check_private_names`].
        """
        problem = self.problem()
        if problem is None:
            return
        if self.library in KNOWN_VERSIONS:
            installed = f"{self.library} {version(self.library)}"
            remedy = f"pip install '{self.library}=={KNOWN_VERSIONS[self.library]}'"
        else:
            installed = f"{self.library} of Python {sys.version.split()[0]}"
            remedy = "use a version of Python for which transformers_vjepa is tested (3.10 to 3.13)"
        wanted = self.name if self.parameters is None else f"{self.name}({', '.join(self.parameters.split())})"
        raise ImportError(
            f"{installed} {problem}: transformers_vjepa needs {wanted} to {self.purpose}. Install a version that is "
            f"known to work: {remedy}"
        )


def _mentions(owner: Any, function: str, name: str) -> bool:
    """Whether the code of a function of a module, or of a class or its bases, uses a name or a string."""
    places = inspect.getmro(owner) if inspect.isclass(owner) else [owner]
    for place in places:
        code = getattr(inspect.unwrap(vars(place).get(function)), "__code__", None)
        parts = (*code.co_names, *code.co_consts) if code else ()
        # The keys of a literal dict are one constant, a tuple.
        if any(name == part or (isinstance(part, tuple) and name in part) for part in parts):
            return True
    return False


def _same_use(owner: str, names: str, purpose: str, mentioned_in: str | None = None) -> list[PrivateName]:
    """Names of one owner with one use, separated by spaces."""
    return [PrivateName(owner, name, purpose, mentioned_in=mentioned_in) for name in names.split()]


_TRAINER = "transformers.trainer:Trainer"
_MODEL = "transformers.modeling_utils:PreTrainedModel"
_CONFIG = "transformers.configuration_utils:PreTrainedConfig"
_VIDEOS = "transformers.video_processing_utils:BaseVideoProcessor"
_IMAGES = "transformers.image_processing_backends:TorchvisionBackend"
_PARSER = "argparse:ArgumentParser"
_FORMATTER = "argparse:HelpFormatter"

#: All of them; a test compares this table with the sources.
PRIVATE_NAMES: tuple[PrivateName, ...] = (
    # Hooks of the Trainer that are overridden.
    PrivateName(_TRAINER, "_clip_grad_norm", "clip encoder and predictor, or each probe, separately", "model"),
    PrivateName(_TRAINER, "_get_grad_norm", "stop on gradients that are not finite", "model grad_norm"),
    PrivateName(_TRAINER, "_get_output_dir", "write checkpoints atomically", "trial"),
    PrivateName(_TRAINER, "_save_checkpoint", "write checkpoints atomically", "model trial"),
    PrivateName(_TRAINER, "_save", "save the image processor with the model", "output_dir state_dict"),
    PrivateName(_TRAINER, "_save_optimizer_and_scheduler", "save sharded optimizers whole", "output_dir"),
    PrivateName(_TRAINER, "_load_from_checkpoint", "name damaged weights", "resume_from_checkpoint model"),
    PrivateName(_TRAINER, "_load_optimizer_and_scheduler", "resume in the stream of clips", "checkpoint"),
    PrivateName(_TRAINER, "_push_from_checkpoint", "push only complete checkpoints", "checkpoint_folder"),
    PrivateName(_TRAINER, "_prepare_inputs", "evaluate clips and features", "inputs"),
    PrivateName(_TRAINER, "_train_batch_size", "count clips", mentioned_in="__init__"),
    # Hooks of models, configurations and processors.
    PrivateName(_MODEL, "_adjust_missing_and_unexpected_keys", "load encoders of other classes", "loading_info"),
    PrivateName(_MODEL, "_init_weights", "initialise weights", "module"),
    PrivateName(_MODEL, "_is_hf_initialized", "keep loaded weights", mentioned_in="_initialize_weights"),
    PrivateName(_MODEL, "_keys_to_ignore_on_load_unexpected", "load checkpoints of other classes"),
    PrivateName(_MODEL, "_no_split_modules", "place layers on devices"),
    *_same_use(_MODEL, "_supports_flash_attn _supports_sdpa", "choose attention kernels"),
    PrivateName(_CONFIG, "_attn_implementation", "choose attention kernels"),
    PrivateName(_CONFIG, "_auto_class", "drop references to remote code"),
    PrivateName(_CONFIG, "_dict_from_json_file", "refuse damaged configurations", "json_file"),
    PrivateName(_VIDEOS, "_auto_class", "drop references to remote code"),
    PrivateName(_VIDEOS, "_prepare_input_videos", "sample frames", "videos do_convert_rgb input_data_format device"),
    *_same_use(_VIDEOS, "_standardize_kwargs _validate_preprocess_kwargs", "check the settings of a processor"),
    PrivateName(_VIDEOS, "_preprocess", "crop and normalise clips"),
    PrivateName(_IMAGES, "_prepare_image_like_inputs", "read images"),
    PrivateName(_IMAGES, "_preprocess", "crop and normalise images"),
    PrivateName(
        "transformers.utils.hub:PushToHubMixin",
        "_upload_modified_files",
        "upload the code of a model with its weights",
        "working_dir repo_id files_timestamps commit_message token create_pr revision commit_description",
    ),
    PrivateName(
        "transformers.hf_argparser:HfArgumentParser",
        "_argument_group_name",
        "group arguments in --help",
        mentioned_in="_add_dataclass_arguments",
    ),
    # torch and accelerate.
    PrivateName("torch", "_foreach_lerp_", "update the target encoder"),
    PrivateName("torch.utils._python_dispatch", "is_traceable_wrapper_subclass", "recognise quantised weights"),
    PrivateName("torch._subclasses.fake_tensor", "FakeTensorMode", "estimate memory"),
    PrivateName("torch:UntypedStorage", "_cdata", "estimate memory"),
    PrivateName("torch.amp:GradScaler", "_step_supports_amp_scaling", "skip steps with fp16", mentioned_in="step"),
    PrivateName(
        "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter",
        "_workers_done_event",
        "end DataLoader workers that were killed",
        mentioned_in="__init__",
    ),
    PrivateName("accelerate.hooks", "_hf_hook", "recognise offloaded weights", mentioned_in="add_hook_to_module"),
    PrivateName("accelerate.state:AcceleratorState", "fsdp_plugin", "shard on CPUs", mentioned_in="__init__"),
    PrivateName("accelerate.state:PartialState", "distributed_type", "shard on CPUs", mentioned_in="__init__"),
    # datasets: the state of a streamed data set, and its retries.
    PrivateName(
        "datasets:IterableDataset",
        "examples_iterable",
        "leave out an unreadable shard",
        mentioned_in="_prepare_ex_iterable_for_iteration",
    ),
    *_same_use(
        "datasets.iterable_dataset:ArrowExamplesIterable",
        "shard_idx shard_example_idx",
        "leave out an unreadable shard",
        mentioned_in="_init_state_dict",
    ),
    *_same_use(
        "datasets.config",
        "STREAMING_OPEN_MAX_RETRIES STREAMING_OPEN_RETRY_INTERVAL "
        "STREAMING_READ_MAX_RETRIES STREAMING_READ_RETRY_INTERVAL",
        "retry servers with time limits",
    ),
    # The rest.
    PrivateName("evaluate:Metric", "_info", "describe the metric", ""),
    PrivateName("evaluate:Metric", "_compute", "compute the metric"),
    PrivateName(
        "gradio:File", "async_move_resource_to_block_cache", "refuse addresses as uploads", "url_or_file_path"
    ),
    *_same_use(_PARSER, "_actions _mutually_exclusive_groups", "print --help in groups", mentioned_in="__init__"),
    PrivateName(_PARSER, "_check_value", "check the values of a recipe", "action value"),
    PrivateName(_PARSER, "_get_formatter", "print --help in groups", ""),
    PrivateName(_PARSER, "_get_value", "check the values of a recipe", "action arg_string"),
    PrivateName(_PARSER, "_option_string_actions", "check the values of a recipe", mentioned_in="__init__"),
    PrivateName("argparse:_ArgumentGroup", "_group_actions", "print --help in groups", mentioned_in="__init__"),
    PrivateName(_FORMATTER, "_fill_text", "keep the lines of descriptions", "text width indent"),
    PrivateName(_FORMATTER, "_format_action_invocation", "print one spelling of each option", "action"),
    PrivateName(_FORMATTER, "_format_args", "print one spelling of each option", "action default_metavar"),
    PrivateName(_FORMATTER, "_get_default_metavar_for_optional", "print one spelling of each option", "action"),
    PrivateName(_FORMATTER, "_get_help_string", "print defaults", "action"),
)


def check_private_names(*modules: str) -> None:
    """
    Checks the names of the table that live in modules, and in modules inside of these. Costs no import beyond them.

    Args:
        modules: such as `"transformers.trainer"`, or `"transformers"` for all names of that library.

    Raises:
        ImportError: a name is missing, or its signature has changed; with library, version, use and remedy.
        ValueError: the table has no name of one of `modules`.
    """
    for module in modules:
        names = [each for each in PRIVATE_NAMES if f"{each.owner.partition(':')[0]}.".startswith(f"{module}.")]
        if not names:
            raise ValueError(f"no private name of {module} is known: check the spelling")
        for each in names:
            each.check()


__all__ = ["KNOWN_VERSIONS", "PRIVATE_NAMES", "PrivateName", "check_private_names"]
