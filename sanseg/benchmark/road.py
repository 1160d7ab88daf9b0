"""The road of one photo, stage by stage, and the same by the plain formulas.

B batch, Q queries, R classifier rows, H W the photo's pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sanseg.benchmark.case import Plausible
from sanseg.images import Geometry, prepare, read_image
from sanseg.labelmap import label_map, score_map
from sanseg.model.san import Proposals
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary

# The stages, in order, and what each does.
STAGES = {
    "prepare": "the photo resized, normalised, padded",
    "CLIP shallow": "CLIP's smaller picture, and its first blocks",
    "side adapter": "masks and attention biases",
    "recognition": "[SLS] tokens through CLIP's remaining blocks",
    "classifier": "class probabilities, of words that are known",
    "label map": "scores, and the best label of each pixel",
}
PLAIN_FLOATS = 1 << 28  # scores at once by the plain formula: a gigabyte


def walk(
    segmenter: Segmenter,
    photo: NDArray[np.uint8],
    words: Vocabulary,
    around: Callable[[str], AbstractContextManager[object]],
    label_map: Callable[[Tensor, Tensor, Sequence[int], Geometry], tuple[np.ndarray, np.ndarray]] = label_map,
) -> tuple[np.ndarray, np.ndarray]:
    """What `Segmenter.__call__` does for exactly these words, the same methods in the same order, each stage inside
    `around(stage)`. Returns ids and confidence, as `labelmap.label_map`.
    """
    san, config = segmenter.san, segmenter.san.config
    with around("prepare"):
        prepared, geometry = prepare(read_image(photo), config, segmenter.resize)
        image_B3HW = prepared[None].to(segmenter.device)
    with around("CLIP shallow"):
        wanted = {block for block, _ in config.side.fusion}
        shallow = san.clip.visual.shallow(san.clip_image(image_B3HW), config.split, wanted)
    with around("side adapter"):
        ((mask_logits, bias),) = san.side_adapter(image_B3HW, shallow, auxiliary=False)
    with around("recognition"):
        proposals = Proposals(mask_logits, *san.recognise(shallow, mask_logits, bias))
    if isinstance(segmenter.proposer, Plausible):
        proposals = segmenter.proposer.answer
    with around("classifier"):
        classifier = segmenter.classifier(words)
        probabilities_QR = classifier.probabilities(*proposals.regions())
    with around("label map"):
        return label_map(proposals.mask_logits[0], probabilities_QR, classifier.row_label, geometry)


class Stopwatch:
    """Milliseconds of each stage: `around` of a `walk`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.ms[stage] = 1000 * (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def plain(
    segmenter: Segmenter,
    photo: NDArray[np.uint8],
    words: Vocabulary,
    around: Callable[[str], AbstractContextManager[object]],
) -> tuple[np.ndarray, np.ndarray]:
    """As `walk`, the way the formulas are written: attention by matrices that exist, softmax included (torch's own
    "math" in place of its fused kernels), and the score of every label at every pixel.
    """
    with sdpa_kernel(SDPBackend.MATH):
        return walk(segmenter, photo, words, around, plain_label_map)


def plain_label_map(
    mask_logits_Qhw: Tensor, probabilities_QR: Tensor, row_label: Sequence[int], geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """As `labelmap.label_map` where row r is label r, by `score_map` of as many labels at once as PLAIN_FLOATS is."""
    assert list(row_label) == list(range(len(row_label)))
    height, width = geometry.original
    at_once = max(1, PLAIN_FLOATS // (height * width))
    best, top, total = torch.zeros(3, height, width, device=mask_logits_Qhw.device)
    for start in range(0, len(row_label), at_once):
        scores_RHW = score_map(mask_logits_Qhw, probabilities_QR[:, start : start + at_once], geometry)
        score, index = scores_RHW.max(0)
        best = torch.where(score > top, start + index, best)
        top = torch.maximum(score, top)
        total += scores_RHW.sum(0)
    share = top / total.clamp_min(torch.finfo(torch.float32).tiny)
    return best.int().cpu().numpy(), share.cpu().numpy()
