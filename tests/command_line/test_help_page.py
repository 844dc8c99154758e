"""What --help shows, and what only --help_all shows."""

import re
from dataclasses import fields

import pytest
from transformers import TrainingArguments

from transformers_vjepa.command_line.help_page import TRAINER_GROUPS, HelpParser
from transformers_vjepa.evaluation import arguments as train_classifier
from transformers_vjepa.pretraining import arguments as pretrain


def help_of(command, capsys, option="--help"):
    with pytest.raises(SystemExit) as exit_info:
        command.parse_arguments([option])
    assert exit_info.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [pretrain, train_classifier], ids=["pretrain", "train_classifier"])
def test_groups_and_defaults(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = help_of(command, capsys)
    titles = re.findall(r"^(\S[^:\n]*):$", text, flags=re.MULTILINE)
    assert titles[:4] == ["general", "model", "data", "training"]
    assert titles[4:] == list(TRAINER_GROUPS)
    assert max(map(len, text.splitlines())) <= 119
    assert text.startswith("usage: ") and "[options]" in text.splitlines()[0]
    assert re.search(r"--max_grad_norm X +Clip [^()]*\(1?\d\.0\)", text)
    assert "(None)" not in text and "==SUPPRESS==" not in text
    # One spelling of each option, and no opposites: `--x false` says the same as `--no_x`.
    assert "--dataloader_num_workers N" in text and "--dataloader-num-workers" not in text and "--no_" not in text


def test_opposites_of_switches_still_work():
    parser = HelpParser([TrainingArguments])
    assert "--no_dataloader_pin_memory" in parser.spellings and "--no_bf16" not in parser.spellings
    arguments, *_ = parser.parse_args_into_dataclasses(["--output_dir", "x", "--no_dataloader_pin_memory"])
    assert arguments.dataloader_pin_memory is False
    assert parser.actions["dataloader_pin_memory"].option_strings[0] == "--dataloader_pin_memory"


def test_rare_arguments_are_shown_on_demand(capsys):
    short, long = help_of(pretrain, capsys), help_of(pretrain, capsys, "--help_all")
    for name in ("--neftune_noise_alpha", "--ddp_timeout", "--logging_nan_inf_filter"):
        assert name not in short and name in long, name
    assert "--ema_momentum" in short and "--push_to_hub" in short
    shown = set(re.findall(r"^ +--(\w+)", long, flags=re.MULTILINE))
    assert {item.name for item in fields(TrainingArguments) if item.init} <= shown


def test_a_recipe_gives_the_defaults_that_are_shown(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "119")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("max_steps: 77\n")
    with pytest.raises(SystemExit):
        pretrain.parse_arguments([f"--config={recipe}", "--help"])
    assert re.search(r"--max_steps N .*\(77\)", capsys.readouterr().out)
