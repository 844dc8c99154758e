"""
Feeds damaged files and nonsense to everything that reads the bytes of strangers: run by test_fuzz.py, or by hand.

    python tests/faults/fuzzing.py --scale 10                       # ten times as many cases
    python tests/faults/fuzzing.py --reader video --first 1234      # one case again, with its traceback

Every reader runs in a process of its own, which has bounds on memory and on the time of a case. A case gives a result
or an error that the reader promises; anything else fails, as does a crash, a hang, or too much memory.
"""

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fuzzed_readers  # noqa: E402  (beside this file)

SEED = 20260717
SECONDS_PER_CASE = 20
MAX_GROWTH = 1536 * 2**20  # bytes; the largest picture, its reference frames and a few copies
PACKAGE = os.sep + "transformers_vjepa" + os.sep


class UnpromisedError(Exception):
    """A case ended with an error that its reader does not promise."""


@dataclass
class Outcome:
    """What became of the cases of a reader."""

    reader: str
    cases: int = 0
    results: int = 0
    errors: dict[str, int] | None = None
    failure: str | None = None
    seconds: float = 0.0
    megabytes: int = 0


def is_promised(error: BaseException, reader: Any) -> bool:
    """Whether an error is one of the reader's: by class, and such as others raise, too, only if it is raised by us."""
    if type(error).__name__ in reader.named:
        return True
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return type(error).__name__ in reader.ours and PACKAGE in raised_in


class Run:
    """The cases of one reader, in the process of that reader."""

    def __init__(self, reader_class: type, *, report: Path, verbose: bool) -> None:
        self.outcome, self._errors = Outcome(reader_class.name), Counter()
        self._reader_class, self._report, self._verbose = reader_class, report, verbose
        self._current = os.open(report.with_suffix(".case"), os.O_CREAT | os.O_WRONLY)

    def all(self, *, first: int, count: int) -> Outcome:
        started, before = time.monotonic(), _peak()
        with tempfile.TemporaryDirectory(dir=self._report.parent) as folder:
            os.chdir(folder)
            reader = self._reader_class(Path(folder), np.random.default_rng(SEED))
            try:
                if hasattr(reader, "examples"):
                    _through_hypothesis(lambda example: self.case(reader, example), reader.examples, count=count)
                else:
                    for number in range(first, first + count):
                        self.case(reader, np.random.default_rng([SEED, number]), number=number)
            except UnpromisedError as failure:
                self.outcome.failure = str(failure)
            signal.alarm(0)
            os.chdir(self._report.parent)
        self.outcome.errors = dict(self._errors)
        self.outcome.megabytes = (_peak() - before) // 1024
        self.outcome.seconds = round(time.monotonic() - started, 1)
        return self.outcome

    def case(self, reader: Any, example: Any, *, number: int | None = None) -> None:
        """Runs one case, of which it notes before that it is the current one."""
        number = self.outcome.cases if number is None else number
        os.pwrite(self._current, f"{number:12}".encode(), 0)
        signal.alarm(SECONDS_PER_CASE)  # ends the process: a hang may be in C
        self.outcome.cases += 1
        try:
            reader.case(example)
        except (Exception, SystemExit) as error:
            if self._verbose:
                traceback.print_exc()
            if not is_promised(error, reader):
                shown = "" if isinstance(example, np.random.Generator) else f" {example!r}"
                raise UnpromisedError(f"case {number} of {reader.name}{shown}: {traceback.format_exc()}") from error
            self._errors[type(error).__name__] += 1
        else:
            self.outcome.results += 1


def _peak() -> int:
    """Most memory of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _through_hypothesis(case: Callable, examples: SearchStrategy, *, count: int) -> None:
    checks = settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    checks(given(examples)(case))()


def start(reader_class: type, *, first: int, count: int, folder: Path, verbose: bool) -> int:
    """Starts the process of a reader, and returns its number."""
    report = folder / f"{reader_class.name}.json"
    if pid := os.fork():
        return pid
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + MAX_GROWTH,) * 2)
        if not verbose:  # what the libraries say of damaged files
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
        outcome = Run(reader_class, report=report, verbose=verbose).all(first=first, count=count)
        report.write_text(json.dumps(vars(outcome)))
        status = 0
    except BaseException:  # handed to the process that started this one
        report.with_suffix(".trace").write_text(traceback.format_exc())
    finally:
        os._exit(status)


def outcome_of(reader_class: type, status: int, folder: Path) -> Outcome:
    """What a process that ended with `status` has left."""
    report = folder / f"{reader_class.name}.json"
    if report.is_file():
        return Outcome(**json.loads(report.read_text()))
    trace, case = report.with_suffix(".trace"), report.with_suffix(".case")
    at = case.read_text().strip() if case.is_file() else "none"
    if os.WIFSIGNALED(status):
        what = f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    else:
        what = trace.read_text() if trace.is_file() else f"exit code {os.waitstatus_to_exitcode(status)}"
    return Outcome(reader_class.name, failure=f"case {at} of {reader_class.name}: {what}")


def run_all(names: list[str], *, scale: float, first: int | None) -> Iterator[Outcome]:
    """The outcomes of some readers, of which two run at a time."""
    waiting, running = list(names), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < 2:
                reader = fuzzed_readers.READERS[waiting.pop(0)]
                count = round(reader.cases * scale) if first is None else 1
                pid = start(reader, first=first or 0, count=count, folder=Path(folder), verbose=first is not None)
                running[pid] = reader
            pid, status = os.wait()
            yield outcome_of(running.pop(pid), status, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="how many times the cases of a reader")
    parser.add_argument("--reader", choices=sorted(fuzzed_readers.READERS), help="this one only")
    parser.add_argument("--first", type=int, help="number of a single case to run")
    parser.add_argument("--output", type=Path, help="JSON file to write the outcomes to")
    arguments = parser.parse_args()
    names = [arguments.reader] if arguments.reader else list(fuzzed_readers.READERS)
    outcomes = []
    for outcome in run_all(names, scale=arguments.scale, first=arguments.first):
        outcomes.append(outcome)
        print(
            f"{outcome.reader:12} {outcome.cases:6} cases {outcome.results:6} results {outcome.seconds:6.1f} s "
            f"{outcome.megabytes:5} MB  {outcome.errors}",
            flush=True,
        )
        if outcome.failure:
            print(outcome.failure, flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps([vars(outcome) for outcome in outcomes]))
    sys.exit(any(outcome.failure for outcome in outcomes))


if __name__ == "__main__":
    main()
