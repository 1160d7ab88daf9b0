"""Index, overlay and masks, as Pillow, rasterio and the reader of training sets open them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from sanseg.data.datasets import SegmentationSet
from sanseg.draw import colour_table
from sanseg.segmentation import Segmentation
from sanseg.version import VERSION
from sanseg.vocabulary import Vocabulary
from tests.formats.results import segmentation


def test_the_index_is_the_label_map_with_colours_and_names(seg: Segmentation, tmp_path: Path) -> None:
    path = seg.save(tmp_path, "cat", ["index"])["index"]
    with Image.open(path) as index:
        np.testing.assert_array_equal(np.array(index), seg.label_map)
        np.testing.assert_array_equal(np.array(index.convert("RGB")), colour_table(4)[seg.label_map])
        text = index.text  # type: ignore[attr-defined]
    assert {int(id_): name for id_, name in json.loads(text["Labels"]).items()} == seg.names
    assert text["Software"] == f"sanseg {VERSION}"
    assert text["Model"] == "tiny"
    assert text["Vocabulary"] == seg.vocabulary_hash


def test_rasterio_reads_the_index(seg: Segmentation, tmp_path: Path) -> None:
    path = seg.save(tmp_path, "cat", ["index"])["index"]
    with warnings.catch_warnings(action="ignore"), rasterio.open(path) as opened:  # it lies nowhere on a map
        np.testing.assert_array_equal(opened.read(1), seg.label_map)
        assert opened.colormap(1)[1][:3] == tuple(colour_table(4)[1])
        assert opened.tags()["Model"] == "tiny"


def test_the_names_of_many_labels_fit_and_are_read(tmp_path: Path) -> None:
    """Pillow refuses packed chunks of more than a megabyte."""
    words = Vocabulary(tuple((f"label {number:0240}猫",) for number in range(5_000)))
    seg = segmentation(np.full((3, 4), 4_999, np.uint16), words)
    with Image.open(seg.save(tmp_path, "cat", ["index"])["index"]) as index:
        np.testing.assert_array_equal(np.array(index), seg.label_map)
        names = json.loads(index.text["Labels"])  # type: ignore[attr-defined]
    assert names["4999"] == words.labels[-1]
    assert names["65534"] == "other"


def test_the_index_is_a_mask_to_train_on(seg: Segmentation, tmp_path: Path) -> None:
    assert seg.image is not None
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(seg.image).save(tmp_path / "images" / "cat.png")
    seg.save(tmp_path / "masks" / "cat.index.png")
    (tmp_path / "masks" / "cat.index.png").rename(tmp_path / "masks" / "cat.png")
    (tmp_path / "labels.txt").write_text("\n".join(seg.labels), encoding="utf-8")
    sample = SegmentationSet.open(tmp_path)[0]
    np.testing.assert_array_equal(sample.index_map, seg.label_map)


def test_the_overlay_is_whole(seg: Segmentation, tmp_path: Path) -> None:
    with Image.open(seg.save(tmp_path, "cat", ["overlay"])["overlay"]) as overlay:
        np.testing.assert_array_equal(np.array(overlay), np.array(seg.overlay()))
        assert overlay.text["Vocabulary"] == seg.vocabulary_hash  # type: ignore[attr-defined]


def test_masks_part_the_picture_by_label(seg: Segmentation, tmp_path: Path) -> None:
    folder = seg.save(tmp_path, "cat", ["masks"])["masks"]
    assert {path.name for path in folder.iterdir()} == {
        "0-cat.png",
        "1-sofa-couch.png",
        "2-é-猫.png",
        "254-other.png",
    }
    for path in folder.iterdir():
        with Image.open(path) as mask:
            values = np.array(mask)
            label = mask.text["Label"]  # type: ignore[attr-defined]
        np.testing.assert_array_equal(values, 255 * seg.mask(label).astype(np.uint8))
        assert path.name.startswith(f"{next(id_ for id_, name in seg.names.items() if name == label)}-")


def test_masks_of_earlier_words_go_and_nothing_else(seg: Segmentation, tmp_path: Path) -> None:
    folder = seg.save(tmp_path, "cat", ["masks"])["masks"]
    (folder / "7-dog.png").write_bytes(b"")
    others = ("notes.txt", "0-sky.index.png")  # the latter of a picture cat.masks/0-sky.png
    for name in others:
        (folder / name).write_bytes(b"")
    seg.save(tmp_path, "cat", ["masks"])
    assert not (folder / "7-dog.png").exists()
    assert all((folder / name).exists() for name in others)


@pytest.mark.parametrize("name", ["../../x", "///", "a" * 100, "con.aux", "..."])
def test_labels_cannot_leave_the_folder(name: str, tmp_path: Path) -> None:
    seg = segmentation(np.zeros((2, 3), np.uint8), Vocabulary(((name,),)))
    folder = seg.save(tmp_path, "cat", ["masks"])["masks"]
    (file,) = folder.iterdir()
    assert len(file.name) <= 50
    assert [*tmp_path.rglob("*.png")] == [file]
