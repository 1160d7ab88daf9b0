"""Errors as problem details (RFC 9457): what was got, what was wanted, the remedy, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

TYPE = "application/problem+json"
LONGEST = 1_000  # characters of a detail


class Problem(HTTPException):
    """Ends a request. detail: got, wanted, remedy. headers: further ones of the answer."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, _line(detail), dict(headers or {}))

    def response(self) -> Response:
        title = HTTPStatus(self.status_code).phrase
        content = {"type": "about:blank", "title": title, "status": self.status_code, "detail": self.detail}
        return JSONResponse(content, self.status_code, self.headers, TYPE)


def busy(detail: str, seconds: float = 1.0) -> Problem:
    """503: for now. seconds: after which it is worth asking again."""
    return Problem(503, detail, {"Retry-After": str(max(1, round(seconds)))})


def _line(text: str) -> str:
    """One printable line: what a client sent may be quoted in it."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    line = " ".join(line.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
