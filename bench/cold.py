"""Whole commands from a cold start, each a fresh process: medians of several rounds in which all take turns.

    python bench/cold.py
    python bench/cold.py --rounds 11

"import torch" is the floor: whatever segments with torch pays it. "python" starts and ends. The photo is
examples/cat.jpg with two labels; words and files are in the system's caches after a first run, which is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
PHOTO = str(ROOT / "examples" / "cat.jpg")
PYTHON = sys.executable


def commands(out: Path) -> dict[str, list[str]]:
    return {
        "python": [PYTHON, "-c", "pass"],
        "import sanseg": [PYTHON, "-c", "import sanseg"],
        "sanseg --help": [PYTHON, "-m", "sanseg", "--help"],
        "import torch": [PYTHON, "-c", "import torch"],
        "one photo": [PYTHON, "-m", "sanseg", "segment", PHOTO, "-c", "cat, sofa", "-o", str(out)],
    }


def seconds(command: list[str], cache: Path) -> float:
    """Raises CalledProcessError where the command fails."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "SANSEG_CACHE": str(cache)})
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    times: dict[str, list[float]] = {}
    with TemporaryDirectory(prefix="sanseg-cold-") as name:
        all_of_them, cache = commands(Path(name) / "out"), Path(name) / "cache"
        for number in range(options.rounds + 1):
            for what, command in all_of_them.items():
                taken = seconds(command, cache)
                if number:  # the first round fills the caches
                    times.setdefault(what, []).append(taken)
    median = {what: round(statistics.median(some), 3) for what, some in times.items()}
    above = [photo - floor for photo, floor in zip(times["one photo"], times["import torch"], strict=True)]
    print(json.dumps(median | {"one photo above the floor": round(statistics.median(above), 3)}))


if __name__ == "__main__":
    main()
