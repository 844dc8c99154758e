"""What the tests of the app share: a model with a corpus beside it, and one start of the app."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from studies import write_models
from videos import write_video

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAVideoProcessor
from transformers_vjepa.app.panels import AppModels, example_choice
from transformers_vjepa.commands import app as command
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus
from transformers_vjepa.study.kinds import VIDEOS

TINY = {
    "crop_size": 32,
    "patch_size": 8,
    "frames_per_clip": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 24,
}
TINY_IMAGES = TINY | {"frames_per_clip": 1, "tubelet_size": 1, "crop_size": 64}


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A model, and the built-in corpus beside it, as the demo leaves them."""
    root = tmp_path_factory.mktemp("app")
    write_models(root, VIDEOS)
    shutil.move(root / "runs" / "vjepa-seed0", root / "demo")
    build_corpus(root / "synthetic", config=CorpusConfig(num_train=1, num_test=16), num_processes=1)
    write_video(root / "mine.mp4", level=90, num_frames=20)
    write_video(root / "short.mp4", level=90, num_frames=3)
    (root / "broken.mp4").write_bytes(b"no video" * 100)
    return root


@pytest.fixture(scope="session")
def models(folder) -> AppModels:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'transformers_vjepa[app]'")
    return command.load(["--model", str(folder / "demo"), "--use_cpu", "true"])[1]


@pytest.fixture
def clip(models) -> torch.Tensor:
    """The first clip of the index."""
    return example_choice(models, 0).read(models.analyzer)


@pytest.fixture(scope="session")
def image_models(tmp_path_factory) -> AppModels:
    """A model of images with a folder of eight images of two classes."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'transformers_vjepa[app]'")
    root = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    VJEPAForPreTraining(VJEPAConfig(**TINY_IMAGES)).save_pretrained(root / "model")
    VJEPAVideoProcessor(crop_size=64, num_frames=1, frame_step=1).save_pretrained(root / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 70, 80, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        file = root / "photos" / ("cats" if number < 4 else "dogs") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    with socket.socket() as free:  # the default port may serve another page of these tests
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    argv = ["--model", str(root / "model"), "--dataset", str(root / "photos"), "--use_cpu", "true", "--port", port]
    return command.load(argv)[1]
