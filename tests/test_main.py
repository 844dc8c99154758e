"""The command `vjepa`, and recipes by name."""

import pytest
import yaml

from transformers_vjepa import __main__ as command
from transformers_vjepa.command_line.parsing import LAUNCH_CONFIGS, RECIPES, recipe_path
from transformers_vjepa.commands import COMMANDS, recipes


def run(monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["vjepa", *argv])
    command.main()


def test_commands_are_listed_and_each_has_a_main(monkeypatch, capsys):
    run(monkeypatch)
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in out
        with pytest.raises(SystemExit) as exit_info:
            run(monkeypatch, name, "--help")
        assert exit_info.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: vjepa {name}")


def test_what_is_no_command_or_argument(monkeypatch):
    with pytest.raises(SystemExit, match="^error: vjepa train is no command: use one of demo, pretrain"):
        run(monkeypatch, "train")
    with pytest.raises(SystemExit, match="^error: --max_stepz is no argument: did you mean --max_steps\\?$"):
        run(monkeypatch, "pretrain", "--max_stepz", "3")
    with pytest.raises(SystemExit, match="^error: more is no argument: --help lists them$"):
        run(monkeypatch, "evaluate", "--model", "a", "--dataset", "b", "--output_dir", "c", "more")


def test_recipes_by_name_and_by_path(tmp_path, monkeypatch):
    assert recipe_path("tiny_cpu") == RECIPES / "tiny_cpu.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_cpu").write_text("max_steps: 1\n")  # a file comes first
    assert recipe_path("tiny_cpu").read_text() == "max_steps: 1\n"
    for name in ("tiny", "no/tiny_cpu", "tiny_cpu.yaml"):
        with pytest.raises(FileNotFoundError, match=f"^{name} is no recipe: give a YAML file, or one of .*tiny_cpu"):
            recipe_path(name)


def test_recipes_are_listed_and_copied(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "recipes")
    out = capsys.readouterr().out
    files = [*RECIPES.glob("*.yaml"), *LAUNCH_CONFIGS.glob("*.yaml")]
    assert len(files) >= 16 and all(f"\n  {file.stem} " in out for file in files)
    assert all(line.endswith(".") for line in out.splitlines() if line.startswith("  "))  # whole sentences
    run(monkeypatch, "recipes", "vitl16", "multi_node", "--to", str(tmp_path))
    assert yaml.safe_load((tmp_path / "vitl16.yaml").read_text())["max_steps"] == 90000
    assert (tmp_path / "multi_node.yaml").read_text() == (LAUNCH_CONFIGS / "multi_node.yaml").read_text()
    with pytest.raises(FileExistsError, match="vitl16.yaml exists and may have been edited"):
        recipes.copy(["single_gpu", "vitl16"], tmp_path)
    assert not (tmp_path / "single_gpu.yaml").exists()
    with pytest.raises(SystemExit, match="^error: vitl is no recipe: choose from "):
        run(monkeypatch, "recipes", "vitl")
