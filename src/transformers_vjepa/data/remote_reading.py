"""Read from servers that stall, disconnect or fail temporarily: time limits, and a bounded number of tries."""

import asyncio
import re
import tarfile
import time
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import datasets
import pyarrow as pa
from fsspec import get_filesystem_class
from fsspec.core import url_to_fs

from ..models.vjepa.media_files import read_address
from ..safety.sanitizing import without_secrets
from .random_streams import hash_counters

#: Time limits in seconds: to connect, and between two pieces of data.
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 10.0
#: Number of tries, and seconds before the second try; the waiting time doubles after each try.
TRIES, FIRST_DELAY = 5, 0.5
# HTTP statuses below 500 that are temporary: request timeout, too early, too many requests.
_TEMPORARY_STATUSES = {408, 425, 429}

Result = TypeVar("Result")


def source_errors() -> tuple[type[Exception], ...]:
    """Errors of remote sources, as opposed to bugs."""
    # Importing aiohttp takes long, and only HTTP needs it.
    from aiohttp import ClientError

    # Before Python 3.11 an asyncio.TimeoutError is not an OSError.
    return (OSError, asyncio.TimeoutError, ClientError, tarfile.TarError, pa.ArrowInvalid)


def retry_delay(failures: int, *, seed: int) -> float:
    """
    Seconds to wait after a number of failures in a row: 0.5, 1, 2 ... times a factor from 0.5 to 1, which is a
    function of `seed`, so that readers that failed together do not try again together.
    """
    return FIRST_DELAY * 2 ** (failures - 1) * (0.5 + hash_counters(seed, failures) / 2**64)


def retried(read: Callable[[], Result], *, name: str, seed: int = 0) -> Result:
    """
    Call `read` in up to `TRIES` tries, and return its result.

    Raises:
        FileNotFoundError, PermissionError: immediately.
        OSError: the last try failed, or a try failed permanently.
    """
    for failures in range(1, TRIES + 1):
        try:
            return read()
        except (FileNotFoundError, PermissionError):
            raise
        except source_errors() as error:
            if failures == TRIES or not _is_temporary(error):
                tries = f"{failures} tries" if failures > 1 else "1 try"
                message = f"{name} cannot be read after {tries} ({type(error).__name__}: {error}): check its server"
                raise OSError(without_secrets(message)) from error
        time.sleep(retry_delay(failures, seed=seed))


def _is_temporary(error: Exception) -> bool:
    status = getattr(error, "status", None)
    return status is None or status >= 500 or status in _TEMPORARY_STATUSES


def fetch(url: str, *, seed: int = 0) -> bytes:
    """
    The contents of the file at a URL of any kind that fsspec supports. Raises the errors of [`read_address`] for a
    file beyond the bounds, and those of [`retried`].
    """
    name = without_secrets(url)
    return retried(lambda: read_address(url, name=name, **storage_options(url)), name=name, seed=seed)


def open_address(url: str, *, seekable: bool = False) -> BinaryIO:
    """
    Opens the file at a URL of any kind that fsspec supports. Without `seekable` it can be read once, from start to
    end, for which HTTP and the Hub need one response instead of one for each block.

    Raises:
        OSError, and the other [`source_errors`].
    """
    system, path = url_to_fs(url, **storage_options(url))
    has_blocks = seekable or not url.startswith(("http://", "https://", "hf://"))
    return system.open(path, "rb") if has_blocks else system.open(path, "rb", block_size=0)


def address_name(url: str) -> str:
    """
    An address without password, query and fragment, for names that go on with `::member`: whatever hides secrets in a
    line takes all after a question mark for a query.
    """
    return re.split("[?#]", without_secrets(url), maxsplit=1)[0] if "://" in url else url


def address_exists(url: str) -> bool:
    """Whether a file at a URL exists and may be read."""
    system, path = url_to_fs(url, **storage_options(url))
    return system.exists(path)


def check_address(url: str) -> None:
    """
    Raises:
        ValueError: an address of an unknown kind (`foo://`), or of a kind that needs a package which is not installed.
    """
    for part in url.split("::"):
        scheme, mark, _ = part.partition("://")
        try:
            if mark:
                get_filesystem_class(scheme)
        except ImportError as error:
            raise ValueError(f"{without_secrets(url)}: {error} ({scheme}:// addresses)") from error
        except ValueError as error:
            known = "http, https, hf, and with their packages s3, gs, abfs and others of fsspec"
            raise ValueError(
                f"{without_secrets(url)}: {scheme}:// is not a known kind of address: use {known}"
            ) from error


def storage_options(url: str) -> dict[str, Any]:
    """Options of fsspec for `url`: for HTTP, time limits and the proxy from the environment."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    # No limit for the total time, because a large file may take long.
    timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def disable_datasets_retries() -> None:
    """
    Make `datasets` try only once in this process. By default it tries 20 times, every 5 s, to continue a response that
    has been interrupted, which always fails: the file must be opened again.
    """
    # These settings of `datasets` hold for the whole process; no other code of this file depends on its internals.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 1
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
