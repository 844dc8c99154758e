import json
import multiprocessing
import os
import signal
import socket
import time

import pytest
from children import child

from transformers_vjepa.safety import output_lock as locks
from transformers_vjepa.safety.output_lock import LOCK_NAME, FolderInUseError, output_lock


def hold(folder):
    with output_lock(folder):
        print("held", flush=True)
        time.sleep(60)


def wait_until_held(process):
    while "held" not in process.output:
        assert process.is_running(), process.output
        time.sleep(0.02)


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    folder = tmp_path / "run"
    with child(hold, folder, output=tmp_path / "printed.txt") as process:
        wait_until_held(process)
        with pytest.raises(FolderInUseError) as caught, output_lock(folder):
            pass
        message = str(caught.value)
        assert message.startswith(f"{folder} is in use (process {process.pid} on {socket.gethostname()}, since 20")
        assert message.endswith("wait until that run has ended, stop that run, or choose another output folder")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with output_lock(folder):
        assert json.loads((folder / ".in_use.json").read_text())["process"] == os.getpid()
    assert not (folder / ".in_use.json").exists()


def die_before_a_worker(folder):
    with output_lock(folder):
        if os.fork() == 0:  # a worker inherits the lock
            time.sleep(1)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)


def test_workers_of_a_killed_run_are_waited_for(tmp_path):
    with child(die_before_a_worker, tmp_path / "run", output=tmp_path / "printed.txt") as process:
        assert process.wait() == -signal.SIGKILL, process.output
    with output_lock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".in_use.json").read_text())["process"] == os.getpid()


def test_the_end_of_a_worker_does_not_release_the_lock(tmp_path):
    with output_lock(tmp_path):
        worker = multiprocessing.get_context("fork").Process(target=os.getpid)
        worker.start()
        worker.join()
        with pytest.raises(FolderInUseError):
            locks.OutputLock(tmp_path).acquire()


def test_a_process_can_take_its_lock_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with output_lock("run") as outer, output_lock(tmp_path / "run") as inner:
        assert inner is outer
    assert not (tmp_path / "run").exists()  # nothing was written


def test_a_folder_that_was_deleted_or_replaced(tmp_path):
    folder = tmp_path / "run"
    with output_lock(folder) as lock:
        assert not lock.is_lost
        folder.rename(tmp_path / "elsewhere")
        assert lock.is_lost
        folder.mkdir()
        (folder / LOCK_NAME).touch()
        assert lock.is_lost
        lock.acquire()
        assert not lock.is_lost
        (folder / "results").touch()
    assert sorted(path.name for path in folder.iterdir()) == [LOCK_NAME, "results"]


@pytest.mark.parametrize("record", [None, "", "[]", '{"process": "x"}', "[" * 10_000, '{"process": 99999999999999}'])
def test_a_record_that_cannot_be_read(tmp_path, record):
    with child(hold, tmp_path / "run", output=tmp_path / "printed.txt") as process:
        wait_until_held(process)
        file = tmp_path / "run" / ".in_use.json"
        file.unlink() if record is None else file.write_text(record)
        with pytest.raises(FolderInUseError, match="run is in use"), output_lock(tmp_path / "run"):
            pass


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError("FileSystem has no flock")])
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog, error):
    def refuse(self, **kwargs):
        raise error

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    with output_lock(tmp_path) as lock:
        assert not lock.is_lost
    assert "cannot be locked" in caplog.text and "make sure that no other run writes into this folder" in caplog.text
