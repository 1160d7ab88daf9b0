"""What a request asks: labels, what competes with them, colours; and the Vocabulary they make."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sanseg.data.labelsets import read_labelset
from sanseg.serve.problems import Problem
from sanseg.serve.settings import Settings
from sanseg.vocabulary import MAX_CHARACTERS, Colour, Vocabulary

NAMES, CHARACTERS = 4, 64  # of a label, on average at most
MOST_SETS = 20  # in one text


class Ask(BaseModel):
    """A vocabulary, and the form of the answer."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"labels": "cat, sofa | couch"},
                {
                    "labels": ["sky", "tree | woods"],
                    "other": None,
                    "threshold": 0.3,
                    "colours": {"sky": "#4488ff"},
                    "format": "index",
                    "picture": "holiday.jpg",
                },
            ]
        },
    )

    labels: Annotated[
        str | list[str],
        Field(
            description="A text with commas, as on the command line (' | ' between synonyms, 'not X' competes,"
            " '@ade150' is a built-in set), or a list that takes labels whole."
        ),
    ]
    other: Annotated[
        Literal["auto"] | list[str] | None,
        Field(
            description="What competes with the labels and means other: everyday words if labels are few (auto),"
            " nothing (null), or these words."
        ),
    ] = "auto"
    threshold: Annotated[
        float, Field(ge=0, le=1, description="Pixels whose confidence is below it become other.")
    ] = 0.0
    colours: Annotated[
        dict[str, str], Field(description="Of labels, as '#rrggbb'; the others get colours that differ.")
    ] = {}
    format: Annotated[
        str | None, Field(description="A format of GET /v1/models, or view; null goes by the header Accept.")
    ] = None
    picture: Annotated[
        str | None,
        Field(max_length=255, description="What files that name their picture call it, without folders."),
    ] = None


# What is wanted of each field, in words.
WANTED = {
    "labels": 'a text with commas, or a list of texts, as ["sky", "tree | woods"]',
    "other": '"auto", null, or a list of words',
    "threshold": "a number from 0 to 1",
    "colours": 'of labels, as {"sky": "#4488ff"}',
    "format": "a format of GET /v1/models, or view",
    "picture": "a name of at most 255 characters",
}
FIELDS = frozenset(Ask.model_fields)


def read_json(body: bytes) -> Ask:
    """Raises Problem for what is no Ask."""
    try:
        return Ask.model_validate_json(body)
    except ValidationError as error:
        raise Problem(422, explain(error.errors(include_url=False, include_context=False))) from error


def read_fields(fields: Mapping[str, str]) -> Ask:
    """From a form: `other` is auto, none or words with commas; `colours` is JSON, and so are `labels` that begin as a
    list does. Raises Problem as `read_json`.
    """
    values: dict[str, Any] = {**fields}
    reads: dict[str, Callable[[str], Any]] = {"threshold": float, "colours": json.loads}
    if fields.get("labels", "").lstrip().startswith("["):
        reads["labels"] = json.loads
    for name, read in reads.items():
        if name not in fields:
            continue
        try:
            values[name] = read(fields[name])
        except (ValueError, RecursionError) as error:
            raise Problem(422, f"{name} is {_short(fields[name])}: wanted {WANTED[name]}") from error
    if (other := fields.get("other", "auto")) != "auto":
        values["other"] = None if other in ("", "none") else other.split(",")
    try:
        return Ask.model_validate(values)
    except ValidationError as error:
        raise Problem(422, explain(error.errors(include_url=False, include_context=False))) from error


def explain(errors: Any) -> str:
    """The first of pydantic's errors in one line: got, wanted, remedy."""
    first = errors[0]
    where = ".".join(str(part)[:40] for part in first["loc"]) or "the request"
    field = where.partition(".")[0]
    if first["type"] == "json_invalid":
        return f'the body is no JSON ({first["msg"]}): send {{"labels": "sky, tree"}}'
    if first["type"] == "missing":
        return f"{where} is missing: send {WANTED.get(field, 'it')}; GET /docs shows what is taken"
    if first["type"] == "extra_forbidden":
        return f"there is no field {where!r}: known are {', '.join(Ask.model_fields)}"
    got = _short(first.get("input"))
    if field in WANTED:
        return f"{field} is {got}: wanted {WANTED[field]}"
    return f"{where} is {got}: {first['msg']}; GET /docs shows what is taken"


def _short(got: Any) -> str:
    told = repr(got)
    return told if len(told) <= 60 else told[:60] + "..."


def vocabulary(ask: Ask, settings: Settings) -> Vocabulary:
    """The words that will compete. Raises Problem for too many, and for what makes no vocabulary."""
    try:
        _check_counts(ask, settings.labels)
        words = Vocabulary.of(ask.labels).with_other(ask.other).with_thresholds(ask.threshold)
        return replace(words, colours=_colours(ask.colours, words)) if ask.colours else words
    except ValueError as error:
        raise Problem(422, str(error)) from error


def _check_counts(ask: Ask, most: int) -> None:
    """Before anything is made of the words, whose making takes longer than their reading.

    Raises Problem for too many, ValueError for a label set that is not there.
    """
    text = isinstance(ask.labels, str)
    labels = ask.labels.split(",") if isinstance(ask.labels, str) else ask.labels
    if labels in ([], [""]):
        raise ValueError(f"there are no labels: send {WANTED['labels']}")
    _check_count(len(labels), most, "labels")
    sets = [label.strip()[1:] for label in labels if text and label.strip().startswith("@")]
    of_sets = [line for name in sets[:MOST_SETS] for line in read_labelset(name)]
    if len(sets) > MOST_SETS:
        raise ValueError(f"{len(sets)} label sets came, at most {MOST_SETS} are taken: send fewer")
    _check_count(len(labels) - len(sets) + len(of_sets), most, "labels")
    other = ask.other if isinstance(ask.other, list) else []
    _check_count(len(other), most, "other words")
    for words, what in (([*labels, *of_sets], "names"), (other, "other words")):
        _check_count(sum(word.count("|") + 1 for word in words), NAMES * most, what)
        _check_count(sum(map(len, words)), CHARACTERS * most + MAX_CHARACTERS, f"characters of {what}")


def _check_count(got: int, most: int, what: str) -> None:
    if got > most:
        remedy = "send fewer, or start the service with a larger --max-labels"
        raise Problem(422, f"{got} {what} came, at most {most} are taken: {remedy}")


def _colours(colours: Mapping[str, str], words: Vocabulary) -> tuple[Colour | None, ...]:
    ids = {name.casefold(): id_ for id_, names in enumerate(words.names) for name in names}
    table: list[Colour | None] = [None] * len(words.names)
    for name, colour in colours.items():
        id_ = ids.get(" ".join(name.split()).casefold())
        if id_ is None:
            raise ValueError(f"{name[:40]!r} has a colour and is no label: leave it out")
        if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
            raise ValueError(f"the colour of {name[:40]!r} is {colour[:40]!r}: wanted #rrggbb")
        red, green, blue = bytes.fromhex(colour[1:])
        table[id_] = (red, green, blue)
    return tuple(table)
