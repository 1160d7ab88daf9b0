"""SAN: the paper's figure.

B batch, Q queries, N heads of CLIP, E shared embedding, D width of CLIP, h w grids, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanseg.model.clip import CLIP, Shallow, max_pool_to
from sanseg.model.config import SANConfig
from sanseg.model.side_adapter import SideAdapter
from sanseg.model.transformer import Block, drawn

RECOGNITION = ("side_adapter.decoder.bias", "nothing")
PARTS = {
    "all": ("side_adapter.", "nothing"),
    "masks": ("side_adapter.",),  # but for RECOGNITION: the first of the paper's two stages
    "recognition": RECOGNITION,  # the second
}
CLIP_TRAINS = {"none": (), "position": ("clip.visual.position",), "visual": ("clip.visual.",)}


@dataclass(frozen=True)
class Proposals:
    """What a picture holds, before any word has been read.

    mask_logits: (B, Q, h, w), on the mask grid of the padded picture.
    embeddings: (B, Q, E), unit length, in the space shared with words.
    seen: (B, Q, C), what a classifier of CLIP's stem sees in each region, as probabilities; None without one that
        knows what its classes are kinds of (`Guess.kinds`).
    """

    mask_logits: Tensor
    embeddings: Tensor
    seen: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that there are, in this order."""
        both = self.mask_logits, self.embeddings
        return both if self.seen is None else (*both, self.seen)

    def regions(self, picture: int = 0) -> tuple[Tensor, Tensor | None]:
        """What words are held against in one picture: its embeddings (Q, E) and what is seen, (Q, C)."""
        return self.embeddings[picture], None if self.seen is None else self.seen[picture]


class SAN(nn.Module):
    """A frozen CLIP, the side adapter beside it, and the learned "nothing" embedding.

    labels: the names that its masks were trained with; () where that is not known.
    """

    def __init__(self, config: SANConfig, labels: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.clip = CLIP(config.clip)
        self.side_adapter = SideAdapter(config)
        self.nothing = drawn(1, config.clip.embed, std=1.0)
        self.freeze()

    def propose(self, image_B3HW: Tensor) -> Proposals:
        """Pictures, normalised and padded to multiples of `config.divisor`, to Proposals.

        In float32 whatever the network computes in: a stem may be more precise than the rest.
        """
        return self._read(image_B3HW, auxiliary=False)[-1]

    def readings(self, image_B3HW: Tensor) -> list[Proposals]:
        """As `propose`, for training: every reading of the side adapter, the answer last."""
        return self._read(image_B3HW, auxiliary=True)

    def _read(self, image_B3HW: Tensor, *, auxiliary: bool) -> list[Proposals]:
        wanted = {block for block, _ in self.config.side.fusion}
        shallow = self.clip.visual.shallow(self.clip_image(image_B3HW), self.config.split, wanted)
        masks, biases = zip(*self.side_adapter(image_B3HW, shallow, auxiliary=auxiliary), strict=True)
        # [SLS] tokens do not see each other: those of all readings ride through CLIP's deep blocks together.
        # Their biases are pooled first: before, they are large.
        pooled = tuple(max_pool_to(bias, shallow.grid) for bias in biases)
        regions = self.recognise(shallow, _together(masks, dim=1), _together(pooled, dim=2))
        parts = [one.split(self.config.side.queries, dim=1) for one in regions if one is not None]
        return [Proposals(*proposed) for proposed in zip(masks, *parts, strict=True)]

    def recognise(
        self, shallow: Shallow, mask_logits_BQhw: Tensor, bias_BNQhw: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """`embeddings` and `seen` of `Proposals`: CLIP's, and its stem's guess of what each mask holds, if any."""
        return self.guessed(self.clip.visual.recognise(shallow, bias_BNQhw), shallow, mask_logits_BQhw)

    def guessed(
        self, region_BQE: Tensor, shallow: Shallow, mask_logits_BQhw: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Region embeddings with what CLIP's stem guesses that each mask holds, where it guesses; and `seen`."""
        visual = self.clip.visual
        if visual.guess is None or shallow.guess is None:
            return region_BQE, None
        h, w = shallow.guess.shape[2:]
        share_BQhw = F.adaptive_avg_pool2d(mask_logits_BQhw.sigmoid(), (h, w))
        seen_BQC = visual.guess.seen(shallow.guess, share_BQhw)
        return visual.guess.join(region_BQE, seen_BQC), None if visual.guess.kinds is None else seen_BQC

    def evidence(self, rows_RE: Tensor) -> Tensor | None:
        """(C, R): what each class that is `seen` adds to the logits of words, given their embeddings; None for none."""
        guess, weight = self.clip.visual.guess, self.config.evidence
        return weight * guess.evidence(rows_RE) if guess is not None and weight else None

    def clip_image(self, image_B3HW: Tensor) -> Tensor:
        """The picture as CLIP sees it, smaller by `config.clip_scale`."""
        scale = self.config.clip_scale
        if scale == 1:
            return image_B3HW
        # With scale_factor, coordinates map by 1 / scale rather than by the ratio of the sizes: as released.
        return F.interpolate(image_B3HW, scale_factor=scale, mode="bilinear", align_corners=False)

    def freeze(self, clip: str = "position", part: str = "all") -> None:
        """Leaves a part of the network to train; by default what the released recipe trains.

        clip: what of CLIP's image tower trains, a key of CLIP_TRAINS; its text tower never does.
        part: what of the side adapter trains, a key of PARTS; "masks" leaves all of CLIP frozen.
        Raises ValueError for unknown keys.
        """
        for given, known in ((clip, CLIP_TRAINS), (part, PARTS)):
            if given not in known:
                raise ValueError(f"{given!r} cannot be trained: choose from {', '.join(known)}")
        trained = PARTS[part] + (CLIP_TRAINS[clip] if part != "masks" else ())
        for name, parameter in self.named_parameters():
            chosen = name.startswith(trained)
            if part == "masks":
                chosen = chosen and not name.startswith(RECOGNITION)
            parameter.requires_grad_(chosen)

    @property
    def checkpointing(self) -> bool:
        """Activation checkpointing: training keeps the inputs of blocks only, and computes the rest twice."""
        return all(module.checkpointing for module in self.modules() if isinstance(module, Block))

    @checkpointing.setter
    def checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, Block):
                module.checkpointing = on

    def trained(self) -> dict[str, nn.Parameter]:
        """The side adapter, "nothing", and CLIP's visual positional embedding, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith("side_adapter.") or name in ("nothing", "clip.visual.position")
        }


def _together(tensors: tuple[Tensor, ...], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)  # one reading is not copied
