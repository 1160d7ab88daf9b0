"""Words to rows: prompts, the cache, the classifier."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import torch

from sanseg.model.san import SAN
from sanseg.model.templates import TEMPLATES
from sanseg.model.text import AROUND, TOKENS_AT_ONCE, Classifier, TextBlock, TextEncoder, TextTower
from sanseg.model.text_cache import TextCache
from sanseg.model.tokenizer import Tokenizer

NAMES = ["cat", "a very long name of a thing that nobody ever saw", "sky", "wine glass"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of the token tensors that reached the text tower."""
    shapes: list[tuple[int, int]] = []
    forward = TextTower.forward

    def counting(self: TextTower, tokens: torch.Tensor) -> torch.Tensor:
        shapes.append((tokens.shape[0], tokens.shape[1]))
        return forward(self, tokens)

    monkeypatch.setattr(TextTower, "forward", counting)
    return shapes


def test_a_text_is_the_same_at_any_length_and_in_any_company(tiny_san: SAN) -> None:
    tower = tiny_san.clip.text.double()
    tokens = Tokenizer(tower.config.merges)(NAMES, tower.config.context)
    together = tower(tokens)
    for number in range(len(NAMES)):
        alone = tokens[number : number + 1, : int((tokens[number] > 0).sum())]
        torch.testing.assert_close(tower(alone)[0], together[number])


def by_every_token(tower: TextTower, tokens: torch.Tensor) -> torch.Tensor:
    """CLIP's text tower as it was published."""
    x = tower.embedding(tokens) + tower.position[: tokens.shape[1]]
    for block in tower.blocks:
        x = block(x, causal=True)
    end = x[torch.arange(len(x)), tokens.argmax(1)]
    return torch.nn.functional.normalize(tower.norm_final(end) @ tower.projection, dim=1)


@pytest.mark.parametrize(
    "texts",
    [
        ["a photo of a cat.", "a photo of a very old dog.", "a photo of a"],  # one is how the others begin
        ["cat", "dog"],  # only the start token is shared
        ["cat"],
        ["cat", "cat", "cat"],
        ["a photo of " + 90 * "cat ", "a photo of a cat"],  # too long: cut to the context
    ],
)
def test_what_texts_share_changes_nothing(tiny_san: SAN, texts: list[str]) -> None:
    """The tower gives what its blocks give one after the other on every token, and the same gradients."""
    tower = tiny_san.clip.text.double().requires_grad_()
    tokens = Tokenizer(tower.config.merges)(texts, tower.config.context)
    found, wanted = tower(tokens), by_every_token(tower, tokens)
    torch.testing.assert_close(found, wanted)
    towards = torch.randn(wanted.shape, dtype=torch.float64)
    for ours, plain in zip(
        *(torch.autograd.grad((rows * towards).sum(), [*tower.parameters()]) for rows in (found, wanted)),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)


def test_rows_keep_the_order_of_names_and_repeat_with_them(tiny_san: SAN) -> None:
    encoder = TextEncoder(tiny_san.clip.text)
    rows = encoder([*NAMES, NAMES[0]], "vild")
    assert rows[0].equal(rows[-1])
    torch.testing.assert_close(encoder(NAMES[::-1], "vild"), rows[:4].flip(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    assert encoder([], "vild").shape == (0, 24)
    assert not torch.allclose(encoder(NAMES, "plain"), rows[:4], atol=1e-3)


def test_synonyms_share_a_row(tiny_san: SAN) -> None:
    encoder = TextEncoder(tiny_san.clip.text)
    rows = encoder.rows([("cat", "kitten"), ("dog",)], "plain")
    cat, kitten, dog = encoder(["cat", "kitten", "dog"], "plain")
    torch.testing.assert_close(rows[0], (cat + kitten) / (cat + kitten).norm())
    torch.testing.assert_close(rows[1], dog)


def test_an_unknown_template_set_lists_the_known(tiny_san: SAN) -> None:
    with pytest.raises(ValueError, match=r"imagenet.*vild, plain"):
        TextEncoder(tiny_san.clip.text)(NAMES, "imagenet")


def test_many_names_are_encoded_in_bounded_batches(tiny_san: SAN, counted: list[tuple[int, int]]) -> None:
    done: list[int] = []
    TextEncoder(tiny_san.clip.text)([f"thing {n}" for n in range(50)], "vild", done.append)
    assert sum(done) == 50
    assert sum(count for count, _ in counted) == 50 * len(TEMPLATES["vild"])
    assert max(length for _, length in counted) < 30


def test_batches_are_bounded_by_tokens_and_hardly_padded(
    tiny_san: SAN, counted: list[tuple[int, int]]
) -> None:
    encoder = TextEncoder(tiny_san.clip.text)
    names = [n * "ab " + f"{n} {twin}" for twin in "xyz" for n in range(1, 60)]
    rows = encoder(names, "plain")
    assert len(counted) > 3
    for count, length in counted:
        assert count == 1 or count * (length - 2 + AROUND) <= TOKENS_AT_ONCE  # less start and end
    real = sum(len(encoder.tokenizer.encode(name)) + 2 for name in names)
    assert sum(count * length for count, length in counted) < 1.2 * real
    torch.testing.assert_close(
        rows, torch.cat([encoder([name], "plain") for name in names]), atol=1e-5, rtol=0
    )


def test_what_templates_begin_with_is_computed_once(tiny_san: SAN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 names of a few tokens in prompts of a dozen, hardly more than the names go through the blocks."""
    tokens = 0
    split = TextBlock._split

    def counting(self: TextBlock, x: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        nonlocal tokens
        tokens += x.shape[0] * x.shape[1] if parts > 1 else 0
        return split(self, x, parts)

    monkeypatch.setattr(TextBlock, "_split", counting)
    names, encoder = [f"x{n}" for n in range(10, 30)], TextEncoder(tiny_san.clip.text)
    encoder(names, "vild")
    prompts = [template.replace("{}", name) for template in TEMPLATES["vild"] for name in names]
    whole = sum(len(encoder.tokenizer.encode(prompt)) + 2 for prompt in prompts)
    assert tokens < 0.65 * whole * tiny_san.config.clip.text.layers


def test_known_names_need_no_tokenizer(tiny_san: SAN) -> None:
    cache = TextCache(None)
    TextEncoder(tiny_san.clip.text, "a", cache)(NAMES, "plain")
    again = TextEncoder(tiny_san.clip.text, "a", cache)
    again(NAMES, "plain")
    assert "tokenizer" not in vars(again)


def test_a_name_is_encoded_once_for_each_model_and_template_set(
    tiny_san: SAN, tmp_path: Path, counted: list[tuple[int, int]]
) -> None:
    tower, file = tiny_san.clip.text, tmp_path / "deep" / "text.sqlite"
    first = TextEncoder(tower, "a", TextCache(file))(NAMES, "plain")
    calls = len(counted)
    again = TextEncoder(tower, "a", TextCache(file))(NAMES[::-1], "plain")  # another process: only the disk
    assert len(counted) == calls
    assert again.equal(first.flip(0))
    TextEncoder(tower, "b", TextCache(file))(NAMES, "plain")
    assert len(counted) > calls
    calls = len(counted)
    TextEncoder(tower, "a", TextCache(file))(NAMES, "vild")
    assert len(counted) > calls


def test_memory_and_disk_are_bounded(tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "text.sqlite", memory_rows=10, disk_rows=25)
    for number in range(100):
        cache.put({("m", "t", str(number)): torch.full((3,), float(number))})
    assert len(cache._memory) == 10
    with sqlite3.connect(tmp_path / "text.sqlite") as disk:
        assert disk.execute("SELECT count(*) FROM rows").fetchone() == (25,)
    disk.close()
    found = TextCache(tmp_path / "text.sqlite").get([("m", "t", str(number)) for number in range(100)])
    assert sorted(int(key[2]) for key in found) == list(range(75, 100))
    assert found["m", "t", "99"].tolist() == [99, 99, 99]


def test_what_was_used_last_stays_in_memory() -> None:
    cache = TextCache(None, memory_rows=2)
    for name in "ab":
        cache.put({("m", "t", name): torch.zeros(1)})
    cache.get([("m", "t", "a")])
    cache.put({("m", "t", "c"): torch.zeros(1)})
    assert list(cache.get([("m", "t", name) for name in "abc"])) == [("m", "t", "a"), ("m", "t", "c")]


def test_a_damaged_file_costs_only_time(tiny_san: SAN, tmp_path: Path) -> None:
    file = tmp_path / "text.sqlite"
    file.write_bytes(b"this is no database" * 100)
    cache = TextCache(file)
    rows = TextEncoder(tiny_san.clip.text, "a", cache)(NAMES, "plain")
    assert cache.trouble is not None
    assert str(file) in cache.trouble
    assert TextEncoder(tiny_san.clip.text, "a", cache)(NAMES, "plain").equal(rows)


def test_a_row_of_another_width_is_not_trusted(tiny_san: SAN, tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "text.sqlite")
    encoder = TextEncoder(tiny_san.clip.text, "a", cache)
    cache.put({(encoder.fingerprint, "plain", "cat"): torch.zeros(7)})
    rows = encoder(["cat"], "plain")
    assert rows.shape == (1, 24)


def test_the_classifier_is_the_papers(tiny_san: SAN) -> None:
    rows = torch.nn.functional.normalize(torch.randn(3, 24), dim=1)
    classifier = Classifier.build(rows, tiny_san.nothing, tiny_san.clip.logit_scale)
    region = torch.nn.functional.normalize(torch.randn(5, 24), dim=1)
    nothing = torch.nn.functional.normalize(tiny_san.nothing, dim=1)
    logits = tiny_san.clip.logit_scale.exp() * region @ torch.cat([rows, nothing]).T
    torch.testing.assert_close(classifier.logits(region), logits)
    torch.testing.assert_close(classifier.probabilities(region), logits.softmax(1)[:, :3])
    assert classifier.row_label == (0, 1, 2)
    evidence, seen = torch.rand(6, 3), torch.rand(5, 6)
    telling = Classifier.build(rows, tiny_san.nothing, tiny_san.clip.logit_scale, evidence=evidence)
    assert telling.logits(region).equal(classifier.logits(region)), "nothing was seen"
    added = telling.logits(region, seen) - logits
    torch.testing.assert_close(added, torch.cat([seen @ evidence, torch.zeros(5, 1)], 1))
    torch.testing.assert_close(
        telling.probabilities(region, seen), telling.logits(region, seen).softmax(1)[:, :3]
    )
    with pytest.raises(ValueError, match="2 row labels for 3 rows"):
        Classifier.build(rows, tiny_san.nothing, tiny_san.clip.logit_scale, [0, 1])
    with pytest.raises(ValueError, match="2 bonuses for 3 rows"):
        Classifier.build(rows, tiny_san.nothing, tiny_san.clip.logit_scale, bonus=[1, 1])


def test_what_the_weights_do_not_hold_is_in_the_key(tiny_san: SAN, counted: list[tuple[int, int]]) -> None:
    tower, cache = tiny_san.clip.text, TextCache(None)
    TextEncoder(tower, "a", cache)(["cat"], "plain")
    tower.quick_gelu = not tower.quick_gelu
    TextEncoder(tower, "a", cache)(["cat"], "plain")
    TextEncoder(tower.bfloat16(), "a", cache)(["cat"], "plain")
    assert len(counted) == 3


def test_a_row_that_is_not_finite_is_not_trusted(tiny_san: SAN) -> None:
    cache = TextCache(None)
    encoder = TextEncoder(tiny_san.clip.text, "a", cache)
    cache.put({(encoder.fingerprint, "plain", "cat"): torch.full((24,), float("nan"))})
    assert encoder(["cat"], "plain").isfinite().all()


def test_tokens_of_fewer_merges_are_still_the_text() -> None:
    few, all_merges = Tokenizer(500), Tokenizer()
    assert few.end == 2 * 256 + 500 + 1
    assert max(few.encode("an extraordinary giraffe")) < few.start
    assert len(few.encode("giraffe")) > len(all_merges.encode("giraffe"))
    with pytest.raises(ValueError, match="merges is -1"):
        Tokenizer(-1)
