"""segments.py: regions that part the label map, and outlines that cover their pixels, neither more nor less."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from pycocotools import mask as coco
from rasterio import features

from sanseg.segmentation import Segmentation
from sanseg.segments import _without_holes, run_lengths
from tests.formats.results import rings, segmentation


@pytest.fixture
def seg() -> Segmentation:
    return segmentation(rings())


label_maps = st_numpy.arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 1, 254]),
    fill=st.nothing(),
)


def painted(outlines: list[shapely.Polygon], shape: tuple[int, ...]) -> np.ndarray:
    """How many outlines cover the middle of each pixel."""
    total = np.zeros(shape, int)
    for outline in outlines:
        total += features.rasterize([outline], shape)
    return total


@settings(max_examples=60, deadline=None)
@given(label_maps)
def test_segments_part_the_picture(label_map: np.ndarray) -> None:
    seg = segmentation(label_map)
    segments = seg.segments()
    np.testing.assert_array_equal(sum(one.mask.astype(int) for one in segments), np.ones_like(label_map))
    assert sorted([-one.pixels for one in segments]) == [-one.pixels for one in segments]
    for one in segments:
        assert one.pixels == one.mask.sum()
        assert set(label_map[one.mask].tolist()) == {one.id}
        assert one.label == seg.names[one.id]
        assert one.confidence == pytest.approx(seg.confidence[one.mask].mean(), abs=1e-6)
        rows, columns = np.nonzero(one.mask)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert one.crop.sum() == one.pixels


@settings(max_examples=60, deadline=None)
@given(label_maps)
def test_outlines_are_exact(label_map: np.ndarray) -> None:
    for one in segmentation(label_map).segments():
        outline = one.polygon()
        assert outline.is_valid
        assert outline.area == one.pixels
        np.testing.assert_array_equal(painted([outline], label_map.shape), one.mask)
        parts = [shapely.Polygon(ring) for ring in one.rings()]
        assert all(part.is_valid and not part.interiors for part in parts)
        assert sum(part.area for part in parts) == one.pixels
        np.testing.assert_array_equal(painted(parts, label_map.shape), one.mask)
        assert all((ring == ring.round()).all() for ring in one.rings())


@settings(max_examples=60, deadline=None)
@given(label_maps)
def test_run_lengths_are_cocos(label_map: np.ndarray) -> None:
    for one in segmentation(label_map).segments():
        wanted = coco.encode(np.asfortranarray(one.mask.astype(np.uint8)))
        assert one.coco_rle() == {"size": [*label_map.shape], "counts": wanted["counts"].decode()}
        runs = run_lengths(one.mask)
        np.testing.assert_array_equal(
            np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(label_map.shape), one.mask
        )


def test_pixels_that_touch_at_a_corner_are_two_segments() -> None:
    seg = segmentation(np.array([[0, 1], [1, 0]], np.uint8))
    assert [(one.id, one.box) for one in seg.segments()] == [
        (0, (0, 0, 1, 1)),
        (0, (1, 1, 2, 2)),
        (1, (1, 0, 2, 1)),
        (1, (0, 1, 1, 2)),
    ]


def test_other_can_be_left_out(seg: Segmentation) -> None:
    with_other, without = seg.segments(), seg.segments(other=False)
    assert {one.label for one in with_other} - {one.label for one in without} == {"other"}
    assert [one.box for one in without] == [one.box for one in with_other if one.id != 254]
    assert sum(one.pixels for one in without) == (seg.label_map != 254).sum()


@pytest.mark.parametrize("simplify", [0.5, 1.5, 4.0])
def test_simplified_outlines_stay_near_and_have_fewer_corners(simplify: float) -> None:
    rows, columns = np.mgrid[:60, :80]
    disc = np.hypot(rows - 30, columns - 40)
    seg = segmentation(np.where((disc < 25) & (disc > 8), 0, 254).astype(np.uint8))
    (one,) = seg.segments(other=False)
    exact, rough = one.polygon(), one.polygon(simplify)
    assert rough.is_valid
    assert len(rough.exterior.coords) < len(exact.exterior.coords)
    assert shapely.hausdorff_distance(exact.boundary, rough.boundary) <= simplify + 1e-9
    parts = [shapely.Polygon(ring) for ring in one.rings(simplify)]
    assert sum(part.area for part in parts) == pytest.approx(rough.area)
    assert all(not part.interiors for part in parts)


def test_a_narrow_hole_that_is_no_box_is_cut_through() -> None:
    """Cut along the edge of its box, it would touch the cut with one corner, and stay a hole for ever."""
    hole = [(3, 4), (4, 2), (4, 6)]
    polygon = shapely.Polygon([(0, 0), (9, 0), (9, 9), (0, 9)], [hole])
    parts = [*_without_holes(polygon)]
    assert all(not part.interiors for part in parts)
    assert sum(part.area for part in parts) == polygon.area


def test_a_tolerance_that_is_none_is_refused(seg: Segmentation) -> None:
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"simplify is {wrong}: give a tolerance in pixels"):
            seg.segments()[0].polygon(wrong)


def test_what_is_missing_is_named(seg: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.ndimage", None)
    with pytest.raises(
        ValueError, match=r"needs scipy, which is not installed: pip install 'sanseg\[formats\]'"
    ):
        seg.segments()


def test_many_labels() -> None:
    from sanseg.vocabulary import Vocabulary

    words = Vocabulary(tuple((f"label {number}",) for number in range(300)))
    label_map = np.full((4, 6), 65_534, np.uint16)
    label_map[1, 1] = 299
    segments = segmentation(label_map, words).segments()
    assert [(one.id, one.label, one.pixels) for one in segments] == [
        (65_534, "other", 23),
        (299, "label 299", 1),
    ]
    assert len(segments[0].polygon().interiors) == 1


def test_the_example_has_what_is_hard() -> None:
    seg = segmentation(rings())
    assert max(len(one.polygon().interiors) for one in seg.segments()) >= 3
    assert sum(len(one.rings()) > 1 for one in seg.segments(other=False)) >= 2
