"""Key maps: which tensor of a released SAN checkpoint, or of an open_clip model, is which of ours."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from sanseg.model.clip import CLIP
from sanseg.model.config import SAN_VIT_B16, SAN_VIT_L14, CLIPConfig, SANConfig
from sanseg.model.san import SAN

# Ours, as they begin -> theirs. Tensors may differ in shape, never in order: a linear layer is a 1x1 convolution there.
_OFFICIAL = {
    "nothing": "ov_classifier.bg_embed",
    "clip.logit_scale": "ov_classifier.logit_scale",
    "clip.text.embedding.": "ov_classifier.token_embedding.",
    "clip.text.position": "ov_classifier.positional_embedding",
    "clip.text.blocks.": "ov_classifier.transformer.resblocks.",
    "clip.text.norm_final.": "ov_classifier.ln_final.",
    "clip.text.projection": "ov_classifier.text_projection",
    "clip.visual.class_token": "clip_visual_extractor.class_embedding",
    "clip.visual.position": "clip_visual_extractor.positional_embedding",
    "clip.visual.stem.convolution.": "clip_visual_extractor.conv1.",
    "clip.visual.norm_pre.": "clip_visual_extractor.ln_pre.",
    "clip.visual.blocks.": "clip_visual_extractor.resblocks.",
    "clip.visual.norm_post.": "clip_rec_head.ln_post.",
    "clip.visual.projection": "clip_rec_head.proj",
    "side_adapter.query_position": "side_adapter_network.query_pos_embed",
    "side_adapter.query": "side_adapter_network.query_embed",
    "side_adapter.position": "side_adapter_network.vit_model.pos_embed",
    "side_adapter.patches.": "side_adapter_network.vit_model.patch_embed.proj.",
    "side_adapter.blocks.": "side_adapter_network.vit_model.blocks.",
    "side_adapter.fusion.": "side_adapter_network.fusion_layers.layer_",
    "side_adapter.decoder.query.": "side_adapter_network.mask_decoder.query_mlp.layers.",
    "side_adapter.decoder.pixel.": "side_adapter_network.mask_decoder.pix_mlp.layers.",
    "side_adapter.decoder.bias.": "side_adapter_network.mask_decoder.attn_mlp.layers.",
    "side_adapter.decoder.bias_scale": "side_adapter_network.mask_decoder.bias_scaling.weight",
    "side_adapter.decoder.bias_offset": "side_adapter_network.mask_decoder.bias_scaling.bias",
}
_OFFICIAL_BUFFERS = ("criterion.empty_weight", "ov_classifier.attn_mask")  # follow from the configuration
_OPEN_CLIP = {
    "logit_scale": "logit_scale",
    "text.embedding.": "token_embedding.",
    "text.position": "positional_embedding",
    "text.blocks.": "transformer.resblocks.",
    "text.norm_final.": "ln_final.",
    "text.projection": "text_projection",
    "visual.class_token": "visual.class_embedding",
    "visual.position": "visual.positional_embedding",
    "visual.stem.convolution.": "visual.conv1.",
    "visual.norm_pre.": "visual.ln_pre.",
    "visual.blocks.": "visual.transformer.resblocks.",
    "visual.norm_post.": "visual.ln_post.",
    "visual.projection": "visual.proj",
}
_CLIP_BLOCK = {
    ".norm_1.": ".ln_1.",
    ".qkv.": ".attn.in_proj_",
    ".out.": ".attn.out_proj.",
    ".norm_2.": ".ln_2.",
    ".up.": ".mlp.c_fc.",
    ".down.": ".mlp.c_proj.",
}
_SIDE_BLOCK = {
    ".norm_1.": ".norm1.",
    ".qkv.": ".attn.qkv.",
    ".out.": ".attn.proj.",
    ".norm_2.": ".norm2.",
    ".up.": ".mlp.fc1.",
    ".down.": ".mlp.fc2.",
}
_FUSION = {".norm.": ".input_proj.0.", ".project.": ".input_proj.1."}


def official_name(ours: str, split: int) -> str:
    """The released checkpoints' name of one of our tensors. CLIP's blocks from `split` on are their rec_head's."""
    theirs = _begin(ours, _OFFICIAL)
    if ours.startswith("side_adapter.blocks."):
        return _replace(theirs, _SIDE_BLOCK)
    if ours.startswith("side_adapter.fusion."):
        return _replace(theirs, _FUSION)
    if ours.startswith(
        "side_adapter.decoder."
    ):  # ours counts the activations between the layers, theirs does not
        return re.sub(r"layers\.(\d)", lambda match: f"layers.{int(match[1]) // 2}", theirs)
    deep = re.match(r"clip_visual_extractor\.resblocks\.(\d+)", theirs)
    if deep and int(deep[1]) >= split:
        theirs = theirs.replace(deep[0], f"clip_rec_head.resblocks.{int(deep[1]) - split}")
    return _replace(theirs, _CLIP_BLOCK) if ".blocks." in ours else theirs


def open_clip_name(ours: str) -> str:
    """open_clip's name of one of the tensors of our CLIP."""
    theirs = _begin(ours, _OPEN_CLIP)
    return _replace(theirs, _CLIP_BLOCK) if ".blocks." in ours else theirs


def from_official(state: Mapping[str, Tensor], config: SANConfig) -> dict[str, Tensor]:
    """A released SAN's state dict in our names and shapes.

    A state dict that holds only what is trained becomes our adapter's. Raises ValueError where keys are missing or
    left over, or where a shape does not fit `config`.
    """
    with torch.device("meta"):
        san = SAN(config)
    shapes = {name: tensor.shape for name, tensor in san.state_dict().items()}
    if not any(key.startswith("clip_rec_head.") for key in state):
        shapes = {name: shapes[name] for name in san.trained()}
    names = {name: official_name(name, config.split) for name in shapes}
    return _take(state, names, shapes, _OFFICIAL_BUFFERS, f"the released SAN for {config.clip.name}")


def from_open_clip(state: Mapping[str, Tensor], config: CLIPConfig) -> dict[str, Tensor]:
    """An open_clip model's state dict in the names of our `CLIP`.

    Raises ValueError where keys are missing or left over, or where a shape does not fit `config`.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in CLIP(config).state_dict().items()}
    names = {name: open_clip_name(name) for name in shapes}
    return _take(state, names, shapes, ("attn_mask",), f"open_clip's {config.name}")


def official_config(state: Mapping[str, Tensor]) -> SANConfig:
    """Which of the two released SANs a state dict belongs to, by the width of the CLIP that it was made for.

    Raises ValueError for any other.
    """
    position = state.get("clip_visual_extractor.positional_embedding")
    for config in (SAN_VIT_B16, SAN_VIT_L14):
        vision = config.clip.vision
        if position is not None and tuple(position.shape) == (1 + vision.grid**2, vision.width):
            return config
    got = "none" if position is None else f"one of shape {tuple(position.shape)}"
    raise ValueError(
        f"not a released SAN: clip_visual_extractor.positional_embedding is wanted of shape (197, 768) (ViT-B/16)"
        f" or (577, 1024) (ViT-L/14 at 336), the file has {got}: convert a file of Mendel192/san"
    )


def _begin(ours: str, table: Mapping[str, str]) -> str:
    for beginning, theirs in table.items():
        exact = not beginning.endswith(".")
        if ours == beginning if exact else ours.startswith(beginning):
            return theirs + ours.removeprefix(beginning)
    raise AssertionError(f"{ours} has no place in the key map")


def _replace(name: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return name


def _take(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    shapes: Mapping[str, torch.Size],
    buffers: Collection[str],
    wanted: str,
) -> dict[str, Tensor]:
    missing = [theirs for theirs in names.values() if theirs not in state]
    known = {*names.values(), *buffers}
    left = [key for key in state if key not in known]
    if missing or left:
        raise ValueError(f"not {wanted}: {_some('missing', missing)}, {_some('unknown', left)}")
    for ours, theirs in names.items():
        if _sides(state[theirs].shape) != _sides(shapes[ours]):
            raise ValueError(
                f"not {wanted}: {theirs} has shape {tuple(state[theirs].shape)}, wanted {tuple(shapes[ours])}"
            )
    return {ours: state[theirs].reshape(shapes[ours]) for ours, theirs in names.items()}


def _sides(shape: torch.Size) -> list[int]:
    return [side for side in shape if side != 1]


def _some(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} keys {what}" + (f" ({shown})" if keys else "")
