"""The command `vjepa evaluate`, run as its users run it."""

import json
import shutil
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from children import in_two_processes, run_command
from PIL import Image
from reference import TINY
from videos import write_tar, write_video

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAVideoProcessor
from transformers_vjepa.commands import evaluate as script
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.fingerprints import clips_digest
from transformers_vjepa.evaluation.statistics import accuracy_interval

NAMES = ["kick", "hug", "push"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Nine videos of three classes, and a broken one."""
    root = tmp_path_factory.mktemp("data") / "videos"
    for number in range(9):
        write_video(root / NAMES[number % 3] / f"{number}.mp4", level=25 * number + 20, num_frames=16, size=(40, 72))
    (root / "push" / "broken.mp4").write_bytes(b"noise")
    return root


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = VJEPAConfig(**TINY, num_labels=3, id2label=dict(enumerate(NAMES)))
    model = VJEPAForVideoClassification(config)
    model.classifier.weight.data.mul_(100)
    model.save_pretrained(root)
    VJEPAVideoProcessor(crop_size=32, frame_step=2).save_pretrained(root)
    return root


def command(classifier, videos, output_dir, **settings):
    settings = {"model": classifier, "dataset": videos, "output_dir": output_dir, "use_cpu": True} | settings
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def predictions(folder):
    return {row["path"]: row for row in pq.read_table(folder / "predictions.parquet").to_pylist()}


def test_evaluation_of_videos(classifier, videos, tmp_path, capsys):
    out = tmp_path / "out"
    results = script.run(command(classifier, videos, out, protocol="ssv2_16x2x3", num_frames=4, num_workers=1))
    rows = predictions(out)
    assert len(rows) == results["num_videos"] == results["num_labelled"] == 9
    right = sum(row["label_name"] == row["predicted_name"] for row in rows.values())
    assert all(Path(path).parent.name == row["label_name"] == NAMES[row["label"]] for path, row in rows.items())
    assert results["accuracy"] == pytest.approx(right / 9)
    assert results["accuracy_interval"] == accuracy_interval(right, 9)
    saved = json.loads((out / "results.json").read_text())
    assert saved["protocol"] == {
        "name": "ssv2_16x2x3",
        "num_segments": 2,
        "num_views": 3,
        "num_frames": 4,
        "frame_step": 4,
        "spacing": "linspace",
        "target_fps": None,
    }
    assert saved["manifest_sha256"] == clips_digest(open_corpus(videos))
    assert saved["model"] == str(classifier) and len(saved["model_weights_sha256"]) == 64
    assert [Path(entry["path"]).name for entry in saved["broken"]] == ["broken.mp4"]
    assert saved["versions"]["torch"] == torch.__version__.partition("+")[0]
    for name in ("confusion.png", "classes.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 200
    printed = capsys.readouterr().out
    assert "labels:        matched by name" in printed
    assert "9 videos, 1 broken" in printed and f"{results['accuracy']:.2%}" in printed


def test_without_a_protocol_clips_are_sampled_as_the_processor_does(classifier, videos, tmp_path):
    results = script.run(command(classifier, videos, tmp_path))
    assert results["sampling"]["frame_step"] == 2 and results["sampling"]["num_frames"] == 4
    assert results["protocol"]["name"] is None


def test_a_stopped_evaluation_continues(classifier, videos, tmp_path):
    whole = script.run(command(classifier, videos, tmp_path / "whole"))
    script.run(command(classifier, videos, tmp_path / "part"))
    shards = sorted((tmp_path / "part" / "shards").glob("*.safetensors"))
    times = {shard: shard.stat().st_mtime_ns for shard in shards}
    for shard in shards[::2]:
        shard.unlink()
    again = script.run(command(classifier, videos, tmp_path / "part"))
    assert all(shard.stat().st_mtime_ns == times[shard] for shard in shards[1::2])
    assert {**again, "classes": None} == {**whole, "classes": None}
    ours, theirs = predictions(tmp_path / "part"), predictions(tmp_path / "whole")
    assert all(row["probabilities"] == pytest.approx(theirs[path]["probabilities"]) for path, row in ours.items())


def test_changed_files_are_evaluated_again(classifier, videos, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    arguments = command(classifier, tmp_path / "videos", tmp_path / "out")
    assert script.run(arguments)["num_broken"] == 1
    broken = tmp_path / "videos" / "push" / "broken.mp4"
    shutil.copy(videos / "kick" / "0.mp4", broken)
    shutil.copy(videos / "kick" / "0.mp4", tmp_path / "videos" / "hug" / "1.mp4")
    results = script.run(arguments)
    assert (results["num_videos"], results["num_broken"]) == (10, 0)
    rows = predictions(tmp_path / "out")
    kick, *same = (tmp_path / "videos" / "kick" / "0.mp4", broken, tmp_path / "videos" / "hug" / "1.mp4")
    assert all(rows[str(path)]["probabilities"] == rows[str(kick)]["probabilities"] for path in same)
    (tmp_path / "videos" / "kick" / "3.mp4").unlink()
    text = mistake(arguments)
    assert "manifest changed (clips, their order or labels" in text and "num_items was 10 and is 9" in text


@pytest.mark.slow
def test_two_processes_finish_what_one_began(classifier, videos, tmp_path):
    script.run(command(classifier, videos, tmp_path / "one"))
    script.run(command(classifier, videos, tmp_path / "two"))
    for shard in sorted((tmp_path / "two" / "shards").glob("*.safetensors"))[3:]:
        shard.unlink()
    arguments = command(classifier, videos, tmp_path / "two")
    output = in_two_processes(run_command, "evaluate", arguments, folder=tmp_path / "printed")
    assert output.count("9 videos, 1 broken") == 1
    ours, theirs = predictions(tmp_path / "two"), predictions(tmp_path / "one")
    assert ours.keys() == theirs.keys()
    for path, row in ours.items():
        assert row["probabilities"] == pytest.approx(theirs[path]["probabilities"], abs=1e-5)


def test_images(classifier, tmp_path):
    for number, name in enumerate(NAMES * 2):
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), (40 * number, 50, 60)).save(tmp_path / "in" / name / f"{number}.png")
    results = script.run(command(classifier, tmp_path / "in", tmp_path / "out", protocol="in1k"))
    assert results["num_videos"] == 6 and results["protocol"]["num_segments"] == 1


def test_without_labels_there_are_predictions_only(classifier, videos, tmp_path, capsys):
    results = script.run(command(classifier, videos / "kick" / "*.mp4", tmp_path))
    assert results["accuracy"] is None and results["num_videos"] == 3
    assert "no video has a label: predictions only" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))


def test_type_of_the_computation(classifier, videos, tmp_path):
    script.run(command(classifier, videos, tmp_path / "exact"))
    results = script.run(command(classifier, videos, tmp_path / "short", dtype="bfloat16"))
    assert results["dtype"] == "bfloat16"
    ours, theirs = predictions(tmp_path / "short"), predictions(tmp_path / "exact")
    pairs = (zip(row["probabilities"], theirs[path]["probabilities"], strict=True) for path, row in ours.items())
    differences = [abs(short - exact) for pair in pairs for short, exact in pair]
    assert 0 < max(differences) < 0.1


def mistake(arguments):
    with pytest.raises(SystemExit) as info:
        script.run(arguments)
    return str(info.value.code)


def test_mistakes_end_with_one_line(classifier, videos, tmp_path):
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(tmp_path / "pretrained")
    (tmp_path / "empty").mkdir()
    for number in (1, 2):
        write_video(tmp_path / "other" / "jump" / f"{number}.mp4", level=9)
    for settings, message in (
        ({"protocol": "k400_16x8x3"}, "error: the protocol takes 16 frames, the model 4: set num_frames=4"),
        ({"num_views": 0}, "error: `num_views`=0 must be at least 1"),
        ({"clips_per_batch": 0}, "error: --clips_per_batch 0 must be at least 1"),
        ({"max_broken_share": 1.5}, "error: max_broken_share=1.5 must lie in"),
        ({"model": tmp_path / "pretrained"}, "this is not a trained classifier"),
        ({"dataset": tmp_path / "empty"}, "holds no videos"),
        ({"dataset": tmp_path / "none"}, "is neither a file, a folder nor a Hub data set id"),
        ({"dataset": tmp_path / "other"}, "error: the model does not have 1 of 1 classes: 'jump'"),
    ):
        text = mistake(command(classifier, videos, tmp_path / "out", **settings))
        assert text.startswith("error: ") and message in text and "\n" not in text, text
    assert not (tmp_path / "out").exists()


def test_a_model_that_gives_no_numbers_ends_with_one_line(classifier, videos, tmp_path):
    model = VJEPAForVideoClassification.from_pretrained(classifier)
    model.classifier.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    text = mistake(command(tmp_path / "nan", videos, tmp_path / "out"))
    assert text.startswith("error: the probabilities of the model are not finite") and "\n" not in text
    assert not (tmp_path / "out" / "results.json").exists()


def test_changed_settings_are_refused(classifier, videos, tmp_path):
    script.run(command(classifier, videos, tmp_path))
    text = mistake(command(classifier, videos, tmp_path, num_segments=2))
    assert "was made with other settings: num_segments was 1 and is 2" in text


def test_missing_scikit_learn_is_reported_before_anything_is_computed(classifier, videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    text = mistake(command(classifier, videos, tmp_path / "out"))
    assert text == "error: metrics need scikit-learn: pip install transformers_vjepa[probe]"
    assert not (tmp_path / "out").exists()


def test_classes_that_match_by_number(classifier, videos, tmp_path):
    for number in range(3):
        write_video(tmp_path / "in" / f"n{number}" / "x.mp4", level=9 * number)
    assert "match labels by number" in mistake(command(classifier, tmp_path / "in", tmp_path / "out"))
    results = script.run(command(classifier, tmp_path / "in", tmp_path / "out", label_matching="number"))
    assert [entry["name"] for entry in results["classes"]] == NAMES
    assert results["label_matching"] == "number"


def test_results_say_how_classes_were_matched_in_the_end(classifier, videos, tmp_path):
    assert script.run(command(classifier, videos, tmp_path / "a"))["label_matching"] == "name"
    (tmp_path / "index.csv").write_text("".join(f"{path} 0\n" for path in videos.rglob("*.mp4")))
    assert script.run(command(classifier, tmp_path / "index.csv", tmp_path / "b"))["label_matching"] == "number"


def test_names_in_a_stream_are_matched_with_those_of_the_model(classifier, videos, tmp_path):
    files = sorted(videos.rglob("[0-9].mp4"))
    rows = {"video": [file.read_bytes() for file in files], "label": [file.parent.name for file in files]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    fsspec.filesystem("memory").pipe("memory://names/x.parquet", (tmp_path / "x.parquet").read_bytes())
    results = script.run(command(classifier, "memory://names/x.parquet", tmp_path / "out"))
    rows = predictions(tmp_path / "out").values()
    assert [row["label_name"] for row in rows] == [file.parent.name for file in files]
    assert results["num_labelled"] == 9 and results["label_matching"] == "name or number"


def test_a_stream_that_breaks_off_ends_the_command_with_one_line(classifier, videos, tmp_path):
    files = sorted(videos.rglob("[0-9].mp4"))
    members = {f"{number}.mp4": file.read_bytes() for number, file in enumerate(files)}
    tar = write_tar(tmp_path / "whole.tar", members).read_bytes()
    fsspec.filesystem("memory").pipe("memory://cut/x.tar", tar[: len(tar) // 2 + 700])  # within a member
    with pytest.raises(SystemExit, match=r"^error: memory://cut/x.tar breaks off \(.*run the same command again"):
        script.run(command(classifier, "memory://cut/x.tar", tmp_path / "out"))
    assert not (tmp_path / "out" / "results.json").exists()


def test_names_in_a_stream_that_the_model_does_not_have_are_broken_videos(classifier, videos, tmp_path):
    files = sorted(videos.rglob("[0-9].mp4"))
    members = {}
    for file in files:
        label = "sneeze" if file.stem == "4" else file.parent.name
        members |= {file.name: file.read_bytes(), f"{file.stem}.cls": label.encode()}
    fsspec.filesystem("memory").pipe("memory://unknown/x.tar", write_tar(tmp_path / "x.tar", members).read_bytes())
    results = script.run(command(classifier, "memory://unknown/x.tar", tmp_path / "out"))
    assert results["num_videos"] == results["num_labelled"] == 8
    ((path, error),) = [entry.values() for entry in results["broken"]]
    assert path == "memory://unknown/x.tar::4.mp4"
    assert "its label 'sneeze' has no class: the model does not have 1 of 1 classes: 'sneeze'" in error


def test_protocols_of_images_are_not_for_videos_and_the_reverse(classifier, videos, tmp_path):
    text = mistake(command(classifier, videos, tmp_path / "out", protocol="in1k"))
    assert text.startswith("error: the protocol in1k is for images, the data set holds videos, such as ")
    assert text.endswith(": choose k400_16x8x3 or ssv2_16x2x3, or no protocol")
    Image.new("RGB", (48, 48)).save(tmp_path / "x.png")
    text = mistake(command(classifier, tmp_path / "x.png", tmp_path / "out", protocol="k400_16x8x3", num_frames=4))
    assert text.startswith("error: the protocol k400_16x8x3 is for videos, the data set holds images, such as ")
    assert text.endswith("x.png: choose in1k, or no protocol")
    assert not (tmp_path / "out").exists()


def test_videos_without_enough_frames_are_named(classifier, videos, tmp_path):
    for number in range(2):
        write_video(tmp_path / "in" / "kick" / f"{number}.mp4", level=9, num_frames=2)
    text = mistake(command(classifier, tmp_path / "in", tmp_path / "out", max_broken_share=0.9))
    assert "no video could be classified; 2 are broken, such as" in text
    assert "2 frames are fewer than the 4 of a clip" in text
