"""docs/training.md and the recipes say what the code does: commands, options, forms, links."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import typer

import sanseg.cli.report  # adds its command to the app
from sanseg.cli import app
from sanseg.cli.shell import BAD_USE, INTERRUPTED
from sanseg.cli.train import DIVERGED
from sanseg.data.datasets import FORMATS
from sanseg.expect import authors_figures
from sanseg.model.san import CLIP_TRAINS, PARTS
from sanseg.recipes import RECIPES
from sanseg.run import TRACKERS
from sanseg.schedule import NOT_COMPUTED, TrainConfig

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "docs" / "training.md"
DOCS = [TRAINING, *sorted((ROOT / "recipes").glob("[co]*_*/README.md"))]
FOREIGN = {"--num_processes", "--nproc-per-node"}  # of accelerate and torchrun
# A setting of TrainConfig that its option calls otherwise.
CALLED = {"trackers": "tracker"}

assert sanseg.cli.report.report


def commands() -> dict[str, set[str]]:
    """The options of each command, by its words: "prepare check"."""
    top = typer.main.get_command(app)
    found = {}
    for name, command in top.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        named = {f"{name} {sub}": one for sub, one in inner.items()} if inner else {name: command}
        for words, one in named.items():
            found[words] = {
                option for parameter in one.params for option in (*parameter.opts, *parameter.secondary_opts)
            }
    return found


def written_commands(text: str) -> list[str]:
    """What follows "sanseg" in each line of the code blocks and in each inline code."""
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [
        match[1] for line in (*blocks.splitlines(), *inline) if (match := re.search(r"\bsanseg (.*)", line))
    ]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.parent.name)
def test_every_command_and_option_exists(path: Path) -> None:
    known = commands()
    text = path.read_text(encoding="utf-8")
    lines = written_commands(text)
    assert lines
    for line in lines:
        words = line.split()
        name = next((one for one in (" ".join(words[:2]), words[0]) if one in known), None)
        assert name, f"no such command: sanseg {line}"
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", line):
            assert option in known[name] | {"--help"} | FOREIGN, f"{option} of sanseg {line}"
    everything = set.union(*known.values()) | FOREIGN | {"--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= everything


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.parent.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings]
            assert anchor in slugs, target


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of training.md, without its head."""
    text = TRAINING.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_page_knows_every_form_switch_and_exit_code() -> None:
    assert [row[0].strip("`") for row in table("Data")] == list(FORMATS)
    assert [int(row[0]) for row in table("Exit codes")] == [0, BAD_USE, DIVERGED, INTERRUPTED]
    switches = " ".join(row[0] for row in table("What trains"))
    for value in (*set(CLIP_TRAINS) - {"position"}, *set(PARTS) - {"all"}):
        assert value in switches
    text = TRAINING.read_text(encoding="utf-8")
    assert all(f"`--recipe {name}`" in text for name in RECIPES)
    assert all(f"`{name}`" in text or f"`--tracker {name}`" in text for name in TRACKERS)
    assert f"the last `--keep` ({TrainConfig().keep})" in text
    assert f"`--pictures` ({TrainConfig().pictures})" in text


def test_the_page_knows_which_settings_may_change() -> None:
    text = TRAINING.read_text(encoding="utf-8").split("These may change: ")[1].split(", and the number")[0]
    told = {name.strip("`- ") for name in text.split(",")}
    assert told == {CALLED.get(name, name).replace("_", "-") for name in NOT_COMPUTED}


BENCHMARKS = (
    "ade20k_847",
    "pascal_context_459",
    "ade20k_150",
    "pascal_context_59",
    "voc_20",
    "coco_stuff_171",
)


@pytest.mark.parametrize(
    ("recipe", "model"), [("coco_vit_b16", "san-vit-b-16"), ("coco_vit_l14", "san-vit-l-14")]
)
def test_the_recipes_tell_the_authors_figures(recipe: str, model: str) -> None:
    lines = (ROOT / "recipes" / recipe / "README.md").read_text(encoding="utf-8").splitlines()
    row = next(below for above, below in pairwise(lines) if above == "| --- | --- | --- | --- | --- | --- |")
    told = [float(cell) for cell in row.strip("| ").split(" | ")]
    figures = [authors_figures(model, name).summary["miou_present"] for name in BENCHMARKS]
    assert told == pytest.approx(figures, abs=0.006)


def test_the_recipe_tells_the_settings_that_are_used() -> None:
    config = TrainConfig()
    text = (ROOT / "recipes" / "coco_vit_b16" / "README.md").read_text(encoding="utf-8")
    for words in (
        f"{config.iterations:,} of {config.batch} pictures",
        f"total norm of {config.clip}",
        f"power {config.power}",
        f"crop {config.augmentation.crop}x{config.augmentation.crop}",
        f"at {config.loss.points:,} points",
        "learning rate 1e-4 for all",
    ):
        assert words in text
    assert (config.lr, config.weight_decay, config.warmup) == (1e-4, 1e-4, 0)
