"""`python -m tests.wheel_contents FOLDER`: the one wheel in it holds all that sanseg needs, and no more than it may."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

NEEDED = (
    "sanseg/py.typed",
    "sanseg/distractors.txt",
    "sanseg/data/labels/ade20k_847.txt",
    "sanseg/report/page.html.jinja",
    "sanseg/folders/index.html.jinja",
    "sanseg/folders/index.js",
    "sanseg/serve/static/index.html",
    "sanseg/serve/static/page.js",
    "sanseg/serve/static/samples/cat.jpg",
    "sanseg/model/assets/mini.safetensors",
    "sanseg/model/assets/bpe_simple_vocab_16e6.txt.gz",
    "licenses/LICENSE",
    "LICENSE-CLIP",
    "LICENSE-EFFICIENTNET-LITE2",
)
LARGEST = 41e6  # bytes: 40 MB of model, and the code


def problems(wheel: Path) -> list[str]:
    """A line for each thing that is not as it should be."""
    names = ZipFile(wheel).namelist()
    found = [f"{name} is missing" for name in NEEDED if not any(one.endswith(name) for one in names)]
    found += [f"{name} does not belong" for name in names if not name.startswith("sanseg")]
    if wheel.stat().st_size > LARGEST:
        found.append(f"{wheel.stat().st_size} bytes are more than {LARGEST:.0f}")
    return found


if __name__ == "__main__":
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    lines = problems(wheel)
    print("\n".join(lines) or f"{wheel.name} is whole: {wheel.stat().st_size / 1e6:.1f} MB")
    sys.exit(bool(lines))
