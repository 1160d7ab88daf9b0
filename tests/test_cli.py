"""The command does what the library does, and each flag changes something."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import sanseg
from sanseg.cli import app, shell
from sanseg.formats import FORMATS
from sanseg.model import weights
from sanseg.model.san import SAN
from sanseg.segmenter import Segmenter

Run = Callable[..., Result]


@pytest.fixture
def run(tiny_san: SAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in a folder with photos/one.png, photos/deep/two.png, bad.jpg and tiny.safetensors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SANSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    weights.save_san("tiny.safetensors", tiny_san)
    for name, size, seed in (("one", (60, 40), 1), ("deep/two", (40, 60), 2)):
        path = Path("photos", f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    Path("bad.jpg").write_bytes(b"no picture")

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


def segment(
    run: Run, *arguments: str, photos: tuple[str, ...] = ("photos/one.png",), code: int = 0
) -> Result:
    """`sanseg segment` with the tiny model, words and the folder out, unless the arguments say otherwise."""
    words = () if {"-c", "--labels"} & set(arguments) else ("-c", "sky, tree | woods, cat")
    result = run(
        "segment", *photos, "--model", "tiny.safetensors", "--device", "cpu", "-o", "out", *words, *arguments
    )
    assert result.exit_code == code, result.output
    return result


def files(folder: str = "out") -> set[str]:
    return {path.name for path in Path(folder).glob("*")}


def index(stem: str = "one") -> np.ndarray:
    return np.array(Image.open(f"out/{stem}.index.png"))


def test_what_is_written_is_what_the_library_answers(run: Run, tiny_san: SAN) -> None:
    result = segment(run)
    assert files() == {"one.overlay.png", "one.index.png", "one.json"}
    answer = Segmenter(tiny_san)("photos/one.png", "sky, tree | woods, cat")
    np.testing.assert_array_equal(index(), answer.label_map)
    assert json.loads(Path("out/one.json").read_text()) == answer.to_dict()
    for region in answer.regions():
        assert region.label in result.stdout
    assert "photos/one.png -> out/one.overlay.png, out/one.index.png, out/one.json" in result.stdout
    assert f"1 of 1 segmented into {Path('out').resolve()}" in result.stdout
    assert result.stderr == ""


def test_the_number_type_is_told_and_chosen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tiny.safetensors on cpu in float32\n" in segment(run).stdout
    assert "tiny.safetensors on cpu in bfloat16\n" in segment(run, "--dtype", "bfloat16").stdout
    for native, chosen in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        assert f"on cpu in {chosen}\n" in segment(run, "--dtype", "auto").stdout
    told = segment(run, "--dtype", "int8", code=shell.BAD_USE).stderr
    assert told == "sanseg: dtype is 'int8': choose from auto, float32, bfloat16, float16\n"


def test_files_folders_and_patterns(run: Run) -> None:
    segment(run, photos=("photos",))
    assert {"one.json", "deep", "manifest.jsonl", "index.html"} <= files()
    assert "two.json" in files("out/deep")
    segment(run, "-o", "pattern", photos=("photos/*/*.png", "photos/one.png"))
    assert files("pattern") == {
        f"{stem}.{kind}" for stem in ("one", "two") for kind in ("overlay.png", "index.png", "json")
    }
    assert "photos/nothing" in segment(run, photos=("photos/nothing*",), code=shell.BAD_USE).stderr


def test_one_bad_file_does_not_stop_the_rest(run: Run) -> None:
    result = segment(run, photos=("bad.jpg", "absent.jpg", "photos"), code=shell.SOME_FAILED)
    assert "one.json" in files("out/photos")
    assert "two.json" in files("out/photos/deep")
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("failed: ") for line in lines)
    assert "absent.jpg" in lines[0]
    assert "bad.jpg is no picture" in lines[1]
    assert "2 of 4 segmented" in result.stdout


def test_what_cannot_be_saved_is_named(run: Run) -> None:
    Path("out/one.json").mkdir(parents=True)
    result = segment(run, photos=("photos",), code=shell.SOME_FAILED)
    assert "failed: one.png: " in result.stderr
    assert "two.json" in files("out/deep")


def test_pictures_of_one_name_do_not_overwrite_each_other(run: Run) -> None:
    Path("photos/deep/one.png").write_bytes(Path("photos/deep/two.png").read_bytes())
    Path("photos/one-2.png").write_bytes(Path("photos/deep/two.png").read_bytes())
    segment(run, photos=("photos/*.png", "photos/deep/*.png"))
    names = {path.removesuffix(".json") for path in files() if path.endswith(".json")}
    assert names == {"one", "one-2", "one-3", "two"}


def test_labels_come_from_a_file(run: Run) -> None:
    Path("labels.txt").write_text("bus, coach\ntree | woods\n")
    segment(run, "--labels", "labels.txt")
    labels = json.loads(Path("out/one.json").read_text())["labels"]
    assert labels == [
        {"id": 0, "label": "bus, coach", "synonyms": []},
        {"id": 1, "label": "tree", "synonyms": ["woods"]},
    ]


def test_other_words_replace_the_everyday_ones_or_none_compete(run: Run) -> None:
    def other(*arguments: str) -> list[str]:
        segment(run, "-c", "cat", *arguments)
        words: list[str] = json.loads(Path("out/one.json").read_text())["other"]["words"]
        return words

    assert len(other()) > 30
    assert other("--other", "sofa, wall") == ["sofa", "wall"]
    assert other("--no-other") == []
    assert (index() == 0).all()
    message = segment(run, "--other", "sofa", "--no-other", code=shell.BAD_USE).stderr
    assert "--other and --no-other contradict each other" in message


def test_formats_are_chosen(run: Run) -> None:
    segment(run, "--format", "json, scores,cvat")
    assert files() == {"one.json", "one.scores.npz", "one.cvat.xml"}
    assert 'name="one.png"' in Path("out/one.cvat.xml").read_text(), "the picture by its own name"
    told = segment(run, "--format", "json,gif", code=shell.BAD_USE).stderr
    assert told.startswith("sanseg: there is no format called 'gif': choose from overlay, index, masks, ")


def test_polygons_may_stray(run: Run) -> None:
    segment(run, "--format", "geojson,json", "--simplify", "2.5")
    assert json.loads(Path("out/one.geojson").read_text())["simplify"] == 2.5
    for pixels, reason in (("-1", "polygons cannot stray by -1.0 pixels"), ("nan", "stray by nan pixels")):
        told = segment(run, "--format", "geojson", "--simplify", pixels, code=shell.BAD_USE).stderr
        assert reason in told
    told = segment(run, "--simplify", "2", code=shell.BAD_USE).stderr
    assert "--simplify is for polygons: add one of coco-polygons, yolo, labelme, geojson to --format" in told


@pytest.mark.parametrize("photo", ["photos", "photos/one.png"])
def test_a_missing_extra_is_told_once_and_nothing_is_done(
    run: Run, monkeypatch: pytest.MonkeyPatch, photo: str
) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    told = segment(run, "--format", "json,geojson", photos=(photo,), code=shell.BAD_USE).output
    assert told == (
        "sanseg: the format geojson needs shapely, which is not installed: pip install 'sanseg[formats]'\n"
    )
    assert not Path("out").exists()


def test_quiet_prints_errors_only(run: Run) -> None:
    assert segment(run, "--quiet").output == ""
    result = segment(run, "--quiet", photos=("photos", "bad.jpg"), code=shell.SOME_FAILED)
    assert result.stdout == ""
    assert "bad.jpg" in result.stderr


def test_progress_is_shown_on_a_terminal_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pictures" not in segment(run).stdout
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any output for a terminal
    assert re.search(r"pictures.*1/1", segment(run).stdout)
    assert segment(run, "--quiet").stdout == ""


def test_the_model_and_the_device_are_chosen(run: Run) -> None:
    segment(run, "--device", "cpu")
    assert json.loads(Path("out/one.json").read_text())["model"] == "tiny"
    assert (
        "'large' is neither the name of a model"
        in segment(run, "--model", "large", code=shell.BAD_USE).stderr
    )
    assert "device called 'gpu'" in segment(run, "--device", "gpu", code=shell.BAD_USE).stderr


def test_an_adapter_takes_its_clip_from_another_checkpoint(run: Run, tiny_san: SAN) -> None:
    weights.save_san("adapter.safetensors", tiny_san, kind="adapter")
    assert "holds only a side adapter" in segment(run, "--model", "adapter.safetensors", code=2).stderr
    segment(run, "-o", "whole")
    segment(run, "--model", "adapter.safetensors", "--clip", "tiny.safetensors")
    assert Path("out/one.index.png").read_bytes() == Path("whole/one.index.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-c", "sky,,tree"], "a name is empty in 'sky,,tree'"),
        (["-c", "sky", "--labels", "labels.txt"], "either -c"),
        (["-c", ""], "either -c"),
        (["--labels", "absent.txt"], "absent.txt"),
        (["-c", "cat", "--other", "Cat"], "'Cat' is a label and an other word"),
    ],
)
def test_a_mistake_is_one_line(run: Run, arguments: list[str], reason: str) -> None:
    result = segment(run, *arguments, code=shell.BAD_USE)
    assert result.stderr.startswith("sanseg: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("out").exists()


def test_a_damaged_cache_is_mentioned_and_does_not_matter(run: Run) -> None:
    Path("cache").mkdir()
    Path("cache/text.sqlite").write_bytes(b"no database" * 100)
    result = segment(run)
    assert "text.sqlite" in result.stderr
    assert "one.json" in files()


def test_odd_names_are_printed_as_they_are(run: Run) -> None:
    Path("photos/one.png").rename("photos/[red]one.png")
    result = segment(run, "-c", "[bold]sky", "--no-other", photos=("photos/[[]red]one.png",))
    assert "photos/[red]one.png -> " in result.stdout
    assert "[bold]sky" in result.stdout


def test_convert_writes_a_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def fake(source: Path, out: Path, **options: object) -> None:
        asked.append((source, out, options))

    monkeypatch.setattr(weights, "convert", fake)
    result = run("convert", "a.pth", "b.safetensors")
    assert result.exit_code == 0
    assert "b.safetensors written" in result.stdout
    run("convert", "a.pth", "b.safetensors", "--clip", "mini", "--overwrite")
    pair = Path("a.pth"), Path("b.safetensors")
    assert asked == [
        (*pair, {"clip": None, "overwrite": False}),
        (*pair, {"clip": "mini", "overwrite": True}),
    ]


def test_convert_refuses_what_is_not_a_checkpoint(run: Run) -> None:
    Path("a.pth").write_bytes(b"nothing")
    result = run("convert", "a.pth", "b.safetensors")
    assert result.exit_code == shell.BAD_USE
    assert result.stderr.startswith("sanseg: ")
    assert "a.pth" in result.stderr
    assert not Path("b.safetensors").exists()


def test_models_lists_every_name(run: Run) -> None:
    result = run("models")
    assert result.exit_code == 0
    for name in weights.NAMED:
        assert name in result.stdout
    assert "huggingface.co/Mendel192/san (san_vit_b_16.pth)" in result.stdout


def test_help_names_the_exit_codes_and_version_the_version(run: Run) -> None:
    assert run("--version").stdout == f"{sanseg.__version__}\n"
    for arguments in (["--help"], ["segment", "--help"]):
        text = re.sub(r"\s+", " ", run(*arguments).stdout)
        assert "0 all good; 1 some pictures failed" in text
        assert "2 bad use" in text
        assert "130 interrupted" in text
    told = re.sub(r"[\s│]+", " ", run("segment", "--help").stdout)
    assert f"with commas: {', '.join(FORMATS)} (docs/FORMATS.md)" in told
    assert (shell.SOME_FAILED, shell.BAD_USE, shell.INTERRUPTED) == (1, 2, 130)
    assert run("segment", "--nonsense").exit_code == shell.BAD_USE


def start(*arguments: str) -> subprocess.Popen[str]:
    """`sanseg segment` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "sanseg", "segment", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(sanseg.__file__).parents[1])},
        # A shell lets its background jobs ignore SIGINT, and their children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_finishes_the_pictures_at_hand(run: Run) -> None:
    """Of many pictures some are done, each with all its files, and none of the files is half written."""
    large = Image.open("photos/one.png").resize((900, 600))
    for number in range(200):
        large.save(f"photos/{number:03}.jpg")
    process = start(
        "photos", "--model", "tiny.safetensors", "--device", "cpu", "-o", "out", "-c", "sky, tree"
    )
    assert process.stdout is not None
    while ".jpg: " not in process.stdout.readline():  # the first is told of
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == shell.INTERRUPTED
    stems = {path.name.partition(".")[0] for path in Path("out").glob("*.json")}
    assert 0 < len(stems) < 100
    assert error == f"sanseg: interrupted, {202 - len(stems)} pictures are left: the same command goes on\n"
    written = {f"{stem}.{kind}" for stem in stems for kind in ("overlay.png", "index.png", "json")}
    assert files() - {"deep"} == written | {"manifest.jsonl", "index.html", "index_files"}
    assert len(Path("out/manifest.jsonl").read_text().splitlines()) == 1 + len(stems)
    for stem in stems:
        Image.open(f"out/{stem}.overlay.png").load()
        assert index(stem).shape == (600, 900)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_cleanly(run: Run) -> None:
    """Interrupted while it waits for a named pipe that nobody writes to."""
    os.mkfifo("labels.txt")
    process = start("photos", "--labels", "labels.txt")
    pipe = os.open("labels.txt", os.O_WRONLY)  # returns once the command reads
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    os.close(pipe)
    assert process.returncode == shell.INTERRUPTED
    assert error == "sanseg: interrupted\n"
    assert out == ""


def test_a_folder_ends_with_a_summary_and_goes_on_where_it_was(run: Run) -> None:
    Path("photos/bad.jpg").write_bytes(b"no picture")
    result = segment(run, photos=("photos",), code=shell.SOME_FAILED)
    assert re.search(r"label\W+pictures\W+share of all pixels\W+mean confidence", result.stdout)
    assert f"to look at and to sort: {Path('out/index.html')}\n" in result.stdout
    assert f"2 of 3 segmented into {Path('out').resolve()}" in result.stdout
    assert "done before" not in result.stdout
    assert "one.png: " in result.stdout
    before = Path("out/one.json").stat().st_mtime_ns
    Path("photos/deep/two.png").unlink()
    result = segment(run, photos=("photos",), code=shell.SOME_FAILED)
    assert "1 done before, 1 to do, 1 failed before\n" in result.stdout
    assert "no longer there, their results stay: deep/two.png\n" in result.stdout
    assert "one.png: " not in result.stdout
    assert result.stderr.startswith("failed: ")
    Path("photos/bad.jpg").unlink()
    Image.open("photos/one.png").rotate(180).save("photos/one.png")
    result = segment(run, photos=("photos",))
    assert "changed since they were done: one.png\n" in result.stdout
    assert before != Path("out/one.json").stat().st_mtime_ns


def test_pictures_of_a_folder_are_chosen(run: Run) -> None:
    segment(run, "--include", "*.png", "--exclude", "deep", photos=("photos",))
    assert "one.json" in files()
    assert "deep" not in files()
    segment(run, "-o", "other", "--include", "two.*", photos=("photos",))
    assert "one.json" not in files("other")
    assert "two.json" in files("other/deep")
    for option in (("--include", "*"), ("--exclude", "*.gif"), ("--overwrite",)):
        told = segment(run, *option, code=shell.BAD_USE).stderr
        assert told == "sanseg: --include, --exclude and --overwrite are for folders: give one\n"


def test_other_words_need_another_folder_or_overwrite(run: Run) -> None:
    segment(run, photos=("photos",))
    told = segment(run, "-c", "dog", photos=("photos",), code=shell.BAD_USE).stderr
    assert "out holds results of the words 'sky, tree | woods, cat'" in told
    assert "give another --out, or --overwrite to begin afresh\n" in told
    segment(run, "-c", "dog", "--overwrite", photos=("photos",))
    assert json.loads(Path("out/one.json").read_text())["labels"][0]["label"] == "dog"


def test_encoded_pictures_are_kept_where_they_are_wanted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(folder: str) -> int:
        return len(list(Path(folder).rglob("*.safetensors")))

    segment(run, photos=("photos",))
    assert kept("out") == 0
    segment(run, "--keep-encoded", "--overwrite", photos=("photos",))
    assert kept("out/.encoded") == 2
    segment(run, "-o", "one", "--encoded", "elsewhere")
    assert (kept("one"), kept("elsewhere")) == (0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(SAN, "propose", lambda *_: pytest.fail("the network is not needed"))
        segment(run, "-c", "dog", "--overwrite", "--keep-encoded", photos=("photos",))
        told = segment(run, "-o", "one", "-c", "dog", "--encoded", "elsewhere").stderr
    assert told == ""
    [file] = Path("elsewhere").rglob("*.safetensors")
    file.write_bytes(b'{"mask_logits":{"dtype":"F32"')  # as earlier versions began
    told = segment(run, "-o", "one", "-c", "dog", "--encoded", "elsewhere").stderr
    assert told == "sanseg: pictures kept in elsewhere by an earlier version are encoded again\n"


def test_workers_are_processes(run: Run) -> None:
    told = segment(run, "--workers", "0", photos=("photos",), code=shell.BAD_USE).stderr
    assert told == "sanseg: 0 workers cannot do anything: give 1 or more\n"
    assert "2 of 2 segmented" in segment(run, "--workers", "2", photos=("photos",)).stdout
    assert "two.json" in files("out/deep")


@pytest.mark.parametrize("photo", ["photos", "photos/one.png"])
def test_a_file_is_no_folder_for_results(run: Run, photo: str) -> None:
    Path("out").write_text("mine")
    told = segment(run, photos=(photo,), code=shell.BAD_USE).output
    assert told == "sanseg: out is a file: give a folder to write to\n"
    assert Path("out").read_text() == "mine"
