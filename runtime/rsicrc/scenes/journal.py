"""The journal of a run: finished tiles on disk, from which an interrupted run resumes."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import SceneError
from rsicrc.files import try_lock
from rsicrc.scenes.tile import SceneTile

_FORMAT = "rsicrc-scene-journal-1"
_ARRAYS = ("similarity", "cells")


class Journal:
    """Finished tiles, one JSON line each, after a line that identifies the run.

    A half-written last line is removed. The file is locked while it is open.

    Args:
        path: The file.
        identity: Facts on which the captions depend: sources, options, model.
        restart: Drop the tiles of a run with another identity, instead of refusing the file.

    Raises:
        SceneError: Another process writes the file, or it belongs to another run.
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = path
        self.tiles: list[SceneTile] = []
        self.left_out: set[tuple[int, int]] = set()
        self._file: BinaryIO = path.open("a+b", buffering=0)
        try:
            if not try_lock(self._file):
                raise SceneError(f"{path}: another process writes this output. Wait until it ends, or give another -o")
            self._resume({"format": _FORMAT, **identity}, restart)
        except BaseException:
            self._file.close()
            raise

    def append(self, tile: SceneTile) -> None:
        """Write a captioned tile.

        Raises:
            OSError: The line could not be written; a part that was written is removed.
        """
        fields = {name: getattr(tile, name) for name in SceneTile.__dataclass_fields__}
        self._write({**fields, **{name: _packed(fields[name]) for name in _ARRAYS}})
        self.tiles.append(tile)

    def leave_out(self, index: int, pair: int) -> None:
        """Write that a tile has too few valid pixels."""
        self._write({"index": index, "pair": pair, "left_out": True})
        self.left_out.add((index, pair))

    def close(self) -> None:
        """Close the file, so that another run can write it."""
        self._file.close()

    def _resume(self, identity: Mapping[str, Any], restart: bool) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        records = list(_records(whole, self.path)) if whole else []
        plain = json.loads(json.dumps(identity))
        if records and records[0] != plain and not restart:
            raise SceneError(
                f"{self.path}: holds an unfinished run with other files, options or another model. "
                "Remove it or give --overwrite to start again"
            )
        if not records or records[0] != plain:
            os.ftruncate(self._file.fileno(), 0)
            self._write(plain)
            return
        os.ftruncate(self._file.fileno(), len(whole))
        for record in records[1:]:
            if record.get("left_out"):
                self.left_out.add((record["index"], record["pair"]))
            else:
                self.tiles.append(_tile(record))

    def _write(self, record: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        end = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            os.ftruncate(self._file.fileno(), end)
            raise OSError(
                error.errno, f"{error.strerror}; run the same command again to continue", str(self.path)
            ) from error


def _records(content: bytes, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or (number == 1 and record.get("format") != _FORMAT):
            raise SceneError(f"{path}: line {number} is damaged: remove the file to start again")
        yield record


def _tile(record: dict[str, Any]) -> SceneTile:
    box = record["box"]
    return SceneTile(
        **{
            **record,
            "box": (box[0], box[1], box[2], box[3]),
            "ring": tuple((point[0], point[1]) for point in record["ring"]),
            **{name: _unpacked(record[name]) for name in _ARRAYS},
        }
    )


def _packed(array: NDArray[Any] | None) -> list[Any] | None:
    if array is None:
        return None
    data = np.packbits(array) if array.dtype == np.bool_ else array
    return [array.dtype.name, list(array.shape), base64.b64encode(data.tobytes()).decode("ascii")]


def _unpacked(value: list[Any] | None) -> NDArray[Any] | None:
    if value is None:
        return None
    name, shape, text = value
    data = base64.b64decode(text)
    if name == "bool":
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=int(np.prod(shape)))
        return bits.astype(np.bool_).reshape(shape)
    return np.frombuffer(data, name).reshape(shape)
