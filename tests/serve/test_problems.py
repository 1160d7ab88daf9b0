"""Whatever goes wrong is told as a problem (RFC 9457), in one line, and nothing of the inside with it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from sanseg.segmenter import Segmenter
from sanseg.serve.app import create_app
from sanseg.serve.problems import Problem
from tests.serve.asking import WORDS, assert_problem, client, picture, service_of, until, upload


def test_paths_and_methods_that_are_not_there(segmenter: Segmenter) -> None:
    with client(segmenter) as asker:
        for path in ("/nothing", "/v1/", "/v1/images/", "/v1/images/a/b", "/static/nothing.js"):
            assert_problem(asker.get(path), 404, "/docs")
        response = asker.delete("/v1/models")
        assert_problem(response, 405, "DELETE")
        assert response.headers["allow"] == "GET"
        assert asker.put("/v1/images/a").headers["allow"] == "DELETE, GET"
        assert_problem(asker.request("BREW", "/v1/images"), 405, "BREW")


def test_a_mistake_of_ours_is_told_without_its_insides(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("a secret of the inside")

    with client(segmenter) as asker:
        id_ = asker.post("/v1/images", files=upload(picture())).json()["id"]
        monkeypatch.setattr(segmenter, "answer", broken)
        response = asker.post(f"/v1/images/{id_}/segment", json=WORDS)
        assert_problem(response, 500, "the service failed")
        assert "secret" not in response.text
        assert "secret" in caplog.text
        assert "content-security-policy" in response.headers
        monkeypatch.undo()
        assert asker.post(f"/v1/images/{id_}/segment", json=WORDS).status_code == 200
        monkeypatch.setattr(segmenter, "encode_pictures", broken)
        assert_problem(asker.post("/v1/images", files=upload(picture(seed=2))), 500)
        monkeypatch.undo()
        assert asker.post("/v1/images", files=upload(picture(seed=2))).status_code == 201


def test_until_the_model_is_loaded_work_is_refused_and_the_process_is_alive(segmenter: Segmenter) -> None:
    may = threading.Event()

    def load() -> Segmenter:
        assert may.wait(30)
        return segmenter

    with TestClient(create_app(load), base_url="http://localhost") as asker:
        assert asker.get("/healthz").json() == {"status": "alive"}
        for response in (
            asker.get("/readyz"),
            asker.get("/v1/models"),
            asker.post("/v1/images", files=upload(picture())),
            asker.post("/v1/segment", files=upload(picture()), data=WORDS),
        ):
            assert_problem(response, 503, "loaded")
            assert int(response.headers["retry-after"]) >= 1
        may.set()
        until(lambda: asker.get("/readyz").status_code == 200)
        assert asker.post("/v1/images", files=upload(picture())).status_code == 201


def test_a_model_that_cannot_be_loaded_is_no_ready_service(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Segmenter:
        raise ValueError("there is no such model: choose another")

    with TestClient(create_app(load), base_url="http://localhost") as asker:
        until(lambda: service_of(asker.app).worker.failure is not None)
        assert_problem(asker.get("/readyz"), 503, "could not be loaded")
        assert asker.get("/healthz").status_code == 200
    assert "no such model" in caplog.text


def test_a_service_that_shuts_down_takes_no_work(segmenter: Segmenter) -> None:
    with client(segmenter) as asker:
        id_ = asker.post("/v1/images", files=upload(picture())).json()["id"]
        service_of(asker.app).close()
        for response in (
            asker.get("/readyz"),
            asker.post("/v1/images", files=upload(picture())),
            asker.post(f"/v1/images/{id_}/segment", json=WORDS),
            asker.post("/v1/segment", files=upload(picture()), data=WORDS),
        ):
            assert_problem(response, 503, "shutting down")
            assert response.headers["connection"] == "close"
        assert asker.get("/healthz").status_code == 200


def test_a_detail_is_one_printable_line_of_bounded_length() -> None:
    problem = Problem(422, "a\nb\x00\x1b[31m  c\u202e" + "x" * 5000)
    assert problem.detail.startswith("a b [31m c x")
    assert len(problem.detail) <= 1000
    assert problem.response().body


def test_numbers_are_counted_by_route_and_status(segmenter: Segmenter) -> None:
    with client(segmenter, batch=3) as asker:
        told = asker.post("/v1/images", files=upload(picture())).json()
        for _ in range(2):
            asker.post(f"/v1/images/{told['id']}/segment", json=WORDS)
        for path in range(50):
            asker.get(f"/nothing/{path}")
            asker.get(f"/v1/images/{path}")
        asker.request("BREW", "/v1/models")
        response = asker.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    for line in (
        'sanseg_requests_total{method="POST",route="/v1/images",status="201"} 1.0',
        'sanseg_requests_total{method="POST",route="/v1/images/{id}/segment",status="200"} 2.0',
        'sanseg_requests_total{method="GET",route="other",status="404"} 50.0',
        'sanseg_requests_total{method="GET",route="/v1/images/{id}",status="404"} 50.0',
        'sanseg_request_seconds_count{route="/v1/images"} 1.0',
        "sanseg_kept_pictures 1.0",
        f"sanseg_kept_bytes {float(told['bytes'])}",
        "sanseg_pictures_waiting 0.0",
        'sanseg_batch_pictures_bucket{le="1.0"} 1.0',
        "sanseg_answer_seconds_count 2.0",
        "sanseg_encode_seconds_count 1.0",
    ):
        assert line in response.text.splitlines(), line
    assert "BREW" not in response.text
    assert told["id"] not in response.text


def test_old_pictures_are_dropped_while_nobody_asks(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanseg.serve.service.SWEEP", 0.02)
    with client(segmenter, kept_seconds=0.2) as asker:
        assert asker.post("/v1/images", files=upload(picture())).status_code == 201
        until(lambda: len(service_of(asker.app).store) == 0, 5)
        assert service_of(asker.app).store.bytes == 0


def test_requests_of_other_kinds_end_quietly(segmenter: Segmenter) -> None:
    with (
        client(segmenter) as asker,
        pytest.raises(WebSocketDisconnect),
        asker.websocket_connect("/v1/images"),
    ):
        pass
