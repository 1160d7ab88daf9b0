"""A Segmenter answers the same however it is asked: alone or in a batch, at once or word by word."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sanseg
from sanseg import segmenter as segmenter_module
from sanseg.images import prepare
from sanseg.labelmap import label_map
from sanseg.model.san import SAN, Proposals
from sanseg.model.weights import save_san
from sanseg.segmentation import Segmentation
from sanseg.segmenter import Failure, Segmenter
from sanseg.views import MultiView
from sanseg.vocabulary import Vocabulary

WORDS = "sky, tree | woods, cat"


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def assert_same(one: Segmentation, two: Segmentation) -> None:
    """Equal to rounding: what batches change, and where the best two are that close."""
    np.testing.assert_allclose(one.confidence, two.confidence, atol=1e-4)
    assert (one.label_map != two.label_map).mean() < 0.005
    assert one.vocabulary == two.vocabulary


def results(answers: Iterator[Segmentation | Failure]) -> list[Segmentation]:
    found = list(answers)
    assert all(isinstance(answer, Segmentation) for answer in found), found
    return found  # type: ignore[return-value]


def test_the_answer_is_the_formula_on_the_networks_proposals(segmenter: Segmenter, tiny_san: SAN) -> None:
    image = picture(50, 70)
    answer = segmenter(image, WORDS, other=None)
    prepared, geometry = prepare(image, tiny_san.config)
    with torch.inference_mode():
        proposals = tiny_san.propose(prepared[None])
        classifier = segmenter.classifier(Vocabulary.of(WORDS))
        probabilities = classifier.probabilities(proposals.embeddings[0])
        ids, confidence = label_map(proposals.mask_logits[0], probabilities, range(3), geometry)
    np.testing.assert_array_equal(answer.label_map, ids)
    np.testing.assert_array_equal(answer.confidence, confidence)
    np.testing.assert_array_equal(answer.image, image)
    assert answer.labels == ("sky", "tree", "cat")
    assert (answer.model, answer.templates) == ("tiny", "vild")


def test_a_second_question_does_not_look_again(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(50, 70)
    alone = [segmenter(image, words) for words in (WORDS, "dog", ["a, b", "c"])]
    encoded = segmenter.encode(image)

    def looked(_: Tensor) -> Proposals:
        raise AssertionError("the picture went through the network again")

    monkeypatch.setattr(segmenter.proposer, "propose", looked)
    for before, words in zip(alone, (WORDS, "dog", ["a, b", "c"]), strict=True):
        again = encoded.segment(words)
        np.testing.assert_array_equal(again.label_map, before.label_map)
        np.testing.assert_array_equal(again.confidence, before.confidence)
        assert again.vocabulary == before.vocabulary


def test_batched_equals_single_for_pictures_of_all_sizes(segmenter: Segmenter, tiny_san: SAN) -> None:
    sizes = [(50, 70), (70, 50), (64, 64), (50, 70), (1, 300), (51, 70), (64, 65)]
    images = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    shapes: list[tuple[int, ...]] = []
    propose = tiny_san.propose

    def counted(image_B3HW: Tensor) -> Proposals:
        shapes.append(tuple(image_B3HW.shape))
        return propose(image_B3HW)

    tiny_san.propose = counted  # type: ignore[method-assign]
    together = segmenter.encode_batch(images)
    # One pass for each padded size: the short side becomes 64, and widths of 65, 88 and 90 are padded to 96.
    assert sorted(shapes) == [(1, 3, 32, 256), (1, 3, 64, 64), (1, 3, 96, 64), (4, 3, 64, 96)]
    for encoded, image in zip(together, images, strict=True):
        np.testing.assert_array_equal(encoded.image, image)
        assert_same(encoded.segment(WORDS), segmenter(image, WORDS))
    assert segmenter.encode_batch([]) == []


def test_words_of_your_own_and_none_compete_as_told(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(picture(50, 70))
    auto, none = encoded.segment("cat"), encoded.segment("cat", other=None)
    own = encoded.segment("cat", other=["sofa", "wall"])
    assert len(auto.vocabulary.other) > 30
    assert "animal" not in auto.vocabulary.other
    assert none.vocabulary.other == ()
    assert (none.label_map == 0).all()
    np.testing.assert_allclose(none.confidence, 1, atol=1e-5)
    assert own.vocabulary.other == ("sofa", "wall")
    assert set(np.unique(own.label_map)) <= {0, 254}
    assert (own.confidence < 0.99).all()  # distractors count in the total
    # A distractor wins where it would win as a label.
    labels = encoded.segment("cat, sofa, wall", other=None)
    np.testing.assert_array_equal(own.label_map == 0, labels.label_map == 0)
    np.testing.assert_allclose(own.confidence, labels.confidence, atol=1e-5)


def test_a_vocabulary_keeps_its_own_rivals(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(picture(50, 70))
    own = Vocabulary.of("cat").with_other(["sofa"])
    assert encoded.segment(own).vocabulary == own
    assert encoded.segment(own, other=None).vocabulary.other == ()
    assert encoded.segment(own, other="wall").vocabulary.other == ("wall",)


def test_permuted_words_permute_the_answer(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(picture(50, 70))
    words = ["sky", "tree", "cat", "dog"]
    plain = encoded.segment(words, other=None)
    turned = encoded.segment(words[::-1], other=None)
    np.testing.assert_array_equal(plain.label_map, 3 - turned.label_map)


def test_synonyms_are_the_mean_of_their_embeddings(segmenter: Segmenter) -> None:
    with torch.inference_mode():
        rows = segmenter.classifier(Vocabulary.of("sky, tree | woods")).weight
        each = segmenter.classifier(Vocabulary.of("sky, tree, woods")).weight
        torch.testing.assert_close(rows[0], each[0])
        torch.testing.assert_close(rows[1], torch.nn.functional.normalize(each[1] + each[2], dim=0))
        assert rows.shape == (3, 24)
        torch.testing.assert_close(rows[2], each[3])  # "nothing"


def test_synonyms_may_be_rows_of_their_own(segmenter: Segmenter) -> None:
    """The best name of a label counts: the row of each is the one it has as a label."""
    best = Vocabulary((("tree", "woods"), ("cat",)), ("wall",), synonyms="best")
    classifier = segmenter.classifier(best)
    assert classifier.row_label == (0, 0, 1, -1)
    apart = segmenter.classifier(Vocabulary.of("tree, woods, cat, wall"))
    torch.testing.assert_close(classifier.weight, apart.weight)
    answer = segmenter(picture(50, 70), best)
    rows = segmenter(picture(50, 70), "tree, woods, cat, wall", other=None).label_map
    np.testing.assert_array_equal(answer.label_map, np.array([0, 0, 1, 254], np.uint8)[rows])
    assert answer.labels == ("tree", "cat")


def test_labels_that_training_did_not_know_score_more(tiny_san: SAN) -> None:
    plain = Segmenter(tiny_san).classifier(Vocabulary.of(WORDS))
    tiny_san.config = replace(tiny_san.config, novelty=2.0)
    assert Segmenter(tiny_san).classifier(Vocabulary.of(WORDS)).bonus == (), "it is not known what is new"
    tiny_san.labels = ("SKY", "woods")
    words = replace(Vocabulary.of(WORDS + " | dog"), other=("grass",), synonyms="best")
    more = Segmenter(tiny_san).classifier(Vocabulary.of(WORDS))
    assert Segmenter(tiny_san).classifier(words).bonus == (0, 0, 0, 2, 2, 0, 0), "rivals and nothing get none"
    region = torch.nn.functional.normalize(torch.randn(5, 24), dim=1)
    torch.testing.assert_close(more.logits(region) - plain.logits(region), torch.tensor([[0.0, 0, 2, 0]] * 5))


def test_what_the_stem_sees_speaks_for_words(tiny_seeing_san: SAN) -> None:
    san, words = tiny_seeing_san, replace(Vocabulary.of(WORDS), other=("grass",))
    plain = Segmenter(san).classifier(words)
    assert plain.evidence is None, "it has no weight"
    san.config = replace(san.config, evidence=7.0)
    san.clip.visual.guess.kinds.data[:2] = plain.weight[:2]
    telling = Segmenter(san).classifier(words)
    shares = san.clip.visual.guess.evidence(plain.weight[:-1])
    torch.testing.assert_close(telling.evidence[:, :-1], 7 * shares)
    assert not telling.evidence[:, -1].any(), "nothing gets none"
    encoded = Segmenter(san).encode(picture(50, 70))
    assert encoded.proposals.seen is not None
    found = Segmenter(san).answer(encoded, words, proposals=True).queries.probabilities
    torch.testing.assert_close(found, telling.probabilities(*encoded.proposals.regions()))
    assert not torch.allclose(found, plain.probabilities(*encoded.proposals.regions()), atol=3e-3)


def test_templates_of_a_vocabulary_are_used(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(picture(50, 70))
    words = Vocabulary.of(WORDS)
    plain = encoded.segment(replace(words, templates="plain"))
    assert plain.templates == "plain"
    assert np.abs(plain.confidence - encoded.segment(words).confidence).max() > 1e-6
    with pytest.raises(ValueError, match="vild, plain, imagenet80"):
        encoded.segment(replace(words, templates="poem"))


def test_one_and_two_thousand_labels(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(picture(20, 30))
    assert encoded.segment("cat").label_map.dtype == np.uint8
    names = [f"thing {number}" for number in range(2000)]
    many = encoded.segment(replace(Vocabulary.of(names), templates="plain"))
    assert many.label_map.dtype == np.uint16
    assert many.label_map.max() < 2000


def test_words_are_embedded_once(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded_names: list[int] = []
    words = Vocabulary.of(WORDS)
    segmenter.classifier(words, encoded_names.append)
    assert sum(encoded_names) == 4
    segmenter.classifier(words, encoded_names.append)
    segmenter.classifier(Vocabulary.of("cat, woods"), encoded_names.append)
    assert sum(encoded_names) == 4
    assert segmenter.classifier(words) is segmenter.classifier(Vocabulary.of(WORDS))


def test_classifiers_kept_are_bounded(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter_module, "CACHED_ROWS", 4)
    first, second = Vocabulary.of("a, b"), Vocabulary.of("c, d")
    kept = segmenter.classifier(first), segmenter.classifier(second)
    assert segmenter.classifier(first) is kept[0]
    segmenter.classifier(Vocabulary.of("e"))  # the oldest used, `second`, gives way
    assert segmenter.classifier(first) is kept[0]
    assert segmenter.classifier(second) is not kept[1]
    assert len(segmenter.classifier(Vocabulary.of("a, b, c, d, e")).row_label) == 5  # too many to keep


def test_proposals_come_on_request(segmenter: Segmenter) -> None:
    image = picture(50, 70)
    assert segmenter(image, WORDS).queries is None
    queries = segmenter(image, WORDS, proposals=True).queries
    assert queries is not None
    assert queries.mask_logits.shape[0] == 7
    assert queries.embeddings.shape == (7, 24)
    many = results(segmenter.segment_many([image, image], WORDS, proposals=True))
    assert all(answer.queries is not None for answer in many)
    encoded = segmenter.encode_batch([image, image])[1]
    assert (
        encoded.proposals.mask_logits.untyped_storage().nbytes() == 4 * encoded.proposals.mask_logits.numel()
    )


def test_any_proposer_takes_the_seam(tiny_san: SAN) -> None:
    """Two regions, left and right, that look like the first and the second word."""
    words = Vocabulary.of("sky, tree")
    rows = Segmenter(tiny_san).classifier(words).weight

    class Halves:
        def propose(self, image_B3HW: Tensor) -> Proposals:
            masks = torch.full((len(image_B3HW), 2, 1, 2), -9.0)
            masks[:, 0, 0, 0] = masks[:, 1, 0, 1] = 9.0
            return Proposals(masks, rows[:2].expand(len(image_B3HW), 2, -1))

    encoded = Segmenter(tiny_san, proposer=Halves()).encode(picture(64, 128))
    answer = encoded.segment(words, other=None)
    assert (answer.label_map[:, :60] == 0).all()
    assert (answer.label_map[:, 68:] == 1).all()
    rivals = encoded.segment("sky", other=["wall", "tree"])
    assert (rivals.label_map[:, :60] == 0).all()
    assert (rivals.label_map[:, 68:] == rivals.other_id).all()


def test_a_segmenter_never_trains(tiny_san: SAN) -> None:
    segmenter = Segmenter(tiny_san.train())
    assert not tiny_san.training
    encoded = segmenter.encode(picture(50, 70))
    assert not encoded.proposals.mask_logits.requires_grad
    assert not encoded.proposals.embeddings.requires_grad
    assert not segmenter.classifier(Vocabulary.of(WORDS)).weight.requires_grad


def test_both_ways_of_resizing_by_name(tiny_san: SAN) -> None:
    image = picture(43, 61)
    evaluation, demo = (Segmenter(tiny_san, resize=how).encode(image) for how in ("evaluation", "demo"))
    assert evaluation.geometry.content == (64, 91)
    assert demo.geometry.content == (64, 90)
    assert Segmenter(tiny_san).encode(image).geometry == evaluation.geometry
    with pytest.raises(ValueError, match="evaluation, demo"):
        Segmenter(tiny_san, resize="tiles")


def test_threads_share_a_segmenter(segmenter: Segmenter) -> None:
    images = [picture(40, 60, seed) for seed in range(4)]
    alone = [segmenter(image, f"cat, thing {number}") for number, image in enumerate(images)]
    found: dict[int, Segmentation] = {}

    def ask(number: int) -> None:
        found[number] = segmenter(images[number], f"cat, thing {number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_array_equal(found[number].label_map, alone[number].label_map)


def test_a_model_is_loaded_by_path_and_its_words_kept_on_disk(
    tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANSEG_CACHE", str(tmp_path / "cache"))
    save_san(tmp_path / "tiny.safetensors", tiny_san)
    loaded = sanseg.load(tmp_path / "tiny.safetensors", "cpu", resize="demo")
    assert isinstance(loaded, Segmenter)
    assert loaded.device == torch.device("cpu")
    assert loaded.resize == "demo"
    image = picture(50, 70)
    answer = loaded(image, WORDS)
    np.testing.assert_array_equal(
        answer.label_map, Segmenter(tiny_san, resize="demo")(image, WORDS).label_map
    )
    assert (tmp_path / "cache" / "text.sqlite").is_file()
    again: list[int] = []
    sanseg.load(tmp_path / "tiny.safetensors", "cpu").classifier(answer.vocabulary, again.append)
    assert again == []


def test_a_model_is_loaded_onto_the_device(
    tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_san(tmp_path / "tiny.safetensors", tiny_san)
    monkeypatch.setattr(segmenter_module, "find_device", {"auto": torch.device("meta")}.__getitem__)
    assert sanseg.load(tmp_path / "tiny.safetensors").device == torch.device("meta")


def test_half_precision_is_close(tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANSEG_CACHE", str(tmp_path / "cache"))
    path, image = tmp_path / "tiny.safetensors", picture(50, 70)
    save_san(path, tiny_san)
    half = sanseg.load(path, "cpu", dtype=torch.bfloat16).encode(image)
    assert half.proposals.mask_logits.dtype == torch.bfloat16
    full = Segmenter(tiny_san).encode(image)
    difference = half.segment(WORDS).confidence - full.segment(WORDS).confidence
    assert 0 < np.abs(difference).max() < 0.1
    words = full.segmenter.embed(WORDS)
    assert half.segmenter.answer(half, words).vocabulary == words, "words are float32 in both, and shared"


def test_negative_words_win_as_other_do(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(picture(50, 70))
    negative = encoded.segment("cat, not sofa, not wall", other=None)
    other = encoded.segment("cat", other=["sofa", "wall"])
    np.testing.assert_array_equal(negative.label_map, other.label_map)
    np.testing.assert_array_equal(negative.confidence, other.confidence)
    assert negative.vocabulary.other == ()
    assert segmenter.classifier(Vocabulary.of("cat, not a").with_other("b")).row_label == (0, -1, -1)


def test_thresholds_and_temperature_of_the_words_are_used(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(picture(50, 70))
    words = Vocabulary.of(WORDS)
    plain = encoded.segment(words, other=None)
    warm = encoded.segment(replace(words, temperature=3.0), other=None)
    np.testing.assert_array_equal(warm.label_map, plain.label_map)
    assert warm.confidence.mean() < plain.confidence.mean()
    least = float(np.median(plain.confidence))
    cut = encoded.segment(words.with_thresholds(least), other=None)
    low = plain.confidence < np.float32(least)
    np.testing.assert_array_equal(cut.label_map, np.where(low, 254, plain.label_map))
    for view in (MultiView(segmenter), segmenter):
        seen = view(picture(50, 70), replace(words.with_thresholds(least), temperature=3.0), other=None)
        assert (seen.label_map == 254).mean() > low.mean()


def test_prompts_of_your_own(segmenter: Segmenter) -> None:
    words = Vocabulary.of("cat, dog")
    asked = {
        templates: segmenter.classifier(replace(words, templates=templates)).weight
        for templates in ("plain", "imagenet80", "{}", "a drawing of {}\nno {}", "a drawing of {}")
    }
    torch.testing.assert_close(asked["{}"], asked["plain"])
    for one, two in combinations([name for name in asked if name != "{}"], 2):
        assert (asked[one] - asked[two]).abs().max() > 1e-4, (one, two)


def test_embedded_words_need_no_text_tower(
    segmenter: Segmenter, tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = replace(Vocabulary.of("sky, tree | woods, not sea"), synonyms="best", temperature=2.0)
    image = picture(50, 70)
    answer = segmenter(image, words)
    segmenter.embed(words).save(tmp_path / "words.safetensors")
    read = Vocabulary.from_file(tmp_path / "words.safetensors")
    fresh = Segmenter(tiny_san)

    def ran(*_: object) -> Tensor:
        raise AssertionError("the text tower ran")

    monkeypatch.setattr(type(tiny_san.clip.text), "forward", ran)
    again = fresh(image, read)
    np.testing.assert_array_equal(again.label_map, answer.label_map)
    np.testing.assert_array_equal(again.confidence, answer.confidence)
    assert again.vocabulary_hash == answer.vocabulary_hash
    assert fresh.embed(read) == read
    with pytest.raises(AssertionError, match="text tower ran"):  # words that it does not bring along
        fresh(image, read, other="zorgblatt")
    with pytest.raises(AssertionError, match="text tower ran"):  # nor are they of these prompts
        fresh(image, replace(read, templates="plain"))
    with pytest.raises(
        AssertionError, match="text tower ran"
    ):  # whoever asks the bare words gets the model's own
        fresh(image, replace(read, embeddings=None))


def test_embeddings_that_no_text_tower_made_are_refused(segmenter: Segmenter) -> None:
    """A file may call itself whatever it likes."""
    words = segmenter.embed("sky, tree")
    known = words.embeddings
    assert known is not None
    rows = np.full((len(known.names), 4), 0.5, dtype=np.float32)
    with pytest.raises(ValueError, match="have 4 numbers, and this model's 24: embed the words again"):
        segmenter.classifier(replace(words, embeddings=replace(known, rows=rows)))


def test_embeddings_of_another_model_are_refused(segmenter: Segmenter, tiny_san: SAN) -> None:
    words = segmenter.embed("sky, tree")
    with torch.no_grad():
        tiny_san.clip.text.projection.mul_(2)
    with pytest.raises(ValueError, match=r"are of the model tiny .* and this is tiny .* embed them again"):
        Segmenter(tiny_san)(picture(50, 70), words)
