"""Several views of a picture at test time: other sizes, mirrored; their scores are averaged.

H W pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from sanseg.images import ImageSource, prepare, read_image
from sanseg.labelmap import View, label_map_of_views
from sanseg.model.text import Classifier
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Other, Segmenter, Words

SMALLEST, LARGEST = 0.25, 3.0  # scale of a view: below, things vanish; above, memory does


class MultiView:
    """Answers as the Segmenter it is made of, from several views of each picture.

    scales: of the sides that the model resizes pictures to; 1 is its own size.
    flip: whether to see each of these mirrored, left for right, as well.

    Time grows with the views, and with the square of their scales. Raises ValueError for no scales, the same
    twice, and scales out of bounds.
    """

    def __init__(self, segmenter: Segmenter, scales: Sequence[float] = (1.0,), *, flip: bool = False) -> None:
        if not scales or len(set(scales)) != len(scales):
            raise ValueError(f"the scales are {list(scales)}: give at least one, each once")
        for scale in scales:
            if not SMALLEST <= scale <= LARGEST:  # nor NaN
                raise ValueError(f"a scale is {scale}: wanted {SMALLEST} to {LARGEST}")
        config = segmenter.san.config
        self.segmenter = segmenter
        self.flip = flip
        self._configs = [
            replace(
                config,
                short_side=max(1, round(config.short_side * scale)),
                long_side=max(1, round(config.long_side * scale)),
            )
            for scale in scales
        ]

    @torch.inference_mode()
    def __call__(self, image: ImageSource, vocabulary: Words, other: Other = "auto") -> Segmentation:
        """As `Segmenter.__call__`."""
        words = self.segmenter.resolve(vocabulary, other)
        picture = read_image(image)
        classifier = self.segmenter.classifier(words)
        ids, confidence = label_map_of_views(
            self._views(picture, classifier),
            classifier.row_label,
            temperature=words.temperature,
            thresholds=words.thresholds,
        )
        config = self.segmenter.san.config
        return Segmentation(
            ids,
            confidence,
            words,
            model=config.name,
            templates=words.templates or config.templates,
            image=picture,
        )

    def _views(self, picture: NDArray[np.uint8], classifier: Classifier) -> list[View]:
        """The views of one size share a pass, as pictures of one padded size do."""
        segmenter, looks = self.segmenter, [picture]
        if self.flip:
            looks.append(np.ascontiguousarray(picture[:, ::-1]))
        views = []
        for config in self._configs:
            prepared = [prepare(look, config, segmenter.resize) for look in looks]
            image_B3HW = torch.stack([image for image, _ in prepared])
            found = segmenter.proposer.propose(image_B3HW.to(segmenter.device))
            views += [
                View(
                    found.mask_logits[row],
                    classifier.probabilities(*found.regions(row)),
                    geometry,
                    flipped=row == 1,
                )
                for row, (_, geometry) in enumerate(prepared)
            ]
        return views
