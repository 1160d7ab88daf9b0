"""Words to classifier rows: prompts, CLIP's text tower, and the Classifier that recognition ends in.

K labels, R classifier rows, E shared embedding, D width of the text tower, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanseg.model.config import CLIPConfig
from sanseg.model.text_cache import TextCache
from sanseg.model.tokenizer import Tokenizer
from sanseg.model.transformer import Block, drawn

TEMPLATES: dict[str, tuple[str, ...]] = {
    # ViLD's prompts, which the released SAN models were trained with.
    "vild": (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        "a photo of a small {}.",
        "a photo of a medium {}.",
        "a photo of a large {}.",
        "This is a photo of a small {}.",
        "This is a photo of a medium {}.",
        "This is a photo of a large {}.",
        "There is a small {} in the scene.",
        "There is a medium {} in the scene.",
        "There is a large {} in the scene.",
    ),
    "plain": ("{}",),
}

LAYER_NORM_EPS = 1e-5  # of both CLIP towers; the side adapter's is 1e-6
CACHE_FORMAT = 1  # raise it when the same weights and words come to give other embeddings
PROMPTS_AT_ONCE = 112  # bounds the memory of encoding thousands of names; 256 are no faster


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
            Block(text.width, text.heads, eps=LAYER_NORM_EPS, quick_gelu=config.quick_gelu)
            for _ in range(text.layers)
        )
        self.norm_final = nn.LayerNorm(text.width, eps=LAYER_NORM_EPS)
        self.projection = drawn(text.width, config.embed, std=text.width**-0.5)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens_KL: Tensor) -> Tensor:
        """Token ids int64 (K, L), L at most the context, to unit vectors (K, E).

        The end token has the highest id. The tower is causal, so what follows it never matters: L needs to be
        no more than the longest text.
        """
        x = self.embedding(tokens_KL) + self.position[: tokens_KL.shape[1]]
        for block in self.blocks:
            x = block(x, causal=True)
        end = x[torch.arange(len(x), device=x.device), tokens_KL.argmax(dim=1)]
        return F.normalize(self.norm_final(end) @ self.projection, dim=-1)


class TextEncoder:
    """Names to embeddings: the prompts of a template set through the text tower, cached by (model, set, name).

    `fingerprint` names the weights of the tower in the cache; what is not in them (heads, activation, precision)
    is added here, and CACHE_FORMAT. Without a cache every call computes.
    """

    def __init__(self, tower: TextTower, fingerprint: str = "", cache: TextCache | None = None) -> None:
        self.tower = tower
        self.tokenizer = Tokenizer(tower.config.merges)
        dtype = tower.projection.dtype
        self.fingerprint = f"{fingerprint} {tower.config} {tower.quick_gelu} {dtype} {CACHE_FORMAT}"
        self.cache = cache

    def __call__(
        self, names: Sequence[str], templates: str, progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """Unit embeddings (len(names), E), float32, on the tower's device.

        Each name's prompts are encoded, normalised, averaged and normalised again. `progress` is called with
        the number of names done since its last call. Raises ValueError for an unknown template set.
        """
        if templates not in TEMPLATES:
            raise ValueError(f"template set {templates!r} is unknown: use one of {', '.join(TEMPLATES)}")
        keys = {name: (self.fingerprint, templates, name) for name in names}
        known = self.cache.get(list(keys.values())) if self.cache else {}
        width = self.tower.projection.shape[1]
        found = {key: row for key, row in known.items() if row.shape == (width,) and row.isfinite().all()}
        missing = [name for name, key in keys.items() if key not in found]
        at_once = max(1, PROMPTS_AT_ONCE // len(TEMPLATES[templates]))
        missing.sort(key=len)  # names of like length share a batch without padding it
        # Taken in one piece before the work: small ones kept between the large ones would scatter the memory.
        rows = torch.empty(len(missing), width)
        for start in range(0, len(missing), at_once):
            some = missing[start : start + at_once]
            rows[start : start + len(some)] = self._encode(some, TEMPLATES[templates])
            fresh = {keys[name]: rows[start + number] for number, name in enumerate(some)}
            if self.cache:
                self.cache.put(fresh)
            found |= fresh
            if progress:
                progress(len(some))
        device = self.tower.position.device
        if not names:
            return torch.empty(0, width, device=device)
        return torch.stack([found[keys[name]] for name in names]).to(device)

    def rows(
        self,
        labels: Sequence[Sequence[str]],
        templates: str,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """A unit row (len(labels), E) for each label, given by its synonyms: the mean of their embeddings."""
        embeddings = iter(self([name for names in labels for name in names], templates, progress))
        means = [torch.stack([next(embeddings) for _ in names]).mean(0) for names in labels]
        return F.normalize(torch.stack(means), dim=-1)

    @torch.inference_mode()
    def _encode(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        prompts = [template.replace("{}", name) for name in names for template in templates]
        tokens = self.tokenizer(prompts, self.tower.config.context)
        embeddings = self.tower(tokens.to(self.tower.position.device)).float()
        return F.normalize(embeddings.view(len(names), len(templates), -1).mean(1), dim=-1)


@dataclass(frozen=True)
class Classifier:
    """What region embeddings are compared with.

    weight: (R + 1, E), unit rows; the last is the learned "nothing".
    scale: exp(logit_scale).
    row_label: for each of the R rows the index of its label, or -1 for a distractor, which means "other".
    """

    weight: Tensor
    scale: float
    row_label: tuple[int, ...]

    @classmethod
    def build(
        cls, rows: Tensor, nothing: Tensor, logit_scale: Tensor, row_label: Sequence[int] | None = None
    ) -> Classifier:
        """From embeddings (R, E) of names, the "nothing" embedding (1, E) and the logarithm of the scale.

        The whole matrix is normalised again, as in the released code. By default row r is label r.
        """
        weight = F.normalize(torch.cat([rows, nothing.to(rows.dtype)]), dim=-1)
        labels = tuple(range(len(rows))) if row_label is None else tuple(row_label)
        if len(labels) != len(rows):
            raise ValueError(f"{len(labels)} row labels for {len(rows)} rows: give one for each row")
        return cls(weight, float(logit_scale.exp()), labels)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Region embeddings (..., E) to class logits (..., R + 1); the last is "nothing"."""
        return self.scale * embeddings @ self.weight.to(embeddings.dtype).T

    def probabilities(self, embeddings_QE: Tensor) -> Tensor:
        """Region embeddings (Q, E) to (Q, R), float32: softmax over R + 1, then without "nothing"."""
        return self.logits(embeddings_QE.float()).softmax(dim=-1)[:, :-1]
