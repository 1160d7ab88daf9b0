"""The folder of a run that is not finished: what is done already, so that nothing is done twice.

H W pixels of the picture.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from sanseg.draw import LabelMap
from sanseg.images import Geometry, write_bytes, write_json
from sanseg.large import files
from sanseg.windows import Band, Layout, Place, Seen

RUN = "run.json"  # which run it is, and how many rows are done


class AnotherRun(ValueError):  # noqa: N818, as Failure
    """What was begun in a folder is something else than what is asked now."""

    def __init__(self, folder: Path, message: str) -> None:
        super().__init__(message)
        self.folder = folder


class Part:
    """The folder: run.json, windows/, and the rows of pixels that are done, in files "labels" and "confidence".

    rows: how many are done. A row counts once run.json says so, which is written after its pixels.
    """

    def __init__(
        self, folder: Path, run: dict[str, Any], rows: int, layout: Layout, labels: int, device: torch.device
    ) -> None:
        self.folder, self.run, self.rows = folder, run, rows
        self.shape = layout.height, layout.width
        self.unknown = files.unknown_id(labels)
        self.windows = WindowFiles(folder / "windows", device)
        ids = np.dtype(np.uint8 if self.unknown == 255 else np.uint16)
        self._files = {"labels": ids, "confidence": np.dtype(np.uint16)}

    @classmethod
    def open(
        cls, folder: Path, run: dict[str, Any], layout: Layout, labels: int, device: torch.device
    ) -> Part:
        """A new run, or one that goes on.

        run: all that the results depend on. labels: how many there are. device: where windows are asked.
        Raises ValueError where the folder is of another run or damaged, and where the disk is too full.
        """
        file = folder / RUN
        begun = file.is_file()
        rows = _rows_done(file, run) if begun else 0
        part = cls(folder, run, rows, layout, labels, device)
        bytes_left = (
            sum(dtype.itemsize for dtype in part._files.values()) * (layout.height - rows) * layout.width
        )
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if 2 * bytes_left > free:  # the rows, and the results made of them
            raise ValueError(
                f"{folder.parent} has {free / 1e9:.1f} GB left, this picture needs up to {2 * bytes_left / 1e9:.1f}:"
                " make room, or choose another --out"
            )
        if not begun:
            for place in [*part.windows]:  # of a run whose folder was being removed
                del part.windows[place]
        for name, dtype in part._files.items():
            with (folder / name).open("ab") as pixels:
                done = rows * layout.width * dtype.itemsize
                if pixels.tell() < done:
                    raise ValueError(f"{folder / name} is damaged: remove {folder} to start afresh")
                pixels.truncate(done)  # what was written after run.json is done again
        part._save()
        return part

    def append(self, band: Band) -> None:
        """Writes rows that are done, then says so.

        Raises ValueError where another process is at work in the same folder.
        """
        assert band.rows.start == self.rows, (band.rows, self.rows)
        steps = np.round(band.confidence * files.CONFIDENCE_STEPS).astype(np.uint16)
        steps[band.label_map == self.unknown] = files.NO_CONFIDENCE
        for (name, dtype), pixels in zip(self._files.items(), (band.label_map, steps), strict=True):
            with (self.folder / name).open("ab") as file:
                if file.tell() != self.rows * self.shape[1] * dtype.itemsize:
                    raise ValueError(
                        f"another process is at work in {self.folder}: let one of them end, and start again"
                    )
                file.write(np.ascontiguousarray(pixels, dtype=dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())
        self.rows = band.rows.stop
        self._save()

    def left(self, layout: Layout) -> int:
        """How many windows are still to be seen."""
        needed = [i for i, window in enumerate(layout.rows) if window.stop > self.rows]
        at_hand = sum(place[0] in needed for place in self.windows)
        return len(needed) * len(layout.columns) - at_hand

    def remove(self) -> None:
        """Once the results are in place."""
        (self.folder / RUN).unlink()  # first: without it, what is left is no run
        shutil.rmtree(self.folder)

    def stripes(self, name: str, high: int) -> Iterator[tuple[slice, NDArray[Any]]]:
        """The pixels "labels" or "confidence" from top to bottom, so many rows at a time."""
        dtype, (height, width) = self._files[name], self.shape
        with (self.folder / name).open("rb") as file:
            for top in range(0, height, high):
                rows = slice(top, min(top + high, height))
                pixels = np.fromfile(file, dtype, (rows.stop - top) * width)
                yield rows, pixels.reshape(rows.stop - top, width)

    def labels_at(self, rows: Sequence[int], columns: NDArray[np.intp]) -> LabelMap:
        """The label map at these rows and columns, each picked."""
        dtype, width, picked = self._files["labels"], self.shape[1], []
        with (self.folder / "labels").open("rb") as file:
            for row in rows:
                file.seek(row * width * dtype.itemsize)
                picked.append(np.fromfile(file, dtype, width)[columns])
        return np.stack(picked)

    def _save(self) -> None:
        write_json(self.folder / RUN, {"run": self.run, "rows": self.rows})


def _rows_done(file: Path, run: dict[str, Any]) -> int:
    """Of an unfinished run. Raises AnotherRun where it is another run than this, ValueError where it is damaged."""
    remedy = f"give the same command as then, another --out, or remove {file.parent} to start afresh"
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        before, rows = dict(state["run"]), int(state["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: remove {file.parent} to start afresh") from error
    changed = [name for name in run if before.get(name) != run[name]]
    if changed:
        raise AnotherRun(
            file.parent,
            f"{file.parent} is a run that was not finished, with another {' and '.join(changed)}: {remedy}",
        )
    return rows


class WindowFiles(MutableMapping[Place, Seen | None]):
    """What the network said of windows, each in a file of its own that is whole or absent."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device

    def __setitem__(self, place: Place, seen: Seen | None) -> None:
        tensors = {}
        if seen is not None:
            geometry = seen.geometry
            tensors = {
                "mask_logits": seen.mask_logits.cpu().contiguous(),
                "probabilities": seen.probabilities.cpu().contiguous(),
                "geometry": torch.tensor([geometry.original, geometry.content, geometry.padded]),
            }
            if seen.known is not None:
                tensors["known"] = torch.from_numpy(np.ascontiguousarray(seen.known))
        write_bytes(self._file(place), save(tensors))

    def __getitem__(self, place: Place) -> Seen | None:
        file = self._file(place)
        if not file.is_file():
            raise KeyError(place)
        try:
            tensors = load_file(file, device=str(self.device))
            if not tensors:
                return None
            original, content, padded = tensors["geometry"].tolist()
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{file} is damaged: remove it, and give the command again") from error
        return Seen(
            tensors["mask_logits"],
            tensors["probabilities"],
            Geometry(tuple(original), tuple(content), tuple(padded)),
            tensors["known"].cpu().numpy() if "known" in tensors else None,
        )

    def __delitem__(self, place: Place) -> None:
        self._file(place).unlink()

    def __iter__(self) -> Iterator[Place]:
        for file in self.folder.glob("*.safetensors"):
            row, _, column = file.stem.partition("-")
            yield int(row), int(column)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, place: object) -> bool:
        return isinstance(place, tuple) and self._file(place).is_file()

    def _file(self, place: Place) -> Path:
        return self.folder / f"{place[0]}-{place[1]}.safetensors"
