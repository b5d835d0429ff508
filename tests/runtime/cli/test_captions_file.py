"""Tests of the captions file with a stand-in for the engine; test_caption_table.py has tests with a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from rsicrc.cli.captions_file import CaptionsFile, caption_rows, require_json_lines
from rsicrc.decoding.options import CaptionOptions
from rsicrc.engine import Engine
from rsicrc.errors import ArgumentError, ImageError, PairsError
from rsicrc.files import try_lock
from rsicrc.inputs.pair_table import PairRow
from rsicrc.progress import ignore_progress
from rsicrc.results import Caption, Hypothesis, PairFailure

PROVENANCE = {"model": "abc", "search": "beams=3 n_best=1 length_penalty=1"}


class FakeEngine:
    """Stand-in whose captions are the names of the files. Pairs in `broken` fail; the pair `stop_at` raises `error`."""

    def __init__(self, broken: Iterable[str] = (), stop_at: str = "", error: BaseException | None = None) -> None:
        self.broken, self.stop_at, self.error = set(broken), stop_at, error
        self.seen: list[str] = []

    def caption_stream(
        self, pairs: Iterable[tuple[Path, Path]], options: CaptionOptions, **_: Any
    ) -> Iterator[Caption | PairFailure]:
        for index, (before, after) in enumerate(pairs):
            if before.name == self.stop_at and self.error is not None:
                raise self.error
            self.seen.append(before.name)
            if before.name in self.broken:
                yield PairFailure(index, ImageError(f"{before}: the file is empty"))
                continue
            best = tuple(
                Hypothesis(f"{before.name}-{rank}", -0.12345678 * rank, (-0.1,))
                for rank in range(1, options.n_best + 1)
            )
            yield Caption(f"{before.name} to {after.name}", -0.12345678, (-0.1,), best, 0.98765432)


def table(folder: Path, count: int = 6) -> list[PairRow]:
    return [PairRow(str(n), f"{n}a", f"{n}b", folder, {"place": f"é{n}"}) for n in range(1, count + 1)]


def run(
    path: Path | None,
    rows: list[PairRow],
    engine: FakeEngine | None = None,
    provenance: dict[str, str] = PROVENANCE,
    *,
    n_best: int = 1,
    replace: bool = False,
) -> tuple[CaptionsFile, FakeEngine]:
    engine = engine or FakeEngine()
    output = CaptionsFile(path, rows, provenance, replace=replace)
    options = CaptionOptions(n_best=n_best)
    caption_rows(cast("Engine", engine), rows, output, options, batch_size=2, advance=ignore_progress)
    return output, engine


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_line_holds_row_result_and_provenance(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    run(path, table(tmp_path, 2))
    assert records(path)[0] == {
        "id": "1",
        "before": "1a",
        "after": "1b",
        "place": "é1",
        "caption": "1a to 1b",
        "score": -0.123457,
        "change_score": 0.987654,
        "change_probability": None,
        "changed": None,
        "seen": None,
        "warnings": [],
        "model": "abc",
        "search": "beams=3 n_best=1 length_penalty=1",
    }
    assert "é1" in path.read_text(encoding="utf-8")


def test_n_best_is_a_column_when_more_than_one_is_requested(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    run(path, table(tmp_path, 1), n_best=2)
    assert records(path)[0]["n_best"] == [
        {"caption": "1a-1", "score": -0.123457},
        {"caption": "1a-2", "score": -0.246914},
    ]


def test_broken_row_is_reported_in_its_place_and_retried(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    rows[4] = replace(rows[4], problem="no path in 'after'")
    first, _ = run(path, rows, FakeEngine(broken=["2a"]))
    assert first.failed == 2
    assert [record["id"] for record in records(path)] == ["1", "2", "3", "4", "5", "6"]
    assert "the file is empty" in records(path)[1]["error"]
    assert records(path)[4]["error"] == "no path in 'after'"
    assert "caption" not in records(path)[1]

    rows = table(tmp_path)
    second, engine = run(path, rows)
    assert engine.seen == ["2a", "5a"]
    assert second.failed == 0
    run(tmp_path / "undisturbed.jsonl", rows)
    assert path.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_interrupted_run_is_resumed(tmp_path: Path, error: BaseException) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    with pytest.raises(type(error)):
        run(path, rows, FakeEngine(stop_at="4a", error=error))
    assert [record["id"] for record in records(path)] == ["1", "2", "3"]
    _, engine = run(path, rows)
    assert engine.seen == ["4a", "5a", "6a"]
    run(tmp_path / "undisturbed.jsonl", rows)
    assert path.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def test_file_cut_at_any_byte_is_resumed(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path, 2)
    run(path, rows)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        run(path, rows)
        assert path.read_bytes() == whole, f"cut after {length} bytes"


def test_finished_file_is_not_written(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    run(path, rows)
    before = path.stat()
    output, engine = run(path, rows)
    assert engine.seen == []
    assert len(output.done) == 6
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_changed_rows_are_captioned_again_and_new_rows_inserted(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    run(path, rows)
    rows[1] = replace(rows[1], after="other")
    rows[2] = replace(rows[2], extra={"place": "new name"})
    rows.insert(0, PairRow("0", "0a", "0b", tmp_path, {}))
    _, engine = run(path, rows)
    assert engine.seen == ["0a", "2a"]  # another column changes the line, not the caption
    assert [record["id"] for record in records(path)] == ["0", "1", "2", "3", "4", "5", "6"]
    assert records(path)[2]["caption"] == "2a to other"
    assert (records(path)[3]["place"], records(path)[3]["caption"]) == ("new name", "3a to 3b")


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({**PROVENANCE, "model": "def"}, "another model (abc, now def)"),
        ({**PROVENANCE, "search": "beams=5"}, "another search (beams=3 n_best=1 length_penalty=1, now beams=5"),
    ],
)
def test_captions_of_other_provenance_are_refused_unless_forced(
    tmp_path: Path, provenance: dict[str, str], message: str
) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    run(path, rows)
    content = path.read_bytes()
    with pytest.raises(PairsError, match="--force") as caught:
        run(path, rows, provenance=provenance)
    assert message in str(caught.value)
    assert path.read_bytes() == content
    _, engine = run(path, rows, provenance=provenance, replace=True)
    assert len(engine.seen) == 6
    assert {record["model"] for record in records(path)} == {provenance["model"]}


def test_captions_of_another_table_are_refused_unless_forced(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    run(path, rows)
    content = path.read_bytes()
    with pytest.raises(PairsError, match="id '5'"):
        run(path, rows[:4])
    assert path.read_bytes() == content
    run(path, rows[:4], replace=True)
    assert [record["id"] for record in records(path)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    "content", [b"hello", b"hello\n", b"[1]\n", b'{"id": "1"}\n', b"\xff\xd8\xff\xe0", b"before,after\n"]
)
@pytest.mark.parametrize("force", [False, True])
def test_file_with_other_content_is_never_changed(tmp_path: Path, content: bytes, force: bool) -> None:
    path = tmp_path / "precious.txt"
    path.write_bytes(content)
    with pytest.raises(PairsError, match=r"precious.txt: line 1 is not a caption"):
        run(path, table(tmp_path), replace=force)
    assert path.read_bytes() == content


def test_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    run(path, rows)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0" * 20 + b"\n", *lines[3:]]))
    with pytest.raises(PairsError, match="line 3"):
        run(path, rows)


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    path.symlink_to(tmp_path / "disk" / "real.jsonl")
    run(path, rows, FakeEngine(broken=["2a"]))
    run(path, rows)
    assert path.is_symlink()
    assert len(records(tmp_path / "disk" / "real.jsonl")) == 6
    assert [each.name for each in (tmp_path / "disk").iterdir()] == ["real.jsonl"]


def test_full_device_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(Path("/dev/full"), table(tmp_path))
    assert caught.value.filename == "/dev/full"


def test_full_disk_keeps_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    capacity = 600  # two lines and a part of the third

    def write(file: Any, data: bytes) -> None:
        nonlocal capacity
        part = data[:capacity]
        capacity -= file.write(part)
        if len(part) < len(data):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("rsicrc.cli.captions_file._write", write)
        with pytest.raises(OSError, match="2 of 6 rows are done and kept") as caught:
            run(path, rows)
    assert caught.value.filename == str(path)
    assert [record["id"] for record in records(path)] == ["1", "2"]
    assert path.read_bytes().endswith(b"}\n")
    _, engine = run(path, rows)
    assert engine.seen == ["3a", "4a", "5a", "6a"]


def test_sorting_on_a_full_disk_keeps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    run(path, rows, FakeEngine(broken=["2a"]))
    output = CaptionsFile(path, rows, PROVENANCE)

    def full(self: Path, mode: str, **_: Any) -> Any:
        raise OSError(28, "No space left on device", str(self))

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.open", full)
        with pytest.raises(OSError, match="No space left"):
            caption_rows(
                cast("Engine", FakeEngine()), rows, output, CaptionOptions(), batch_size=2, advance=ignore_progress
            )
    assert sorted(record["id"] for record in records(path)) == ["1", "2", "3", "4", "5", "6"]
    run(path, rows)
    assert [record["id"] for record in records(path)] == ["1", "2", "3", "4", "5", "6"]


def test_lines_go_to_stdout_without_a_file(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    run(None, table(tmp_path, 2))
    assert [json.loads(line)["id"] for line in capsysbinary.readouterr().out.splitlines()] == ["1", "2"]


def test_names_that_are_not_utf8_are_escaped_and_resumed(tmp_path: Path) -> None:
    path, name = tmp_path / "out.jsonl", os.fsdecode(b"caf\xe9.png")
    rows = [PairRow("1", name, "b.png", tmp_path, {"place": "Köln"})]
    run(path, rows)
    assert b"caf\\udce9.png" in path.read_bytes()
    assert "Köln".encode() in path.read_bytes()
    assert records(path)[0]["before"] == name
    assert run(path, rows)[1].seen == []


def test_second_writer_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    run(path, rows, FakeEngine(broken=["1a"]))
    with CaptionsFile(path, rows, PROVENANCE) as first:  # has replaced the file: the failed row is to be done again
        content = path.read_bytes()
        for force in (False, True):
            with pytest.raises(PairsError, match=r"out\.jsonl: another process is writing it\. Wait"):
                CaptionsFile(path, rows, PROVENANCE, replace=force)
        assert path.read_bytes() == content
        first.append(rows[0], {"caption": "late"})
    assert [record["id"] for record in records(path)] == ["2", "3", "4", "5", "6", "1"]
    run(path, rows)
    assert [record["id"] for record in records(path)] == ["1", "2", "3", "4", "5", "6"]


def test_sorted_file_stays_locked(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    run(path, rows, FakeEngine(broken=["2a"]))
    with CaptionsFile(path, rows, PROVENANCE) as first:
        first.append(rows[1], {"caption": "late"})
        first.finish()
        with pytest.raises(PairsError, match="another process is writing it"):
            CaptionsFile(path, rows, PROVENANCE)


def test_file_that_is_replaced_before_it_is_locked_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    run(path, rows)
    lock = try_lock

    def replace_and_lock(file: Any) -> bool:
        monkeypatch.setattr("rsicrc.cli.captions_file.try_lock", lock)
        (tmp_path / "other").write_bytes(path.read_bytes())
        (tmp_path / "other").replace(path)
        return lock(file)

    monkeypatch.setattr("rsicrc.cli.captions_file.try_lock", replace_and_lock)
    with CaptionsFile(path, rows, PROVENANCE) as output:
        output.append(rows[0], {"caption": "again"})
    assert [record["caption"] for record in records(path)][-1] == "again"


def test_killed_writer_releases_the_file(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.jsonl", table(tmp_path)
    hold = (
        "import sys; from rsicrc.files import try_lock; file = open(sys.argv[1], 'ab'); "
        "print(try_lock(file), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "True\n"
        with pytest.raises(PairsError, match="another process is writing it"):
            CaptionsFile(path, rows, PROVENANCE)
        writer.kill()
    run(path, rows)
    assert len(records(path)) == 6


@pytest.mark.parametrize("name", ["r.csv", "r.CSV", "r.json", "r.parquet", "r.xlsx", "r.jsonl.gz", "r.html"])
def test_names_of_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"captions are written as JSON lines: end the name in \.jsonl, not \."):
        require_json_lines(tmp_path / name)


@pytest.mark.parametrize("name", ["r.jsonl", "r.JSONL", "r.ndjson", "captions", "r.txt", "/dev/null"])
def test_other_names_are_accepted(tmp_path: Path, name: str) -> None:
    require_json_lines(tmp_path / name)
    require_json_lines(None)
