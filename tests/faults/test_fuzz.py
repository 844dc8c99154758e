"""
Nothing that reads foreign bytes does anything but give a result or a named error: see fuzzing.py. `FUZZ_SCALE=10` has
ten times as many cases.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzed_readers import READERS

pytestmark = pytest.mark.slow  # 30 seconds of two cores at most
FUZZING = Path(__file__).with_name("fuzzing.py")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict]:
    """What became of the cases, by reader: all run in processes of their own, which a crash ends and not this one."""
    file = tmp_path_factory.mktemp("fuzz") / "outcomes.json"
    command = [sys.executable, str(FUZZING), "--output", str(file), "--scale", os.environ.get("FUZZ_SCALE", "1")]
    run = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    print(run.stdout)
    assert file.is_file(), run.stderr
    return {outcome["reader"]: outcome for outcome in json.loads(file.read_text())}


@pytest.mark.parametrize("reader", READERS)
def test_damaged_bytes_give_a_result_or_a_named_error(outcomes, reader):
    outcome = outcomes[reader]
    assert outcome["failure"] is None
    # Damage that is always noticed at once, or never, would test little.
    assert outcome["results"] > 0
    assert sum(outcome["errors"].values()) > 0
    assert outcome["cases"] == outcome["results"] + sum(outcome["errors"].values())


def test_there_are_enough_cases(outcomes):
    assert sum(outcome["cases"] for outcome in outcomes.values()) >= 10_000 * float(os.environ.get("FUZZ_SCALE", "1"))
