"""`vjepa recipes`: what it lists, and what it copies."""

import pytest
import yaml

from transformers_vjepa.command_line.parsing import LAUNCH_CONFIGS, RECIPES
from transformers_vjepa.commands import recipes


def run(monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["vjepa recipes", *argv])
    recipes.main()


def test_recipes_are_listed_and_copied(tmp_path, monkeypatch, capsys):
    run(monkeypatch)
    out = capsys.readouterr().out
    files = [*RECIPES.glob("*.yaml"), *LAUNCH_CONFIGS.glob("*.yaml")]
    assert len(files) >= 16 and all(f"\n  {file.stem} " in out for file in files)
    assert all(line.endswith(".") for line in out.splitlines() if line.startswith("  "))  # whole sentences
    run(monkeypatch, "vitl16", "multi_node", "--to", str(tmp_path))
    assert yaml.safe_load((tmp_path / "vitl16.yaml").read_text())["max_steps"] == 90000
    assert (tmp_path / "multi_node.yaml").read_text() == (LAUNCH_CONFIGS / "multi_node.yaml").read_text()
    with pytest.raises(FileExistsError, match="vitl16.yaml exists and may have been edited"):
        recipes.copy(["single_gpu", "vitl16"], tmp_path)
    assert not (tmp_path / "single_gpu.yaml").exists()
    with pytest.raises(SystemExit, match="^error: unknown recipe vitl: choose from "):
        run(monkeypatch, "vitl")
