"""New words for pictures whose encodings were kept: processor time per picture, beside that of the first time.

    OMP_NUM_THREADS=1 python bench/new_words.py PHOTOS
    OMP_NUM_THREADS=1 python bench/new_words.py PHOTOS --model weights.safetensors --photos 100 --rounds 3

Segments a folder with `--keep-encoded`, all default formats, then asks other words for fewer and for all formats. Times
are of all threads of this process, which other programs disturb less than the clock: loading the model and the words is
left out; the page, the manifest, and naming the weights (once) are in. The smallest of the rounds counts.
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
        whole = seconds(segmenter, work, first, DEFAULT)
        print(f"{'first time, ' + ' + '.join(DEFAULT):40} {1000 * whole:6.1f} ms")
        for formats in FORMATS:
            least = min(seconds(segmenter, work, new, formats) for _ in range(asked.rounds))
            print(
                f"{'new words, ' + ' + '.join(formats):40} {1000 * least:6.1f} ms, {whole / least:.1f} times"
            )


def seconds(segmenter: Segmenter, work: Path, words: Vocabulary, formats: tuple[str, ...]) -> float:
    """Processor time per picture."""
    segmenter.classifier(words)
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    found = find_folder([str(work / "photos")], out)
    crew = Crew(segmenter, lambda: segmenter)
    began = time.process_time()
    outcome = segment_folder(found, crew, Settings(out, words, formats, work / "encoded"))
    spent = time.process_time() - began
    assert not outcome.failed, outcome.failed
    return spent / len(found.inputs)


if __name__ == "__main__":
    main()
