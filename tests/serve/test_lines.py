"""What nobody well-meaning sends, and how, to a server on a socket: the bytes of requests, and manners."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep

import httpx2
import pytest
from PIL import Image

from sanseg.segmenter import Segmenter
from sanseg.serve import server
from sanseg.serve.app import create_app
from tests.conftest import TINY, make_san
from tests.serve.asking import until
from tests.serve.hostile import PNG, Case, asked, cases, converse
from tests.serve.hostile_pictures import encoded

Address = tuple[str, int]
NORMAL = Case("", "a usual request", (asked(format="index"),), frozenset({200}))


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    """Of a server with a random model, with everything that a socket brings along."""
    app = create_app(Segmenter(make_san(TINY)))
    bound = server.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=(app, bound))
    thread.start()
    until(lambda: app.state.service.worker.ready)
    yield bound.getsockname()
    app.state.service.close()
    thread.join(30)
    assert not thread.is_alive(), f"{app.state.service.open_requests} requests are open"


def keep(address: Address) -> str:
    response = httpx2.post(f"http://{address[0]}:{address[1]}/v1/images", files={"image": ("a.png", PNG)})
    return str(response.json()["id"])


# Of a form that is given up Starlette forgets to close the parts, which are in memory.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function SpooledTemporaryFile")
def test_hostile_requests_are_refused_in_a_line_and_change_nothing(address: Address) -> None:
    kept, before = keep(address), converse(address, NORMAL)
    wrong = []
    for case in cases(kept):
        if case.slow or case.group in ("pictures", "labels"):  # those are in test_hostile.py
            continue
        got = converse(address, case)
        below = case.group in ("heads", "lines")  # HTTP's own mistakes are refused below the application
        told = got.status < 400 or below or (got.has_problem and "\n" not in got.detail)
        # What is refused costs next to nothing: half a minute is some hundred times as much.
        if got.status not in case.wanted or not told or (got.status >= 400 and got.seconds > 30):
            wrong.append(f"{case.group}: {case.name}: {got}")
    assert not wrong, "\n".join(wrong)
    after = converse(address, NORMAL)
    assert (after.status, after.body) == (200, before.body)
    assert keep(address) == kept


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: "]
)
def test_who_sends_no_request_is_hung_up_on(
    address: Address, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    with socket.create_connection(address, timeout=30) as line:
        begun = monotonic()
        try:
            for _ in range(300):
                line.sendall(sent[:1] if monotonic() > begun + 0.1 else sent)  # never silent, never done
                sleep(0.05)
                if not sent and line.recv(1) == b"":
                    break
        except ConnectionError:
            pass
        assert 0.25 < monotonic() - begun < 14


def test_who_keeps_asking_and_who_waits_for_an_answer_is_not(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    with httpx2.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
        for _ in range(5):
            sleep(0.2)
            response = client.get("/healthz")
            assert response.status_code == 200
    whole = asked()
    slow = Case("", "a body in a second", (whole[:-500], 1.0, whole[-500:]), frozenset({200}))
    assert converse(address, slow).status == 200


def test_who_reads_no_answer_is_hung_up_on_and_who_reads_slowly_is_not(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.25)
    sent = asked(encoded(Image.new("L", (3_000, 3_000)), "PNG"), format="view")

    def read(pause: float) -> int:
        """How many bytes come, after a pause at first and another after each of some megabytes."""
        with socket.create_connection(address, timeout=60) as line:
            line.sendall(sent)
            got, pauses = 0, 0
            try:
                while chunk := line.recv(1 << 20):
                    got += len(chunk)
                    if got >> 20 >= pauses < 10 and (pause < 1 or pauses == 0):
                        pauses += 1
                        sleep(pause)
            except ConnectionError:
                pass
            return got

    assert read(0.15) > 2 * 3_000 * 3_000
    assert read(3) < 2 * 3_000 * 3_000
