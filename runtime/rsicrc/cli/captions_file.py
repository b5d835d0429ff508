"""The batch job: a table of pairs in, a captions file out, in an order and a form that survive being stopped.

A captions file is JSON lines, one for each row, written as soon as its caption is known. Whatever ends a run, a full
disk, Ctrl-C or a power cut, the lines in the file are good, and the same command does the rest. A line holds what it
was made with (`model`, `search`), so that a file never mixes two models unnoticed.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rsicrc.errors import PairsError
from rsicrc.files import replacing
from rsicrc.inputs.pair_table import RESULT_COLUMNS, PairRow
from rsicrc.results import PairFailure
from rsicrc.timings import Timings

if TYPE_CHECKING:
    from rsicrc.engine import Engine
    from rsicrc.progress import ProgressCallback
    from rsicrc.results import Caption

_DECIMALS = 6  # what float32 sums are good for
_KEYS = ("id", "before", "after")
_LINE_START = b'{"id": '


@dataclass(frozen=True)
class BatchSettings:
    """What the captions of one file are made with.

    Attributes:
        model: Short hash of the model folder.
        beams: Width of the beam search.
        n_best: Sentences kept for each pair; more than one writes the column `n_best`.
        length_penalty: Exponent of the length in a score.
    """

    model: str
    beams: int
    n_best: int
    length_penalty: float

    def to_dict(self) -> dict[str, str]:
        """Return the columns that every line repeats."""
        search = f"beams={self.beams} n_best={self.n_best} length_penalty={self.length_penalty:g}"
        return {"model": self.model, "search": search}


def caption_rows(
    engine: Engine, rows: Sequence[PairRow], output: CaptionsFile, *, batch_size: int, advance: ProgressCallback
) -> Timings:
    """Caption the rows that the output lacks and write each as soon as it is known.

    Images are read by other threads, ahead of the model. A row whose images cannot be used gets a line with `error`.

    Args:
        engine: The model.
        rows: All rows of the table.
        output: Where the lines go; rows that it holds already are left alone.
        batch_size: Pairs that go through the model together.
        advance: Called once for every row done now.

    Returns:
        Where the time went.

    Raises:
        OSError: A line could not be written; those before it are kept.
    """
    settings = output.settings
    pending = [row for row in rows if row.id not in output.done]
    stream = engine.caption_stream(
        (row.paths for row in pending if row.problem is None),
        beams=settings.beams,
        n_best=settings.n_best,
        length_penalty=settings.length_penalty,
        batch_size=batch_size,
    )
    total, batch = Timings(), Timings()
    for row in pending:
        outcome = next(stream) if row.problem is None else row.problem
        if isinstance(outcome, str):
            output.append(row, {"error": outcome})
        elif isinstance(outcome, PairFailure):
            output.append(row, {"error": str(outcome.error)})
        else:
            output.append(row, result_of(outcome, settings.n_best))
            if outcome.timings is not batch:  # the first pair of another batch
                batch = outcome.timings
                total.add(batch)
        advance(note=f"{output.failed} failed" if output.failed else None)
    output.finish()
    return total


def result_of(caption: Caption, n_best: int) -> dict[str, Any]:
    """Return the columns that a caption adds to its row."""
    result = {"caption": caption.text, "score": caption.score, "change_score": caption.change_score}
    if n_best > 1:
        result["n_best"] = [{"text": each.text, "score": each.score} for each in caption.n_best]
    return {name: rounded(value) for name, value in result.items()}


def rounded(value: Any) -> Any:
    """Round every float in plain containers to the digits that mean something."""
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


class CaptionsFile:
    """A captions file that grows by a line at a time.

    Opening one that exists keeps the lines that this run would write again: those of rows with the same id and paths,
    without error, made with the same settings. A half-written last line goes.

    Attributes:
        settings: What the captions are made with.
        done: Ids of the rows that have a caption.
        failed: Rows that got an error in this run.
    """

    def __init__(
        self, path: Path | None, rows: Sequence[PairRow], settings: BatchSettings, *, replace: bool = False
    ) -> None:
        """Open a captions file and find out what is left to do.

        Args:
            path: The file; None writes to stdout, which starts anew every time, as a device or a pipe does.
            rows: The rows that it is to hold.
            settings: What the captions will be made with.
            replace: Drop lines that do not belong to `rows` and `settings`, instead of refusing the file.

        Raises:
            PairsError: The file holds something else, or captions that this run would not make.
            OSError: It cannot be read or written.
        """
        self.settings = settings
        self.done: set[str] = set()
        self.failed = 0
        self._path = path
        self._rows = rows
        self._written: list[str] = []
        self._resumable = path is not None and (path.is_file() or not path.exists())
        if path is not None and path.is_file():
            self._resume(path, replace)
        self._file: BinaryIO = sys.stdout.buffer if path is None else path.open("ab", buffering=0)
        self._end = self._file.tell() if self._resumable else 0

    def append(self, row: PairRow, result: Mapping[str, Any]) -> None:
        """Write the line of a row: its own columns, then the result, then the settings.

        Raises:
            OSError: It could not be written; what was written of it is taken back.
        """
        line = _line({**row.to_dict(), **result, **self.settings.to_dict()})
        try:
            _write(self._file, line)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            if self._resumable:
                with suppress(OSError):
                    os.ftruncate(self._file.fileno(), self._end)
            kept = f"; {len(self.done)} of {len(self._rows)} rows are done and kept, run the same command to go on"
            reason = f"{error.strerror}{kept if self._resumable else ''}"
            raise OSError(error.errno, reason, str(self._path or "stdout")) from error
        self._end += len(line)
        self._written.append(row.id)
        if "error" in result:
            self.failed += 1
        else:
            self.done.add(row.id)

    def finish(self) -> None:
        """Bring the lines into the order of the rows, where retried or changed rows came late."""
        if self._path is None or not self._resumable:
            return
        position = {row.id: index for index, row in enumerate(self._rows)}
        order = [position[row_id] for row_id in self._written]
        if order != sorted(order):
            lines = self._path.read_bytes().splitlines(keepends=True)
            _replace(self._path, (line for _, line in sorted(zip(order, lines, strict=True))))

    def _resume(self, path: Path, replace: bool) -> None:
        content = path.read_bytes()
        records = _parse(content, path)
        rows = {row.id: row for row in self._rows}
        if not replace:
            self._refuse_strangers(path, records, rows)
        kept: dict[str, bytes] = {}
        for record in records:
            row = rows.get(record["id"])
            if row is not None and self._still_good(record, row):
                # The table's other columns may have changed since; the caption has not.
                result = {name: record[name] for name in RESULT_COLUMNS if name in record}
                kept[row.id] = _line({**row.to_dict(), **result})
        if b"".join(kept.values()) != content:
            _replace(path, kept.values())
        self._written = list(kept)
        self.done = set(kept)

    def _still_good(self, record: Mapping[str, Any], row: PairRow) -> bool:
        return (
            "error" not in record
            and (record["before"], record["after"]) == (row.before, row.after)
            and all(record.get(name) == value for name, value in self.settings.to_dict().items())
        )

    def _refuse_strangers(self, path: Path, records: Iterable[Mapping[str, Any]], rows: Mapping[str, PairRow]) -> None:
        advice = "Give another -o, or --force to replace them"
        for record in records:
            for name, value in self.settings.to_dict().items():
                if "error" not in record and record.get(name) != value:
                    raise PairsError(
                        f"{path}: holds captions made with another {name} ({record.get(name)}, now {value}). {advice}"
                    )
            if record["id"] not in rows:
                raise PairsError(f"{path}: holds captions of rows that the table lacks (id '{record['id']}'). {advice}")


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Read the lines of a captions file; a last one that was cut in the middle is left out."""
    records: list[dict[str, Any]] = []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line and number == len(lines):
            break
        try:
            record = json.loads(line)
        except ValueError:
            record = None
            if number == len(lines) and (records or line.startswith(_LINE_START) or _LINE_START.startswith(line)):
                break
        if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in _KEYS):
            raise PairsError(f"{path}: line {number} is not one of a captions file. Give another -o, or remove it")
        records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", errors="surrogatepass") + b"\n"


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of `data`, to the system: an unbuffered file may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    file.flush()


def _replace(path: Path, lines: Iterable[bytes]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(lines)
