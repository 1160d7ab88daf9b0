"""New words for pictures whose encodings were kept: time per picture, beside that of the first time.

    OMP_NUM_THREADS=1 python bench/new_words.py PHOTOS
    OMP_NUM_THREADS=1 python bench/new_words.py PHOTOS --model weights.safetensors --photos 100 --rounds 3

Segments a folder with `--keep-encoded`, all default formats, then asks other words for fewer and for all formats.
Processor time is of all threads of this process, and other programs disturb it less than the clock's, which is told
beside it. Loading the model and the words is left out; the page, the manifest, and naming the weights (once) are in,
so that many photos give the truer figure. The smallest of the rounds counts.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from sanseg.folders.folder import Crew, segment_folder
from sanseg.folders.walk import find_folder, find_images
from sanseg.folders.work import Settings
from sanseg.segmenter import Segmenter, load
from sanseg.vocabulary import Vocabulary

FIRST = "person, animal, sky, tree | plant, building, water, road, vehicle, furniture, food"
NEW = "face, dog, cat, flower, grass, boat, tool, book, wall, stone"
DEFAULT = ("overlay", "index", "json")
FORMATS = (("index",), ("index", "json"), DEFAULT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    segmenter = load(asked.model, "cpu")
    first, new = (segmenter.resolve(Vocabulary.from_text(text)) for text in (FIRST, NEW))
    with TemporaryDirectory() as name:
        work, every = Path(name), find_images([asked.folder])
        step = max(1, len(every) // asked.photos)
        for number, path in enumerate(every[::step][: asked.photos]):
            (work / "photos").mkdir(exist_ok=True)
            shutil.copy(path, work / "photos" / f"{number:05}{path.suffix}")
        first_time = seconds(segmenter, work, first, DEFAULT)
        told(f"first time, {' + '.join(DEFAULT)}", first_time, first_time)
        for formats in FORMATS:
            rounds = [seconds(segmenter, work, new, formats) for _ in range(asked.rounds)]
            told(f"new words, {' + '.join(formats)}", tuple(map(min, zip(*rounds, strict=True))), first_time)


def told(what: str, spent: tuple[float, ...], first: tuple[float, ...]) -> None:
    print(
        f"{what:40}",
        *(
            f"{kind} {1000 * least:6.1f} ms, {whole / least:.1f} times;"
            for kind, least, whole in zip(("processor", "clock"), spent, first, strict=True)
        ),
    )


def seconds(
    segmenter: Segmenter, work: Path, words: Vocabulary, formats: tuple[str, ...]
) -> tuple[float, ...]:
    """Processor time per picture, and the clock's."""
    segmenter.classifier(words)
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    found = find_folder([str(work / "photos")], out)
    crew = Crew(segmenter, lambda: segmenter)
    began = time.process_time(), time.perf_counter()
    outcome = segment_folder(found, crew, Settings(out, words, formats, work / "encoded"))
    ended = time.process_time(), time.perf_counter()
    assert not outcome.failed, outcome.failed
    return tuple((end - start) / len(found.inputs) for start, end in zip(began, ended, strict=True))


if __name__ == "__main__":
    main()
