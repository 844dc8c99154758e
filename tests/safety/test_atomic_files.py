"""Atomic writes: complete files or the earlier ones, and no temporary files left over."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from transformers_vjepa.safety import atomic_files
from transformers_vjepa.safety.atomic_files import atomic_path, write_text_atomically

# Writes half of a file and is killed before the block ends.
KILLED = """
import os, signal, sys
from transformers_vjepa.safety.atomic_files import atomic_path

with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_file_appears_complete_and_alone(tmp_path):
    file = tmp_path / "results.json"
    with atomic_path(file) as temporary:
        temporary.write_text("new")
        assert (temporary.parent, temporary.name) == (tmp_path, ".results.json.unfinished")
        assert not file.exists()
    assert file.read_text() == "new" and names(tmp_path) == ["results.json"]


def test_text_is_utf_8_and_replaces_the_earlier_file(tmp_path):
    file = tmp_path / "page.html"
    file.write_text("old")
    write_text_atomically(str(file), "ü\n")
    assert file.read_bytes() == b"\xc3\xbc\n" and names(tmp_path) == ["page.html"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path, error):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(error), atomic_path(file) as temporary:
        temporary.write_text("half")
        raise error
    assert file.read_text() == "old" and names(tmp_path) == ["file"]


def test_an_error_before_anything_is_written_is_raised_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-folder"):
        write_text_atomically(tmp_path / "no-folder" / "file", "text")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass  # nothing was written
    assert names(tmp_path) == []


def test_a_failing_rename_removes_the_temporary_file(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_leaves_the_earlier_file_and_the_next_one_cleans_up(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    source = Path(atomic_files.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(source)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], env=environment, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert file.read_text() == "old" and names(tmp_path) == [".file.unfinished", "file"]
    with atomic_path(file) as temporary:
        temporary.write_text("new")
    assert file.read_text() == "new" and names(tmp_path) == ["file"]


def test_writers_of_the_same_file_do_not_share_a_temporary_file(tmp_path):
    file = tmp_path / "settings.json"
    with atomic_path(file, shared=True) as first, atomic_path(file, shared=True) as second:
        assert first != second and first.name.endswith(".unfinished")
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first" and names(tmp_path) == ["settings.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask for others")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_a_plain_open(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text_atomically(tmp_path / "atomic", "text")
        (tmp_path / "plain").write_text("text")
    finally:
        os.umask(before)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_contents_are_on_the_disk_before_the_file_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(atomic_files, "flush_to_disk", lambda path: flushed.append((path.name, path.read_text())))
    monkeypatch.setattr(
        os, "replace", lambda old, new, rename=os.replace: (flushed.append("renamed"), rename(old, new))
    )
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("text")
    assert flushed == [(".file.unfinished", "text"), "renamed"]
    with atomic_path(tmp_path / "file", flush=False) as temporary:
        temporary.write_text("text")
    assert flushed[2:] == ["renamed"]
