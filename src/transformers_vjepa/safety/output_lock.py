"""One run at a time in an output folder."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers.utils import logging

from .agreement import agreed
from .atomic_files import atomic_path

logger = logging.get_logger(__name__)

#: The file that is locked. The system releases the lock when the process ends, also after SIGKILL; the file stays.
LOCK_NAME = ".in_use.lock"
# Who holds the lock. This text is in a file of its own, because some versions of filelock empty the file they lock.
_HOLDER_NAME = ".in_use.json"
# Workers of a killed run inherit its lock, and they need some seconds to see that the run is gone.
_SECONDS_FOR_ORPHANS = 30.0


class FolderInUseError(OSError):
    """Another run writes into this folder."""


class OutputLock:
    """
    The lock of an output folder. Use [`output_lock`].

    Args:
        folder: created when the lock is taken.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._lock: FileLock | None = None
        self._file_id: tuple[int, int] | None = None
        self._made_folder = False

    def acquire(self) -> None:
        """
        Raises:
            FolderInUseError: another process has the lock.
        """
        self._made_folder = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / LOCK_NAME)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                lock.acquire(timeout=_SECONDS_FOR_ORPHANS if _is_gone(self._holder()) else 0)
        except Timeout:
            raise FolderInUseError(self._refusal()) from None
        except (NotImplementedError, OSError) as error:
            logger.warning(
                f"{self.folder} cannot be locked ({error}): make sure that no other run writes into this folder"
            )
            return
        self._lock = lock
        self._file_id = self._id_on_disk()
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
        with atomic_path(self.folder / _HOLDER_NAME, flush=False) as temporary:  # of no use after a power cut
            temporary.write_text(json.dumps(holder) + "\n", encoding="utf-8")

    def release(self) -> None:
        """Releases the lock, if this process has it. A folder that was made for the lock and is empty is removed."""
        if self._lock is None:
            return
        if not self.is_lost:
            (self.folder / _HOLDER_NAME).unlink(missing_ok=True)
            if self._made_folder and [path.name for path in self.folder.iterdir()] == [LOCK_NAME]:
                shutil.rmtree(self.folder)
        self._lock.release()
        self._lock = None

    @property
    def is_lost(self) -> bool:
        """Whether the folder was deleted or replaced since this process took the lock."""
        return self._lock is not None and self._id_on_disk() != self._file_id

    def _id_on_disk(self) -> tuple[int, int] | None:
        try:
            status = (self.folder / LOCK_NAME).stat()
        except OSError:  # the folder or the file was deleted
            return None
        return status.st_dev, status.st_ino

    def _holder(self) -> dict[str, Any]:
        try:
            holder = json.loads((self.folder / _HOLDER_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # not written yet, or just removed
            return {}
        return holder if isinstance(holder, dict) else {}

    def _refusal(self) -> str:
        holder = self._holder()
        who = "another run"
        if holder:
            who = f"process {holder.get('process')} on {holder.get('host')}, since {holder.get('since')}"
        return (
            f"{self.folder} is in use ({who}): wait until that run has ended, stop that run, or choose another output "
            "folder"
        )


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the process was on this machine and does not exist any more."""
    process = holder.get("process")
    if sys.platform == "win32" or holder.get("host") != socket.gethostname() or type(process) is not int:
        return False
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # a process of another user
        return False
    return False


_held: dict[Path, OutputLock] = {}


@contextmanager
def output_lock(folder: str | os.PathLike) -> Iterator[OutputLock]:
    """
    Locks an output folder during the block. All processes of a launch call this function, and the first of them takes
    the lock. Within a process the lock can be taken again. If the file system has no locks, a warning says so.

    Raises:
        FolderInUseError: another run has the folder; in all processes. The message names this run, and the remedy.
    """
    path = Path(folder).resolve()
    if path in _held:
        yield _held[path]
        return
    lock = OutputLock(folder)
    agreed(lock.acquire)
    _held[path] = lock
    try:
        yield lock
    finally:
        del _held[path]
        lock.release()
