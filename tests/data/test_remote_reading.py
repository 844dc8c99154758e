import gzip

import pytest
from aiohttp import ClientResponseError, RequestInfo
from datasets import config as datasets_config
from faulty_server import serving
from yarl import URL

from transformers_vjepa.data import remote_reading
from transformers_vjepa.data.remote_reading import (
    TRIES,
    disable_datasets_retries,
    fetch,
    retried,
    retry_delay,
    storage_options,
)
from transformers_vjepa.models.vjepa import media_files
from transformers_vjepa.models.vjepa.clip_sampling import CorruptVideoError


@pytest.fixture
def waits(monkeypatch):
    """Seconds that would have been waited."""
    seconds = []
    monkeypatch.setattr(remote_reading.time, "sleep", seconds.append)
    return seconds


def failing(*errors):
    remaining = list(errors)

    def read():
        if remaining:
            raise remaining.pop(0)
        return "read"

    return read


def status(number):
    return ClientResponseError(RequestInfo(URL("http://host/x"), "GET", None), (), status=number)


def test_what_may_pass_is_tried_again_after_a_while(waits):
    errors = [ConnectionResetError("reset"), status(500), status(429), TimeoutError()]
    assert retried(failing(*errors), name="x", seed=3) == "read"
    assert waits == [retry_delay(failures, seed=3) for failures in (1, 2, 3, 4)]


def test_waits_double_and_differ_from_reader_to_reader():
    for failures, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0)):
        delays = [retry_delay(failures, seed=seed) for seed in range(100)]
        assert longest / 2 <= min(delays) < 0.6 * longest and 0.9 * longest < max(delays) <= longest
        assert delays == [retry_delay(failures, seed=seed) for seed in range(100)]


def test_tries_are_bounded_and_the_last_error_is_named(waits):
    with pytest.raises(OSError, match=r"a\.mp4 cannot be read after 5 tries \(TimeoutError: late\): check its"):
        retried(failing(*[TimeoutError("late")] * TRIES), name="a.mp4")
    assert len(waits) == TRIES - 1


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), PermissionError("closed"), status(403)])
def test_what_will_not_pass_is_not_tried_again(waits, error):
    with pytest.raises(OSError, match="gone|closed|x cannot be read after 1 try .*403"):
        retried(failing(error), name="x")
    assert not waits


def test_our_own_mistakes_are_not_taken_for_failing_servers(waits):
    with pytest.raises(ZeroDivisionError):
        retried(lambda: 1 // 0, name="x")
    assert not waits


def test_any_file_system_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"bytes")
    assert fetch(f"file://{tmp_path / 'x'}") == b"bytes"
    with pytest.raises(FileNotFoundError):
        fetch(f"file://{tmp_path / 'y'}")


def test_http_has_time_limits():
    timeout = storage_options("https://host/x.mp4")["client_kwargs"]["timeout"]
    assert (timeout.sock_connect, timeout.sock_read, timeout.total) == (10, 10, None)
    assert storage_options("s3://bucket/x.mp4") == {}


def test_data_sets_try_once(monkeypatch):
    for name in ("READ_MAX_RETRIES", "OPEN_MAX_RETRIES", "READ_RETRY_INTERVAL", "OPEN_RETRY_INTERVAL"):
        monkeypatch.setattr(datasets_config, f"STREAMING_{name}", 20)
    disable_datasets_retries()
    assert datasets_config.STREAMING_READ_MAX_RETRIES == datasets_config.STREAMING_OPEN_MAX_RETRIES == 1
    assert datasets_config.STREAMING_READ_RETRY_INTERVAL == datasets_config.STREAMING_OPEN_RETRY_INTERVAL == 0


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(media_files, "MAX_FILE_BYTES", 10**5)


def test_an_address_sends_at_most_so_many_bytes(small_files):
    with serving() as server:
        server.files |= {"/fits": bytes(10**5), "/large": bytes(10**5 + 1)}
        assert fetch(server.url("/fits")) == bytes(10**5)
        with pytest.raises(
            CorruptVideoError, match="its address sends more than 100000 bytes allow: download it, or r"
        ):
            fetch(server.url("/large"))
        assert server.requests["/large"] == 1  # not tried again


def test_bytes_count_after_unpacking(small_files):
    with serving() as server:
        server.files |= {"/a": gzip.compress(bytes(10**5)), "/b": gzip.compress(bytes(10**8))}
        server.encoding = "gzip"
        assert fetch(server.url("/a")) == bytes(10**5)
        with pytest.raises(CorruptVideoError, match="sends more than 100000 bytes"):
            fetch(server.url("/b"))


def test_an_endless_body_ends(small_files):
    with serving() as server:
        server.files["/x"] = b"x"
        server.faults["/x"] = "endless"
        with pytest.raises(CorruptVideoError, match="sends more than 100000 bytes"):
            fetch(server.url("/x"))


def test_an_address_that_takes_too_long_ends(monkeypatch):
    monkeypatch.setattr(media_files, "MAX_FETCH_SECONDS", 0)
    with serving() as server:
        server.files["/x"] = bytes(10**5)
        with pytest.raises(CorruptVideoError, match="sends more than 0 seconds allow: .* VJEPA_MAX_FETCH_SECONDS"):
            fetch(server.url("/x"))


def test_any_file_system_is_bounded(tmp_path, small_files):
    (tmp_path / "x").write_bytes(bytes(10**5 + 1))
    with pytest.raises(CorruptVideoError, match="sends more than 100000 bytes"):
        fetch(f"file://{tmp_path / 'x'}")


def test_errors_name_no_secrets(tmp_path, small_files):
    with serving() as server:
        server.files["/x?token=hunter2"] = bytes(10**5 + 1)
        with pytest.raises(CorruptVideoError) as error:
            fetch(server.url("/x?token=hunter2"))
        assert "hunter2" not in str(error.value) and str(error.value).startswith("http://127.0.0.1")


def test_other_schemes_are_not_followed(tmp_path, waits):
    """A server may redirect to another address, but not to a file of this machine."""
    (tmp_path / "secret").write_bytes(b"secret")
    with serving() as server:
        server.files |= {"/x": b"", "/y": b"other"}
        server.redirects |= {"/x": f"file://{tmp_path / 'secret'}", "/z": server.url("/y")}
        server.files["/z"] = b""
        assert fetch(server.url("/z")) == b"other"
        with pytest.raises(OSError, match=r"/x cannot be read after 5 tries \(NonHttpUrlRedirectClientError"):
            fetch(server.url("/x"))
