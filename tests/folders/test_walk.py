"""What is segmented of a folder, and what its results are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanseg.folders.walk import Patterns, find_files, find_folder, find_images, stems


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "a.jpg",
        "a.png",
        "Trip/b.JPG",
        "Trip/raw/c.tif",
        "Trip/notes.txt",
        ".hidden/d.jpg",
        "Trip/.e.jpg",
    ):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def inputs(*paths: str, out: str = "out", **patterns: tuple[str, ...]) -> tuple[str, ...]:
    return find_folder(paths, Path(out), Patterns(**patterns)).inputs


def test_a_folders_pictures_are_found_at_any_depth() -> None:
    found = find_folder(["photos"], Path("out"))
    assert found.root == Path("photos").absolute()
    assert found.inputs == ("Trip/b.JPG", "Trip/raw/c.tif", "a.jpg", "a.png")


def test_of_several_arguments_the_tree_begins_at_the_folder_that_holds_all() -> None:
    Path("more").mkdir()
    Path("more/f.png").touch()
    assert inputs("photos/Trip", "more") == ("more/f.png", "photos/Trip/b.JPG", "photos/Trip/raw/c.tif")
    assert inputs("photos/Trip", "photos/*.png") == ("Trip/b.JPG", "Trip/raw/c.tif", "a.png")
    assert inputs("photos/Trip", "absent.jpg") == ("absent.jpg", "photos/Trip/b.JPG", "photos/Trip/raw/c.tif")
    assert inputs("photos", "photos/Trip", "photos/a.png") == inputs("photos"), "each once"


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        (("*.jpg",), (), {"a.jpg", "Trip/b.JPG"}),
        (("trip",), (), {"Trip/b.JPG", "Trip/raw/c.tif"}),
        (("Trip/*",), (), {"Trip/b.JPG", "Trip/raw/c.tif"}),
        ((), ("raw",), {"a.jpg", "a.png", "Trip/b.JPG"}),
        ((), ("Trip/*.jpg", "a.p?g"), {"a.jpg", "Trip/raw/c.tif"}),
        (("*.jpg", "*.tif"), ("a.*",), {"Trip/b.JPG", "Trip/raw/c.tif"}),
    ],
)
def test_patterns_choose(include: tuple[str, ...], exclude: tuple[str, ...], wanted: set[str]) -> None:
    assert set(inputs("photos", include=include, exclude=exclude)) == wanted


def test_results_are_never_taken_as_pictures() -> None:
    for name in ("photos/out/a.overlay.png", "photos/out/Trip/b.index.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert not any("out" in name for name in inputs("photos", out="photos/out"))
    assert inputs("photos/Trip", "photos/**/*.png", out="photos/out") == (
        "Trip/b.JPG",
        "Trip/raw/c.tif",
        "a.png",
    )
    assert "out/a.overlay.png" in inputs("photos"), "with another OUT they are pictures like others"
    Path("link").symlink_to("photos/out")
    for folder in ("photos/out", "photos/out/Trip", "link"):
        with pytest.raises(
            ValueError, match=r"is in the folder for results, .*/photos/out: give another --out"
        ):
            inputs(folder, out="photos/out")


def test_patterns_take_no_results_for_pictures_but_files_are_as_they_are_named() -> None:
    Path("out").mkdir()
    Path("out/a.overlay.png").touch()

    def files(*paths: str, out: str = "out") -> list[str]:
        return [path.as_posix() for path in find_files(paths, Path(out))]

    assert files("**/a*.png", "photos/a.png") == ["photos/a.png"]
    assert files("out/a.overlay.png", "out/*.png") == ["out/a.overlay.png"]
    assert files("photos/a.*", out=".") == ["photos/a.jpg", "photos/a.png"], "what all lies in OUT is meant"
    with pytest.raises(
        ValueError, match=r"no pictures in \*\*/\*\.overlay\.png but those in the folder for results"
    ):
        files("**/*.overlay.png")


def test_links_to_folders_are_not_followed() -> None:
    Path("photos/Trip/again").symlink_to(Path("photos").absolute())
    Path("photos/linked.png").symlink_to(Path("photos/a.png").absolute())
    assert inputs("photos") == ("Trip/b.JPG", "Trip/raw/c.tif", "a.jpg", "a.png", "linked.png")


def test_nothing_found_is_a_mistake() -> None:
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in empty: wanted files that end in \.avif, "):
        inputs("empty")
    with pytest.raises(ValueError, match=r"no pictures in photos that --include and --exclude leave: wanted"):
        inputs("photos", include=("*.gif",))
    with pytest.raises(ValueError, match="no pictures in empty"):
        inputs("photos", "empty")


def test_names_are_kept_and_numbered_where_they_are_shared() -> None:
    assert stems(["a.jpg", "a.png", "Trip/a.png"]) == ["a", "a-2", "Trip/a"]
    assert stems(["Cat.jpg", "cat.png", "dog.tar.png"]) == ["Cat", "cat-2", "dog.tar"]
    assert stems(["a.gif"], taken=["a", "A-2"]) == ["a-3"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "x/", "X/"]),
            st.sampled_from(["a", "A", "a-2", "a.b"]),
            st.sampled_from(["jpg", "png"]),
        ),
        unique=True,
    ),
    st.integers(0, 24),
)
def test_no_two_pictures_share_a_name_and_old_names_stay(
    parts: list[tuple[str, str, str]], known: int
) -> None:
    paths = [f"{folder}{name}.{suffix}" for folder, name, suffix in parts]
    old = stems(paths[:known])
    everything = [*old, *stems(paths[known:], taken=old)]
    assert len({stem.casefold() for stem in everything}) == len(paths)


def test_find_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    for name in ("b.jpg", "a.PNG", "deep/er/c.webp", "notes.txt", ".hidden.jpg", ".cache/d.jpg", "x[1].jpg"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).touch()
    (own / "folder.jpg").mkdir()
    monkeypatch.chdir(own)

    def names(*paths: str | Path) -> list[str]:
        return [path.as_posix() for path in find_images(paths)]

    assert names(".") == ["a.PNG", "b.jpg", "deep/er/c.webp", "x[1].jpg"]
    assert names("*.jpg") == [".hidden.jpg", "b.jpg", "x[1].jpg"]
    assert names("**/*.webp") == ["deep/er/c.webp"]
    assert names(f"{own}/b.*") == [f"{own.as_posix()}/b.jpg"]
    assert names("x[1].jpg") == ["x[1].jpg"]
    assert names("b.jpg", "a.PNG", own / "b.jpg", "./b.jpg", "[ab].*") == ["a.PNG", "b.jpg"]
    assert names("notes.txt", "gone.jpg") == ["gone.jpg", "notes.txt"]  # reading them says what is wrong


def test_find_images_refuses_to_find_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in .*: wanted files that end in \.avif"):
        find_images([tmp_path / "empty"])
    with pytest.raises(ValueError, match="no pictures in"):
        find_images([tmp_path / "empty" / "*.jpg"])
    with pytest.raises(ValueError, match="no pictures named"):
        find_images([])
    with pytest.raises(ValueError, match="'photos', where a list"):
        find_images("photos")
