"""Words to classifier rows: prompts, CLIP's text tower, and the Classifier that recognition ends in.

K labels, R classifier rows, E shared embedding, D width of the text tower, L tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanseg.model.config import CLIPConfig
from sanseg.model.templates import TEMPLATES, prompts
from sanseg.model.text_cache import Key, TextCache
from sanseg.model.tokenizer import Tokenizer
from sanseg.model.transformer import Block, drawn

LAYER_NORM_EPS = 1e-5  # of both CLIP towers; the side adapter's is 1e-6
CACHE_FORMAT = 1  # raise it when the same weights and words come to give other embeddings
# Of the prompts that go through the tower together: what memory is bounded by. Half as many are slower.
TOKENS_AT_ONCE = 512
AROUND = 3  # tokens of a prompt after its name, about


class TextBlock(Block):
    """A block for texts that begin alike: what they share is computed once, and the rest of each attends to it.

    begun_1PD: the tokens that all texts begin with. rest_KRD: those that follow, P + R = L.
    """

    def follow(self, begun_1PD: Tensor, rest_KRD: Tensor, seen_RL: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts after this block. seen_RL: bool, which tokens each of the rest attends to."""
        q, k, v = self._split(self.qkv(self.norm_1(begun_1PD)), 3)
        begun_1PD = self._finish(begun_1PD, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        q, own_k, own_v = self._split(self.qkv(self.norm_1(rest_KRD)), 3)
        keys, values = _joined(k, own_k), _joined(v, own_v)
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen_RL)
        return begun_1PD, self._finish(rest_KRD, attended)

    def read(self, begun_1PD: Tensor, rest_KRD: Tensor, row_K: Tensor, seen_K1L: Tensor) -> Tensor:
        """One token of each text after this block, (K, 1, D): all that anyone reads of the last one.

        row_K: its place in the rest. seen_K1L: bool, which tokens it attends to.
        """
        k, v = self._keys_values(begun_1PD)
        own_k, own_v = self._keys_values(rest_KRD)
        read_K1D = rest_KRD[torch.arange(len(row_K), device=row_K.device), row_K][:, None]
        D = read_K1D.shape[-1]
        (q,) = self._split(F.linear(self.norm_1(read_K1D), self.qkv.weight[:D], self.qkv.bias[:D]), 1)
        keys, values = _joined(k, own_k), _joined(v, own_v)
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen_K1L[:, None])
        return self._finish(read_K1D, attended)

    def _keys_values(self, x_BLD: Tensor) -> tuple[Tensor, ...]:
        D = x_BLD.shape[-1]
        return self._split(F.linear(self.norm_1(x_BLD), self.qkv.weight[D:], self.qkv.bias[D:]), 2)


def _joined(begun_1NPd: Tensor, rest_KNRd: Tensor) -> Tensor:
    return torch.cat([begun_1NPd.expand(len(rest_KNRd), -1, -1, -1), rest_KNRd], dim=2)


class TextTower(nn.Module):
    """CLIP's text tower: causal, read at the end token."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        text = config.text
        self.config = text
        self.quick_gelu = config.quick_gelu
        self.embedding = nn.Embedding(text.vocabulary_size, text.width)
        self.position = drawn(text.context, text.width, std=0.01)
        self.blocks = nn.ModuleList(
            TextBlock(text.width, text.heads, eps=LAYER_NORM_EPS, quick_gelu=config.quick_gelu)
            for _ in range(text.layers)
        )
        self.norm_final = nn.LayerNorm(text.width, eps=LAYER_NORM_EPS)
        self.projection = drawn(text.width, config.embed, std=text.width**-0.5)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens_KL: Tensor) -> Tensor:
        """Token ids int64 (K, L), L at most the context, to unit vectors (K, E).

        The end token has the highest id. The tower is causal, so what follows it never matters: L needs to be
        no more than the longest text; and what all texts begin with is computed once, for it cannot depend on
        how they go on.
        """
        end_K = tokens_KL.argmax(dim=1)
        alike = int((tokens_KL == tokens_KL[:1]).all(0).int().cumprod(0).sum())
        begun = min(alike, int(end_K.min()))
        assert begun > 0, "all texts begin with the start token"
        x = self.embedding(tokens_KL[:, begun:]) + self.position[begun : tokens_KL.shape[1]]
        begun_1PD = self.embedding(tokens_KL[:1, :begun]) + self.position[:begun]
        places_L = torch.arange(tokens_KL.shape[1], device=tokens_KL.device)
        seen_RL = places_L <= places_L[begun:, None]
        blocks = [block for block in self.blocks if isinstance(block, TextBlock)]
        for block in blocks[:-1]:
            begun_1PD, x = block.follow(begun_1PD, x, seen_RL)
        end_K1D = blocks[-1].read(begun_1PD, x, end_K - begun, places_L <= end_K[:, None, None])
        return F.normalize(self.norm_final(end_K1D[:, 0]) @ self.projection, dim=-1)


class TextEncoder:
    """Names to embeddings: the prompts of a template set through the text tower, cached by (model, set, name).

    `fingerprint` names the weights of the tower in the cache; what is not in them (heads, activation, precision)
    is added here, and CACHE_FORMAT. Without a cache every call computes.
    """

    def __init__(self, tower: TextTower, fingerprint: str = "", cache: TextCache | None = None) -> None:
        self.tower = tower
        dtype = tower.projection.dtype
        self.fingerprint = f"{fingerprint} {tower.config} {tower.quick_gelu} {dtype} {CACHE_FORMAT}"
        self.cache = cache

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Made when first needed: its tables take a while, and names that are known need none."""
        return Tokenizer(self.tower.config.merges)

    def __call__(
        self, names: Sequence[str], templates: str, progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """Unit embeddings (len(names), E), float32, on the tower's device.

        templates: as `model.templates.prompts` reads them.
        Each name's prompts are encoded, normalised, averaged and normalised again. `progress` is called with
        the number of names done since its last call. Raises ValueError for an unknown template set.
        """
        wording = prompts(templates)
        own = hashlib.sha256("\n".join(wording).encode()).hexdigest()
        keys = {
            name: (self.fingerprint, templates if templates in TEMPLATES else own, name) for name in names
        }
        known = self.cache.get(list(keys.values())) if self.cache else {}
        width = self.tower.projection.shape[1]
        found = _sound(known, width)
        missing = [name for name, key in keys.items() if key not in found]
        # Taken in one piece before the work: small ones kept between the large ones would scatter the memory.
        left = torch.empty(len(missing), width)
        for some in self._batches(missing):
            rows, left = left.split([len(some), len(left) - len(some)])
            rows.copy_(self._encode(some, wording))
            fresh = {keys[name]: row for name, row in zip(some, rows, strict=True)}
            if self.cache:
                self.cache.put(fresh)
            found |= fresh
            if progress:
                progress(len(some))
        device = self.tower.position.device
        if not names:
            return torch.empty(0, width, device=device)
        return torch.stack([found[keys[name]] for name in names]).to(device)

    def by_name(
        self,
        names: Sequence[str],
        templates: str,
        progress: Callable[[int], None] | None = None,
        known: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The embedding (E,) of each name, of those that are `known` as they are."""
        embeddings = dict(known or {})
        missing = [name for name in names if name not in embeddings]
        embeddings |= zip(missing, self(missing, templates, progress), strict=True)
        return {name: embeddings[name] for name in names}

    def rows(
        self,
        labels: Sequence[Sequence[str]],
        templates: str,
        progress: Callable[[int], None] | None = None,
        known: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """A unit row (len(labels), E) for each label, given by its synonyms: the mean of their embeddings.

        known: embeddings (E,) of names, float32 on the tower's device, which the tower is not asked for.
        """
        embeddings = self.by_name([name for names in labels for name in names], templates, progress, known)
        means = [
            embeddings[names[0]]
            if len(names) == 1
            else torch.stack([embeddings[name] for name in names]).mean(0)
            for names in labels
        ]
        return F.normalize(torch.stack(means), dim=-1)

    def _batches(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Names of about as many tokens share a batch, hardly padded, and TOKENS_AT_ONCE bound it."""
        lengths = {name: len(self.tokenizer.encode(name)) for name in names}
        batch: list[str] = []
        for name in sorted(names, key=lengths.__getitem__):
            if batch and (len(batch) + 1) * (lengths[name] + AROUND) > TOKENS_AT_ONCE:
                yield batch
                batch = []
            batch.append(name)
        if batch:
            yield batch

    @torch.inference_mode()
    def _encode(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Template by template, for the prompts of one begin alike."""
        device, embeddings = self.tower.position.device, []
        for template in templates:
            prompts = [template.replace("{}", name) for name in names]
            tokens_KL = self.tokenizer(prompts, self.tower.config.context)
            embeddings.append(self.tower(tokens_KL.to(device)).float())
        return F.normalize(torch.stack(embeddings).mean(0), dim=-1)


def _sound(rows: Mapping[Key, Tensor], width: int) -> dict[Key, Tensor]:
    """Those that can be embeddings: a cache's file may have been damaged."""
    whole = {key: row for key, row in rows.items() if row.shape == (width,)}
    if not whole:
        return {}
    finite = torch.stack(list(whole.values())).isfinite().all(1).tolist()
    return {key: row for (key, row), sound in zip(whole.items(), finite, strict=True) if sound}


@dataclass(frozen=True)
class Classifier:
    """What region embeddings are compared with.

    weight: (R + 1, E), unit rows; the last is the learned "nothing".
    scale: exp(logit_scale).
    row_label: for each of the R rows the index of its label, or -1 for a distractor, which means "other".
    bonus: for each of the R + 1 rows what is added to its logit; () for nothing.
    evidence: (C, R + 1), what is added for each of C classes that is seen for certain (`Proposals.seen`).
    """

    weight: Tensor
    scale: float
    row_label: tuple[int, ...]
    bonus: tuple[float, ...] = ()
    evidence: Tensor | None = None

    @classmethod
    def build(
        cls,
        rows: Tensor,
        nothing: Tensor,
        logit_scale: Tensor,
        row_label: Sequence[int] | None = None,
        bonus: Sequence[float] | None = None,
        evidence: Tensor | None = None,
    ) -> Classifier:
        """From embeddings (R, E) of names, the "nothing" embedding (1, E) and the logarithm of the scale.

        The whole matrix is normalised again, as in the released code. By default row r is label r.
        bonus, evidence: for each of the R rows, (R,) and (C, R); "nothing" gets none.
        """
        weight = F.normalize(torch.cat([rows, nothing.to(rows.dtype)]), dim=-1)
        labels = tuple(range(len(rows))) if row_label is None else tuple(row_label)
        if len(labels) != len(rows):
            raise ValueError(f"{len(labels)} row labels for {len(rows)} rows: give one for each row")
        added = () if bonus is None or not any(bonus) else (*bonus, 0.0)
        if len(added) not in (0, len(weight)):
            raise ValueError(f"{len(added) - 1} bonuses for {len(rows)} rows: give one for each row")
        classes = None if evidence is None else F.pad(evidence, (0, 1))
        return cls(weight, float(logit_scale.exp()), labels, added, classes)

    def logits(self, embeddings: Tensor, seen: Tensor | None = None) -> Tensor:
        """Region embeddings (..., E), and what is seen in them, (..., C), to class logits (..., R + 1).

        The last is "nothing".
        """
        logits = self.scale * embeddings @ self.weight.to(embeddings.dtype).T
        if self.bonus:
            logits = logits + logits.new_tensor(self.bonus)
        if self.evidence is not None and seen is not None:
            logits = logits + seen.to(logits.dtype) @ self.evidence.to(logits.dtype)
        return logits

    def probabilities(self, embeddings_QE: Tensor, seen_QC: Tensor | None = None) -> Tensor:
        """As `logits`, to (Q, R), float32: softmax over R + 1, then without "nothing"."""
        return self.logits(embeddings_QE.float(), seen_QC).softmax(dim=-1)[:, :-1]
