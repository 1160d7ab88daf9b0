"""Workers are forked from a process that has the libraries already, and leave Ctrl-C to the first one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sanseg.folders.start import FORKED

PROGRAM = """
import signal, sys
from concurrent.futures import ProcessPoolExecutor
from sanseg.folders.start import begin_early, context

if __name__ == "__main__":
    begin_early()
    assert "torch" not in sys.modules
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with ProcessPoolExecutor(1, context()) as pool:
        assert signal.SIGINT in pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
        assert pool.submit(eval, "'sanseg.folders.work' in __import__('sys').modules").result()
"""


@pytest.mark.skipif(not FORKED, reason="workers are spawned here")
def test_workers_begin_with_what_they_need_and_leave_ctrl_c_alone() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
