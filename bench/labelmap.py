"""Seconds and memory of a label map with many labels on a large picture, beside the plain formula's.

    python bench/labelmap.py                                            # 847 labels, 12 megapixels
    python bench/labelmap.py --labels 171 --height 480 --width 640 --rounds 9
    python bench/labelmap.py --masks noise

Masks and classes are made up, of the released B/16's sizes: "plausible" ones as `sanseg bench --random` has them, or
smooth "noise", where every query is everywhere and many labels are close, which is as bad as it can get. The plain
way resizes all masks to the picture, which takes 4.8 GB at 12 megapixels, and then scores every label at every pixel,
band by band. Both are float32. Memory is the most that the process held beyond what it held before, ours measured
first; picture and network are not in it. Threads are torch's default; set OMP_NUM_THREADS to change them. Unix only.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sanseg.benchmark.case import plausible
from sanseg.images import Geometry
from sanseg.labelmap import label_map
from sanseg.model.text import Classifier

QUERIES, SHORT, PATCH, EMBED = 100, 640, 16, 512  # SAN B/16's
BAND_FLOATS = 1 << 28  # scores at once by the plain formula: a gigabyte
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere


def proposals(kind: str, labels: int, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Mask logits (Q, h, w) and probabilities (Q, R)."""
    torch.manual_seed(0)
    grid = (geometry.padded[0] // PATCH, geometry.padded[1] // PATCH)
    if kind == "noise":
        coarse = torch.randn(1, QUERIES, 10, 13)
        masks = 5 * F.interpolate(coarse, size=grid, mode="bicubic", align_corners=False)[0] - 5
        return masks, (4 * torch.randn(QUERIES, labels + 1)).softmax(-1)[:, :-1]
    rows = F.normalize(torch.randn(labels, EMBED), dim=-1)
    scale = torch.tensor(1 / 0.07).log()
    classifier = Classifier.build(rows, torch.randn(1, EMBED), scale, list(range(labels)))
    answer = plausible(QUERIES, grid, classifier, torch.float32)
    return answer.mask_logits[0], classifier.probabilities(answer.embeddings[0])


def plain(masks_Qhw: Tensor, probabilities_QR: Tensor, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Ids and confidence (H, W), as the formula of `label_map` is written, a band of the picture at a time."""
    padded = F.interpolate(masks_Qhw[None], size=geometry.padded, mode="bilinear", align_corners=False)
    content = padded[..., : geometry.content[0], : geometry.content[1]]
    size = geometry.original
    s_QHW = F.interpolate(content, size=size, mode="bilinear", align_corners=False)[0].sigmoid_()
    tall = max(1, BAND_FLOATS // (probabilities_QR.shape[1] * size[1]))
    ids, shares = [], []
    for s_QyW in s_QHW.split(tall, dim=1):
        scores_RyW = torch.einsum("qr,qyx->ryx", probabilities_QR, s_QyW)
        best, index = scores_RyW.max(0)
        ids.append(index)
        shares.append(best / scores_RyW.sum(0))
    return torch.cat(ids).numpy(), torch.cat(shares).numpy()


def seconds(
    work: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    start = time.perf_counter()
    answer = work()
    return time.perf_counter() - start, answer


def peak() -> int:
    """Bytes, the most that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


@torch.inference_mode()
def measure(kind: str, labels: int, size: tuple[int, int], rounds: int) -> dict[str, float]:
    resized = (SHORT, round(SHORT * size[1] / size[0]))
    padded = (resized[0], -(-resized[1] // 32) * 32)
    geometry = Geometry(size, resized, padded)
    masks, probabilities = proposals(kind, labels, geometry)
    label_map(masks, probabilities[:, :2], range(2), Geometry((64, 64), resized, padded))  # code is loaded
    held = [peak()]
    ours, by_plain = [], []
    for _ in range(rounds):
        took, (ids, confidence) = seconds(lambda: label_map(masks, probabilities, range(labels), geometry))
        ours.append(took)
        held.append(peak())
        took, (plain_ids, plain_confidence) = seconds(lambda: plain(masks, probabilities, geometry))
        by_plain.append(took)
        held.append(peak())
    return {
        "seconds": round(statistics.median(ours), 3),
        "plain_seconds": round(statistics.median(by_plain), 3),
        "times_as_fast": round(statistics.median(by_plain) / statistics.median(ours), 1),
        "gigabytes": round((held[1] - held[0]) / 1e9, 3),
        "plain_gigabytes": round((held[2] - held[0]) / 1e9, 3),
        "percent_alike": round(100 * float((ids == plain_ids).mean()), 5),
        "confidence_apart": float(np.abs(confidence - plain_confidence).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--masks", choices=["plausible", "noise"], default="plausible")
    parser.add_argument("--labels", type=int, default=847)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    size = (options.height, options.width)
    case = {"masks": options.masks, "labels": options.labels, "megapixels": round(size[0] * size[1] / 1e6, 1)}
    measured = measure(options.masks, options.labels, size, options.rounds)
    print(json.dumps({**case, "threads": torch.get_num_threads(), **measured}))


if __name__ == "__main__":
    main()
