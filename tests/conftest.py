"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference tensors and real videos that lies beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data is not on this machine: no folder {SHARED}")
    return SHARED
