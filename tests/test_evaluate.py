"""One streamed tally: a set is asked its own labels, by one process or many, in constant memory."""

from __future__ import annotations

import json
import math
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sanseg.data.datasets import SegmentationSet
from sanseg.evaluate import Confusion, Evaluation, Reduce, evaluate, evaluate_folder, gather, without_rivals
from sanseg.model.san import SAN
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary
from tests.test_segment_each import Watched

Map = NDArray[np.uint8]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for stem in "ab":
        Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(
            tmp_path / "images" / f"{stem}.png"
        )
        mask = np.zeros((6, 8), dtype=np.uint8)
        mask[:, 4:] = 1
        mask[0], mask[1] = 254, 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{stem}.png")
    described = {"labels": ["sky", "tree | woods", "road"], "other": 254, "splits": {"val": ["a", "b"]}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    return tmp_path


class FakeSet:
    """Pictures of one colour, 8 x 8, that are number % 3 in the left half and number // 3 % 3 in the right.

    Its pictures are counted while anything holds them. Those in `broken` cannot be read.
    """

    name = "fake"
    vocabulary = Vocabulary.of(["sky", "tree", "road"])

    def __init__(self, length: int, broken: tuple[int, ...] = ()) -> None:
        self.length, self.broken = length, broken
        self.alive: weakref.WeakSet[SimpleNamespace] = weakref.WeakSet()
        self.most_alive = 0
        pictures = [SimpleNamespace(name=f"fake/{index}") for index in range(length)]
        self.files = SimpleNamespace(pictures=pictures)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SimpleNamespace:
        if index in self.broken:
            raise ValueError(f"picture {index} is damaged\nsave it again")
        index_map = np.full((8, 8), index % 3, np.uint8)
        index_map[:, 4:] = index // 3 % 3
        image = np.full((8, 8, 3), index, np.uint8)
        sample = Weak(name=f"fake/{index}", image=image, index_map=index_map)
        self.alive.add(sample)
        self.most_alive = max(self.most_alive, len(self.alive))
        return sample


class Weak(SimpleNamespace):
    __hash__ = object.__hash__


def mostly(image: NDArray[np.uint8], _: Vocabulary) -> SimpleNamespace:
    """Right on the left; on the right what a hash of the picture's number says. Sure of some."""
    index = int(image[0, 0, 0])
    label_map = np.full(image.shape[:2], index % 3, np.uint8)
    label_map[: index % 9, 4:] = index * 7 % 3
    return SimpleNamespace(label_map=label_map, confidence=np.full(image.shape[:2], index / 255, np.float32))


def same(one: Evaluation, two: Evaluation) -> bool:
    def comparable(evaluation: Evaluation) -> str:
        values = evaluation.to_dict()
        values.pop("seconds")
        return json.dumps(values)

    return comparable(one) == comparable(two) and (one.counts == two.counts).all()


def test_a_set_is_evaluated_with_its_own_labels(folder: Path) -> None:
    """Half of "sky" is called tree, all of "tree" is; "road" is answered where nothing is counted."""
    asked: list[Vocabulary] = []
    pictures: list[tuple[int, ...]] = []

    def predict(image: NDArray[np.uint8], vocabulary: Vocabulary) -> Map:
        asked.append(vocabulary)
        pictures.append(image.shape)
        answer = np.ones(image.shape[:2], dtype=np.uint8)
        answer[:, :2] = 0
        answer[:2] = 2
        return answer

    done: list[int] = []
    evaluation = evaluate(predict, SegmentationSet.open(folder, "val"), done.append)
    metrics = evaluation.metrics
    assert set(asked) == {Vocabulary((("sky",), ("tree", "woods"), ("road",)))}
    assert pictures == [(6, 8, 3)] * 2
    assert done == [1, 1]
    assert evaluation.pictures == 2
    assert evaluation.name == folder.name
    assert metrics.labels == ("sky", "tree", "road")
    assert metrics.iou == pytest.approx((50, 100 * 2 / 3, math.nan), nan_ok=True)
    assert metrics.pacc == 75
    assert metrics.miou_present == metrics.miou_union == pytest.approx((50 + 200 / 3) / 2)
    assert evaluation.miou_present == metrics.miou_present


def test_a_segmenter_is_asked_without_distractors(folder: Path) -> None:
    others: list[None] = []

    def segmenter(image: NDArray[np.uint8], vocabulary: Vocabulary, *, other: None) -> SimpleNamespace:
        others.append(other)
        zeros = np.zeros(image.shape[:2], dtype=np.uint8)
        return SimpleNamespace(label_map=zeros, confidence=zeros.astype(np.float32))

    assert evaluate_folder(segmenter, folder, "val").pacc == 50
    assert others == [None, None]


def test_distractors_in_an_answer_are_an_error_rather_than_a_lower_figure(
    tiny_san: SAN, folder: Path
) -> None:
    dataset, segmenter = SegmentationSet.open(folder, "val"), Segmenter(tiny_san)
    with pytest.raises(ValueError, match="ask with other=None"):
        evaluate(segmenter, dataset)
    assert evaluate(without_rivals(segmenter), dataset).pictures == 2


def test_a_real_segmenter_is_evaluated(tiny_san: SAN, folder: Path) -> None:
    """Whatever a random model says, each labelled pixel gets one of the labels, and its confidence counts."""
    dataset = SegmentationSet.open(folder, "val")
    segmenter = Segmenter(tiny_san)
    metrics = evaluate_folder(segmenter, folder)
    answers = [segmenter(dataset[index].image, dataset.vocabulary, other=None) for index in range(2)]
    right = sum((answer.label_map == dataset[index].index_map).sum() for index, answer in enumerate(answers))
    assert metrics.pacc == pytest.approx(100 * right / (2 * 4 * 8))
    mean = sum(answer.confidence[2:].mean() for answer in answers) / 2
    pixels = sum(one.pixels for one in metrics.reliability)
    assert pixels == 2 * 4 * 8
    told = sum(one.pixels * one.confidence for one in metrics.reliability if one.pixels)
    assert told / pixels == pytest.approx(100 * mean, rel=1e-5)


def test_another_vocabulary_is_asked_and_the_sets_labels_are_reported(folder: Path) -> None:
    dataset = SegmentationSet.open(folder, "val")
    words = Vocabulary.of(["heaven", "oak", "street"])
    asked: list[Vocabulary] = []

    def predict(image: NDArray[np.uint8], vocabulary: Vocabulary) -> Map:
        asked.append(vocabulary)
        return np.zeros(image.shape[:2], np.uint8)

    assert evaluate(predict, dataset, vocabulary=words).metrics.labels == ("sky", "tree", "road")
    assert set(asked) == {words}
    with pytest.raises(ValueError, match=r"2 labels are asked for, .* has 3: give one for each"):
        evaluate(predict, dataset, vocabulary=Vocabulary.of("heaven, oak"))


def test_what_was_seen_in_training_is_told_apart(folder: Path) -> None:
    def predict(image: NDArray[np.uint8], _: Vocabulary) -> Map:
        return np.zeros(image.shape[:2], np.uint8)

    metrics = evaluate(predict, SegmentationSet.open(folder, "val"), seen=["WOODS | forest", "road"]).metrics
    assert metrics.seen == (False, True, True)
    assert (metrics.miou_seen, metrics.miou_unseen) == (0, 50)


def test_boundaries_are_counted_on_request() -> None:
    assert math.isnan(evaluate(mostly, FakeSet(9)).metrics.miou_boundary)
    assert 0 < evaluate(mostly, FakeSet(9), boundary=True).metrics.miou_boundary < 100


def test_the_worst_and_the_best_pictures_are_named() -> None:
    evaluation = evaluate(mostly, FakeSet(30), extremes=3)
    alone = {index: _only(mostly, index) for index in range(30)}
    for found, expected in (
        (evaluation.worst, sorted(alone, key=lambda index: (alone[index], index))[:3]),
        (evaluation.best, sorted(alone, key=lambda index: (-alone[index], index))[:3]),
    ):
        assert [one.index for one in found] == expected
        assert [one.name for one in found] == [f"fake/{index}" for index in expected]
        assert [one.miou for one in found] == pytest.approx([alone[index] for index in expected])
    assert evaluate(mostly, FakeSet(30)).worst == ()


def _only(predict: Callable[..., SimpleNamespace], index: int) -> float:
    """The mean IoU of one picture of FakeSet, by evaluating it alone."""
    dataset = FakeSet(index + 1, broken=tuple(range(index)))
    return evaluate(predict, dataset, skip_failures=True).metrics.miou_present


def test_a_picture_without_labels_is_neither_worst_nor_best() -> None:
    class Unlabelled(FakeSet):
        def __getitem__(self, index: int) -> SimpleNamespace:
            sample = super().__getitem__(index)
            sample.index_map[:] = 255 if index == 1 else sample.index_map
            return sample

    evaluation = evaluate(mostly, Unlabelled(2), extremes=5)
    assert [one.index for one in evaluation.worst] == [0]
    assert evaluation.pictures == 2


def test_the_largest_confusions_come_first() -> None:
    def predict(image: NDArray[np.uint8], _: Vocabulary) -> Map:
        answer = np.zeros(image.shape[:2], np.uint8)
        answer[:2] = 254
        return answer

    evaluation = evaluate(predict, FakeSet(3))  # right halves are sky; left ones sky, tree and road
    assert evaluation.confusions(3) == [
        Confusion("sky", "other", 8 + 3 * 8, 25),
        Confusion("tree", "sky", 24, 75),
        Confusion("road", "sky", 24, 75),
    ]
    assert len(evaluation.confusions()) == 5, "what never happened is no confusion"


def test_side_by_side_each_with_a_thread_gives_the_same_figures(
    tiny_san: SAN, folder: Path, three_threads: None
) -> None:
    """The first picture is answered last."""
    later = threading.Event()

    def slowly(image: NDArray[np.uint8], words: Vocabulary) -> SimpleNamespace:
        assert torch.get_num_threads() == 1
        if image[0, 0, 0] == 0:
            assert later.wait(timeout=30), "no other picture is answered meanwhile"
        later.set()
        return mostly(image, words)

    done: list[int] = []
    evaluation = evaluate(slowly, FakeSet(30), done.append, device=torch.device("cpu"), extremes=3)
    assert same(evaluation, evaluate(mostly, FakeSet(30), extremes=3))
    assert done == [1] * 30
    watched = Watched(tiny_san)
    evaluate_folder(Segmenter(tiny_san, proposer=watched), folder)
    assert watched.most == 2, "of two pictures"


def test_without_a_device_it_is_asked_in_this_thread_one_by_one() -> None:
    here, asked = threading.get_ident(), []

    def predict(image: NDArray[np.uint8], words: Vocabulary) -> SimpleNamespace:
        asked.append((threading.get_ident(), int(image[0, 0, 0])))
        return mostly(image, words)

    evaluate(predict, FakeSet(9))
    assert asked == [(here, index) for index in range(9)]


def test_only_so_many_pictures() -> None:
    done: list[int] = []
    evaluation = evaluate(mostly, FakeSet(30), done.append, limit=7)
    assert evaluation.pictures == len(done) == 7
    assert same(evaluation, evaluate(mostly, FakeSet(7)))
    assert evaluate(mostly, FakeSet(5), limit=7).pictures == 5


@pytest.mark.parametrize("wrong", [{"share": (2, 2)}, {"share": (-1, 2)}, {"limit": 0}])
def test_impossible_shares_and_limits_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="rank below processes, and at least 1 picture"):
        evaluate(mostly, FakeSet(3), **wrong)


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_a_picture_that_fails_raises_or_is_left_out_as_asked(device: torch.device | None) -> None:
    dataset = FakeSet(6, broken=(1, 4))
    with pytest.raises(ValueError, match="picture 1 is damaged"):
        evaluate(mostly, dataset, device=device)
    evaluation = evaluate(mostly, dataset, device=device, skip_failures=True)
    assert evaluation.failures == ("fake/1: picture 1 is damaged", "fake/4: picture 4 is damaged")
    assert evaluation.pictures == 4
    assert sum(evaluation.metrics.pixels) == 4 * 64


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_a_failing_model_is_told_apart_from_a_bad_picture(device: torch.device | None) -> None:
    def exhausted(image: NDArray[np.uint8], _: Vocabulary) -> SimpleNamespace:
        if image[0, 0, 0] == 2:
            raise RuntimeError("CUDA out of memory.\nTried to allocate")
        return mostly(image, _)

    evaluation = evaluate(exhausted, FakeSet(4), device=device, skip_failures=True)
    assert evaluation.failures == ("fake/2: CUDA out of memory.",)
    with pytest.raises(TypeError):  # our own mistakes are not failures of pictures
        evaluate(lambda image, words: len(3), FakeSet(4), device=device, skip_failures=True)  # type: ignore[arg-type]


def test_nothing_left_to_evaluate_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="no picture of fake could be evaluated, the first is fake/0: picture 0"
    ):
        evaluate(mostly, FakeSet(2, broken=(0, 1)), skip_failures=True)


def test_no_more_than_a_few_pictures_are_held_at_once() -> None:
    dataset = FakeSet(200)
    evaluate(mostly, dataset, extremes=4, boundary=True)
    assert dataset.most_alive <= 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sanseg-evaluate")]


def test_reading_stops_with_an_error() -> None:
    def broken(image: NDArray[np.uint8], _: Vocabulary) -> Map:
        raise KeyboardInterrupt

    dataset = FakeSet(200)
    with pytest.raises(KeyboardInterrupt):
        evaluate(broken, dataset)
    assert dataset.most_alive <= 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sanseg-evaluate")]


def together(processes: int, work: Callable[[int, Reduce], Evaluation]) -> list[Evaluation]:
    """Runs a work of several processes in threads, with a sum over them."""
    slots: list[NDArray[np.float64] | None] = [None] * processes
    barrier = threading.Barrier(processes, timeout=20)
    results: list[Evaluation | None] = [None] * processes

    def run(rank: int) -> None:
        def reduce(array: NDArray[np.float64]) -> NDArray[np.float64]:
            assert array.dtype in (np.int64, np.float64)
            slots[rank] = array
            barrier.wait()
            total = sum(slots[1:], slots[0])  # type: ignore[arg-type]
            barrier.wait()
            assert isinstance(total, np.ndarray)
            return total

        results[rank] = work(rank, reduce)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(result is not None for result in results)
    return results  # type: ignore[return-value]


@pytest.mark.parametrize("processes", [2, 3])
def test_many_processes_say_what_one_does(processes: int) -> None:
    """Each has its share; all get the figures, the extremes and the failures of the whole."""

    def work(rank: int, reduce: Reduce) -> Evaluation:
        return evaluate(
            mostly,
            FakeSet(32, broken=(3, 8)),
            share=(rank, processes),
            reduce=reduce,
            boundary=True,
            extremes=4,
            skip_failures=True,
        )

    alone = evaluate(mostly, FakeSet(32, broken=(3, 8)), boundary=True, extremes=4, skip_failures=True)
    assert alone.pictures == 30
    for evaluation in together(processes, work):
        assert same(evaluation, alone)


def test_more_processes_than_pictures() -> None:
    def work(rank: int, reduce: Reduce) -> Evaluation:
        return evaluate(mostly, FakeSet(2), share=(rank, 3), reduce=reduce)

    assert all(same(evaluation, evaluate(mostly, FakeSet(2))) for evaluation in together(3, work))


def test_without_a_sum_a_share_stands_for_itself() -> None:
    evaluation = evaluate(mostly, FakeSet(9), share=(1, 2))
    assert evaluation.pictures == 4
    assert sum(evaluation.metrics.pixels) == 4 * 64
    assert gather({"a": 1}, (1, 2), None) == [{"a": 1}]
