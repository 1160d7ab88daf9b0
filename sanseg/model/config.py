"""Configurations: frozen values, one for each published SAN and one for the model in the box.

Legend used in every model file: B batch, Q queries, K labels, N heads of CLIP, E shared embedding,
D width of CLIP, W width of the side adapter, h w grid, H W pixels, L tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

LARGEST_SIDE = 8_192  # pixels: what a configuration may resize a picture to
BIASES = ("head", "mask")
CLIP_MERGES = 48_894  # the whole of CLIP's merges table: a vocabulary of 49,408 tokens


@dataclass(frozen=True)
class VisionConfig:
    """CLIP's image tower: a ViT whose tokens come from one convolution, or from a convolutional stem.

    `grid` is the side of the square grid that the positional embedding was made for.
    `stem` is "" for CLIP's own patch convolution, else a key of `model.stem.STEMS`; `classes` of its own classifier
    are kept for `model.stem.Guess`, 0 for none; `kinds` where it also knows what these classes are kinds of.
    """

    width: int
    layers: int
    heads: int
    patch: int
    grid: int
    stem: str = ""
    classes: int = 0
    kinds: bool = False


@dataclass(frozen=True)
class TextConfig:
    """CLIP's text tower. `merges` is how many rows of CLIP's BPE merges table the tokenizer uses."""

    width: int
    layers: int
    heads: int
    context: int = 77
    merges: int = CLIP_MERGES

    @property
    def vocabulary_size(self) -> int:
        return 2 * 256 + self.merges + 2  # bytes, bytes that end a word, merges, start and end


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers. `quick_gelu`: OpenAI's x * sigmoid(1.702 x) rather than the exact GELU."""

    name: str
    embed: int
    vision: VisionConfig
    text: TextConfig
    quick_gelu: bool = True


@dataclass(frozen=True)
class SideAdapterConfig:
    """The side adapter (paper, Sec. 3.2 and Table 7).

    `fusion`: pairs (CLIP blocks passed, side blocks passed) at which CLIP's features are added.
    `readings`: side blocks after which the decoder reads masks and biases; the last one is the answer,
    the others are deep supervision.
    `mask_stride`: pixels per mask logit; below `patch` the decoder adds the stem's features of that stride.
    `bias`: where attention biases come from, one of BIASES: a head of their own, or the mask logits themselves
    (which the paper's ablations compare).
    """

    width: int = 240
    layers: int = 8
    heads: int = 6
    patch: int = 16
    grid: int = 40
    queries: int = 100
    fusion: tuple[tuple[int, int], ...] = ((0, 0), (3, 1), (6, 2), (9, 3))
    readings: tuple[int, ...] = (7, 8)
    hidden: int = 256
    channels: int = 256
    mask_stride: int = 16
    bias: str = "head"


@dataclass(frozen=True)
class SANConfig:
    """A whole SAN.

    `split`: CLIP blocks before recognition begins. `clip_scale`: CLIP's picture relative to the adapter's.
    `short_side`, `long_side`: pixels that a picture is resized to, and the cap on its longer side.
    `templates`: the prompt set that the classifier was trained with, a key of `model.templates.TEMPLATES`.
    `novelty`: added to the class logits of labels that no mask of the training was called, which it taught to lose
    (calibrated stacking, Chao et al., ECCV 2016); the released models have none.
    `evidence`: what a class that the stem's classifier is sure of adds to the logit of a word that it speaks for
    (`Guess.evidence`), for a stem with `VisionConfig.kinds`.
    """

    name: str
    clip: CLIPConfig
    side: SideAdapterConfig
    split: int
    clip_scale: float
    short_side: int = 640
    long_side: int = 2560
    divisor: int = 32
    templates: str = "vild"
    novelty: float = 0.0
    evidence: float = 0.0
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    def __post_init__(self) -> None:
        """Raises ValueError for values that no tensor's shape would betray: a configuration may come from a file."""
        side, clip = self.side, self.clip.vision
        wanted = {
            f"fusion {side.fusion} within {self.split} CLIP and {side.layers} side blocks": all(
                0 <= of <= self.split and 0 <= into <= side.layers for of, into in side.fusion
            )
            and len({into for _, into in side.fusion}) == len(side.fusion),
            f"split {self.split} below CLIP's {clip.layers} blocks": 0 <= self.split < clip.layers,
            f"readings {side.readings} ascending, of {side.layers} side blocks": len(side.readings) > 0
            and list(side.readings) == sorted(set(side.readings))
            and 1 <= side.readings[0] <= side.readings[-1] <= side.layers,
            f"mask_stride {side.mask_stride} the patch, {side.patch}, or half of it": side.mask_stride
            in (side.patch, side.patch // 2),
            f"bias {side.bias!r} one of {', '.join(BIASES)}": side.bias in BIASES,
            f"divisor {self.divisor} a multiple of the patch, {side.patch}": self.divisor > 0
            and side.patch > 0
            and self.divisor % side.patch == 0,
            f"sides {self.short_side} to {self.long_side} within 1 to {LARGEST_SIDE} pixels": 1
            <= self.short_side
            <= self.long_side
            <= LARGEST_SIDE,
            f"clip_scale {self.clip_scale} above 0, at most 1": 0 < self.clip_scale <= 1,
            f"std {self.std} above 0": min(self.std) > 0,
            f"novelty {self.novelty} and evidence {self.evidence} finite": isfinite(self.novelty)
            and isfinite(self.evidence),
            f"evidence {self.evidence} 0 for a stem without kinds": self.evidence == 0
            or (clip.classes > 0 and clip.kinds),
        }
        for want, holds in wanted.items():
            if not holds:
                raise ValueError(f"not a SAN that can be built: wanted {want}")

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values, as checkpoints store it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SANConfig:
        """The inverse of `to_dict`, also after a journey through JSON.

        Raises ValueError for fields that are missing or unknown.
        """
        try:
            clip = dict(values["clip"])
            side = dict(values["side"])
            clip["vision"] = VisionConfig(**clip["vision"])
            clip["text"] = TextConfig(**clip["text"])
            side["fusion"] = tuple((int(a), int(b)) for a, b in side["fusion"])
            side["readings"] = tuple(side["readings"])
            fields = {
                **values,
                "clip": CLIPConfig(**clip),
                "side": SideAdapterConfig(**side),
                "mean": tuple(values["mean"]),
                "std": tuple(values["std"]),
            }
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a SAN configuration ({error}): write it with SANConfig.to_dict") from error


CLIP_VIT_B16 = CLIPConfig(
    name="ViT-B-16-quickgelu",
    embed=512,
    vision=VisionConfig(width=768, layers=12, heads=12, patch=16, grid=14),
    text=TextConfig(width=512, layers=12, heads=8),
)
CLIP_VIT_L14_336 = CLIPConfig(
    name="ViT-L-14-336-quickgelu",
    embed=768,
    vision=VisionConfig(width=1024, layers=24, heads=16, patch=14, grid=24),
    text=TextConfig(width=768, layers=12, heads=12),
)
SAN_VIT_B16 = SANConfig(
    name="san-vit-b-16", clip=CLIP_VIT_B16, side=SideAdapterConfig(), split=9, clip_scale=0.5
)
SAN_VIT_L14 = SANConfig(
    name="san-vit-l-14",
    clip=CLIP_VIT_L14_336,
    side=replace(SAN_VIT_B16.side, fusion=((0, 0), (6, 1), (12, 2), (18, 3))),
    split=18,
    clip_scale=0.7,
)
CLIP_MINI = CLIPConfig(
    name="mini-clip",
    embed=256,
    vision=VisionConfig(
        width=256, layers=4, heads=4, patch=16, grid=20, stem="efficientnet-lite2", classes=1_000, kinds=True
    ),
    text=TextConfig(width=256, layers=4, heads=4, context=48, merges=12_000),
)
SAN_MINI = SANConfig(
    name="mini",
    clip=CLIP_MINI,
    side=SideAdapterConfig(
        width=192,
        layers=4,
        heads=4,
        grid=20,
        queries=64,
        fusion=((0, 0), (1, 1), (2, 2)),
        readings=(4,),
        hidden=192,
        channels=128,
        mask_stride=8,
    ),
    split=2,
    clip_scale=1.0,
    short_side=448,
    long_side=1280,
    templates="plain",
    novelty=2.0,  # less than recipes/mini/novelty.py allows: see docs/LOG.md, 2026-11-30
    evidence=6.0,  # chosen together with it
)
