"""
Fast processes for tests: they are forked from a server that has imported torch and transformers and nothing else, so a
test does not wait for these imports. Tests of interpreters and launchers use real ones: faults/test_distributed.py and
faults/test_processes.py.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed import TCPStore

from transformers_vjepa.command_line.parsing import LAUNCH_CONFIGS

COMMANDS = ("evaluate", "extract_features", "pretrain", "train_classifier")

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([f"transformers_vjepa.commands.{name}" for name in COMMANDS])


def run_command(name: str, argv: Sequence[str]) -> None:
    """Runs `vjepa NAME ...` in this process."""
    sys.argv = [f"vjepa {name}", *map(str, argv)]
    import_module(f"transformers_vjepa.commands.{name}").main()


def _begin(output: Path, environment: dict[str, str], num_threads: int, function: Callable, args: tuple) -> None:
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    os.environ.update(environment)
    torch.set_num_threads(num_threads)
    # The server sets its own start method for the processes it forks; workers of a loader must have the default one.
    multiprocessing.set_start_method(None, force=True)
    # SIGINT is ignored if the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function(*args)


class Child:
    """
    A process in its own session that calls `function(*args)`; the function must be on the top level of a module.

    Args:
        output: file for the output of the process.
        environment: variables in addition to those of this process.
        num_threads: threads of torch. The number of threads changes how sums are rounded.
    """

    def __init__(
        self,
        function: Callable,
        *args,
        output: Path,
        environment: dict[str, str] | None = None,
        num_threads: int = 1,
    ):
        self._output = output
        settings = (output, environment or {}, num_threads)
        self._process = _CONTEXT.Process(target=_begin, args=(*settings, function, args))
        self._process.start()
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def is_running(self) -> bool:
        return self._process.is_alive()

    def wait(self, timeout: float = 300) -> int:
        """The exit code; negative if a signal has ended the process."""
        self._process.join(timeout)
        assert not self.is_running(), f"still running after {timeout} s: {self.output}"
        return self._process.exitcode

    def kill(self) -> None:
        """Kills the process and all processes that it has started."""
        if self.is_running():
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # the process has no group yet
                self._process.kill()
        self._process.join()


@contextmanager
def child(function: Callable, *args, **settings):
    """A [`Child`] that does not outlive its test."""
    started = Child(function, *args, **settings)
    try:
        yield started
    finally:
        started.kill()


def wait_until(happens: Callable[[], bool], process: Child, *, timeout: float = 300) -> None:
    """Waits until `happens()` is true; fails if the process ends before."""
    deadline = time.monotonic() + timeout
    while not happens():
        assert process.is_running() and time.monotonic() < deadline, process.output
        time.sleep(0.02)


def launch_environment(config: str) -> dict[str, str]:
    """The environment variables that `accelerate launch` sets for a configuration."""
    arguments = ["--config_file", str(LAUNCH_CONFIGS / f"{config}.yaml"), "--main_process_port", "0", "script.py"]
    parsed, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    variables = prepare_multi_gpu_env(parsed)
    return {name: value for name, value in variables.items() if os.environ.get(name) != value}


def two_processes(
    function: Callable, *args, folder: Path, config: str = "two_cpu_processes", timeout: float = 400
) -> tuple[list[int], str]:
    """
    Calls `function(*args)` in two processes of one group, with the environment that `accelerate launch` sets for a
    configuration. If one process fails, the other is ended. Returns the exit codes and the output of both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # As in the launcher, the store is in this process. Port 0 binds a free port.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = launch_environment(config) | {
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": "2",
    }
    children = []
    try:
        for rank in ("0", "1"):
            own = shared | {"RANK": rank, "LOCAL_RANK": rank}
            children.append(Child(function, *args, output=folder / f"output_{rank}.txt", environment=own))
        deadline = time.monotonic() + timeout
        while running := [each for each in children if each.is_running()]:
            if any(each.wait() for each in children if each not in running):
                break
            assert time.monotonic() < deadline, "".join(each.output for each in children)
            time.sleep(0.05)
    finally:
        for each in children:
            each.kill()
    return [each.wait() for each in children], "".join(each.output for each in children)


def in_two_processes(function: Callable, *args, **settings) -> str:
    """The output of [`two_processes`], after checking that both have succeeded."""
    codes, output = two_processes(function, *args, **settings)
    assert codes == [0, 0], output
    return output
