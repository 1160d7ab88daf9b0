"""What is measured: a network, a photo, and words.

Q queries, R classifier rows, E shared embedding, h w the mask grid, H W the photo's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sanseg.data.labelsets import read_labelset
from sanseg.images import prepare, read_image
from sanseg.model.checkpoint import rounded
from sanseg.model.config import SANConfig
from sanseg.model.san import SAN, Proposals
from sanseg.model.text import Classifier
from sanseg.model.text_cache import TextCache
from sanseg.model.weights import load_san
from sanseg.segmenter import Proposer, Segmenter
from sanseg.vocabulary import Vocabulary

SEED = 0
LABELSET = "coco_stuff_171"  # whose names are asked for

# What a network of random weights says in place of its own answer. With these, about 15 of 171 rows are contenders
# (labelmap.py) in a tile of 640 x 640 pixels; `mini` has 6 to 38 on the pictures in examples/.
SEGMENTS = 10  # queries that found something
SLOPE = 50.0  # of a mask logit, from one side of the picture to the other
INSIDE, NOWHERE = 3.0, -25.0  # mask logits within a segment, and of a query that found nothing
LEAD = 4.0  # of the class logit of a region's own word


@dataclass(frozen=True)
class Case:
    """model: a name or a checkpoint, as `load_san` takes it; or a configuration, whose weights are then random.
    size: (height, width) of the photo. device: as torch names it. clip: as `load_san` takes it.
    source: the file of a photo, which is resized to that size; None for blurred noise.
    """

    model: str | SANConfig
    size: tuple[int, int]
    labels: int
    device: str
    clip: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.labels < 1:
            raise ValueError(
                f"a photo of {self.size[0]}x{self.size[1]} pixels and {self.labels} labels: give at least 1 each"
            )

    @property
    def random(self) -> bool:
        return isinstance(self.model, SANConfig)

    def network(self, dtype: torch.dtype) -> SAN:
        """Random weights are the same each time, and the same for each dtype but for rounding."""
        if not isinstance(self.model, SANConfig):
            return load_san(self.model, self.device, dtype, clip=self.clip)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return rounded(SAN(self.model), dtype).to(self.device).eval()

    def photo(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3). Raises as `read_image`."""
        if self.source is None:
            picture = np.random.default_rng(SEED).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        else:
            picture = read_image(self.source)
        height, width = self.size
        return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))

    def words(self, number: int = 0) -> Vocabulary:
        """Vocabulary `number`: each differs from the one before by one word."""
        return vocabulary(number, number + self.labels)

    def segmenter(self, san: SAN, texts: TextCache, proposer: Proposer | None = None) -> Segmenter:
        """Of a network of this case, or of what stands in for it; with random weights its answers are `Plausible`."""
        segmenter = Segmenter(san, proposer=proposer, text_cache=texts)
        if not self.random:
            return segmenter
        _, geometry = prepare(self.photo(), san.config, segmenter.resize)
        grid = tuple(side // san.config.side.mask_stride for side in geometry.padded)
        classifier = segmenter.classifier(self.words())
        answer = plausible(san.config.side.queries, (grid[0], grid[1]), classifier, san.nothing.dtype)
        return Segmenter(san, proposer=Plausible(segmenter.proposer, answer), text_cache=texts)


def vocabulary(start: int, stop: int) -> Vocabulary:
    """Of a list of words without end, LABELSET's and then the same numbered, those from `start` to before `stop`."""
    names = [line.split(" | ")[0] for line in read_labelset(LABELSET)]
    words = []
    for number in range(start, stop):
        turn, index = divmod(number, len(names))
        words.append((f"{names[index]} {turn + 1}" if turn else names[index],))
    return Vocabulary(tuple(words))


@dataclass(frozen=True, eq=False)
class Plausible:
    """What has random weights, does all its work, and then answers what a trained SAN might.

    The time of a label map depends on the masks and classes: random weights give all regions one class, with which
    it is at its fastest, and noise makes it slower than any photo does.
    """

    proposer: Proposer
    answer: Proposals

    def propose(self, image_B3HW: Tensor) -> Proposals:
        self.proposer.propose(image_B3HW)
        return self.answer


def plausible(queries: int, grid: tuple[int, int], classifier: Classifier, dtype: torch.dtype) -> Proposals:
    """Segments around random points, each with a soft border and a word of its own that leads the others.

    The embeddings are not of unit length: the words of a random text tower lie close together.
    """
    generator = torch.Generator().manual_seed(SEED)
    segments = min(SEGMENTS, queries)
    points = torch.rand(segments, 2, 1, 1, generator=generator)
    axes = [(torch.arange(side) + 0.5) / side for side in grid]
    away_Shw = (points - torch.stack(torch.meshgrid(*axes, indexing="ij"))).square().sum(1).sqrt()
    masks_Qhw = torch.full((queries, *grid), NOWHERE)
    masks_Qhw[:segments] = INSIDE - SLOPE * (away_Shw - away_Shw.amin(0))
    rows_RE = classifier.weight[:-1].float().cpu()
    apart_RE = rows_RE - rows_RE.mean(0) if len(rows_RE) > 1 else rows_RE
    own_QE = apart_RE[torch.randint(len(rows_RE), (queries,), generator=generator)]
    embeddings_QE = LEAD / classifier.scale * own_QE / own_QE.square().sum(1, keepdim=True)
    device = classifier.weight.device
    return Proposals(masks_Qhw[None].to(device, dtype), embeddings_QE[None].to(device, dtype))
