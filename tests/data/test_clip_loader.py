import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import synchronize
from pathlib import Path

import psutil
import pytest
import torch
from children import Child
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from transformers_vjepa.data import clip_loader
from transformers_vjepa.data.clip_loader import ClipLoader, WorkersLostError
from transformers_vjepa.data.clip_reading import TooManyBrokenVideosError
from transformers_vjepa.data.lanes import StreamError
from transformers_vjepa.data.streaming import StreamPosition


class Numbers(IterableDataset):
    """
    The numbers from 2 * `start_batch` on, in batches of 2 that workers make in turn. Each comes with its process, its
    cursor, and the start of its worker: batches delivered before, and rows of the cursors. `at(number)` is called
    before each number.
    """

    def __init__(self, position, *, end=10**6, at=lambda number: None):
        self.position, self.end, self.at = position, end, at

    def __iter__(self):
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        start = self.position.start_batch + self.position.delivered
        rows = {lane: json.loads(text)["row"] for lane, text in self.position.cursors.items()}
        started = json.dumps([self.position.delivered, rows], sort_keys=True)
        for batch in range(start + worker, self.end // 2, workers):
            for number in (2 * batch, 2 * batch + 1):
                self.at(number)
                cursor = json.dumps({"rank": 0, "lane": batch % 2, "row": number})
                yield {"number": number, "pid": os.getpid(), "cursor": cursor, "started": started}


def loader(*, position=None, num_workers=2, end=10**6, at=lambda number: None, **kwargs):
    position = StreamPosition() if position is None else position
    stream = Numbers(position, end=end, at=at)
    return ClipLoader(stream, position=position, batch_size=2, num_workers=num_workers, **kwargs)


@pytest.fixture
def closing():
    """Ends the workers of loaders that a test leaves in the middle."""
    loaders = []
    yield lambda loader: loaders.append(loader) or loader
    for each in loaders:
        each.close()


def numbers(batch):
    return batch["number"].tolist()


def kill(worker):
    """Kills a worker, and returns when it can be seen that it is dead."""
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)


def wait_until_gone(pids):
    """Zombies that nobody waits for any more are gone, too."""
    deadline = time.monotonic() + 300
    while alive := [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]:
        assert time.monotonic() < deadline, f"{alive} are still there"
        time.sleep(0.05)


@pytest.mark.parametrize("start", [0, 5])
def test_continues_with_the_same_batches_when_a_worker_is_killed(closing, caplog, start):
    position = StreamPosition(start)
    batches = iter(closing(loader(position=position)))
    seen = [next(batches) for _ in range(3)]
    killed = seen[-1]["pid"][0].item()
    kill(killed)
    seen += [next(batches) for _ in range(3)]
    assert [numbers(batch) for batch in seen] == [[2 * n, 2 * n + 1] for n in range(start, start + 6)]
    assert not {batch["pid"][0].item() for batch in seen[:3]} & {batch["pid"][0].item() for batch in seen[3:]}
    (record,) = caplog.records
    assert record.getMessage() == (
        f"DataLoader worker {killed} was killed by SIGKILL between two videos; continuing from batch {start + 3} with "
        "new workers"
    )
    assert position == StreamPosition(start)  # it is the caller's


def test_new_workers_start_from_the_cursors_of_what_was_delivered(closing):
    batches = iter(closing(loader(position=StreamPosition(5))))
    seen = [next(batches) for _ in range(3)]
    kill(seen[-1]["pid"][0].item())
    seen.append(next(batches))
    assert [json.loads(batch["started"][0]) for batch in seen] == [[0, {}]] * 3 + [[3, {"0/0": 13, "0/1": 15}]]


def test_a_death_outside_of_a_wait_for_a_batch_interrupts_nothing(closing):
    batches = iter(closing(loader()))
    first = next(batches)
    kill(first["pid"][0].item())
    torch.zeros(1).add_(1)  # an optimizer step, say: Python has run its handlers here at the latest
    assert numbers(next(batches)) == [2, 3]


@pytest.mark.parametrize("end", [kill, lambda worker: os.kill(worker, signal.SIGKILL)], ids=["dead", "dying"])
def test_a_worker_that_dies_between_batches_loses_nothing(closing, end):
    # Batches that a dead worker has already passed on may be usable or not: its memory is freed with it.
    batches = iter(closing(loader()))
    seen = []
    for _ in range(4):
        seen += [next(batches), next(batches)]
        end(seen[-1]["pid"][0].item())
    seen += [next(batches) for _ in range(4)]
    assert [numbers(batch) for batch in seen] == [[2 * n, 2 * n + 1] for n in range(12)]


def test_a_worker_that_dies_within_a_batch_loses_nothing(closing, tmp_path):
    def die_once(number):
        if number in (5, 9, 16) and not (tmp_path / str(number)).exists():
            (tmp_path / str(number)).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    batches = iter(closing(loader(at=die_once)))
    assert [numbers(next(batches)) for _ in range(12)] == [[2 * n, 2 * n + 1] for n in range(12)]
    assert len(list(tmp_path.iterdir())) == 3


def die_at(number):
    def at(current):
        if current == number:
            os._exit(3)

    return at


def test_dying_at_the_same_batch_again_and_again_ends_the_iteration(caplog):
    seen = []
    with pytest.raises(
        WorkersLostError, match="died 4 times in a row; the last reason: .* exited with code 3.*use fewer"
    ):
        for batch in loader(at=die_at(5)):
            seen += numbers(batch)
    # Workers read ahead: the death may come before the batches in front of it are fetched.
    assert seen == [0, 1, 2, 3][: len(seen)]
    assert len(caplog.records) >= clip_loader.MAX_RESTARTS_IN_A_ROW


def test_restarts_must_be_paid_by_progress(monkeypatch):
    monkeypatch.setattr(clip_loader, "MAX_RESTARTS", 1)
    monkeypatch.setattr(clip_loader, "BATCHES_PER_RESTART", 4)
    seen = []
    with pytest.raises(WorkersLostError, match="died 3 times in 6 batches"):
        for batch in loader(num_workers=1):
            seen += numbers(batch)
            if len(seen) % 4 == 0:
                kill(batch["pid"][0].item())
    assert seen == list(range(12))


def test_without_its_position_a_stream_cannot_continue():
    with pytest.raises(WorkersLostError, match="exited with code 3 .*pass the position of the stream"):
        list(ClipLoader(Numbers(StreamPosition(), at=die_at(2)), num_workers=1, batch_size=2))


@pytest.mark.parametrize("kind", [TooManyBrokenVideosError, StreamError])
def test_errors_of_the_stream_come_out_as_themselves(kind, caplog):
    def at(number):
        if number == 5:
            raise kind("the stream is at fault")

    with pytest.raises(kind, match="the stream is at fault"):
        list(loader(at=at))
    assert not caplog.records


def test_workers_ignore_signals_for_the_whole_group(closing):
    batches = iter(closing(loader()))
    first = [next(batches), next(batches)]
    pids = {batch["pid"][0].item() for batch in first}
    assert len(pids) == 2
    for pid in pids:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, signum)
    following = [next(batches) for _ in range(10)]
    assert {batch["pid"][0].item() for batch in following} == pids


def test_the_own_function_for_workers_is_called_too(closing, tmp_path):
    batches = iter(closing(loader(worker_init_fn=lambda worker: (tmp_path / str(worker)).touch())))
    next(batches)
    next(batches)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


@pytest.mark.parametrize("how", ["close", "drop", "exhaust", "iterate again"])
def test_workers_end_with_the_iteration(closing, how):
    batches = loader(end=8 if how == "exhaust" else 10**6)
    iterator = iter(batches)
    pids = [next(iterator)["pid"][0].item() for _ in range(2)]
    if how == "close":
        batches.close()
        assert next(iterator, None) is None
    elif how == "drop":
        del iterator
    elif how == "exhaust":
        assert [numbers(batch) for batch in iterator] == [[4, 5], [6, 7]]
    else:
        assert numbers(next(iter(closing(batches)))) == [0, 1]
    wait_until_gone(pids)


def test_a_stuck_worker_does_not_keep_the_iteration_from_ending():
    batches = loader(num_workers=1, prefetch_factor=2, at=lambda number: time.sleep(1000 if number == 4 else 0))
    iterator = iter(batches)
    pid = next(iterator)["pid"][0].item()
    batches.close()
    wait_until_gone([pid])


def test_without_workers_it_is_a_data_loader():
    assert [numbers(batch) for batch in loader(num_workers=0, end=4)] == [[0, 1], [2, 3]]
    assert isinstance(loader(), DataLoader)


def print_workers():
    """Returns in the middle of an iteration, which is kept."""
    batches = iter(loader())
    print(*[next(batches)["pid"][0].item() for _ in range(2)], flush=True)
    return batches


def print_workers_and_be_killed():
    batches = print_workers()
    os.kill(os.getpid(), signal.SIGKILL)
    return batches


PROGRAM = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from tests.data.test_clip_loader import print_workers
batches = print_workers()
raise SystemExit(3)
"""


def check_that_workers_are_gone(printed):
    pids = [int(pid) for pid in printed.split()]
    assert len(set(pids)) == 2
    wait_until_gone(pids)


@pytest.mark.slow
def test_workers_end_with_the_program():
    # Workers ignore SIGTERM, with which Python ends the remaining processes of a program.
    program = PROGRAM.format(root=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    check_that_workers_are_gone(done.stdout)


@pytest.mark.slow
def test_workers_end_with_a_killed_program(tmp_path):
    # They are left to torch, which looks every few seconds whether the program is still there.
    program = Child(print_workers_and_be_killed, output=tmp_path / "printed.txt")
    assert program.wait() == -signal.SIGKILL, program.output
    check_that_workers_are_gone(program.output)


@pytest.fixture
def alarms():
    """Interrupts a test that hangs, also where the interruption itself is ignored: the list is empty if it did not."""
    rung = []

    def ring(signum, frame):
        rung.append(signum)
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield rung
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_worker_that_dies_with_the_lock_of_an_event_is_replaced(closing, tmp_path, alarms):
    is_set = synchronize.Event.is_set.__code__

    def kill_within_is_set(frame, event, argument):
        # The first call into C there looks at the flag of the event, behind its lock.
        if event == "c_call" and frame.f_code is is_set:
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def die_once(worker):
        if not (tmp_path / "killed").exists():
            sys.setprofile(kill_within_is_set)

    batches = iter(closing(loader(num_workers=1, worker_init_fn=die_once)))
    assert [numbers(next(batches)) for _ in range(2)] == [[0, 1], [2, 3]]
    assert (tmp_path / "killed").exists() and not alarms
