"""What `--help` shows: common arguments in groups, with their defaults. `--help_all` also shows all others."""

import re
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Iterable
from copy import copy
from dataclasses import fields
from typing import Any

from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..safety.private_names import check_private_names

check_private_names("transformers.hf_argparser")
#: Arguments of `transformers.TrainingArguments` that many runs need, under the titles of `--help`.
TRAINER_GROUPS = {
    "speed and memory": (
        "per_device_train_batch_size gradient_accumulation_steps activation_checkpointing bf16 fp16 tf32 "
        "torch_compile dataloader_num_workers use_cpu"
    ).split(),
    "checkpoints": "resume_from_checkpoint save_strategy save_steps save_total_limit".split(),
    "logs": "logging_steps report_to run_name disable_tqdm".split(),
    "Hub": "push_to_hub hub_model_id hub_strategy hub_private_repo".split(),
}
# Shorter help for arguments that the Trainer describes at length.
_HELP = {
    "per_device_train_batch_size": "Clips per batch and process.",
    "per_device_eval_batch_size": "Clips per batch and process in evaluation.",
    "gradient_accumulation_steps": "Batches per optimizer step.",
    "activation_checkpointing": "Compute activations again in the backward pass: much less memory, a third slower.",
    "bf16": "Compute in bfloat16 where this is safe; weights stay in float32.",
    "fp16": "Compute in float16 with a loss scale, for GPUs without bfloat16.",
    "tf32": "TF32 multiplication on Ampere and newer GPUs.",
    "torch_compile": "Compile the model.",
    "dataloader_num_workers": "Decoding processes per training process; 0: the training process decodes.",
    "use_cpu": "Train on the CPU; the default without a GPU.",
    "resume_from_checkpoint": "A checkpoint, or 'auto': the last whole one in the output folder, if any.",
    "save_strategy": "When to save checkpoints: no, steps, epoch.",
    "save_steps": "Steps between checkpoints; a number below 1 is a share of all steps.",
    "report_to": "Trackers: tensorboard, wandb, trackio, none, all.",
    "run_name": "Name of the run for the tracker.",
    "disable_tqdm": "Show no progress bar.",
    "push_to_hub": "Upload checkpoints and the final model to the Hub.",
    "hub_model_id": "Repository to upload to, user/name. Default: the name of the output folder.",
    "hub_strategy": "What to upload: end, every_save, checkpoint (with the newest checkpoint), all_checkpoints.",
    "hub_private_repo": "Make a new repository private.",
    "seed": "Seed of everything random: order of the videos, frames, crops, new weights, masks of pretraining.",
}
# The first arguments in the group of the training arguments.
_FIRST = "output_dir max_steps num_train_epochs min_steps seed learning_rate warmup_steps weight_decay".split()
# Our classes declare these to change a default; users need not change them.
_SETTLED = re.compile("ddp_.*|logging_nan_inf_filter|remove_unused_columns|ignore_data_skip")
_METAVARS = {int: "N", float: "X", str: "TEXT", dict: "JSON"}


class DefaultsFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """For commands without data classes: the description as it is written, and the default after each help text."""


def _shown(action: Action, *, is_trainers: bool) -> Action:
    """A copy of an argument as the help page shows it: one spelling, a short name for its value, its default."""
    shown = copy(action)
    shown.option_strings = [next(name for name in action.option_strings if name.startswith("--"))]
    if action.type is string_to_bool:
        shown.metavar = "true|false" if action.nargs == "?" else "[true|false]"  # argparse adds brackets for "?"
    elif action.choices:
        shown.metavar = "NAME" if len(action.choices) > 9 else None
    elif action.metavar is None and action.nargs != 0:
        shown.metavar = _METAVARS.get(action.type, "VALUE")
    text = (_HELP.get(action.dest) if is_trainers else None) or action.help or ""
    default = action.default
    if action.required:
        text += " (required)"
    elif action.nargs != 0 and default not in (None, SUPPRESS, []):
        default = " ".join(map(str, default)) if isinstance(default, list) else getattr(default, "value", default)
        text += f" ({default})".replace("%", "%%")
    shown.help = text
    return shown


class HelpParser(HfArgumentParser):
    """
    A parser whose help has a group for each data class. Of a subclass of `TrainingArguments` the help shows only the
    arguments that the class declares itself and those of `TRAINER_GROUPS`. The constructor takes the arguments of
    [`~transformers.HfArgumentParser`].

    Attributes:
        actions: the arguments by name. `--no_x`, the opposite of a switch `--x`, is not among them.
        spellings: all option strings, such as `--max_steps` and `--max-steps`.
        general: the group of the arguments that belong to no data class.
    """

    def __init__(self, dataclass_types: Iterable[type], **settings: Any):
        self.actions: dict[str, Action] = {}
        self.spellings: list[str] = []
        self.shows_all = False
        super().__init__(dataclass_types, allow_abbrev=False, add_help=False, usage="%(prog)s [options]", **settings)
        self.general = self.add_argument_group("general")
        self.general.add_argument("-h", "--help", action="help", help="show this help and exit")
        if any(issubclass(part, TrainingArguments) for part in self.dataclass_types):
            self.general.add_argument(
                "--help_all", action=_ShowAll, nargs=0, help="also show all other arguments of transformers' Trainer"
            )

    def add_argument(self, *names: Any, **settings: Any) -> Action:
        return self._recorded(super().add_argument(*names, **settings))

    def add_argument_group(self, *names: Any, **settings: Any) -> Any:
        group = super().add_argument_group(*names, **settings)
        add = group.add_argument
        group.add_argument = lambda *names, **settings: self._recorded(add(*names, **settings))
        return group

    def _recorded(self, action: Action) -> Action:
        self.actions.setdefault(action.dest, action)  # `--no_x` comes after `--x`
        self.spellings += action.option_strings
        return action

    def sections(self) -> dict[str, list[Action]]:
        """Title -> arguments, in the order of the help."""
        of_classes = {item.name for part in self.dataclass_types for item in fields(part)}
        sections = {"general": [name for name in self.actions if name not in of_classes]}
        grouped = {name for group in TRAINER_GROUPS.values() for name in group}
        for part in self.dataclass_types:
            names = [item.name for item in fields(part) if item.init]
            title = getattr(part, "_argument_group_name", part.__name__)
            if not issubclass(part, TrainingArguments):
                sections[title] = names
                continue
            ours = part.__mro__[: part.__mro__.index(TrainingArguments)]
            declared = {"seed"}.union(*(vars(base).get("__annotations__", ()) for base in ours))
            own = [name for name in names if name in declared - grouped and not _SETTLED.fullmatch(name)]
            sections[title] = sorted(own, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
            # Older versions of transformers lack some of these arguments.
            sections |= {key: [name for name in group if name in names] for key, group in TRAINER_GROUPS.items()}
            if self.shows_all and (rest := [name for name in names if name not in grouped | set(own)]):
                sections["all other arguments of transformers.TrainingArguments"] = rest
        return {title: [self.actions[name] for name in names] for title, names in sections.items()}

    def format_help(self) -> str:
        trainers = [part for part in self.dataclass_types if issubclass(part, TrainingArguments)]
        of_trainer = {item.name for part in trainers for item in fields(part)}
        formatter = RawDescriptionHelpFormatter(self.prog, max_help_position=32)
        formatter.add_usage(self.usage, [], [])
        formatter.add_text(self.description)
        for title, actions in self.sections().items():
            formatter.start_section(title)
            formatter.add_arguments([_shown(action, is_trainers=action.dest in of_trainer) for action in actions])
            formatter.end_section()
        return formatter.format_help()


class _ShowAll(Action):
    def __call__(self, parser: Any, *args: Any, **kwargs: Any) -> None:
        parser.shows_all = True
        parser.print_help()
        parser.exit()
