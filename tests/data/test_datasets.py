"""Sets on disk: the forms found by themselves, the form `folder`, and what every set does."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sanseg.data.datasets import FORMATS, SegmentationSet, find_form, find_splits


def write_picture(path: Path, height: int, width: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


def write_set(folder: Path, masks: dict[str, NDArray[Any]], labels: list[str], **described: Any) -> Path:
    """A set of random pictures with these masks, all of them in the split "train"."""
    write_masks(folder, masks)
    described = {"labels": labels, "splits": {"train": list(masks), "val": []}, **described}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def write_masks(folder: Path, masks: dict[str, NDArray[Any]]) -> None:
    (folder / "masks").mkdir(parents=True)
    for seed, (stem, mask) in enumerate(masks.items()):
        write_picture(folder / "images" / f"{stem}.png", *mask.shape[:2], seed=seed)
        Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")


def stripes(dtype: Any = np.uint8, values: tuple[int, ...] = (0, 1, 254, 255)) -> NDArray[Any]:
    return np.tile(np.repeat(np.array(values, dtype=dtype), 4), (12, 1))


def test_a_folder_gives_pictures_maps_and_words(tmp_path: Path) -> None:
    folder = write_set(
        tmp_path / "pets", {"b": stripes(), "a": stripes().T}, ["cat | kitten", "dog"], other=254
    )
    opened = SegmentationSet.open(folder)
    assert (opened.name, opened.form, opened.split) == ("pets", "folder", "train")
    assert opened.vocabulary.names == (("cat", "kitten"), ("dog",))
    assert [opened[index].name for index in range(len(opened))] == ["pets/b", "pets/a"]
    assert opened[0].image.shape == (12, 16, 3)
    assert opened[0].image.dtype == opened[0].index_map.dtype == np.uint8
    assert (opened[0].index_map == stripes()).all()
    assert (opened[1].index_map == stripes().T).all()
    assert find_splits(folder) == ("train", "val")


def test_more_labels_than_8_bits(tmp_path: Path) -> None:
    labels = [f"label {number}" for number in range(300)]
    mask = stripes(np.uint16, (0, 299, 254, 999))
    opened = SegmentationSet.open(write_set(tmp_path / "wide", {"a": mask}, labels, ignore=999))
    assert opened[0].index_map.dtype == np.uint16
    assert opened[0].index_map[0, ::4].tolist() == [0, 299, 254, 65_535]


def test_five_thousand_labels_work(tmp_path: Path) -> None:
    labels = [f"label {number}" for number in range(5_000)]
    mask = stripes(np.uint16, (0, 4_999, 65_534, 65_535))
    opened = SegmentationSet.open(write_set(tmp_path / "wide", {"a": mask}, labels, other=65_534))
    assert (opened[0].index_map == mask).all()
    with pytest.raises(ValueError, match="65535 labels, at most 65534"):
        SegmentationSet.open(write_set(tmp_path / "wider", {"a": mask}, [str(n) for n in range(65_535)]))


def test_8_bit_masks_of_wide_sets_are_read_where_they_are_clear(tmp_path: Path) -> None:
    """Without a word about it, 255 could be label 255 or unknown."""
    labels = [f"label {number}" for number in range(300)]
    masks = {"clear": stripes(values=(0, 1, 200, 254)), "doubtful": stripes(values=(0, 1, 2, 255))}
    folder = write_set(tmp_path / "wide", masks, labels)
    opened = SegmentationSet.open(folder)
    assert opened[0].index_map[0, ::4].tolist() == [0, 1, 200, 254]
    with pytest.raises(ValueError, match=r"8 bits and holds 255, which may be .* save the masks .* 16 bits"):
        opened[1]
    (folder / "dataset.json").unlink()
    (folder / "labels.txt").write_text("\n".join(labels))
    with pytest.raises(ValueError, match=r"8 bits and holds 254, which may be"):
        SegmentationSet.open(folder)[0]


@pytest.mark.parametrize("labels_file", ["labels.txt", "dataset.json"])
def test_16_bit_masks_of_sets_with_few_labels(tmp_path: Path, labels_file: str) -> None:
    mask = np.hstack([stripes(np.uint16), stripes(np.uint16, (0, 1, 65_534, 65_535))])
    folder = write_set(tmp_path / "set", {"a": mask}, ["cat", "dog"], other=254)
    if labels_file == "labels.txt":
        (folder / "dataset.json").unlink()
        (folder / "labels.txt").write_text("cat\ndog")
    index_map = SegmentationSet.open(folder)[0].index_map
    assert index_map.dtype == np.uint8
    assert index_map[0, ::4].tolist() == [0, 1, 254, 255, 0, 1, 254, 255]


def test_other_values_of_a_file_become_the_usual_ones(tmp_path: Path) -> None:
    mask = stripes(values=(0, 1, 99, 0))
    opened = SegmentationSet.open(write_set(tmp_path / "set", {"a": mask}, ["cat"], other=99, ignore=1))
    assert opened[0].index_map[0, ::4].tolist() == [0, 255, 254, 0]


def test_palette_masks_are_indices(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {"a": stripes()}, ["cat", "dog"], other=254)
    palette = Image.fromarray(stripes()).convert("P")
    palette.putdata(stripes().flatten().tolist())
    palette.save(folder / "masks" / "a.png")
    assert (SegmentationSet.open(folder)[0].index_map == stripes()).all()


def test_one_bit_masks_are_indices(tmp_path: Path) -> None:
    mask = stripes(values=(0, 1, 0, 1))
    folder = write_set(tmp_path / "set", {"a": mask}, ["cat", "dog"])
    Image.fromarray(mask.astype(bool)).save(folder / "masks" / "a.png")
    assert (SegmentationSet.open(folder)[0].index_map == mask).all()


def test_labels_txt_and_lists_of_stems(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    write_masks(folder, {"b": stripes(), "a": stripes().T, "c": stripes()})
    (folder / "labels.txt").write_bytes(b"\xef\xbb\xbfcat | kitten\r\ndog, of any kind \r\n\r\n")
    (folder / "images" / "Thumbs.db").write_bytes(b"not a picture")
    whole = SegmentationSet.open(folder)
    assert whole.vocabulary.names == (("cat", "kitten"), ("dog, of any kind",))
    assert [picture.name for picture in whole.files.pictures] == ["pets/a", "pets/b", "pets/c"]
    assert (whole[1].index_map == stripes()).all()
    assert find_splits(folder) == ("train",)
    with pytest.raises(
        ValueError, match=r"no split 'val', all its pictures are in 'train': write .*val\.txt"
    ):
        SegmentationSet.open(folder, "val")
    (folder / "train.txt").write_text("c\na\n\n")
    (folder / "val.txt").write_text("b\n")
    assert [picture.name for picture in SegmentationSet.open(folder).files.pictures] == ["pets/c", "pets/a"]
    assert [picture.name for picture in SegmentationSet.open(folder, "val").files.pictures] == ["pets/b"]
    assert find_splits(folder) == ("train", "val")
    with pytest.raises(ValueError, match="no split 'test': use one of train, val"):
        SegmentationSet.open(folder, "test")
    (folder / "val.txt").write_text("b\nb\n")
    with pytest.raises(ValueError, match=r"val\.txt names 'b' twice"):
        SegmentationSet.open(folder, "val")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", r"labels\.txt holds no labels: write one a line"),
        (b"\n \n", r"labels\.txt holds no labels"),
        (b"cat\n\ndog", r"line 2 of .*labels\.txt is blank"),
        (b"cat\ndog\nCat", "name the same thing twice, 'cat' and 'Cat'"),
        (b"cat | pet\ndog | pet", "'pet' is a name of two labels"),
        (b"cat\nd\xffg", r"labels\.txt is not UTF-8 text"),
        (b"cat | \ndog", "a name is empty"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, text: bytes, told: str) -> None:
    write_masks(tmp_path, {"a": stripes()})
    (tmp_path / "labels.txt").write_bytes(text)
    with pytest.raises(ValueError, match=told):
        SegmentationSet.open(tmp_path)


def test_labels_that_name_the_same_are_refused(tmp_path: Path) -> None:
    """Merging them would shift every index after them."""
    with pytest.raises(ValueError, match="name the same thing twice, 'cat' and 'Cat'"):
        SegmentationSet.open(write_set(tmp_path / "set", {"a": stripes()}, ["cat", "Cat", "dog"]))


@pytest.mark.parametrize(
    ("described", "told"),
    [
        ({"labels": []}, "there are no labels"),
        ({"labels": ["cat", ""]}, "a name is empty"),
        ({"labels": "cat"}, "wanted labels, a list of strings"),
        ({"labels": ["cat", 3]}, "wanted labels, a list of strings"),
        ({"splits": ["train"]}, "wanted splits, as"),
        ({"splits": {"train": "a"}}, "wanted splits, as"),
        ({"splits": {"train": ["a", "a"]}}, "names 'a' twice"),
        ({"other": 1}, "gives other the value 1: wanted a number from 2"),
        ({"other": True}, "gives other the value True"),
        ({"ignore": 65_536}, "gives ignore the value 65536"),
        ({"ignore": "255"}, "gives ignore the value '255'"),
        ({"other": 255}, "gives ignore the value 255: .* and another for other"),
    ],
)
def test_a_description_that_is_wrong_is_refused(tmp_path: Path, described: dict[str, Any], told: str) -> None:
    folder = write_set(tmp_path / "set", {"a": stripes()}, ["cat", "dog"])
    written = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**written, **described}))
    with pytest.raises(ValueError, match=told):
        SegmentationSet.open(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"labels": ["cat"]}'])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_set(tmp_path / "set", {"a": stripes()}, ["cat", "dog"])
    (folder / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"dataset\.json (is not JSON|holds a list|describes no set)"):
        SegmentationSet.open(folder)


def test_what_is_wrong_with_a_set_is_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {"a": stripes(), "b": stripes()}, ["cat", "dog"])
    with pytest.raises(ValueError, match="no split 'test': use one of train, val"):
        SegmentationSet.open(folder, "test")
    with pytest.raises(
        ValueError,
        match=r"a\.png holds the value 254, the set has 2 labels: use indices below 2 and 255 for unknown",
    ):
        SegmentationSet.open(folder)[0]
    Image.fromarray(stripes()[1:]).save(folder / "masks" / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is 16x11, its picture 16x12: resize the mask"):
        SegmentationSet.open(folder)[1]
    Image.fromarray(stripes().T).save(folder / "masks" / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is 12x16, its picture 16x12: the picture's EXIF may turn"):
        SegmentationSet.open(folder)[1]
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(folder / "masks" / "b.png")
    with pytest.raises(
        ValueError, match=r"b\.png is a mask of mode RGB: save it with one channel of indices"
    ):
        SegmentationSet.open(folder)[1]
    Image.fromarray(np.zeros((12, 16), np.float32)).save(folder / "masks" / "b.png", format="TIFF")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as a mask \(it is no PNG\)"):
        SegmentationSet.open(folder)[1]
    Image.fromarray(stripes()).save(folder / "masks" / "b.png")
    (folder / "masks" / "b.png").write_bytes((folder / "masks" / "b.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"b\.png cannot be read as a mask"):
        SegmentationSet.open(folder)[1]


def test_files_that_are_missing_are_named_at_once_or_when_read(tmp_path: Path) -> None:
    masks = {"a": stripes(), "b": stripes(), "c": stripes()}
    folder = write_set(tmp_path / "set", masks, ["cat", "dog"], other=254)
    (folder / "masks" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b\.png does not exist: .* needs a mask, as PNG$"):
        SegmentationSet.open(folder)
    (folder / "images" / "c.png").unlink()
    with pytest.raises(ValueError, match=r"b\.png does not exist.*\(and 1 more of 3 are missing\)"):
        SegmentationSet.open(folder)
    opened = SegmentationSet.open(folder, allow_missing=True)
    assert len(opened) == 3
    assert [name for name, _ in opened.files.missing] == ["set/b", "set/c"]
    assert "has no picture 'c': split 'train' names it" in opened.files.missing[1][1]
    for index in (1, 2):
        with pytest.raises(FileNotFoundError):
            opened[index]
    whole = opened.without(name for name, _ in opened.files.missing)
    assert [picture.name for picture in whole.files.pictures] == ["set/a"]
    assert not whole.files.missing


def test_two_pictures_of_one_stem_are_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {"a": stripes()}, ["cat", "dog"])
    write_picture(folder / "images" / "a.jpg", 12, 16)
    with pytest.raises(ValueError, match="share their stem"):
        SegmentationSet.open(folder)


def test_a_mask_that_would_fill_the_memory_is_refused_unread(tmp_path: Path) -> None:
    """A PNG of a few bytes may claim any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    folder = write_set(tmp_path / "set", {"a": stripes()}, ["cat", "dog"])
    for side in (12_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        (folder / "masks" / "a.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
        )
        with pytest.raises(ValueError, match=r"too large a mask .*limit is 100 megapixels"):
            SegmentationSet.open(folder)[0]


def test_the_form_is_found_or_what_each_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder: give the folder of a data set"):
        SegmentationSet.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="fits no form of data set") as told:
        SegmentationSet.open(tmp_path)
    for form in FORMATS:
        assert f"for {form}" in str(told.value)
    with pytest.raises(
        ValueError, match="form 'cityscapes' is unknown: use auto, or one of folder, segmented"
    ):
        SegmentationSet.open(tmp_path, form="cityscapes")
    folder = write_set(tmp_path / "set", {"a": stripes()}, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"set is of form folder, give that"):
        SegmentationSet.open(tmp_path)
    (folder / "dataset.json").rename(folder / "away.json")
    with pytest.raises(ValueError, match=r"it lacks dataset\.json or labels\.txt for folder;"):
        SegmentationSet.open(folder)
    with pytest.raises(
        ValueError, match=r"not of form folder, it has no dataset\.json or labels\.txt: wanted"
    ):
        SegmentationSet.open(folder, form="folder")
    (folder / "away.json").rename(folder / "dataset.json")
    (folder / "data.yaml").write_text("names: [cat]")
    with pytest.raises(ValueError, match="fits 2 forms: say which it is, folder or yolo"):
        find_form(folder)
    assert SegmentationSet.open(folder, form="folder").form == "folder"


def test_a_set_without_some_pictures(tmp_path: Path) -> None:
    masks = {"a": stripes(), "b": stripes().T, "c": stripes()}
    opened = SegmentationSet.open(write_set(tmp_path / "set", masks, ["cat", "dog"], other=254))
    fewer = opened.without(["set/a"])
    assert [fewer[index].name for index in range(len(fewer))] == ["set/b", "set/c"]
    assert (fewer[0].index_map == masks["b"]).all()
    assert (fewer.name, fewer.form, fewer.split, len(opened)) == ("set", "folder", "train", 3)
    with pytest.raises(ValueError, match="set has no picture 'set/z'"):
        opened.without(["set/z"])


def test_a_set_travels_to_other_processes(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {"a": stripes()}, ["cat", "dog"], other=254)
    copy = pickle.loads(pickle.dumps(SegmentationSet.open(folder)))
    assert (copy[0].index_map == stripes()).all()
    assert copy.vocabulary.labels == ("cat", "dog")


def test_the_sets_beside_the_project_open(shared: Path) -> None:
    for folder in sorted((shared / "data").glob("*/dataset.json")):
        for split in find_splits(folder.parent):
            opened = SegmentationSet.open(folder.parent, split)
            assert opened.form == "folder"
            assert len(opened) == 0 or opened[0].index_map.dtype == np.uint8
