"""`vjepa app`, until the page is built."""

import sys
from pathlib import Path

import pytest
import torch
from reference import TINY

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAVideoProcessor
from transformers_vjepa.app.page import MissingAppError, build_app
from transformers_vjepa.commands import app as command
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'transformers_vjepa[app]'")


@pytest.fixture
def demo(tmp_path) -> Path:
    """A pretrained model without a corpus beside it."""
    folder = tmp_path / "demo"
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(folder)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=6).save_pretrained(folder)
    return folder


def test_missing_folders_are_named_in_one_line(demo, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*nowhere has no model .*: run vjepa demo first, or give --model"):
        command.load(["--model", str(tmp_path / "nowhere")])
    model = ["--model", str(demo), "--use_cpu", "true"]
    with pytest.raises(SystemExit, match=r"error: there is no file or folder .*none: give a folder of videos"):
        command.load([*model, "--dataset", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"error: .*none has no model .*: train a classifier with vjepa"):
        command.load([*model, "--classifier", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"error: --port 70000 must lie in \[1, 65535\]"):
        command.load([*model, "--port", "70000"])


def test_missing_gradio_is_named_with_the_extra(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit, match=r"error: the app needs gradio, .*: pip install 'transformers_vjepa\[app\]'"):
        command.load(["--model", str(demo)])
    with pytest.raises(MissingAppError):
        build_app(None)


def test_without_a_corpus_a_small_one_is_rendered(demo, tmp_path, monkeypatch):
    rendered = []

    def render(root, config):
        rendered.append((root, config))
        return build_corpus(tmp_path / "rendered", config=CorpusConfig(num_train=1, num_test=8), num_processes=1)

    monkeypatch.setattr("transformers_vjepa.app.index.build_corpus", render)
    index = command.index_clips(
        command.AppArguments(model=str(demo)), command.load_analyzer(str(demo), torch.device("cpu"))
    )
    assert len(index) == 8 and index.labels(0).keys() == {"motion", "appearance"}
    [(root, config)] = rendered
    assert root == demo / "app_cache" / "corpus" and config.num_test == 80
    assert config.num_frames == 3 * 6 + 5  # as long as a clip needs
