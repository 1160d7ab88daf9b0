"""The real process: how it begins, how it ends, and what it says when it cannot begin."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from sanseg.cli import app
from sanseg.cli import serve as serve_command
from sanseg.segmenter import Segmenter
from sanseg.serve import server
from sanseg.serve.app import create_app
from sanseg.serve.settings import Settings
from tests.serve.asking import WORDS, assert_problem, picture, until, upload

ROOT = Path(__file__).parents[2]

# A model that takes a second for a picture: long enough to be told to stop meanwhile.
PROGRAM = """
import sys, time
from sanseg import segmenter
from sanseg.model.download import cache_folder
from sanseg.model.text_cache import TextCache
from tests.conftest import TINY, make_san

class Slow:
    def __init__(self, san):
        self.san = san
    def propose(self, images):
        if images.shape[-1] > 64:
            print("computing", flush=True)
            time.sleep(1.5)
        return self.san.propose(images)

def load(*_, **__):
    san = make_san(TINY)
    cache = TextCache(cache_folder() / "text.sqlite")
    return segmenter.Segmenter(san, proposer=Slow(san), text_cache=cache)

segmenter.load = load
from sanseg.cli import main
sys.argv = ["sanseg", "serve", "--port", "0", *sys.argv[1:]]
main()
"""


class Process:
    """cache: its cache folder. first: what it does before all else, in Python."""

    def __init__(self, *arguments: str, cache: Path, first: str = "") -> None:
        self.lines: list[str] = []
        self.popen = subprocess.Popen(
            [sys.executable, "-c", first + PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "SANSEG_CACHE": str(cache),
            },
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def address(self) -> str:
        until(lambda: "http://" in self.text or self.popen.poll() is not None, 60)
        found = re.search(r"http://\S+", self.text)
        assert found, self.text
        return found[0]


@contextmanager
def serving(*arguments: str, cache: Path, first: str = "") -> Iterator[Process]:
    """In the end it is killed."""
    process = Process(*arguments, cache=cache, first=first)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait(30)
        process.reader.join(30)


def is_ready(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/readyz").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_refuses_and_exits_with_0(stop: signal.Signals, tmp_path: Path) -> None:
    with serving(cache=tmp_path) as process:
        address = process.address
        until(lambda: is_ready(address), 60)
        answers: list[httpx2.Response] = []

        def ask() -> None:
            answers.append(
                httpx2.post(f"{address}/v1/segment", files=upload(picture(60, 200)), data=WORDS, timeout=60)
            )

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: "computing" in process.text)
        process.popen.send_signal(stop)
        until(lambda: not is_ready(address), 5)
        refused = httpx2.post(f"{address}/v1/images", files=upload(picture()))
        assert not answers, "it was told to stop too late for this test"
        assert_problem(refused, 503, "shutting down")
        assert refused.headers["connection"] == "close"
        asking.join(60)
        assert answers[0].status_code == 200
        assert answers[0].json()["width"] == 200
        assert process.popen.wait(30) == 0, process.text
        assert "Traceback" not in process.text, process.text


def test_told_to_stop_while_it_has_nothing_to_do_it_ends_soon(tmp_path: Path) -> None:
    with serving(cache=tmp_path) as process:
        until(lambda: is_ready(process.address), 60)
        until(lambda: bool(re.search(r"^mini on \w+ in float32$", process.text, re.MULTILINE)), 5)
        with httpx2.Client() as asker:  # a connection that stays open
            assert asker.get(f"{process.address}/healthz").status_code == 200
            process.popen.send_signal(signal.SIGTERM)
            assert process.popen.wait(10) == 0, process.text
        assert "Traceback" not in process.text


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2, result.output
    [line] = result.stderr.strip().splitlines()[-1:]
    assert "Traceback" not in result.stderr
    return line


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"--port {port + 1}" in refused("--port", str(port))


def test_an_address_that_is_not_there_is_said() -> None:
    assert "127.0.0.1" in refused("--host", "no.such.host.invalid")
    told = refused("--host", "203.0.113.1", "--port", "0")
    assert "203.0.113.1 is no address of this machine" in told
    assert "--port" not in told


def test_a_model_that_cannot_be_loaded_is_said() -> None:
    assert "no-such-model" in refused("--port", "0", "--model", "no-such-model")


def test_wrong_keys_and_origins_are_said(tmp_path: Path) -> None:
    file, nowhere = tmp_path / "keys", ("--host", "203.0.113.1")  # what is not refused serves nobody
    assert f"{file} cannot be read" in refused(*nowhere, "--keys", str(file))
    file.write_text("short")
    assert "line 1" in refused(*nowhere, "--keys", str(file))
    assert "https://example.org" in refused(*nowhere, "--origin", "example.org")
    for name in ("http://example.org", "example.org:8000"):
        assert f"'{name}' is no name of a host" in refused(*nowhere, "--name", name)


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert (
        refused() == "sanseg: sanseg serve needs fastapi, which is not installed: pip install 'sanseg[serve]'"
    )


OPTIONS = {
    "--max-megabytes 3": ("bytes", 3 * 2**20),
    "--max-megapixels 2": ("pixels", 2_000_000),
    "--max-labels 7": ("labels", 7),
    "--keep-megabytes 5": ("kept_bytes", 5 * 2**20),
    "--keep-minutes 0.5": ("kept_seconds", 30),
    "--max-waiting 9": ("waiting", 9),
    "--max-seconds 1.5": ("seconds", 1.5),
    "--batch 6": ("batch", 6),
    "--origin https://a.example --origin https://b.example": (
        "origins",
        ("https://a.example", "https://b.example"),
    ),
    "--name sanseg.example": ("hosts", ("127.0.0.1", "sanseg.example")),
    "--host localhost": ("hosts", ("localhost",)),
}


@pytest.mark.parametrize("options", OPTIONS)
def test_each_option_is_a_setting(
    options: str, monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter
) -> None:
    """What each setting does is tested where it does it."""
    served = []
    monkeypatch.setattr(
        server, "run", lambda app, bound, open_address: served.append((app, bound, open_address))
    )
    result = CliRunner().invoke(app, ["serve", "--port", "0", *options.split()])
    assert result.exit_code == 0, result.output
    [(application, bound, open_address)] = served
    bound.close()
    name, value = OPTIONS[options]
    assert getattr(application.state.service.settings, name) == value
    assert open_address is None


def test_without_options_it_is_as_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    monkeypatch.setattr(server, "run", lambda app, bound, open_address: served.append(app) or bound.close())
    assert CliRunner().invoke(app, ["serve", "--port", "0"]).exit_code == 0
    assert served[0].state.service.settings == Settings(hosts=("127.0.0.1",))


def test_keys_and_the_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served = []
    monkeypatch.setattr(
        server, "run", lambda app, bound, open_address: served.append((app, bound, open_address))
    )
    file = tmp_path / "keys"
    file.write_text("a" * 20 + "\n")
    result = CliRunner().invoke(app, ["serve", "--port", "0", "--keys", str(file), "--open", "-q"])
    assert (result.exit_code, result.output) == (0, "")
    [(application, bound, open_address)] = served
    assert application.state.service.keys
    assert open_address == f"http://127.0.0.1:{bound.getsockname()[1]}"
    bound.close()


def test_everybody_is_let_in_only_with_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server, "run", lambda app, bound, open_address: bound.close())
    file = tmp_path / "keys"
    file.write_text("a" * 20 + "\n")
    for options, warned in (
        (("--host", "0.0.0.0"), True),
        (("--host", "0.0.0.0", "--keys", str(file)), False),
        (("--host", "127.0.0.1"), False),
        (("--host", "localhost"), False),
    ):
        result = CliRunner().invoke(app, ["serve", "--port", "0", *options])
        assert ("whoever reaches" in result.stderr) == warned
    assert serve_command._is_loopback("::1")
    assert not serve_command._is_loopback("example.org")


def test_the_browser_opens_once_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter
) -> None:
    opened: list[str] = []
    may = threading.Event()

    def load() -> Segmenter:
        assert may.wait(30)
        return segmenter

    application = create_app(load)
    running = server.Server(application, "http://127.0.0.1:1")

    def open_(address: str) -> None:
        opened.append(address)
        application.state.service.close()

    monkeypatch.setattr(server.webbrowser, "open", open_)
    with server.listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        thread.start()
        until(lambda: running.started)
        assert not opened
        may.set()
        thread.join(30)
    assert opened == ["http://127.0.0.1:1"]


def test_importing_sanseg_loads_no_server() -> None:
    program = "import sys, sanseg, sanseg.cli; sanseg.load; print({'fastapi', 'uvicorn'} & {*sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "set()"
