"""Prompts: what is written around a name before the text tower reads it.

A template set is a text: a key of TEMPLATES, or the prompts themselves, one a line, each with {} for the name.
"""

from __future__ import annotations

MAX_PROMPTS = 1_000  # of a set: each name goes through the text tower with each
MAX_CHARACTERS = 256  # of a prompt: CLIP reads 77 tokens at most

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
    # Those that CLIP was measured on ImageNet with (github.com/openai/CLIP, MIT), in its order.
    "imagenet80": (
        "a bad photo of a {}.",
        "a photo of many {}.",
        "a sculpture of a {}.",
        "a photo of the hard to see {}.",
        "a low resolution photo of the {}.",
        "a rendering of a {}.",
        "graffiti of a {}.",
        "a bad photo of the {}.",
        "a cropped photo of the {}.",
        "a tattoo of a {}.",
        "the embroidered {}.",
        "a photo of a hard to see {}.",
        "a bright photo of a {}.",
        "a photo of a clean {}.",
        "a photo of a dirty {}.",
        "a dark photo of the {}.",
        "a drawing of a {}.",
        "a photo of my {}.",
        "the plastic {}.",
        "a photo of the cool {}.",
        "a close-up photo of a {}.",
        "a black and white photo of the {}.",
        "a painting of the {}.",
        "a painting of a {}.",
        "a pixelated photo of the {}.",
        "a sculpture of the {}.",
        "a bright photo of the {}.",
        "a cropped photo of a {}.",
        "a plastic {}.",
        "a photo of the dirty {}.",
        "a jpeg corrupted photo of a {}.",
        "a blurry photo of the {}.",
        "a photo of the {}.",
        "a good photo of the {}.",
        "a rendering of the {}.",
        "a {} in a video game.",
        "a photo of one {}.",
        "a doodle of a {}.",
        "a close-up photo of the {}.",
        "a photo of a {}.",
        "the origami {}.",
        "the {} in a video game.",
        "a sketch of a {}.",
        "a doodle of the {}.",
        "a origami {}.",
        "a low resolution photo of a {}.",
        "the toy {}.",
        "a rendition of the {}.",
        "a photo of the clean {}.",
        "a photo of a large {}.",
        "a rendition of a {}.",
        "a photo of a nice {}.",
        "a photo of a weird {}.",
        "a blurry photo of a {}.",
        "a cartoon {}.",
        "art of a {}.",
        "a sketch of the {}.",
        "a embroidered {}.",
        "a pixelated photo of a {}.",
        "itap of the {}.",
        "a jpeg corrupted photo of the {}.",
        "a good photo of a {}.",
        "a plushie {}.",
        "a photo of the nice {}.",
        "a photo of the small {}.",
        "a photo of the weird {}.",
        "the cartoon {}.",
        "art of the {}.",
        "a drawing of the {}.",
        "a photo of the large {}.",
        "a black and white photo of a {}.",
        "the plushie {}.",
        "a dark photo of a {}.",
        "itap of a {}.",
        "graffiti of the {}.",
        "a toy {}.",
        "itap of my {}.",
        "a photo of a cool {}.",
        "a photo of a small {}.",
        "a tattoo of the {}.",
    ),
}


def prompts(templates: str) -> tuple[str, ...]:
    """The prompts of a template set, each with {} once.

    Raises ValueError for a text that is neither a key of TEMPLATES nor prompts, and for too many or over-long ones.
    """
    if templates in TEMPLATES:
        return TEMPLATES[templates]
    lines = tuple(" ".join(line.split()) for line in templates.split("\n") if line.strip())
    if "{}" not in templates:
        shown = templates if len(templates) <= 40 else templates[:40] + "..."
        raise ValueError(
            f"template set {shown!r} is unknown: use one of {', '.join(TEMPLATES)}, or prompts of your own, one a"
            " line with {} for the name"
        )
    for number, line in enumerate(lines, start=1):
        if line.count("{}") != 1:
            raise ValueError(
                f"prompt {number}, {line[:40]!r}, wants {{}} once, where the name goes: correct it"
            )
        if len(line) > MAX_CHARACTERS or not line.isprintable():
            raise ValueError(
                f"prompt {number}, {line[:40]!r}, has {len(line)} characters, or some that do not print: write at"
                f" most {MAX_CHARACTERS} plain ones"
            )
    if len(lines) > MAX_PROMPTS:
        raise ValueError(
            f"{len(lines)} prompts, at most {MAX_PROMPTS} are read for each name: leave some out"
        )
    return lines
