"""An exported program gives what the network gives, at every size, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import sanseg
from sanseg import export
from sanseg.cli import app, shell
from sanseg.export import MEMBER, Exported, export_san
from sanseg.model.config import SANConfig
from sanseg.model.san import SAN, Proposals
from sanseg.model.weights import save_san
from sanseg.segmenter import Segmenter
from tests.conftest import TINY, make_san

VISION = TINY.clip.vision
# As ViT-L/14: a grid of CLIP's that the masks' does not divide by, and windows of three where it is pooled.
UNEVEN = replace(TINY, clip=replace(TINY.clip, vision=replace(VISION, patch=14, grid=5)), clip_scale=0.6)
# As the model in the box: a convolutional stem that guesses.
STEM = replace(
    TINY,
    clip=replace(TINY.clip, vision=replace(VISION, stem="efficientnet-lite0", classes=10, kinds=True)),
    side=replace(TINY.side, mask_stride=8),
    clip_scale=1.0,
)


@dataclass(frozen=True)
class Program:
    """A network, the file that the command made of it, and what was loaded from there."""

    san: SAN
    path: Path
    exported: Exported


def assert_same(found: Proposals, wanted: Proposals) -> None:
    torch.testing.assert_close(found.mask_logits, wanted.mask_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.embeddings, wanted.embeddings, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.seen, wanted.seen, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module", params=[UNEVEN, STEM], ids=["uneven", "stem"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    san, folder = make_san(request.param), tmp_path_factory.mktemp("export")
    save_san(folder / "tiny.safetensors", san)
    arguments = ["export", "--model", str(folder / "tiny.safetensors"), "-o", str(folder / "tiny.pt2")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folder / 'tiny.pt2'} written\n"
    return Program(san, folder / "tiny.pt2", Exported.load(folder / "tiny.pt2", san))


def test_the_program_is_the_network_at_every_size(program: Program) -> None:
    for size in ((64, 64), (64, 192), (96, 64), (128, 128), (160, 160), (288, 416)):
        image = torch.randn(1, 3, *size)
        with torch.inference_mode():
            assert_same(program.exported.propose(image), program.san.propose(image))


def test_a_segmenter_does_not_see_the_difference(program: Program) -> None:
    behind_the_seam = Segmenter(program.san, proposer=program.exported)
    photos = [np.random.default_rng(seed).integers(0, 256, (50, 90, 3), dtype=np.uint8) for seed in (1, 2)]
    for found, photo in zip(
        behind_the_seam.segment_many(photos, "cat, sofa", batch_size=2), photos, strict=True
    ):
        assert isinstance(found, sanseg.Segmentation)
        wanted = Segmenter(program.san)(photo, "cat, sofa")
        np.testing.assert_array_equal(found.label_map, wanted.label_map)
        np.testing.assert_allclose(found.confidence, wanted.confidence, atol=1e-5)


def test_sizes_that_it_does_not_take_are_told(program: Program) -> None:
    for size in ((32, 64), (64, 80), (64, 8_224)):
        with pytest.raises(ValueError, match=r"the program takes multiples of 32 from 64 to 8192: resize or"):
            program.exported.propose(torch.empty(1, 3, *size))


def test_the_file_says_how_pictures_are_prepared_and_holds_no_text_tower(program: Program) -> None:
    with ZipFile(program.path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(MEMBER)]
        told = json.loads(archive.read(name))
        held = sum(one.file_size for one in archive.infolist() if "/weights/weight_" in one.filename)
    assert SANConfig.from_dict(told["config"]) == program.san.config
    own = sum(
        one.nbytes for name, one in program.san.state_dict().items() if not name.startswith("clip.text.")
    )
    assert held == own


def test_a_program_of_other_weights_is_refused(program: Program) -> None:
    other = make_san(program.san.config)
    with torch.no_grad():
        other.nothing.add_(1)
    with pytest.raises(ValueError, match=r"was exported from weights .*: load the SAN that it was made of"):
        Exported.load(program.path, other)


def test_what_is_no_program_is_refused_before_it_can_run(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ZipFile(program.path) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(MEMBER)]
    texts = {"empty.pt2": None, "other.pt2": "[]", "old.pt2": '{"format": "0"}', "deep.pt2": 10_000 * "["}
    for name, text in texts.items():
        with ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x/data.pkl" if text is None else member, text or "cos\nsystem\n")
    (tmp_path / "text.pt2").write_text("no program")
    (tmp_path / "cut.pt2").write_bytes(program.path.read_bytes()[:-1_000])
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it was asked"))
    for name in (*texts, "text.pt2", "cut.pt2"):
        with pytest.raises(ValueError, match=rf"{name} was not written by `sanseg export` \(.*: export it"):
            Exported.load(tmp_path / name, program.san)


def test_a_damaged_program_is_told_in_one_line(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ZipFile(program.path) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(MEMBER)]
        told = archive.read(member)
    with ZipFile(tmp_path / "tiny.pt2", "w") as archive:
        archive.writestr(member, told)
    with pytest.raises(
        ValueError, match=r"is no program that torch .* can read \(.*\): export it again"
    ) as e:
        Exported.load(tmp_path / "tiny.pt2", program.san)
    assert "\n" not in str(e.value)
    for error in (RuntimeError, KeyError, AssertionError, BadZipFile):  # as torch raises them
        monkeypatch.setattr(torch.export, "load", lambda _, error=error: raise_(error("bad\nlines")))
        with pytest.raises(
            ValueError, match=r"is no program that torch .* can read \(.*bad.*\): export it again"
        ):
            Exported.load(program.path, program.san)


def raise_(error: Exception) -> None:
    raise error


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    san = make_san(TINY)
    save_san("tiny.safetensors", san)
    Path("tiny.pt2").write_text("what was there")

    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["export", "--model", "tiny.safetensors", "-o", *arguments])
        assert result.exit_code == shell.BAD_USE
        assert {one.name for one in Path().iterdir()} == {"tiny.safetensors", "tiny.pt2"}
        assert Path("tiny.pt2").read_text() == "what was there"
        assert result.stderr.count("\n") == 1
        return result.stderr

    assert "tiny.pt2 exists: choose another name" in invoke("tiny.pt2")
    assert "let it end in .pt2" in invoke("tiny.onnx")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "save", full)
        patch.setattr(export, "_trace", lambda _: None)
        patch.setattr(export, "_compare", lambda *_: None)
        assert "no space left" in invoke("tiny.pt2", "--overwrite")

    class Wrong:
        def module(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
            return lambda image: (san.propose(image).mask_logits + 1, san.propose(image).embeddings)

    with monkeypatch.context() as patch:
        patch.setattr(export, "_trace", lambda _: Wrong())
        assert "makes a program whose answer is" in invoke("tiny.pt2", "--overwrite")
    save_san("tiny.safetensors", make_san(replace(TINY, clip_scale=0.3)))
    assert "the masks' grid is more than twice as fine as CLIP's" in invoke("tiny.pt2", "--overwrite")


def test_the_model_in_the_box_is_exported(tmp_path: Path) -> None:
    segmenter = sanseg.load("mini", "cpu")
    export_san(tmp_path / "mini.pt2", segmenter.san)
    exported = Exported.load(tmp_path / "mini.pt2", segmenter.san)
    found = Segmenter(segmenter.san, proposer=exported)("examples/cat.jpg", "cat, sofa")
    np.testing.assert_array_equal(found.label_map, segmenter("examples/cat.jpg", "cat, sofa").label_map)
