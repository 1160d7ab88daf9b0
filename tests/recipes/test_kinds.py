"""Words move towards the label that they are a kind of."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

NOUNS = """\
00001 18 n 01 woman 0 001 @ 00002 n 0000 | who is grown up
00002 18 n 02 adult 0 grownup 0 001 @ 00003 n 0000 | a person
00003 18 n 02 person 0 soul 0 001 @ 00004 n 0000 | somebody
00004 03 n 01 food 0 000 | what nourishes
00005 13 n 01 coffee 0 001 @ 00004 n 0000 | a drink
00006 06 n 01 boat 0 001 @ 00007 n 0000 | floats
00007 06 n 01 craft 0 000 | moves
00008 06 n 02 woman 1 canoe 0 001 @ 00006 n 0000 | a boat, by a second sense
00009 06 n 01 rowing_boat 0 001 @ 00006 n 0000 | what the measure of synonyms asks for
"""
SENSES = """\
adult n 1 1 @ 1 0 00002
boat n 1 1 @ 1 0 00006
canoe n 1 1 @ 1 0 00008
coffee n 1 1 @ 1 0 00005
craft n 1 1 @ 1 0 00007
food n 1 1 @ 1 0 00004
grownup n 1 1 @ 1 0 00002
person n 1 1 @ 1 0 00003
rowing_boat n 1 1 @ 1 0 00009
soul n 1 1 @ 1 0 00003
woman n 2 1 @ 2 0 00001 00008
"""


def test_a_noun_is_a_kind_of_the_nearest_label_above_its_first_sense(
    mini: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "data.noun").write_text("  1 the licence\n" + NOUNS)
    (tmp_path / "index.noun").write_text("  1 the licence\n" + SENSES)
    found = mini.kinds.kinds(tmp_path, ["person", "food", "boat"])
    assert found == {"woman": "person", "adult": "person", "grownup": "person", "canoe": "boat"}
    nearer = mini.kinds.kinds(tmp_path, ["person", "adult"])
    assert nearer["woman"] == "adult"
    assert "adult" not in nearer


def test_moved_nouns_lie_between_themselves_and_their_label(mini: ModuleType) -> None:
    rows = torch.eye(4)
    texts = ["person", "woman", "canoe", "sky"]
    targets = mini.kinds.moved(texts, rows, {"woman": "person", "canoe": "boat"})
    assert targets[[0, 2, 3]].equal(rows[[0, 2, 3]])  # no boat among the texts
    torch.testing.assert_close(targets[1], torch.tensor([0.5, 0.5, 0, 0]).sqrt())
