"""One process that answers on a socket until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import socket
import webbrowser
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from sanseg.serve.service import Service

HEAD_SECONDS = 20.0  # that a line may bring no request
UNREAD_LOOKS = 6  # times as long nothing of an answer may be taken; systems hand on some megabytes at once
BACKLOG = 256  # connections that the system holds until they are taken


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; port 0 is any that is free. Raises OSError, in one line, where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise OSError(
            f"there is no address {host!r} here ({error.strerror}): give one, as 127.0.0.1"
        ) from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise OSError(
                f"{host} is no address of this machine: give one, as 127.0.0.1 or 0.0.0.0"
            ) from error
        raise OSError(
            f"port {port} of {host} cannot be had ({error.strerror}): another service may be there; choose another,"
            f" as --port {port + 1 if 0 < port < 65535 else 8000}"
        ) from error
    return bound


class Line(H11Protocol):
    """Hangs up on who says nothing, sends the head of a request bit by bit without an end, or reads no answer.

    Bodies have their own patience (`bodies.Bodies`), and so has the computing.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._seen: tuple[object, int] = (
            None,
            0,
        )  # the latest request, and bytes of answers that nobody took
        self._looks = 0  # that saw the same
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._looking.cancel()
        super().connection_lost(exc)

    def _look_later(self) -> None:
        self._looking = self.loop.call_later(HEAD_SECONDS, self._look)

    def _look(self) -> None:
        unread = self.transport.get_write_buffer_size()
        seen = (self.cycle, unread)
        self._looks = self._looks + 1 if seen == self._seen else 0
        self._seen = seen
        idle = self.cycle is None or self.cycle.response_complete
        if (unread and self._looks >= UNREAD_LOOKS) or (idle and not unread and self._looks):
            self.transport.abort()
        else:
            self._look_later()


class Server(uvicorn.Server):
    """Told to stop, it answers what it has, refuses what is new with 503, and ends; told again, it ends at once."""

    def __init__(self, app: FastAPI, open_address: str | None = None) -> None:
        # No access log of uvicorn's: it tells paths. Nor what the server runs on.
        super().__init__(
            uvicorn.Config(
                app,
                http=Line,
                backlog=BACKLOG,
                access_log=False,
                log_config=None,
                server_header=False,
                lifespan="on",
            )
        )
        self._service: Service = app.state.service
        self._open_address = open_address

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.closing:
            self.should_exit = self.force_exit = True
        self._service.close()

    async def on_tick(self, counter: int) -> bool:
        if self._open_address is not None and self._service.worker.ready:
            webbrowser.open(self._open_address)
            self._open_address = None
        failed = self._service.worker.failure is not None
        idle = self._service.closing and self._service.open_requests == 0
        return await super().on_tick(counter) or failed or idle


def run(app: FastAPI, bound: socket.socket, *, open_address: str | None = None) -> None:
    """Until SIGTERM or Ctrl-C. open_address: a page that the browser opens once the model is loaded.

    Raises what loading the model raised.
    """
    Server(app, open_address).run(sockets=[bound])
    failure = app.state.service.worker.failure
    if failure is not None:
        raise failure
