"""Many requests, one model: bounds, batches, order, time limits, and clients that go away."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from httpx2 import AsyncClient, Response

from sanseg.images import read_image
from sanseg.model.san import SAN
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Segmenter
from sanseg.serve.metrics import Metrics
from sanseg.serve.service import Service
from sanseg.serve.settings import Settings
from sanseg.serve.worker import Worker, _Question, _Waiting
from tests.serve.asking import WORDS, assert_problem, clients, eventually, held, picture, upload

SCORES = {**WORDS, "format": "confidence"}


def send(asker: AsyncClient, data: bytes) -> asyncio.Task[Response]:
    return asyncio.create_task(asker.post("/v1/images", files=upload(data)))


def at_once(asker: AsyncClient, data: bytes, **fields: str) -> asyncio.Task[Response]:
    return asyncio.create_task(asker.post("/v1/segment", files=upload(data), data={**SCORES, **fields}))


def assert_alone(segmenter: Segmenter, data: bytes, response: Response, exact: bool) -> None:
    """What the service answered is what the library answers of this picture alone."""
    assert response.status_code == 200, response.text
    expected = segmenter(data, WORDS["labels"])
    with np.load(io.BytesIO(response.content)) as arrays:
        ids, confidence = arrays["label_map"], arrays["confidence"]
    if exact:
        np.testing.assert_array_equal(ids, expected.label_map)
        np.testing.assert_array_equal(confidence, expected.confidence.astype(confidence.dtype))
    else:
        np.testing.assert_allclose(confidence, expected.confidence, atol=2e-3)  # kept as float16
        assert (ids != expected.label_map).mean() < 0.005


@pytest.mark.parametrize("batch", [None, 4])
def test_many_at_once_are_each_as_if_alone(tiny_san: SAN, segmenter: Segmenter, batch: int | None) -> None:
    """On a CPU one picture goes at a time by default, so that the answer is the same to the bit."""
    model, proposer = held(tiny_san)
    sizes = [(50, 70), (50, 70), (50, 70), (64, 64), (50, 71), (200, 40), (50, 70)]
    pictures = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]

    async def ask() -> list[Response]:
        async with clients(model, batch=batch, batch_seconds=0.5) as (asker, service):
            first = at_once(asker, pictures[0])
            await asyncio.to_thread(proposer.began.wait, 30)
            rest = [at_once(asker, data) for data in pictures[1:]]
            await eventually(lambda: len(service.worker._pictures) == (2 if batch is None else 6))
            proposer.may.set()
            return [await one for one in (first, *rest)]

    for data, response in zip(pictures, asyncio.run(ask()), strict=True):
        assert_alone(segmenter, data, response, exact=batch is None)
    assert sum(proposer.passes) == len(pictures)
    assert (max(proposer.passes) > 1) == (batch is not None), proposer.passes


def test_a_bad_picture_fails_alone(tiny_san: SAN, segmenter: Segmenter) -> None:
    model, proposer = held(tiny_san)
    good = [picture(seed=seed) for seed in range(3)]

    async def ask() -> list[Response]:
        async with clients(model, batch=8, batch_seconds=0.2) as (asker, _):
            proposer.may.set()
            tasks = [
                at_once(asker, data) for data in (good[0], good[1][:200], good[1], b"no picture", good[2])
            ]
            return [await one for one in tasks]

    one, truncated, two, nothing, three = asyncio.run(ask())
    for data, response in zip(good, (one, two, three), strict=True):
        assert_alone(segmenter, data, response, exact=False)
    assert_problem(truncated, 422, "200 bytes", "damaged")
    assert_problem(nothing, 422, "10 bytes", "JPEG")


def test_a_picture_that_fails_in_the_network_fails_alone(tiny_san: SAN, segmenter: Segmenter) -> None:
    """As out of memory does: the others are computed again without it."""
    good, bad = picture(seed=1), picture(seed=2)
    bad_pixel = read_image(bad)[0, 0].tolist()
    model = Segmenter(tiny_san)
    propose = tiny_san.propose

    def failing(image_B3HW: Any) -> Any:
        of_bad = Segmenter(tiny_san).read(bad).prepared
        if any(bool((one == of_bad).all()) for one in image_B3HW):
            raise RuntimeError("out of memory")
        return propose(image_B3HW)

    class Failing:
        propose = staticmethod(failing)

    model.proposer = Failing()

    async def ask() -> list[Response]:
        async with clients(model, batch=2, batch_seconds=1) as (asker, _):
            return [await one for one in (at_once(asker, good), at_once(asker, bad))]

    response, failed = asyncio.run(ask())
    assert bad_pixel
    assert_alone(segmenter, good, response, exact=False)
    assert_problem(failed, 422, "out of memory")


def test_beyond_the_bound_is_refused_at_once_and_nobody_is_slowed(tiny_san: SAN) -> None:
    model, proposer = held(tiny_san)

    async def ask() -> None:
        async with clients(model, waiting=3) as (asker, service):
            taken = [send(asker, picture(seed=seed)) for seed in range(3)]
            await eventually(lambda: service.worker.busy["pictures"] == 3)
            for path, data in (("/v1/images", {}), ("/v1/segment", WORDS)):
                refused = await asyncio.wait_for(
                    asker.post(path, files=upload(picture(seed=9)), data=data), 5
                )
                assert_problem(refused, 503, "3 pictures")
                assert int(refused.headers["retry-after"]) >= 1
            proposer.may.set()
            assert [(await one).status_code for one in taken] == [201] * 3
            assert service.worker.busy == {"pictures": 0, "questions": 0}
            assert (await send(asker, picture(seed=9))).status_code == 201

    asyncio.run(ask())
    assert sum(proposer.passes) == 4, "what was refused was computed"


def test_words_go_before_pictures_that_wait(tiny_san: SAN, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of computing: an answer reaches its client later, by other threads."""
    model, proposer = held(tiny_san)
    order: list[str] = []
    answer, encode = model.answer, model.encode_pictures
    monkeypatch.setattr(model, "answer", lambda *a, **k: (order.append("words"), answer(*a, **k))[1])
    monkeypatch.setattr(model, "encode_pictures", lambda some: (order.append("picture"), encode(some))[1])

    async def ask() -> None:
        async with clients(model) as (asker, service):
            proposer.may.set()
            id_ = (await send(asker, picture(seed=1))).json()["id"]
            proposer.may.clear()
            proposer.began.clear()
            pictures = [send(asker, picture(seed=seed)) for seed in range(2, 8)]
            await asyncio.to_thread(proposer.began.wait, 30)
            await eventually(lambda: len(service.worker._pictures) == 2)  # all that are decoded ahead
            words = asyncio.create_task(asker.post(f"/v1/images/{id_}/segment", json=WORDS))
            await eventually(lambda: len(service.worker._questions) == 1)
            proposer.may.set()
            assert [(await one).status_code for one in (words, *pictures)] == [200] + [201] * 6

    asyncio.run(ask())
    assert order == ["picture", "picture", "words"] + ["picture"] * 5


def test_words_do_not_starve_pictures(tiny_san: SAN) -> None:
    """However many ask, a picture that waits gets its turn."""

    async def ask() -> None:
        async with clients(Segmenter(tiny_san), waiting=100) as (asker, _):
            id_ = (await send(asker, picture(seed=1))).json()["id"]
            stop = False

            async def asking() -> None:
                while not stop:
                    assert (await asker.post(f"/v1/images/{id_}/segment", json=WORDS)).status_code == 200

            askers = [asyncio.create_task(asking()) for _ in range(12)]
            await asyncio.sleep(0.2)
            response = await asyncio.wait_for(send(asker, picture(seed=2)), 20)
            stop = True
            await asyncio.gather(*askers)
            assert response.status_code == 201

    asyncio.run(ask())


def test_a_picture_gets_its_turn_after_eight_questions(tiny_san: SAN) -> None:
    worker = Worker(lambda: Segmenter(tiny_san), Settings(batch=1), Metrics())
    image = Segmenter(tiny_san).read(picture())
    worker._pictures += [_Waiting(image, 0.0), _Waiting(image, 0.0)]
    worker._questions += [_Question(lambda _: pytest.fail("it is not asked")) for _ in range(20)]
    turns = ["q" if isinstance(worker._next(), _Question) else "p" for _ in range(22)]
    assert "".join(turns) == "qqqqqqqqpqqqqqqqqpqqqq"


def test_what_is_asked_while_words_are_read_does_not_keep_them_waiting_for_ever(tiny_san: SAN) -> None:
    worker = Worker(lambda: Segmenter(tiny_san), Settings(), Metrics())
    asked: list[_Question] = []

    def again(question: _Question) -> Segmentation:
        asked.append(question)
        if len(asked) > 100:
            pytest.fail("those that come meanwhile are answered too, without end")
        worker._questions.append(_Question(again))
        raise ValueError

    worker._questions += [_Question(again) for _ in range(20)]
    worker._between(_Question(again))
    assert 0 < len(asked) <= 20


def test_questions_have_a_bound_of_their_own(tiny_san: SAN) -> None:
    model, proposer = held(tiny_san)

    async def ask() -> None:
        async with clients(model, waiting=2) as (asker, service):
            proposer.may.set()
            id_ = (await send(asker, picture(seed=1))).json()["id"]
            proposer.may.clear()
            proposer.began.clear()
            at_work = send(asker, picture(seed=2))
            await asyncio.to_thread(proposer.began.wait, 30)
            words = [
                asyncio.create_task(asker.post(f"/v1/images/{id_}/segment", json=WORDS)) for _ in range(2)
            ]
            await eventually(lambda: service.worker.busy["questions"] == 2)
            refused = await asker.post(f"/v1/images/{id_}/segment", json=WORDS)
            assert_problem(refused, 503, "2 questions")
            assert refused.headers["retry-after"] == "1"
            proposer.may.set()
            assert [(await one).status_code for one in (at_work, *words)] == [201, 200, 200]

    asyncio.run(ask())


def test_the_time_limit_is_kept(tiny_san: SAN) -> None:
    model, proposer = held(tiny_san)

    async def ask() -> None:
        async with clients(model, seconds=0.3) as (asker, service):
            slow = [send(asker, picture(seed=seed)) for seed in range(2)]
            for one in slow:
                assert_problem(await one, 504, "0.3 seconds")
            assert service.worker.busy["pictures"] == 0
            proposer.may.set()
            await eventually(lambda: not service.worker._pictures)

    asyncio.run(ask())
    assert sum(proposer.passes) <= 1, "what nobody waited for was computed"


async def abandon(service: Service, app: Any, data: bytes) -> None:
    """A client that sends a picture and goes away once it is at work or waits."""
    boundary = b"xx"
    body = (
        b'--xx\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + data
        + b"\r\n--xx--\r\n"
    )
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    gone = asyncio.Event()
    sent: list[Any] = []

    async def receive() -> Any:
        for message in messages:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send_(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/images",
        "raw_path": b"/v1/images",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=" + boundary)],
    }
    before = service.worker.busy["pictures"]
    task = asyncio.create_task(app(scope, receive, send_))
    await eventually(lambda: service.worker.busy["pictures"] > before)
    await asyncio.sleep(0.05)
    gone.set()
    await asyncio.wait_for(task, 5)
    assert not sent


def test_the_work_of_a_client_that_left_is_not_done(tiny_san: SAN) -> None:
    model, proposer = held(tiny_san)

    async def ask() -> None:
        async with clients(model) as (asker, service):
            at_work = send(asker, picture(seed=0))
            await asyncio.to_thread(proposer.began.wait, 30)
            app = asker._transport.app  # type: ignore[attr-defined]
            for seed in range(1, 9):  # more than are decoded ahead: some leave as bytes
                await abandon(service, app, picture(seed=seed))
            await asyncio.gather(*(abandon(service, app, picture(seed=seed)) for seed in range(1, 9)))
            assert service.worker.busy["pictures"] == 1
            assert not service.worker._pictures, "what nobody waits for is held in memory"
            stays = send(asker, picture(seed=1))
            await asyncio.sleep(0.1)
            proposer.may.set()
            assert [(await one).status_code for one in (at_work, stays)] == [201, 201]

    asyncio.run(ask())
    assert sum(proposer.passes) == 2


def test_the_same_picture_at_the_same_moment_is_encoded_once(tiny_san: SAN) -> None:
    """And if the one that came first goes away, the other gets it all the same."""
    model, proposer = held(tiny_san)

    async def ask() -> None:
        async with clients(model) as (asker, service):
            app = asker._transport.app  # type: ignore[attr-defined]
            leaving = asyncio.create_task(abandon(service, app, picture(seed=0)))
            await asyncio.to_thread(proposer.began.wait, 30)
            staying = [send(asker, picture(seed=0)) for _ in range(3)]
            await leaving
            await asyncio.sleep(0.05)
            proposer.may.set()
            told = [(await one).json() for one in staying]
            assert len({one["id"] for one in told}) == 1
            again = (await send(asker, picture(seed=0))).json()
            assert again["id"] == told[0]["id"]
            assert len(service.store) == 1
            assert not service._encoding

    asyncio.run(ask())
    assert sum(proposer.passes) == 1


def test_what_is_kept_of_a_picture_that_failed_is_nothing(tiny_san: SAN) -> None:
    async def ask() -> None:
        async with clients(Segmenter(tiny_san)) as (asker, service):
            tasks = [send(asker, picture()[:300]) for _ in range(3)]
            for one in tasks:
                assert_problem(await one, 422)
            assert not service._encoding
            assert len(service.store) == 0

    asyncio.run(ask())


class Reading:
    """A text tower that tells when it reads new words, and reads on when it may."""

    def __init__(self, model: Segmenter, first: str) -> None:
        self.began, self.may, self.parts = threading.Event(), threading.Event(), 0
        classifier = model.classifier

        def slowly(words: Any, progress: Any = None) -> Any:
            if progress is not None and words.labels[0] == first:
                self.began.set()
                for _ in range(3):
                    assert self.may.wait(30)
                    progress(1)
                    self.parts += 1
            return classifier(words, progress)

        model.classifier = slowly  # type: ignore[method-assign]


def test_while_many_new_words_are_read_others_are_answered(
    tiny_san: SAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text tower that reads a thousand words is busy for seconds."""
    model = Segmenter(tiny_san)
    reading = Reading(model, "slow")
    order, answer = list[str](), model.answer
    monkeypatch.setattr(model, "answer", lambda *a, **k: (order.append(a[1].labels[0]), answer(*a, **k))[1])

    async def ask() -> None:
        async with clients(model) as (asker, service):
            id_ = (await send(asker, picture())).json()["id"]

            async def one(labels: str) -> None:
                response = await asker.post(f"/v1/images/{id_}/segment", json={"labels": labels})
                assert response.status_code == 200, response.text

            tasks = [asyncio.create_task(one("slow"))]
            await asyncio.to_thread(reading.began.wait, 30)
            tasks += [asyncio.create_task(one(f"quick{number}")) for number in range(3)]
            await eventually(lambda: len(service.worker._questions) == 3)
            reading.may.set()
            await asyncio.gather(*tasks)

    asyncio.run(ask())
    assert order == ["quick0", "quick1", "quick2", "slow"]


def test_words_that_nobody_waits_for_are_not_read_on(tiny_san: SAN) -> None:
    model = Segmenter(tiny_san)
    reading = Reading(model, "slow")

    async def ask() -> None:
        async with clients(model, seconds=2) as (asker, _):
            id_ = (await send(asker, picture())).json()["id"]
            response = await asker.post(f"/v1/images/{id_}/segment", json={"labels": "slow"})
            assert_problem(response, 504)
            reading.may.set()
            response = await asker.post(f"/v1/images/{id_}/segment", json={"labels": "quick"})
            assert response.status_code == 200

    asyncio.run(ask())
    assert reading.parts == 0


def test_a_label_map_that_nobody_waits_for_is_not_finished(
    tiny_san: SAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, may, rows = Segmenter(tiny_san), threading.Event(), list[int]()
    answer = model.answer

    def slowly(*arguments: Any, progress: Callable[[int], None], **options: Any) -> Segmentation:
        def after(done: int) -> None:
            assert may.wait(30)
            progress(done)
            rows.append(done)

        return answer(*arguments, progress=after, **options)

    monkeypatch.setattr(model, "answer", slowly)

    async def ask() -> None:
        async with clients(model, seconds=2) as (asker, _):
            path = f"/v1/images/{(await send(asker, picture(50, 70))).json()['id']}/segment"
            assert_problem(await asker.post(path, json=WORDS), 504)
            may.set()
            assert (await asker.post(path, json=WORDS)).status_code == 200

    asyncio.run(ask())
    assert sum(rows) == 50


def test_the_bound_on_label_maps_in_memory_holds_nobody_up_for_ever(tiny_san: SAN) -> None:
    async def ask() -> None:
        async with clients(Segmenter(tiny_san), waiting=50) as (asker, _):
            id_ = (await send(asker, picture())).json()["id"]
            asked = (asker.post(f"/v1/images/{id_}/segment", json=WORDS) for _ in range(40))
            assert {response.status_code for response in await asyncio.gather(*asked)} == {200}

    asyncio.run(ask())
