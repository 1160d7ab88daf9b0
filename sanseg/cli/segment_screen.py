"""What `sanseg segment` prints: a line or a table for each picture, and a summary of a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from sanseg.cli.shell import INTERRUPTED, SOME_FAILED, complain

if TYPE_CHECKING:
    from sanseg.folders.folder import Outcome
    from sanseg.folders.manifest import Record
    from sanseg.folders.plan import Job, Plan
    from sanseg.segmenter import Segmenter
    from sanseg.vocabulary import Vocabulary

MOST_NAMES = 10  # of pictures that a line tells of
MOST_ROWS = 30  # of the summary


class Screen:
    """Tells of a run while it goes on; its progress bar is there on a terminal only, while within it."""

    def __init__(self, console: Console, out: Path) -> None:
        self.console = console
        self.out = out
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._pictures = self._progress.add_task("pictures", visible=False, total=None)
        self._windows = self._progress.add_task("windows", visible=False, total=None)

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        self.console.print(escape(line), soft_wrap=True)

    def read_words(self, segmenter: Segmenter, vocabulary: Vocabulary) -> None:
        """The words through the text tower, once for all pictures."""
        words = self._progress.add_task(
            "words", total=sum(map(len, vocabulary.names)) + len(vocabulary.rivals)
        )
        segmenter.classifier(vocabulary, lambda encoded: self._progress.advance(words, encoded))
        self._progress.remove_task(words)

    def begin(self, pictures: int) -> None:
        self._progress.update(self._pictures, visible=True, total=pictures)

    def planned(self, plan: Plan) -> None:
        """What will be done of a folder, and why."""
        if len(plan.new) < len(plan.jobs) or plan.done:
            told = f"{len(plan.done)} done before, {len(plan.jobs)} to do"
            reasons = {
                "changed": plan.changed,
                "failed before": plan.failed,
                "without all their files": plan.incomplete,
            }
            told += "".join(f", {len(names)} {reason}" for reason, names in reasons.items() if names)
            self.say(told)
        self._name("changed since they were done", plan.changed)
        self._name("no longer there, their results stay", plan.gone)
        self.begin(len(plan.jobs))

    def windows(self, job: Job, done: int, of: int) -> None:
        """How far a picture of a folder is that goes by windows."""
        if done < of:
            self._progress.update(self._windows, visible=True, description=f"windows of {escape(job.input)}")
        self._progress.update(self._windows, completed=done, total=of, visible=done < of)

    def _name(self, what: str, names: list[str]) -> None:
        if names:
            rest = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            self.say(f"{what}: {', '.join(names[:MOST_NAMES])}{rest}")

    def line(self, record: Record) -> None:
        """One line of a picture in a folder."""
        self._progress.advance(self._pictures)
        if record.error is None:
            areas = ", ".join(f"{label} {_percent(share)}" for label, share in record.areas.items())
            self.say(f"{record.input}: {areas}")

    def table(self, record: Record) -> None:
        """All that is told of a picture by itself."""
        self._progress.advance(self._pictures)
        if record.error is not None:
            return
        files = ", ".join(str(self.out / name) for name in record.outputs.values())
        self.say(f"\n{record.input} -> {files}")
        table = Table("label")
        table.add_column("share of the picture", justify="right")
        table.add_column("mean confidence", justify="right")
        for label, share in record.areas.items():
            # Text: a label is no markup, even if it is called "[red]".
            table.add_row(Text(label), _percent(share), f"{record.confidence[label]:.2f}")
        self.console.print(table)

    def end(self, outcome: Outcome) -> None:
        if outcome.index is not None:
            self.console.print(summary(outcome.records))
            self.say(f"to look at and to sort: {outcome.index}")
        more, failed = outcome.by_windows
        whole = sum(record.error is None for record in outcome.records) + more - failed
        asked = len(outcome.records) + outcome.left + more
        self.say(f"{whole} of {asked} segmented into {self.out.resolve()}")

    def end_with_code(self, outcome: Outcome, *, overwrite: bool) -> None:
        """What failed, a line each, and how to go on where it was stopped. Raises typer.Exit but where all is good."""
        for name, reason in outcome.failed:
            complain(f"failed: {reason if name in reason else f'{name}: {reason}'}")
        if outcome.stopped:
            again = f"the same command{' without --overwrite' * overwrite} goes on"
            left = "" if outcome.index is None else f", {outcome.left} pictures are left: {again}"
            complain(f"sanseg: interrupted{left}")
            raise typer.Exit(INTERRUPTED)
        if outcome.failed:
            raise typer.Exit(SOME_FAILED)


def summary(records: Iterable[Record]) -> Table:
    """The labels that occur in a folder, the largest first."""
    from sanseg.folders.totals import totals

    rows = totals(records)
    table = Table("label")
    for column in ("pictures", "share of all pixels", "mean confidence"):
        table.add_column(column, justify="right")
    for row in rows[:MOST_ROWS]:
        table.add_row(Text(row.label), f"{row.pictures:,}", _percent(row.share), f"{row.confidence:.2f}")
    if len(rows) > MOST_ROWS:
        table.add_row(f"and {len(rows) - MOST_ROWS} more labels", "", "", "")
    return table


def _percent(share: float) -> str:
    from sanseg.draw import percent

    return percent(share)
