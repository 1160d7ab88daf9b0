"""What the stem's classes are kinds of, in words."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

NOUNS = """\
00000001 05 n 02 ram 0 tup 0 001 @ 00000002 n 0000 | a male
00000002 05 n 01 sheep 0 002 @ 00000003 n 0000 @ 00000004 n 0000 | woolly
00000003 05 n 01 animal 0 001 @ 00000005 n 0000 | lives
00000004 13 n 01 food 0 001 @ 00000005 n 0000 | feeds
00000005 03 n 01 entity 0 000 | is nothing that can be seen
"""
ROWS = {
    "ram": [1.0, 0, 0],
    "tup": [0, 1.0, 0],
    "sheep": [0, 0, 1.0],
    "animal": [0, 1.0, 0],
    "food": [0, 1.0, 0],
}


class Words:
    """A text encoder that knows ROWS: a group is the mean of its words, at any length."""

    def rows(self, groups: list[tuple[str, ...]], templates: str) -> Tensor:
        return torch.stack([3 * torch.tensor([ROWS[word] for word in group]).mean(0) for group in groups])


def test_a_class_is_known_by_its_words_and_by_what_stands_above_it(mini: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text("  1 the licence\n" + NOUNS)
    ram, odd = mini.classes.with_kinds(tmp_path, [("00000001", "ram"), ("00000009", "odd thing")])
    assert ram == [
        (("ram", "tup"), 1.0),
        (("sheep",), mini.classes.STEP),
        (("animal",), mini.classes.STEP**2),
        (("food",), mini.classes.STEP**2),
    ]
    assert odd == [(("odd thing",), 1.0)]


def test_kinds_count_for_less_the_higher_they_stand(mini: ModuleType) -> None:
    classes = [[(("ram", "tup"), 1.0), (("sheep",), 0.5)], [(("sheep",), 1.0)]]
    found = mini.classes.embed_kinds(Words(), classes)
    mixed = torch.tensor([0.5**0.5, 0.5**0.5, 0.5])
    torch.testing.assert_close(found[0], mixed / mixed.norm())
    torch.testing.assert_close(found[1], torch.tensor([0.0, 0, 1]))


def test_a_photo_tells_its_class_by_what_its_file_is_called(mini: ModuleType) -> None:
    photo = mini.photos.Photo(Path("in_n02412080.jpg"), mini.photos.IMAGENET_SAMPLE, "ram")
    assert mini.classes.synset_of(photo) == "02412080"
    other = mini.photos.Photo(Path("ram.jpg"), mini.photos.IMAGENET_SAMPLE, "ram")
    with pytest.raises(ValueError, match=r"ram.jpg is not called in_n and the 8 digits of a synset"):
        mini.classes.synset_of(other)
