"""A browser for all tests, a served model for all tests, and a fresh tab for each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sanseg
from sanseg.segmenter import Encoded
from tests.serve.browser.server import Server, running

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install '.[test]'"
)
for module in ("fastapi", "uvicorn"):
    pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[serve]'")

from tests.serve.browser.driver import Driver  # noqa: E402  it needs playwright

SECONDS = 60  # that anything on the page may take here, on a busy machine


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Debian's Chromium, else playwright's own.

    Not for longer than these tests: playwright leaves a loop running, beside which others' `asyncio.run` fails.
    """
    with sync_api.sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        if path is None and Path(playwright.chromium.executable_path).is_file():
            path = playwright.chromium.executable_path
        if path is None:
            pytest.skip("there is no Chromium: apt install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The model in the box, as `sanseg serve` serves it. Not to be stopped."""
    with running(Server(tmp_path_factory.mktemp("served") / "log", "--max-megabytes", "8")) as server:
        yield server


class Library:
    """The library's own answers."""

    def __init__(self) -> None:
        self.segmenter = sanseg.load("mini")
        self._encoded: dict[bytes, Encoded] = {}

    def encode(self, photo: Path) -> Encoded:
        """The same photo once."""
        data = photo.read_bytes()
        if data not in self._encoded:
            self._encoded[data] = self.segmenter.encode(data)
        return self._encoded[data]


@pytest.fixture(scope="session")
def mini() -> Library:
    return Library()


OpenTab = Callable[..., Driver]


@pytest.fixture
def open_tab(browser: Any, request: pytest.FixtureRequest) -> Iterator[OpenTab]:
    """open_tab(url, context=None, **options): a tab, in a context of its own, or beside another's.

    A test fails where a script of the page did, and where a browser refused to load or run something.
    """
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_(url: str, context: Any = None, **options: Any) -> Driver:
        if context is None:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            context.set_default_timeout(1000 * SECONDS)
            contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None,
        )
        page.goto(url)
        page.wait_for_selector("#formats li", state="attached")
        return Driver(page)

    yield open_
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def tab(served: Server, open_tab: OpenTab) -> Driver:
    return open_tab(served.url)
