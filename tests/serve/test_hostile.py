"""What nobody well-meaning sends, to a server on a socket: refused in a line, and forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx2
import pytest

from sanseg.segmenter import Segmenter
from sanseg.serve import server
from sanseg.serve.app import create_app
from tests.conftest import TINY, make_san
from tests.serve.asking import until
from tests.serve.hostile import CLOSED, PNG, Case, cases, converse


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """Of a server with a random model, with everything a socket brings along."""
    app = create_app(Segmenter(make_san(TINY)))
    bound = server.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=(app, bound))
    thread.start()
    until(lambda: app.state.service.worker.ready)
    yield bound.getsockname()
    app.state.service.close()
    thread.join(30)
    assert not thread.is_alive(), app.state.service.open_requests


def keep(address: tuple[str, int]) -> str:
    response = httpx2.post(f"http://{address[0]}:{address[1]}/v1/images", files={"image": ("a.png", PNG)})
    return str(response.json()["id"])


# Of a form that is given up Starlette forgets to close the parts, which are in memory.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function SpooledTemporaryFile")
def test_hostile_requests_are_refused_in_a_line_and_change_nothing(address: tuple[str, int]) -> None:
    kept = keep(address)
    some = [case for case in cases(kept) if not case.slow]
    normal = Case("", "", next(case.steps for case in some if case.name == "PNG, RGB and alpha"), frozenset())
    before = converse(address, normal)
    wrong = []
    for case in some:
        got = converse(address, case)
        told = got.has_problem and "\n" not in got.detail and len(got.detail) <= 1_000
        if got.status not in case.wanted or not (told or got.status < 400 or case.group in ("heads", "lines")):
            wrong.append((case.group, case.name, got))
    assert not wrong, "\n".join(map(str, wrong))
    after = converse(address, normal)
    assert (after.status, after.detail) == (before.status, before.detail) == (200, before.detail)
    assert keep(address) == kept
