"""What is too much, or is not what it should be, is refused before it costs anything."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from sanseg import images
from sanseg.segmenter import Segmenter
from tests.serve.asking import WORDS, assert_problem, client, clients, eventually, picture, upload


async def endless(chunk: bytes, sent: list[int]) -> AsyncIterator[bytes]:
    yield b'--xx\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    while True:
        sent.append(len(chunk))
        yield chunk


MULTIPART = {"content-type": "multipart/form-data; boundary=xx"}


def raw_post(asker: TestClient, path: str, body: bytes, type_: str) -> Any:
    return asker.post(path, content=body, headers={"content-type": type_})


def test_bytes_are_counted_before_anything_is_made_of_them(segmenter: Segmenter) -> None:
    with client(segmenter, bytes=10_000) as asker:
        assert_problem(asker.post("/v1/images", files=upload(bytes(10_001))), 413, "10001", "10000")
        assert_problem(asker.post("/v1/images", files=upload(bytes(300_000))), 413, "at most")
        response = asker.post("/v1/images", content=b"x", headers={**MULTIPART, "content-length": "9" * 30})
        assert_problem(response, 413)
        assert asker.post("/v1/images", files=upload(picture(8, 8))).status_code == 201
    with client(segmenter, bytes=300_000) as asker:
        assert_problem(asker.post("/v1/images", files=upload(bytes(300_000))), 422, "300000 bytes")


def raw_scope(path: str = "/v1/images", headers: dict[str, str] | None = None) -> dict[str, Any]:
    told = {"host": "localhost", **MULTIPART, **(headers or {})}
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(name.encode(), value.encode()) for name, value in told.items()],
    }


def test_a_body_without_end_is_cut_off(segmenter: Segmenter) -> None:
    """It says no length: what comes is counted, and no more is read than may be."""
    sent: list[int] = []
    answered: list[Any] = []

    async def ask() -> None:
        async with clients(segmenter, bytes=100_000) as (asker, service):
            body = endless(bytes(10_000), sent)

            async def receive() -> Any:
                return {"type": "http.request", "body": await anext(body), "more_body": True}

            async def send(message: Any) -> None:
                answered.append(message)

            await asker._transport.app(raw_scope(), receive, send)  # type: ignore[attr-defined]
            assert service.bodies.bytes == 0

    asyncio.run(ask())
    assert answered[0]["status"] == 413
    assert sum(sent) < 200_000


def test_a_body_that_does_not_come_is_given_up(segmenter: Segmenter) -> None:
    async def ask() -> list[Any]:
        answered: list[Any] = []
        async with clients(segmenter, receiving_seconds=0.2) as (asker, service):
            body = endless(bytes(100), [])

            async def receive() -> Any:
                await asyncio.sleep(0.05)
                return {"type": "http.request", "body": await anext(body), "more_body": True}

            async def send(message: Any) -> None:
                answered.append(message)

            await asker._transport.app(raw_scope(), receive, send)  # type: ignore[attr-defined]
            assert service.bodies.bytes == 0
        return answered

    answered = asyncio.run(ask())
    assert answered[0]["status"] == 408
    assert json.loads(answered[1]["body"])["detail"].startswith("the body did not come within 0.2 seconds")


def test_bodies_together_are_bounded(segmenter: Segmenter) -> None:
    async def ask() -> None:
        async with clients(segmenter, receiving_bytes=50_000) as (asker, service):
            may = asyncio.Event()

            async def slow() -> AsyncIterator[bytes]:
                yield b'--xx\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
                yield bytes(40_000)
                await may.wait()
                yield b"\r\n--xx--\r\n"

            body = slow()
            answered: list[Any] = []

            async def receive() -> Any:
                async for chunk in body:
                    return {"type": "http.request", "body": chunk, "more_body": not may.is_set()}
                return await asyncio.Event().wait()  # a client that stays

            async def send(message: Any) -> None:
                answered.append(message)

            first = asyncio.create_task(asker._transport.app(raw_scope(), receive, send))  # type: ignore[attr-defined]
            await eventually(lambda: service.bodies.bytes > 40_000)
            refused = await asker.post("/v1/images", files=upload(bytes(20_000)))
            assert_problem(refused, 503, "ask again")
            assert (await asker.post("/v1/images", files=upload(picture(8, 8)))).status_code == 201
            may.set()
            await first
            assert answered[0]["status"] == 422
            assert service.bodies.bytes == 0

    asyncio.run(ask())


def test_requests_together_are_bounded(segmenter: Segmenter) -> None:
    with client(segmenter, requests=3) as asker:
        service = asker.app.state.service  # type: ignore[attr-defined]
        assert asker.get("/healthz").status_code == 200
        service.open_requests = 3
        response = asker.get("/healthz")
        assert_problem(response, 503, "3 requests")
        assert response.headers["retry-after"] == "1"


def test_pixels_are_known_before_they_are_decoded(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = io.BytesIO()
    Image.new("L", (20_000, 20_000)).save(data, "PNG")  # 400 megapixels in 400 kB
    decoded = []
    monkeypatch.setattr(images.Image.Image, "load", lambda *_: decoded.append(1), raising=True)
    with client(segmenter) as asker:
        response = asker.post("/v1/images", files=upload(data.getvalue()))
    assert_problem(response, 413, "400000000 pixels", "25000000", "--max-megapixels")
    assert not decoded


def test_the_limit_on_pixels_is_the_services_own(segmenter: Segmenter) -> None:
    with client(segmenter, pixels=50 * 70 - 1) as asker:
        assert_problem(asker.post("/v1/images", files=upload(picture(50, 70))), 413, "3500 pixels")
        assert asker.post("/v1/images", files=upload(picture(50, 69))).status_code == 201


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"labels": [f"thing {n}" for n in range(6)]}, ("6 labels", "at most 5")),
        ({"labels": ",".join("abcdef")}, ("6 labels", "at most 5")),
        ({"labels": "," * 100}, ("101 labels",)),
        ({"labels": "@ade847"}, ("847 labels", "at most 5")),
        ({"labels": "a, @voc"}, ("21 labels", "at most 5")),
        ({"labels": [" | ".join("abcdefghijklmnopqrstu")]}, ("21 names", "at most 20")),
        ({"labels": "a", "other": [f"thing {n}" for n in range(6)]}, ("6 other words",)),
        ({"labels": ",".join(["@voc"] * 5)}, ("100 labels", "at most 5")),
        ({"labels": ["x" * 200 + str(n) for n in range(5)]}, ("1005 characters", "576")),
        ({"labels": ["x" * 257]}, ("257 characters", "256")),
        ({"labels": "a", "other": [" | ".join(f"thing {n}" for n in range(21))]}, ("21 other words", "20")),
        ({"labels": "a", "threshold": 2}, ("threshold is 2", "from 0 to 1")),
        ({"labels": "a", "threshold": "0.5"}, ("threshold", "number")),
        ({"labels": "a", "colours": {"b": "#ffffff"}}, ("'b'", "no label")),
        ({"labels": "a", "colours": {"a": "red"}}, ("'red'", "#rrggbb")),
        ({"labels": "a", "format": "doc"}, ("'doc'", "overlay")),
        ({"labels": "a", "nonsense": 1}, ("nonsense",)),
        ({"labels": "a", "templates": "/etc/passwd"}, ("templates",)),
        ({"labels": []}, ("no labels",)),
        ({"labels": "a", "other": ["a"]}, ("'a'",)),
        ({"labels": {"a": 1}}, ("labels",)),
        ({}, ("labels is missing", "a list of texts")),
    ],
)
def test_words_are_bounded_and_checked(segmenter: Segmenter, asked: dict, words: tuple[str, ...]) -> None:
    with client(segmenter, labels=5) as asker:
        id_ = asker.post("/v1/images", files=upload(picture())).json()["id"]
        assert_problem(asker.post(f"/v1/images/{id_}/segment", json=asked), 422, *words)


def test_label_sets_are_bounded_whatever_the_limit_on_labels(segmenter: Segmenter) -> None:
    with client(segmenter) as asker:
        data = {"labels": ",".join(["@voc"] * 21)}
        response = asker.post("/v1/segment", files=upload(picture()), data=data)
        assert_problem(response, 422, "21 label sets", "at most 20", "send fewer")
        assert "--max-labels" not in response.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"threshold": ""}, ("threshold is ''", "a number from 0 to 1")),
        ({"colours": "red"}, ("colours is 'red'", "#4488ff")),
        ({"labels": '["sky",'}, ("labels is", "a list of texts")),
        ({"labels": '["sky", 5]'}, ("labels is", "a list of texts")),
        ({"labels": ""}, ("there are no labels",)),
    ],
)
def test_fields_of_a_form_that_cannot_be_read_are_named(
    segmenter: Segmenter, fields: dict, words: tuple[str, ...]
) -> None:
    with client(segmenter) as asker:
        assert_problem(
            asker.post("/v1/segment", files=upload(picture()), data={**WORDS, **fields}), 422, *words
        )


def test_a_body_that_is_no_json_is_told_so(segmenter: Segmenter) -> None:
    with client(segmenter) as asker:
        id_ = asker.post("/v1/images", files=upload(picture())).json()["id"]
        headers = {"content-type": "application/json"}
        response = asker.post(f"/v1/images/{id_}/segment", content=b"{bad", headers=headers)
        assert_problem(response, 422, "the body is no JSON", "labels")


def test_a_body_of_words_is_bounded(segmenter: Segmenter) -> None:
    with client(segmenter, labels=5) as asker:
        id_ = asker.post("/v1/images", files=upload(picture())).json()["id"]
        path = f"/v1/images/{id_}/segment"
        assert_problem(asker.post(path, json={"labels": "x" * 100_000}), 413)
        assert_problem(asker.post(path, json={"labels": "x" * 1_000}), 422, "1000 characters")
        assert_problem(raw_post(asker, path, b'{"labels": "a"', "application/json"), 422, "JSON")
        deep = b'{"labels": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
        assert_problem(raw_post(asker, path, deep, "application/json"), 422)
        assert_problem(raw_post(asker, path, b'{"labels": "a"}', "text/plain"), 415, "application/json")
        assert_problem(raw_post(asker, path, b'{"labels": "\xff"}', "application/json"), 422)


def test_words_read_no_files(segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line @PATH is a file; here it never is."""
    file = tmp_path / "labels.txt"
    file.write_text("secret\n")
    monkeypatch.chdir(tmp_path)
    with client(segmenter) as asker:
        id_ = asker.post("/v1/images", files=upload(picture())).json()["id"]
        for labels in (
            f"@{file}",
            "@labels.txt",
            f"cat, @{file}",
            "@/etc/passwd",
            "@../mini",
            ["@labels.txt"],
        ):
            response = asker.post(f"/v1/images/{id_}/segment", json={"labels": labels})
            assert "secret" not in response.text
            if isinstance(labels, str):
                assert_problem(response, 422, "no label set")
            else:
                assert response.json()["labels"][0]["label"] == "@labels.txt"
        for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/docs/../app.py"):
            assert asker.get(path).status_code == 404


FORM = b'--xx\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ([], 400, ()),
        ([(b"labels", b"", b"a")], 422, ("image",)),
        ([(b"image", b"", b"text")], 422, ("no file named image",)),
        ([(b"image", b'; filename="a"', b"x")] * 2, 400, ("Too many files",)),
        ([(b"image", b'; filename="a"', b"x"), (b"image", b"", b"x")], 422, ("twice",)),
        ([(b"f%d" % n, b"", b"x") for n in range(99)], 400, ("Too many fields",)),
        ([(b"image", b'; filename="a"', b"x"), (b"url", b"", b"http://localhost/")], 422, ("'url'",)),
        ([(b"image", b"", b"http://localhost/cat.jpg")], 422, ("no file named image",)),
        ([(b"image", b"", b"/etc/passwd")], 422, ("no file named image",)),
        ([(b"labels", b'; filename="a"', b"x")], 422, ("image",)),
    ],
)
def test_forms_are_bounded_and_checked(
    segmenter: Segmenter, parts: list[tuple[bytes, bytes, bytes]], status: int, words: tuple[str, ...]
) -> None:
    body = b"".join(FORM % part for part in parts) + b"--xx--\r\n"
    with client(segmenter) as asker:
        for path in ("/v1/images", "/v1/segment"):
            response = raw_post(asker, path, body, "multipart/form-data; boundary=xx")
            if parts:
                assert_problem(response, status, *words)
            else:
                assert 400 <= response.status_code < 500
        for type_, expected in (
            ("multipart/form-data", 400),
            ("multipart/form-data; boundary=yy", 400),
            ("multipart/form-data; boundary=xx; charset=punycode", 415),
            ("application/x-www-form-urlencoded", 415),
            ("application/json", 415),
            ("", 415),
        ):
            assert_problem(raw_post(asker, "/v1/segment", body + b"rest", type_), expected)
