"""Who does the work: lanes that overlap, processes that give the same, and neither leaves anything behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from sanseg.folders.folder import Crew
from sanseg.folders.manifest import Record
from sanseg.folders.plan import Job
from sanseg.folders.work import THUMBNAIL_SIDE, Hand, Settings, in_lanes, thumbnail
from sanseg.images import read_image
from sanseg.lanes import open_lanes
from sanseg.model.san import SAN
from sanseg.model.weights import save_san
from sanseg.run import Wish
from sanseg.segmenter import Segmenter, load
from tests.folders.pictures import WORDS, paint, segmented, started, tree
from tests.test_segment_each import lanes as running


def jobs(folder: Path, count: int) -> list[Job]:
    for seed in range(count):
        paint(folder / f"{seed}.png", seed)
    return [Job(folder / f"{seed}.png", f"{seed}.png", str(seed)) for seed in range(count)]


def test_a_wish_to_stop_finishes_what_is_begun(tmp_path: Path, segmenter: Segmenter) -> None:
    """The lanes are busy and more is queued when the wish comes: what is queued is not begun."""
    wish, go_on, begun = Wish(), threading.Event(), []
    hand = Hand(segmenter, Settings(tmp_path / "out", WORDS, ("index",)))

    def work(job: Job) -> Record:
        begun.append(job.input)
        if job.stem == "0":
            wish.asked = True
        else:
            assert go_on.wait(timeout=30)
        return hand(job)

    lanes = open_lanes(segmenter.device)
    records = in_lanes(lanes, work, jobs(tmp_path, 40), wish)
    first = next(records)
    threading.Timer(0.5, go_on.set).start()
    taken = [first.input, *(record.input for record in records)]
    assert len(taken) == 1 + lanes.number
    assert sorted(taken) == sorted(begun)
    assert {f"{name.removesuffix('.png')}.index.png" for name in taken} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert not running()


def test_pictures_handed_over_are_bounded(tmp_path: Path, segmenter: Segmenter) -> None:
    drawn = 0

    def endless() -> object:
        nonlocal drawn
        [job] = jobs(tmp_path, 1)
        while True:
            drawn += 1
            yield job

    hand, lanes = Hand(segmenter, Settings(tmp_path / "out", WORDS, ("index",))), open_lanes(segmenter.device)
    records = in_lanes(lanes, hand, endless(), Wish())  # type: ignore[arg-type]
    for _ in range(10):
        next(records)
    records.close()
    assert drawn <= 10 + 2 * lanes.number + 1
    assert not running()


def test_what_the_network_has_no_room_for_fails_alone(tmp_path: Path, tiny_san: SAN) -> None:
    class Small:
        def propose(self, image_B3HW: torch.Tensor) -> object:
            raise torch.OutOfMemoryError("out of memory\nand a long story")

    hand = Hand(Segmenter(tiny_san, proposer=Small()), Settings(tmp_path / "out", WORDS, ("index",)))  # type: ignore[arg-type]
    [record] = in_lanes(open_lanes(hand.segmenter.device), hand, jobs(tmp_path, 1), Wish())
    assert record.error == "the network failed (out of memory): use a smaller picture, or another device"


def test_workers_are_counted() -> None:
    with pytest.raises(ValueError, match="0 workers cannot do anything: give 1 or more"):
        Crew(None, None, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(900, 300), (300, 900), (20, 10), (1000, 1)])
def test_a_thumbnail_is_the_painted_picture_made_small(
    tmp_path: Path, segmenter: Segmenter, size: tuple[int, int]
) -> None:
    paint(tmp_path / "a.png", 1, size)
    height, width = read_image(thumbnail(segmenter(tmp_path / "a.png", WORDS))).shape[:2]
    assert max(height, width) == min(THUMBNAIL_SIDE, *[max(size)])
    assert width / height == pytest.approx(size[0] / size[1], rel=0.02) or min(width, height) == 1


@pytest.fixture
def loader(tmp_path: Path, tiny_san: SAN, monkeypatch: pytest.MonkeyPatch) -> partial[Segmenter]:
    monkeypatch.setenv("SANSEG_CACHE", str(tmp_path / "cache"))
    save_san(tmp_path / "tiny.safetensors", tiny_san)
    return partial(load, tmp_path / "tiny.safetensors", "cpu")


def test_several_processes_give_what_one_gives(
    tmp_path: Path, segmenter: Segmenter, loader: partial[Segmenter]
) -> None:
    photos = tmp_path / "photos"
    jobs(photos, 7)
    (photos / "bad.jpg").write_bytes(b"no picture")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # convolutions round by the number of threads
    try:
        # Kept in both: what is kept is rounded.
        segmented(photos, tmp_path / "one/out", segmenter, encoded=tmp_path / "kept by one")
        told: list[str] = []
        outcome = segmented(
            photos,
            tmp_path / "two/out",
            segmenter,
            encoded=tmp_path / "kept",
            load=loader,
            workers=2,
            each=lambda record: told.append(record.input),
        )
    finally:
        torch.set_num_threads(before)
    assert sorted(told) == sorted({*told}) == sorted(record.input for record in outcome.records)
    assert [name for name, _ in outcome.failed] == ["bad.jpg"]
    assert tree(tmp_path / "one/out") == tree(tmp_path / "two/out")
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 7


def broken() -> Segmenter:
    os._exit(1)


def test_a_worker_that_dies_is_told(tmp_path: Path, segmenter: Segmenter) -> None:
    jobs(tmp_path / "photos", 2)
    with pytest.raises(OSError, match=r"a worker process died, .* fewer --workers to go on"):
        segmented(tmp_path / "photos", tmp_path / "out", segmenter, load=broken, workers=2)


SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from sanseg.segmenter import load
from tests.folders.pictures import segmented

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    loader = partial(load, folder / "tiny.safetensors", "cpu")
    segmented(folder / "photos", folder / "out", loader(), load=loader, workers=2,
              each=lambda record: print(record.input, flush=True))
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_process_that_is_killed(tmp_path: Path, loader: partial[Segmenter]) -> None:
    photos = tmp_path / "photos"
    for seed in range(200):
        paint(photos / f"{seed}.png", seed, (400, 300))
    process, printed = started(SCRIPT, tmp_path)
    assert printed.readline().endswith(".png\n")
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    children = list(map(int, listed.split()))
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    patience = time.monotonic() + 30
    while any(Path(f"/proc/{pid}/cwd").exists() for pid in children):
        assert time.monotonic() < patience, "a worker goes on without its parent"
        time.sleep(0.05)
    printed.close()
