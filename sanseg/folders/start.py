"""How worker processes are started. Without torch: the earlier it is asked, the less they are waited for."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from multiprocessing.context import BaseContext

# A fork on macOS may crash in its system's libraries, Metal's among them. Of Python 3.11.0, other users of the machine
# could speak to the server (CVE-2022-42919).
FORKED = sys.platform == "linux" and sys.version_info >= (3, 11, 1)


def context() -> BaseContext:
    """Of processes that are forked from a server that has only imported, where that is safe; else spawned."""
    return multiprocessing.get_context("forkserver" if FORKED else "spawn")


def begin_early() -> None:
    """Has the server import what workers need, while this process still imports it for itself."""
    if not FORKED:
        return
    from multiprocessing import forkserver, resource_tracker

    forkserver.set_forkserver_preload(["sanseg.folders.work"])
    # Ctrl-C reaches every process of the terminal. What is blocked stays so in the server and in those it forks, and
    # here it only waits.
    resource_tracker.ensure_running()  # it unblocks SIGINT when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
