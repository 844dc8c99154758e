import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from recorder import recorder

from transformers_vjepa.training import checkpoints, hub_pushes, stream_trainer
from transformers_vjepa.training.checkpoints import (
    UNFINISHED,
    UnusableCheckpointError,
    checkpoint_errors,
    is_complete,
    last_checkpoint,
    read_position,
    remove_old_checkpoints,
    resolve_checkpoint,
)


def checkpoint(folder, step, *, state=True, age=0):
    """A folder that looks like a checkpoint, `age` seconds old."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if state:
        file = path / "trainer_state.json"
        file.write_text(json.dumps({"global_step": step}))
        os.utime(file, (1e9 - age, 1e9 - age))
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_one_is_that_with_most_steps(tmp_path):
    assert last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9)
    last = checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path) == last
    assert resolve_checkpoint(tmp_path, "auto") == str(last)


@pytest.mark.parametrize("text", ["", '{"global_', "[]", "{}"])
def test_a_state_that_was_cut_off_makes_no_checkpoint(tmp_path, text):
    good = checkpoint(tmp_path, 1)
    cut = checkpoint(tmp_path, 2)
    (cut / "trainer_state.json").write_text(text)
    assert resolve_checkpoint(tmp_path, "auto") == str(good)
    with pytest.raises(ValueError, match="checkpoint-2 is not a complete checkpoint .*pass 'auto'"):
        resolve_checkpoint(tmp_path, str(cut))


def test_an_unfinished_one_is_never_resumed(tmp_path, monkeypatch):
    good = checkpoint(tmp_path, 1)
    unfinished = checkpoint(tmp_path / UNFINISHED, 2)
    assert not is_complete(unfinished)
    assert resolve_checkpoint(tmp_path, "auto") == str(good)
    for path in (unfinished, f"{unfinished}/"):
        with pytest.raises(ValueError, match="is not a complete checkpoint .*never finished"):
            resolve_checkpoint(tmp_path, str(path))
    monkeypatch.chdir(unfinished)
    with pytest.raises(ValueError, match="is not a complete checkpoint"):
        resolve_checkpoint(tmp_path, ".")


def test_the_oldest_complete_ones_are_removed(tmp_path):
    for step in (10, 20, 30):
        checkpoint(tmp_path, step, age=100 - step)
    checkpoint(tmp_path, 5, state=False)  # of a run that was killed: it counts for nothing, and is left alone
    remove_old_checkpoints(tmp_path, limit=2, keep=[tmp_path / "checkpoint-30"])
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-30", "checkpoint-5"]
    for limit in (None, 0):
        remove_old_checkpoints(tmp_path, limit=limit, keep=[])
    assert len(names(tmp_path)) == 3


def test_what_was_just_saved_stays_whatever_its_step(tmp_path):
    """A run that went back to step 10 finds later checkpoints of what it leaves behind."""
    for step in (20, 30):
        checkpoint(tmp_path, step, age=100)
    best = checkpoint(tmp_path, 5, age=200)
    remove_old_checkpoints(tmp_path, limit=1, keep=[checkpoint(tmp_path, 10), best])
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-5"]


def test_times_that_are_equal_leave_the_later_steps(tmp_path):
    for step in (9, 10, 11):
        checkpoint(tmp_path, step)
    remove_old_checkpoints(tmp_path, limit=2, keep=[])
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-11"]


def test_other_errors_keep_their_name(tmp_path):
    with pytest.raises(RuntimeError, match="mat1 and mat2"), checkpoint_errors(tmp_path / "checkpoint-1"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    with pytest.raises(UnusableCheckpointError, match=r"cannot write .*checkpoint-1 \(.*Not a directory.*start again"):  # noqa: SIM117
        with checkpoint_errors(tmp_path / "checkpoint-1"):
            (tmp_path / "file").write_text("")
            (tmp_path / "file" / "x").write_text("")


# Through a trainer


def test_a_checkpoint_gets_its_name_when_all_of_it_is_on_the_disk(tmp_path, monkeypatch):
    flushed, seen = [], {}
    flush, finish = checkpoints.flush_to_disk, stream_trainer.finish_checkpoint
    monkeypatch.setattr(checkpoints, "flush_to_disk", lambda path: (flushed.append(Path(path)), flush(path)))

    def watched(unfinished, final):
        assert (unfinished / "trainer_state.json").is_file() and not final.exists()
        seen[final.name] = {path.relative_to(unfinished) for path in unfinished.rglob("*")}
        flushed.clear()
        finish(unfinished, final)
        assert {unfinished / path for path in seen[final.name]} | {unfinished, final.parent} == set(flushed)

    monkeypatch.setattr(stream_trainer, "finish_checkpoint", watched)
    recorder(tmp_path).train()
    assert seen.keys() == {"checkpoint-2", "checkpoint-4"}
    for name, files in seen.items():
        assert {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")} == files
    assert UNFINISHED not in names(tmp_path)
    assert read_position(tmp_path / "checkpoint-4") == {"batches": 4, "clips": 8}


@pytest.mark.parametrize("when", ["written", "renamed"])
def test_killed_while_saving(tmp_path, monkeypatch, when):
    """Leaves on the disk what a kill would, and looks at what the next run makes of it."""
    finish = stream_trainer.finish_checkpoint

    def killed(unfinished, final):
        if final.name == "checkpoint-4":
            if when == "renamed":
                finish(unfinished, final)
            else:
                shutil.copytree(tmp_path / UNFINISHED, tmp_path / "left")  # the clean-up does not run either
            raise SystemExit
        finish(unfinished, final)

    monkeypatch.setattr(stream_trainer, "finish_checkpoint", killed)
    with pytest.raises(SystemExit):
        recorder(tmp_path).train()
    monkeypatch.undo()
    if when == "written":
        (tmp_path / "left").rename(tmp_path / UNFINISHED)
    found = resolve_checkpoint(tmp_path, "auto")
    assert found == str(tmp_path / ("checkpoint-2" if when == "written" else "checkpoint-4"))
    again = recorder(tmp_path, max_steps=6)
    again.train(resume_from_checkpoint=found)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert again.seen == [float(n) for n in range(4 if when == "written" else 8, 12)]


def test_a_step_that_is_saved_twice(tmp_path):
    recorder(tmp_path, max_steps=2).train()
    (tmp_path / "checkpoint-2" / "mark").touch()
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "elsewhere" / "checkpoint-1")
    state = tmp_path / "elsewhere" / "checkpoint-1" / "trainer_state.json"
    state.write_text(state.read_text().replace('"global_step": 2', '"global_step": 1'))
    recorder(tmp_path, max_steps=2).train(resume_from_checkpoint=str(state.parent))
    assert names(tmp_path) == ["checkpoint-2", "elsewhere"]
    assert not (tmp_path / "checkpoint-2" / "mark").exists() and is_complete(tmp_path / "checkpoint-2")


def test_save_total_limit_leaves_the_last_ones(tmp_path):
    recorder(tmp_path, max_steps=5, save_steps=1, save_total_limit=2).train()
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5"]


def limited(kilobytes):
    """Files of this process end there, as on a full disk: the error that comes of it is EFBIG for ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1000, resource.RLIM_INFINITY))


@pytest.mark.parametrize("kilobytes", [60, 100])  # the model does not fit; it does, but the optimizer does not
def test_a_full_disk(tmp_path, kilobytes):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer = recorder(tmp_path, network=torch.nn.Linear(1, 10_000), save_total_limit=1)
    save = trainer._save_checkpoint
    sizes = []

    def save_on_a_full_disk(*args):
        if trainer.state.global_step == 4:
            sizes.extend(file.stat().st_size for file in (tmp_path / "checkpoint-2").iterdir())
            limited(kilobytes)
        save(*args)

    trainer._save_checkpoint = save_on_a_full_disk
    try:
        with pytest.raises(UnusableCheckpointError) as caught:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert max(sizes) > kilobytes * 1000
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"cannot write {tmp_path}/checkpoint-4 (")
    assert "MB are free: free some space, then resume from" in message
    assert f"resume from {tmp_path}/checkpoint-2 with --resume_from_checkpoint auto" in message
    assert names(tmp_path) == ["checkpoint-2"]
    again = recorder(tmp_path, network=torch.nn.Linear(1, 10_000))
    again.train(resume_from_checkpoint=resolve_checkpoint(tmp_path, "auto"))
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize("name", ["model.safetensors", "position.json", "stream_0.json"])
def test_a_damaged_file_is_named_with_the_checkpoint_before(tmp_path, name):
    recorder(tmp_path).train()
    for step, remedy in ((4, f"before, --resume_from_checkpoint {tmp_path}/checkpoint-2"), (2, "no earlier check")):
        file = tmp_path / f"checkpoint-{step}" / name
        file.write_bytes(file.read_bytes()[:-3])
        with pytest.raises(UnusableCheckpointError) as caught:
            recorder(tmp_path, max_steps=6).train(resume_from_checkpoint=str(file.parent))
        message = str(caught.value)
        assert message.startswith(f"{file} is damaged (") and remedy in message and "\n" not in message


def test_a_damaged_optimizer_is_named_with_the_checkpoint_before(tmp_path):
    recorder(tmp_path).train()
    file = tmp_path / "checkpoint-4" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-3])
    remedy = (
        f"{file} is truncated.*; resume from the checkpoint before, --resume_from_checkpoint {tmp_path}/checkpoint-2"
    )
    with pytest.raises(ValueError, match=remedy):
        resolve_checkpoint(tmp_path, "auto")


@pytest.mark.parametrize("text", ["[]", '{"batches": "4"}', "\xff"])
def test_a_position_of_another_form_is_damaged(tmp_path, text):
    folder = checkpoint(tmp_path, 1)
    (folder / "position.json").write_text(text, encoding="latin-1")
    with pytest.raises(UnusableCheckpointError, match="position.json is damaged"):
        read_position(folder)


@pytest.mark.parametrize("limit, kept", [(1, [2]), (2, [2, 4])])
def test_the_best_model_is_kept_and_loaded(tmp_path, limit, kept):
    scores = {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.4}
    trainer = recorder(
        tmp_path,
        eval_dataset=[0],
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        metric_for_best_model="score",
        load_best_model_at_end=True,
        save_total_limit=limit,
    )

    def evaluate(*args, **kwargs):
        with torch.no_grad():
            trainer.model.weight.fill_(trainer.state.global_step)
        return {"eval_score": scores[trainer.state.global_step]}

    trainer.evaluate = evaluate
    trainer.train()
    assert trainer.model.weight.item() == 2
    assert names(tmp_path) == [f"checkpoint-{step}" for step in kept]
    for folder in tmp_path.iterdir():
        state = json.loads((folder / "trainer_state.json").read_text())
        assert (state["best_global_step"], state["best_model_checkpoint"]) == (2, str(tmp_path / "checkpoint-2"))


def test_pushes_the_finished_checkpoint(tmp_path, monkeypatch):
    pushed = []

    def model_files(folder, **options):
        pushed.append((folder, is_complete(folder)))
        return {}

    monkeypatch.setattr(hub_pushes, "model_files", model_files)
    monkeypatch.setattr(hub_pushes.HubPushes, "card", lambda self: None)
    trainer = recorder(tmp_path)
    trainer.args.push_to_hub = True  # set late: otherwise the trainer would contact the Hub
    trainer.train()
    assert pushed == [(tmp_path / "checkpoint-2", True), (tmp_path / "checkpoint-4", True)]
