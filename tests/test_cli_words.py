"""`sanseg words` and `sanseg calibrate` tell and write what the library does; words are asked as they were saved."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from sanseg.calibration import calibrate
from sanseg.cli import app, shell
from sanseg.data.datasets import SegmentationSet
from sanseg.figures import MOST_WORDS, cosines_figure
from sanseg.model import weights
from sanseg.model.san import SAN
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary

Run = Callable[..., Result]


@pytest.fixture
def run(tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SANSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    weights.save_san("tiny.safetensors", tiny_san)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((60, 40), Image.Resampling.BICUBIC).save("one.png")

    def invoke(command: str, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(
            app, [command, *arguments, "--model", "tiny.safetensors", "--device", "cpu"]
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        if code:
            assert result.stderr.startswith("sanseg: ")
            assert result.stderr.count("\n") == 1
        return result

    return invoke


def numbers(run: Run, *arguments: str) -> dict[str, object]:
    run("segment", "one.png", "-o", "out", *arguments)
    read: dict[str, object] = json.loads(Path("out/one.json").read_text())
    return read


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_words_are_looked_at(run: Run) -> None:
    told = run("words", "sofa, fense, собака, not toy sofa", "--top", "2").stdout
    assert "most alike" in told
    assert told.count(" %") == 3  # two pairs, and what they mean
    assert "odd: собака: 'собака'" in told
    assert "fense: no built-in list has it; they have fence" in told
    assert re.search(r"^fense: nearest to it in the built-in lists: .+ \(0\.\d\d\), ", told, re.MULTILINE)
    assert "\nsofa: nearest" not in told
    assert "most alike" not in run("words", "sofa").stdout
    assert told.startswith("tiny.safetensors on cpu in float32\n")
    assert run("words", "sofa, dog", "--quiet").output == ""
    assert "no label set 'ade'" in run("words", "@ade", code=shell.BAD_USE).stderr


def test_the_picture_of_words(run: Run) -> None:
    run("words", "sofa, couch, dog", "--picture", "alike.png")
    first = Path("alike.png").read_bytes()
    assert min(size("alike.png")) > 300
    run("words", "sofa, couch, dog", "--picture", "alike.png")
    assert Path("alike.png").read_bytes() == first
    assert "let it end in .png" in run("words", "sofa", "--picture", "a.jpg", code=shell.BAD_USE).stderr
    with pytest.raises(ValueError, match="do not fit a picture"):
        cosines_figure(["a"] * (MOST_WORDS + 1), np.eye(MOST_WORDS + 1, dtype=np.float32))
    assert Image.open(io.BytesIO(cosines_figure(["a"], np.ones((1, 1), np.float32)))).width > 100


@pytest.mark.parametrize(
    "arguments", [("words", "sofa, dog", "--picture"), ("calibrate", "--data", "x", "--figure")]
)
def test_without_matplotlib_nothing_is_begun(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = run(*arguments, "a.png", code=shell.BAD_USE).output
    assert told == "sanseg: a.png needs matplotlib, which is not installed: pip install 'sanseg[plot]'\n"


def test_saved_words_are_asked_as_they_were_said(run: Run, tiny_san: SAN) -> None:
    said = (
        "--threshold",
        "0.2",
        "--threshold",
        "woods=0.3",
        "--templates",
        "imagenet80",
        "--synonyms",
        "best",
    )
    text = "sky, tree | woods, not toy tree"
    asked = numbers(run, "-c", text, *said, "--temperature", "2")
    run("words", text, *said, "--temperature", "2", "--save", "w.safetensors")
    run("words", text, *said, "--temperature", "2", "--save", "w.json")
    assert numbers(run, "-c", "@w.safetensors") == asked
    assert numbers(run, "--labels", "w.safetensors") == asked
    assert numbers(run, "-c", "@w.json") == asked
    assert asked["settings"] == {
        "synonyms": "best",
        "not": ["toy tree"],
        "thresholds": [0.2, 0.3],
        "temperature": 2.0,
    }
    assert asked["templates"] == "imagenet80"
    weights.save_san("tiny.safetensors", tiny_san.bfloat16().float())
    refused = run("segment", "one.png", "-c", "@w.safetensors", "-o", "out", code=shell.BAD_USE)
    assert "embed them again" in refused.stderr


def test_each_option_about_words_changes_the_answer(run: Run) -> None:
    Path("own.txt").write_text("a drawing of a {}\n\nno {}\n")
    plain = numbers(run, "-c", "sky, tree | woods", "--no-other")
    own = numbers(run, "-c", "sky, tree | woods", "--templates", "own.txt")
    assert own["templates"] == "a drawing of a {}\nno {}"
    for arguments in (
        ("--templates", "plain"),
        ("--templates", "imagenet80"),
        ("--synonyms", "best"),
        ("--threshold", "0.9"),
        ("--temperature", "3"),
        ("--classes", "sky, tree | woods, not sea"),
    ):
        changed = numbers(run, "-c", "sky, tree | woods", "--no-other", *arguments)
        assert changed["regions"] != plain["regions"], arguments
        assert changed["vocabulary"] != plain["vocabulary"], arguments
    assert numbers(run, "-c", "@camvid")["labels"][4]["id"] == 4  # type: ignore[index]


def test_mistakes_in_options_about_words(run: Run) -> None:
    Path("bad.txt").write_text("a photo\n")
    for arguments, reason in (
        (("--templates", "poem"), "choose from vild, plain, imagenet80, or give a file"),
        (("--templates", "bad.txt"), "bad.txt holds no prompts"),
        (("--threshold", "high"), "give a confidence, as 0.3, or cat=0.5"),
        (("--threshold", "dog=0.3"), "'dog' has a threshold and is no label"),
        (("--threshold", "3"), "wanted a confidence"),
        (("--synonyms", "all"), "choose from mean, best"),
        (("--temperature", "0"), "wanted 0.01 to 100"),
    ):
        result = run("segment", "one.png", "-c", "cat", *arguments, code=shell.BAD_USE)
        assert reason in result.stderr, result.stderr


def test_calibrate_tells_and_stores_what_the_library_finds(
    run: Run, tiny_san: SAN, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    data = ("--data", str(tmp_path / "plants"), "--split", "train", "--other", "wall")
    told = run("calibrate", *data, "--save", "c.json", "--json", "f.json", "--figure", "f.png").stdout
    assert told.startswith("tiny.safetensors on cpu in float32\n")
    words = Vocabulary.of(["fern", "oak"]).with_other("wall")
    found = calibrate(Segmenter(tiny_san), sets[1], words)
    assert f"temperature {found.temperature:.3f} of tiny" in told
    assert f"{found.before.calibration_error:.2f}" in told
    assert f"{found.after.calibration_error:.2f}" in told
    saved = Vocabulary.from_file("c.json")
    assert saved.temperature == pytest.approx(found.temperature)
    assert saved.other == ("wall",)
    assert json.loads(Path("f.json").read_text())["vocabulary"] == saved.hash
    assert size("f.png")[0] > 500
    run("calibrate", *data, "--save", "c.safetensors", "--quiet")
    answers = [numbers(run, "-c", f"@c.{kind}") for kind in ("json", "safetensors")]
    assert answers[0] == answers[1]
    assert answers[0]["other"]["words"] == ["wall"]  # type: ignore[index]
    assert answers[0]["settings"]["temperature"] == saved.temperature  # type: ignore[index]
    assert "segment PHOTOS -c @c.json\n" in told


def test_what_calibrate_says_to_type_asks_what_was_calibrated(
    run: Run, sets: list[SegmentationSet], tmp_path: Path
) -> None:
    """A file cannot say that nothing competes."""
    data = ("--data", str(tmp_path / "plants"), "--split", "train", "--no-other", "--save", "c.safetensors")
    told = run("calibrate", *data, "--json", "f.json").stdout
    assert "segment PHOTOS -c @c.safetensors --no-other\n" in told
    asked = numbers(run, "-c", "@c.safetensors", "--no-other")
    assert asked["vocabulary"] == json.loads(Path("f.json").read_text())["vocabulary"]
