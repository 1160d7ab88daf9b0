"""Segments anything you can name: a picture and words in, a label map out.

    segmenter = sanseg.load()
    segmentation = segmenter("photo.jpg", "sky, tree, building")
    segmentation.save("out.png")

Importing this loads nothing heavy: what a name needs is imported when the name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sanseg.version import VERSION

if TYPE_CHECKING:
    from sanseg.model.san import SAN
    from sanseg.segmentation import Segmentation
    from sanseg.segmenter import Segmenter, load
    from sanseg.vocabulary import Vocabulary

__version__ = VERSION

__all__ = ["SAN", "Segmentation", "Segmenter", "Vocabulary", "__version__", "load"]

_HOMES = {
    "SAN": "sanseg.model.san",
    "Segmentation": "sanseg.segmentation",
    "Segmenter": "sanseg.segmenter",
    "Vocabulary": "sanseg.vocabulary",
    "load": "sanseg.segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sanseg' has no attribute {name!r}: it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
