"""The nearest clips, and the index that finds them."""

import json
import shutil

import numpy as np
import pytest
import torch

from transformers_vjepa.app.index import (
    ClipIndex,
    LabelledCorpus,
    Neighbour,
    build_index,
    open_index,
    open_labelled,
    spread,
    votes,
)
from transformers_vjepa.app.panels import example_choice
from transformers_vjepa.commands import app as command
from transformers_vjepa.commands import extract_features
from transformers_vjepa.data.file_corpus import FileCorpus
from transformers_vjepa.evaluation.features import FeatureError


def test_places_are_spread_evenly():
    assert spread(16, 4) == [0, 5, 10, 15] and spread(16, 99) == list(range(16)) and spread(3, 1) == [0]


def test_the_nearest_clip_of_a_clip_is_itself(models):
    index = models.index
    assert len(index) == 16
    for place in (0, 7, 15):
        choice = example_choice(models, place)
        clip = choice.read(models.analyzer)
        found = index.nearest(index.query(models.analyzer.tokens(clip)), number=5)
        assert found[0].place == place and found[0].is_same and found[0].score == pytest.approx(1, abs=1e-4)
        assert [neighbour.is_same for neighbour in found[1:]] == [False] * 4
        assert sorted((neighbour.score for neighbour in found), reverse=True) == [item.score for item in found]


def test_scores_by_hand():
    data = LabelledCorpus(FileCorpus("abc", labels=[0, 1, 1]), "letters", {})
    index = ClipIndex(data, np.arange(3), torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 1.0]]))
    values = index.features.numpy()
    standardised = (values - values.mean(0)) / values.std(0, ddof=1)
    query = (np.array([3.0, 3.0]) - values.mean(0)) / values.std(0, ddof=1)
    cosines = standardised @ query / np.linalg.norm(standardised, axis=1) / np.linalg.norm(query)
    found = index.nearest(torch.tensor([[3.0, 3.0]]), number=9)
    assert [item.place for item in found] == np.argsort(-cosines).tolist()
    assert [item.score for item in found] == pytest.approx(np.sort(cosines)[::-1].tolist(), abs=1e-5)


def test_the_clip_itself_has_no_vote():
    data = LabelledCorpus(FileCorpus("abcd", labels=[0] * 4), "letters", {"kind": ["x", "y", "y", ""]})
    index = ClipIndex(data, np.arange(4), torch.zeros(4, 2))
    near = [Neighbour(0, 1.0, True), Neighbour(1, 0.9, False), Neighbour(3, 0.8, False), Neighbour(2, 0.7, False)]
    assert votes(index, near, number=3) == {"kind": [("y", 2)]}
    assert votes(index, near, number=1) == {"kind": [("y", 1)]}


def test_features_are_written_once(folder, models, monkeypatch):
    monkeypatch.setattr(
        models.analyzer.model.vjepa, "get_vision_features", lambda pixels: pytest.fail("encoded again")
    )
    data = open_labelled(str(folder / "synthetic"), max_clips=2000)
    place = folder / "demo" / "app_cache"
    again = build_index(models.analyzer, data, folder=place)
    assert torch.equal(again.features, models.index.features) and len(list(place.iterdir())) == 1


def test_a_replaced_clip_gets_new_features(folder, models, tmp_path):
    shutil.copytree(folder / "synthetic" / "test", tmp_path / "videos")
    data = open_labelled(str(tmp_path / "videos"), max_clips=2000)
    before = build_index(models.analyzer, data, folder=tmp_path / "cache").features
    shutil.copy(tmp_path / "videos" / "000001.mp4", tmp_path / "videos" / "000000.mp4")
    after = build_index(models.analyzer, data, folder=tmp_path / "cache").features
    torch.testing.assert_close(after[0], before[1], atol=1e-5, rtol=1e-4)
    assert torch.equal(after[1:], before[1:])


def test_features_of_a_clip_that_was_replaced_are_refused(folder, models, tmp_path):
    shutil.copytree(folder / "synthetic" / "test", tmp_path / "videos")
    arguments = ["--model", str(folder / "demo"), "--use_cpu", "true"]
    extract_features.run([str(tmp_path / "videos"), *arguments, "--output_dir", str(tmp_path / "out")])
    shutil.copy(tmp_path / "videos" / "000001.mp4", tmp_path / "videos" / "000000.mp4")
    expected = f"replaced after their features were written to {tmp_path / 'out'}: 1, such as .*000000.mp4: run vjepa"
    with pytest.raises(FeatureError, match=expected):
        open_index(str(tmp_path / "out"), models.analyzer, max_clips=8)


def test_a_folder_of_features_gives_the_same_index(folder, models):
    argv = [str(folder / "synthetic" / "test"), "--model", str(folder / "demo"), "--use_cpu", "true"]
    for kind in ("time_means", "tokens", "mean"):
        place = folder / kind
        extract_features.run([*argv, "--kind", kind, "--dtype", "float32", "--output_dir", str(place)])
        model = ["--model", str(folder / "demo"), "--use_cpu", "true"]
        index = command.load([*model, "--dataset", str(place), "--max_clips", "8"])[1].index
        assert len(index) == 8 and index.name(0) == "000000.mp4" and index.labels(0) == {}
        expected = models.index.features[[0, 2, 4, 6, 9, 11, 13, 15]]
        if kind == "mean":
            expected = expected.unflatten(1, (4, -1)).mean(dim=1)
        torch.testing.assert_close(index.features, expected, atol=1e-5, rtol=1e-4)
    settings = json.loads((place / "settings.json").read_text())
    settings["settings"]["num_segments"] = 2
    (place / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(SystemExit, match="error: the features in .* differ .* in num_segments: give --dataset"):
        command.load([*model, "--dataset", str(place)])
