"""`vjepa demo` without a training; tests/test_docs.py runs the whole command."""

import pytest

from transformers_vjepa.commands import demo


def run(monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["vjepa demo", *argv])
    demo.main()


def test_another_data_set_is_refused(monkeypatch):
    with pytest.raises(SystemExit, match="^error: the demo needs the labels of its own corpus: use vjepa pretrain"):
        run(monkeypatch, "--dataset", "videos")


def test_help_names_the_defaults(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(monkeypatch, "--help")
    assert "tiny_cpu, except --output_dir outputs/demo" in capsys.readouterr().out


def test_a_dry_run_trains_nothing(monkeypatch, capsys, tmp_path):
    described = []
    monkeypatch.setattr(demo, "describe_pretraining", lambda argv: described.append(argv) or "what it would do")
    monkeypatch.setattr(demo, "run_pretraining", lambda argv: pytest.fail("trained"))
    run(monkeypatch, "--dry_run", "--output_dir", str(tmp_path / "demo"))
    assert capsys.readouterr().out == "what it would do\n" and not (tmp_path / "demo").exists()
    assert described[0][:2] == ["--config", "tiny_cpu"] and "--dry_run" in described[0]
