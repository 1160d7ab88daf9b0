"""Results whose regions have holes, touch at corners and reach the border."""

from __future__ import annotations

import numpy as np

from sanseg.segmentation import Segmentation
from sanseg.vocabulary import Vocabulary

WORDS = Vocabulary((("cat",), ("sofa, couch",), ('<"é&猫">',), ("sky",)), other=("wall",))


def segmentation(label_map: np.ndarray, vocabulary: Vocabulary = WORDS) -> Segmentation:
    rng = np.random.default_rng(label_map.size)
    confidence = rng.random(label_map.shape, dtype=np.float32)
    image = rng.integers(0, 256, (*label_map.shape, 3), dtype=np.uint8)
    return Segmentation(label_map, confidence, vocabulary, model="tiny", templates="plain", image=image)


def rings() -> np.ndarray:
    """Rings within rings, holes of one pixel, holes that touch a corner, and noise."""
    label_map = np.full((40, 55), 254, np.uint8)
    label_map[2:30, 3:40] = 0
    label_map[6:26, 8:30] = 1
    label_map[10:20, 12:26] = 0
    label_map[14, 15] = 2
    label_map[13:17, 20] = 254
    label_map[5, 35] = label_map[6, 36] = label_map[7, 35] = 2
    label_map[2, 3] = label_map[3, 4] = 254
    label_map[30:, 40:] = np.random.default_rng(0).choice([0, 1, 2, 254], (10, 15))
    return label_map
