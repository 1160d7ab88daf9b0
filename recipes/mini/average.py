"""The box, after a second leg: the weights between those it began with and those it ended with.

    python recipes/mini/average.py --before BEFORE.safetensors --after runs/leg/mini.safetensors --to MINI.safetensors

What lies between a model and its fine-tuned self is often better than both, most of all on what the fine-tuning did
not see (WiSE-FT, Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from san import GAIN
from torch import Tensor

from sanseg.model.san import SAN
from sanseg.model.weights import load_san, save_san

AFTER = 0.6  # the share of the later weights


def between(before: dict[str, Tensor], after: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """share: of `after`, 0 to 1."""
    return {name: before[name].lerp(one, share) for name, one in after.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--before", "--after", "--to"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--share", type=float, default=AFTER, help="of the later weights")
    options = parser.parse_args()
    before, after = load_san(options.before), load_san(options.after)
    san = SAN(after.config, after.labels)
    san.load_state_dict(between(before.state_dict(), after.state_dict(), options.share))
    torch.nn.init.constant_(san.clip.visual.guess.gain, GAIN)
    save_san(options.to, san, kind="san", dtype=torch.float16)


if __name__ == "__main__":
    main()
