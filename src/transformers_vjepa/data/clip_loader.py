"""A DataLoader for clip streams that continues when a worker process dies."""

import atexit
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader, IterableDataset
from transformers.utils import logging

from ..safety.private_names import check_private_names
from ..safety.sanitizing import log_line
from .clip_reading import Reading, last_reading
from .lanes import record_cursors
from .streaming import StreamPosition

check_private_names("torch.utils.data.dataloader")
logger = logging.get_logger(__name__)

#: Allowed restarts: without a batch in between; in a run; and one more in a run for each number of delivered batches.
MAX_RESTARTS_IN_A_ROW, MAX_RESTARTS, BATCHES_PER_RESTART = 3, 20, 20
_SECONDS_TO_DIE = 2
# A decoder that crashes ends its process with one of these signals, and would crash again for the same video.
_CRASHES = {
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")
    if hasattr(signal, name)  # not every system has all of them
}


class WorkersLostError(RuntimeError):
    """DataLoader workers died too often."""


class ClipLoader(DataLoader):
    """
    A [`~torch.utils.data.DataLoader`] for a [`~data.streaming.clip_stream`] that replaces workers which die:

    - When a worker dies (out of memory, a decoder that crashes), new workers start at the first batch that has not
      been delivered. The stream is a function of the position, so the batches are those of an undisturbed run.
    - A video that takes longer than the `timeout` of [`~data.clip_reading.Decoding`], or that crashes its decoder,
      ends its worker. From then on all workers skip the video as a broken one.
    - Workers ignore SIGINT, SIGTERM and SIGUSR1, which terminals and schedulers send to whole process groups. Only the
      main process ends its workers: in `close`, which is also called when Python exits.

    Errors that a worker raises (`TooManyBrokenVideosError`, `StreamError`) are raised unchanged. Without workers the
    class is a plain DataLoader. A new iteration ends the previous one.

    Args:
        stream: the data set.
        position: the position of the stream. With `None` the death of a worker ends the iteration.
        kwargs: arguments of the DataLoader.

    Raises:
        WorkersLostError: while iterating: more than `MAX_RESTARTS_IN_A_ROW` deaths without a batch in between, or in
            total more than `MAX_RESTARTS` and one for each `BATCHES_PER_RESTART` batches; or a death without a
            `position`.
    """

    def __init__(self, stream: IterableDataset, *, position: StreamPosition | None = None, **kwargs: Any) -> None:
        kwargs["worker_init_fn"] = partial(_start_worker, then=kwargs.get("worker_init_fn"))
        super().__init__(stream, **kwargs)
        self._position = position
        self._workers: _Workers | None = None

    def __iter__(self) -> Iterator[Any]:
        if not self.num_workers:
            return super().__iter__()
        return self._iterate()

    def close(self) -> None:
        """End the workers. A later iteration starts new ones."""
        if self._workers is not None:
            self._workers.end()
            self._workers = None

    def _iterate(self) -> Iterator[Any]:
        delivery = _Delivery(self._position)
        with tempfile.TemporaryDirectory(prefix="clip_loader_", ignore_cleanup_errors=True) as notes:
            start = partial(delivery.start, super().__iter__, notes=notes)
            while True:
                self.close()
                workers = self._workers = _Workers(start, notes=notes)
                try:
                    for batch in workers:
                        delivery.delivered(batch)
                        yield batch
                        if workers is not self._workers:  # `close` was called
                            break
                    return
                except _WorkerDied as death:
                    delivery.lost(str(death), unreadable=death.unreadable)
                finally:
                    workers.end()


def _start_worker(worker: int, *, then: Callable[[int], None] | None) -> None:
    # Workers are ended by `close`, or by torch's watchdog if the main process dies. Neither needs these signals.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if then is not None:
        then(worker)


class _Delivery:
    """Counts the delivered batches and the restarts of an iteration, and starts workers at the next batch."""

    def __init__(self, position: StreamPosition | None) -> None:
        self._position = position
        self._cursors = dict(position.cursors) if position else {}
        self._batches = self._restarts = self._in_a_row = 0

    def start(self, iterate: Callable[[], Iterator[Any]], *, notes: str) -> Iterator[Any]:
        """Start workers at the first batch that has not been delivered. The position is unchanged afterwards."""
        position = self._position
        if position is None:
            return iterate()
        before = position.cursors
        position.delivered, position.cursors, position.notes = self._batches, self._cursors, notes
        try:
            return iterate()
        finally:
            position.delivered, position.cursors, position.notes = 0, before, None

    def delivered(self, batch: Any) -> None:
        self._batches += 1
        self._in_a_row = 0
        if isinstance(batch, Mapping):
            record_cursors(self._cursors, batch.get("cursor", [])[-1:])  # the last one includes the others

    def lost(self, reason: str, *, unreadable: dict[str, str]) -> None:
        """Note that workers died, and why. Raises `WorkersLostError` if workers died too often."""
        if self._position is None:
            raise WorkersLostError(f"{reason}: pass the position of the stream to ClipLoader, which then can continue")
        is_news = not unreadable.keys() <= self._position.unreadable.keys()
        self._position.unreadable |= unreadable
        self._restarts += 1
        self._in_a_row = 0 if is_news else self._in_a_row + 1
        if self._in_a_row > MAX_RESTARTS_IN_A_ROW:
            times = f"{self._in_a_row} times in a row"
        elif self._restarts > MAX_RESTARTS + self._batches // BATCHES_PER_RESTART:
            times = f"{self._restarts} times in {self._batches} batches"
        else:
            batch = self._position.start_batch + self._batches
            logger.warning("%s; continuing from batch %d with new workers", reason, batch)
            return
        raise WorkersLostError(
            f"DataLoader workers died {times}; the last reason: {reason}. SIGKILL usually means that memory ran out: "
            "use fewer workers, or a smaller shuffle buffer or cache. Otherwise remove the named videos"
        )


class _WorkerDied(Exception):
    """Worker processes died. The text says why each one died."""

    def __init__(self, processes: list[BaseProcess], *, notes: str) -> None:
        #: Videos that must not be read again, and why.
        self.unreadable: dict[str, str] = {}
        super().__init__("; ".join(self._describe(process, last_reading(notes, process.pid)) for process in processes))

    def _describe(self, process: BaseProcess, reading: Reading) -> str:
        worker, exitcode = f"DataLoader worker {process.pid}", process.exitcode
        shown = log_line(reading.name)
        if reading.traceback:
            self.unreadable[reading.name] = "reading it took longer than decode_timeout"
            logger.warning("call stack at the time limit for %s:\n%s", shown, reading.traceback)
            return f"{worker} ended because reading {shown} took longer than decode_timeout"
        if reading.name and -exitcode in _CRASHES:
            self.unreadable[reading.name] = f"reading it crashed its process ({signal.Signals(-exitcode).name})"
        how = f"exited with code {exitcode}" if exitcode > 0 else f"was killed by {signal.Signals(-exitcode).name}"
        return f"{worker} {how} {f'while reading {shown}' if shown else 'between two videos'}"


class _DeathNotice:
    """Wraps torch's handler of SIGCHLD, which raises anywhere: this one raises only while a batch is awaited."""

    def __init__(self) -> None:
        self._is_awaited = False
        self._raise: Callable[[int, Any], None] | None = None

    def install(self) -> None:
        if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._handle:
            self._raise = handler
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, signum: int, frame: Any) -> None:
        if self._is_awaited:
            try:
                self._raise(signum, frame)
            except RuntimeError:
                self._is_awaited = False
                raise

    def __enter__(self) -> None:
        self._is_awaited = True

    def __exit__(self, *exception: object) -> None:
        self._is_awaited = False


_death_notice = _DeathNotice()


class _Workers:
    """A DataLoader's iterator and the processes behind it."""

    def __init__(self, start: Callable[[], Iterator[Any]], *, notes: str) -> None:
        self._notes = notes
        others = set(active_children())
        self._batches: Iterator[Any] | None = start()
        # A worker killed inside `Event.is_set()` keeps the lock of the event by which torch ends workers, and torch
        # would wait for the lock forever. `end` does without the event, so torch gets one of this process alone. This
        # is the only use of a private name of torch in this file.
        if hasattr(self._batches, "_workers_done_event"):
            self._batches._workers_done_event = threading.Event()
        self._processes = [process for process in active_children() if process not in others]
        # Workers ignore SIGTERM, so multiprocessing would wait for them forever when Python exits.
        atexit.register(self.end)
        _death_notice.install()

    def __iter__(self) -> "_Workers":
        return self

    def __next__(self) -> Any:
        """The next batch. Raises `StopIteration` at the end of the stream, `_WorkerDied` if a process has died."""
        self._check()
        try:
            with _death_notice:
                return next(self._batches)
        except (RuntimeError, OSError, EOFError):
            # A dying worker closes its connections before its exit code is available.
            dying = wait([process.sentinel for process in self._processes], timeout=_SECONDS_TO_DIE)
            for process in self._processes:
                if process.sentinel in dying:
                    process.join(timeout=_SECONDS_TO_DIE)
            self._check()
            raise  # an error of the stream, which a worker passed on

    def _check(self) -> None:
        # Exit code 0: the stream has ended.
        if dead := [process for process in self._processes if process.exitcode]:
            raise _WorkerDied(dead, notes=self._notes)

    def end(self) -> None:
        """Kill the processes. They only read, so nothing is lost, and a process that hangs would not end otherwise."""
        atexit.unregister(self.end)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(timeout=_SECONDS_TO_DIE)  # not forever: a process that waits for a dead disk does not end
        self._batches = None
