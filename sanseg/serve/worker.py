"""One thread computes, a few decode and write: what many requests share of one model.

A picture waits as bytes for a place to be decoded, then, decoded, for the network; a question of an encoded picture
waits for the computing thread alone, and goes before pictures. Whatever waits is forgotten when it is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic
from typing import Any, TypeVar

from sanseg.images import pixels_of, read_image
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Encoded, Picture, Segmenter
from sanseg.serve.metrics import Metrics
from sanseg.serve.problems import Problem, busy
from sanseg.serve.settings import Settings
from sanseg.vocabulary import Vocabulary

T = TypeVar("T")
W = TypeVar("W", "_Waiting", "_Question")

logger = logging.getLogger("sanseg.serve")

HANDS = 2  # threads that decode, and as many that write
RESULTS = 8  # label maps in memory: one of 25 megapixels takes 125 MB with its confidence
IN_A_ROW = 8  # questions, before a picture, or a question that they came between, gets its turn


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A decoded picture, since when it waits, and who waits for it, or no longer does."""

    picture: Picture
    since: float
    future: Future[Encoded] = field(default_factory=Future)
    abandoned: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, eq=False)
class _Question:
    work: Callable[[_Question], Segmentation]
    future: Future[Segmentation] = field(default_factory=Future)
    abandoned: threading.Event = field(default_factory=threading.Event)

    def check_wanted(self) -> None:
        """Raises _AbandonedError, which ends the work, where nobody waits for it any more."""
        if self.abandoned.is_set():
            raise _AbandonedError


class _AbandonedError(Exception):
    """Nobody waits for it any more."""


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
        self._between_words = False
        self._stopped = False
        self.busy = {"pictures": 0, "questions": 0}
        self.done = 0  # that were busy
        self._pace = 0.5  # seconds for a picture, lately
        self._decoders = ThreadPoolExecutor(HANDS, "sanseg-decode")
        self._readers = ThreadPoolExecutor(1, "sanseg-read")
        self._writers = ThreadPoolExecutor(HANDS, "sanseg-write")
        self._thread = threading.Thread(target=self._run, name="sanseg-compute", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for what is being computed, but not for a model that is being loaded."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self.ready:
            self._thread.join()
        for pool in (self._decoders, self._readers, self._writers):
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

    @cached_property
    def _answered(self) -> asyncio.Semaphore:
        """Places for label maps: being made, or written."""
        return asyncio.Semaphore(RESULTS)

    def check_room(self, kind: str) -> None:
        """Raises Problem where one more of this kind would be too many."""
        most = self._settings.waiting
        if self.busy[kind] >= most:
            seconds = self._pace * most / 2 if kind == "pictures" else 1
            raise busy(f"{most} {kind} are waiting or at work, the most that may: ask again later", seconds)

    @contextmanager
    def place(self, kind: str) -> Iterator[None]:
        """Among what waits or is at work. kind: "pictures" or "questions". Raises Problem where there is none."""
        self.check_room(kind)
        self.busy[kind] += 1
        try:
            yield
        finally:
            self.busy[kind] -= 1
            self.done += 1

    async def encode(self, data: bytes) -> Encoded:
        """A picture's file through the network. Raises Problem for one that cannot be read."""
        segmenter = self.segmenter
        async with self._decoded:
            with self._about_to_wait():
                picture = await self._in(self._decoders, lambda: self._read(segmenter, data))
                waiting = _Waiting(picture, monotonic())
                with self._changed:
                    self._pictures.append(waiting)
            del picture  # once it is encoded, nobody needs what the network saw of it
            encoded: Encoded = await self._result(self._pictures, waiting)
            return encoded

    async def answer(
        self, encoded: Encoded, words: Vocabulary, then: Callable[[Segmentation], T], *, proposals: bool
    ) -> T:
        """What `then` makes of `Segmenter.answer`, beside the computing thread."""
        segmenter = self.segmenter

        def work(question: _Question) -> Segmentation:
            segmenter.classifier(words, lambda _: self._between(question))
            return segmenter.answer(
                encoded, words, proposals=proposals, progress=lambda _: question.check_wanted()
            )

        async with self._answered:
            question = _Question(work)
            with self._changed:
                self._questions.append(question)
                self._changed.notify()
            segmentation: Segmentation = await self._result(self._questions, question)
            return await self._in(self._writers, lambda: then(segmentation))

    async def _result(self, queue: deque[W], waiting: W) -> Any:
        """What becomes of something that waits in a queue, which it leaves when nobody waits for it any more."""
        try:
            return await asyncio.wrap_future(waiting.future)
        except asyncio.CancelledError:
            waiting.abandoned.set()
            with self._changed:
                if waiting in queue:
                    queue.remove(waiting)
            raise

    async def read(self, make: Callable[[], T]) -> T:
        """What a client's bytes become, if that may take a while: in a thread of its own, one at a time."""
        return await self._in(self._readers, make)

    async def _in(self, pool: Executor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

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
                    413,
                    f"the picture has {pixels} pixels, at most {most} are taken: make it smaller, or start the"
                    " service with a larger --max-megapixels",
                )
            return segmenter.read(read_image(data, max_pixels=most))
        except ValueError as error:
            raise Problem(422, str(error)) from error

    def _run(self) -> None:
        try:
            self._segmenter = self._load()
        except Exception as error:
            logger.error("the model could not be loaded: %s", error)
            self.failure = error
            return
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Whether there was something to compute: nothing of it is held while the next is waited for."""
        turn = self._next()
        if isinstance(turn, _Question):
            self._answer(turn)
        elif turn:
            self._encode(turn)
        return turn is not None

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
            question.future.set_result(question.work(question))
        except Exception as error:
            question.future.set_exception(error)
        self._metrics.answer_seconds.observe(monotonic() - begun)

    def _between(self, question: _Question) -> None:
        """While the text tower reads many words, for seconds perhaps: the others' questions are answered."""
        question.check_wanted()
        if self._between_words:
            return
        self._between_words = True
        try:
            with self._changed:  # not those that come meanwhile, which could be without end
                others = [self._questions.popleft() for _ in range(min(IN_A_ROW, len(self._questions)))]
            for other in others:
                self._answer(other)
        finally:
            self._between_words = False

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
