"""Nearest neighbours: the vote by hand, and `vjepa train_classifier --mode knn`."""

import json
import math
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from reference import TINY
from videos import write_video

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAVideoProcessor
from transformers_vjepa.commands import train_classifier
from transformers_vjepa.evaluation.arguments import DataArguments, ModelArguments
from transformers_vjepa.evaluation.neighbours import neighbour_probabilities
from transformers_vjepa.evaluation.setup import build
from transformers_vjepa.evaluation.trainer import VJEPAClassificationArguments


def test_each_neighbour_votes_with_the_exponential_of_its_cosine():
    # Two features along x (class 2), one along y (class 0), one against x (class 0); the lengths do not matter.
    known = np.array([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]], dtype=np.float32)
    labels = np.array([2, 2, 0, 0])
    shares = neighbour_probabilities(
        known, labels, np.array([[3.0, 0.0]], dtype=np.float32), num_classes=4, num_neighbors=3, temperature=0.5
    )
    expected = 2 * math.exp(1 / 0.5) / (2 * math.exp(1 / 0.5) + math.exp(0))
    assert shares[0].tolist() == pytest.approx([1 - expected, 0, expected, 0], abs=1e-6)
    # More neighbours than clips: all of them vote. A low temperature leaves the nearest only.
    every = neighbour_probabilities(known, labels, known[2:3], num_classes=4, num_neighbors=9, temperature=1e-4)
    assert every[0].tolist() == pytest.approx([1, 0, 0, 0])


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    with pytest.raises(ImportError, match=r"nearest neighbours need scikit-learn: pip install .*\[probe\]"):
        neighbour_probabilities(np.eye(2), np.arange(2), np.eye(2), num_classes=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(folder)
    VJEPAVideoProcessor(crop_size=32, frame_step=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Four images of each of two brightnesses."""
    root = tmp_path_factory.mktemp("images")
    for name, level in (("bright", 220), ("dark", 20)):
        (root / name).mkdir()
        for number in range(4):
            Image.new("RGB", (40, 36), (level + number,) * 3).save(root / name / f"{number}.png")
    return root


def knn(model, dataset, folder, *more):
    argv = ["--mode", "knn", "--model", str(model), "--dataset", str(dataset), "--output_dir", str(folder)]
    return train_classifier.run([*argv, "--num_neighbors", "2", "--disable_tqdm", "true", *map(str, more)])


def test_the_command_classifies_images_and_keeps_the_features(model, images, tmp_path, capsys):
    folder = tmp_path / "run"
    assert knn(model, images, folder, "--test_dataset", images, "--num_pooled_layers", 2) is None
    out = capsys.readouterr().out
    assert "vote:       2 nearest neighbours, temperature 0.07" in out
    assert "test:       100.0% right (95 %: 67.6% to 100.0%; 8 images; chance 50.0%)" in out
    results = json.loads((folder / "results.json").read_text())
    assert results["chosen"] == {"num_neighbors": 2, "knn_temperature": 0.07}
    assert results["test"]["accuracy"] == 1 and results["settings"]["mode"] == "knn"
    predictions = pq.read_table(folder / "test" / "predictions.parquet").to_pydict()
    assert predictions["predicted_name"] == ["bright"] * 4 + ["dark"] * 4
    settings = json.loads((folder / "features" / "test" / "settings.json").read_text())
    assert settings["settings"]["kind"] == "mean" and settings["settings"]["num_layers"] == 2
    # Once more: the features are there.
    stamp = (folder / "features" / "test" / "settings.json").stat().st_mtime_ns
    knn(model, images, folder, "--test_dataset", images, "--num_pooled_layers", 2, "--knn_temperature", "1")
    assert (folder / "features" / "test" / "settings.json").stat().st_mtime_ns == stamp
    assert json.loads((folder / "results.json").read_text())["chosen"]["knn_temperature"] == 1


def test_the_command_classifies_videos(model, tmp_path, capsys):
    for name, level in (("bright", 220), ("dark", 20)):
        for number in range(3):
            write_video(tmp_path / "videos" / name / f"{number}.mp4", level=level + number)
    knn(model, tmp_path / "videos", tmp_path / "run", "--dry_run")
    out = capsys.readouterr().out
    assert "2 nearest neighbours" in out and "features" in out and not (tmp_path / "run").exists()
    knn(model, tmp_path / "videos", tmp_path / "run")
    assert "2 clips; chance 50.0%)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, message",
    [
        (["--validation_fraction", "0"], "error: no validation and no test clips, so there is nothing to classify"),
        (["--learning_rates", "1"], "error: --learning_rates has no effect with --mode knn: leave it out"),
        (["--pooling", "mean"], "error: --pooling has no effect with --mode knn"),
        (["--num_neighbors", "0"], "error: --num_neighbors 0 must be at least 1"),
        (["--knn_temperature", "0"], "error: --knn_temperature 0.0 must be positive and finite"),
    ],
)
def test_mistakes_end_with_one_line(model, images, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        knn(model, images, tmp_path / "run", *more)


def test_there_is_no_trainer_of_neighbours(tmp_path):
    with pytest.raises(ValueError, match="mode='knn' trains nothing: use evaluation.neighbours.evaluate_neighbours"):
        build(ModelArguments(mode="knn"), DataArguments(), VJEPAClassificationArguments(str(tmp_path)))
