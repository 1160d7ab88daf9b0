"""The six benchmarks of open-vocabulary segmentation, as facts: what their raw releases hold and look like.

Nothing here opens a file or needs numpy: `sanseg prepare --help` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sanseg.data import raw_ids


@dataclass(frozen=True)
class Benchmark:
    """What the raw release of a benchmark is, and which of its values mean which class.

    labelset: a key of LABELSETS. raw_ids: the value of each of its classes in the raw annotations.
    largest: the largest value that the release uses; those up to it without a class become unknown.
    void: values above it that become unknown too. Any other value is an error.
    expected: how many pictures each split has; of the splits in `surely`, any other number is an error.
    layout: how the unpacked downloads lie in RAW. download: where they come from.
    limit: pictures with a longer side than this many pixels are shrunk to it, with their masks.
    """

    title: str
    labelset: str
    raw_ids: tuple[int, ...]
    largest: int
    layout: str
    download: str
    terms: str
    expected: Mapping[str, int]
    surely: tuple[str, ...] = ("train", "val")
    void: tuple[int, ...] = ()
    limit: int | None = None

    @property
    def unknown(self) -> int:
        """The value of unknown pixels in the masks that are written."""
        return 255 if len(self.raw_ids) <= 254 else 65_535


_VOC_PHOTOS = "photos under Flickr terms, research use"
_ADE20K_TERMS = "non-commercial research and education"

BENCHMARKS: dict[str, Benchmark] = {
    "coco-stuff": Benchmark(
        title="COCO-Stuff 164k",
        labelset="coco_stuff_171",
        raw_ids=raw_ids.COCO_STUFF_171,
        largest=181,
        void=(255,),
        layout="""\
train2017/*.jpg, val2017/*.jpg
stuffthingmaps/train2017/*.png, stuffthingmaps/val2017/*.png

The pictures may lie in images/, the maps in stuffthingmaps_trainval2017/.""",
        download="""\
cocodataset.org: train2017.zip, val2017.zip
github.com/nightrome/cocostuff: stuffthingmaps_trainval2017.zip""",
        terms="annotations CC BY 4.0, photos under Flickr terms",
        expected={"train": 118_287, "val": 5_000},
    ),
    "voc": Benchmark(
        title="PASCAL VOC 2012 without background",
        labelset="voc_20",
        raw_ids=raw_ids.VOC_20,
        largest=20,
        void=(255,),
        layout="""\
VOCdevkit/VOC2012/JPEGImages/*.jpg
VOCdevkit/VOC2012/SegmentationClass/*.png
VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt, val.txt

RAW may also be VOCdevkit or VOC2012 itself.""",
        download="host.robots.ox.ac.uk/pascal/VOC/voc2012: VOCtrainval_11-May-2012.tar",
        terms=_VOC_PHOTOS,
        expected={"train": 1_464, "val": 1_449},
    ),
    "context59": Benchmark(
        title="Pascal Context 59",
        labelset="pascal_context_59",
        raw_ids=raw_ids.PASCAL_CONTEXT_59,
        largest=459,
        layout="""\
VOCdevkit/VOC2010/JPEGImages/*.jpg
VOCdevkit/VOC2010/trainval_merged.json
  or, without it:
VOCdevkit/VOC2010/trainval/*.mat
VOCdevkit/VOC2010/ImageSets/Main/train.txt, val.txt

RAW may also be VOCdevkit or VOC2010 itself; the annotations may lie directly in RAW. The JSON is what the
published results use, and has three pictures fewer.""",
        download="""\
host.robots.ox.ac.uk/pascal/VOC/voc2010: VOCtrainval_03-May-2010.tar
sites.google.com/view/pasd (PASCAL in Detail): trainval_merged.json
cs.stanford.edu/~roozbeh/pascal-context: trainval.tar.gz (the .mat files)""",
        terms=_VOC_PHOTOS,
        expected={"train": 4_996, "val": 5_104},
        surely=("val",),
    ),
    "context459": Benchmark(
        title="Pascal Context 459",
        labelset="pascal_context_459",
        raw_ids=raw_ids.PASCAL_CONTEXT_459,
        largest=459,
        layout="""\
VOCdevkit/VOC2010/JPEGImages/*.jpg
VOCdevkit/VOC2010/trainval/*.mat
VOCdevkit/VOC2010/trainval_merged.json, only for its lists of pictures
  or, without it:
VOCdevkit/VOC2010/ImageSets/Main/train.txt, val.txt

RAW may also be VOCdevkit or VOC2010 itself; the annotations may lie directly in RAW. The lists of the JSON
are those of the published results, and have three pictures fewer.""",
        download="""\
host.robots.ox.ac.uk/pascal/VOC/voc2010: VOCtrainval_03-May-2010.tar
cs.stanford.edu/~roozbeh/pascal-context: trainval.tar.gz (the .mat files)
sites.google.com/view/pasd (PASCAL in Detail): trainval_merged.json""",
        terms=_VOC_PHOTOS,
        expected={"train": 4_996, "val": 5_104},
        surely=("val",),
    ),
    "ade150": Benchmark(
        title="ADE20K 150, of the scene parsing challenge",
        labelset="ade20k_150",
        raw_ids=raw_ids.ADE20K_150,
        largest=150,
        layout="""\
ADEChallengeData2016/images/training/*.jpg, images/validation/*.jpg
ADEChallengeData2016/annotations/training/*.png, annotations/validation/*.png

RAW may also be ADEChallengeData2016 itself.""",
        download="sceneparsing.csail.mit.edu: ADEChallengeData2016.zip",
        terms=_ADE20K_TERMS,
        expected={"train": 20_210, "val": 2_000},
    ),
    "ade847": Benchmark(
        title="ADE20K 847, of the full release",
        labelset="ade20k_847",
        raw_ids=raw_ids.ADE20K_847,
        largest=25 * 256 + 255,  # red over 10, times 256, plus green
        layout="""\
ADE20K_2021_17_01/images/ADE/training/**/*.jpg, each with its *_seg.png
ADE20K_2021_17_01/images/ADE/validation/**/*.jpg, each with its *_seg.png

RAW may also be ADE20K_2021_17_01 itself.""",
        download="groups.csail.mit.edu/vision/datasets/ADE20K, after registration",
        terms=_ADE20K_TERMS,
        expected={"train": 25_574, "val": 2_000},
        surely=("val",),
        limit=512,
    ),
}

# Pascal Context by PASCAL's own lists (VOC2010, ImageSets/Main), where trainval_merged.json is not there.
CONTEXT_LISTS: Mapping[str, int] = {"train": 4_998, "val": 5_105}
