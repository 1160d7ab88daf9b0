"""What the tests of the service share: small pictures, a model that can be held up, and clients."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import numpy as np
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient
from torch import Tensor

from sanseg.model.san import SAN, Proposals
from sanseg.segmenter import Segmenter
from sanseg.serve.app import create_app
from sanseg.serve.service import Service
from sanseg.serve.settings import Settings

HERE = "http://localhost"
WORDS = {"labels": "sky, tree | woods, cat"}


def picture(height: int = 50, width: int = 70, seed: int = 0, kind: str = "PNG") -> bytes:
    """A file of a smooth picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(data, kind)
    return data.getvalue()


def upload(data: bytes, name: str = "photo.png") -> dict[str, Any]:
    return {"image": (name, data)}


class Held:
    """A proposer that computes when it may, and tells how many pictures each pass had."""

    def __init__(self, san: SAN) -> None:
        self.san, self.passes = san, list[int]()
        self.may, self.began = threading.Event(), threading.Event()

    def propose(self, image_B3HW: Tensor) -> Proposals:
        self.passes.append(len(image_B3HW))
        self.began.set()
        assert self.may.wait(30)
        return self.san.propose(image_B3HW)


def held(san: SAN) -> tuple[Segmenter, Held]:
    proposer = Held(san)
    return Segmenter(san, proposer=proposer), proposer


@contextmanager
def client(segmenter: Segmenter, **settings: Any) -> Iterator[TestClient]:
    """For one request after the other."""
    with TestClient(create_app(segmenter, Settings(**settings)), base_url=HERE) as one:
        until(lambda: service_of(one.app).worker.ready)
        yield one


@asynccontextmanager
async def clients(segmenter: Segmenter, **settings: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, Service]]:
    """For requests at the same time."""
    app = create_app(segmenter, Settings(**settings))
    service = service_of(app)
    async with service.running():
        await eventually(lambda: service.worker.ready)
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=HERE, timeout=60) as one:
            yield one, service


def service_of(app: Any) -> Service:
    assert isinstance(app, FastAPI)
    service: Service = app.state.service
    return service


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.005)


async def eventually(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not come about"
        await asyncio.sleep(0.005)


def assert_problem(response: Any, status: int, *words: str) -> None:
    """RFC 9457, in one line that says these words."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["type"] == "about:blank"
    assert "\n" not in problem["detail"]
    assert ": " in problem["detail"] or "; " in problem["detail"], "no remedy"
    for word in words:
        assert word in problem["detail"]
