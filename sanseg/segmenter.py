"""Segmenter: pictures and words in, Segmentations out. The words come last.

`encode` is the expensive half and reads no word; asking an `Encoded` picture a vocabulary is a matrix product.

B batch, Q queries, R classifier rows, E shared embedding, H W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from operator import length_hint
from os import PathLike
from threading import Lock
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sanseg.devices import find_device, find_dtype, name_dtype
from sanseg.images import RESIZES, Geometry, ImageSource, prepare, read_image
from sanseg.labelmap import label_map
from sanseg.lanes import LANES, open_lanes
from sanseg.model.checkpoint import fingerprint
from sanseg.model.download import cache_folder
from sanseg.model.san import SAN, Proposals
from sanseg.model.text import Classifier, TextEncoder
from sanseg.model.text_cache import TextCache
from sanseg.model.weights import load_san
from sanseg.queries import Queries
from sanseg.segmentation import Segmentation
from sanseg.vocabulary import Vocabulary
from sanseg.vocabulary_files import Embeddings

Words = str | Sequence[str] | Vocabulary
"""What `Vocabulary.of` reads: a text with commas, a list with one label a string, or a Vocabulary."""

Other = str | Sequence[str] | None
"""What competes with the labels: "auto", words of your own as a list or a text with commas, or None."""

P = ParamSpec("P")
T = TypeVar("T")

CACHED_ROWS = 20_000  # of classifiers kept in memory; at 768 floats a row, 60 MB


class Proposer(Protocol):
    """The one seam for every method: pictures in, masks and region embeddings out, before any word is read."""

    def propose(self, image_B3HW: Tensor) -> Proposals:
        """Pictures, float32, prepared for the SAN whose words will name the regions, all of one size."""
        ...


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it came, uint8 (H, W, 3), and as the network sees it, float32 (3, Hp, Wp)."""

    image: NDArray[np.uint8]
    prepared: Tensor
    geometry: Geometry


@dataclass(frozen=True, eq=False)
class Encoded:
    """A picture that was read once and can be asked any number of vocabularies.

    proposals: of a batch of one, on the model's device.
    image: uint8 (H, W, 3), RGB, as it came; None where it was not kept.
    """

    proposals: Proposals
    geometry: Geometry
    image: NDArray[np.uint8] | None
    segmenter: Segmenter

    def segment(self, vocabulary: Words, other: Other = "auto", *, proposals: bool = False) -> Segmentation:
        """As `Segmenter.__call__`, without looking at the picture again."""
        return self.segmenter.answer(self, self.segmenter.resolve(vocabulary, other), proposals=proposals)


@dataclass(frozen=True)
class Failure:
    """A picture of `segment_many` that could not be segmented, and why, in one line: str(error)."""

    source: ImageSource
    error: OSError | ValueError


class Segmenter:
    """Segments pictures into whatever is named.

    san: put in eval mode and never trained here; its weights may not change while this lives, for the
        embeddings of words are kept.
    proposer: what proposes the masks; None is the SAN itself. Words always go through the SAN's text tower.
    resize: the way pictures are resized, a key of `images.RESIZES`.
    text_cache: embeddings of words; None keeps them in memory.

    Several threads may use one. Raises ValueError for an unknown way of resizing.
    """

    def __init__(
        self,
        san: SAN,
        *,
        proposer: Proposer | None = None,
        resize: str = "evaluation",
        text_cache: TextCache | None = None,
    ) -> None:
        if resize not in RESIZES:
            raise ValueError(
                f"there is no way of resizing called {resize!r}: choose from {', '.join(RESIZES)}"
            )
        self.san = san.eval()
        self.proposer: Proposer = san if proposer is None else proposer
        self.resize = resize
        self.text_cache = TextCache(None) if text_cache is None else text_cache
        self._classifiers: OrderedDict[Vocabulary, Classifier] = OrderedDict()
        self._lock = Lock()

    @property
    def device(self) -> torch.device:
        return self.san.nothing.device

    def __call__(
        self, image: ImageSource, vocabulary: Words, other: Other = "auto", *, proposals: bool = False
    ) -> Segmentation:
        """Where each thing named is in the picture.

        image: whatever `images.read_image` reads.
        vocabulary: "sky, tree | woods", ["sky", "tree | woods"], or a Vocabulary.
        other: "auto" keeps the distractors a Vocabulary has; where it has none, everyday words compete with
            fewer than `vocabulary.FEW` labels and mean "other". None: the labels share the whole picture.
            Or words of your own, in place of the everyday ones.
        proposals: whether the result keeps what the queries say, for its `proposals()` and `scores()`.

        Raises ValueError and OSError, in one line, for what cannot be read.
        """
        words = self.resolve(vocabulary, other)  # before the picture: a mistake in the words shows at once
        return self.answer(self.encode(image), words, proposals=proposals)

    def encode(self, image: ImageSource) -> Encoded:
        """The expensive half: the picture through the network. Raises as `images.read_image`."""
        return self.encode_batch([image])[0]

    def encode_picture(self, picture: Picture) -> Encoded:
        """The other half: a picture that was read, through the network. Raises ValueError where it has no room."""
        [encoded] = self.encode_pictures([picture])
        if isinstance(encoded, ValueError):
            raise encoded
        return encoded

    def encode_batch(self, images: Sequence[ImageSource]) -> list[Encoded]:
        """Pictures of any sizes, in order. Those of one padded size share a pass, so each is as if alone."""
        return self._encode([self.read(image) for image in images])

    def segment_many(
        self,
        images: Iterable[ImageSource],
        vocabulary: Words,
        other: Other = "auto",
        *,
        batch_size: int = 1,
        proposals: bool = False,
    ) -> Generator[Segmentation | Failure, None, None]:
        """One result for each picture, in order; a picture that cannot be segmented gives a Failure.

        Pictures are worked on side by side, and a bounded number ahead of those taken, so `images` may be
        endless: see `segment_each`.
        """
        return self.segment_each(
            images, vocabulary, lambda _, result: result, other, batch_size=batch_size, proposals=proposals
        )

    def segment_each(
        self,
        images: Iterable[ImageSource],
        vocabulary: Words,
        then: Callable[[ImageSource, Segmentation], T],
        other: Other = "auto",
        *,
        batch_size: int = 1,
        proposals: bool = False,
    ) -> Generator[T | Failure, None, None]:
        """As `segment_many`, but with what `then` makes of each picture's Segmentation: writes it, for one.

        A lane is a thread that takes a picture the whole way: reads, segments, `then`. On a CPU lanes compute side
        by side, each with its share of torch's threads, so that the answer is the same as if the picture were
        alone but for rounding; elsewhere one computes at a time, and meanwhile the others decode and write. There
        are at most LANES, each with one batch (`open_lanes`); as many again may be begun and not yet taken.
        Pictures at hand are finished even when the consumer stops early or is interrupted.

        then: called in several threads at once. OSError and ValueError from it are the picture's Failure, other
            exceptions end everything.
        batch_size: pictures that go through the network together, which may suit a GPU; equal to rounding.

        Raises ValueError, at once, for bad words or batch size.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give at least 1")
        words = self.resolve(vocabulary, other)

        def answers() -> Generator[T | Failure, None, None]:
            left = iter(images)
            batches = iter(lambda: list(islice(left, batch_size)), [])
            self.classifier(words)  # else each lane would encode them
            number = -(-length_hint(images, LANES * batch_size) // batch_size)
            with closing(open_lanes(self.device, number)) as lanes:

                def work(sources: list[ImageSource]) -> list[T | Failure]:
                    read = [_attempt(source, self.read, source) for source in sources]
                    with lanes.turn:
                        results = self._answer_batch(sources, read, words, proposals)
                    return [
                        result if isinstance(result, Failure) else _attempt(source, then, source, result)
                        for source, result in zip(sources, results, strict=True)
                    ]

                for batch in lanes.map(work, batches):
                    yield from batch

        return answers()

    def _answer_batch(
        self,
        sources: Sequence[ImageSource],
        read: Sequence[Picture | Failure],
        words: Vocabulary,
        proposals: bool,
    ) -> list[Segmentation | Failure]:
        def answer(encoded: Encoded | ValueError) -> Segmentation:
            if isinstance(encoded, ValueError):
                raise encoded
            return self.answer(encoded, words, proposals=proposals)

        encoded = iter(self.encode_pictures([picture for picture in read if isinstance(picture, Picture)]))
        return [
            picture if isinstance(picture, Failure) else _attempt(source, answer, next(encoded))
            for source, picture in zip(sources, read, strict=True)
        ]

    def encode_pictures(self, pictures: Sequence[Picture]) -> list[Encoded | ValueError]:
        """As `encode_batch`, of pictures that were read. Where a pass fails, out of memory for one, each picture goes
        alone, and those that fail even so give errors."""
        try:
            return [*self._encode(pictures)]
        except RuntimeError as error:
            if len(pictures) == 1:
                reason = str(error).partition("\n")[0]
                return [
                    ValueError(f"the network failed ({reason}): use a smaller picture, or another device")
                ]
        return [one for picture in pictures for one in self.encode_pictures([picture])]

    def resolve(self, vocabulary: Words, other: Other = "auto") -> Vocabulary:
        """The words that will compete: see `__call__`."""
        words = Vocabulary.of(vocabulary)
        return words if other == "auto" and words.other else words.with_other(other)

    @torch.inference_mode()
    def answer(
        self,
        encoded: Encoded,
        words: Vocabulary,
        *,
        proposals: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Segmentation:
        """An encoded picture and exactly these words, with the rivals, thresholds and temperature they have.

        progress: as `label_map` calls it.
        """
        classifier = self.classifier(words)
        probabilities_QR = classifier.probabilities(*encoded.proposals.regions())
        ids, confidence = label_map(
            encoded.proposals.mask_logits[0],
            probabilities_QR,
            classifier.row_label,
            encoded.geometry,
            temperature=words.temperature,
            thresholds=words.thresholds,
            progress=progress,
        )
        return Segmentation(
            ids,
            confidence,
            words,
            model=self.san.config.name,
            templates=self._templates(words),
            image=encoded.image,
            queries=Queries(
                encoded.proposals.mask_logits[0],
                encoded.proposals.embeddings[0],
                probabilities_QR,
                classifier.row_label,
                encoded.geometry,
            )
            if proposals
            else None,
        )

    def classifier(self, words: Vocabulary, progress: Callable[[int], None] | None = None) -> Classifier:
        """The rows that these words become: one for each label, the mean of its synonyms, or one for each
        synonym (`Vocabulary.synonyms`), and one for each of its rivals. The latest are kept.

        progress: called with the number of names encoded since its last call.
        Raises ValueError for words whose embeddings were made by another model, or in another precision.
        """
        with self._lock:
            if words in self._classifiers:
                self._classifiers.move_to_end(words)
                return self._classifiers[words]
        classifier = self._build(words, progress)
        with self._lock:
            self._classifiers[words] = classifier
            kept = self._classifiers.values()  # the newest stays, however large
            while len(kept) > 1 and sum(len(one.row_label) for one in kept) > CACHED_ROWS:
                self._classifiers.popitem(last=False)
        return classifier

    @torch.inference_mode()
    def _build(self, words: Vocabulary, progress: Callable[[int], None] | None) -> Classifier:
        groups, row_label = list(words.names), [*range(len(words.names))]
        if words.synonyms == "best":
            row_label = [label for label, names in enumerate(words.names) for _ in names]
            groups = [(name,) for names in words.names for name in names]
        groups += [(word,) for word in words.rivals]
        row_label += [-1] * len(words.rivals)
        rows_RE = self._encoder.rows(groups, self._templates(words), progress, self._known(words))
        nothing, logit_scale = self.san.nothing.float(), self.san.clip.logit_scale.float()
        evidence = self.san.evidence(rows_RE)
        bonus = self._bonus(words, row_label)
        return Classifier.build(rows_RE, nothing, logit_scale, row_label, bonus, evidence)

    def _bonus(self, words: Vocabulary, row_label: Sequence[int]) -> list[float]:
        """`SANConfig.novelty` for the rows of labels none of whose names the masks were trained with, if these are
        known."""
        known = {name.casefold() for name in self.san.labels}
        novelty = self.san.config.novelty if known else 0.0
        new = [known.isdisjoint(name.casefold() for name in names) for names in words.names]
        return [novelty if label >= 0 and new[label] else 0.0 for label in row_label]

    def _known(self, words: Vocabulary) -> dict[str, Tensor]:
        """The embeddings that the words bring along, where they are of the prompts that are asked."""
        known = words.embeddings
        if known is None:
            return {}
        if known.fingerprint != self._encoder.fingerprint:
            raise ValueError(
                f"the embeddings of these words are of the model {known.model} (text tower"
                f" {known.fingerprint[:16]}), and this is {self.san.config.name}"
                f" ({self._encoder.fingerprint[:16]}) in {name_dtype(self.san.nothing.dtype)}: embed them again"
                " for this one, sanseg words ... --save FILE"
            )
        width, own = known.rows.shape[1], self.san.nothing.shape[-1]
        if width != own:
            raise ValueError(
                f"the embeddings of these words have {width} numbers, and this model's {own}: embed the words again"
            )
        if known.templates != self._templates(words):
            return {}
        return dict(zip(known.names, torch.from_numpy(known.rows).to(self.device), strict=True))

    @torch.inference_mode()
    def embed(
        self, vocabulary: Words, other: Other = "auto", progress: Callable[[int], None] | None = None
    ) -> Vocabulary:
        """The words that will compete (see `__call__`) with the embeddings of all of them.

        They can be saved (`Vocabulary.save`) and asked without this model's text tower, of it alone.
        progress: called with the number of names encoded since its last call.
        """
        words = self.resolve(vocabulary, other)
        names = [*(name for names in words.names for name in names), *words.rivals]
        templates = self._templates(words)
        rows = self._encoder.by_name(names, templates, progress, self._known(words))
        known = Embeddings(
            self.san.config.name,
            self._encoder.fingerprint,
            templates,
            tuple(rows),
            torch.stack([*rows.values()]).cpu().numpy(),
        )
        return replace(words, embeddings=known)

    @cached_property
    def _encoder(self) -> TextEncoder:
        return TextEncoder(self.san.clip.text, fingerprint(self.san.clip.text), self.text_cache)

    def _templates(self, words: Vocabulary) -> str:
        return words.templates or self.san.config.templates

    def read(self, source: ImageSource) -> Picture:
        """The half of `encode` that needs no network. Raises as `images.read_image`."""
        image = read_image(source)
        return Picture(image, *prepare(image, self.san.config, self.resize))

    @torch.inference_mode()
    def _encode(self, pictures: Sequence[Picture]) -> list[Encoded]:
        groups: dict[tuple[int, int], list[int]] = {}
        for number, picture in enumerate(pictures):
            groups.setdefault(picture.geometry.padded, []).append(number)
        encoded: dict[int, Encoded] = {}
        for numbers in groups.values():
            image_B3HW = torch.stack([pictures[number].prepared for number in numbers])
            both = self.proposer.propose(image_B3HW.to(self.device))
            for row, number in enumerate(numbers):
                # Copies: a view would keep the whole batch in memory.
                own = Proposals(*(one[row : row + 1].clone() for one in both.tensors))
                encoded[number] = Encoded(own, pictures[number].geometry, pictures[number].image, self)
        return [encoded[number] for number in range(len(pictures))]


def _attempt(source: ImageSource, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Failure:
    try:
        return work(*args, **kwargs)
    except (OSError, ValueError) as error:
        return Failure(source, error)


def load(
    name_or_path: str | PathLike[str] = "mini",
    device: str = "auto",
    *,
    dtype: str | torch.dtype = "float32",
    clip: str | PathLike[str] | None = None,
    resize: str = "evaluation",
) -> Segmenter:
    """A Segmenter, ready to use.

    name_or_path: a key of `model.weights.NAMED`, or a checkpoint; see `load_san`, also for `clip`.
    device: "cuda", "cuda:1", "mps", "cpu", or "auto" for the first of these that this machine has.
    dtype: of the network: a key of `devices.DTYPES` or one of torch's, or "auto" for bfloat16 where the device has it
        natively, else float32. Scores are float32 whatever it is.
    resize: see Segmenter.

    Embeddings of words are kept on disk, in `model.download.cache_folder()`.
    Raises ValueError for a device that is not there, an unknown dtype, and as `load_san`.
    """
    found = find_device(device)
    san = load_san(name_or_path, found, find_dtype(dtype, found), clip=clip)
    return Segmenter(san, resize=resize, text_cache=TextCache(cache_folder() / "text.sqlite"))
