"""Reading from servers that stall, break off or fail for a while: time limits, and a bounded number of tries."""

import asyncio
import tarfile
import time
from collections.abc import Callable
from typing import Any, TypeVar

import datasets
import fsspec
import pyarrow as pa

from ..safety.sanitizing import without_secrets
from .random_streams import hash_counters

#: Seconds for a connection, and between two pieces of data.
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 10.0
#: Tries in all, and seconds before the second; they double from try to try.
TRIES, FIRST_DELAY = 5, 0.5
# Statuses below 500 that pass by themselves: request timeout, too early, too many requests.
_PASSING_STATUSES = {408, 425, 429}

Result = TypeVar("Result")


def source_errors() -> tuple[type[Exception], ...]:
    """What reading from afar raises when the source is at fault."""
    # aiohttp takes long to import, and only HTTP needs it.
    from aiohttp import ClientError

    # Before Python 3.11 an asyncio.TimeoutError is no OSError.
    return (OSError, asyncio.TimeoutError, ClientError, tarfile.TarError, pa.ArrowInvalid)


def retry_delay(failures: int, *, seed: int) -> float:
    """
    Seconds to wait after so many failures in a row: 0.5, 1, 2 ... times a factor from 0.5 to 1 that is a function of
    `seed`, so that readers that failed together do not come back together.
    """
    return FIRST_DELAY * 2 ** (failures - 1) * (0.5 + hash_counters(seed, failures) / 2**64)


def retried(read: Callable[[], Result], *, name: str, seed: int = 0) -> Result:
    """
    What `read` returns, in up to `TRIES` tries.

    Raises:
        FileNotFoundError, PermissionError: at once.
        OSError: the last try failed, or one in a way that will not pass.
    """
    failures = 0
    while True:
        try:
            return read()
        except (FileNotFoundError, PermissionError):
            raise
        except source_errors() as error:
            failures += 1
            if failures == TRIES or not _may_pass(error):
                tries = f"{failures} tries" if failures > 1 else "1 try"
                message = (
                    f"{name} cannot be read after {tries} ({type(error).__name__}: {error}): look after its server"
                )
                raise OSError(without_secrets(message)) from error
        time.sleep(retry_delay(failures, seed=seed))


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status", None)
    return status is None or status >= 500 or status in _PASSING_STATUSES


def fetch(url: str, *, seed: int = 0) -> bytes:
    """The contents of a file behind a URL of any kind that fsspec knows. Raises as [`retried`] does."""
    system, path = fsspec.core.url_to_fs(url, **storage_options(url))
    return retried(lambda: system.cat_file(path), name=url, seed=seed)


def storage_options(url: str) -> dict[str, Any]:
    """Options of fsspec for `url`: over HTTP, time limits and the proxy that the environment names."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    # No limit for the whole: a large file may take its time.
    timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def disable_datasets_retries() -> None:
    """
    Has `datasets` try once only in this process: it would read on in a response that has broken off, 20 times, every
    5 s, and in vain. A file must be opened anew.
    """
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 1
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = datasets.config.STREAMING_READ_RETRY_INTERVAL = 0


__all__ = [
    "CONNECT_TIMEOUT",
    "FIRST_DELAY",
    "READ_TIMEOUT",
    "TRIES",
    "fetch",
    "disable_datasets_retries",
    "retried",
    "retry_delay",
    "source_errors",
    "storage_options",
]
