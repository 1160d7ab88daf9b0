"""Load on the service's process: what it adds to the library's own time, how it takes many, and what it refuses."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from serve_process import serving

from sanseg.data.labelsets import read_labelset
from sanseg.segmenter import load
from sanseg.serve import answers

SIZE = (640, 480)
COFFEE = Path(__file__).parents[1] / "examples" / "coffee.jpg"
LABELS = 5  # of each question
MANY = 500  # questions may wait, where the bound is not what is measured

Send = Callable[[httpx2.AsyncClient, str], Awaitable[httpx2.Response]]


def photo() -> bytes:
    """A JPEG of 640x480."""
    data = io.BytesIO()
    Image.open(COFFEE).resize(SIZE).save(data, "JPEG", quality=90)
    return data.getvalue()


def questions(seed: int = 0) -> Iterator[str]:
    """Other words each time, of a set whose embeddings are known after it was asked once."""
    names = [line.split(" | ")[0] for line in read_labelset("ade20k_150") if "," not in line]
    drawn = random.Random(seed)
    while True:
        yield ", ".join(drawn.sample(names, LABELS))


@dataclass
class Level:
    """So many clients, each asking anew when it was answered, or when it was told to after a refusal.

    milliseconds: of what was answered. refused_milliseconds: of 503s. untold: 503s without Retry-After.
    """

    clients: int
    answered: int = 0
    milliseconds: list[float] = field(default_factory=list)
    refused_milliseconds: list[float] = field(default_factory=list)
    untold: int = 0
    others: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.answered / self.seconds

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.milliseconds, share))

    def told(self) -> dict[str, Any]:
        refused = self.refused_milliseconds
        return {
            "clients": self.clients,
            "answered": self.answered,
            "per_second": self.rate,
            "ms": {f"p{share}": self.percentile(share) for share in (50, 90, 99)},
            "refused": len(refused),
            "refused_ms": {f"p{share}": float(np.percentile(refused, share)) for share in (50, 99)}
            if refused
            else {},
            "without_retry_after": self.untold,
            "other_statuses": self.others,
        }


async def level(url: str, clients: int, seconds: float, send: Send) -> Level:
    """At least two answers each, the first of which, while the line only forms, is counted and not timed."""
    found, words = Level(clients), questions()
    begun = time.monotonic()

    async def one(client: httpx2.AsyncClient) -> None:
        answered = 0
        while time.monotonic() < begun + seconds or answered < 2:
            since = time.monotonic()
            response = await send(client, next(words))
            ms = 1000 * (time.monotonic() - since)
            if response.status_code == 200:
                answered += 1
                found.answered += 1
                if answered > 1:
                    found.milliseconds.append(ms)
                found.seconds = time.monotonic() - begun
            elif response.status_code == 503:
                found.refused_milliseconds.append(ms)
                found.untold += "retry-after" not in response.headers
                await asyncio.sleep(float(response.headers.get("retry-after", 1)))
            else:
                found.others += 1

    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    return found


def at_once(data: bytes) -> Send:
    async def send(client: httpx2.AsyncClient, words: str) -> httpx2.Response:
        return await client.post("/v1/segment", files={"image": ("a.jpg", data)}, data={"labels": words})

    return send


def asking(id_: str) -> Send:
    async def send(client: httpx2.AsyncClient, words: str) -> httpx2.Response:
        return await client.post(f"/v1/images/{id_}/segment", json={"labels": words})

    return send


def keep(url: str, data: bytes) -> str:
    """Also teaches the service the words of `questions`."""
    response = httpx2.post(f"{url}/v1/images", files={"image": ("a.jpg", data)}, timeout=60)
    id_ = str(response.json()["id"])
    httpx2.post(f"{url}/v1/images/{id_}/segment", json={"labels": "@ade150"}, timeout=300)
    httpx2.post(f"{url}/v1/images/{id_}/segment", json={"labels": next(questions(1))}, timeout=300)
    return id_


def sweep(console: Console, model: str, counts: list[int], seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Throughput and latency over clients, all within the bound."""
    data, found = photo(), dict[str, list[dict[str, Any]]]()
    with serving("--max-waiting", str(MANY), model=model) as served:
        ways = {
            "a picture and words": at_once(data),
            "words of a kept picture": asking(keep(served.url, data)),
        }
        for name, send in ways.items():
            found[name] = []
            table = Table(name, "answers a second", "median, ms", "90 %", "99 %", "answers")
            for clients in counts:
                one = asyncio.run(level(served.url, clients, seconds, send))
                told = one.told()
                found[name].append(told)
                _add(table, told)
            console.print(table)
    return found


def _add(table: Table, told: dict[str, Any]) -> None:
    table.add_row(
        f"{told['clients']} client{'s' * (told['clients'] != 1)}",
        f"{told['per_second']:.2f}",
        *(f"{told['ms'][share]:.0f}" for share in ("p50", "p90", "p99")),
        str(told["answered"]),
    )


def bound(console: Console, model: str, waiting: int, seconds: float) -> list[dict[str, Any]]:
    """As many clients as may wait, then twice and four times as many."""
    data, found = photo(), []
    table = Table(
        f"at most {waiting} waiting",
        "answered",
        "a second",
        "median, ms",
        "99 %",
        "503",
        "median, ms",
        "99 %",
        "without Retry-After",
    )
    with serving("--max-waiting", str(waiting), model=model) as served:
        keep(served.url, data)
        for clients in (waiting, 2 * waiting, 4 * waiting):
            told = asyncio.run(level(served.url, clients, seconds, at_once(data))).told()
            found.append(told)
            refused = told["refused_ms"] or {"p50": float("nan"), "p99": float("nan")}
            table.add_row(
                f"{clients} clients",
                str(told["answered"]),
                f"{told['per_second']:.2f}",
                f"{told['ms']['p50']:.0f}",
                f"{told['ms']['p99']:.0f}",
                str(told["refused"]),
                f"{refused['p50']:.0f}",
                f"{refused['p99']:.0f}",
                str(told["without_retry_after"]),
            )
    console.print(table)
    return found


def hold(console: Console, model: str, megapixels: list[int]) -> list[dict[str, Any]]:
    """A black picture of so many megapixels, a file of some kB, and how long others' words wait meanwhile."""
    found, words = [], questions()
    table = Table("a black picture of", "its file", "its answer, s", "words meanwhile, the slowest, s")
    with serving("--max-megapixels", str(max(megapixels)), "--max-seconds", "600", model=model) as served:
        id_ = keep(served.url, photo())

        def ask(text: str) -> None:
            url = f"{served.url}/v1/images/{id_}/segment"
            httpx2.post(url, json={"labels": text}, timeout=600).raise_for_status()

        for many in megapixels:
            side, file = isqrt(many * 10**6), io.BytesIO()
            Image.new("1", (side, side)).save(file, "PNG")
            form = {"files": {"image": ("a.png", file.getvalue())}, "data": {"labels": "cat, sofa"}}
            with ThreadPoolExecutor(1) as hand:
                begun = time.monotonic()
                sent = hand.submit(httpx2.post, f"{served.url}/v1/segment", timeout=600, **form)
                waits = []
                while not sent.done():
                    waits.append(_milliseconds(lambda: ask(next(words))))
                seconds = time.monotonic() - begun
                sent.result().raise_for_status()
            found.append(
                {"megapixels": many, "bytes": file.tell(), "seconds": seconds, "slowest_ms": max(waits)}
            )
            size = f"{file.tell() / 1000:.0f} kB"
            table.add_row(f"{many} megapixels", size, f"{seconds:.1f}", f"{max(waits) / 1000:.1f}")
    console.print(table)
    return found


def overhead(console: Console, model: str, rounds: int) -> dict[str, Any]:
    """One client, and the same with the library in this process, in turns."""
    data, words = photo(), questions()
    segmenter = load(model)
    found = {}
    with serving(model=model) as served, httpx2.Client(base_url=served.url, timeout=60) as client:
        id_ = keep(served.url, data)
        encoded = segmenter.encode(data)
        encoded.segment("@ade150")

        def both(text: str) -> Iterator[Callable[[], object]]:
            form = {"image": ("a.jpg", data)}
            yield lambda: segmenter(data, text)
            yield lambda: answers.to_json(segmenter(data, text))
            yield lambda: client.post("/v1/segment", files=form, data={"labels": text}).raise_for_status()

        def kept(text: str) -> Iterator[Callable[[], object]]:
            yield lambda: encoded.segment(text)
            yield lambda: answers.to_json(encoded.segment(text))
            yield lambda: client.post(f"/v1/images/{id_}/segment", json={"labels": text}).raise_for_status()

        table = Table("one client", "library: label map, ms", "and JSON", "service", "ratio (quartiles)")
        for name, ways, times in (("a picture and words", both, 1), ("words of a kept picture", kept, 3)):
            for work in ways(next(words)):
                work()
            ms = np.array(
                [[_milliseconds(work) for work in ways(next(words))] for _ in range(rounds * times)]
            )
            low, middle, high = np.percentile(ms[:, 2] / ms[:, 1], (25, 50, 75))
            medians = np.median(ms, axis=0)
            found[name] = {
                "rounds": len(ms),
                "median_ms": dict(zip(("label_map", "with_json", "service"), medians.tolist(), strict=True)),
                "ratio": {"median": float(middle), "quartiles": [float(low), float(high)]},
                "ratio_of_medians": float(medians[2] / medians[1]),
                "ratio_of_fastest": float(ms[:, 2].min() / ms[:, 1].min()),
                "ratio_to_label_map": float(medians[2] / medians[0]),
            }
            table.add_row(name, *(f"{one:.0f}" for one in medians), f"{middle:.3f} ({low:.3f} to {high:.3f})")
        console.print(table)
    return found


def _milliseconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)
