"""`sanseg serve` in a process of its own, as users start it, and what can be seen of it from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import psutil

PATIENCE = 120.0  # seconds until it is ready


@dataclass(frozen=True)
class Served:
    """A running service. temporary: its folder for temporary files. log: what it says."""

    process: subprocess.Popen[str]
    url: str
    temporary: Path
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    @property
    def megabytes(self) -> float:
        """Of its resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6


@contextmanager
def serving(
    *options: str,
    model: str = "mini",
    cache: Path | None = None,
    limits: Sequence[str] = (),
    module: str = "sanseg",
) -> Iterator[Served]:
    """Ready. It is told to stop in the end, and has to do so, unless it was killed.

    options: of `sanseg serve`. cache: its cache folder; None is the user's. limits: a command that sets limits and
    starts what follows it, as prlimit. module: what is run, one whose command line is sanseg's.
    """
    with TemporaryDirectory(prefix="sanseg-serve-") as name:
        temporary, log = Path(name) / "tmp", Path(name) / "log"
        temporary.mkdir()
        environment: Mapping[str, str] = {
            **os.environ,
            "TMPDIR": str(temporary),
            **({} if cache is None else {"SANSEG_CACHE": str(cache)}),
        }
        command = [
            *limits,
            sys.executable,
            "-m",
            module,
            "serve",
            "--port",
            "0",
            "--model",
            model,
            *options,
        ]
        with log.open("w") as said:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
            )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert "http://" in line, log.read_text()
            served = Served(process, "http://" + line.split("http://")[1].split()[0], temporary, log)
            wait_ready(served)
            yield served
        finally:
            process.terminate()
            process.wait(PATIENCE)
            process.stdout.close()


def wait_ready(served: Served) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and served.process.poll() is None:
        try:
            if httpx2.get(f"{served.url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the service did not become ready: {served.log.read_text()[-2000:]}")
