"""A store of files over HTTP on this machine, with ranges, that fails in the ways of real ones."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Any


@dataclass
class ObjectStore:
    """files: path → content. fail: called with each request, in order; returns a status to answer with, or 0.

    cut: bytes that each answer lacks. ranges: whether they are known. slow_s: seconds before each answer.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    fail: Callable[[str, int], int] = lambda path, number: 0
    cut: int = 0
    ranges: bool = True
    slow_s: float = 0.0
    url: str = ""
    gets: Counter[str] = field(default_factory=Counter)  # requests for content by path
    sent: Counter[str] = field(default_factory=Counter)  # bytes by path
    requests: int = 0


@contextmanager
def serving(store: ObjectStore) -> Iterator[ObjectStore]:
    """Serve on a free port, for as long as the context lasts."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.lstrip("/")
            with lock:
                store.requests += 1
                store.gets[path] += with_body
                status = store.fail(path, store.requests)
            content = store.files.get(path)
            status = status or (404 if content is None else 200)
            body, ranged = content or b"", self.headers.get("Range", "").removeprefix("bytes=")
            if status == 200 and ranged and store.ranges:
                first, last = (int(number) for number in ranged.split("-"))
                body, status = body[first : last + 1], 206
            if status not in (200, 206):
                body = b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", md5(content or b"", usedforsecurity=False).hexdigest())
            self.end_headers()
            if with_body and body:
                sleep(store.slow_s)
                sent = body[: len(body) - store.cut]
                with lock:
                    store.sent[path] += len(sent)
                with suppress(ConnectionError):  # the other side may have been killed
                    self.wfile.write(sent)
                if store.cut:
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.url = f"http://127.0.0.1:{server.server_port}/data"
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
