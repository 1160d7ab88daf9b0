"""Encoded pictures on disk: new words need no network, answers are the same, and damage costs only time."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sanseg.folders import work
from sanseg.folders.folder import Crew, segment_files
from sanseg.folders.keep import KeptPictures, holds_earlier, rounded
from sanseg.folders.work import Settings
from sanseg.formats import FORMATS
from sanseg.images import Geometry, ImageSource, read_image
from sanseg.model.san import SAN, Proposals
from sanseg.segmenter import Encoded, Segmenter
from sanseg.vocabulary import Vocabulary
from tests.folders.pictures import WORDS, no_load, paint, segmented, tree

NEW = Vocabulary.from_text("dog, house").with_other("river")


class Counting:
    """The SAN, and how many pictures went through it."""

    def __init__(self, san: SAN) -> None:
        self.san = san
        self.pictures = 0

    def propose(self, image_B3HW: Tensor) -> Proposals:
        self.pictures += len(image_B3HW)
        return self.san.propose(image_B3HW)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(3):
        paint(tmp_path / f"photos/{seed}.png", seed, (50 + 9 * seed, 40))
    return tmp_path / "photos"


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_words_need_no_network_and_give_the_same_bytes(
    photos: Path, tmp_path: Path, tiny_san: SAN, dtype: torch.dtype
) -> None:
    network = Counting(tiny_san.to(dtype))
    segmenter = Segmenter(tiny_san, proposer=network)
    kept = tmp_path / "kept"
    formats = ("overlay", "index", "json")
    segmented(photos, tmp_path / "first", segmenter, encoded=kept, formats=formats)
    assert (network.pictures, len(files(kept))) == (3, 3)
    for words, folder in ((WORDS, "second"), (NEW, "new")):
        segmented(photos, tmp_path / folder / "first", segmenter, words, encoded=kept, formats=formats)
        assert network.pictures == 3
    segmented(photos, tmp_path / "fresh/first", segmenter, NEW, encoded=tmp_path / "other", formats=formats)
    assert network.pictures == 6
    assert tree(tmp_path / "new/first") == tree(tmp_path / "fresh/first")
    one, two = tree(tmp_path / "first"), tree(tmp_path / "second/first")
    del one["index.html"], two["index.html"]  # they say where the photos are
    assert one == two


def test_what_the_stem_sees_is_kept_too(photos: Path, tmp_path: Path, tiny_seeing_san: SAN) -> None:
    segmenter = Segmenter(tiny_seeing_san)
    keep = KeptPictures(tmp_path / "kept", "weights", segmenter)
    encoded = rounded(segmenter.encode(photos / "0.png"))
    keep.put("picture", encoded)
    found = keep.get("picture")
    assert found is not None
    proposals, geometry = found
    assert geometry == encoded.geometry
    assert len(proposals.tensors) == 3
    for one, wanted in zip(proposals.tensors, encoded.proposals.tensors, strict=True):
        assert one.equal(wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_a_known_photo_is_decoded_only_where_something_shows_it(
    photos: Path, tmp_path: Path, tiny_san: SAN, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, read = Counting(tiny_san), []
    crew = Crew(Segmenter(tiny_san, proposer=network), no_load)

    def counted(source: ImageSource) -> object:
        read.append(source)
        return read_image(source)

    def files_of(out: Path, encoded: Path | None) -> dict[str, bytes]:
        settings = Settings(out, NEW, (name,), encoded)
        outcome = segment_files({photos / "0.png": "0"}, crew, settings)
        assert outcome.failed == []
        return tree(out)

    monkeypatch.setattr(work, "read_image", counted)
    first = files_of(tmp_path / "first", tmp_path / "kept")
    assert files_of(tmp_path / "second", tmp_path / "kept") == first
    assert network.pictures == 1
    assert len(read) == (name in ("overlay", "labelme"))


def test_a_picture_is_known_by_its_content_and_its_network(
    photos: Path, tmp_path: Path, tiny_san: SAN
) -> None:
    kept = tmp_path / "kept"
    network = Counting(tiny_san)
    segmented(photos, tmp_path / "a", Segmenter(tiny_san, proposer=network), encoded=kept)
    photos.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    (moved / "0.png").rename(moved / "other name.png")
    segmented(moved, tmp_path / "b", Segmenter(tiny_san, proposer=network), encoded=kept)
    assert network.pictures == 3
    paint(moved / "1.png", seed=8)
    segmented(moved, tmp_path / "b", Segmenter(tiny_san, proposer=network), encoded=kept)
    assert (network.pictures, len(files(kept))) == (4, 4)
    segmented(moved, tmp_path / "c", Segmenter(tiny_san, proposer=network, resize="demo"), encoded=kept)
    assert network.pictures == 7
    tiny_san.nothing.data += 1
    segmented(moved, tmp_path / "d", Segmenter(tiny_san, proposer=network), encoded=kept)
    assert network.pictures == 10


@pytest.mark.parametrize("damage", ["short", "empty", "flipped", "swapped", "shape"])
def test_damage_costs_only_time(photos: Path, tmp_path: Path, tiny_san: SAN, damage: str) -> None:
    kept, network = tmp_path / "kept", Counting(tiny_san)
    segmenter = Segmenter(tiny_san, proposer=network)
    segmented(photos, tmp_path / "a/out", segmenter, encoded=kept)
    file, *others = files(kept)
    whole = file.read_bytes()
    if damage == "flipped":
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage == "swapped":
        file.write_bytes(others[0].read_bytes())  # whole, but of another picture
    elif damage == "shape":
        file.write_bytes(whole.replace(b'"F32"', b'"I32"'))
    else:
        file.write_bytes(whole[: 0 if damage == "empty" else len(whole) // 2])
    segmented(photos, tmp_path / "b/out", segmenter, encoded=kept)
    assert network.pictures == 4
    assert tree(tmp_path / "a/out").keys() == tree(tmp_path / "b/out").keys()
    assert tree(tmp_path / "a/out")["0.index.png"] == tree(tmp_path / "b/out")["0.index.png"]
    assert file.read_bytes() == whole, "and it is written again"


def test_what_is_kept_is_what_was_rounded(photos: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    kept = KeptPictures(tmp_path / "kept", "network", segmenter)
    assert kept.get("00") is None
    encoded = segmenter.encode(photos / "2.png")
    extremes = torch.tensor([-1e9, 65505, 1e-9, -0.1])
    with torch.inference_mode():
        encoded.proposals.mask_logits[0, 0, 0, :4] = extremes
    asked = rounded(encoded)
    kept.put("00", asked)
    found = kept.get("00")
    assert found is not None
    proposals, geometry = found
    assert geometry == encoded.geometry
    for name in ("mask_logits", "embeddings"):
        np.testing.assert_array_equal(getattr(proposals, name), getattr(asked.proposals, name))
    assert proposals.mask_logits.dtype == torch.float32
    assert proposals.mask_logits[0, 0, 0, :3].tolist() == [-65504, 65504, 0]
    torch.testing.assert_close(
        proposals.mask_logits[0, 1:], encoded.proposals.mask_logits[0, 1:], rtol=2**-11, atol=2**-25
    )
    assert kept.get("01") is None
    assert KeptPictures(tmp_path / "kept", "another", segmenter).get("00") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_hides_nothing_that_an_answer_refuses(segmenter: Segmenter, dtype: torch.dtype) -> None:
    masks = torch.tensor([torch.inf, torch.nan, -3e38], dtype=dtype).view(1, 1, 1, 3)
    encoded = Encoded(Proposals(masks, masks), Geometry((1, 3), (1, 3), (1, 3)), None, segmenter)
    infinite, nan, large = rounded(encoded).proposals.mask_logits.flatten().tolist()
    assert (infinite, nan != nan, large) == (torch.inf, True, -65504)


@pytest.mark.parametrize("content", [b"\0" * 10**8, b"\0", None])
def test_no_more_is_unpacked_than_was_kept(
    photos: Path, tmp_path: Path, segmenter: Segmenter, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole file with a right seal, whose packed bytes are others: too many, too few, or torn."""
    kept = KeptPictures(tmp_path / "kept", "network", segmenter)
    compress, lengths = zlib.compress, list[int]()
    if content is None:
        monkeypatch.setattr(zlib, "compress", lambda data, level: compress(data, level)[:-4])
    else:
        monkeypatch.setattr(zlib, "compress", lambda data, level: compress(content, level))
    unpacked = zlib.decompressobj

    class Measured:
        def __init__(self) -> None:
            self.inner = unpacked()

        def decompress(self, data: bytes, most: int) -> bytes:
            lengths.append(len(opened := self.inner.decompress(data, most)))
            return opened

        @property
        def eof(self) -> bool:
            return self.inner.eof

    monkeypatch.setattr(zlib, "decompressobj", Measured)
    encoded = rounded(segmenter.encode(photos / "0.png"))
    kept.put("00", encoded)
    assert kept.get("00") is None
    assert lengths
    assert lengths[0] <= encoded.proposals.mask_logits.numel() + 1


def test_pictures_kept_by_an_earlier_version_are_encoded_again(
    photos: Path, tmp_path: Path, tiny_san: SAN
) -> None:
    kept, network = tmp_path / "kept", Counting(tiny_san)
    segmenter = Segmenter(tiny_san, proposer=network)
    assert not holds_earlier(kept)
    segmented(photos, tmp_path / "a/out", segmenter, encoded=kept)
    assert not holds_earlier(kept)
    whole = [file.read_bytes() for file in files(kept)]
    for file in files(kept):
        numbers = torch.zeros(1, 4, 3, 3)
        save_file({"mask_logits": numbers, "embeddings": numbers + 1, "seal": torch.zeros(32).byte()}, file)
    assert holds_earlier(kept)
    segmented(photos, tmp_path / "b/out", segmenter, encoded=kept)
    assert network.pictures == 6
    assert [file.read_bytes() for file in files(kept)] == whole, "in place of the earlier ones"
    assert tree(tmp_path / "a/out") == tree(tmp_path / "b/out")
