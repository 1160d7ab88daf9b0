"""`sanseg serve` proved from outside: what it adds, load, the bound, hostile requests, hours, and kill -9.

    python bench/serve.py --overhead --load --bound --figure docs/pictures/service_load.png
    python bench/serve.py --hold 1 12 25 49
    python bench/serve.py --hostile
    python bench/serve.py --soak 20 --soak-figure docs/pictures/service_soak.png
    python bench/serve.py --kill 10

Starts the service itself, on a free port of this machine, and asks it from this process. Threads are torch's default;
set OMP_NUM_THREADS to change them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # the corpus lies with the tests

import serve_figures
import serve_hostile
import serve_kill
import serve_load
import serve_soak

from sanseg.benchmark.rounds import machine
from sanseg.images import write_bytes


def main() -> None:
    asked = arguments()
    console = Console(width=None if sys.stdout.isatty() else 200)
    told: dict[str, Any] = {"machine": machine("cpu"), "model": asked.model}
    if asked.overhead:
        told["overhead"] = serve_load.overhead(console, asked.model, asked.rounds)
    if asked.load:
        told["load"] = serve_load.sweep(console, asked.model, asked.clients, asked.seconds)
        if asked.figure:
            threads = told["machine"]["threads"]
            title = f"{asked.model}, 640 x 480 pixels, {threads} thread{'s' * (threads != 1)} of a processor"
            write_bytes(asked.figure, serve_figures.load_figure(told["load"], title))
    if asked.bound:
        told["bound"] = serve_load.bound(console, asked.model, asked.waiting, asked.seconds)
    if asked.hold:
        told["hold"] = serve_load.hold(console, asked.model, asked.hold)
    if asked.hostile:
        told["hostile"] = serve_hostile.run(console, asked.model, asked.passes)
        console.print(serve_hostile.summary(told["hostile"]["cases"]))
    if asked.kill:
        told["kill"] = serve_kill.run(console, asked.model, asked.kill)
    if asked.soak:
        told["soak"] = serve_soak.run(console, asked.model, asked.soak)
        if asked.soak_figure:
            write_bytes(asked.soak_figure, serve_figures.soak_figure(told["soak"]))
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--overhead", action="store_true", help="One client beside the library, in turns.")
    parser.add_argument("--rounds", type=int, default=20, help="Of --overhead.")
    parser.add_argument("--load", action="store_true", help="Throughput and latency over clients.")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=15, help="Of each number of clients, at least.")
    parser.add_argument("--figure", type=Path, help="A PNG of --load.")
    parser.add_argument("--bound", action="store_true", help="More clients than may wait.")
    parser.add_argument("--waiting", type=int, default=8, help="Of --bound: how many may.")
    parser.add_argument(
        "--hold", type=int, nargs="+", metavar="MEGAPIXELS", help="What one large picture costs others."
    )
    parser.add_argument("--hostile", action="store_true", help="The corpus of tests/serve/hostile.py.")
    parser.add_argument("--passes", type=int, default=20, help="Through the corpus, for memory.")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="Mixed traffic.")
    parser.add_argument("--soak-figure", type=Path, help="A PNG of --soak.")
    parser.add_argument("--kill", type=int, metavar="ROUNDS", help="kill -9, so many times.")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
