"""Recipes under the command line, and errors in one line."""

import re
from dataclasses import dataclass, field, make_dataclass
from typing import Literal

import pytest
from transformers.utils import logging

from transformers_vjepa import VJEPAConfig
from transformers_vjepa.command_line.parsing import (
    RECIPES,
    check_processes,
    names_given,
    parse_with_recipe,
    read_recipe,
    recipe_path,
    user_errors,
)


@dataclass
class Data:
    dataset: list[str] = field(default_factory=lambda: ["built-in"], metadata={"help": "Where the clips are."})
    frame_step: int | None = field(default=None, metadata={"help": "Frames between frames."})
    target_fps: float | None = field(default=None, metadata={"help": "Instead."})


@dataclass
class Training:
    steps: int = field(default=10, metadata={"help": "How long."})
    use_cpu: bool = field(default=False, metadata={"help": "Where."})


def parse(argv, **settings):
    return parse_with_recipe(argv, (Data, Training), description="A script.", **settings)


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("dataset: clips\nframe_step: 2\nsteps: 30\n")
    return str(file)


def test_names_in_every_spelling():
    assert names_given(["--max-steps=3", "--dataset", "a=0.5", "-v", "--use_cpu"]) == {
        "max_steps",
        "dataset",
        "use_cpu",
    }


def test_command_line_over_recipe_over_defaults(recipe):
    data, training = parse(["--config", recipe, "--steps", "5"], use_cpu=True)
    assert (data.dataset, data.frame_step, training.steps, training.use_cpu) == (["clips"], 2, 5, True)
    assert parse([])[1].steps == 10


def test_recipes_by_name_and_by_path(tmp_path, monkeypatch):
    assert recipe_path("tiny_cpu") == RECIPES / "tiny_cpu.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_cpu").write_text("max_steps: 1\n")  # a file comes first
    assert recipe_path("tiny_cpu").read_text() == "max_steps: 1\n"
    for name in ("tiny", "no/tiny_cpu", "tiny_cpu.yaml"):
        with pytest.raises(FileNotFoundError, match=f"^unknown recipe {name}: give a YAML file, or one of .*tiny_cpu"):
            recipe_path(name)


def test_an_argument_can_replace_other_values_of_the_recipe(recipe):
    data, _ = parse(
        ["--config", recipe, "--target-fps", "5"],
        overridden=lambda given: {"frame_step"} if "target_fps" in given else set(),
    )
    assert (data.frame_step, data.target_fps) == (None, 5.0)


def test_default_recipe_depends_on_what_is_given(recipe):
    settings = {"default_recipe": lambda given: None if "dataset" in given else recipe}
    assert parse([], **settings)[1].steps == 30
    assert parse(["--dataset", "mine"], **settings)[1].steps == 10


def test_recomputing_activations_has_an_older_name_before_transformers_5_23(tmp_path):
    @dataclass
    class Older:
        gradient_checkpointing: bool = False

    path = tmp_path / "x.yaml"
    path.write_text("activation_checkpointing: true\n")
    assert read_recipe(path, [Older]) == {"gradient_checkpointing": True}
    newer = make_dataclass("Newer", ["gradient_checkpointing", "activation_checkpointing"])
    assert read_recipe(path, [newer]) == {"activation_checkpointing": True}


def test_recipes_with_unknown_names_are_refused(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("stepps: 3\n")
    with pytest.raises(ValueError, match=r"recipe.yaml sets unknown arguments \(stepps\): did you mean steps\?"):
        parse(["--config", str(file)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML: while parsing a flow node"),
        ("- steps", "holds a list: a recipe has lines of the form 'argument: value'"),
    ],
)
def test_files_that_are_not_recipes_are_refused(tmp_path, text, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{text}\n")
    with pytest.raises(ValueError, match=f"recipe.yaml {message}"):
        read_recipe(file, (Data, Training))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: many", "steps to 'many': give a whole number"),
        ("steps: 1e3", "steps to '1e3': give a whole number"),  # YAML wants 1.0e+3
        ("target_fps: fast", "target_fps to 'fast': give a number"),
        ("use_cpu: perhaps", "use_cpu to 'perhaps': give true or false"),
        ("use_cpu: {}", "use_cpu to {}: give true or false"),
        ("scale: []", "scale to an empty list: give a value, or remove the line"),
        ("decoder: mine", "decoder to 'mine': give one of pyav, decord"),
        ("scale: [0.5, big]", "scale to 'big': give a number"),
        ("dataset: [a, -b]", "dataset to a list with '-b': give numbers or names"),
        ("steps: [1, 2]", "steps to a list, but this argument takes one value"),
        ("steps:", "steps to nothing: give a value, or remove the line"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_recipe(tmp_path, text, message):
    @dataclass
    class More:
        decoder: Literal["pyav", "decord"] = "pyav"
        scale: list[float] = field(default_factory=lambda: [0.3, 1.0])

    file = tmp_path / "recipe.yaml"
    file.write_text(f"{text}\n")
    with pytest.raises(ValueError, match=f"recipe.yaml sets {re.escape(message)}"):
        parse_with_recipe(["--config", str(file)], (Data, Training, More), description="A script.")


def test_help_lists_groups_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    assert text.index("A script.") < text.index("How long. (10)")
    assert "--config" in text


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="started 2 processes, but the script sees 1: .* --use_cpu true"):
        check_processes(1)
    check_processes(2)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("size=3 is odd"), "error: size=3 is odd"),
        (OSError("no such file"), "error: no such file"),
        (
            ValueError("Caught ValueError in DataLoader worker process 0.\nTraceback\nValueError: deep"),
            "error: .*deep$",
        ),
    ],
)
def test_mistakes_of_the_user_end_with_one_line(error, line):
    with pytest.raises(SystemExit, match=line) as exit, user_errors():
        raise error
    assert "\n" not in str(exit.value)


def test_named_kinds_replace_the_usual_ones():
    with pytest.raises(SystemExit, match="error: 1"), user_errors(ZeroDivisionError):
        raise ZeroDivisionError("1")
    with pytest.raises(ValueError, match="a mistake of ours"), user_errors(ZeroDivisionError):
        raise ValueError("a mistake of ours")


def test_a_config_that_is_refused_ends_with_its_own_words():
    with pytest.raises(SystemExit, match="^error: `crop_size`=33 is not a multiple") as exit_info, user_errors():
        VJEPAConfig(crop_size=33)
    assert "\n" not in str(exit_info.value)


def test_ctrl_c_ends_with_one_line_and_the_code_of_the_signal(capsys):
    with pytest.raises(SystemExit) as exit_info, user_errors():
        raise KeyboardInterrupt
    assert exit_info.value.code == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_the_traceback_is_shown_on_demand(monkeypatch, capsys):
    for verbosity, is_shown in ((logging.WARNING, False), (logging.DEBUG, True)):
        monkeypatch.setattr(logging, "get_verbosity", lambda verbosity=verbosity: verbosity)
        with pytest.raises(SystemExit, match="^error: no$"), user_errors():
            raise ValueError("no")
        assert ("Traceback" in capsys.readouterr().err) == is_shown
