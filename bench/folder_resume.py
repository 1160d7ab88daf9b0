"""A folder segmented by the command, killed in the middle with SIGKILL, gone on with, and asked new words.

    python bench/folder_resume.py PHOTOS OUT [--workers N] [--asking N] [--model NAME]

Checks that nothing is lost and nothing is done twice: after the kill, no file of a picture that the manifest has is
written again, and in the end every picture has one line and all its files. Then the same pictures are asked new words
from what was kept of them. Prints the times; exits with 1 where a check fails. OUT has to be new.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sanseg.images import SUFFIXES

FIRST = "person, animal, sky, tree | plant, building, water, road, vehicle, furniture, food"
NEW = "face, dog, cat, flower, grass, boat, tool, book, wall, stone"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--asking", default=str(os.cpu_count()), help="Workers that ask new words.")
    parser.add_argument("--model", default="mini")
    parser.add_argument(
        "--kill-at", type=float, default=0.5, help="Share of the pictures that are done by then."
    )
    asked = parser.parse_args()
    if asked.out.exists():
        parser.error(f"{asked.out} exists: give a new folder")
    wanted = {
        path.relative_to(asked.photos).as_posix()
        for path in asked.photos.rglob("*")
        if path.suffix.lower() in SUFFIXES
    }
    common = ["--model", asked.model, "--workers", asked.workers, "--encoded", str(asked.out / "encoded")]
    first, new = asked.out / "first", asked.out / "new"

    began = time.perf_counter()
    process = subprocess.Popen(command(asked.photos, first, FIRST, common), stdout=subprocess.DEVNULL)
    while process.poll() is None and len(done(first)) < asked.kill_at * len(wanted):
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it could be killed: give a smaller --kill-at"
    process.kill()
    process.wait()
    until_killed = time.perf_counter() - began
    before = done(first)
    written = {name: times(first, record) for name, record in before.items()}
    print(f"killed after {len(before)} of {len(wanted)} pictures, {until_killed:.0f} s", flush=True)

    afterwards = run(asked.photos, first, FIRST, common)
    after = done(first)
    print(f"gone on: {len(after) - len(before)} more pictures, {afterwards:.0f} s", flush=True)
    check("no picture is lost", after.keys() == wanted)
    check("each has one line", len(lines(first)) == len(wanted) + 1)
    check(
        "none that was recorded is done twice",
        written == {name: times(first, after[name]) for name in before},
    )
    check("all files are there", all(None not in times(first, record) for record in after.values()))

    again = run(asked.photos, first, FIRST, common)
    print(f"once more, with nothing to do: {again:.1f} s", flush=True)
    asks = {
        "new words, all files written": (),
        f"the same with --workers {asked.asking}": ("--workers", asked.asking),
        f"label maps and the page only, --workers {asked.asking}": (
            "--workers",
            asked.asking,
            "--format",
            "index",
        ),
    }
    for number, (what, options) in enumerate(asks.items()):
        spent = run(asked.photos, new / str(number), NEW, [*common, *options])
        print(f"{what}: {spent:.0f} s, {(until_killed + afterwards) / spent:.1f} times as fast", flush=True)
        check("every picture has an answer", done(new / str(number)).keys() == wanted)
    kept = [path.stat().st_size for path in (asked.out / "encoded").rglob("*.safetensors")]
    print(f"kept: {len(kept)} encoded pictures, {sum(kept) / len(kept) / 1e6:.2f} MB each")


def command(photos: Path, out: Path, words: str, options: list[str]) -> list[str]:
    return [sys.executable, "-m", "sanseg", "segment", str(photos), "-o", str(out), "-c", words, *options]


def run(photos: Path, out: Path, words: str, options: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([*command(photos, out, words, options), "--quiet"], check=True)
    return time.perf_counter() - began


def lines(out: Path) -> list[str]:
    """The whole lines of a manifest: the last one may be torn."""
    path = out / "manifest.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def done(out: Path) -> dict[str, Any]:
    records = map(json.loads, lines(out)[1:])
    return {record["input"]: record for record in records if record["error"] is None}


def times(out: Path, record: dict[str, Any]) -> list[int | None]:
    files = [out / name for name in record["outputs"].values()]
    return [file.stat().st_mtime_ns if file.exists() else None for file in files]


def check(what: str, holds: bool) -> None:
    print(f"{what}: {'yes' if holds else 'NO'}", flush=True)
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
