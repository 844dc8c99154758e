import hashlib
import json
import resource
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch
from checkpoint_folders import write_checkpoint, write_state
from recorder import recorder

from transformers_vjepa.safety.output_lock import LOCK_NAME
from transformers_vjepa.safety.safe_loading import CheckpointError
from transformers_vjepa.training import checkpoints, hub_pushes, manifests, stream_trainer
from transformers_vjepa.training.checkpoints import (
    UNFINISHED,
    UnusableCheckpointError,
    checkpoint_errors,
    is_complete,
    last_checkpoint,
    read_position,
    remove_old_checkpoints,
    remove_unfinished,
    resolve_checkpoint,
)


def names(folder):
    """What is in a folder, without the lock, whose file stays."""
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK_NAME)


def test_the_last_one_is_that_with_most_steps(tmp_path):
    assert last_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, 9)
    last = write_checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path) == last
    assert resolve_checkpoint(tmp_path, "auto") == str(last)


@pytest.mark.parametrize("text", ["", '{"global_', "[]", "{}"])
def test_a_state_that_was_cut_off_makes_no_checkpoint(tmp_path, text):
    good = write_checkpoint(tmp_path, 1)
    cut = write_checkpoint(tmp_path, 2)
    (cut / "trainer_state.json").write_text(text)
    assert resolve_checkpoint(tmp_path, "auto") == str(good)
    with pytest.raises(ValueError, match="checkpoint-2 is not a complete checkpoint .*pass 'auto'"):
        resolve_checkpoint(tmp_path, str(cut))


def test_an_unfinished_one_is_never_resumed(tmp_path, monkeypatch):
    good = write_checkpoint(tmp_path, 1)
    unfinished = write_checkpoint(tmp_path / UNFINISHED, 2)
    assert not is_complete(unfinished)
    assert resolve_checkpoint(tmp_path, "auto") == str(good)
    for path in (unfinished, f"{unfinished}/"):
        with pytest.raises(ValueError, match="is not a complete checkpoint .*never finished"):
            resolve_checkpoint(tmp_path, str(path))
    monkeypatch.chdir(unfinished)
    with pytest.raises(ValueError, match="is not a complete checkpoint"):
        resolve_checkpoint(tmp_path, ".")


def test_the_oldest_complete_ones_are_removed(tmp_path):
    for step in (30, 20, 10):  # times do not matter: the clock may have been set back
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-5").mkdir()  # of a run that was killed: it counts for nothing, and is left alone
    shutil.copytree(tmp_path / "checkpoint-10", tmp_path / "checkpoint-10-mine")  # a copy of the user
    remove_old_checkpoints(tmp_path, limit=2, step=30, keep=[tmp_path / "checkpoint-30"])
    assert names(tmp_path) == ["checkpoint-10-mine", "checkpoint-20", "checkpoint-30", "checkpoint-5"]
    for limit in (None, 0):
        remove_old_checkpoints(tmp_path, limit=limit, step=30, keep=[])
    assert len(names(tmp_path)) == 4


def test_what_was_just_saved_stays_whatever_its_step(tmp_path):
    """A run that went back to step 10 finds later checkpoints of what it leaves behind."""
    for step in (20, 30):
        write_checkpoint(tmp_path, step)
    best = write_checkpoint(tmp_path, 5)
    remove_old_checkpoints(tmp_path, limit=1, step=10, keep=[write_checkpoint(tmp_path, 10), best])
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-5"]


def test_a_checkpoint_that_was_passed_over_is_removed_before_whole_ones(tmp_path):
    for step in (20, 30, 22):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-30" / "optimizer.pt").unlink()
    remove_old_checkpoints(tmp_path, limit=2, step=22, keep=[tmp_path / "checkpoint-22"])
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-22"]


def test_killed_while_a_checkpoint_is_replaced(tmp_path):
    """The earlier one of the same step has lost its name, and the new one has none yet."""
    write_checkpoint(tmp_path, 2).rename(tmp_path / "kept")
    write_checkpoint(tmp_path / UNFINISHED, 2)
    (tmp_path / "kept").rename(tmp_path / UNFINISHED / "replaced-checkpoint-2")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["checkpoint-2"]
    assert resolve_checkpoint(tmp_path, "auto") == str(tmp_path / "checkpoint-2")


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
    state.with_name("manifest.json").unlink()
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


@pytest.mark.parametrize("text", ["[]", '{"batches": "4"}', "\xff"])
def test_a_position_of_another_form_is_damaged(tmp_path, text):
    folder = write_checkpoint(tmp_path, 1)
    (folder / "position.json").write_text(text, encoding="latin-1")
    with pytest.raises(UnusableCheckpointError, match="position.json is damaged"):
        read_position(folder)


@pytest.mark.parametrize("limit, kept, only_model", [(1, [2], False), (2, [2, 4], False), (2, [2, 4], True)])
def test_the_best_model_is_kept_and_loaded(tmp_path, limit, kept, only_model):
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
        save_only_model=only_model,
    )

    def evaluate(*args, **kwargs):
        with torch.no_grad():
            trainer.model.weight.fill_(trainer.state.global_step)
        return {"eval_score": scores[trainer.state.global_step]}

    trainer.evaluate = evaluate
    trainer.train()
    assert trainer.model.weight.item() == 2
    assert names(tmp_path) == [f"checkpoint-{step}" for step in kept]
    for folder in tmp_path.glob("checkpoint-*"):
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


# Is a checkpoint whole?


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of numbers with the checkpoints 2, 4 and 6. Copy it to damage it."""
    folder = tmp_path_factory.mktemp("trained")
    recorder(folder, max_steps=6).train()
    return folder


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "position.json", "stream_0.json")


def flip_a_bit(file, folder):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def write_zeros(file, folder):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


DAMAGES = {
    "absent": lambda file, folder: file.unlink(),
    "empty": lambda file, folder: file.write_bytes(b""),
    "cut": lambda file, folder: file.write_bytes(file.read_bytes()[:-3]),
    "garbage": lambda file, folder: file.write_bytes(b"\xff" * file.stat().st_size),
    "a folder": lambda file, folder: (file.unlink(), file.mkdir()),
    "a flipped bit": flip_a_bit,
    "zeros": write_zeros,
    "of another step": lambda file, folder: shutil.copy(folder / "checkpoint-4" / file.name, file),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("name", [*FILES, "trainer_state.json", "manifest.json"])
def test_a_damaged_file_is_never_resumed_from(trained, tmp_path, caplog, name, damage):
    """`auto` takes the checkpoint before and says why; a checkpoint that was named is refused with the remedy."""
    run = shutil.copytree(trained, tmp_path / "run")
    file = run / "checkpoint-6" / name
    before = file.read_bytes()
    DAMAGES[damage](file, run)
    if file.is_file() and file.read_bytes() == before:  # both steps have the same random state
        assert resolve_checkpoint(run, "auto") == str(run / "checkpoint-6")
        return
    if (name, damage) == ("manifest.json", "absent"):  # as an earlier version wrote it
        assert resolve_checkpoint(run, "auto") == str(run / "checkpoint-6")
        assert "checkpoint-6 has no manifest.json" in caplog.text
        return
    assert resolve_checkpoint(run, "auto") == str(run / "checkpoint-4")
    assert f"resuming from {run / 'checkpoint-4'}, because later checkpoints are not whole: {run}" in caplog.text
    is_named = (name, damage) != ("manifest.json", "a flipped bit")  # then it names another hash of another file
    assert name in caplog.text or not is_named
    for resumes in (resolve_checkpoint, lambda _, wanted: recorder(run).train(resume_from_checkpoint=wanted)):
        with pytest.raises((CheckpointError, UnusableCheckpointError)) as caught:
            resumes(run, str(run / "checkpoint-6"))
        message = str(caught.value)
        assert "\n" not in message and len(message) < 600
        assert name in message or "mixes steps" in message or not is_named
        assert "resume from the checkpoint before" in message or "pass 'auto'" in message


def test_a_file_that_the_disk_does_not_give_back(trained, tmp_path, monkeypatch, caplog):
    run = shutil.copytree(trained, tmp_path / "run")
    hashed = manifests.file_hash

    def read(file, progress):
        if file.parent.name == "checkpoint-6":
            raise OSError(5, "Input/output error", str(file))
        return hashed(file, progress=progress)

    monkeypatch.setattr(manifests, "file_hash", read)
    assert resolve_checkpoint(run, "auto") == str(run / "checkpoint-4")
    assert "checkpoint-6 cannot be read ([Errno 5] Input/output error" in caplog.text
    with pytest.raises(CheckpointError, match="checkpoint-6 cannot be read .*: resume from the checkpoint before"):
        resolve_checkpoint(run, str(run / "checkpoint-6"))


@pytest.mark.parametrize("name", ["stream_1.json", "rng_state_1.pth", "optimizer.bin", "config.json"])
def test_files_that_do_not_belong(trained, tmp_path, name):
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.copy(run / "checkpoint-4" / "stream_0.json", run / "checkpoint-6" / name)
    with pytest.raises(CheckpointError, match=f"{name} does not belong to this checkpoint"):
        resolve_checkpoint(run, str(run / "checkpoint-6"))
    assert resolve_checkpoint(run, "auto") == str(run / "checkpoint-4")


def test_notes_may_be_added(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "checkpoint-6" / "notes.md").write_text("good")
    (run / "checkpoint-6" / "evaluation").mkdir()
    (run / "checkpoint-6" / "evaluation" / "results.json").write_text("{}")
    assert resolve_checkpoint(run, "auto") == str(run / "checkpoint-6")


@pytest.mark.parametrize("missing", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_checkpoints_of_earlier_versions_need_every_file(tmp_path, missing):
    good = write_checkpoint(tmp_path, 1)
    bad = write_checkpoint(tmp_path, 2, manifest=False)
    assert resolve_checkpoint(tmp_path, "auto") == str(bad)
    (bad / missing).unlink()
    assert resolve_checkpoint(tmp_path, "auto") == str(good)
    with pytest.raises(CheckpointError, match=f"{missing} is missing: resume from the checkpoint before"):
        resolve_checkpoint(tmp_path, str(bad))


def test_no_whole_checkpoint_is_an_error_not_a_new_run(tmp_path):
    for step in (1, 2):
        (write_checkpoint(tmp_path, step) / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint in .* is whole: .*checkpoint-2.*; .*checkpoint-1.*"):
        resolve_checkpoint(tmp_path, "auto")


def test_checkpoints_of_two_runs_are_not_mixed(tmp_path):
    write_checkpoint(tmp_path, 2, run="one")
    other = write_checkpoint(tmp_path, 4, run="two")
    with pytest.raises(CheckpointError, match="has checkpoints of 2 runs, such as .*: name the one to resume from"):
        resolve_checkpoint(tmp_path, "auto")
    assert resolve_checkpoint(tmp_path, str(other)) == str(other)


def test_a_checkpoint_under_another_number(tmp_path):
    good = write_checkpoint(tmp_path, 2)
    write_checkpoint(tmp_path, 3).rename(tmp_path / "checkpoint-9")
    assert resolve_checkpoint(tmp_path, "auto") == str(good)
    with pytest.raises(CheckpointError, match="checkpoint-9 mixes steps: manifest.json is of step 3"):
        resolve_checkpoint(tmp_path, str(tmp_path / "checkpoint-9"))


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"global_step": "4"}, "global_step is '4'"),
        ({"global_step": -1}, "global_step is -1"),
        ({"global_step": True}, "global_step is True"),
        ({"train_batch_size": None}, "train_batch_size is None"),
        ({"log_history": None}, None),
        ({"log_history": {"loss": 1}}, "log_history is"),
        ({"log_history": ["text"]}, "log_history has the entry 'text'"),
        ({"log_history": [{"loss": "text", "step": 1}]}, "log_history has loss='text'"),
        ({"stateful_callbacks": "text"}, "TypeError"),
        ({"unknown": 1}, "TypeError.*unknown"),
    ],
)
def test_a_state_of_another_form(tmp_path, changes, reason):
    folder = write_checkpoint(tmp_path, 4, manifest=False)
    write_state(folder, 4, **changes)
    if reason is None:
        assert resolve_checkpoint(tmp_path, "auto") == str(folder)
        return
    with pytest.raises(ValueError, match=f"trainer_state.json is damaged.*{reason}"):
        resolve_checkpoint(tmp_path, str(folder))


def test_a_deeply_nested_state(tmp_path):
    folder = write_checkpoint(tmp_path, 4, manifest=False)
    (folder / "trainer_state.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match="trainer_state.json is damaged .RecursionError") as caught:
        resolve_checkpoint(tmp_path, str(folder))
    assert "\n" not in str(caught.value)


def test_a_manifest_that_names_other_files(tmp_path):
    folder = write_checkpoint(tmp_path, 4)
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace("optimizer.pt", "../../secret"))
    with pytest.raises(CheckpointError, match="manifest.json is damaged .*outside of its folder"):
        resolve_checkpoint(tmp_path, str(folder))


def test_the_manifest_names_the_run_and_each_file(trained):
    records = [json.loads((trained / f"checkpoint-{step}" / "manifest.json").read_text()) for step in (2, 6)]
    assert [record["step"] for record in records] == [2, 6] and records[0]["run"] == records[1]["run"]
    assert records[1]["files"].keys() == {*FILES, "trainer_state.json"}
    model = (trained / "checkpoint-6" / "model.safetensors").read_bytes()
    expected = {"size": len(model), "sha256": hashlib.sha256(model).hexdigest()}
    assert records[1]["files"]["model.safetensors"] == expected


def test_a_resumed_run_keeps_its_identifier(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "elsewhere" / "run")
    recorder(run, max_steps=8).train(resume_from_checkpoint=True)
    records = [json.loads((run / f"checkpoint-{step}" / "manifest.json").read_text()) for step in (2, 8)]
    assert records[0]["run"] == records[1]["run"]


def test_another_place_and_a_symbolic_link(trained, tmp_path):
    """A checkpoint has no absolute path that matters; the output folder and a checkpoint may be links."""
    real = shutil.copytree(trained, tmp_path / "real")
    (tmp_path / "disk").mkdir()
    moved = (real / "checkpoint-6").rename(tmp_path / "disk" / "six")
    (real / "checkpoint-6").symlink_to(moved)
    link = tmp_path / "link"
    link.symlink_to(real)
    found = resolve_checkpoint(link, "auto")
    assert found == str(link / "checkpoint-6")
    again = recorder(link, max_steps=8, save_total_limit=1)
    again.train(resume_from_checkpoint=found)
    assert again.seen == [12.0, 13.0, 14.0, 15.0]
    assert names(real) == ["checkpoint-8"] and (moved / "optimizer.pt").is_file()


def test_the_best_checkpoint_is_found_after_a_move(tmp_path):
    """The state names its path on the machine where it was written."""
    settings = {"eval_dataset": [0], "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    settings |= {"metric_for_best_model": "score", "load_best_model_at_end": True}

    def run(folder, steps, **resume):
        trainer = recorder(folder, max_steps=steps, **settings)

        def evaluate(*args, **kwargs):
            with torch.no_grad():
                trainer.model.weight.fill_(trainer.state.global_step)
            return {"eval_score": 1.0 / trainer.state.global_step}

        trainer.evaluate = evaluate
        trainer.train(**resume)
        return trainer

    run(tmp_path / "here", 2)
    there = (tmp_path / "here").rename(tmp_path / "there")
    trainer = run(there, 3, resume_from_checkpoint=str(there / "checkpoint-2"))
    assert trainer.model.weight.item() == 1 and trainer.state.best_global_step == 1
    flip_a_bit(there / "checkpoint-1" / "model.safetensors", None)
    with pytest.raises(UnusableCheckpointError, match="checkpoint-1/model.safetensors is damaged"):
        run(there, 4, resume_from_checkpoint=str(there / "checkpoint-3"))
    shutil.rmtree(there / "checkpoint-1")
    with pytest.raises(UnusableCheckpointError, match="needs the best checkpoint, checkpoint-1, which is not beside"):
        run(there, 5, resume_from_checkpoint=str(there / "checkpoint-3"))


def test_memory_and_work_of_the_check(tmp_path, monkeypatch):
    """Files are hashed once for a command, in pieces, however large they are."""
    recorder(tmp_path, network=torch.nn.Linear(1, 2_000_000), max_steps=2).train()
    opened = []
    hashed = manifests.file_hash

    def read(file, progress):
        opened.append(file.name)
        return hashed(file, progress=progress)

    monkeypatch.setattr(manifests, "file_hash", read)
    tracemalloc.start()
    found = resolve_checkpoint(tmp_path, "auto")
    checkpoints.check_before_resuming(found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(opened) == sorted([*FILES, "trainer_state.json"])
    assert Path(found, "optimizer.pt").stat().st_size > 16_000_000 > 2 * peak
