"""A picture by windows: the plain answer where one window suffices, blended scores where several overlap."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sanseg import windows
from sanseg.labelmap import score_map
from sanseg.model.san import SAN, Proposals
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary
from sanseg.windows import ArrayReader, Layout, Windows, segment_by_windows, steps
from tests.test_segment_each import Watched

WORDS = "sky, tree | woods, cat"


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def by_windows(
    segmenter: Segmenter, image: NDArray[np.uint8], layout: Layout, other: str | None = None
) -> Windows:
    return Windows(segmenter, ArrayReader(image), segmenter.resolve(WORDS, other), layout)


class Holes(ArrayReader):
    """Knows nothing where the picture is black."""

    def read(self, rows: slice, columns: slice) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:  # type: ignore[override]
        image = self.image[rows, columns]
        return image, image.any(2)


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    size=st.integers(32, 300),
    overlap=st.floats(0, 0.5),
)
def test_windows_cover_the_picture_and_their_weights_sum_to_one(
    height: int, width: int, size: int, overlap: float
) -> None:
    layout = Layout(height, width, size, overlap)
    for length, spans, ramps in zip(
        (height, width), (layout.rows, layout.columns), layout.weights, strict=True
    ):
        assert {span.stop - span.start for span in spans} == {min(size, length)}
        assert spans[0].start == 0
        assert spans[-1].stop == length
        for before, after in pairwise(spans):
            assert before.start < after.start
            assert before.stop - after.start >= round(size * overlap)
        np.testing.assert_allclose(ramps.sum(0), 1, atol=1e-6)
        for span, ramp in zip(spans, ramps, strict=True):
            assert (ramp[span] > 0).all()
            assert not ramp[: span.start].any()
            assert not ramp[span.stop :].any()
    assert [row for band in layout.bands for row in range(band.start, band.stop)] == [*range(height)]


def test_ramps_are_linear_between_neighbours() -> None:
    down, _ = Layout(350, 10, 200, 0.25).weights
    assert down.shape == (2, 350)
    np.testing.assert_allclose(down[0, 150:200], 1 - (np.arange(50) + 0.5) / 50, atol=1e-6)
    assert (down[0, :150] == 1).all()
    assert (down[1, 200:] == 1).all()


def test_one_window_is_the_plain_road_to_the_bit(segmenter: Segmenter) -> None:
    for size in ((50, 70), (128, 128), (1, 90)):
        image = picture(*size)
        plain, answer = segmenter(image, WORDS), segment_by_windows(segmenter, image, WORDS, size=128)
        np.testing.assert_array_equal(answer.label_map, plain.label_map)
        np.testing.assert_array_equal(answer.confidence, plain.confidence)
        assert answer.to_dict() == plain.to_dict()


def test_the_answer_is_the_formula_on_all_windows_scores(segmenter: Segmenter) -> None:
    """Against the tensor that the road never makes: every score of every window, weighted and summed."""
    image, layout = picture(150, 201), Layout(150, 201, 64, 0.3)
    seen_by = by_windows(segmenter, image, layout, "wall, dog")
    total = np.zeros((len(seen_by.words.names) + len(seen_by.words.other), 150, 201))
    for i, rows in enumerate(layout.rows):
        for j, columns in enumerate(layout.columns):
            seen = seen_by.see((i, j))
            assert seen is not None
            score = score_map(seen.mask_logits, seen.probabilities, seen.geometry).numpy()
            weight = layout.weights[0][i, rows, None] * layout.weights[1][j, columns]
            total[:, rows, columns] += weight * score
    bands = list(seen_by.answer())
    ids = np.concatenate([band.label_map for band in bands])
    row_label = segmenter.classifier(seen_by.words).row_label
    wanted = np.array([254 if label < 0 else label for label in row_label])[total.argmax(0)]
    clear = np.sum(total > total.max(0) * (1 - 1e-4), axis=0) == 1
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(ids[clear], wanted[clear])
    confidence = np.concatenate([band.confidence for band in bands])
    np.testing.assert_allclose(confidence, total.max(0) / total.sum(0), atol=1e-4)


def test_windows_are_seen_side_by_side_and_kept_in_order(tiny_san: SAN, three_threads: None) -> None:
    """The same to the last bit as one after the other, each in one thread."""
    watched, layout, image = Watched(tiny_san), Layout(150, 201, 64, 0.3), picture(150, 201)
    seen_by = by_windows(Segmenter(tiny_san, proposer=watched), image, layout)
    many = list(seen_by.answer())
    assert watched.most == 3
    assert watched.threads == {1}
    torch.set_num_threads(1)
    kept = {(i, j): seen_by.see((i, j)) for i in range(len(layout.rows)) for j in range(len(layout.columns))}
    torch.set_num_threads(3)
    alone = list(replace(seen_by, kept=kept).answer())
    assert len(many) == len(layout.bands)
    for one, two in zip(many, alone, strict=True):
        np.testing.assert_array_equal(one.label_map, two.label_map)
        np.testing.assert_array_equal(one.confidence, two.confidence)


def test_what_is_kept_is_a_band_of_windows(segmenter: Segmenter) -> None:
    layout = Layout(600, 150, 64, 0.25)
    seen_by = by_windows(segmenter, picture(600, 150), layout)
    kept = [len(seen_by.kept) for _ in seen_by.answer()]
    assert len(layout) == 3 * 12 + 3
    assert max(kept) <= 2 * 3 + 3  # two rows; three where the last is moved inwards


def test_a_later_band_does_not_depend_on_where_one_began(segmenter: Segmenter) -> None:
    layout = Layout(200, 100, 64, 0.25)
    image = picture(200, 100)
    whole = list(by_windows(segmenter, image, layout).answer())
    begun = list(by_windows(segmenter, image, layout).answer(first=whole[3].rows.start))
    assert len(begun) == len(whole) - 3
    for one, two in zip(begun, whole[3:], strict=True):
        assert one.rows == two.rows
        np.testing.assert_array_equal(one.label_map, two.label_map)
        np.testing.assert_array_equal(one.confidence, two.confidence)


class Doubtful:
    """Sees two things in each window, the left one and the right one, and is surer the more of it there is."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def propose(self, image_B3HW: Tensor) -> Proposals:
        """The mean colour of the window decides: windows that overlap contradict each other."""
        side = image_B3HW.shape[-1]
        red = image_B3HW[:, 0].mean((1, 2))
        ramp = torch.linspace(-1, 1, side // 8).expand(len(red), 1, side // 8, side // 8)
        masks = torch.cat([red[:, None, None, None] + ramp, -red[:, None, None, None] - ramp], 1)
        return Proposals(4 * masks, self.rows[:2].expand(len(red), 2, -1))


def test_blending_leaves_no_seam_where_windows_contradict_each_other(tiny_san: SAN) -> None:
    """Grey that turns to red: each window splits what it sees in two. Without overlap, labels step at each seam."""
    words = Vocabulary.of("sky, tree")
    plain = Segmenter(tiny_san)
    segmenter = Segmenter(tiny_san, proposer=Doubtful(plain.classifier(words).weight))
    image = np.zeros((320, 320, 3), dtype=np.uint8)
    image[...] = np.linspace(60, 190, 320, dtype=np.uint8)[:, None, None]
    found = {}
    for overlap in (0, 0.5):
        layout = Layout(320, 320, 64, overlap)
        seen_by = Windows(segmenter, ArrayReader(image), words, layout)
        confidence = np.concatenate([band.confidence for band in seen_by.answer()])
        jump = np.abs(np.diff(confidence, axis=1))
        at = [column.start - 1 for column in layout.columns[1:]]
        found[overlap] = jump[:, at].mean() / np.delete(jump, at, 1).mean()
    assert found[0] > 10  # a line that everyone sees
    assert found[0.5] < 2


def test_agreement_counts_where_neighbours_name_the_same(tiny_san: SAN) -> None:
    words = Vocabulary.of("sky, tree")
    segmenter = Segmenter(tiny_san, proposer=Doubtful(Segmenter(tiny_san).classifier(words).weight))
    image, layout = picture(130, 130), Layout(130, 130, 64, 0.25)
    seen_by = Windows(segmenter, ArrayReader(image), words, layout)
    agreement = seen_by.agreement()
    assert 0 < agreement < 1
    own = {}
    for i, rows in enumerate(layout.rows):
        for j, columns in enumerate(layout.columns):
            own[i, j] = np.full((130, 130), -1)
            own[i, j][rows, columns] = segmenter(image[rows, columns], words, None).label_map
    same = pixels = 0
    for i, j in own:
        for neighbour in ((i - 1, j), (i, j - 1)):
            if neighbour in own:
                both = (own[i, j] >= 0) & (own[neighbour] >= 0)
                pixels += both.sum()
                same += (both & (own[i, j] == own[neighbour])).sum()
    assert agreement == same / pixels
    assert Windows(segmenter, ArrayReader(image), words, Layout(130, 130, 256)).agreement() == 1


def test_steps_are_counted_where_windows_end() -> None:
    layout = Layout(100, 40, 40, 0.5)
    assert layout.rows == (slice(0, 40), slice(20, 60), slice(40, 80), slice(60, 100))
    label_map = np.zeros((100, 40), dtype=np.uint8)
    label_map[40:] = 1
    found = steps(label_map, layout)
    assert found.elsewhere == 0
    assert found.at_seams == pytest.approx(1 / 4)  # of the lines at 20, 40, 60, 80
    with pytest.raises(ValueError, match="the label map is 40x99, the windows cover 40x100"):
        steps(label_map[1:], layout)
    with pytest.raises(ValueError, match="there are no seams"):
        steps(label_map, Layout(100, 40, 128))


def test_what_the_picture_does_not_know_is_unknown_and_hardly_matters(
    segmenter: Segmenter, tiny_san: SAN
) -> None:
    image = np.maximum(picture(150, 150), 1)
    image[:, 60:] = 0  # the windows at the right know nothing at all
    image[:20, :30] = 0
    words, layout = segmenter.resolve(WORDS), Layout(150, 150, 64, 0.25)
    shown: list[float] = []
    propose = tiny_san.propose

    def looked(image_B3HW: Tensor) -> Proposals:
        shown.append(float(image_B3HW.abs().max()))
        return propose(image_B3HW)

    tiny_san.propose = looked  # type: ignore[method-assign]
    progress: list[int] = []
    bands = list(Windows(segmenter, Holes(image), words, layout).answer(progress=progress.append))
    ids = np.concatenate([band.label_map for band in bands])
    confidence = np.concatenate([band.confidence for band in bands])
    np.testing.assert_array_equal(ids == 255, ~image.any(2))
    assert (confidence[ids == 255] == 0).all()
    assert (confidence[ids != 255] > 0).all()
    assert sum(progress) == len(layout)
    assert len(shown) < len(layout)
    # Black would be -1.8 standard deviations from the mean; unknown pixels are shown as the mean.
    corner = Windows(segmenter, Holes(image), words, layout).reader.read(slice(0, 20), slice(0, 30))[0]
    assert not corner.any()
    filled = np.where(image.any(2)[..., None], image, np.round(255 * np.array(tiny_san.config.mean)))
    first = Windows(segmenter, ArrayReader(filled.astype(np.uint8)), words, layout).see((0, 0))
    same = Windows(segmenter, Holes(image), words, layout).see((0, 0))
    assert first is not None
    assert same is not None
    torch.testing.assert_close(first.mask_logits, same.mask_logits, rtol=0, atol=0)


def test_windows_that_cannot_be_are_refused(segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match="windows of 8 pixels: wanted at least 32"):
        Layout(100, 100, 8)
    for overlap in (-0.1, 0.6, float("nan")):
        with pytest.raises(ValueError, match="an overlap of"):
            Layout(100, 100, 64, overlap)


def test_a_network_that_fails_says_what_helps(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Tensor) -> Proposals:
        raise RuntimeError("out of memory\nlong story")

    monkeypatch.setattr(segmenter.proposer, "propose", full)
    with pytest.raises(ValueError, match=r"\(out of memory\): use smaller windows"):
        segment_by_windows(segmenter, picture(64, 64), WORDS)
    assert windows.SIZE == 1024
