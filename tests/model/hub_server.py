"""A Hugging Face hub of one file, on this machine: as much of its protocol as `hf_hub_download` speaks.

As the real one does, it answers who asks for the file with its commit, size and sha256 in headers and a
redirect to another host, which serves the bytes and honours ranges. What goes wrong is set on the `Hub`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served.

    `body`: the file whose sha256 is stated; `sent`: the bytes that are sent in its place; `status`: of every
    answer; `cuts`: for each request of bytes, in turn, how many are sent before the connection breaks, none
    for no break; `asked`: (method, Range header) of every request so far.
    """

    body: bytes
    sent: bytes | None = None
    status: int = 200
    cuts: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """The hub, on a free port of this machine."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        wanted = re.match(r"/Mendel192/san/resolve/main/san_vit_b_16\.pth|(/bytes/)", self.path)
        if wanted is None:  # huggingface_hub asks for more than the file; a hub need not know
            self._headers(404, 0)
            return
        self.hub.asked.append((self.command, self.headers["Range"]))
        if self.hub.status != 200:
            self._headers(self.hub.status, 0)
        elif wanted[1]:
            self._send()
        else:
            digest = hashlib.sha256(self.hub.body).hexdigest()
            self._headers(
                302,
                0,
                ("Location", f"http://localhost:{self.hub.port}/bytes/{digest}"),
                ("X-Repo-Commit", COMMIT),
                ("X-Linked-Etag", f'"{digest}"'),
                ("X-Linked-Size", str(len(self.hub.body))),
            )

    def _send(self) -> None:
        content = self.hub.body if self.hub.sent is None else self.hub.sent
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(asked[1]) if asked else 0
        part = content[start:]
        if asked:
            self._headers(
                206, len(part), ("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            )
        else:
            self._headers(200, len(part))
        self.wfile.write(part[: self.hub.cuts.pop(0)] if self.hub.cuts else part)
        self.close_connection = True

    def _headers(self, status: int, length: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(length)), *headers):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass
