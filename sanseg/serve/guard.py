"""What every request passes through: which hosts and pages may ask, the headers of every answer, counts, and a log."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sanseg.serve.problems import Problem, busy
from sanseg.serve.service import Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " font-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

SAFE = ("GET", "HEAD", "OPTIONS")  # methods that change nothing

logger = logging.getLogger("sanseg.serve")


class Guard:
    """The outermost layer. It logs the route, never the path, keys or anything else that a client sent."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, begun = 0, monotonic()
        if head := scope["method"] == "HEAD":  # as GET, whose body is left out
            scope = {**scope, "method": "GET"}

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self._service.closing:
                    headers["Connection"] = "close"
            elif head:
                message = {**message, "body": b""}
            await send(message)

        self._service.open_requests += 1
        try:
            await self._answer(scope, receive, guarded)
        except ClientDisconnect:
            status = status or 499  # as nginx counts them; nobody reads it
        except Exception:
            logger.exception("%s %s failed", scope["method"], route_of(scope))
            if status:
                raise  # the answer had begun: the connection must break
            problem = Problem(500, "the service failed, which is its own mistake: its log says how")
            await problem.response()(scope, receive, guarded)
        finally:
            self._service.open_requests -= 1
            self._note(scope, "HEAD" if head else scope["method"], status, monotonic() - begun)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        settings = self._service.settings
        try:
            if self._service.open_requests > settings.requests:
                raise busy(f"{settings.requests} requests are open, the most that may: ask again later")
            check_host(headers.get("host", ""), settings.hosts)
            if scope["method"] not in SAFE:
                check_origin(headers.get("origin"), headers.get("host", ""), settings.origins)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _note(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        method = method if method in (*SAFE, "POST", "DELETE") else "other"
        route = route_of(scope)
        self._service.metrics.requests.labels(method, route, str(status)).inc()
        self._service.metrics.seconds.labels(route).observe(seconds)
        logger.info("%s %s %d %.0f ms", method, route, status, 1000 * seconds)


def route_of(scope: Scope) -> str:
    """The path as documented: few, whatever clients send."""
    path = getattr(scope.get("route"), "path", None)
    if path is not None:
        return str(path)
    return "/static" if scope["path"].startswith("/static/") else "other"


def check_host(host: str, named: Iterable[str]) -> None:
    """Raises Problem for a name that is not this service's.

    A page of another site may give its own name this machine's address (DNS rebinding), and then reads what it
    likes: it cannot do so with an address, or with localhost.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        name = ""
    if name == "localhost" or name in {one.lower() for one in named}:
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise Problem(
            421,
            f"this service is not called {host[:80]!r}: use its address, or start it with --name {name[:80] or 'NAME'}",
        ) from None


def check_origin(origin: str | None, host: str, named: Iterable[str]) -> None:
    """Raises Problem for a page of another server that was not named, which a browser says of itself."""
    if origin is None or origin in named:
        return
    with suppress(ValueError):  # what is no address is another page
        if urlsplit(origin).netloc == host:
            return
    raise Problem(403, f"a page of {origin[:80]!r} may not ask here: start the service with --origin for it")
