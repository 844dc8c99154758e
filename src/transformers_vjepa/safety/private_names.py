"""
Private and undocumented names of other libraries that this package overrides, calls, reads or sets.

A release of such a library may rename them without notice, and an overridden hook that was renamed would silently not
be called. Modules that use the names therefore call [`check_private_names`] when they are imported: a missing name or
another signature is an `ImportError` at once.
"""

import inspect
import re
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
        entry: `name(parameters)` for a hook with its signature, without `self`; `name in function` for an attribute of
            objects or a key that the code of this function of the owner must have; `name` alone otherwise.
        purpose: what the name is needed for, as an infinitive without "to".
    """

    owner: str
    entry: str
    purpose: str

    @property
    def name(self) -> str:
        return re.match(r"\w+", self.entry).group()

    @property
    def library(self) -> str:
        return self.owner.partition(":")[0].partition(".")[0]

    def problem(self) -> str | None:
        """How the installed library differs from this entry; `None` if the name is as expected."""
        module, _, class_name = self.owner.partition(":")
        owner = import_module(module)
        if class_name:
            owner = getattr(owner, class_name, None)
        where = f"{self.owner.replace(':', '.')}.{self.name}"
        _, mentioned, function = self.entry.partition(" in ")
        if mentioned:
            return None if _mentions(owner, function, self.name) else f"no longer mentions {where} in {function}"
        if not hasattr(owner, self.name):
            return f"has no {where}"
        if self.entry == self.name:
            return None
        found = [name for name in inspect.signature(getattr(owner, self.name)).parameters if name != "self"]
        return None if self.entry == f"{self.name}({' '.join(found)})" else f"has {where}({', '.join(found)})"


def _mentions(owner: Any, function: str, name: str) -> bool:
    """Whether the code of a function of a module, or of a class or its bases, uses a name or a string."""
    for place in inspect.getmro(owner) if inspect.isclass(owner) else [owner]:
        code = getattr(inspect.unwrap(vars(place).get(function)), "__code__", None)
        parts = (*code.co_names, *code.co_consts) if code else ()
        # The keys of a literal dict are one constant, a tuple.
        if any(name == part or (isinstance(part, tuple) and name in part) for part in parts):
            return True
    return False


# The purposes by owner and entry, see [`PrivateName`].
_TABLE: dict[str, dict[str, str]] = {
    "transformers.trainer:Trainer": {
        "_clip_grad_norm(model)": "clip encoder and predictor, or each probe, separately",
        "_get_grad_norm(model grad_norm)": "stop on gradients that are not finite",
        "_get_output_dir(trial)": "write checkpoints atomically",
        "_load_best_model()": "check the best checkpoint before it is read",
        "_load_from_checkpoint(resume_from_checkpoint model)": "name damaged weights",
        "_load_optimizer_and_scheduler(checkpoint)": "resume in the stream of clips",
        "_prepare_inputs(inputs)": "evaluate clips and features",
        "_push_from_checkpoint(checkpoint_folder)": "push only complete checkpoints",
        "_save(output_dir state_dict)": "save the image processor with the model",
        "_save_checkpoint(model trial)": "write checkpoints atomically",
        "_save_optimizer_and_scheduler(output_dir)": "save sharded optimizers whole",
        "_train_batch_size in __init__": "count clips",
    },
    "transformers.modeling_utils:PreTrainedModel": {
        "_adjust_missing_and_unexpected_keys(loading_info)": "load encoders from checkpoints of other classes",
        "_init_weights(module)": "initialise weights",
        "_is_hf_initialized in _initialize_weights": "keep loaded weights",
        "_keys_to_ignore_on_load_unexpected": "load encoders from checkpoints of other classes",
        "_no_split_modules": "place layers on devices",
        "_supports_flash_attn": "choose attention kernels",
        "_supports_sdpa": "choose attention kernels",
    },
    "transformers.configuration_utils:PreTrainedConfig": {
        "_attn_implementation": "choose attention kernels",
        "_auto_class": "drop references to remote code",
        "_dict_from_json_file(json_file)": "refuse damaged configurations",
        "_experts_implementation": "refuse kernels of untrusted configurations",
    },
    "transformers.video_processing_utils:BaseVideoProcessor": {
        "_auto_class": "drop references to remote code",
        "_prepare_input_videos(videos do_convert_rgb input_data_format device)": "sample frames",
        "_preprocess": "crop and normalise clips",
        "_standardize_kwargs": "check the settings of a processor",
        "_validate_preprocess_kwargs": "check the settings of a processor",
    },
    "transformers.image_processing_backends:TorchvisionBackend": {
        "_prepare_image_like_inputs": "read images",
        "_preprocess": "crop and normalise images",
    },
    "transformers.utils.hub:PushToHubMixin": {
        "_upload_modified_files(working_dir repo_id files_timestamps commit_message token create_pr revision "
        "commit_description)": "upload the code of a model with its weights",
    },
    "transformers.hf_argparser:HfArgumentParser": {
        "_argument_group_name in _add_dataclass_arguments": "print --help in groups",
    },
    "torch": {"_foreach_lerp_": "update the target encoder"},
    "torch:UntypedStorage": {"_cdata": "estimate memory"},
    "torch._subclasses.fake_tensor": {"FakeTensorMode": "estimate memory"},
    "torch.nn:Module": {
        "_backward_hooks in register_full_backward_hook": "recognise layers with hooks",
        "_backward_pre_hooks in register_full_backward_pre_hook": "recognise layers with hooks",
        "_forward_hooks in register_forward_hook": "recognise layers with hooks",
        "_forward_pre_hooks in register_forward_pre_hook": "recognise layers with hooks",
        "_parameters in register_parameter": "recognise pruned and parametrised layers",
    },
    "torch.nn.modules.module": {
        "_global_backward_hooks": "recognise layers with hooks",
        "_global_backward_pre_hooks": "recognise layers with hooks",
        "_global_forward_hooks": "recognise layers with hooks",
        "_global_forward_pre_hooks": "recognise layers with hooks",
    },
    "torch.amp:GradScaler": {"_step_supports_amp_scaling in step": "skip steps that overflow in fp16"},
    "torch.utils._python_dispatch": {"is_traceable_wrapper_subclass": "recognise quantised weights"},
    "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter": {
        "_workers_done_event in __init__": "end DataLoader workers that were killed",
    },
    "accelerate.state:AcceleratorState": {"fsdp_plugin in __init__": "shard on CPUs"},
    "accelerate.state:PartialState": {"distributed_type in __init__": "shard on CPUs"},
    "datasets:IterableDataset": {
        "examples_iterable in _prepare_ex_iterable_for_iteration": "leave out an unreadable shard"
    },
    "datasets.iterable_dataset:ArrowExamplesIterable": {
        "shard_example_idx in _init_state_dict": "leave out an unreadable shard",
        "shard_idx in _init_state_dict": "leave out an unreadable shard",
    },
    "datasets.config": {
        "STREAMING_OPEN_MAX_RETRIES": "retry servers with time limits",
        "STREAMING_OPEN_RETRY_INTERVAL": "retry servers with time limits",
        "STREAMING_READ_MAX_RETRIES": "retry servers with time limits",
        "STREAMING_READ_RETRY_INTERVAL": "retry servers with time limits",
    },
    "evaluate:Metric": {"_compute": "compute the metric", "_info()": "describe the metric"},
    "gradio:File": {"async_move_resource_to_block_cache(url_or_file_path)": "refuse addresses as uploads"},
}
#: All private names; a test compares this table with the sources.
PRIVATE_NAMES = [PrivateName(owner, *item) for owner, names in _TABLE.items() for item in names.items()]


def check_private_names(*modules: str) -> None:
    """
    Checks the names of the table that live in modules, such as `"transformers.trainer"`, or below them:
    `"transformers"` stands for all names of that library. Imports no other modules.

    Raises:
        ImportError: a name is missing, or its signature has changed; with library, version, use and remedy.
        ValueError: the table has no name of one of `modules`.
    """
    for module in modules:
        names = [each for each in PRIVATE_NAMES if f"{each.owner.partition(':')[0]}.".startswith(f"{module}.")]
        if not names:
            raise ValueError(f"no private name of {module} is known: check the spelling")
        for each in names:
            if (problem := each.problem()) is not None:
                wanted = each.entry.partition(" in ")[0].replace(" ", ", ")
                raise ImportError(
                    f"{each.library} {version(each.library)} {problem}: transformers_vjepa needs {wanted} to "
                    f"{each.purpose}. Install a version that is known to work: pip install "
                    f"'{each.library}=={KNOWN_VERSIONS[each.library]}'"
                )
