"""Captions files: the captions of a table of pairs, written so that an interrupted run can be resumed.

A captions file holds one JSON line for each row of the table, written as soon as the caption is known. After a full
disk, Ctrl-C or a power cut the lines in the file are valid, and the same command captions the remaining rows. Each line
names the model and the search options (`model`, `search`), so that a file never mixes two models unnoticed.

One writer at a time: the file is locked while a run appends to it. A run that replaces the file (to sort its lines, for
example) locks the new file before it takes the name.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rsicrc.errors import ArgumentError, PairsError, shortened
from rsicrc.files import replacing, try_lock
from rsicrc.inputs.pair_table import RESULT_COLUMNS, PairRow
from rsicrc.results import PairFailure, rounded
from rsicrc.timings import Timings

if TYPE_CHECKING:
    from rsicrc.decoding.options import CaptionOptions
    from rsicrc.engine import Engine
    from rsicrc.progress import ProgressCallback
    from rsicrc.results import Caption

_KEYS = ("id", "before", "after")
_LINE_START = b'{"id": '
_SUFFIXES = ("", ".jsonl", ".ndjson", ".jsonlines", ".txt")


def require_json_lines(path: Path | None) -> None:
    """Check that the name of an output file does not promise another format than JSON lines.

    Raises:
        ArgumentError: The name has another ending, such as `.csv`.
    """
    if path is not None and path.suffix.lower() not in _SUFFIXES and (path.is_file() or not path.exists()):
        raise ArgumentError(f"{path}: captions are written as JSON lines: end the name in .jsonl, not {path.suffix}")


def caption_rows(
    engine: Engine,
    rows: Sequence[PairRow],
    output: CaptionsFile,
    options: CaptionOptions,
    *,
    batch_size: int,
    advance: ProgressCallback,
) -> Timings:
    """Caption the rows that the output lacks and write each caption as soon as it is known; then close the output.

    A row whose images cannot be used gets a line with `error`.

    Args:
        engine: The engine.
        rows: All rows of the table.
        output: The captions file; rows that it holds already are skipped.
        options: Options of captioning.
        batch_size: Number of pairs that go through the graphs together.
        advance: Called once for every row of this run.

    Returns:
        Timings of the whole run.

    Raises:
        OSError: A line could not be written; the lines before it are kept.
    """
    with output:
        return _caption_pending(engine, rows, output, options, batch_size, advance)


def _caption_pending(
    engine: Engine,
    rows: Sequence[PairRow],
    output: CaptionsFile,
    options: CaptionOptions,
    batch_size: int,
    advance: ProgressCallback,
) -> Timings:
    pending = [row for row in rows if row.id not in output.done]
    stream = engine.caption_stream(
        (row.paths for row in pending if row.problem is None),
        options,
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
            output.append(row, result_columns(outcome, options.n_best))
            if outcome.timings is not batch:  # the first pair of another batch
                batch = outcome.timings
                total.add(batch)
        advance(note=f"{output.failed} failed" if output.failed else None)
    output.finish()
    return total


def result_columns(caption: Caption, n_best: int) -> dict[str, Any]:
    """Return the columns that a caption adds to its row; `n_best` is a column if it is more than one."""
    result = {
        "caption": caption.text,
        "score": caption.score,
        "change_score": caption.change_score,
        "change_probability": caption.change_probability,
        "changed": caption.changed,
        "seen": None if caption.seen is None else list(caption.seen.box),
        "warnings": list(caption.warnings),
    }
    if n_best > 1:
        result["n_best"] = [{"caption": each.text, "score": each.score} for each in caption.n_best]
    columns: dict[str, Any] = rounded(result)
    return columns


class CaptionsFile:
    """A captions file that grows line by line.

    Opening an existing file keeps the lines that this run would write again: lines of rows with the same id and paths,
    without error, with the same provenance. A half-written last line is removed.

    Attributes:
        done: Ids of the rows that have a caption.
        failed: Number of rows that got an error in this run.
    """

    def __init__(
        self, path: Path | None, rows: Sequence[PairRow], provenance: Mapping[str, str], *, replace: bool = False
    ) -> None:
        """Open a captions file and read the rows that are done.

        Args:
            path: The file; None writes to stdout. Stdout, a device and a pipe are never resumed.
            rows: The rows that the file is to hold.
            provenance: Columns that every line repeats: the model and the search options that make the captions.
            replace: Drop lines that do not belong to `rows` and `provenance`, instead of refusing the file.

        Raises:
            PairsError: Another process writes the file, or it holds something else, or captions that this run would not
                make.
            OSError: The file cannot be read or written.
        """
        self._provenance = dict(provenance)
        self.done: set[str] = set()
        self.failed = 0
        self._path = path
        self._rows = rows
        self._written: list[str] = []
        self._resumable = path is not None and (path.is_file() or not path.exists())
        self._file: BinaryIO = sys.stdout.buffer if path is None else path.open("ab", buffering=0)
        self._end = 0
        if path is not None and self._resumable:
            try:
                self._lock(path)
                self._resume(path, replace)
                self._end = self._file.seek(0, os.SEEK_END)
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> CaptionsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, so that another run can write it."""
        if self._path is not None:
            self._file.close()

    def append(self, row: PairRow, result: Mapping[str, Any]) -> None:
        """Write the line of a row: the columns of the table, then the result, then the provenance.

        Raises:
            OSError: The line could not be written; a part that was written is removed.
        """
        line = _line({**row.to_dict(), **result, **self._provenance})
        try:
            _write(self._file, line)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            if self._resumable:
                with suppress(OSError):
                    os.ftruncate(self._file.fileno(), self._end)
            kept = f"; {len(self.done)} of {len(self._rows)} rows are done and kept, run the same command to continue"
            reason = f"{error.strerror}{kept if self._resumable else ''}"
            raise OSError(error.errno, reason, str(self._path or "stdout")) from error
        self._end += len(line)
        self._written.append(row.id)
        if "error" in result:
            self.failed += 1
        else:
            self.done.add(row.id)

    def finish(self) -> None:
        """Sort the lines into the order of the rows: retried and changed rows are written last."""
        if self._path is None or not self._resumable:
            return
        position = {row.id: index for index, row in enumerate(self._rows)}
        order = [position[row_id] for row_id in self._written]
        if order != sorted(order):
            lines = self._path.read_bytes().splitlines(keepends=True)
            self._replace(self._path, (line for _, line in sorted(zip(order, lines, strict=True))))

    def _lock(self, path: Path) -> None:
        """Lock the file, and open it again if another run has replaced it before it was locked."""
        while True:
            if not try_lock(self._file):
                raise PairsError(f"{path}: another process is writing it. Wait until it ends, or give another -o")
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(self._file.fileno())):
                    return
            self._file.close()
            self._file = path.open("ab", buffering=0)

    def _replace(self, path: Path, lines: Iterable[bytes]) -> None:
        """Replace the file atomically; the new file is locked before it takes the name."""
        with replacing(path) as temporary:
            file = temporary.open("wb", buffering=0)
            try:
                try_lock(file)
                _write(file, b"".join(lines))
            except BaseException:
                file.close()
                raise
        self._file.close()
        self._file = file

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
            self._replace(path, kept.values())
        self._written = list(kept)
        self.done = set(kept)

    def _still_good(self, record: Mapping[str, Any], row: PairRow) -> bool:
        return (
            "error" not in record
            and (record["before"], record["after"]) == (row.before, row.after)
            and all(record.get(name) == value for name, value in self._provenance.items())
        )

    def _refuse_strangers(self, path: Path, records: Iterable[Mapping[str, Any]], rows: Mapping[str, PairRow]) -> None:
        advice = "Give another -o, or --force to replace them"
        for record in records:
            for name, value in self._provenance.items():
                if "error" not in record and record.get(name) != value:
                    other = f"{shortened(record.get(name))}, now {shortened(value)}"
                    raise PairsError(f"{path}: holds captions made with another {name} ({other}). {advice}")
            if record["id"] not in rows:
                raise PairsError(
                    f"{path}: holds captions of rows that the table lacks (id '{shortened(record['id'])}'). {advice}"
                )


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Read the lines of a captions file, without a last line that was cut in the middle."""
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
            raise PairsError(f"{path}: line {number} is not a caption. Give another -o, or remove the file")
        records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> bytes:
    # A file name that is not UTF-8 has lone surrogates; backslashreplace writes them as JSON escapes.
    return json.dumps(record, ensure_ascii=False, default=str).encode("utf-8", errors="backslashreplace") + b"\n"


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of `data`: one call of an unbuffered file may write only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    file.flush()
