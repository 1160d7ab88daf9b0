"""Many pictures: side by side, in order, bounded in memory, and each as if it were alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch
from torch import Tensor

from sanseg import lanes as lanes_module
from sanseg import segmenter as segmenter_module
from sanseg.images import ImageSource
from sanseg.lanes import open_lanes
from sanseg.model.san import SAN, Proposals
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Failure, Picture, Segmenter
from tests.test_segmenter import WORDS, assert_same, picture, results


def lanes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sanseg-lane")]


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_many_equal_one_by_one_in_order(segmenter: Segmenter, batch_size: int) -> None:
    images = [picture(40 + 3 * seed, 60, seed) for seed in range(7)]
    many = results(segmenter.segment_many(images, WORDS, batch_size=batch_size))
    assert len(many) == 7
    for answer, image in zip(many, images, strict=True):
        assert_same(answer, segmenter(image, WORDS))
    assert not lanes()


def test_a_bad_picture_does_not_stop_the_rest(segmenter: Segmenter, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    absent = tmp_path / "absent.jpg"
    many = list(segmenter.segment_many([picture(40, 60), broken, absent, picture(60, 40)], WORDS))
    assert [type(result) for result in many] == [Segmentation, Failure, Failure, Segmentation]
    failures = [result for result in many if isinstance(result, Failure)]
    assert [failure.source for failure in failures] == [broken, absent]
    assert "broken.jpg" in str(failures[0].error)
    assert isinstance(failures[1].error, FileNotFoundError)
    assert many[3].label_map.shape == (60, 40)  # type: ignore[union-attr]


def test_masks_that_are_not_finite_fail_alone(tiny_san: SAN) -> None:
    class Sick:
        def propose(self, image_B3HW: Tensor) -> Proposals:
            found = tiny_san.propose(image_B3HW)
            dark = image_B3HW.mean((1, 2, 3)) < -1
            found.mask_logits[dark] = torch.nan
            return found

    images = [picture(64, 64), np.zeros((64, 64, 3), np.uint8), picture(64, 64, 1)]
    many = list(Segmenter(tiny_san, proposer=Sick()).segment_many(images, WORDS))
    assert [type(result) for result in many] == [Segmentation, Failure, Segmentation]


def test_a_picture_that_the_network_cannot_take_fails_alone(tiny_san: SAN) -> None:
    class Small:
        """Has no memory for batches, nor for wide pictures."""

        def propose(self, image_B3HW: Tensor) -> Proposals:
            if len(image_B3HW) > 1 or image_B3HW.shape[3] > 64:
                raise torch.OutOfMemoryError("out of memory\nand a long story")
            return tiny_san.propose(image_B3HW)

    images = [picture(64, 64), picture(64, 128), picture(64, 64, seed=1)]
    first, second, third = Segmenter(tiny_san, proposer=Small()).segment_many(images, WORDS)
    assert isinstance(second, Failure)
    assert "out of memory" in str(second.error)
    assert "\n" not in str(second.error)
    alone = Segmenter(tiny_san)
    for answer, image in ((first, images[0]), (third, images[2])):
        assert isinstance(answer, Segmentation)
        assert_same(answer, alone(image, WORDS))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_pictures_in_memory_are_bounded(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, three_threads: None, batch_size: int
) -> None:
    """However many there are: a batch for each lane, and as much again that waits to be taken."""
    monkeypatch.setattr(lanes_module, "LANES", 2)
    asked, lock = count(), threading.Lock()
    held = most = 0
    read = segmenter.read

    def reading(source: np.ndarray) -> Picture:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return read(source)

    def then(_: ImageSource, __: Segmentation) -> None:
        nonlocal held
        with lock:
            held -= 1

    monkeypatch.setattr(segmenter, "read", reading)
    endless = (picture(40, 60, number) for number in asked)
    answers = segmenter.segment_each(endless, WORDS, then, batch_size=batch_size)
    for _ in range(20):
        assert next(answers) is None
    time.sleep(0.3)  # the lanes go on as far as they may
    assert next(asked) <= 20 + 4 * batch_size
    assert most <= 2 * batch_size
    assert len(lanes()) == 2
    answers.close()
    assert not lanes()
    assert held == 0, "pictures that were begun are finished"


def test_lanes_overlap_and_keep_the_order(segmenter: Segmenter, three_threads: None) -> None:
    """The first picture is written only once the second is: with one thread this would wait for ever."""
    images = [picture(40, 60, seed) for seed in range(6)]
    number_of = {id(image): number for number, image in enumerate(images)}
    second = threading.Event()

    def then(source: ImageSource, result: Segmentation) -> int:
        number = number_of[id(source)]
        if number == 0:
            assert second.wait(timeout=30)
        if number == 1:
            second.set()
        assert isinstance(result, Segmentation)
        return number

    assert list(segmenter.segment_each(images, WORDS, then)) == [0, 1, 2, 3, 4, 5]


def test_what_cannot_be_written_is_a_failure_and_what_is_wrong_an_error(segmenter: Segmenter) -> None:
    images = [picture(40, 60, seed) for seed in range(5)]

    def full(source: ImageSource, _: Segmentation) -> str:
        if source is images[2]:
            raise OSError("no space left")
        return "written"

    answers = list(segmenter.segment_each(images, WORDS, full))
    failure = answers.pop(2)
    assert isinstance(failure, Failure)
    assert failure.source is images[2]
    assert str(failure.error) == "no space left"
    assert answers == ["written"] * 4

    def wrong(_: ImageSource, __: Segmentation) -> str:
        raise KeyError("a mistake of the caller's")

    with pytest.raises(KeyError):
        list(segmenter.segment_each(images, WORDS, wrong))
    assert not lanes()


class Watched:
    """Proposes as `san` does, and notes how many did at once, each with how many of torch's threads."""

    def __init__(self, san: SAN) -> None:
        self.san, self.lock = san, Lock()
        self.busy, self.most, self.threads = 0, 0, set[int]()

    def propose(self, image_B3HW: Tensor) -> Proposals:
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
            self.threads.add(torch.get_num_threads())
        time.sleep(0.05)
        with self.lock:
            self.busy -= 1
        return self.san.propose(image_B3HW)


def test_on_a_cpu_lanes_compute_side_by_side_with_a_thread_each(
    tiny_stem_san: SAN, three_threads: None
) -> None:
    """The same to the last bit as one after the other, each in one thread."""
    watched = Watched(tiny_stem_san)
    segmenter = Segmenter(tiny_stem_san, proposer=watched)
    images = [picture(40, 60 + seed, seed) for seed in range(8)]
    many = results(segmenter.segment_many(images, WORDS))
    assert watched.most == 3
    assert watched.threads == {1}
    torch.set_num_threads(1)
    for answer, image in zip(many, images, strict=True):
        alone = segmenter(image, WORDS)
        np.testing.assert_array_equal(answer.label_map, alone.label_map)
        np.testing.assert_array_equal(answer.confidence, alone.confidence)


def test_few_pictures_have_all_of_torchs_threads(tiny_san: SAN, three_threads: None) -> None:
    watched = Watched(tiny_san)
    segmenter = Segmenter(tiny_san, proposer=watched)
    results(segmenter.segment_many([picture(40, 60)], WORDS))
    results(segmenter.segment_many([picture(40, 60, seed) for seed in range(5)], WORDS, batch_size=5))
    assert watched.threads == {3}


def test_elsewhere_one_lane_computes_at_a_time(tiny_san: SAN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        segmenter_module, "open_lanes", lambda device, pictures: open_lanes(torch.device("cuda"), pictures)
    )
    watched = Watched(tiny_san)
    images = [picture(40, 60, seed) for seed in range(6)]
    assert len(results(Segmenter(tiny_san, proposer=watched).segment_many(images, WORDS))) == 6
    assert watched.most == 1


def test_an_error_of_the_source_reaches_the_consumer_and_leaves_no_thread(segmenter: Segmenter) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from (picture(40, 60) for _ in range(9))
        raise RuntimeError("the camera fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        list(segmenter.segment_many(broken(), WORDS))
    assert not lanes()


def test_many_refuses_bad_words_before_the_first_picture(segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match="empty"):
        segmenter.segment_many([], "sky,,tree")
    with pytest.raises(ValueError, match="batch_size is 0"):
        segmenter.segment_many([], WORDS, batch_size=0)
    assert list(segmenter.segment_many([], WORDS)) == []
