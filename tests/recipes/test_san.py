"""What the box's training draws: rare labels more often, other sets' labels, even points, shaken words."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import sanseg
from sanseg.data.datasets import SegmentationSet
from sanseg.losses import Target, unknown_id
from sanseg.model.text import TextEncoder
from sanseg.model.weights import save_san
from tests.recipes.conftest import OTHER, UNKNOWN, write_set


def opened(folder: Path, labels: tuple[str, ...], masks: dict[str, list[int]]) -> SegmentationSet:
    return SegmentationSet.open(write_set(folder, labels, masks, "train"))


@pytest.fixture
def fields(tmp_path: Path) -> SegmentationSet:
    """99 pictures of grass, one of a sheep beside it."""
    common = {f"field{number:02}": [0, OTHER] for number in range(99)}
    return opened(tmp_path / "fields", ("grass", "sheep"), common | {"flock": [0, 1]})


@pytest.fixture
def farms(tmp_path: Path) -> SegmentationSet:
    return opened(
        tmp_path / "farms", ("barn", "lawn | grass"), {"farm": [0, 0, 1], "yard": [1, 1, 0, UNKNOWN]}
    )


def test_a_picture_of_a_rare_label_is_drawn_more_often(mini: ModuleType, fields: SegmentationSet) -> None:
    factors = dict(
        zip([one.name for one in fields.files.pictures], mini.examples.repeat_factors(fields), strict=True)
    )
    rare = factors.pop("fields/flock")
    assert rare == pytest.approx(np.sqrt(100 * mini.examples.RARE))
    assert set(factors.values()) == {1.0}


def test_labels_that_share_a_name_are_translated_and_the_rest_is_unknown(
    mini: ModuleType, fields: SegmentationSet, farms: SegmentationSet
) -> None:
    table = mini.examples.translation(fields, farms)
    assert table[[0, 1, OTHER, UNKNOWN]].tolist() == [1, UNKNOWN, UNKNOWN, UNKNOWN]
    assert mini.examples.translation(farms, fields)[[0, 1]].tolist() == [UNKNOWN, 0]


def test_a_picture_is_asked_another_sets_labels_only_where_they_say_enough_of_it(
    mini: ModuleType, fields: SegmentationSet, farms: SegmentationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini.examples, "ELSEWHERE", 1.0)
    augmentation = mini.examples.Augmentation(short_side=4, scale=(1.0, 1.0), crop=16, flip=0, colour=0)
    pictures = mini.examples.Pictures([fields, farms], [0, 1])
    seen = {}
    for number in range(20):
        example = pictures.draw(number, augmentation)
        again = pictures.draw(number, augmentation)
        assert example.source == again.source
        assert example.index_map.equal(again.index_map)
        seen[example.name] = (example.source, example.index_map[0, :16:4].tolist())
    assert seen["farms/farm"] == (1, [0, 0, 1, UNKNOWN])  # two thirds of it is barn, which fields do not know
    assert seen["farms/yard"] == (0, [0, 0, UNKNOWN, UNKNOWN])


def test_half_of_the_points_fall_evenly_on_the_labels(mini: ModuleType) -> None:
    index_map = torch.zeros(10, 10, dtype=torch.int64)
    index_map[9, 9], index_map[:, 0] = 1, unknown_id(2)
    target = Target.from_index_map(index_map, 2)
    draws = torch.rand(1, 400, generator=torch.Generator().manual_seed(0))
    even = mini.san.even_draws([target], [2], draws)
    known = (~target.unknown(2)).flatten().nonzero()[:, 0]
    ids = target.index_map.flatten()[known[(even[0] * len(known)).long()]]
    assert even[0, :200].equal(draws[0, :200])
    assert (ids[200:] == 1).sum() == 100
    assert ((even >= 0) & (even < 1)).all()


def test_regions_are_the_labels_that_a_picture_shows(mini: ModuleType) -> None:
    index_map = torch.full((16, 16), 1)
    index_map[:, 8:] = 0
    targets = [Target.from_index_map(index_map, 3), Target.from_index_map(torch.full((16, 16), 2), 3)]
    masks, labels = mini.san.region_masks(targets, 8)
    assert [one.tolist() for one in labels] == [[0, 1], [2]]
    assert masks[0].tolist() == [[[0, 1], [0, 1]], [[1, 0], [1, 0]]]
    assert masks[1].tolist() == [[[1, 1], [1, 1]], [[0, 0], [0, 0]]]  # the second is padding


def test_shaken_rows_stay_near_and_of_unit_length(mini: ModuleType) -> None:
    rows = torch.nn.functional.normalize(
        torch.randn(50, 64, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    found = [mini.san.shaken(rows, torch.Generator().manual_seed(seed)) for seed in range(8)]
    moved = [one for one in found if not one.equal(rows)]
    assert 0 < len(moved) < len(found)
    for one in moved:
        torch.testing.assert_close(one.norm(dim=-1), torch.ones(50))
        cosine = (one * rows).sum(-1)
        assert cosine.min() > 0.9
        assert cosine.max() < 1


def test_later_stages_see_larger_pictures_at_the_same_cost(
    mini: ModuleType, farms: SegmentationSet, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "barn.png")
    photo = mini.photos.Photo(tmp_path / "barn.png", mini.photos.CALTECH, "barn")
    stages = mini.san.STAGES
    assert [stage.begins for stage in stages] == [0, 2_000, 3_000]
    for before, after in pairwise(stages):
        drawn = mini.san.batches([farms] * len(mini.san.SETS), [photo], ["barn"], after.begins - 1)
        for stage in (before, after):
            masked, photos, named = next(drawn)
            assert masked.images.shape == (stage.pictures, 3, stage.crop, stage.crop)
            assert photos.images.shape == (stage.photos, 3, stage.crop, stage.crop)
            assert named.tolist() == [0] * stage.photos
        pixels = [(stage.pictures + stage.photos) * stage.crop**2 for stage in (before, after)]
        assert pixels[0] == pytest.approx(pixels[1], rel=0.15)


def test_each_leg_anneals_and_a_second_begins_lower(mini: ModuleType) -> None:
    (first, _), (second, share) = mini.san.LEGS
    rates = [mini.san.rate(step) for step in range(first + second + 1)]
    assert rates[0] == 1 / mini.san.WARM_UP
    assert rates[first] == share
    assert rates[-1] == 0
    for begins, ends in ((mini.san.WARM_UP, first), (first, first + second)):
        assert all(before > after for before, after in pairwise(rates[begins:ends]))
        assert rates[ends - 1] < 0.01


def test_a_second_leg_that_begins_from_a_file_warms_up_too(mini: ModuleType) -> None:
    begun = mini.san.LEGS[0][0]
    warmed = begun + mini.san.WARM_UP
    assert mini.san.rate(begun, begun) == 1 / mini.san.WARM_UP
    assert mini.san.rate(warmed, begun) == mini.san.rate(warmed)


def test_a_shorter_training_has_the_same_stages_and_warms_up_as_long(
    mini: ModuleType, farms: SegmentationSet, tmp_path: Path
) -> None:
    (first, _), (second, highest) = mini.san.LEGS
    share, warming = 0.25, mini.san.WARM_UP // 2
    first, second = round(share * first), round(share * second)
    rates = [mini.san.rate(step, share=share) for step in range(first + second + 1)]
    assert rates[:warming] == [mini.san.rate(step) for step in range(warming)]
    assert rates[first - 1] < 0.01
    assert rates[first] == highest
    assert rates[-1] == 0
    Image.new("RGB", (20, 10)).save(tmp_path / "barn.png")
    photo = mini.photos.Photo(tmp_path / "barn.png", mini.photos.CALTECH, "barn")
    before, after = mini.san.STAGES[:2]
    drawn = mini.san.batches(
        [farms] * len(mini.san.SETS), [photo], ["barn"], round(share * after.begins) - 1, share
    )
    assert [next(drawn)[0].images.shape[-1] for _ in range(2)] == [before.crop, after.crop]


def test_words_are_step_ones_or_a_finished_models(mini: ModuleType, tmp_path: Path) -> None:
    model = sanseg.load("mini").san
    torch.save({"tower": model.clip.text.state_dict()}, tmp_path / "text.pt")
    save_san(tmp_path / "model.safetensors", model, kind="san")
    classes = ["cat", "coffee mug"]
    new, embedded = mini.san.new_words(tmp_path / "text.pt", classes)
    taken, names = mini.san.taken_words(tmp_path / "model.safetensors")
    for name, one in model.clip.text.state_dict().items():
        assert new.state_dict()[name].equal(one)
        assert taken.state_dict()[name].equal(one)
    assert names.equal(model.clip.visual.guess.names)
    torch.testing.assert_close(embedded, TextEncoder(model.clip.text)(classes, "plain"))


def test_words_are_not_asked_for_in_vain(
    mini: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["san.py", "--data", "D", "--run", "R", "--begin", "a.safetensors", "--words", "b.safetensors"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit):
        mini.san.read_options()
    assert "give --words with --lite2" in capsys.readouterr().err
