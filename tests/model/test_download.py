from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copyfile

import pytest

from sanseg.model import download
from sanseg.model.download import Release, obtain
from tests.model.hub_server import Hub, served

BODY = bytes(range(256)) * 400
RELEASE = Release("Mendel192/san", "san_vit_b_16.pth")

# huggingface_hub reads its environment when it is imported, so each question is a process of its own.
SCRIPT = """
import sys, time
from pathlib import Path
from shutil import copyfile
time.sleep = lambda seconds: None  # huggingface_hub waits seconds between its retries
from sanseg.model.download import Release, obtain
try:
    obtain(Release("Mendel192/san", "san_vit_b_16.pth"), Path(sys.argv[1]), copyfile)
except (OSError, ValueError) as error:
    print(error)
    sys.exit(3)
"""


def ask(folder: Path, endpoint: str, **environment: str) -> str:
    """What `obtain` says in a fresh process: the error's message, or "". Its target is the file `out`."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "out")],
        env={
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "*",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr
    assert (done.returncode == 3) == bool(done.stdout)
    return done.stdout.strip("\n")


def assert_says_how(message: str, folder: Path, endpoint: str, reason: str) -> None:
    """One line: what was wanted, from where, what happened, and how to place the file by hand."""
    assert "\n" not in message
    assert f"san_vit_b_16.pth could not be downloaded from {endpoint}/Mendel192/san/" in message
    assert reason.lower() in message.lower()
    assert f'sanseg convert san_vit_b_16.pth "{folder / "out"}"' in message
    assert not (folder / "out").exists()


def test_downloads_once(tmp_path: Path) -> None:
    with served(Hub(BODY)) as hub:
        assert ask(tmp_path, hub.url) == ""
        assert (tmp_path / "out").read_bytes() == BODY
        asked = len(hub.asked)
        assert ask(tmp_path, hub.url) == ""
        assert len(hub.asked) == asked
    # The hub's own cache serves a lost conversion, without a network.
    (tmp_path / "out").unlink()
    assert ask(tmp_path, hub.url, HF_HUB_OFFLINE="1") == ""
    assert (tmp_path / "out").read_bytes() == BODY


def test_cut_off_download_resumes(tmp_path: Path) -> None:
    body = BODY * 120  # 12 MB: huggingface_hub keeps what it has in pieces of 10 MiB
    with served(Hub(body, cuts=[11_000_000])) as hub:
        ask(tmp_path, hub.url)  # resumes in huggingface_hub 1.0 and later; before, fails in one line
        assert ask(tmp_path, hub.url) == ""
    assert (tmp_path / "out").read_bytes() == body
    assert any(part for _, part in hub.asked)


def test_hopeless_download_fails_in_one_line_and_succeeds_later(tmp_path: Path) -> None:
    with served(Hub(BODY, cuts=[10_000] + [0] * 20)) as hub:
        assert_says_how(ask(tmp_path, hub.url), tmp_path, hub.url, "connection")
        hub.cuts.clear()
        assert ask(tmp_path, hub.url) == ""
    assert (tmp_path / "out").read_bytes() == BODY


def test_damaged_download_is_refused_and_the_remedy_helps(tmp_path: Path) -> None:
    damaged = BODY[:5_000] + b"?" + BODY[5_001:]
    with served(Hub(BODY, sent=damaged)) as hub:
        message = ask(tmp_path, hub.url)
        assert "\n" not in message
        assert "san_vit_b_16.pth was damaged" in message
        assert download.hashlib.sha256(BODY).hexdigest() in message
        assert download.hashlib.sha256(damaged).hexdigest() in message
        assert not (tmp_path / "out").exists()
        Path(message.partition("remove ")[2].partition(" and load again")[0]).unlink()
        hub.sent = None
        assert ask(tmp_path, hub.url) == ""
    assert (tmp_path / "out").read_bytes() == BODY


@pytest.mark.parametrize("status", [404, 500])
def test_server_errors_are_one_line(tmp_path: Path, status: int) -> None:
    with served(Hub(BODY, status=status)) as hub:
        assert_says_how(ask(tmp_path, hub.url), tmp_path, hub.url, str(status))


@pytest.mark.parametrize(
    ("endpoint", "offline", "reason"),
    [
        ("http://127.0.0.1:9", "0", "refused"),
        ("http://hub.invalid", "0", "name"),
        ("http://127.0.0.1:9", "1", "offline mode"),
    ],
)
def test_no_network_is_one_line(tmp_path: Path, endpoint: str, offline: str, reason: str) -> None:
    assert_says_how(ask(tmp_path, endpoint, HF_HUB_OFFLINE=offline), tmp_path, endpoint, reason)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that every download brings."""
    path = tmp_path / "downloaded"
    path.write_bytes(BODY)
    monkeypatch.setattr(download, "_download", lambda release, target: path)
    return path


def test_a_later_download_must_agree_with_the_first(tmp_path: Path, source: Path) -> None:
    target = obtain(RELEASE, tmp_path / "cache" / "out", copyfile)
    first = json.loads(target.with_suffix(".json").read_text())["sha256"]
    target.unlink()
    source.write_bytes(b"something else")
    with pytest.raises(ValueError, match=first) as caught:
        obtain(RELEASE, target, copyfile)
    assert download.sha256_of(source) in str(caught.value)
    assert str(source) in str(caught.value)
    assert not target.exists()
    target.with_suffix(".json").unlink()
    assert obtain(RELEASE, target, copyfile).read_bytes() == b"something else"


def test_converted_file_is_checked_when_it_was_touched(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = obtain(RELEASE, tmp_path / "out", copyfile)
    with monkeypatch.context() as patch:
        patch.setattr(download, "sha256_of", lambda path: pytest.fail("was read without need"))
        assert obtain(RELEASE, target, copyfile) == target
    os.utime(target)
    assert obtain(RELEASE, target, copyfile) == target  # another date, the same bytes
    target.write_bytes(BODY[:-1] + b"?")
    with pytest.raises(ValueError, match="remove it to convert it again") as caught:
        obtain(RELEASE, target, copyfile)
    assert download.sha256_of(target) in str(caught.value)
    assert download.sha256_of(source) in str(caught.value)
    target.unlink()
    assert obtain(RELEASE, target, copyfile).read_bytes() == BODY


def test_interrupted_conversion_is_repeated(tmp_path: Path, source: Path) -> None:
    def interrupted(source: Path, target: Path) -> None:
        target.write_bytes(b"half of i")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain(RELEASE, tmp_path / "out", interrupted)
    assert obtain(RELEASE, tmp_path / "out", copyfile).read_bytes() == BODY


def test_a_file_placed_by_hand_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_download", lambda release, target: pytest.fail("was downloaded"))
    target = tmp_path / "out"
    target.write_bytes(b"by hand")
    assert obtain(RELEASE, target, copyfile).read_bytes() == b"by hand"


@pytest.mark.parametrize("text", ["", "[]", '{"md5": "0"}'])
def test_damaged_record_is_named(tmp_path: Path, source: Path, text: str) -> None:
    target = obtain(RELEASE, tmp_path / "out", copyfile)
    target.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"out\.json is damaged .*: remove it"):
        obtain(RELEASE, target, copyfile)


def test_cache_folder_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANSEG_CACHE", str(tmp_path))
    assert download.cache_folder() == tmp_path
    monkeypatch.delenv("SANSEG_CACHE")
    assert download.cache_folder().name == "sanseg"


def test_what_the_rust_transport_raises_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(repository: str, file: str) -> str:
        raise RuntimeError("Data processing error\nand more")

    monkeypatch.setattr(download, "hf_hub_download", broken)
    with pytest.raises(
        OSError, match=r"san_vit_b_16\.pth could not be .* \(Data processing error\): try again"
    ):
        obtain(RELEASE, tmp_path / "out", copyfile)
