"""`sanseg prepare check` says what `check` finds, and its exit code says whether to train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from sanseg.cli.prepare import MAX_ROWS
from sanseg.cli.shell import BAD_USE, SOME_FAILED, app
from tests.data.test_datasets import stripes, write_masks, write_set
from tests.test_imports import HEAVY, loaded_after

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`sanseg prepare check` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["prepare", "check", *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke


def write_pets(**described: object) -> None:
    masks = {"a": stripes(), "b": stripes(values=(0, 0, 254, 255)), "c": stripes()}
    splits = {"train": ["a", "b"], "val": ["c"]}
    write_set(Path("pets"), masks, ["cat | [b]kitten", "dog", "fox"], other=254, splits=splits, **described)


def rows(result: Result) -> list[list[str]]:
    """The cells of each line of the tables."""
    return [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.split("\n") if "│" in line
    ]


def test_a_good_set(run: Run) -> None:
    write_pets()
    result = run("pets")
    assert result.stdout.startswith("pets is of form folder: train (2 pictures), val (1 pictures)\n")
    assert result.stderr == ""
    assert ["0", "cat", "3", "33.3 %"] in rows(result)
    assert ["2", "fox", "0", "none"] in rows(result)
    assert ["", "other: none of these", "", "25.0 %"] in rows(result)
    assert ["bad pictures", "0", ""] in rows(result)
    assert ["labels that are never used", "1", "fox"] in rows(result)


def test_one_split(run: Run) -> None:
    write_pets()
    result = run("pets", "--split", "val")
    assert result.stdout.startswith("pets is of form folder: val (1 pictures)\n")
    assert "no split 'test': use one of train, val" in run("pets", "--split", "test", code=BAD_USE).stderr


def test_bad_pictures_are_named_and_give_an_exit_code(run: Run) -> None:
    write_pets()
    Path("pets/masks/b.png").unlink()
    Image.fromarray(stripes()[1:]).save("pets/masks/c.png")
    result = run("pets", "--sheet", "sheet.png", "--json", "found.json", code=SOME_FAILED)
    assert "bad: pets/b: " in result.stderr
    assert "bad: pets/c: pets/masks/c.png is 16x11, its picture 16x12: resize the mask" in result.stderr
    assert result.stderr.endswith("2 of 3 pictures cannot be used\n")
    assert ["bad pictures", "2", "pets/b; pets/c"] in rows(result)
    found = json.loads(Path("found.json").read_text())
    assert (found["form"], found["splits"], found["pictures"]) == ("folder", {"train": 2, "val": 1}, 3)
    assert [one["name"] for one in found["bad"]] == ["pets/b", "pets/c"]
    assert found["unused"] == ["fox"]
    with Image.open("sheet.png") as sheet:
        assert sheet.width < 400  # of one tile


def test_a_set_with_nothing_labelled(run: Run) -> None:
    write_set(Path("pets"), {"a": stripes(values=(254, 255, 254, 255))}, ["cat"], other=254)
    assert "sanseg: no pixel is labelled in the 1 pictures" in run("pets", code=SOME_FAILED).stderr


def test_no_set_is_bad_use(run: Run) -> None:
    assert "fits no form of data set: it lacks images/" in run(".", code=BAD_USE).stderr
    assert "nowhere is not a folder" in run("nowhere", code=BAD_USE).stderr
    write_pets()
    assert "not of form voc, it has no JPEGImages/" in run("pets", "--form", "voc", code=BAD_USE).stderr
    Path("pets/dataset.json").write_text('{"labels": ["cat"], "splits": {}}')
    assert "pets has no split" in run("pets", code=BAD_USE).stderr


def test_splits_with_other_labels_are_bad_use(run: Run) -> None:
    for split, name in (("train", "cat"), ("val", "dog")):
        document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": name}]}
        Path("pets/annotations").mkdir(parents=True, exist_ok=True)
        Path(f"pets/annotations/instances_{split}.json").write_text(json.dumps(document))
    assert "train and val of pets differ in their labels" in run("pets", code=BAD_USE).stderr


def test_the_sheet_shows_pictures_painted(run: Run) -> None:
    write_pets()
    run("pets", "--sheet", "deep/sheet.png")
    with Image.open("deep/sheet.png") as sheet:
        assert 3 * 320 < sheet.width < 4 * 320  # of three tiles
        colours = np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)
    assert len(colours) > 100
    before = Path("deep/sheet.png").read_bytes()
    Image.fromarray(np.ones((12, 16), np.uint8)).save("pets/masks/a.png")
    run("pets", "--sheet", "deep/sheet.png")
    assert Path("deep/sheet.png").read_bytes() != before


def test_very_many_labels_are_shortened(run: Run) -> None:
    labels = [f"label {number}" for number in range(5_000)]
    write_masks(Path("wide"), {"a": stripes(np.uint16, (7, 4_999, 4_999, 65_535))})
    Path("wide/labels.txt").write_text("\n".join(labels))
    result = run("wide", "--json", "found.json")
    assert ["4999", "label 4999", "1", "50.0 %"] in rows(result)
    assert ["", f"... {5_000 - MAX_ROWS} more, see --json", "", ""] in rows(result)
    assert len(rows(result)) < 80
    assert len(json.loads(Path("found.json").read_text())["labels"]) == 5_000


def test_help_loads_nothing_heavy() -> None:
    command = "app(['prepare', 'check', '--help'], standalone_mode=False)"
    program = f"import sanseg.cli.prepare\nfrom sanseg.cli import app\n{command}"
    loaded = loaded_after(program)
    assert "sanseg.cli.prepare" in loaded
    assert not loaded & HEAVY
