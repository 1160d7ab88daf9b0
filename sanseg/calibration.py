"""How far confidence can be trusted: a temperature fitted on labelled pictures.

A pixel's scores are sums over queries of probability times mask. Their shares are what the rows' chances at the pixel
are taken for, so the logarithms of the scores are its logits, and dividing these by a temperature is the temperature
scaling of Guo et al. 2017 (arXiv 1706.04599): one number, and the order of the rows stays. Dividing the class logits of
the queries instead would change which row wins a pixel, for that is decided by a sum over queries.

N pixels, R classifier rows, H W pixels of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sanseg.data.datasets import IndexMap, Sample, SegmentationSet
from sanseg.images import Geometry
from sanseg.labelmap import label_map, scores_on_lattice
from sanseg.metrics import Metrics, Tally
from sanseg.model.checkpoint import fingerprint
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import COOLEST, HOTTEST, Vocabulary

LATTICE = 45  # rows and columns of pixels that a picture is fitted on, at most
MAX_SCORES = 1 << 26  # of all pictures together: 256 MB
HALVINGS = 40  # of the range of temperatures
LEAST = 1e-30  # a score below counts as this one: where no mask is, all are zero


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does on pictures that it was not fitted on.

    model, checksum: of the network it is for. pictures, pixels: that it was fitted on.
    tested: pictures that it was tested on. loss: the mean negative log likelihood of their true labels, before and
    after. before, after: their figures; all but `calibration_error` and `reliability` are the same.
    """

    temperature: float
    model: str
    checksum: str
    pictures: int
    pixels: int
    loss: tuple[float, float]
    tested: int
    before: Metrics
    after: Metrics

    def to_dict(self) -> dict[str, Any]:
        """Plain values: all but the figures of each label."""
        told: dict[str, Any] = {
            "temperature": self.temperature,
            "model": self.model,
            "checksum": self.checksum,
            "pictures": self.pictures,
            "pixels": self.pixels,
            "tested": self.tested,
        }
        for key, value, loss in zip(("before", "after"), (self.before, self.after), self.loss, strict=True):
            told[key] = {
                "loss": loss,
                "calibration_error": value.calibration_error,
                "reliability": [asdict(one) for one in value.reliability if one.pixels],
            }
        return told


def fit_temperature(log_scores_NR: NDArray[np.float32], truth_N: NDArray[np.float32]) -> float:
    """The temperature under which the true labels are likeliest, within COOLEST and HOTTEST.

    log_scores: of every row. truth: of the row that stands for the true label.
    The mean of logsumexp(b z) - b z_true is convex in b = 1 / T: its slope, the mean of z under the shares less that of
    the truth, crosses zero at most once.
    """
    low, high = math.log(1 / HOTTEST), math.log(1 / COOLEST)  # of b
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        shares_NR = _shares(log_scores_NR, math.exp(middle))
        slope = float(np.mean((shares_NR * log_scores_NR).sum(1) - truth_N, dtype=np.float64))
        low, high = (middle, high) if slope < 0 else (low, middle)
    return min(max(math.exp(-(low + high) / 2), COOLEST), HOTTEST)


def loss(log_scores_NR: NDArray[np.float32], truth_N: NDArray[np.float32], temperature: float) -> float:
    """The mean negative log likelihood of the truth at a temperature."""
    z_NR = log_scores_NR / temperature
    highest_N = z_NR.max(1)
    total_N = highest_N + np.log(np.exp(z_NR - highest_N[:, None]).sum(1))
    return float(np.mean(total_N - truth_N / temperature, dtype=np.float64))


def _shares(log_scores_NR: NDArray[np.float32], inverse: float) -> NDArray[np.float32]:
    z_NR = inverse * (log_scores_NR - log_scores_NR.max(1, keepdims=True))
    powers_NR = np.exp(z_NR)
    shares: NDArray[np.float32] = powers_NR / powers_NR.sum(1, keepdims=True)
    return shares


def calibrate(
    segmenter: Segmenter,
    dataset: SegmentationSet,
    words: Vocabulary | None = None,
    *,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Fits a temperature on every second picture of a set, the first among them, and tests it on the others.

    words: what is asked, with its rivals; a label for each of the set's, in its order. None: the set's own, without
        rivals. Its thresholds are left aside.
    limit: only so many pictures, the first.
    progress: called with 1 after each picture.

    Of each picture at most LATTICE x LATTICE pixels are fitted on, evenly spread, and all are tested on; pixels that
    have none of the labels are not known, and count in neither. Raises ValueError for fewer than two pictures,
    another number of labels, pictures without known pixels, and as reading a picture does.
    """
    words = dataset.vocabulary if words is None else words
    pictures = len(dataset) if limit is None else min(limit, len(dataset))
    if len(words.names) != len(dataset.vocabulary.names):
        raise ValueError(
            f"{len(words.names)} labels are asked for, {dataset.name} has {len(dataset.vocabulary.names)}: give one"
            " for each, in the order of the set, no two alike"
        )
    if pictures < 2:
        raise ValueError(
            f"{pictures} pictures of {dataset.name}: wanted at least 2, one to fit and one to test"
        )
    plain = replace(words, thresholds=(), temperature=1.0)
    side = _lattice_side(len(segmenter.classifier(plain).row_label) * pictures)

    def asked(first: int) -> Iterator[tuple[_Asked, IndexMap]]:
        for index in range(first, pictures, 2):
            sample = dataset[index]
            yield _Asked.of(segmenter, sample, plain), sample.index_map
            if progress:
                progress(1)

    fitted = [one.known_scores(index_map, side) for one, index_map in asked(0)]
    z_NR, truth_N = _joined(fitted, dataset)
    temperature = fit_temperature(z_NR, truth_N)
    tallies, tested = [Tally.empty(len(words.names), edges=False) for _ in range(2)], []
    for one, index_map in asked(1):
        tested.append(one.known_scores(index_map, side))
        for at, tally in zip((1.0, temperature), tallies, strict=True):
            ids, confidence = one.label_map(at)
            tally.add(ids, index_map, confidence)
    losses = [loss(*_joined(tested, dataset), at) for at in (1.0, temperature)]
    before, after = (Metrics.of(tally, words.labels) for tally in tallies)
    return Calibration(
        temperature=temperature,
        model=segmenter.san.config.name,
        checksum=fingerprint(segmenter.san),
        pictures=len(fitted),
        pixels=len(z_NR),
        loss=(losses[0], losses[1]),
        tested=len(tested),
        before=before,
        after=after,
    )


def _lattice_side(scores_a_pixel: int) -> int:
    return max(1, min(LATTICE, math.isqrt(MAX_SCORES // scores_a_pixel)))


def _joined(
    parts: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], dataset: SegmentationSet
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    z_NR, truth_N = (np.concatenate(some) for some in zip(*parts, strict=True))
    if len(z_NR) == 0:
        raise ValueError(
            f"no pixel of the pictures of {dataset.name} to fit on, or to test, has a label: use more pictures"
        )
    return z_NR, truth_N


@dataclass(frozen=True, eq=False)
class _Asked:
    """A picture's masks, and what its queries make of the words."""

    mask_logits: Tensor
    probabilities: Tensor
    geometry: Geometry
    row_label: tuple[int, ...]

    @classmethod
    @torch.inference_mode()
    def of(cls, segmenter: Segmenter, sample: Sample, words: Vocabulary) -> _Asked:
        encoded, classifier = segmenter.encode(sample.image), segmenter.classifier(words)
        probabilities_QR = classifier.probabilities(*encoded.proposals.regions())
        return cls(encoded.proposals.mask_logits[0], probabilities_QR, encoded.geometry, classifier.row_label)

    @torch.inference_mode()
    def label_map(self, temperature: float) -> tuple[IndexMap, NDArray[np.float32]]:
        return label_map(
            self.mask_logits, self.probabilities, self.row_label, self.geometry, temperature=temperature
        )

    @torch.inference_mode()
    def known_scores(self, index_map: IndexMap, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The logarithms of the scores of all rows (N, R) at known pixels of a lattice, and of the true label (N,)."""
        y, x = (_spread(length, side) for length in index_map.shape)
        scores_Ryx = scores_on_lattice(self.mask_logits, self.probabilities, self.geometry, y, x)
        truth_P = index_map[np.ix_(y, x)].ravel().astype(np.int64)
        known_P = truth_P <= max(self.row_label)
        z_NR = scores_Ryx.flatten(1).clamp_min(LEAST).log().cpu().numpy().T[known_P]
        own_NR = (
            np.array(self.row_label) == truth_P[known_P, None]
        )  # of several rows of a label the best stands for it
        return z_NR, np.where(own_NR, z_NR, -np.inf).max(1, initial=-np.inf).astype(np.float32)


def _spread(length: int, side: int) -> Sequence[int]:
    """Places along a length, evenly spread, at most `side` of them."""
    count = min(length, side)
    places: list[int] = ((np.arange(count) + 0.5) * length / count).astype(int).tolist()
    return places
