"""What `--help` shows: what most people need, in groups, with defaults; `--help_all` shows all others, too."""

import re
from argparse import SUPPRESS, Action, HelpFormatter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..safety.private_names import check_private_names

check_private_names("argparse", "transformers.hf_argparser")
#: Arguments of `transformers.TrainingArguments` that a run may well need, where `--help` lists them.
TRAINER_GROUPS = {
    "speed and memory": (
        "per_device_train_batch_size gradient_accumulation_steps activation_checkpointing bf16 fp16 tf32 "
        "torch_compile dataloader_num_workers use_cpu"
    ).split(),
    "checkpoints": "resume_from_checkpoint save_strategy save_steps save_total_limit".split(),
    "logs": "logging_steps report_to run_name disable_tqdm".split(),
    "Hub": "push_to_hub hub_model_id hub_strategy hub_private_repo".split(),
}
# The Trainer lists more than one would read: what is said shorter, or more to the point, here.
_HELP = {
    "per_device_train_batch_size": "Clips of a batch, for each process.",
    "per_device_eval_batch_size": "Clips of a batch in evaluation, for each process.",
    "gradient_accumulation_steps": "Batches of an optimizer step.",
    "activation_checkpointing": "Compute activations again in the backward pass: much less memory, a third slower.",
    "bf16": "Compute in bfloat16 where that is safe; weights stay in float32.",
    "fp16": "The same in float16 with a loss scale, for GPUs without bfloat16.",
    "tf32": "TF32 multiplication on Ampere and newer GPUs.",
    "torch_compile": "Compile the model.",
    "dataloader_num_workers": "Processes that decode videos, for each process that trains; 0: it decodes itself.",
    "use_cpu": "Train on the CPU; the default where there is no GPU.",
    "resume_from_checkpoint": "A checkpoint, or 'auto': the newest one of the output folder, if any.",
    "save_strategy": "When to save checkpoints: no, steps, epoch.",
    "save_steps": "Steps between checkpoints; below 1 a share of all steps.",
    "report_to": "Trackers: tensorboard, wandb, trackio, none, all.",
    "run_name": "Name of the run for the tracker.",
    "disable_tqdm": "No progress bar.",
    "push_to_hub": "Upload checkpoints and the result to the Hub.",
    "hub_model_id": "Repository to upload to, user/name. Default: the name of the output folder.",
    "hub_strategy": "What to upload: end, every_save, checkpoint (with the newest checkpoint), all_checkpoints.",
    "hub_private_repo": "Make a new repository private.",
    "seed": "Seed of everything random: order of the videos, frames, crops, new weights, and masks in pretraining.",
}
# What stands first among the arguments of training.
_FIRST = "output_dir max_steps num_train_epochs min_steps seed learning_rate warmup_steps weight_decay".split()
# Declared by our classes for a default that nobody should have to change.
_SETTLED = re.compile("ddp_.*|logging_nan_inf_filter|remove_unused_columns|ignore_data_skip")
_METAVARS = {int: "N", float: "X", str: "TEXT", dict: "JSON"}


class _Formatter(HelpFormatter):
    """One spelling of each option, its default behind its help."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action)) if action.nargs != 0 else ""
        name = next(option for option in action.option_strings if option.startswith("--"))
        return f"{name} {value}".strip()

    def _format_args(self, action: Action, default_metavar: str) -> str:
        if action.type is string_to_bool:
            return "[true|false]"
        return super()._format_args(action, default_metavar)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))  # as it was written

    def _get_help_string(self, action: Action) -> str:
        default, text = action.default, action.help or ""
        if action.required:
            return f"{text} (required)"
        if default is None or default is SUPPRESS or default == [] or action.nargs == 0:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list) else getattr(default, "value", default)
        return f"{text} ({str(shown).replace('%', '%%')})"


def _plain(action: Action, *, is_trainers: bool) -> None:
    """Short names for values, and our words for what the Trainer says at length."""
    if is_trainers and action.dest in _HELP:
        action.help = _HELP[action.dest]
    if action.metavar is None and not action.choices and action.nargs != 0:
        action.metavar = _METAVARS.get(action.type, "VALUE")
    if action.choices and len(action.choices) > 9:
        action.metavar = "NAME"


class HelpParser(HfArgumentParser):
    """
    A parser whose help has a group for each data class, and of a subclass of `TrainingArguments` only the arguments
    that the class itself declares and those of `TRAINER_GROUPS`.

    Args:
        dataclass_types: see [`~transformers.HfArgumentParser`].
        settings: those of [`~argparse.ArgumentParser`].
    """

    def __init__(self, dataclass_types: Iterable[type], **settings: Any):
        super().__init__(dataclass_types, formatter_class=_Formatter, allow_abbrev=False, add_help=False, **settings)
        general = self.add_argument_group("general")
        general.add_argument("-h", "--help", action="help", help="show this and exit")
        self.shows_all = False
        if any(issubclass(part, TrainingArguments) for part in self.dataclass_types):
            general.add_argument(
                "--help_all", action=_ShowAll, nargs=0, help="show all other arguments of transformers' Trainer, too"
            )
        self.general = general
        self.usage = "%(prog)s [options]"

    def sections(self) -> dict[str, list[Action]]:
        """Title -> actions, in the order of the help."""
        actions = {action.dest: action for action in self._actions if not _is_complement(action)}
        sections: dict[str, list[str]] = {"general": [action.dest for action in self.general._group_actions]}
        rest: list[str] = []
        for part in self.dataclass_types:
            names = [item.name for item in fields(part) if item.init]
            title = getattr(part, "_argument_group_name", part.__name__)
            if not issubclass(part, TrainingArguments):
                sections[title] = names
                continue
            grouped = {name for group in TRAINER_GROUPS.values() for name in group}
            declared = {"seed", *vars(part).get("__annotations__", ())}
            own = [name for name in names if name in declared - grouped and not _SETTLED.fullmatch(name)]
            own.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
            sections[title] = own
            # Older transformers lack some.
            for key, group in TRAINER_GROUPS.items():
                sections[key] = [name for name in group if name in names]
            rest = [name for name in names if name not in grouped | set(own)]
        if self.shows_all and rest:
            sections["all other arguments of transformers.TrainingArguments"] = rest
        return {title: [actions[name] for name in names] for title, names in sections.items()}

    def format_help(self) -> str:
        trainers = [part for part in self.dataclass_types if issubclass(part, TrainingArguments)]
        of_trainer = {item.name for part in trainers for item in fields(part)}
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for title, actions in self.sections().items():
            formatter.start_section(title)
            for action in actions:
                _plain(action, is_trainers=action.dest in of_trainer)
            formatter.add_arguments(actions)
            formatter.end_section()
        return formatter.format_help()


def _is_complement(action: Action) -> bool:
    """`--no_x` of a switch that is on by default: `--x false` says the same."""
    return any(re.match(r"--no[_-]", option) and option[5:] == action.dest for option in action.option_strings)


class _ShowAll(Action):
    def __call__(self, parser: Any, *args: Any, **kwargs: Any) -> None:
        parser.shows_all = True
        parser.print_help()
        parser.exit()


__all__ = ["TRAINER_GROUPS", "HelpParser"]
