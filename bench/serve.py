"""`sanseg serve` proved from outside: load, hostile requests, hours, and kill -9.

    python bench/serve.py --overhead --load --bound --figure docs/pictures/service.png
    python bench/serve.py --soak 20 --soak-figure docs/pictures/service_soak.png
    python bench/serve.py --hostile
    python bench/serve.py --kill 10

Starts the service itself, on a free port of this machine, and asks it from this process. Threads are torch's default;
set OMP_NUM_THREADS to change them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # the corpus lies with the tests

import serve_hostile

from sanseg.benchmark.rounds import machine


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("--passes", type=int, default=20, help="Through the corpus, for memory.")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200)
    told = {"machine": machine("cpu")}
    if asked.hostile:
        told["hostile"] = serve_hostile.run(console, asked.model, asked.passes)
        console.print(serve_hostile.summary(told["hostile"]["cases"]))
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
