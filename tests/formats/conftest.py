"""What the tests of all formats share."""

from __future__ import annotations

import pytest

from sanseg.segmentation import Segmentation
from tests.formats.results import rings, segmentation


@pytest.fixture
def seg() -> Segmentation:
    return segmentation(rings())
