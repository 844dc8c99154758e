"""An HTTP server with faults that a test chooses."""

import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FaultyServer(ThreadingHTTPServer):
    """
    Serves `files`, bytes by path. `faults[path]` says what happens at a GET of a path: a list has one fault for each
    request, a single name holds for all requests.

    - `"500"`, `"404"`: answers with that status;
    - `"reset"`: sends half of the file and resets the connection;
    - `"stall"`: sends half of the file and then nothing until the server stops;
    - `"endless"`: sends the file again and again, without a length.

    `encoding` is the content encoding that answers name. `redirects` sends a path to another address.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, str | list[str]] = defaultdict(list)
        self.requests: Counter[str] = Counter()
        self.encoding: str | None = None
        self.redirects: dict[str, str] = {}
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def next_fault(self, path: str) -> str | None:
        self.requests[path] += 1
        faults = self.faults[path]
        if isinstance(faults, str):
            return faults
        return faults.pop(0) if faults else None

    def handle_error(self, request, client_address) -> None:
        """Prints nothing: the tests make clients give up."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer

    def do_HEAD(self) -> None:
        self._start(200 if self.path in self.server.files else 404)

    def do_GET(self) -> None:
        fault = self.server.next_fault(self.path) if self.path in self.server.files else "404"
        if fault in ("404", "500"):
            self._start(int(fault))
            return
        if self.path in self.server.redirects:
            self._start(302)
            return
        data = self.server.files[self.path]
        if fault == "endless":
            self.send_response(200)
            self.end_headers()
            while not self.server.closing.is_set():
                self.wfile.write(data * 2**14)
            return
        self._start(200)
        if fault is None:
            self.wfile.write(data)
            return
        self.wfile.write(data[: len(data) // 2])
        if fault == "stall":
            self.server.closing.wait()
        # With a linger time of 0, closing the socket sends a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _start(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.server.files[self.path]) if status == 200 else 0))
        if status == 200 and self.server.encoding is not None:
            self.send_header("Content-Encoding", self.server.encoding)
        if status == 302:
            self.send_header("Location", self.server.redirects[self.path])
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Prints nothing."""


@contextmanager
def serving() -> Iterator[FaultyServer]:
    """A server that runs in the background."""
    with FaultyServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
