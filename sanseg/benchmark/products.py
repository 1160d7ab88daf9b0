"""The matrix products of a photo's road, and the time that they take by themselves: the bound.

Those of training too, where a `Recorder` stands around its step: what comes back through a product is one or two
others, as torch is asked for them, through attention four.

In the bound is every product that torch is asked for between the photo and the label map:

- linear layers and the products of masks, biases, projections and classes, as a matrix product without the bias
  that is added, from operands laid out in memory as they were there;
- attention as its two batched products, q k^T and a v, with a matrix a in memory between them, whatever kernel the
  network used;
- convolutions, CLIP's stem and the side adapter's patches, as a call of torch's convolution;
- the label map as one dense product, sigmoid(masks)^T x probabilities, of every pixel of the photo with every label,
  in float32 whatever the network's dtype, in pieces small enough for a CPU's caches. The road computes less than that,
  for it leaves out labels that cannot win: the label map may take less than its bound.

Not in it: resizing, whatever goes number by number (norms, activations, softmax, sigmoid, argmax), copies, memory
that has to be taken (but for convolutions, results go where there is room already), and the products that the label
map resizes masks with. Each product runs as often as the road has it, one directly after the other, so that its
operands are as warm as its size allows: what is measured is a bound of what could be reached, not a target.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sanseg.benchmark.road import STAGES, synchronize, walk
from sanseg.segmenter import Segmenter
from sanseg.vocabulary import Vocabulary

# Of the dense label map, by kind of device: on a CPU a megabyte, a third faster than the whole picture at once.
PIECE_FLOATS = {"cpu": 1 << 18, "gpu": 1 << 24}


@dataclass(frozen=True)
class Operand:
    """A tensor by its layout in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Operand:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def make(self, device: torch.device) -> Tensor:
        """Random numbers, laid out so."""
        reach = 1 + sum((side - 1) * step for side, step in zip(self.shape, self.stride, strict=True))
        return torch.randn(reach, device=device).to(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Product:
    """Two operands, and the shape of what comes out.

    convolution: what torch's convolution is told after input, weight and bias; None for a matrix product, of two
    matrices or of two batches of them.
    """

    left: Operand
    right: Operand
    out: tuple[int, ...]
    convolution: tuple[Any, ...] | None = None

    @property
    def flop(self) -> int:
        """Multiplications and additions, two for each term of each number that comes out."""
        terms = self.left.shape[-1] if self.convolution is None else prod(self.right.shape[1:])
        return 2 * prod(self.out) * terms

    def replay(self, device: torch.device) -> Callable[[], object]:
        """What computes it again, from random numbers."""
        left, right = self.left.make(device), self.right.make(device)
        if self.convolution is not None:
            settings = self.convolution
            return lambda: torch.convolution(left, right, None, *settings)
        out = torch.empty(self.out, dtype=self.left.dtype, device=device)
        multiply = torch.mm if out.ndim == 2 else torch.bmm
        return lambda: multiply(left, right, out=out)


@dataclass(frozen=True)
class ConvolutionGradient:
    """What training asks of a convolution on its way back: of its input, of its weight, or both.

    convolution: as in Product. wanted: whether of the input, the weight, the bias, which is a sum and no product.
    """

    out: Operand
    x: Operand
    weight: Operand
    convolution: tuple[Any, ...]
    wanted: tuple[bool, ...]

    @property
    def flop(self) -> int:
        """As much for each as the convolution had."""
        return 2 * prod(self.out.shape) * prod(self.weight.shape[1:]) * sum(self.wanted[:2])

    def replay(self, device: torch.device) -> Callable[[], object]:
        """As of Product."""
        out, x, weight = (operand.make(device) for operand in (self.out, self.x, self.weight))
        wanted = (*self.wanted[:2], False)
        return lambda: torch.ops.aten.convolution_backward(out, x, weight, None, *self.convolution, wanted)


Work = Product | ConvolutionGradient


def _matrices(left: Tensor, right: Tensor) -> list[Product]:
    return [Product(Operand.of(left), Operand.of(right), (*left.shape[:-1], right.shape[-1]))]


def _attention(q_BNLd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor) -> list[Product]:
    q, k, v = (tensor.flatten(0, 1) for tensor in (q_BNLd, k_BNSd, v_BNSd))
    attention = q.new_empty(*q.shape[:2], k.shape[1])
    return _matrices(q, k.mT) + _matrices(attention, v)


def _attention_gradient(out_BNLd: Tensor, q_BNLd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor) -> list[Product]:
    """Of v, of the attention, of q and of k. The attention itself is taken to have been kept."""
    out, q, k, v = (tensor.flatten(0, 1) for tensor in (out_BNLd, q_BNLd, k_BNSd, v_BNSd))
    attention = q.new_empty(*q.shape[:2], k.shape[1])
    pairs = ((attention.mT, out), (out, v.mT), (attention, k), (attention.mT, q))
    return [product for left, right in pairs for product in _matrices(left, right)]


def _plain(told: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(one) if isinstance(one, list) else one for one in told)


def _convolution(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *told: Any) -> list[Product]:
    return [Product(Operand.of(x), Operand.of(weight), tuple(out.shape), _plain(told))]


def _convolution_gradient(
    found: Any, out: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, *told: Any
) -> list[ConvolutionGradient]:
    *settings, wanted = _plain(told)
    operands = Operand.of(out), Operand.of(x), Operand.of(weight)
    return [ConvolutionGradient(*operands, tuple(settings), wanted)]


KERNELS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")

# The products of torch's operators, from what comes out and what goes in.
READ: dict[str, Callable[..., Sequence[Work]]] = {
    "aten::mm": lambda out, left, right: _matrices(left, right),
    "aten::addmm": lambda out, added, left, right, **scales: _matrices(left, right),
    "aten::bmm": lambda out, left, right: _matrices(left, right),
    "aten::baddbmm": lambda out, added, left, right, **scales: _matrices(left, right),
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_gradient,
    **{
        f"aten::_scaled_dot_product_{kernel}": lambda out, q, k, v, *rest, **told: _attention(q, k, v)
        for kernel in (*KERNELS, "attention_math_for_mps")
    },
    **{
        f"aten::_scaled_dot_product_{kernel}_backward": (
            lambda found, out, q, k, v, *rest, **told: _attention_gradient(out, q, k, v)
        )
        for kernel in KERNELS
    },
}


class Recorder(TorchDispatchMode):
    """Notes the products that are computed inside it. Not under `inference_mode`, which hides what layers do."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.products: Counter[Work] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **kwargs or {})
        name = func._schema.name
        if name in READ:
            self.products.update(READ[name](out, *args, **kwargs or {}))
        else:
            assert func.overloadpacket not in flop_registry, f"{name} has products: say in READ which"
            assert name not in ("aten::linear", "aten::matmul", "aten::conv2d"), f"{name} hides its products"
        return out


def record(segmenter: Segmenter, photo: NDArray[np.uint8], words: Vocabulary) -> dict[str, Counter[Work]]:
    """The products of each stage of `road.STAGES`, and how often it has them."""
    segmenter.classifier(words)  # what the text tower computes is no part of the road
    recorders = {stage: Recorder() for stage in STAGES}
    with torch.no_grad():
        walk(segmenter, photo, words, recorders.__getitem__)
    products = {stage: recorder.products for stage, recorder in recorders.items()}
    queries = segmenter.san.config.side.queries
    pixels = photo.shape[0] * photo.shape[1]
    products["label map"] = dense_label_map(queries, len(words.names), pixels, segmenter.device)
    return products


def dense_label_map(queries: int, rows: int, pixels: int, device: torch.device) -> Counter[Work]:
    """sigmoid(masks)^T x probabilities, (pixels, queries) x (queries, rows), in pieces."""
    at_once = max(1, PIECE_FLOATS["cpu" if device.type == "cpu" else "gpu"] // max(queries, rows))

    def piece(pixels: int) -> Product:
        masks = Operand((pixels, queries), (1, pixels), torch.float32)
        return Product(masks, Operand((queries, rows), (1, queries), torch.float32), (pixels, rows))

    whole, rest = divmod(pixels, at_once)
    pieces: Counter[Work] = Counter()
    for size, times in ((at_once, whole), (rest, 1)):
        if size and times:
            pieces[piece(size)] += times
    return pieces


def flop(products: Mapping[Work, int]) -> int:
    return sum(product.flop * times for product, times in products.items())


class Bound:
    """Recorded products, ready to be computed again. Holds memory for the operands of each different one."""

    def __init__(self, products: Mapping[str, Mapping[Work, int]], device: torch.device) -> None:
        self.products = products
        self.device = device
        different = dict.fromkeys(product for some in products.values() for product in some)
        self._replays = {product: product.replay(device) for product in different}

    @torch.inference_mode()
    def time(self) -> dict[str, float]:
        """Milliseconds of each stage's products."""
        ms = {}
        for stage, products in self.products.items():
            start = time.perf_counter()
            for product, times in products.items():
                replay = self._replays[product]
                for _ in range(times):
                    replay()
            synchronize(self.device)
            ms[stage] = 1000 * (time.perf_counter() - start)
        return ms
