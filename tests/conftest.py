"""Fixtures for all tests, and how several workers (`pytest -n`) share the tests."""

import gc
import os
import signal
from pathlib import Path

import pytest

# Several workers share the cores, and so do the processes that their tests start. Set before anything imports torch.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(max(1, (os.cpu_count() or 1) // WORKERS))

# A shell starts background jobs with SIGINT ignored. Tests of Ctrl-C need the usual handler.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"

# The longest test files come first. Otherwise one worker is still busy with them when the others have finished.
FIRST = (
    "tests/test_learning.py",
    "tests/test_docs.py",
    "tests/hub/test_round_trips.py",
    "tests/faults/test_distributed.py",
    "tests/faults/test_fuzz.py",
    "tests/faults/test_processes.py",
    "tests/app/test_page.py",
    "tests/test_packaging.py",
)
# Tests of these files may run on different workers. Tests of other files stay together: they share slow fixtures.
SPREAD = ("tests/test_learning.py",)


def module_of(nodeid):
    return nodeid.partition("::")[0]


def pytest_collection_modifyitems(config, items):
    if WORKERS > 1:
        places = {module: place for place, module in enumerate(FIRST)}
        items.sort(key=lambda item: places.get(module_of(item.nodeid), len(places)))


def pytest_collection_finish(session):
    # The Trainer collects garbage around every run. With all objects of transformers that takes half a second, longer
    # than most runs of these tests; frozen objects are left out.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)  # where pytest-xdist is installed
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        """Gives whole test files to the workers, except those in SPREAD."""

        def _split_scope(self, nodeid):
            return nodeid if module_of(nodeid) in SPREAD else module_of(nodeid)

    config.option.loadscopereorder = False  # not by number of tests
    return ByModule(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with larger reference tensors and real videos, beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data is not on this machine: no folder {SHARED}")
    return SHARED
