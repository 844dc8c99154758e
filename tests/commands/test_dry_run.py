"""What `--dry_run` prints: counts by hand, and the commands from end to end."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from videos import write_video

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAVideoProcessor
from transformers_vjepa.commands import evaluate, extract_features, pretrain, train_classifier
from transformers_vjepa.commands.dry_run import (
    bytes_text,
    count_text,
    memory_note,
    memory_text,
    parameters_text,
    table,
)

TINY = {
    "crop_size": 32,
    "patch_size": 8,
    "frames_per_clip": 4,
    "tubelet_size": 2,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pred_hidden_size": 16,
    "pred_num_hidden_layers": 1,
    "pred_num_attention_heads": 2,
}


def test_numbers_as_people_read_them():
    assert [count_text(number) for number in (7, 1_000, 22_140_000, 1.0e9)] == ["7", "1.0 k", "22.1 M", "1.0 G"]
    assert [bytes_text(number) for number in (2_500_000, 35.71e9)] == ["2.5 MB", "35.7 GB"]
    assert table([("a", "one"), ("long", ["two", "three"])]) == "a:    one\nlong: two\n      three"
    parts = {"encoder": nn.Linear(9, 100), "pooler": nn.Identity(), "head": nn.Linear(99, 1)}
    assert parameters_text(parts) == "1.1 k parameters (encoder 1.0 k, head 100)"


def test_memory_in_one_line():
    memory = {"weights": 4_000_000, "activations": 2_100_000_000}
    assert memory_text(memory) == "about 2.1 GB for each process (weights 4.0 MB, activations 2.1 GB)"


def test_more_memory_than_there_is_gets_a_note():
    cpu = torch.device("cpu")
    assert memory_note(10**6, cpu) == []
    [note] = memory_note(10**18, cpu)
    assert re.match(r"more than the [\d,.]+ GB of this machine: lower --per_device_train_batch_size and raise ", note)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Labelled videos, a pretrained model and a classifier."""
    root = tmp_path_factory.mktemp("dry")
    for name in ("cut", "pour"):
        for number in range(4):
            write_video(root / "videos" / name / f"{number}.mp4", level=20 * number)
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(root / "model")
    VJEPAForVideoClassification(VJEPAConfig(**TINY, num_labels=2)).save_pretrained(root / "classifier")
    for name in ("model", "classifier"):
        VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(root / name)
    return root


def rows(text):
    return dict(line.split(":", 1) for line in text.splitlines() if not line.startswith(" "))


def test_pretraining(world, tmp_path, capsys):
    argv = f"--dataset {world / 'videos'} --output_dir {tmp_path / 'out'} --max_steps 10 --frame_step 1 --dry_run"
    argv = argv.split() + [f"--{name}={value}" for name, value in TINY.items()]
    assert pretrain.run([*argv, "--per_device_train_batch_size=4", "--use_cpu=true"]) is None
    found = rows(capsys.readouterr().out)
    assert "10 of 4 clips" in found["steps"] and "40 clips, 5.0 of each video" in found["steps"]
    assert "4 frames of 32 px: 32 tokens (2 x 4 x 4)" in found["clip"]
    assert found["data"].strip() == f"{world / 'videos'}: 8 videos or images of 2 classes"
    assert found["first clips"].strip().endswith(".mp4")
    assert not (tmp_path / "out").exists()


def test_pretraining_on_images(tmp_path, capsys):
    for number in range(8):
        (tmp_path / "images" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32)).save(tmp_path / "images" / "ab"[number % 2] / f"{number}.png")
    sizes = TINY | {"frames_per_clip": 1, "tubelet_size": 1, "crop_size": 64}
    argv = f"--config ijepa_vith14 --dataset {tmp_path / 'images'} --output_dir {tmp_path / 'out'} --dry_run".split()
    argv += [f"--{name}={value}" for name, value in sizes.items()]
    pretrain.run(
        [
            *argv,
            "--per_device_train_batch_size=4",
            "--use_cpu=true",
            "--bf16=false",
            "--max_steps=10",
            "--warmup_steps=2",
        ]
    )
    out = capsys.readouterr().out
    found = rows(out)
    assert "10 of 4 images" in found["steps"] and "40 images, 5.0 of each image" in found["steps"]
    assert found["image"].strip() == "64 px: 64 tokens (8 x 8)"
    assert found["data"].strip() == f"{tmp_path / 'images'}: 8 images or videos (one frame of each) of 2 classes"
    assert found["masks"].strip().startswith("image_multiblock: ")
    assert found["first images"].strip().endswith(".png") and "clip" not in out and "0.001 from step 2," in out


@pytest.mark.parametrize("mode", ["probe", "finetune"])
def test_classifiers(world, tmp_path, capsys, mode):
    argv = f"--model {world / 'model'} --dataset {world / 'videos'} --output_dir {tmp_path / 'out'} --mode {mode}"
    assert train_classifier.run([*argv.split(), "--dry_run", "--validation_fraction", "0.25"]) is None
    out = capsys.readouterr().out
    found = rows(out)
    assert found["classes"].strip() == "2: cut, pour"
    assert "train: 6 videos" in found["data"] and "validation: 2 videos" in out
    assert ("memory" in found) == (mode == "finetune")
    # 8 videos of 32 tokens of 24 numbers of 2 bytes: 12 kB
    assert mode == "finetune" or "0.0 MB on disk" in found["features"]
    assert not (tmp_path / "out").exists()


def test_passes_over_a_data_set(world, tmp_path, capsys):
    common = f"--dataset {world / 'videos'} --output_dir {tmp_path / 'out'} --dry_run --num_views 3 --num_segments 2"
    assert evaluate.run(f"--model {world / 'classifier'} {common} --label_matching number".split()) is None
    assert "2 segments x 3 views of each video, 6 clips" in capsys.readouterr().out
    assert extract_features.run(f"--model {world / 'model'} {common} --kind tokens".split()) is None
    assert "192 vectors of 24 for each video (tokens)" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "rest"),
    [
        (pretrain, "--preset vitt16 --use_cpu true"),
        (train_classifier, "--model vitt16 --random_encoder true"),
        (evaluate, "--model {root}/classifier --label_matching number"),
        (extract_features, "--model {root}/model"),
    ],
)
def test_an_output_folder_that_cannot_be_written(world, tmp_path, monkeypatch, command, rest):
    """Root may write everywhere: the system is asked, and says no."""
    argv = f"--dataset {world}/videos --dry_run {rest.format(root=world)} --output_dir".split()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=f"^error: --output_dir {tmp_path}/file/out: {tmp_path}/file is not a folder"):
        command.run([*argv, f"{tmp_path}/file/out"])
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(
        SystemExit, match=f"^error: --output_dir {tmp_path}/a/b: no permission to write to {tmp_path}; choose"
    ):
        command.run([*argv, f"{tmp_path}/a/b"])
