"""`sanseg train`: pictures with masks in, a side adapter that names their labels out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from sanseg.cli.model_options import Device, Quiet
from sanseg.cli.shell import BAD_USE, INTERRUPTED, app, complain, mistakes_in_one_line
from sanseg.cli.team import joined
from sanseg.cli.train_data import Checks, open_train, open_val

if TYPE_CHECKING:
    from sanseg.data.datasets import SegmentationSet
    from sanseg.model.san import SAN
    from sanseg.train import TrainConfig

DIVERGED = 3  # the loss is no longer a number; the states before it are whole
EXIT_CODES = (
    f"Exit codes: 0 all good; {BAD_USE} bad use, bad data or a disk that is full: what was saved stays;"
    f" {DIVERGED} the loss is no longer a number; {INTERRUPTED} interrupted, with a state saved."
)


@app.command(epilog=EXIT_CODES)
def train(
    data: Annotated[
        list[Path],
        typer.Option(
            help="A folder of pictures and masks; give several to mix sets, each with its own labels."
        ),
    ],
    run: Annotated[
        Path, typer.Option(help="Folder of the run. A run that has begun there goes on where it stopped.")
    ],
    val: Annotated[
        list[Path] | None,
        typer.Option(help="Sets whose 'val' is evaluated; without it, those of --data that have one."),
    ] = None,
    no_val: Annotated[bool, typer.Option("--no-val", help="Evaluate nothing.")] = False,
    repeat: Annotated[
        list[float] | None, typer.Option(help="How often an epoch shows a set, once for each --data.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="What to start from: a name, a checkpoint, or open_clip:NAME:PRETRAINED (always fresh)."
        ),
    ] = "mini",
    clip: Annotated[
        str | None, typer.Option(help="For a checkpoint that is only an adapter: the one with its CLIP.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Keep only the model's CLIP and begin a new side adapter.")
    ] = False,
    bias: Annotated[
        str | None,
        typer.Option(help="With --fresh: attention biases from a 'head' of their own, or the 'mask' itself."),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(help="With --fresh: CLIP blocks fused into which side blocks, '0:0 3:1', or 'none'."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="own_data, or released (COCO-Stuff, 60,000 iterations of 32 pictures).")
    ] = "own_data",
    split: Annotated[str, typer.Option(help="Which split of the sets to train on.")] = "train",
    form: Annotated[
        str, typer.Option(help="folder, coco-panoptic, coco-instances, voc or yolo. auto: the one that fits.")
    ] = "auto",
    iterations: Annotated[int | None, typer.Option(help="Steps of the optimizer.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures of a step, over all processes.")] = None,
    accumulation: Annotated[
        int | None, typer.Option(help="Passes into which each process divides its pictures: less memory.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    clip_lr: Annotated[float | None, typer.Option(help="Factor on it for CLIP's own weights.")] = None,
    train_clip: Annotated[
        str | None, typer.Option(help="What of CLIP trains: position, as released; none; or visual.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="all; or the paper's two stages: masks, then recognition.")
    ] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the squares trained on, in pixels.")] = None,
    short_side: Annotated[
        int | None, typer.Option(help="What pictures are resized to first, pixels.")
    ] = None,
    points: Annotated[int | None, typer.Option(help="Points at which masks are compared.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Activations are computed twice: less memory, slower.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes that load pictures.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Iterations between saves.")] = None,
    keep: Annotated[int | None, typer.Option(help="States that stay.")] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Iterations between evaluations; 0 for one at the end.")
    ] = None,
    evaluate_pictures: Annotated[
        int | None, typer.Option(help="Pictures of each set that are evaluated; 0 for all.")
    ] = None,
    pictures: Annotated[int | None, typer.Option(help="Pictures of each set painted then.")] = None,
    tracker: Annotated[
        list[str] | None, typer.Option(help="tensorboard, trackio or wandb; give several for several.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all randomness.")] = None,
    checked: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="Read every file before a run begins; once, unless it changes."
        ),
    ] = True,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out the pictures that cannot be used.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train on pictures with masks.

    The same command again goes on where the run stopped. Several GPUs: accelerate launch -m sanseg train ...
    """
    given = {
        "iterations": iterations,
        "batch": batch,
        "accumulation": accumulation,
        "lr": lr,
        "clip_lr": clip_lr,
        "trains": train_clip,
        "part": part,
        "dtype": dtype,
        "checkpointing": checkpointing or None,
        "workers": workers,
        "save_every": save_every,
        "keep": keep,
        "evaluate_every": evaluate_every,
        "evaluate_pictures": evaluate_pictures,
        "pictures": pictures,
        "trackers": None if tracker is None else tuple(tracker),
        "repeats": None if repeat is None else tuple(repeat),
        "seed": seed,
    }
    views = {"crop": crop, "short_side": short_side}
    with mistakes_in_one_line(), joined(device) as team:
        from sanseg.devices import find_device

        console = Console(quiet=quiet or not team.leads)
        checks = Checks(checked, skip_bad, run, console)
        with team.first():  # one reads all files, the others what it found
            sets = open_train(data, split, form, checks)
            looked_at = [] if no_val else open_val(data, val or [], split, form, checks)
            san = starting_point(model, clip, fresh, bias, fusion, seed or 0)
        config = settings(recipe, san, given, views, points)
        san.to(find_device(team.device))
        tell(console, san, config, looked_at)
        go(san, sets, config, run, looked_at, quiet=quiet)
        if team.leads:
            from sanseg.report import write_report

            write_report(run)
        tell_written(console, run, model, clip)


def go(
    san: SAN,
    sets: list[SegmentationSet],
    config: TrainConfig,
    run: Path,
    val: list[SegmentationSet],
    *,
    quiet: bool,
) -> None:
    """Trains; the ways in which that ends early, as exit codes."""
    from sanseg.model.download import cache_folder
    from sanseg.model.text_cache import TextCache
    from sanseg.train import train as run_training

    command = ["sanseg", *sys.argv[1:]]
    text_cache = TextCache(cache_folder() / "text.sqlite")
    try:
        run_training(san, sets, config, run, val=val, command=command, quiet=quiet, text_cache=text_cache)
    except FloatingPointError as error:
        complain(f"sanseg: {error}")
        raise typer.Exit(DIVERGED) from error
    except KeyboardInterrupt as stop:
        complain(f"sanseg: {str(stop) or 'interrupted'}; the same command goes on from the last state")
        raise typer.Exit(INTERRUPTED) from None
    if text_cache.trouble:
        complain(text_cache.trouble)


def starting_point(
    model: str, clip: str | None, fresh: bool, bias: str | None, fusion: str | None, seed: int
) -> SAN:
    from dataclasses import replace

    from sanseg.model.fresh import OPEN_CLIP, fresh_san
    from sanseg.model.weights import load_san

    san = load_san(model, clip=clip)
    if not fresh and not model.startswith(OPEN_CLIP):
        if bias or fusion:
            raise ValueError("--bias and --fusion are of a new side adapter: add --fresh")
        return san
    changes: dict[str, Any] = {"bias": bias} if bias else {}
    if fusion:
        changes["fusion"] = read_fusion(fusion)
    return fresh_san(san, replace(san.config.side, **changes), seed=seed)


def read_fusion(text: str) -> tuple[tuple[int, int], ...]:
    """ "0:0 3:1" to ((0, 0), (3, 1))."""
    if text == "none":
        return ()
    pairs = [pair.split(":") for pair in text.split()]
    if not pairs or any(len(pair) != 2 or not all(part.isdecimal() for part in pair) for pair in pairs):
        raise ValueError(f"--fusion {text!r} is not understood: write pairs as in '0:0 3:1', or none")
    return tuple((int(of), int(into)) for of, into in pairs)


def settings(
    recipe: str, san: SAN, given: dict[str, Any], views: dict[str, Any], points: int | None
) -> TrainConfig:
    """The recipe's settings, with those that were given in their place."""
    from dataclasses import replace

    from sanseg.recipes import RECIPES

    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r} is unknown: choose from {', '.join(RECIPES)}")
    config = RECIPES[recipe](san.config)
    views = {name: value for name, value in views.items() if value is not None}
    config = replace(
        config,
        augmentation=replace(config.augmentation, **views),
        loss=config.loss if points is None else replace(config.loss, points=points),
    )
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def tell(console: Console, san: SAN, config: TrainConfig, val: list[SegmentationSet]) -> None:
    trained = f"CLIP: {config.trains}" if config.part != "masks" else "CLIP frozen"
    console.print(
        f"{escape(san.config.name)} on {san.nothing.device}: {config.iterations} iterations of {config.batch}"
        f" pictures; trains {config.part} of the side adapter, {trained}",
        soft_wrap=True,
    )
    when = f"every {config.evaluate_every} iterations and " if config.evaluate_every else ""
    names = escape(", ".join(one.name for one in val))
    console.print(
        f"evaluated {when}at the end, on {names}" if val else "evaluated on nothing", soft_wrap=True
    )


def tell_written(console: Console, run: Path, model: str, clip: str | None) -> None:
    """Where things are, and what to do with them."""
    whole, adapter, report = (
        run / name for name in ("model.safetensors", "adapter.safetensors", "report.html")
    )
    lines = [f"{whole} written: use it with --model {whole}"]
    if adapter.exists():
        lines.append(
            f"{adapter} written, what was trained: use it with --model {adapter} --clip {clip or model}"
        )
    lines.append(f"{report} written: how it went, on one page")
    console.print("\n".join(map(escape, lines)), soft_wrap=True)
