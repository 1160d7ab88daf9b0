"""Tiles give what the plain formula gives, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sanseg import labelmap
from sanseg.images import Geometry
from sanseg.labelmap import label_map, score_map, scores_on_lattice, set_aside

sides = st.integers(1, 90)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    content = draw(sides), draw(sides)
    padded = content[0] + draw(st.integers(0, 31)), content[1] + draw(st.integers(0, 31))
    return Geometry(original=(draw(sides), draw(sides)), content=content, padded=padded)


def case(
    queries: int, rows: int, grid: tuple[int, int], seed: int, sharpness: float = 4, away: float = 0
) -> tuple[torch.Tensor, ...]:
    """Mask logits (Q, h, w) and probabilities (Q, R) as a network may give them; `away` is taken off all logits."""
    generator = torch.Generator().manual_seed(seed)
    masks = sharpness * torch.randn(queries, *grid, generator=generator) - away
    logits = sharpness * torch.randn(queries, rows + 1, generator=generator)
    return masks, logits.softmax(-1)[:, :-1]


def assert_plain(
    masks: torch.Tensor, probabilities: torch.Tensor, row_label: list[int], geometry: Geometry
) -> None:
    """The label map is the plain formula's wherever its best two differ by more than rounding."""
    ids, confidence = label_map(masks, probabilities, row_label, geometry)
    scores = score_map(masks, probabilities, geometry).cpu()
    other = 254 if max(row_label) < 254 else 65_534
    row_ids = np.array([other if label < 0 else label for label in row_label])
    assert ids.shape == confidence.shape == geometry.original
    assert (ids.dtype, confidence.dtype) == (np.uint8 if other == 254 else np.uint16, np.float32)
    best, winner = scores.amax(0).numpy(), scores.argmax(0).numpy()
    clear = np.sum(scores.numpy() > best * (1 - 1e-5), axis=0) == 1
    np.testing.assert_array_equal(ids[clear], row_ids[winner][clear])
    np.testing.assert_allclose(confidence, best / scores.sum(0).numpy(), atol=1e-5)
    assert confidence.max() <= 1


@settings(max_examples=150, deadline=None)
@given(
    geometry=geometries(),
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    queries=st.integers(1, 9),
    rows=st.integers(1, 40),
    sharpness=st.sampled_from([0.1, 2.0, 12.0]),
    away=st.sampled_from([0.0, 20.0]),
    seed=st.integers(0, 10_000),
)
def test_equals_the_plain_formula(
    geometry: Geometry,
    grid: tuple[int, int],
    queries: int,
    rows: int,
    sharpness: float,
    away: float,
    seed: int,
) -> None:
    masks, probabilities = case(queries, rows, grid, seed, sharpness, away)
    row_label = [row if row % 3 else -1 for row in range(rows)]
    row_label[-1] = rows - 1
    assert_plain(masks, probabilities, row_label, geometry)


@pytest.mark.parametrize(
    ("original", "content", "padded"),
    [
        ((1, 1), (64, 64), (64, 64)),
        ((1, 5000), (1, 256), (32, 256)),
        ((5000, 1), (256, 1), (256, 32)),
        ((96, 128), (96, 128), (96, 128)),  # neither padding nor scaling
        ((30, 40), (240, 320), (256, 320)),
        ((700, 933), (90, 120), (96, 128)),
    ],
)
def test_equals_the_plain_formula_at_awkward_sizes(
    original: tuple[int, int], content: tuple[int, int], padded: tuple[int, int]
) -> None:
    masks, probabilities = case(20, 30, (padded[0] // 8, padded[1] // 8), seed=1)
    assert_plain(masks, probabilities, list(range(30)), Geometry(original, content, padded))


@pytest.mark.parametrize("away", [0.0, 20.0])
@pytest.mark.parametrize("floats", [1, 5_000, 1 << 21])
def test_equals_the_plain_formula_in_many_tiles_and_pieces(
    floats: int, away: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(labelmap.TILE_FLOATS, "cpu", floats)
    monkeypatch.setitem(labelmap.TILE_PIXELS, "cpu", (100, 150))
    masks, probabilities = case(20, 30, (6, 8), seed=9, sharpness=8, away=away)
    size = (9, 13) if floats == 1 else (90, 130)
    assert_plain(masks, probabilities, list(range(30)), Geometry(size, (48, 64), (48, 64)))


def test_of_rows_that_score_the_same_the_first_wins() -> None:
    masks, probabilities = case(6, 9, (3, 4), seed=10)
    twice = torch.cat([probabilities, probabilities], dim=1) / 2
    ids, _ = label_map(masks, twice, range(18), Geometry((30, 40), (24, 32), (24, 32)))
    assert ids.max() < 9


def test_equals_the_plain_formula_with_more_labels_than_a_byte_holds() -> None:
    masks, probabilities = case(8, 300, (5, 6), seed=2)
    assert_plain(masks, probabilities, [-1, *range(299)], Geometry((40, 50), (75, 90), (80, 96)))


def test_the_other_id_is_no_label() -> None:
    masks, probabilities = torch.zeros(1, 2, 2), torch.tensor([[0.1, 0.7]])
    geometry = Geometry((3, 3), (2, 2), (2, 2))
    ids, confidence = label_map(masks, probabilities, [0, -1], geometry)
    assert (ids == 254).all()
    np.testing.assert_allclose(confidence, 0.7 / 0.8, rtol=1e-6)  # distractors count in the total
    many = torch.full((1, 256), 1e-3)
    many[0, 0] = 0.5
    ids, _ = label_map(masks, many, [-1, *range(255)], geometry)
    assert (ids == 65_534).all()
    assert ids.dtype == np.uint16


def test_permuted_rows_permute_the_answer() -> None:
    masks, probabilities = case(10, 12, (6, 8), seed=3)
    geometry = Geometry((50, 60), (48, 64), (48, 64))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    plain, share = label_map(masks, probabilities, range(12), geometry)
    permuted, same_share = label_map(masks, probabilities[:, order], order.tolist(), geometry)
    np.testing.assert_array_equal(plain, permuted)
    np.testing.assert_allclose(share, same_share, atol=1e-6)


def test_half_precision_masks_are_scored_in_float32() -> None:
    masks, probabilities = case(10, 12, (6, 8), seed=4)
    geometry = Geometry((50, 60), (48, 64), (48, 64))
    half = masks.bfloat16()
    assert_plain(half, probabilities, list(range(12)), geometry)
    for got, wanted in zip(
        label_map(half, probabilities, range(12), geometry),
        label_map(half.float(), probabilities, range(12), geometry),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_answers_as_the_cpu() -> None:
    masks, probabilities = case(20, 300, (8, 9), seed=8)
    assert_plain(
        masks.cuda(), probabilities.cuda(), list(range(300)), Geometry((300, 400), (60, 70), (64, 72))
    )


def test_where_all_masks_vanish_nothing_is_sure() -> None:
    masks = torch.full((3, 2, 2), -200.0)
    _, confidence = label_map(masks, torch.full((3, 2), 0.3), range(2), Geometry((4, 4), (4, 4), (4, 4)))
    assert (confidence == 0).all()


def test_confidence_is_at_most_one_even_by_rounding() -> None:
    """Two halves, each of one row that takes all: the winner and the total are added up in different order."""
    masks, _ = case(60, 30, (1, 2), seed=7)
    masks[:30, :, 1] -= 110
    masks[30:, :, 0] -= 110
    probabilities = torch.rand(60, 30, generator=torch.Generator().manual_seed(7))
    probabilities[:30, 1:] = 0
    probabilities[30:, 0] = 0
    probabilities[30:, 2:] *= 1e-12
    geometry = Geometry((32, 32), (32, 32), (32, 32))
    _, confidence = label_map(masks, probabilities, range(30), geometry)
    np.testing.assert_allclose(confidence[:, [0, -1]], 1, atol=1e-5)
    assert confidence.max() <= 1


@given(height=st.integers(1, 9000), width=st.integers(1, 9000), cells=st.integers(1, 10_000))
def test_tiles_are_a_few_cells_within_limits(height: int, width: int, cells: int) -> None:
    least, most = labelmap.TILE_PIXELS["cpu"]
    tall, wide = labelmap._tile(height, width, cells, torch.device("cpu"))
    assert 1 <= tall <= height
    assert 1 <= wide <= width
    assert tall * wide <= max(least, min(most, labelmap.TILE_CELLS**2 * height * width / cells))


def test_bad_input_is_refused_with_the_reason() -> None:
    masks, probabilities = case(4, 5, (3, 3), seed=5)
    geometry = Geometry((4, 4), (4, 4), (4, 4))
    with pytest.raises(ValueError, match="4 row labels for 5 rows"):
        label_map(masks, probabilities, range(4), geometry)
    with pytest.raises(ValueError, match=r"\(4, 3, 3\) and probabilities \(3, 5\)"):
        label_map(masks, probabilities[:3], range(5), geometry)
    masks[0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinity"):
        label_map(masks, probabilities, range(5), geometry)


def test_rows_that_cannot_win_are_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes 847 labels affordable: in a tile most of them are out of the question."""
    masks, probabilities = case(50, 800, (4, 5), seed=6)
    kept: list[int] = []
    contenders = labelmap._contenders

    def counted(*tiles: torch.Tensor) -> list[torch.Tensor]:
        likely = contenders(*tiles)
        kept.extend(map(len, likely))
        return likely

    monkeypatch.setattr(labelmap, "_contenders", counted)
    label_map(masks, probabilities, range(800), Geometry((480, 640), (64, 80), (64, 80)))
    assert sum(kept) / len(kept) < 160


def test_queries_that_are_nowhere_near_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes large pictures affordable: in a tile most masks are next to nothing."""
    masks = torch.full((40, 40, 40), -25.0)
    for query in range(40):  # each in one of the picture's four corners
        y, x = divmod(query % 4, 2)
        masks[query, 20 * y :, 20 * x :][:20, :20] = 4
    probabilities = torch.rand(40, 10, generator=torch.Generator().manual_seed(0))
    kept: list[int] = []
    room = labelmap._Room.masks

    def counted(
        own: labelmap._Room, bands: list[labelmap._Band], tile: int, asked_q: torch.Tensor | None
    ) -> torch.Tensor:
        kept.append(40 if asked_q is None else len(asked_q))
        return room(own, bands, tile, asked_q)

    monkeypatch.setattr(labelmap._Room, "masks", counted)
    label_map(masks, probabilities, range(10), Geometry((1280, 1280), (320, 320), (320, 320)))
    assert sum(kept) / len(kept) < 25


def test_a_query_counts_however_little_it_says_where_nothing_else_speaks() -> None:
    """The best score is 1e-13 here: what is left out is measured against it, not against 1."""
    masks = torch.full((2, 4, 4), -30.0)
    masks[1, :, 2:] = -29
    probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    geometry = Geometry((64, 64), (64, 64), (64, 64))
    assert_plain(masks, probabilities, [0, 1], geometry)
    ids, _ = label_map(masks, probabilities, [0, 1], geometry)
    assert set(ids[:, -1].tolist()) == {1}


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module measures memory on Unix only")
def test_memory_does_not_grow_with_rows_times_pixels() -> None:
    """2,000 rows on a megapixel would be 8 GB as one tensor; the masks at that size alone 400 MB."""
    program = """
import resource, torch
from sanseg.images import Geometry
from sanseg.labelmap import label_map
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
geometry = Geometry((800, 1250), (200, 312), (224, 320))
masks, probabilities = torch.randn(100, 4, 5), torch.randn(100, 2001).softmax(-1)[:, :-1]
label_map(masks, probabilities[:, :2], range(2), Geometry((64, 64), (64, 64), (64, 64)))
before = peak()
label_map(masks, probabilities, range(2000), geometry)
print((peak() - before) / 1024)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert float(run.stdout) < 200


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    geometry = Geometry((8, 8), (8, 8), (8, 8))
    masks, probabilities = torch.zeros(2, 4, 4), torch.full((2, 3), 0.3)
    spoilt_masks, spoilt_probabilities = masks.clone(), probabilities.clone()
    spoilt_masks[1, 2, 3] = spoilt_probabilities[1, 1] = value
    with pytest.raises(ValueError, match="mask logits hold NaN or infinity"):
        label_map(spoilt_masks, probabilities, range(3), geometry)
    with pytest.raises(ValueError, match="probabilities hold NaN or infinity"):
        label_map(masks, spoilt_probabilities, range(3), geometry)


def views_of(
    count: int, original: tuple[int, int], rows: int = 12, *, flipped: bool = False
) -> list[labelmap.View]:
    """Different proposals for one picture, on grids and in contents of different sizes."""
    views = []
    for number in range(count):
        side = 48 + 32 * number
        masks, probabilities = case(8 + number, rows, (side // 8, side // 8 + 1), seed=20 + number)
        geometry = Geometry(original, (side - 5, side), (side, side + 8))
        views.append(labelmap.View(masks, probabilities, geometry, flipped=flipped and number % 2 == 1))
    return views


def test_one_view_is_the_plain_answer_to_the_bit() -> None:
    view = views_of(1, (70, 90))[0]
    plain = label_map(view.mask_logits, view.probabilities, range(12), view.geometry)
    for got, wanted in zip(labelmap.label_map_of_views([view], range(12)), plain, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_views_answer_by_the_mean_of_their_scores() -> None:
    views = views_of(4, (70, 90), flipped=True)
    ids, confidence = labelmap.label_map_of_views(views, range(12))
    scores = []
    for view in views:
        score_RHW = score_map(view.mask_logits, view.probabilities, view.geometry).numpy()
        scores.append(score_RHW[:, :, ::-1] if view.flipped else score_RHW)
    mean = np.mean(scores, axis=0)
    clear = np.sum(mean > mean.max(0) * (1 - 1e-5), axis=0) == 1
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(ids[clear], mean.argmax(0)[clear])
    np.testing.assert_allclose(confidence, mean.max(0) / mean.sum(0), atol=1e-5)


def test_views_are_exact_in_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    views = views_of(3, (70, 90), flipped=True)
    whole = labelmap.label_map_of_views(views, range(12))
    monkeypatch.setitem(labelmap.TILE_PIXELS, "cpu", (100, 150))
    tiled = labelmap.label_map_of_views(views, range(12))
    assert (tiled[0] != whole[0]).mean() < 0.001
    np.testing.assert_allclose(tiled[1], whole[1], atol=1e-5)


def test_two_views_that_are_the_same_are_one() -> None:
    view = views_of(1, (70, 90))[0]
    ids, confidence = labelmap.label_map_of_views([view, view], range(12))
    plain, share = label_map(view.mask_logits, view.probabilities, range(12), view.geometry)
    assert (ids != plain).mean() < 0.001
    np.testing.assert_allclose(confidence, share, atol=1e-6)


def test_a_flipped_view_is_the_mirrored_answer() -> None:
    view = views_of(1, (70, 91))[0]
    mirrored = labelmap.View(view.mask_logits, view.probabilities, view.geometry, flipped=True)
    plain, share = labelmap.label_map_of_views([view], range(12))
    ids, confidence = labelmap.label_map_of_views([mirrored], range(12))
    np.testing.assert_allclose(confidence, share[:, ::-1], atol=1e-6)
    assert (ids != plain[:, ::-1]).mean() < 0.001
    assert (ids != plain).mean() > 0.1


def test_views_of_different_pictures_or_words_are_refused() -> None:
    view, larger = views_of(1, (70, 90))[0], views_of(1, (70, 91))[0]
    with pytest.raises(ValueError, match="of different pictures or words"):
        labelmap.label_map_of_views([view, larger], range(12))
    with pytest.raises(ValueError, match="of different pictures or words"):
        labelmap.label_map_of_views([view, *views_of(1, (70, 90), rows=11)], range(12))
    with pytest.raises(ValueError, match="the views are none"):
        labelmap.label_map_of_views([], range(12))


@settings(max_examples=40, deadline=None)
@given(
    geometry=geometries(),
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    rows=st.integers(1, 40),
    sharpness=st.sampled_from([0.1, 2.0, 12.0]),
    temperature=st.sampled_from([0.4, 1.7, 6.0]),
    seed=st.integers(0, 10_000),
)
def test_a_temperature_changes_the_confidence_and_no_label(
    geometry: Geometry,
    grid: tuple[int, int],
    rows: int,
    sharpness: float,
    temperature: float,
    seed: int,
) -> None:
    masks, probabilities = case(9, rows, grid, seed, sharpness, 20.0)
    plain, _ = label_map(masks, probabilities, range(rows), geometry)
    ids, confidence = label_map(masks, probabilities, range(rows), geometry, temperature=temperature)
    np.testing.assert_array_equal(ids, plain)
    scores_RHW = score_map(masks, probabilities, geometry).double()
    shares_RHW = (scores_RHW.log() / temperature).softmax(0)
    np.testing.assert_allclose(confidence, shares_RHW.amax(0).numpy(), atol=2e-4)


def test_what_is_not_sure_enough_is_other() -> None:
    ids = np.array([[0, 1, 254], [0, 1, 0]], dtype=np.uint8)
    confidence = np.array([[0.5, 0.5, 0.1], [0.29, 0.71, 0.3]], dtype=np.float32)
    np.testing.assert_array_equal(
        set_aside(ids, confidence, (0.3, 0.7)), np.array([[0, 254, 254], [254, 1, 0]], np.uint8)
    )
    assert set_aside(ids, confidence, ()) is ids
    many = set_aside(np.array([[299, 0]], np.uint16), np.array([[0.5, 0.5]], np.float32), (0.6,) * 300)
    assert many.dtype == np.uint16
    assert many.tolist() == [[65_534, 65_534]]


def test_thresholds_are_held_against_the_confidence_that_is_given() -> None:
    geometry = Geometry((30, 40), (30, 40), (32, 64))
    masks, probabilities = case(9, 3, (4, 6), seed=3)
    plain, _ = label_map(masks, probabilities, range(3), geometry)
    for temperature in (1.0, 2.5):
        _, confidence = label_map(masks, probabilities, range(3), geometry, temperature=temperature)
        least = float(np.median(confidence))
        ids, same = label_map(
            masks,
            probabilities,
            range(3),
            geometry,
            temperature=temperature,
            thresholds=(least, 0.0, least),
        )
        np.testing.assert_array_equal(same, confidence)
        low = (confidence < np.float32(least)) & (plain != 1)
        assert low.any()
        np.testing.assert_array_equal(ids, np.where(low, 254, plain))


def test_progress_tells_of_every_row_of_pixels_and_ends_the_work_by_raising() -> None:
    geometry = Geometry((301, 40), (301, 40), (320, 64))
    masks, probabilities = case(9, 3, (20, 4), seed=3)
    told: list[int] = []
    ids, confidence = label_map(masks, probabilities, range(3), geometry, progress=told.append)
    assert sum(told) == 301
    assert len(told) > 1
    plain, plain_confidence = label_map(masks, probabilities, range(3), geometry)
    np.testing.assert_array_equal(ids, plain)
    np.testing.assert_array_equal(confidence, plain_confidence)

    def enough(rows: int) -> None:
        told.append(rows)
        raise KeyboardInterrupt

    told.clear()
    with pytest.raises(KeyboardInterrupt):
        label_map(masks, probabilities, range(3), geometry, progress=enough)
    assert len(told) == 1


def test_scores_where_rows_and_columns_of_pixels_meet() -> None:
    geometry = Geometry((50, 40), (64, 51), (64, 64))
    masks, probabilities = case(9, 5, (8, 8), seed=4)
    y, x = [0, 7, 49], [39, 3]
    lattice = scores_on_lattice(masks, probabilities, geometry, y, x)
    whole = score_map(masks, probabilities, geometry)
    torch.testing.assert_close(lattice, whole[:, y][:, :, x])


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_parts_answer_by_the_weighted_mean_of_their_scores(spread: float) -> None:
    """Two windows of one size, asked for the part in which they overlap, each with weights of its own."""
    geometry, rows = Geometry((70, 90), (40, 52), (48, 64)), 12
    parts = [(slice(20, 70), slice(30, 90)), (slice(0, 50), slice(5, 65))]
    generator = torch.Generator().manual_seed(3)
    views, scores = [], []
    for number, (y, x) in enumerate(parts):
        masks, probabilities = case(8, rows, (6, 8), seed=40 + number, sharpness=0.3)
        weight = tuple(
            9.0**number * (1.01 - spread * torch.rand(side, generator=generator)) for side in (50, 60)
        )
        views.append(labelmap.View(masks, probabilities, geometry, rows=y, columns=x, weight=weight))
        score_RHW = score_map(masks, probabilities, geometry)[:, y, x]
        scores.append((score_RHW * torch.outer(*weight)).numpy())
    ids, confidence = labelmap.label_map_of_views(views, range(rows))
    together = np.sum(scores, axis=0)
    clear = np.sum(together > together.max(0) * (1 - 1e-5), axis=0) == 1
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(ids[clear], together.argmax(0)[clear])
    np.testing.assert_allclose(confidence, together.max(0) / together.sum(0), atol=1e-5)
    assert (ids != together[::-1].argmax(0)).any()


def test_parts_of_different_sizes_are_refused() -> None:
    view = views_of(1, (70, 90))[0]
    with pytest.raises(ValueError, match="of different pictures"):
        labelmap.label_map_of_views([view, replace(view, rows=slice(0, 30))], range(12))
