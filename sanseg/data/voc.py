"""The form `voc`: PASCAL VOC's folders, with palette masks in which 0 is background and 255 the border."""

from __future__ import annotations

from pathlib import Path

from sanseg.data.files import Files, Listing, Picture, lacking, read_labels, read_list
from sanseg.data.labelsets import read_labelset
from sanseg.data.masks import IndexMasks
from sanseg.vocabulary import other_id

BACKGROUND = ("background", "_background_", "__background__")  # as labelme and others head their lists


def lacks(folder: Path) -> tuple[str, ...]:
    return lacking(folder, "JPEGImages/", "SegmentationClass/", "ImageSets/Segmentation/")


def find_splits(folder: Path) -> tuple[str, ...]:
    """train and val, without trainval, which is the two; whatever there is where they are not."""
    found = sorted(path.stem for path in (folder / "ImageSets" / "Segmentation").glob("*.txt"))
    return tuple(name for name in ("train", "val") if name in found) or tuple(found)


def read_voc(folder: Path, split: str) -> Files:
    """JPEGImages/, SegmentationClass/ (PNG), and the stems of a split in ImageSets/Segmentation/.

    Value v is label v - 1: of the 20 of VOC, or of a labels.txt, whose first line may be the background. 0 is
    other, 255 (and 65535 in 16 bits) unknown.
    """
    lists = folder / "ImageSets" / "Segmentation"
    if not (lists / f"{split}.txt").exists():
        found = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "it lists none"
        raise ValueError(f"{folder} has no split {split!r}: use one of {found}")
    labels = read_labelset("voc_20")
    if (folder / "labels.txt").exists():
        labels = read_labels(folder / "labels.txt")
        labels = labels[1:] if labels[0].casefold() in BACKGROUND else labels
    other = other_id(len(labels))
    special = {0: other} | ({255: other + 1} if len(labels) < 255 else {})
    doubtful = () if 255 in special else (255,)
    masks = IndexMasks.of(len(labels), special, first=1, doubtful=doubtful)
    there, pictures, missing = Listing(), [], []
    for stem in read_list(lists / f"{split}.txt"):
        image, mask = folder / "JPEGImages" / f"{stem}.jpg", folder / "SegmentationClass" / f"{stem}.png"
        picture = Picture(f"{folder.resolve().name}/{stem}", str(image), str(mask))
        pictures.append(picture)
        gone = next((path for path in (image, mask) if path not in there), None)
        if gone:
            missing.append((picture.name, f"{gone} does not exist: split {split!r} names it"))
    return Files(labels, tuple(pictures), masks, tuple(missing))
