"""`sanseg evaluate` says what the library measures; each flag changes something; exit codes are as promised."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from sanseg.baselines import METHODS
from sanseg.cli import app, shell
from sanseg.cli.evaluate import TRAINED_ON, read_seen
from sanseg.data.datasets import SegmentationSet
from sanseg.data.labelsets import read_labelset
from sanseg.evaluate import evaluate, without_rivals
from sanseg.expect import authors_figures
from sanseg.model import weights
from sanseg.model.checkpoint import fingerprint
from sanseg.model.san import SAN
from sanseg.segmenter import load
from sanseg.vocabulary import Vocabulary

Evaluate = Callable[..., Result]
LABELS = ["cat | kitten", "dog", "horse", "grass"]
SCALARS = ("miou_present", "miou_union", "fwiou", "macc", "pacc")


def write_set(folder: Path, labels: list[str], pictures: int, seed: int) -> None:
    """A set of patches whose split is "val"."""
    rng = np.random.default_rng(seed)
    stems = [f"p{number}" for number in range(pictures)]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for stem in stems:
        small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize((60, 40)).save(folder / "images" / f"{stem}.png")
        mask = np.kron(rng.integers(0, len(labels), (4, 6)), np.ones((10, 10), int)).astype(np.uint8)
        mask[:3] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "splits": {"val": stems, "none": []}}))


@pytest.fixture
def run(tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """`sanseg evaluate` in a folder with tiny.safetensors and the sets pets and plants."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    tiny_san.labels = ("Kitten", "horse")
    weights.save_san("tiny.safetensors", tiny_san)
    write_set(tmp_path / "pets", LABELS, 5, seed=1)
    write_set(tmp_path / "plants", ["fern", "oak"], 3, seed=2)

    def invoke(*arguments: str, code: int = 0) -> Result:
        data = () if "--data" in arguments else ("--data", "pets")
        model = () if "--model" in arguments else ("--model", "tiny.safetensors")
        result = CliRunner().invoke(app, ["evaluate", *data, *model, "--device", "cpu", *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke


def figures(run: Evaluate, *arguments: str, code: int = 0) -> dict[str, Any]:
    run("--json", "out.json", "--quiet", *arguments, code=code)
    written: dict[str, Any] = json.loads(Path("out.json").read_text())
    return written


def test_what_is_written_is_what_the_library_measures(run: Evaluate) -> None:
    written = figures(run)
    segmenter = load("tiny.safetensors", "cpu")  # with the same cache of words, to the bit
    measured = evaluate(
        without_rivals(segmenter),
        SegmentationSet.open("pets", "val"),
        device=segmenter.device,
        seen=["kitten", "horse"],
        boundary=True,
        extremes=4,
    ).to_dict()
    assert written["miou_present"] > 0
    assert {name: written[name] for name in measured if name != "seconds"} == {
        name: value for name, value in measured.items() if name != "seconds"
    }


def test_the_form_of_the_file(run: Evaluate, tiny_san: SAN, monkeypatch: pytest.MonkeyPatch) -> None:
    """The five numbers in percent, then per class, the command, commit, checksum and hash."""
    monkeypatch.setattr(sys, "argv", ["/bin/sanseg", "evaluate", "--data", "a b"])
    written = figures(run)
    assert list(written)[:5] == list(SCALARS)
    assert all(0 <= written[name] <= 100 for name in SCALARS)
    assert written["labels"] == ["cat", "dog", "horse", "grass"]
    for each in (
        "iou",
        "acc",
        "boundary_iou",
        "detectron2_boundary_iou",
        "detectron2_min_iou",
        "pixels",
        "seen",
    ):
        assert len(written[each]) == 4
    assert len(written["reliability"]) == 15
    assert written["pictures"] == 5
    assert len(written["worst"]) == len(written["best"]) == 4
    assert written["failures"] == []
    assert written["command"] == "sanseg evaluate --data 'a b'"
    assert written["model"] == "tiny.safetensors"
    assert written["model_name"] == "tiny"
    assert written["model_checksum"] == fingerprint(tiny_san)
    assert written["vocabulary_hash"] == Vocabulary.of(LABELS).hash
    assert (written["resize"], written["short_side"], written["scales"]) == ("evaluation", 64, [1])
    assert (written["split"], written["form"], written["dtype"]) == ("val", "folder", "float32")


def test_several_sets_have_a_mean_and_figures_of_their_own(run: Evaluate) -> None:
    pets = figures(run)
    plants = figures(run, "--data", "plants")
    both = figures(run, "--data", "pets", "--data", "plants")
    assert list(both["sets"]) == ["pets", "plants"]
    for name in SCALARS:
        assert both[name] == pytest.approx((pets[name] + plants[name]) / 2)
        assert both["sets"]["pets"][name] == pets[name]
    assert both["sets"]["plants"]["vocabulary_hash"] == plants["vocabulary_hash"]
    assert "iou" not in both


def test_sets_of_one_name_are_told_apart_by_their_folders(run: Evaluate) -> None:
    write_set(Path("deep/pets"), ["cat", "dog"], 2, seed=3)
    assert list(figures(run, "--data", "pets", "--data", "deep/pets")["sets"]) == ["pets", "deep/pets"]
    told = run("--data", "pets", "--data", "pets", code=shell.BAD_USE).stderr
    assert "names the same folder twice" in told


def test_tables_are_printed_and_how_pictures_were_resized(run: Evaluate) -> None:
    told = run().stdout
    for expected in (
        "pets val, 5 pictures",
        "mIoU over the labels present or predicted (detectron2 v0.6)",
        "mean boundary IoU",
        "harmonic mean of seen and unseen",
        "expected calibration error",
        "tiny.safetensors on cpu in float32.",
        "Pictures were resized the evaluation's way: bilinear, short side 64 pixels, long side at most 256.",
        "seconds a picture",
    ):
        assert expected in told
    rows = {line.split("│")[1].strip(): line for line in told.splitlines() if line.count("│") > 4}
    written = figures(run)
    for label, iou in zip(written["labels"], written["iou"], strict=True):
        assert f"{iou:.2f}" in rows[label]
    assert rows["horse"].split("│")[-2].strip() == "yes"
    assert rows["dog"].split("│")[-2].strip() == "no"
    assert "mean boundary IoU" not in run("--no-boundary").stdout
    assert run("--quiet").output == ""


def test_labels_that_look_like_markup_are_printed_as_they_are(run: Evaluate) -> None:
    write_set(Path("odd[bold]"), ["[red]", "dog"], 2, seed=3)
    told = run("--data", "odd[bold]").stdout
    assert "[red]" in told
    assert "odd[bold] val" in told


def test_words_of_your_own_are_asked(run: Evaluate) -> None:
    plain = figures(run)
    Path("words.txt").write_text("lion\nwolf | dog\nzebra\nmeadow\n")
    own = figures(run, "--labels", "words.txt")
    assert own["labels"] == plain["labels"]
    assert own["calibration_error"] != plain["calibration_error"]
    assert own["vocabulary_hash"] == Vocabulary.of(["lion", "wolf | dog", "zebra", "meadow"]).hash
    best = figures(run, "--labels", "words.txt", "--synonyms", "best")
    assert best["calibration_error"] != own["calibration_error"]
    assert best["synonyms"] == "best"
    assert best["templates"] == "vild"
    plain = figures(run, "--templates", "plain")
    assert plain["templates"] == "plain"
    assert plain["vocabulary_hash"] != best["vocabulary_hash"]
    assert best["vocabulary_hash"] != own["vocabulary_hash"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cat\ndog\n", "has 2 labels, pets has 4: write a line for each"),
        ("cat\n\ndog\nhorse\ngrass\n", "line 2 of words.txt is blank"),
        ("cat\ndog\nCat\ngrass\n", "name the same thing twice"),
        ("", "holds no labels"),
        ("\n".join(f"thing {number}" for number in range(5000)), "has 5000 labels, pets has 4"),
        ("cat\ndog | cat\nhorse\ngrass", "'cat' is a name of two labels"),
    ],
)
def test_words_that_do_not_fit_are_refused(run: Evaluate, text: str, reason: str) -> None:
    Path("words.txt").write_text(text)
    told = run("--labels", "words.txt", code=shell.BAD_USE).stderr
    assert reason in told
    assert told.count("\n") == 1


def test_the_flip_and_the_scales_change_the_answer(run: Evaluate) -> None:
    found = [figures(run, *flags) for flags in ((), ("--flip",), ("--scales", "1,1.5"), ("--scales", "1.5"))]
    assert len({one["calibration_error"] for one in found}) == 4
    assert [one["flip"] for one in found] == [False, True, False, False]
    assert found[2]["scales"] == [1, 1.5]
    told = run("--flip", "--scales", "0.75,1,1.25").stdout
    assert "means over 6 views: these sides times 0.75, 1, 1.25, each also mirrored" in told


def test_each_method_changes_the_answer(run: Evaluate) -> None:
    found = {method: figures(run, "--method", method) for method in METHODS}
    assert [one["method"] for one in found.values()] == ["san", "simseg", "maskclip"]
    assert len({one["calibration_error"] for one in found.values()}) == 3
    assert figures(run)["calibration_error"] == found["san"]["calibration_error"], "the default"
    views = figures(run, "--method", "maskclip", "--scales", "1,1.5")
    assert views["calibration_error"] != found["maskclip"]["calibration_error"]
    assert "simseg named them" in run("--method", "simseg").stdout
    assert "named them" not in run().stdout


def test_seen_labels_come_from_a_file_or_a_label_set(run: Evaluate, tiny_san: SAN) -> None:
    assert figures(run)["seen"] == [True, False, True, False], "as the checkpoint says"
    assert figures(run, "--seen", "pascal_context_59")["seen"] == [True, True, True, True]
    Path("seen.txt").write_text("dog\nlawn | GRASS\n")
    assert figures(run, "--seen", "seen.txt")["seen"] == [False, True, False, True]
    tiny_san.labels = ()
    weights.save_san("silent.safetensors", tiny_san)
    silent = figures(run, "--model", "silent.safetensors")
    assert silent["seen"] == [None] * 4
    assert silent["miou_harmonic"] is None
    told = run("--seen", "nothing.txt", code=shell.BAD_USE).stderr
    assert "nothing.txt does not exist" in told


def test_the_named_models_are_known_to_have_seen_something() -> None:
    assert set(TRAINED_ON) == set(weights.NAMED)
    seen = read_seen(None, "mini")
    assert seen is not None
    assert any("grass" in line for line in seen)


def test_boundaries_cost_nothing_when_they_are_not_wanted(run: Evaluate) -> None:
    without = figures(run, "--no-boundary")
    assert without["miou_boundary"] is None
    assert without["boundary_iou"] == [None] * 4
    assert without["iou"] == figures(run)["iou"]


def test_only_the_first_pictures(run: Evaluate) -> None:
    assert figures(run, "--limit", "2")["pictures"] == 2
    run("--limit", "0", code=shell.BAD_USE)


def test_a_picture_that_cannot_be_read_is_left_out_and_named(run: Evaluate) -> None:
    Path("pets/images/p1.png").write_bytes(b"no picture")
    Path("pets/masks/p3.png").unlink()
    Image.new("L", (3, 3)).save("pets/masks/p4.png")
    result = run("--json", "out.json", code=shell.SOME_FAILED)
    written = json.loads(Path("out.json").read_text())
    assert written["pictures"] == 2
    assert [line.partition(":")[0] for line in written["failures"]] == ["pets/p1", "pets/p3", "pets/p4"]
    assert "pets val, 2 pictures, 3 left out" in result.stdout
    complaints = result.stderr.splitlines()
    assert len(complaints) == 3
    assert all(line.startswith("left out: pets/p") for line in complaints)


def test_nothing_that_can_be_read_is_bad_use(run: Evaluate) -> None:
    for path in Path("pets/images").iterdir():
        path.write_bytes(b"no picture")
    told = run("--json", "out.json", code=shell.BAD_USE).stderr
    assert "no picture of pets could be evaluated" in told
    assert not Path("out.json").exists()


def test_no_labelled_pixel_is_bad_use(run: Evaluate) -> None:
    for path in Path("pets/masks").iterdir():
        Image.new("L", (60, 40), 255).save(path)
    assert "no pixel has a label" in run(code=shell.BAD_USE).stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--data", "nowhere"), "nowhere is not a folder"),
        (("--split", "test"), "has no split 'test'"),
        (("--split", "none"), "pets has no pictures in 'none'"),
        (("--form", "odd"), "form 'odd' is unknown"),
        (("--model", "odd"), "'odd' is neither the name of a model"),
        (("--scales", "big"), "the scales are 'big': give numbers"),
        (("--scales", "9"), "a scale is 9.0: wanted 0.25 to 3"),
        (("--scales", "nan"), "a scale is nan"),
        (("--method", "clip"), "method is 'clip': choose from san, simseg, maskclip"),
        (("--dtype", "int8"), "dtype is 'int8': choose from auto, float32, bfloat16, float16"),
        (("--synonyms", "first"), "cannot be taken as 'first'"),
        (("--device", "tpu"), "no kind of device called 'tpu'"),
        (("--json", "out.txt"), "let it end in .json"),
        (("--figure", "out.jpg"), "let it end in .png"),
        (("--json", "pets/dataset.json/out.json"), "dataset.json"),
        (("--expect", "authors"), "the labels of pets are no benchmark's"),
        (("--expect", "authors", "--method", "simseg"), "are of SAN, the method is simseg"),
        (("--expect", "authors:voc_20"), "not of 'tiny'"),
        (("--expect", "none.json"), "none.json"),
    ],
)
def test_mistakes_are_told_in_one_line(run: Evaluate, arguments: tuple[str, ...], reason: str) -> None:
    told = run(*arguments, code=shell.BAD_USE).stderr
    assert reason in told
    assert told.count("\n") == 1


def test_half_precision_is_close(run: Evaluate) -> None:
    full, half = figures(run), figures(run, "--dtype", "bfloat16")
    assert half["dtype"] == "bfloat16"
    assert half["calibration_error"] != full["calibration_error"]
    assert half["pacc"] == pytest.approx(full["pacc"], abs=5)


def test_an_evaluation_before_can_be_expected(run: Evaluate) -> None:
    before = figures(run)
    Path("out.json").rename("before.json")
    told = run("--expect", "before.json").stdout
    assert "0 of 4 labels differ by more than 0.1" in told
    before["miou_present"] += 0.3
    before["iou"][1] += 2
    Path("before.json").write_text(json.dumps(before))
    result = run("--expect", "before.json", code=shell.SOME_FAILED)
    assert "differs by -0.30 from before.json on pets" in result.stderr
    assert "1 of 4 labels differ by more than 0.1" in result.stdout
    assert "IoU of dog" in result.stdout
    assert figures(run, "--expect", "before.json", code=shell.SOME_FAILED)["pictures"] == 5, "still written"


def test_the_authors_figures_are_the_measure_of_their_models(run: Evaluate, tiny_san: SAN) -> None:
    """A set with a benchmark's labels, and a model of a released name, which is as bad as random weights are."""
    from dataclasses import replace

    write_set(Path("pascal"), list(read_labelset("voc_20")), 3, seed=4)
    tiny_san.config = replace(tiny_san.config, name="san-vit-b-16")
    weights.save_san("named.safetensors", tiny_san)
    arguments = ("--data", "pascal", "--model", "named.safetensors", "--expect")
    result = run(*arguments, "authors", code=shell.SOME_FAILED)
    expected = authors_figures("san-vit-b-16", "voc_20")
    assert "against the authors' log of san-vit-b-16 on voc_20" in result.stdout
    assert f"{expected.summary['miou_present']:.2f}" in result.stdout
    assert "the mIoU differs by -" in result.stderr
    assert run(*arguments, "authors:voc_20", code=shell.SOME_FAILED).stdout
    told = run(*arguments, "authors:ade20k_150", code=shell.BAD_USE).stderr
    assert "is about 150 labels, the set has 20" in told


# A model that takes half a second for a view of a picture, and tells of each.
SLOW = """
import time
from sanseg.cli import main
from sanseg.model.san import SAN

propose = SAN.propose

def slowly(san, images):
    print("a view", flush=True)
    time.sleep(0.5)
    return propose(san, images)

SAN.propose = slowly
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
def test_an_interrupt_ends_at_once_with_its_code(run: Evaluate, tmp_path: Path) -> None:
    write_set(tmp_path / "many", ["cat", "dog"], 60, seed=5)
    command = [sys.executable, "-c", SLOW, "evaluate", "--data", "many", "--model", "tiny.safetensors"]
    process = subprocess.Popen(
        [*command, "--json", "out.json", "--device", "cpu", "--scales", "2,3", "--flip"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell lets its background jobs ignore SIGINT, and their children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "a view\n"
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=20)
    assert process.returncode == shell.INTERRUPTED, told
    assert told == "sanseg: interrupted\n"
    assert not out.replace("a view\n", "")
    assert not Path("out.json").exists()


def test_two_processes_write_what_one_writes(run: Evaluate, tmp_path: Path) -> None:
    """Started by torchrun; only the first prints, and the file is the same."""
    Path("pets/images/p1.png").write_bytes(b"no picture")
    alone = figures(run, code=shell.SOME_FAILED)
    (tmp_path / "start.py").write_text("from sanseg.cli import evaluate, main\nmain()\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["evaluate", "--data", "pets", "--model", "tiny.safetensors", "--device", "cpu"]
    process = subprocess.Popen(
        [*launcher, "start.py", *arguments, "--json", "both.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    try:
        out, told = process.communicate(timeout=100)
    finally:
        process.terminate()  # torchrun then ends its workers
        process.wait(20)
    assert process.returncode == 1, told
    assert out.count("seconds a picture") == 1
    assert told.count("left out: pets/p1") == 1
    both = json.loads(Path("both.json").read_text())
    for name in ("command", "seconds"):
        del alone[name], both[name]
    for one in (both, alone):
        del one["commit"]  # another process may find the installed package rather than the checkout
    assert both.pop("calibration_error") == pytest.approx(alone.pop("calibration_error"))
    assert len(both.pop("reliability")) == len(alone.pop("reliability"))
    assert both == alone


def test_processes_that_were_given_one_device_are_refused(
    run: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = run("--device", "cuda:1", code=shell.BAD_USE).stderr
    assert "device 'cuda:1' for several processes: give auto, cuda or cpu" in told


def test_the_figure_is_drawn_for_each_set(run: Evaluate) -> None:
    run("--figure", "one.png", "--limit", "1")
    run("--figure", "figures/both.png", "--data", "pets", "--data", "plants", "--limit", "1")
    drawn = [Path("one.png"), Path("figures/both-pets.png"), Path("figures/both-plants.png")]
    sizes = []
    for path in drawn:
        with Image.open(path) as picture:
            picture.load()
            sizes.append(picture.size)
    assert min(min(size) for size in sizes) > 300
    assert not Path("figures/both.png").exists()
