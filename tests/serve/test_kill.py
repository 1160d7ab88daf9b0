"""kill -9 within a write: the next service starts, and answers the same."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.serve.asking import WORDS, picture, until, upload
from tests.serve.test_process import is_ready, serving
from tests.serve.torn import WORDS as TORN
from tests.serve.torn import look_into

TEAR = "from tests.serve.torn import tear; tear()"


def answer(address: str, labels: str = WORDS["labels"]) -> bytes:
    until(lambda: is_ready(address), 60)
    data = {"labels": labels, "other": "none", "format": "index"}
    response = httpx2.post(f"{address}/v1/segment", files=upload(picture()), data=data, timeout=60)
    assert response.status_code == 200, response.text
    return response.content


def test_killed_while_it_writes_words_it_starts_again_and_answers_the_same(tmp_path: Path) -> None:
    with serving(first=TEAR, cache=tmp_path) as process:
        before = answer(process.address)
        rows, _ = look_into(tmp_path)
        image = httpx2.post(f"{process.address}/v1/images", files=upload(picture()), timeout=60).json()
        path = f"{process.address}/v1/images/{image['id']}/segment"
        try:
            httpx2.post(path, json={"labels": TORN}, timeout=0.5)
        except httpx2.TimeoutException:
            until(lambda: "writing" in process.text)
    assert (tmp_path / "text.sqlite-journal").stat().st_size > 0
    assert look_into(tmp_path, without_journal=True) != (rows, "ok"), "nothing was written when it was killed"
    with serving(cache=tmp_path) as process:
        assert answer(process.address) == before
        assert look_into(tmp_path) == (rows, "ok"), "half of a write is left"
        assert answer(process.address, ", ".join(TORN[:3]))  # and more can be written
    assert look_into(tmp_path) == (rows + 3, "ok")
    assert not (tmp_path / "text.sqlite-journal").exists()
    assert "text embeddings are kept in memory only" not in process.text
