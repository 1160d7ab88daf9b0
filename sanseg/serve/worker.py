"""One thread computes, a few decode and write: what many requests share of one model.

A picture waits as bytes for a place to be decoded, then, decoded, for the network; a question of an encoded picture
waits for the computing thread alone, and goes before pictures. Whatever waits is forgotten when it is cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from typing import TypeVar

from sanseg.images import pixels_of, read_image
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Encoded, Picture, Segmenter
from sanseg.serve.metrics import Metrics
from sanseg.serve.problems import Problem, busy
from sanseg.serve.settings import Settings
from sanseg.vocabulary import Vocabulary

T = TypeVar("T")

HANDS = 2  # threads that decode, and as many that write
IN_A_ROW = 8  # questions, before a picture that waits gets its turn


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A decoded picture, since when it waits, and who waits for it."""

    picture: Picture
    since: float
    future: Future[Encoded]


@dataclass(frozen=True, eq=False)
class _Question:
    work: Callable[[], Segmentation]
    future: Future[Segmentation]


class Worker:
    """A model at work, for one event loop.

    load: gives the Segmenter, in the computing thread, once `start` was called. `failure` is what it raised.
    """

    def __init__(self, load: Callable[[], Segmenter], settings: Settings, metrics: Metrics) -> None:
        self.failure: Exception | None = None
        self._load, self._settings, self._metrics = load, settings, metrics
        self._segmenter: Segmenter | None = None
        self._changed = threading.Condition()
        self._pictures: deque[_Waiting] = deque()
        self._questions: deque[_Question] = deque()
        self._decoding = 0  # pictures that are about to wait
        self._row = 0  # questions answered since the last picture
        self._stopped = False
        self.busy = {"pictures": 0, "questions": 0}
        self._pace = 0.5  # seconds for a picture, lately
        self._decoders = ThreadPoolExecutor(HANDS, "sanseg-decode")
        self._writers = ThreadPoolExecutor(HANDS, "sanseg-write")
        self._thread = threading.Thread(target=self._run, name="sanseg-compute", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for what is being computed. Nobody may be waiting for anything any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        for pool in (self._decoders, self._writers):
            pool.shutdown(cancel_futures=True)

    @property
    def ready(self) -> bool:
        return self._segmenter is not None

    @property
    def segmenter(self) -> Segmenter:
        """Raises Problem until it is loaded."""
        if self._segmenter is None:
            raise busy("the model is still being loaded: ask again in some seconds", 2)
        return self._segmenter

    @property
    def batch(self) -> int:
        """Pictures that share a pass, at most."""
        if self._settings.batch is not None:
            return self._settings.batch
        return 1 if self.segmenter.device.type == "cpu" else 8

    @cached_property
    def _decoded(self) -> asyncio.Semaphore:
        """Places for decoded pictures: a pass under way, the next one, and one more for a hand."""
        return asyncio.Semaphore(2 * self.batch + 1)

    def check_room(self, kind: str) -> None:
        """Raises Problem where one more of this kind would be too many."""
        most = self._settings.waiting
        if self.busy[kind] >= most:
            seconds = self._pace * most / 2 if kind == "pictures" else 1
            raise busy(f"{most} {kind} are waiting or at work, the most that may: ask again later", seconds)

    async def encode(self, data: bytes) -> Encoded:
        """A picture's file through the network. Raises Problem for one that cannot be read, or is one too many."""
        segmenter = self.segmenter
        with self._place("pictures"):
            async with self._decoded:
                with self._about_to_wait():
                    picture = await self._in(self._decoders, lambda: self._read(segmenter, data))
                    future: Future[Encoded] = Future()
                    with self._changed:
                        self._pictures.append(_Waiting(picture, monotonic(), future))
                        self._changed.notify()
                return await asyncio.wrap_future(future)

    async def answer(self, encoded: Encoded, words: Vocabulary, *, proposals: bool) -> Segmentation:
        """As `Segmenter.answer`. Raises Problem for one question too many."""
        segmenter = self.segmenter
        with self._place("questions"):
            future: Future[Segmentation] = Future()
            work = lambda: segmenter.answer(encoded, words, proposals=proposals)  # noqa: E731
            with self._changed:
                self._questions.append(_Question(work, future))
                self._changed.notify()
            return await asyncio.wrap_future(future)

    async def write(self, make: Callable[[], T]) -> T:
        """What takes a while and is no work of the network's, beside the computing thread."""
        return await self._in(self._writers, make)

    async def _in(self, pool: Executor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    @contextmanager
    def _place(self, kind: str) -> Iterator[None]:
        self.check_room(kind)
        self.busy[kind] += 1
        try:
            yield
        finally:
            self.busy[kind] -= 1

    @contextmanager
    def _about_to_wait(self) -> Iterator[None]:
        with self._changed:
            self._decoding += 1
        try:
            yield
        finally:
            with self._changed:
                self._decoding -= 1
                self._changed.notify()

    def _read(self, segmenter: Segmenter, data: bytes) -> Picture:
        """The size is known, by the header, before anything is decoded."""
        most = self._settings.pixels
        try:
            pixels = pixels_of(data)
            if pixels > most:
                raise Problem(
                    413, f"the picture has {pixels} pixels, at most {most} are taken: make it smaller"
                )
            return segmenter.read(read_image(data, max_pixels=most))
        except ValueError as error:
            raise Problem(422, str(error)) from error

    def _run(self) -> None:
        try:
            self._segmenter = self._load()
        except Exception as error:
            self.failure = error
            return
        while (batch := self._next()) is not None:
            if isinstance(batch, _Question):
                self._answer(batch)
            else:
                self._encode(batch)

    def _next(self) -> _Question | list[_Waiting] | None:
        """What is to be computed next: a question, or pictures that share a pass; None to end."""
        with self._changed:
            while True:
                if self._questions and (self._row < IN_A_ROW or not self._pictures):
                    self._row += 1
                    return self._questions.popleft()
                if not self._pictures:
                    if self._stopped:
                        return None
                    self._changed.wait()
                    continue
                left = self._pictures[0].since + self._settings.batch_seconds - monotonic()
                if len(self._pictures) >= self.batch or self._decoding == 0 or left <= 0:
                    self._row = 0
                    return [self._pictures.popleft() for _ in range(min(self.batch, len(self._pictures)))]
                self._changed.wait(left)

    def _answer(self, question: _Question) -> None:
        if not question.future.set_running_or_notify_cancel():
            return
        begun = monotonic()
        try:
            question.future.set_result(question.work())
        except Exception as error:
            question.future.set_exception(error)
        self._metrics.answer_seconds.observe(monotonic() - begun)

    def _encode(self, batch: Sequence[_Waiting]) -> None:
        batch = [one for one in batch if one.future.set_running_or_notify_cancel()]
        if not batch:
            return
        begun = monotonic()
        try:
            results = self.segmenter.encode_pictures([one.picture for one in batch])
        except Exception as error:
            for one in batch:
                one.future.set_exception(error)
            return
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, ValueError):
                one.future.set_exception(Problem(422, str(result)))
            else:
                one.future.set_result(result)
        seconds = monotonic() - begun
        self._pace += 0.2 * (seconds / len(batch) - self._pace)
        self._metrics.batch.observe(len(batch))
        self._metrics.encode_seconds.observe(seconds / len(batch))
