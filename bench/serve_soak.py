"""Mixed traffic for minutes or hours, and the service's memory meanwhile."""

from __future__ import annotations

import asyncio
import io
import random
import threading
import time
from collections import Counter
from typing import Any

import httpx2
import numpy as np
from PIL import Image
from rich.console import Console
from serve_load import photo, questions
from serve_process import Served, serving

from tests.serve.hostile import PNG, cases, converse

EACH = 1.0  # seconds between two looks at memory
CLIENTS = 4
WARM = 0.4  # of the time: caches of words and of pictures fill up
KEPT = ("--keep-megabytes", "32", "--keep-minutes", "0.5")  # full early
LONGEST_WARM = 300.0  # seconds


def run(console: Console, model: str, minutes: float) -> dict[str, Any]:
    with serving(*KEPT, model=model) as served:
        seconds, megabytes, counted = asyncio.run(_soak(served, 60 * minutes))
    warm = min(WARM * seconds[-1], LONGEST_WARM)
    told = judged(seconds, megabytes, warm) | {
        "minutes": minutes,
        "requests": dict(counted),
        "samples": {"seconds": seconds, "megabytes": megabytes},
    }
    console.print(
        f"{minutes:g} minutes, {sum(counted.values())} requests; after {warm:.0f} s of warm-up"
        f" {told['slope']:+.1f} MB an hour (95 %: {told['low']:+.1f} to {told['high']:+.1f}),"
        f" {told['least']:.0f} to {told['most']:.0f} MB, standard deviation {told['deviation']:.1f} MB"
    )
    console.print(", ".join(f"{count} {kind}" for kind, count in sorted(counted.items())))
    return told


def judged(seconds: list[float], megabytes: list[float], warm: float) -> dict[str, float]:
    """A line through the samples after the warm-up, in MB an hour.

    Samples beside each other are alike: the spread is that of slopes when blocks of a sixteenth are drawn again.
    """
    chosen = np.array(seconds) > warm
    x, y = np.array(seconds)[chosen] / 3600, np.array(megabytes)[chosen]
    slope, start = np.polyfit(x, y, 1)
    rest = y - (start + slope * x)
    block, draw = max(1, len(x) // 16), np.random.default_rng(0)
    slopes = []
    for _ in range(1000):
        places = draw.integers(0, len(x) - block + 1, -(-len(x) // block))
        again = np.concatenate([rest[place : place + block] for place in places])[: len(x)]
        slopes.append(np.polyfit(x, start + slope * x + again, 1)[0])
    low, high = np.percentile(slopes, (2.5, 97.5))
    return {
        "warm_seconds": warm,
        "slope": float(slope),
        "low": float(low),
        "high": float(high),
        "least": float(y.min()),
        "most": float(y.max()),
        "deviation": float(rest.std()),
    }


async def _soak(served: Served, seconds: float) -> tuple[list[float], list[float], Counter[str]]:
    begun, over, counted = time.monotonic(), threading.Event(), Counter[str]()
    looked, megabytes = list[float](), list[float]()

    async def look() -> None:
        while not over.is_set():
            looked.append(time.monotonic() - begun)
            megabytes.append(served.megabytes)
            await asyncio.sleep(EACH)

    async def usual(number: int) -> None:
        drawn = random.Random(number)
        while not over.is_set():
            async with httpx2.AsyncClient(base_url=served.url, timeout=120) as client:
                try:
                    await _usual(client, drawn, over, counted)
                except (
                    httpx2.TransportError
                ):  # as where a line that was idle is closed while it is used again
                    counted["line lost"] += 1

    looking = asyncio.create_task(look())
    hostile = asyncio.create_task(asyncio.to_thread(_hostile, served, over, counted))
    clients = [asyncio.create_task(usual(number)) for number in range(CLIENTS)]
    await asyncio.sleep(seconds)
    over.set()
    await asyncio.gather(looking, hostile, *clients)
    return looked, megabytes, counted


async def _usual(
    client: httpx2.AsyncClient, drawn: random.Random, over: threading.Event, counted: Counter[str]
) -> None:
    """A picture that nobody sent before, asked some times, and often forgotten; or one call; or gone too early."""
    words = questions(drawn.randrange(10**9))
    while not over.is_set():
        image = {"image": ("a.jpg", _another(drawn))}
        what = drawn.random()
        if what < 0.5:
            response = await client.post("/v1/images", files=image)
            counted[f"encoded: {response.status_code}"] += 1
            if response.status_code != 201:
                continue
            path = f"/v1/images/{response.json()['id']}"
            for _ in range(drawn.randrange(8)):
                ask = {"labels": next(words), "format": drawn.choice(("json", "view", "overlay"))}
                response = await client.post(f"{path}/segment", json=ask)
                counted[f"asked: {response.status_code}"] += 1
            if drawn.random() < 0.5:
                response = await client.delete(path)
                counted[f"forgotten: {response.status_code}"] += 1
        elif what < 0.8:
            response = await client.post("/v1/segment", files=image, data={"labels": next(words)})
            counted[f"at once: {response.status_code}"] += 1
        else:
            try:
                patience = drawn.uniform(0.001, 0.3)
                await client.post("/v1/segment", files=image, data={"labels": next(words)}, timeout=patience)
            except httpx2.TimeoutException:
                counted["gone in the middle"] += 1


def _another(drawn: random.Random) -> bytes:
    """A photo of another size and light."""
    image = Image.open(io.BytesIO(photo()))
    width, height = drawn.randrange(200, 900), drawn.randrange(200, 700)
    data = io.BytesIO()
    image.resize((width, height)).point(lambda value: value * drawn.uniform(0.6, 1.2)).save(data, "JPEG")
    return data.getvalue()


def _hostile(served: Served, over: threading.Event, counted: Counter[str]) -> None:
    response = httpx2.post(f"{served.url}/v1/images", files={"image": ("a.png", PNG)}, timeout=60)
    some = [case for case in cases(response.json()["id"]) if not case.slow]
    random.Random(0).shuffle(some)
    while True:
        for case in some:
            if over.is_set():
                return
            got = converse(served.address, case)
            # The picture that is asked may be forgotten meanwhile.
            wrong = got.status >= 500 and got.status != 503
            counted["hostile: 5xx" if wrong else "hostile"] += 1
            over.wait(0.05)
