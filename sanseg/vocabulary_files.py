"""Vocabularies as files: JSON for people, safetensors with the embeddings of the words.

Nothing in a file is trusted: what it says is checked as if somebody had typed it, and embeddings are held against the
checksum of the model that asks (`Segmenter.classifier`). docs/VOCABULARY.md says what the JSON may hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanseg.version import VERSION
from sanseg.vocabulary import Colour, Vocabulary

FORMAT = 1  # of the safetensors file
METADATA = "sanseg-vocabulary"  # the one key of its metadata: several would be written in any order

LABEL_KEYS = ("id", "name", "synonyms", "colour", "threshold")
SETTING_KEYS = ("labels", "other", "not", "templates", "synonyms", "threshold", "temperature")
TOLD = ("sanseg", "vocabulary")  # what files written here say of themselves; nothing reads it


@dataclass(frozen=True)
class Embeddings:
    """What a model's text tower makes of names in the prompts of a template set.

    model: its name. fingerprint: of the text tower that made them, `model.text.TextEncoder.fingerprint`.
    templates: the prompt set, as `model.templates.prompts` reads it.
    names: each once. rows: float32 (N, E), a unit row for each name.
    sha256: of the rows; two of these are equal where all but the rows are.

    Raises ValueError for rows that are not finite unit rows, one for each name.
    """

    model: str
    fingerprint: str
    templates: str
    names: tuple[str, ...]
    rows: NDArray[np.float32] = field(compare=False, repr=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        rows = self.rows
        if rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != len(self.names):
            raise ValueError(
                f"{len(self.names)} names and embeddings of {rows.dtype} {rows.shape}: wanted a float32 row for each"
            )
        if not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3):  # NaN is nowhere near 1
            raise ValueError("the embeddings are no unit rows: they are damaged, embed the words again")
        object.__setattr__(self, "sha256", hashlib.sha256(rows.astype("<f4").tobytes()).hexdigest())


def read_json_words(path: Path) -> Vocabulary:
    """From a list of labels or an object with settings. Raises ValueError in one line, OSError as the system."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path} is not JSON ({error}): save it again") from error
    return from_document(document, path)


def from_document(document: Any, where: str | Path) -> Vocabulary:
    """A Vocabulary from what JSON holds: see docs/VOCABULARY.md. where: what errors call it."""
    settings = {"labels": document} if isinstance(document, list) else document
    if not isinstance(settings, dict) or not isinstance(settings.get("labels"), list):
        raise ValueError(f"{where} holds no labels: wanted a list, or an object with a list called labels")
    try:
        _check_keys(settings, (*SETTING_KEYS, *TOLD))
        return _from_settings(settings)
    except ValueError as error:
        raise ValueError(f"{where} cannot be used: {error}") from error


def _from_settings(settings: Mapping[str, Any]) -> Vocabulary:
    labels = _by_id([_label(one) for one in settings["labels"]])
    names = tuple(label.names for label in labels)
    templates = settings.get("templates")
    if isinstance(templates, list):
        templates = "\n".join(_strings(templates, "templates"))
    if templates is not None and not isinstance(templates, str):
        raise ValueError(f"templates is {shown(templates)}: wanted a name, or a list of prompts")
    words = Vocabulary(
        names,
        templates=templates,
        synonyms=settings.get("synonyms", "mean"),
        negatives=_strings(settings.get("not", []), "not"),
        temperature=settings.get("temperature", 1.0),
    )
    if len(words.names) != len(names):
        raise ValueError("two labels have the same names, and the ids after them would shift: name each once")
    every = settings.get("threshold", 0.0)
    words = replace(
        words,
        thresholds=tuple(every if label.threshold is None else label.threshold for label in labels),
        colours=tuple(label.colour for label in labels),
    )
    other = settings.get("other", [])
    return words.with_other("auto" if other == "auto" else _strings(other, "other"))


@dataclass(frozen=True)
class _Label:
    names: tuple[str, ...]
    id: int | None = None
    colour: Colour | None = None
    threshold: Any = None


def _label(value: Any) -> _Label:
    """ "car | automobile", or {"name": "car", "synonyms": ["automobile"], ...}, whose names are taken whole."""
    if isinstance(value, str):
        return _Label(tuple(value.split("|")))
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"a label is {shown(value)}: wanted a string, or an object with a name")
    _check_keys(value, LABEL_KEYS)
    names = (value["name"], *_strings(value.get("synonyms", []), "synonyms"))
    id_ = value.get("id")
    if id_ is not None and type(id_) is not int:
        raise ValueError(f"the id of {names[0]!r} is {shown(id_)}: wanted a number")
    return _Label(names, id_, _colour(value.get("colour")), value.get("threshold"))


def _by_id(labels: Sequence[_Label]) -> list[_Label]:
    """Labels in the order of their ids, which a label map holds; as they come where none has one."""
    ids = [label.id for label in labels]
    if all(id_ is None for id_ in ids):
        return list(labels)
    given = sorted((label for label in labels if label.id is not None), key=lambda label: label.id or 0)
    if [label.id for label in given] != list(range(len(labels))):
        raise ValueError(
            f"the ids are {shown(ids)}: a label map holds 0 to {len(labels) - 1}, each once; give these,"
            " or leave all ids out"
        )
    return given


def _colour(value: Any) -> Colour | None:
    """ "#ff8000", or [255, 128, 0]."""
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        try:
            red, green, blue = bytes.fromhex(value[1:])
        except ValueError:
            pass
        else:
            return red, green, blue
    elif isinstance(value, list) and len(value) == 3:
        return value[0], value[1], value[2]  # the Vocabulary checks them
    elif value is None:
        return None
    raise ValueError(f"a colour is {shown(value)}: wanted '#rrggbb', or a list of red, green, blue")


def _strings(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{what} is {shown(value)}: wanted a list of strings")
    return tuple(value)


def _check_keys(value: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := [key for key in value if key not in known]:
        raise ValueError(f"{unknown[0]!r} means nothing here: choose from {', '.join(known)}")


def to_document(words: Vocabulary) -> dict[str, Any]:
    """What `from_document` reads: plain values, all but the embeddings, and what was never said left out."""
    labels: list[dict[str, Any]] = []
    for id_, names in enumerate(words.names):
        label: dict[str, Any] = {"id": id_, "name": names[0]}
        if names[1:]:
            label["synonyms"] = list(names[1:])
        if words.colours and (colour := words.colours[id_]) is not None:
            label["colour"] = "#" + bytes(colour).hex()
        if words.thresholds:
            label["threshold"] = words.thresholds[id_]
        labels.append(label)
    document: dict[str, Any] = {"sanseg": VERSION, "vocabulary": words.hash, "labels": labels}
    if words.other:
        document["other"] = list(words.other)
    if words.negatives:
        document["not"] = list(words.negatives)
    if words.templates is not None:
        document["templates"] = words.templates.split("\n") if "{}" in words.templates else words.templates
    if words.synonyms != "mean":
        document["synonyms"] = words.synonyms
    if words.temperature != 1:
        document["temperature"] = words.temperature
    return document


def write_json_words(path: Path, words: Vocabulary) -> None:
    from sanseg.images import write_json

    write_json(path, to_document(words))


def write_embedded(path: Path, words: Vocabulary) -> None:
    """Tensor "embeddings", float32 (N, E), and in the metadata the words and what made their embeddings."""
    from safetensors.numpy import save

    from sanseg.images import write_bytes

    known = words.embeddings
    if known is None:
        raise ValueError(
            f"{path} would hold embeddings, and these words have none: embed them with Segmenter.embed"
        )
    told = {
        "format": FORMAT,
        "words": to_document(words),
        "names": list(known.names),
        "templates": known.templates,
        "model": known.model,
        "fingerprint": known.fingerprint,
        "sha256": known.sha256,
    }
    metadata = {METADATA: json.dumps(told)}
    write_bytes(path, save({"embeddings": np.ascontiguousarray(known.rows)}, metadata))


def read_embedded(path: Path) -> Vocabulary:
    """What `write_embedded` wrote. Raises ValueError for a file that is damaged or something else."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb"):  # safe_open names no reason
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, tensors = file.metadata() or {}, list(file.keys())
            rows = file.get_tensor("embeddings") if tensors == ["embeddings"] else None
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no vocabulary with embeddings ({error}): save it again") from error
    if rows is None or METADATA not in metadata:
        raise ValueError(
            f"{path} is no vocabulary with embeddings: write one with sanseg words WORDS --save {path.name}"
        )
    try:
        told = json.loads(metadata[METADATA])
        if told["format"] != FORMAT:
            raise ValueError(f"it has format {shown(told['format'])}, wanted {FORMAT}: update sanseg")
        facts = [told[key] for key in ("model", "fingerprint", "templates")]
        model, fingerprint, templates = _strings(facts, "what made them")
        known = Embeddings(model, fingerprint, templates, _strings(told["names"], "names"), rows)
        words = from_document(told["words"], "its list")
        if (known.sha256, words.hash) != (told["sha256"], told["words"]["vocabulary"]):
            raise ValueError("its words or embeddings are not those that were saved")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): save it again") from error
    return replace(words, embeddings=known)


READERS: dict[str, Callable[[Path], Vocabulary]] = {".json": read_json_words, ".safetensors": read_embedded}
WRITERS: dict[str, Callable[[Path, Vocabulary], None]] = {
    ".json": write_json_words,
    ".safetensors": write_embedded,
}
