"""What the requests of one service share, and how one of them gets its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from sanseg.segmentation import Segmentation
from sanseg.segmenter import Encoded, Segmenter
from sanseg.serve import answers
from sanseg.serve.bodies import Bodies
from sanseg.serve.keys import Keys
from sanseg.serve.memory import give_back
from sanseg.serve.metrics import Metrics
from sanseg.serve.problems import Problem, busy
from sanseg.serve.settings import Settings
from sanseg.serve.store import Kept, Store
from sanseg.serve.words import Ask, vocabulary
from sanseg.serve.worker import Worker
from sanseg.vocabulary import Vocabulary

T = TypeVar("T")

# Seconds between looks for pictures that are too old, and for memory that is free: what is given back has to be had
# again, which makes a picture that comes right after it a sixth slower.
SWEEP = 10.0


class Service:
    """Of one process. load: gives the Segmenter."""

    def __init__(self, load: Callable[[], Segmenter], settings: Settings) -> None:
        self.settings = settings
        self.keys = Keys(settings.keys)
        self.metrics = Metrics()
        self.bodies = Bodies(settings)
        self.worker = Worker(partial(_loaded, load), settings, self.metrics)
        self.store = Store(settings.kept_bytes, settings.kept_seconds)
        self.closing = False
        self.open_requests = 0
        self._encoding: dict[str, _Shared] = {}
        self.metrics.gauges(
            {
                "sanseg_pictures_waiting": ("To be encoded or at it.", lambda: self.worker.busy["pictures"]),
                "sanseg_questions_waiting": (
                    "To be answered or at it.",
                    lambda: self.worker.busy["questions"],
                ),
                "sanseg_kept_pictures": ("Encoded pictures in memory.", lambda: len(self.store)),
                "sanseg_kept_bytes": ("Of encoded pictures in memory.", lambda: self.store.bytes),
                "sanseg_receiving_bytes": ("Of bodies that are coming in.", lambda: self.bodies.bytes),
            }
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.worker.start()
        sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.to_thread(self.worker.stop)

    async def _sweep(self) -> None:
        seen = 0
        while True:
            await asyncio.sleep(SWEEP)
            self.store.sweep()
            if self.worker.done != seen:
                seen = self.worker.done
                await asyncio.to_thread(give_back)

    def close(self) -> None:
        """From now on no new work is taken."""
        self.closing = True

    def check_open(self) -> None:
        """Raises Problem where no work is taken."""
        if self.closing:
            raise busy("the service is shutting down: ask again in some seconds, or another", 5)
        if self.worker.failure is not None:
            raise busy("the model could not be loaded: its owner finds out why in the log", 60)
        _ = self.worker.segmenter

    def admit(self, request: Request, kind: str | None = None) -> bytes:
        """Who asks. Raises Problem where they may not, where no work is taken, and where there is too much of it.

        kind: of work, as the worker counts it.
        """
        client = self.keys.client(request.headers.get("authorization"))
        self.check_open()
        if kind is not None:
            self.worker.check_room(kind)
        return client

    async def keep(self, client: bytes, data: bytes) -> Kept:
        """A picture's file, encoded once: also when the same client sends it twice at the same moment."""
        id_ = await self.worker.read(lambda: self.store.id(client, data))
        try:
            return self.store.find(id_, client)
        except Problem:
            pass
        shared = self._encoding.get(id_)
        if shared is None:
            shared = self._encoding[id_] = _Shared(asyncio.create_task(self._encode(id_, client, data)))
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if shared.waiting == 0:
                del self._encoding[id_]
                shared.task.cancel()  # unless it is done

    async def _encode(self, id_: str, client: bytes, data: bytes) -> Kept:
        with self.worker.place("pictures"):
            return self.store.put(id_, client, await self.worker.encode(data))

    async def answer(self, encoded: Encoded, ask: Ask, accept: str) -> answers.Answer:
        """Of a picture that is kept. accept: the header. Raises Problem for what cannot be asked."""
        with self.worker.place("questions"):
            return await self._answer(encoded, await self._question(ask, accept, None))

    async def encode_and_answer(self, data: bytes, name: str | None, ask: Ask, accept: str) -> answers.Answer:
        """Of a picture's file, of which nothing is kept. name: of the picture, where `ask` gives none."""
        with self.worker.place("pictures"):
            question = await self._question(ask, accept, name)  # mistakes in the words show at once
            return await self._answer(await self.worker.encode(data), question)

    async def _question(self, ask: Ask, accept: str, name: str | None) -> Question:
        format_ = answers.choose(ask.format, accept)
        picture = name if ask.picture is None else checked_name(ask.picture)
        words = await self.worker.read(lambda: vocabulary(ask, self.settings))
        return Question(words, format_, picture)

    async def _answer(self, encoded: Encoded, question: Question) -> answers.Answer:
        def write(segmentation: Segmentation) -> answers.Answer:
            return answers.write(segmentation, question.format, question.picture)

        queries = answers.needs_queries(question.format)
        return await self.worker.answer(encoded, question.words, write, proposals=queries)

    async def while_wanted(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """What work gives, cancelled when its client has gone or its time is up.

        The body of the request was read. Raises Problem when the time is up, ClientDisconnect when nobody is there.
        """
        task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
        try:
            async with asyncio.timeout(self.settings.seconds):
                await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise Problem(
                504, f"there was no answer within {self.settings.seconds:g} seconds: ask again, or send less"
            ) from error
        finally:
            done = task.done()
            task.cancel()
            gone.cancel()
            await asyncio.wait({task, gone})  # their places are free
        if not done:
            raise ClientDisconnect
        return task.result()


@dataclass(frozen=True)
class Question:
    """words: that compete. format: of the answer. picture: what files that name their picture call it."""

    words: Vocabulary
    format: str
    picture: str | None


@dataclass(eq=False)
class _Shared:
    """What goes on as long as anybody waits for it."""

    task: asyncio.Task[Kept]
    waiting: int = 0


def _loaded(load: Callable[[], Segmenter]) -> Segmenter:
    """What takes a while once is done before the first request comes."""
    answers.installed()
    return load()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def checked_name(name: str) -> str:
    """Raises Problem for what is no name of a file."""
    if not is_name(name):
        raise Problem(422, f"the picture is called {name[:40]!r}: give a name of a file, without folders")
    return name


def is_name(name: str) -> bool:
    """Whether it names a file, in any folder."""
    return bool(name.strip(". ")) and name.isprintable() and not {"/", "\\"} & {*name} and len(name) <= 255
