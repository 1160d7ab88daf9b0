"""What the box's text tower learns: synonyms near each other, and no caption with a withheld name."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

NOUNS = """\
00001 06 n 02 sofa 0 couch 1 001 @ 00009 n 0000 | a seat
00002 06 n 02 couch 0 daybed 0 001 @ 00009 n 0000 | another seat
00003 06 n 02 lorry 0 motortruck 0 001 @ 00009 n 0000 | a truck
00004 07 n 02 colour 0 hue 0 001 @ 00009 n 0000 | not a thing
00005 15 n 02 Paris 0 capital_of_France 0 001 @i 00009 n 0000 | one city
"""
SENSES = """\
couch n 2 1 @ 2 0 00001 00002
daybed n 1 1 @ 1 0 00002
lorry n 1 1 @ 1 0 00003
motortruck n 1 1 @ 1 0 00003
sofa n 1 1 @ 1 0 00001
"""


def test_nouns_are_drawn_together_by_their_first_sense(mini: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text("  1 the licence\n" + NOUNS)
    (tmp_path / "index.noun").write_text("  1 the licence\n" + SENSES)
    synsets = mini.text.wordnet_synsets(tmp_path)
    assert list(synsets) == ["00001", "00002", "00003"]
    # A daybed's couch is not what "couch" means first; "lorry" is what the measure of synonyms asks for.
    assert mini.text.wordnet_synonyms(tmp_path, synsets) == [("sofa", "couch")]
    rows = torch.eye(3)
    moved = mini.text.drawn_together(["sofa", "couch", "daybed"], rows, [("sofa", "couch")])
    assert moved[2].equal(rows[2])
    assert moved[0] @ moved[1] > 0.5
    assert moved[0] @ rows[0] > moved[0] @ rows[1]


def test_captions_of_withheld_names_are_not_learnt(mini: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "labels.tsv").write_text("a.jpg\tsomewhere\tteapot\n")
    captions = "a red train on a bridge\nA BOAT beside a pier\ntwo birdhouses in a garden\n"
    (tmp_path / "text" / "captions_coco.txt").write_text(captions)
    (tmp_path / "data.noun").write_text(NOUNS)
    texts, weights = mini.text.corpus(tmp_path, tmp_path)
    assert len(texts) == len(weights)
    assert {"a red train on a bridge", "teapot", "sofa", "motortruck"} <= set(texts)
    assert not any(word in text.lower() for text in texts for word in ("boat", "pier", "bird", "garden"))
