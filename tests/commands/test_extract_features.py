"""The command `vjepa extract_features`, run as its users run it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from children import child, in_two_processes, run_command, wait_until
from datasets import load_dataset
from PIL import Image
from reference import TINY, largest_difference
from stock_models import stock_folder_of
from videos import write_video

from transformers_vjepa import (
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAImageProcessor,
    VJEPAVideoProcessor,
)
from transformers_vjepa.commands import extract_features as script
from transformers_vjepa.evaluation.features import FeatureStore

NUM_VIDEOS = 9


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "videos"
    for number in range(NUM_VIDEOS):
        write_video(root / "abc"[number % 3] / f"{number}.mp4", level=25 * number + 20, num_frames=16)
    (root / "b" / "broken.mp4").write_bytes(b"noise")
    return root


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(root)
    VJEPAVideoProcessor(crop_size=32, frame_step=2).save_pretrained(root)
    return root


def command(dataset, model, output_dir, **settings):
    settings = {"model": model, "output_dir": output_dir, "use_cpu": True} | settings
    return [str(dataset)] + [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def features(folder):
    store = FeatureStore(folder)
    return {store.paths[index]: store[index]["features"] for index in range(len(store))}


def test_pooled_features(videos, pretrained, tmp_path, capsys):
    summary = script.run(command(videos, pretrained, tmp_path, num_segments=2, num_workers=1))
    store = FeatureStore(tmp_path)
    assert len(store) == NUM_VIDEOS and store.kind == "mean" and store[0]["features"].shape == (1, 48)
    assert store[0]["features"].dtype == torch.float32
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["num_videos"], summary["num_broken"]) == (NUM_VIDEOS, 1)
    assert Path(summary["broken"][0]["path"]).name == "broken.mp4"
    assert summary["sampling"]["frame_step"] == 2  # the processor's
    assert f"{NUM_VIDEOS} videos in" in capsys.readouterr().out


def test_tokens_of_a_classifier(videos, pretrained, tmp_path):
    classifier = VJEPAForVideoClassification.from_pretrained(pretrained)
    classifier.save_pretrained(tmp_path / "classifier")
    settings = {"kind": "tokens", "frame_step": 1, "dtype": "bfloat16"}
    script.run(command(videos, tmp_path / "classifier", tmp_path / "ours", **settings))
    script.run(command(videos, pretrained, tmp_path / "theirs", **settings))
    ours, theirs = features(tmp_path / "ours"), features(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        assert value.shape == (1, 32, 48) and value.dtype == torch.bfloat16
        assert torch.equal(value, theirs[path])


def test_parquet_loads_with_datasets(videos, pretrained, tmp_path):
    script.run(command(videos, pretrained, tmp_path / "p", kind="time_means", format="parquet", num_views=3))
    script.run(command(videos, pretrained, tmp_path / "s", kind="time_means", num_views=3))
    files = {"train": str(tmp_path / "p" / "*.parquet")}
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == ["path", "label", "view", "features"] and len(rows) == 3 * NUM_VIDEOS
    stored = features(tmp_path / "s")
    for row in rows:
        assert torch.tensor(row["features"]).equal(stored[row["path"]][row["view"]])


def test_images(pretrained, tmp_path):
    for number in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (50, 40), (50 * number, 10, 10)).save(tmp_path / "in" / f"{number}.png")
    assert script.run(command(tmp_path / "in", pretrained, tmp_path / "out"))["num_videos"] == 4
    assert FeatureStore(tmp_path / "out").labels.tolist() == [-1] * 4


def test_images_with_a_stock_model(tmp_path):
    stock = stock_folder_of(tmp_path / "stock")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 36), "orange").save(tmp_path / "images" / "0.png")
    script.run(command(tmp_path / "images", tmp_path / "stock", tmp_path / "features"))
    pixels = VJEPAImageProcessor(crop_size=32)(Image.new("RGB", (40, 36), "orange"), return_tensors="pt")
    with torch.no_grad():
        expected = stock(**pixels).last_hidden_state.mean(dim=1)
    (found,) = features(tmp_path / "features").values()
    assert largest_difference(found, expected) < 1e-5


def test_finished_shards_are_kept(videos, pretrained, tmp_path):
    script.run(command(videos, pretrained, tmp_path, shard_size=2))
    expected = features(tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    times = {shard: shard.stat().st_mtime_ns for shard in shards}
    shards[1].unlink()
    script.run(command(videos, pretrained, tmp_path, shard_size=2))
    assert [shard for shard in shards if shard.stat().st_mtime_ns != times[shard]] == [shards[1]]
    assert all(torch.allclose(value, expected[path], atol=1e-6) for path, value in features(tmp_path).items())


@pytest.mark.parametrize("file_format", ["safetensors", "parquet"])
def test_the_same_command_notices_changed_files(videos, pretrained, tmp_path, file_format):
    shutil.copytree(videos, tmp_path / "videos")
    settings = {"shard_size": 2, "format": file_format}
    arguments = command(tmp_path / "videos", pretrained, tmp_path / "out", **settings)
    script.run(arguments)
    shutil.copy(videos / "c" / "8.mp4", tmp_path / "videos" / "a" / "0.mp4")
    shutil.copy(videos / "c" / "8.mp4", tmp_path / "videos" / "b" / "broken.mp4")
    assert script.run(arguments)["num_broken"] == 0
    # The bytes of a first pass over these files.
    script.run(command(tmp_path / "videos", pretrained, tmp_path / "first", **settings))
    shards = sorted((tmp_path / "out").glob(f"*.{file_format}"))
    assert len(shards) == 5
    assert all(shard.read_bytes() == (tmp_path / "first" / shard.name).read_bytes() for shard in shards)


def test_a_file_that_comes_back_is_read(videos, pretrained, tmp_path):
    """A disk that is not mounted, or not yet copied."""
    index = tmp_path / "index.csv"
    shutil.copytree(videos / "a", tmp_path / "a")
    index.write_text("a/0.mp4 0\naway/1.mp4 1\n")
    assert script.run(command(index, pretrained, tmp_path / "out"))["num_broken"] == 1
    shutil.copytree(videos / "b", tmp_path / "away")
    assert script.run(command(index, pretrained, tmp_path / "out"))["num_broken"] == 0
    assert [Path(path).name for path in FeatureStore(tmp_path / "out").paths] == ["0.mp4", "1.mp4"]


def test_names_of_any_bytes(videos, pretrained, tmp_path):
    names = ["a\nb.mp4", "\x1b[31m.mp4", "caf\udce9.mp4", "x" * 251 + ".mp4"]
    (tmp_path / "in").mkdir()
    for name in names:
        shutil.copy(videos / "a" / "0.mp4", tmp_path / "in" / name)
    (tmp_path / "in" / "noise\n\udce9.mp4").write_bytes(b"noise")
    script.run(command(tmp_path / "in", pretrained, tmp_path / "out"))
    assert {Path(path).name for path in FeatureStore(tmp_path / "out").paths} == {*names}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [Path(entry["path"]).name for entry in summary["broken"]] == ["noise\n\udce9.mp4"]
    assert script.run(command(tmp_path / "in", pretrained, tmp_path / "table", format="parquet"))["num_videos"] == 4
    table = load_dataset(
        "parquet", data_files=str(tmp_path / "table" / "*.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert {Path(path).name for path in table["train"]["path"]} == {*names[:2], "caf\\xe9.mp4", names[3]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_dtype": "bfloat16"}, "weights changed; weights_dtype was 'float32' and is 'bfloat16'"),
        ({"num_segments": 2}, "num_segments was 1 and is 2"),
        ({"shard_size": 3}, "shard_size was 1 and is 3"),
        ({"format": "parquet"}, "suffix was '.safetensors' and is '.parquet'"),
        ({"short_videos": "refuse"}, "sampling.short_video was 'repeat_last' and is 'refuse'"),
    ],
)
def test_other_settings_are_refused(videos, pretrained, tmp_path, changes, message):
    script.run(command(videos / "a", pretrained, tmp_path))
    with pytest.raises(SystemExit) as info:
        script.run(command(videos / "a", pretrained, tmp_path, **changes))
    assert f"was made with other settings: {message}" in str(info.value)


def test_a_model_that_was_replaced_in_its_folder_is_noticed(videos, pretrained, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(pretrained, folder)
    script.run(command(videos / "a", folder, tmp_path / "out"))
    config = json.loads((folder / "config.json").read_text())
    for changes, message in (
        ({"num_attention_heads": 6}, "config.num_attention_heads was 3 and is 6"),
        ({"hidden_act": "relu"}, "config.hidden_act was 'gelu' and is 'relu'"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(SystemExit, match=message):
            script.run(command(videos / "a", folder, tmp_path / "out"))
    (folder / "config.json").write_text(json.dumps(config))
    VJEPAVideoProcessor(crop_size=32, frame_step=2, image_mean=[0, 0, 0]).save_pretrained(folder)
    with pytest.raises(SystemExit, match=r"image_mean was \[0.485.*\] and is \[0, 0, 0\]"):
        script.run(command(videos / "a", folder, tmp_path / "out"))
    VJEPAVideoProcessor(crop_size=32, frame_step=2).save_pretrained(folder)
    torch.manual_seed(1)
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(folder)
    with pytest.raises(SystemExit, match="settings: weights changed"):
        script.run(command(videos / "a", folder, tmp_path / "out"))


@pytest.mark.slow
def test_killed_run_is_finished_by_two_processes(videos, pretrained, tmp_path):
    script.run(command(videos, pretrained, tmp_path / "whole", kind="tokens", dtype="float32", shard_size=1))
    arguments = command(videos, pretrained, tmp_path / "killed", kind="tokens", dtype="float32", shard_size=1)
    with child(run_command, "extract_features", arguments, output=tmp_path / "printed.txt") as process:
        wait_until(lambda: list((tmp_path / "killed").glob("*.safetensors")), process)
        process.kill()
    output = in_two_processes(run_command, "extract_features", arguments, folder=tmp_path / "printed")
    assert output.count(f"{NUM_VIDEOS} videos in {NUM_VIDEOS + 1} files, 1 broken") == 1
    ours, theirs = features(tmp_path / "killed"), features(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(value, theirs[path], atol=1e-5) for path, value in ours.items())


def test_mistakes_end_with_one_line(videos, pretrained, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copytree(pretrained, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"damaged")
    script.run(command(videos, pretrained, tmp_path / "done"))
    for changes, message in (
        (
            {"output_dir": tmp_path / "done", "kind": "tokens"},
            "was made with other settings: dtype was 'float32' and is",
        ),
        (
            {"kind": "tokens", "format": "parquet"},
            "error: Parquet holds pooled features in float32, not kind='tokens'",
        ),
        ({"num_segments": 0}, "error: `num_segments`=0 must be at least 1"),
        ({"shard_size": 0}, "error: `shard_size`=0 must be at least 1"),
        ({"frame_step": 2, "target_fps": 5}, "error: frame_step and target_fps are both given"),
        ({"num_workers": -1}, "error: --num_workers -1 must be at least 0"),
        ({"dataset": tmp_path / "empty"}, "holds no videos"),
        ({"model": tmp_path / "damaged"}, f"error: the weights of {tmp_path / 'damaged'} are damaged"),
    ):
        settings = {"output_dir": tmp_path / "out"} | changes
        dataset, model = settings.pop("dataset", videos), settings.pop("model", pretrained)
        with pytest.raises(SystemExit) as info:
            script.run(command(dataset, model, **settings))
        text = str(info.value.code)
        assert text.startswith("error: ") and message in text and "\n" not in text, text
    assert not (tmp_path / "out").exists()


def test_too_many_broken_videos_end_with_one_line(pretrained, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(21):
        (tmp_path / "in" / f"{number}.mp4").write_bytes(b"noise")
    with pytest.raises(SystemExit, match="error: 20 of the last 20 videos are broken"):
        script.run(command(tmp_path / "in", pretrained, tmp_path / "out"))


def test_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit) as info:
        script.run(["--help"])
    assert info.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Decoding processes" in text and "(mean)" in text
