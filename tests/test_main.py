"""The command `vjepa`."""

import pytest

from transformers_vjepa import __main__ as command
from transformers_vjepa.commands import COMMANDS


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


def test_unknown_commands_and_arguments_are_refused(monkeypatch):
    with pytest.raises(SystemExit, match="^error: unknown command train: choose from demo, pretrain"):
        run(monkeypatch, "train")
    with pytest.raises(SystemExit, match="^error: unknown argument --max_stepz: did you mean --max_steps\\?$"):
        run(monkeypatch, "pretrain", "--max_stepz", "3")
    with pytest.raises(SystemExit, match="^error: unknown argument more: --help lists all arguments$"):
        run(monkeypatch, "evaluate", "--model", "a", "--dataset", "b", "--output_dir", "c", "more")
