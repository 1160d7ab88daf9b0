"""What a run is worth while it goes on: figures and pictures of labelled sets that it does not train on.

H W pixels of a picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from sanseg.data.datasets import SegmentationSet
from sanseg.draw import triptych
from sanseg.evaluate import evaluate, without_rivals
from sanseg.images import write_bytes, write_png
from sanseg.metrics import Reduce
from sanseg.model.checkpoint import read_head, read_tensors
from sanseg.model.san import SAN
from sanseg.model.text_cache import TextCache
from sanseg.run import lines_of
from sanseg.segmenter import Segmenter

EVALUATIONS = "evaluations.jsonl"
PICTURES = "pictures"
BEST = "best.safetensors"


@dataclass(frozen=True)
class Validation:
    """When, on what, and by whom a run is evaluated.

    sets: by names that are unique. folder: of the run. every: iterations, 0 for never but at the end, after
    `iterations`. limit: pictures of each set that are evaluated, 0 for all. shown: pictures of each set that are
    painted. seen: the labels that are trained on, to tell them from unseen ones.
    share: (rank, processes): each process takes a part of the pictures. reduce: sums over them.
    text_cache: embeddings of words, whose tower no run trains.
    """

    sets: dict[str, SegmentationSet]
    folder: Path
    every: int
    iterations: int
    limit: int
    shown: int
    seen: tuple[str, ...]
    share: tuple[int, int]
    reduce: Reduce | None
    text_cache: TextCache

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.share[0] == 0

    def forget_after(self, done: int) -> None:
        """Takes away the evaluations of iterations that will be done again."""
        if self.leads and (self.folder / EVALUATIONS).exists():
            self._write([line for line in self.lines() if line["iteration"] <= done])

    def lines(self) -> list[dict[str, Any]]:
        """The evaluations so far, in order."""
        return lines_of(self.folder / EVALUATIONS)

    def due(self, done: int) -> bool:
        """Whether this many iterations are to be evaluated, and have not been."""
        on_time = done == self.iterations or (self.every > 0 and done > 0 and done % self.every == 0)
        return bool(self.sets) and on_time and all(line["iteration"] != done for line in self.lines())

    def look(
        self,
        san: SAN,
        done: int,
        progress: Progress,
        *,
        save: Callable[[Path], None],
        stop: Callable[[], bool],
    ) -> dict[str, float]:
        """Evaluates and paints; every process of the run must call this alike. Returns each set's mIoU, present
        classes, and their mean, by name.

        save: writes the weights, where no evaluation before was better, before anything else is written.
        stop: whether to give up; asked after each picture where there is one process only.
        Raises KeyboardInterrupt where it is to stop, OSError where the disk refuses, and as `evaluate`.
        """
        # A fresh one: a segmenter keeps classifiers, and "nothing" has changed since the last time.
        segmenter = Segmenter(san, text_cache=self.text_cache)
        found = {}
        for name, one in self.sets.items():
            pictures = range(len(one))[: self.limit or None]
            task = progress.add_task(
                f"evaluating {name}", total=len(pictures[self.share[0] :: self.share[1]])
            )

            def advance(pictures: int, task: Any = task) -> None:
                progress.advance(task, pictures)
                if self.share[1] == 1 and stop():
                    raise KeyboardInterrupt("stopped while evaluating, all iterations are saved")

            segmenter.classifier(one.vocabulary)
            evaluated = evaluate(
                without_rivals(segmenter),
                one,
                advance,
                device=segmenter.device,
                seen=self.seen,
                share=self.share,
                reduce=self.reduce,
                limit=self.limit or None,
                skip_failures=True,
            )
            self._paint(segmenter, name, one, done)
            progress.remove_task(task)
            found[name] = evaluated
        mious = {name: one.metrics.miou_present for name, one in found.items()}
        mean = fmean(mious.values())
        if self.leads:
            before = self.lines()
            if mean >= max((line["miou_present"] for line in before), default=-math.inf):
                save(self.folder / BEST)
            told = {
                name: {**one.metrics.to_dict(), "pictures": one.pictures, "failures": list(one.failures)}
                for name, one in found.items()
            }
            self._write([*before, {"iteration": done, "sets": told, "miou_present": mean}])
        return {**mious, "mean": mean}

    @contextmanager
    def best_weights(self, san: SAN) -> Iterator[None]:
        """The network with the weights that were best, then as it was; as it is where none was evaluated."""
        path = self.folder / BEST
        if not (self.lines() and path.exists()):
            yield
            return
        tensors = read_tensors(read_head(path), torch.float32)
        state = san.state_dict()
        before = {name: state[name].clone() for name in tensors}
        san.load_state_dict(tensors, strict=False)
        try:
            yield
        finally:
            san.load_state_dict(before, strict=False)

    def _paint(self, segmenter: Segmenter, name: str, one: SegmentationSet, done: int) -> None:
        """This process's part of the pictures shown: spread over the set, the same each time."""
        count = min(self.shown, len(one))
        chosen = np.linspace(0, len(one) - 1, count).round().astype(int).tolist() if count else []
        for index in chosen[self.share[0] :: self.share[1]]:
            try:
                sample = one[index]
                answer = segmenter(sample.image, one.vocabulary, other=None).label_map
            except (OSError, ValueError):
                continue  # the evaluation names it
            stem = sample.name.removeprefix(f"{one.name}/").replace("/", "-").replace("\\", "-")
            path = self.folder / PICTURES / f"{done:07d}" / f"{name}-{stem}.png"
            write_png(path, triptych(sample.image, sample.index_map, answer, one.vocabulary.labels))

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_bytes(self.folder / EVALUATIONS, text.encode())


def name_apart(sets: Sequence[SegmentationSet]) -> dict[str, SegmentationSet]:
    """Each set by its name; sets of one name by "name", "name-2" and so on."""
    named: dict[str, SegmentationSet] = {}
    for one in sets:
        number, name = 1, one.name
        while name in named:
            number += 1
            name = f"{one.name}-{number}"
        named[name] = one
    return named
