"""What `sanseg bench` measures is what the network does: products, stages, answers. No test asks for a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sanseg.benchmark import Case, Measured, Report, Stage, Times, case, measure, memory, products, road
from sanseg.benchmark.memory import photo_bytes
from sanseg.benchmark.products import Bound, Operand, Product, Recorder, dense_label_map, flop, record
from sanseg.benchmark.rounds import Subject
from sanseg.labelmap import label_map
from sanseg.model import weights
from sanseg.model.config import SANConfig
from sanseg.model.san import SAN
from sanseg.model.text import Classifier, TextEncoder
from sanseg.model.text_cache import TextCache
from sanseg.model.transformer import Block
from sanseg.segmenter import Segmenter
from tests.conftest import TINY, make_san

CPU = torch.device("cpu")
TINY_STEM = replace(
    TINY,
    clip=replace(TINY.clip, vision=replace(TINY.clip.vision, stem="efficientnet-lite0", classes=10)),
    side=replace(TINY.side, mask_stride=8),
    clip_scale=1.0,
)
CASE = Case(TINY, (48, 80), 9, "cpu")


@pytest.fixture(params=[TINY, TINY_STEM], ids=["patches", "stem"])
def config(request: pytest.FixtureRequest) -> SANConfig:
    found: SANConfig = request.param
    return found


def nothing(stage: str) -> nullcontext[None]:
    return nullcontext()


def test_products_of_a_small_network_are_those_counted_by_hand() -> None:
    convolution, block = nn.Conv2d(3, 8, 4, 4), Block(8, 2, eps=1e-5, quick_gelu=True)
    with torch.no_grad(), Recorder() as recorder:
        tokens_BLD = convolution(torch.randn(1, 3, 8, 12)).flatten(2).mT
        block(tokens_BLD)
    tokens, width, heads, head = 6, 8, 2, 4
    linear = tokens * width * (3 * width + width + 4 * width + 4 * width)
    attention = heads * 2 * tokens * tokens * head
    assert flop(recorder.products) == 2 * (tokens * 8 * 3 * 4 * 4 + linear + attention)
    shapes = Counter({(one.left.shape, one.right.shape): times for one, times in recorder.products.items()})
    assert shapes == {
        ((1, 3, 8, 12), (8, 3, 4, 4)): 1,
        ((6, 8), (8, 24)): 1,
        ((2, 6, 4), (2, 4, 6)): 1,
        ((2, 6, 6), (2, 6, 4)): 1,
        ((6, 8), (8, 8)): 1,
        ((6, 8), (8, 32)): 1,
        ((6, 32), (32, 8)): 1,
    }


def test_a_grouped_convolution_counts_its_own_channels_only() -> None:
    with torch.no_grad(), Recorder() as recorder:
        nn.Conv2d(6, 6, 3, groups=6)(torch.randn(2, 6, 5, 7))
    assert flop(recorder.products) == 2 * (2 * 6 * 3 * 5) * 9


def test_a_product_that_is_not_known_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(products.READ, "aten::bmm")
    with pytest.raises(AssertionError, match="aten::bmm has products"), Recorder():
        torch.bmm(torch.randn(2, 3, 4), torch.randn(2, 4, 5))
    with pytest.raises(AssertionError, match="aten::linear hides"), torch.inference_mode(), Recorder():
        nn.Linear(3, 4)(torch.randn(2, 3))


def test_the_stages_add_up_to_the_whole(config: SANConfig) -> None:
    """To what torch's own counter finds, in the network and the classifier, and a dense label map."""
    san, words = make_san(config), CASE.words()
    segmenter = Segmenter(san)
    with sdpa_kernel(SDPBackend.MATH):  # which torch's counter knows on a CPU in every version
        by_stage = {
            stage: flop(some) for stage, some in record(segmenter, CASE.photo(), CASE.words()).items()
        }
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            proposals = san.propose(segmenter.read(CASE.photo()).prepared[None])
            segmenter.classifier(words).probabilities(proposals.embeddings[0])
    assert list(by_stage) == list(road.STAGES)
    assert by_stage["label map"] == 2 * 48 * 80 * 9 * config.side.queries
    assert sum(by_stage.values()) - by_stage["label map"] == counter.get_total_flops()
    assert [stage for stage, found in by_stage.items() if not found] == ["prepare"]


def test_fused_attention_counts_as_its_two_products(config: SANConfig) -> None:
    segmenter = Segmenter(make_san(config))
    fused = record(segmenter, CASE.photo(), CASE.words())
    with sdpa_kernel(SDPBackend.MATH):
        explicit = record(segmenter, CASE.photo(), CASE.words())
    assert {stage: flop(some) for stage, some in fused.items()} == {
        stage: flop(some) for stage, some in explicit.items()
    }


def backward_of(work: nn.Module, x: Tensor, *, frozen: bool = False, onward: bool = True) -> Counter[Any]:
    """The products of the way back alone. frozen: weights want no gradient; onward: the input does."""
    out = work.requires_grad_(not frozen)(x.requires_grad_(onward))
    with Recorder() as recorder:
        out.sum().backward()
    return recorder.products


def test_what_comes_back_through_a_product_is_as_much_as_wants_a_gradient() -> None:
    cases: list[tuple[nn.Module, Tensor, int]] = [
        (nn.Linear(8, 24), torch.randn(5, 8), 2 * 5 * 8 * 24),
        (nn.Conv2d(3, 8, 4, 4), torch.randn(2, 3, 8, 12), 2 * (2 * 8 * 2 * 3) * (3 * 16)),
        (nn.Conv2d(6, 6, 3, groups=6), torch.randn(2, 6, 5, 7), 2 * (2 * 6 * 3 * 5) * 9),
    ]
    for work, x, forward in cases:
        assert flop(backward_of(work, x)) == 2 * forward
        assert flop(backward_of(work, x, frozen=True)) == forward
        assert flop(backward_of(work, x, onward=False)) == forward


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_training_has_the_products_that_torch_counts(config: SANConfig, fused: bool) -> None:
    """By the plain way, all of which torch's counter knows; fused attention has the same."""

    def step(san: SAN) -> None:
        for reading in san.readings(torch.randn(2, 3, 64, 96)):
            (reading.mask_logits.sum() + reading.embeddings.sum()).backward(retain_graph=True)

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step(make_san(config))
    with nullcontext() if fused else sdpa_kernel(SDPBackend.MATH), Recorder() as recorder:
        step(make_san(config))
    assert flop(recorder.products) == counter.get_total_flops()
    kernels = {one for one in recorder.products if getattr(one, "wanted", None)}
    assert kernels, "patches are trained"


def test_gradients_are_replayed_as_they_were() -> None:
    block = Block(8, 2, eps=1e-5, quick_gelu=True)
    found = [
        *backward_of(block, torch.randn(2, 6, 8)),
        *backward_of(nn.Conv2d(3, 8, 4, 4), torch.randn(2, 3, 8, 12)),
    ]
    assert len(found) > 8
    for work in found:
        out = work.replay(CPU)()
        if isinstance(work, Product):
            assert out.shape == work.out
        else:
            assert [one if one is None else one.shape for one in out] == [(2, 3, 8, 12), (8, 3, 4, 4), None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_replayed_as_they_were(config: SANConfig, dtype: torch.dtype) -> None:
    recorded = record(Segmenter(make_san(config).to(dtype)), CASE.photo(), CASE.words())
    found = {product for some in recorded.values() for product in some}
    for product in found:
        for operand in (product.left, product.right):
            assert Operand.of(operand.make(CPU)) == operand
        out = product.replay(CPU)()
        assert isinstance(out, Tensor)
        assert out.shape == product.out
        assert out.dtype == product.left.dtype
    for stage in ("CLIP shallow", "side adapter", "recognition"):
        assert {product.left.dtype for product in recorded[stage]} == {dtype}
    for stage in ("classifier", "label map"):
        assert {product.left.dtype for product in recorded[stage]} == {torch.float32}


def test_the_bound_computes_each_product_as_often_as_the_road_does(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: Counter[Product] = Counter()

    def replay(self: Product, device: torch.device) -> Any:
        return lambda: computed.update([self])

    monkeypatch.setattr(Product, "replay", replay)
    recorded = record(Segmenter(make_san(TINY)), CASE.photo(), CASE.words())
    times = Bound(recorded, CPU).time()
    assert list(times) == list(road.STAGES)
    assert computed == sum(recorded.values(), Counter())
    assert max(computed.values()) > 1


@pytest.mark.parametrize("pixels", [1, 100, 128, 130])
def test_the_label_map_is_one_dense_product_in_pieces(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(products.PIECE_FLOATS, "cpu", 640)
    pieces = dense_label_map(queries=7, rows=10, pixels=pixels, device=CPU)
    assert sum(piece.out[0] * times for piece, times in pieces.items()) == pixels
    assert all(prod(piece.out) <= 640 for piece in pieces)
    assert flop(pieces) == 2 * pixels * 7 * 10


@pytest.mark.parametrize("random", [True, False], ids=["random", "own weights"])
def test_the_stages_give_what_the_segmenter_gives(config: SANConfig, random: bool) -> None:
    segmenter = Segmenter(make_san(config))
    if random:
        segmenter = replace(CASE, model=config).segmenter(segmenter.san, TextCache(None))
    passed: list[str] = []

    def around(stage: str) -> nullcontext[None]:
        passed.append(stage)
        return nullcontext()

    with torch.inference_mode():
        ids, confidence = road.walk(segmenter, CASE.photo(), CASE.words(), around)
    whole = segmenter(CASE.photo(), CASE.words(), None)
    np.testing.assert_array_equal(ids, whole.label_map)
    np.testing.assert_array_equal(confidence, whole.confidence)
    assert passed == list(road.STAGES)


def test_stages_that_give_something_else_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(CASE, torch.float32, tmp_path / "text.sqlite", rounds=1, with_plain=False)
    subject.get_ready()
    monkeypatch.setattr("sanseg.benchmark.rounds.walk", lambda *args: road.walk(*args, road.plain_label_map))
    with pytest.raises(AssertionError):  # the confidence differs, by rounding
        subject.get_ready()


@pytest.mark.parametrize("at_once", [1, 4, 9], ids="{} labels at once".format)
def test_the_plain_label_map_is_the_same(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(road, "PLAIN_FLOATS", at_once * 48 * 80)
    segmenter = CASE.segmenter(make_san(TINY), TextCache(None))
    encoded = segmenter.encode(CASE.photo())
    probabilities_QR = segmenter.classifier(CASE.words()).probabilities(encoded.proposals.embeddings[0])
    arguments = (encoded.proposals.mask_logits[0], probabilities_QR, range(9), encoded.geometry)
    ids, confidence = road.plain_label_map(*arguments)
    expected_ids, expected_confidence = label_map(*arguments)
    assert len(np.unique(ids)) > 1
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(confidence, expected_confidence, rtol=1e-4)


def test_the_plain_road_computes_attention_as_it_is_written(tiny_san: SAN) -> None:
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names[func._schema.name] += 1
            return func(*args, **kwargs or {})

    segmenter, counts = Segmenter(tiny_san), []
    segmenter.classifier(CASE.words())
    for way in (road.walk, road.plain):
        names: Counter[str] = Counter()
        with torch.no_grad(), Names():
            way(segmenter, CASE.photo(), CASE.words(), nothing)
        counts.append({name: times for name, times in names.items() if "dot_product" in name})
    assert sum(counts[0].values()) == 3 + 4 + 1  # CLIP's blocks, the side adapter's, and recognition's last
    assert counts[1] == {}


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one = CASE.network(torch.float32)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    other = CASE.network(torch.bfloat16)
    for name, tensor in other.state_dict().items():
        assert torch.equal(one.state_dict()[name].to(tensor.dtype), tensor)
    # As networks that are loaded: see `checkpoint.precision`.
    assert other.clip.text.projection.dtype is torch.float32
    assert other.nothing.dtype is torch.bfloat16


def test_random_weights_do_their_work_and_answer_plausibly(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = CASE.segmenter(CASE.network(torch.bfloat16), TextCache(None))
    asked: list[Tensor] = []
    propose = SAN.propose
    monkeypatch.setattr(SAN, "propose", lambda self, image: asked.append(image) or propose(self, image))
    proposals = segmenter.encode(CASE.photo()).proposals
    assert len(asked) == 1
    with torch.inference_mode():
        own = propose(segmenter.san, asked[0])
    for given, meant in ((proposals.mask_logits, own.mask_logits), (proposals.embeddings, own.embeddings)):
        assert given.shape == meant.shape
        assert given.dtype == torch.bfloat16
    assert len(np.unique(segmenter(CASE.photo(), CASE.words(), None).label_map)) > 3


def test_plausible_answers_are_for_any_words() -> None:
    for rows in (1, 2, 40):
        weight = torch.nn.functional.normalize(torch.randn(rows + 1, 24), dim=-1)
        classifier = Classifier(weight, 100.0, tuple(range(rows)))
        proposals = case.plausible(7, (4, 6), classifier, torch.float32)
        probabilities_QR = classifier.probabilities(proposals.embeddings[0])
        assert probabilities_QR.isfinite().all()
        assert (probabilities_QR.amax(1) > 2 / (rows + 1)).all() or rows <= 2


def test_vocabularies_differ_by_a_word_and_never_end() -> None:
    for labels in (1, 9, 171, 400):
        many = Case(TINY, (8, 8), labels, "cpu")
        first, second = many.words(0), many.words(1)
        assert len(first.labels) == len(second.labels) == labels
        assert first.labels[1:] == second.labels[:-1]
        assert second.labels[-1] not in first.labels
    assert case.vocabulary(171, 172).labels == ("person 2",)


def test_a_new_vocabulary_is_new_and_its_words_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(CASE, labels=2)  # fewer than rounds
    subject = Subject(few, torch.float32, tmp_path / "text.sqlite", rounds=4, with_plain=False)
    subject.get_ready()
    encoded: list[object] = []
    built: list[object] = []
    build = Segmenter._build
    monkeypatch.setattr(TextEncoder, "_encode", lambda self, names, templates: encoded.append(names))
    monkeypatch.setattr(
        Segmenter, "_build", lambda self, words, told: built.append(words) or build(self, words, told)
    )
    for number in range(1, 5):
        subject.round(number)
    assert not encoded
    assert built == [few.words(number) for number in range(1, 5)]


def test_the_photo_has_the_size_asked_for(tmp_path: Path) -> None:
    assert CASE.photo().shape == (48, 80, 3)
    assert (CASE.photo() == CASE.photo()).all()
    with pytest.raises(ValueError, match="0x80 pixels and 9 labels: give at least 1"):
        replace(CASE, size=(0, 80))


def times(*ms: float) -> Times:
    return Times(ms)


def test_figures_follow_from_the_rounds() -> None:
    stage = Stage(times(4, 6, 5), times(2, 3, 2), gflop=1.5, products=3)
    assert times(8, 60, 9).over(times(2, 20, 3)) == 3  # of each round: the second was slow for both
    empty = Stage(times(1, 1, 1), times(0, 0, 0), gflop=0, products=0)
    assert stage.ratio == 2
    assert empty.ratio is None
    slow = Measured(
        {"prepare": empty, "side adapter": stage},
        whole=times(10, 30, 20),
        bound=times(5, 5, 5),
        plain=times(40, 40, 40),
        agreement=0.5,
        vocabulary=times(1, 2, 3),
        text_first=7,
        text_cached=3,
        memory=1_000,
        plain_memory=2_000,
    )
    fast = replace(slow, whole=times(8, 8, 8), plain=None, agreement=None, plain_memory=None)
    report = Report(CASE, "tiny", (64, 128), 10, 5, {"float32": slow, "bfloat16": fast}, {"threads": 1})
    written = report.to_dict()
    assert written["random_weights"] is True
    assert written["dtypes"]["bfloat16"]["times_as_fast_as_float32"] == 2.5
    assert written["dtypes"]["bfloat16"]["plain_ms"] is None
    found = written["dtypes"]["float32"]
    assert found["whole_ms"] == {"median": 20, "p10": 12, "p90": 28, "rounds": [10, 30, 20]}
    assert (found["whole_to_bound"], found["plain_to_whole"], found["vocabulary_to_whole"]) == (4, 2, 0.1)
    assert found["gflop"] == 1.5
    assert found["stages"]["side adapter"]["share"] == 5 / 6
    assert found["stages"]["prepare"]["ratio"] is None
    assert replace(report, dtypes={"bfloat16": fast}).faster("bfloat16") is None


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Path]:
    weights.save_san(tmp_path / "tiny.safetensors", make_san(TINY))
    return tmp_path / "tiny.safetensors"


def test_memory_is_of_one_photo_alone(tmp_path: Path) -> None:
    """Measured in a process of its own: at least what the label map is made of, not what the process is."""
    large = replace(CASE, size=(1_500, 2_000))
    found = photo_bytes(large, torch.float32, tmp_path / "text.sqlite", by_plain=False)
    if found is None:
        pytest.skip("this system does not tell a process its peak")
    assert 9 * 1_500 * 2_000 < found < 300e6
    with pytest.raises(ValueError, match=r"memory cannot be measured \('absent' is neither .* a smaller"):
        photo_bytes(replace(CASE, model="absent"), torch.float32, tmp_path / "text.sqlite", by_plain=True)


@pytest.mark.skipif(not memory.RESET.exists(), reason="this system does not tell a process its peak")
def test_a_peak_is_remembered_when_it_is_over() -> None:
    np.ones(400_000_000, np.uint8)  # an earlier and higher one
    before = memory._start_peak(CPU)
    np.ones(200_000_000, np.uint8)
    assert 190e6 < memory._peak(CPU) - before < 300e6


def test_a_dtype_that_the_device_cannot_do_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: SAN, image: Tensor) -> None:
        raise RuntimeError("not implemented for 'Half'\nsecond line")

    monkeypatch.setattr(SAN, "propose", fail)
    with pytest.raises(ValueError, match=r"the network failed \(not implemented for 'Half'\): choose a"):
        measure(CASE, ["float16"], 1)
    with pytest.raises(ValueError, match="float8: give at least 1 round, and of float32, bfloat16, float16"):
        measure(CASE, ["float8"], 1)
