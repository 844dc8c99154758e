"""Untrusted checkpoints, models, shards and clips run no code and cannot claim more memory than they hold."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from checkpoint_folders import write_checkpoint
from published import published_checkpoint_of
from reference import TINY
from small_runs import SMALL, pretrain
from videos import write_video

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAModel
from transformers_vjepa.conversion.recognition import recognise_config
from transformers_vjepa.evaluation.features import FeatureStore
from transformers_vjepa.evaluation.shards import ShardContents, ShardError, ShardFolder, write_safetensors
from transformers_vjepa.pretraining import setup
from transformers_vjepa.safety.safe_loading import CheckpointError, read_checkpoint
from transformers_vjepa.study.plan import StudyClips
from transformers_vjepa.training.checkpoints import UnusableCheckpointError, resolve_checkpoint


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path) -> Iterator[Path]:
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


def test_the_evil_object_is_evil(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


def _save(value: object, file: Path) -> None:
    torch.save(value, file, pickle_protocol=2)


REFUSED = r"holds more than tensors and plain data \((posix|nt)\.mkdir\): it is not loaded, since that could run"


def test_published_files_with_code_are_refused(tmp_path, marker):
    file = tmp_path / "vitl16.pth.tar"
    _save(published_checkpoint_of(VJEPAConfig(**TINY)) | {"opt": Evil(marker)}, file)
    with pytest.raises(CheckpointError, match=REFUSED) as error:
        read_checkpoint(file)
    assert "\n" not in str(error.value)
    file.write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(CheckpointError, match="torch.save .* did not write it"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_1.pth", "pytorch_model.bin"]
)
def test_checkpoints_with_code_are_refused(tmp_path, marker, name):
    checkpoint = write_checkpoint(tmp_path / "run", 3, manifest=False)
    _save({"state": 1}, checkpoint / name)
    assert resolve_checkpoint(tmp_path / "run", "auto") == str(checkpoint)
    _save({"state": Evil(marker)}, checkpoint / name)
    for wanted in ("auto", str(checkpoint)):
        with pytest.raises(CheckpointError, match=rf"{re.escape(name)} {REFUSED}") as error:
            resolve_checkpoint(tmp_path / "run", wanted)
        assert "\n" not in str(error.value)


def test_random_states_of_numpy_are_plain_data(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "run", 3, manifest=False)
    _save({"numpy": np.random.get_state(), "cpu": torch.get_rng_state()}, checkpoint / "rng_state.pth")
    assert resolve_checkpoint(tmp_path / "run", "auto") == str(checkpoint)


@pytest.mark.parametrize("is_evil", [False, True])
def test_sharded_checkpoints_are_refused_unread(tmp_path, marker, is_evil):
    checkpoint = write_checkpoint(tmp_path / "run", 3, manifest=False)
    dcp.save({"weight": torch.ones(3), "step": 3, "betas": (0.9, 0.99)}, checkpoint_id=checkpoint / "optimizer_0")
    description = checkpoint / "optimizer_0" / ".metadata"
    if is_evil:
        description.write_bytes(pickle.dumps(Evil(marker)))
    for wanted in ("auto", str(checkpoint)):
        with pytest.raises(CheckpointError, match="belongs to a sharded checkpoint .*: it is not loaded") as error:
            resolve_checkpoint(tmp_path / "run", wanted)
        assert str(description) in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_description_of_a_sharded_checkpoint_is_refused(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "run", 3, manifest=False)
    (checkpoint / "pytorch_model_fsdp_0").mkdir()
    (checkpoint / "pytorch_model_fsdp_0" / ".metadata").write_bytes(b"half a pick")
    with pytest.raises(CheckpointError, match="FULL_STATE_DICT"):
        resolve_checkpoint(tmp_path / "run", "auto")


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """A folder with `videos` and a `run` on them."""
    folder = tmp_path_factory.mktemp("finished")
    write_video(folder / "videos" / "a.mp4", level=9)
    pretrain.run([*SMALL, "--dataset", str(folder / "videos"), "--output_dir", str(folder / "run")])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_the_trainer_by_itself_runs_no_code(finished_run, tmp_path, marker, name):
    """Who resumes in Python goes past `resolve_checkpoint`."""
    checkpoint = shutil.copytree(finished_run / "run" / "checkpoint-1", tmp_path / "checkpoint-1")
    (checkpoint / "manifest.json").unlink()
    _save({"state": Evil(marker)}, checkpoint / name)
    command = [*SMALL, "--dataset", str(finished_run / "videos"), "--output_dir", str(tmp_path / "run")]
    trainer, _ = setup.build_from_argv(command)
    with pytest.raises(UnusableCheckpointError, match=rf"{re.escape(name)} (is damaged|{REFUSED})"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_models_with_code_are_refused(tmp_path, marker):
    folder = tmp_path / "model"
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    _save({"weight": Evil(marker)}, folder / "pytorch_model.bin")
    for model_class in (VJEPAModel, VJEPAForPreTraining):
        with pytest.raises(pickle.UnpicklingError):
            model_class.from_pretrained(folder)
    with pytest.raises(SystemExit, match=rf"^error: a file of weights {REFUSED}") as exit_info:
        write_video(tmp_path / "videos" / "a.mp4", level=9)
        sources = ["--init_from", str(folder), "--dataset", str(tmp_path / "videos")]
        pretrain.run([*sources, "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"])
    assert "\n" not in str(exit_info.value)


def test_clips_of_a_study_with_code_are_refused(tmp_path, marker):
    file = tmp_path / "clips.pt"
    clips = StudyClips(clips={"train": torch.zeros(2)}, labels={}, classes={})
    clips.save(file)
    assert torch.equal(StudyClips.load(file).clips["train"], torch.zeros(2))
    _save({"clips": Evil(marker), "labels": {}, "classes": {}}, file)
    with pytest.raises(CheckpointError, match=rf"clips.pt {REFUSED}"):
        StudyClips.load(file)


def test_shards_of_features_with_code_are_refused(tmp_path, marker):
    settings = {"kind": "mean", "dtype": "float32", "class_names": []}
    shards = ShardFolder(
        tmp_path / "f", stem="features", suffix=".safetensors", num_items=1, shard_size=1, settings=settings
    )
    tensors = {"features": torch.ones(1, 1, 4), "labels": torch.zeros(1).long(), "index": torch.zeros(1).long()}
    write_safetensors(shards.path(0), ShardContents(tensors, ["a.mp4"], []))
    assert len(FeatureStore(tmp_path / "f")) == 1
    _save({"features": Evil(marker)}, shards.path(0))
    with pytest.raises(ShardError, match="is damaged"):
        FeatureStore(tmp_path / "f")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stem": "../features"}, "stem is '../features'"),
        ({"num_items": 10**15, "shard_size": 1}, "999999999999999 of 1000000000000000 shards are missing"),
        ({"settings": {"kind": "mean", "dtype": "load"}}, "dtype is 'load' in its settings"),
    ],
)
def test_settings_of_shards_are_not_believed(tmp_path, changes, message):
    settings = {"kind": "mean", "dtype": "float32"}
    record = {"stem": "features", "suffix": ".safetensors", "num_items": 1, "shard_size": 1, "settings": settings}
    (tmp_path / "settings.json").write_text(json.dumps(record | {"notes": {}} | changes))
    write_safetensors(tmp_path / "features-00000.safetensors", ShardContents({}, [], []))
    with pytest.raises(ShardError, match=message):
        FeatureStore(tmp_path)


def test_weights_that_claim_more_than_they_hold_are_refused():
    config = VJEPAConfig(**TINY)
    checkpoint = published_checkpoint_of(config)
    weights = checkpoint["target_encoder"]
    table = torch.zeros(1).as_strided((1, 10**9, config.hidden_size), (0, 0, 0))
    checkpoint["target_encoder"] = weights | {"module.backbone.pos_embed": table}
    with pytest.raises(CheckpointError, match="pos_embed of shape .* has fewer values in the checkpoint"):
        recognise_config(checkpoint, num_attention_heads=3)
    checkpoint["target_encoder"] = weights | {"module.backbone.blocks.999999999.norm1.weight": torch.zeros(48)}
    with pytest.raises(CheckpointError, match="blocks.999999999.norm1.weight"):
        recognise_config(checkpoint, num_attention_heads=3)
