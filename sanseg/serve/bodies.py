"""Bodies of requests: counted while they come, before anything is made of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from sanseg.serve.problems import Problem, busy
from sanseg.serve.settings import Settings

FIELDS = 16  # of a form, at most
AROUND = 64 * 1024  # bytes of a form that are neither picture nor text: boundaries, names


@dataclass(frozen=True)
class Form:
    """image: a picture's file. name: what the client calls it, without folders. fields: the others, by name."""

    image: bytes
    name: str | None
    fields: dict[str, str]


class Bodies:
    """What is coming in, of all requests. bytes: of it in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.bytes = 0

    async def json(self, request: Request) -> bytes:
        """A body of JSON. Raises Problem for another type, and as `_coming`."""
        kind, _ = _content_type(request)
        if kind != "application/json":
            raise Problem(415, f"the body is {kind or 'of no type'}: send application/json")
        async with self._coming(request, self._settings.text_bytes) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def form(self, request: Request, fields: frozenset[str] = frozenset()) -> Form:
        """A multipart form with the file `image` and some of these fields.

        Raises Problem for another type, a form that is none, parts that are too many, twice there or unknown, and as
        `_coming`.
        """
        kind, charset = _content_type(request)
        if kind != "multipart/form-data":
            raise Problem(
                415, f"the body is {kind or 'of no type'}: send multipart/form-data with a part image"
            )
        if charset not in (None, "utf-8"):
            raise Problem(415, f"the form is in {charset}: send UTF-8")
        most, text = self._settings.bytes, self._settings.text_bytes
        async with self._coming(request, most + AROUND + (text if fields else 0)) as chunks:
            parser = MultiPartParser(
                request.headers, chunks, max_files=1, max_fields=FIELDS, max_part_size=text
            )
            parser.spool_max_size = most + AROUND + text  # all in memory, which is counted
            try:
                form = await parser.parse()
            except MultiPartException as error:
                raise Problem(
                    400,
                    f"the form cannot be read ({error.message}): send one file and at most {FIELDS} fields",
                ) from error
            try:
                return await self._checked(form.multi_items(), fields)
            finally:
                await form.close()

    async def _checked(self, parts: list[tuple[str, UploadFile | str]], fields: frozenset[str]) -> Form:
        found = dict(parts)
        known = ", ".join(sorted({"image", *fields}))
        if len(found) < len(parts):
            raise Problem(422, f"a part of the form is there twice: send each of {known} once at most")
        if unknown := sorted({*found} - fields - {"image"}):
            raise Problem(422, f"the form has a part {unknown[0][:40]!r}: known are {known}")
        image = found.pop("image", None)
        if not isinstance(image, UploadFile):
            raise Problem(422, "the form has no file named image: send one, as curl -F image=@photo.jpg does")
        data = await image.read()
        if len(data) > self._settings.bytes:
            raise _too_many_bytes(len(data), self._settings.bytes)
        texts = {name: part for name, part in found.items() if isinstance(part, str)}
        if len(texts) < len(found):
            raise Problem(422, "the form has a file beside image: send the other fields as text")
        name = (image.filename or "").replace("\\", "/").rpartition("/")[2]
        return Form(data, name or None, texts)

    @asynccontextmanager
    async def _coming(self, request: Request, most: int) -> AsyncIterator[AsyncGenerator[bytes]]:
        """The chunks of a body.

        Raises Problem for more than `most` bytes, said or sent; for bodies that are too many at once; and for one that
        takes too long to come.
        """
        said = request.headers.get("content-length", "")
        if said.isdecimal() and int(said[:20]) > most:
            raise _too_many_bytes(int(said[:20]), most)
        before = 0

        async def counted() -> AsyncGenerator[bytes]:
            nonlocal before
            async for chunk in request.stream():
                before += len(chunk)
                self.bytes += len(chunk)
                if before > most:
                    raise _too_many_bytes(before, most)
                if self.bytes > self._settings.receiving_bytes:
                    raise busy("too much is being sent to this service at once: ask again later")
                yield chunk

        try:
            async with asyncio.timeout(self._settings.receiving_seconds), aclosing(counted()) as chunks:
                yield chunks
        except TimeoutError as error:
            raise Problem(
                408,
                f"the body did not come within {self._settings.receiving_seconds:g} seconds: send it faster",
            ) from error
        finally:
            self.bytes -= before


def _content_type(request: Request) -> tuple[str, str | None]:
    """Its kind, and its charset if it says one, in lower case."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    charset = options.get(b"charset")
    return kind.decode("latin-1").lower(), None if charset is None else charset.decode("latin-1").lower()


def _too_many_bytes(got: int, most: int) -> Problem:
    return Problem(
        413,
        f"the request has {got} bytes or more, at most {most} are taken: send a smaller picture, or start the"
        " service with a larger --max-megabytes",
    )
