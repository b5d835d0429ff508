"""`rsicrc-run caption --pairs` with a real model: batches, broken rows, full disks, Ctrl-C, and continued runs."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import rsicrc
from tests.runtime.conftest import Command

CPU = ["--device", "cpu", "--backend", "onnxruntime"]
RUN = [sys.executable, "-c", "from rsicrc.cli.main import main; main()", "caption"]


@pytest.fixture
def table(pictures: Path, tmp_path: Path) -> Path:
    """Return a table of fifteen rows over five pairs, with ids and an additional column."""
    pairs = tmp_path / "pairs.csv"
    where = os.path.relpath(pictures, tmp_path)
    rows = [f"r{n},{where}/{n % 5 + 1}a.png,{where}/{n % 5 + 1}b.png,place {n}" for n in range(15)]
    pairs.write_text("id,before,after,place\n" + "\n".join(rows) + "\n")
    return pairs


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    """Compare two files; scores may differ in the last digit, because the batches differ."""
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_each_row_gets_one_line(
    rsicrc_run: Command, model_folder: Path, table: Path, pictures: Path, auto_line: str
) -> None:
    output = table.with_name("captions.jsonl")
    ended = rsicrc_run("caption", "--pairs", table, "-o", output, "--model", model_folder, "--batch-size", "4")
    assert (ended.code, ended.out, ended.err) == (0, "", auto_line)
    lines = records(output)
    assert [line["id"] for line in lines] == [f"r{n}" for n in range(15)]
    assert lines[7]["place"] == "place 7"
    caption = rsicrc.load(model_folder).caption([(pictures / "3a.png", pictures / "3b.png")])[0]
    assert lines[7]["caption"] == caption.text
    assert lines[7]["score"] == pytest.approx(caption.score, abs=1e-5)
    assert lines[7]["change_score"] == pytest.approx(caption.change_score, abs=1e-5)
    assert lines[7]["before"].endswith("3a.png")

    again = rsicrc_run("caption", "--pairs", table, "-o", output, "--model", model_folder)
    assert (again.code, again.err) == (0, f"{auto_line}15 of 15 rows are done already\n")
    assert records(output) == lines


def test_captions_go_to_stdout_by_default(
    rsicrc_run: Command, model_folder: Path, pictures: Path, auto_line: str
) -> None:
    table = pictures / "pairs.jsonl"
    table.write_text('{"before": "1a.png", "after": "1b.png", "tags": [1, 2]}\n')
    search = ("--beams", "4", "--n-best", "2", "--length-penalty", "0")
    ended = rsicrc_run("caption", "--pairs", table, "--model", model_folder, *search)
    line = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, auto_line)
    assert (line["id"], line["tags"], line["search"]) == ("1", [1, 2], "beams=4 n_best=2 length_penalty=0")
    assert line["n_best"][0]["caption"] == line["caption"]
    assert len(line["n_best"]) == 2


def test_broken_rows_do_not_stop_the_others(
    rsicrc_run: Command, model_folder: Path, table: Path, pictures: Path, auto_line: str
) -> None:
    output = table.with_name("captions.jsonl")
    good = table.read_text()
    broken = good.replace("1b.png,place 5", "gone.png,place 5").replace(f"{pictures.name}/2a.png", "", 1)
    (table.parent / "bad.png").write_bytes((pictures / "1a.png").read_bytes()[:200])
    table.write_text(broken + "r15,bad.png,bad.png,place 15\n")
    ended = rsicrc_run("caption", "--pairs", table, "-o", output, "--model", model_folder, "--batch-size", "4")
    assert ended.code == 1
    failed = "3 of 16 rows failed, see 'error' in their lines; run the same command to try them again\n"
    assert ended.err == auto_line + failed
    lines = records(output)
    assert [line["id"] for line in lines if "error" in line] == ["r1", "r5", "r15"]
    assert "gone.png" in lines[5]["error"]
    assert sum("caption" in line for line in lines) == 13

    table.write_text(good + "r15,bad.png,bad.png,place 15\n")
    (table.parent / "bad.png").write_bytes((pictures / "1a.png").read_bytes())
    ended = rsicrc_run("caption", "--pairs", table, "-o", output, "--model", model_folder)
    assert (ended.code, ended.err) == (0, f"{auto_line}13 of 16 rows are done already\n")
    assert [line["id"] for line in records(output)] == [f"r{n}" for n in range(16)]
    assert all("caption" in line for line in records(output))


def test_output_of_another_model_or_search_is_refused(
    rsicrc_run: Command, model_folder: Path, model_copy: Path, table: Path
) -> None:
    output = table.with_name("captions.jsonl")
    rsicrc_run("caption", "--pairs", table, "-o", output, "--model", model_folder)
    content = output.read_bytes()
    manifest = json.loads((model_copy / "manifest.json").read_text())
    (model_copy / "manifest.json").write_text(json.dumps({**manifest, "no_change_sentences": []}))
    for arguments in (["--model", model_copy], ["--model", model_folder, "--beams", "2"]):
        ended = rsicrc_run("caption", "--pairs", table, "-o", output, *arguments)
        assert ended.code == 1
        assert "--force" in ended.err
        assert output.read_bytes() == content
    ended = rsicrc_run("caption", "--pairs", table, "-o", output, "--model", model_copy, "--force")
    assert ended.code == 0
    assert {line["change_score"] for line in records(output)} == {None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("before,then\na,b\n", "no column 'after'"),
        ("", "no rows"),
        ("id,before,after\n1,a,b\n1,a,b\n", "id '1' occurs in lines 2 and 3"),
        (None, "table.csv: No such file or directory"),
    ],
)
def test_wrong_tables_are_refused(
    rsicrc_run: Command, model_folder: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    table, output = tmp_path / "table.csv", tmp_path / "out.jsonl"
    if content is not None:
        table.write_text(content)
    ended = rsicrc_run("caption", "--pairs", table, "-o", output, "--model", model_folder)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert message in ended.err
    assert not output.exists()


def test_wrong_arguments_are_one_line(rsicrc_run: Command, model_folder: Path, table: Path) -> None:
    content = table.read_text()
    for arguments in (["-o", table], ["--heatmap", "x.png"], ["--n-best", "9"], ["--batch-size", "0"]):
        ended = rsicrc_run("caption", "--pairs", table, "--model", model_folder, *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert table.read_text() == content


def test_full_disk_is_one_line(rsicrc_run: Command, model_folder: Path, table: Path, auto_line: str) -> None:
    ended = rsicrc_run("caption", "--pairs", table, "-o", "/dev/full", "--model", model_folder)
    assert (ended.code, ended.err) == (1, f"{auto_line}rsicrc-run: error: /dev/full: No space left on device\n")


def test_output_that_cannot_grow_is_continued(
    rsicrc_run: Command, model_folder: Path, table: Path, tmp_path: Path
) -> None:
    output, undisturbed = tmp_path / "captions.jsonl", tmp_path / "undisturbed.jsonl"
    arguments = ["--pairs", str(table), "--model", str(model_folder), "--threads", "1", *CPU]
    rsicrc_run("caption", *arguments, "-o", undisturbed)
    room = undisturbed.stat().st_size // 2

    done = subprocess.run(
        [*RUN, *arguments, "-o", str(output)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    kept = records(output)
    assert done.returncode == 1
    assert done.stderr == (
        f"rsicrc-run: error: {output}: File too large; {len(kept)} of 15 rows are done and kept, "
        "run the same command to continue\n"
    )
    assert 0 < len(kept) < 15
    assert rsicrc_run("caption", *arguments, "-o", output).code == 0
    assert_same(records(output), records(undisturbed))


def test_interrupted_output_is_continued(
    rsicrc_run: Command, model_folder: Path, table: Path, pictures: Path, tmp_path: Path
) -> None:
    rows = [f"r{n},{pictures}/{n % 5 + 1}a.png,{pictures}/{n % 5 + 1}b.png" for n in range(400)]
    table.write_text("id,before,after\n" + "\n".join(rows) + "\n")
    output, undisturbed = tmp_path / "captions.jsonl", tmp_path / "undisturbed.jsonl"
    arguments = ["--pairs", str(table), "--model", str(model_folder), "--threads", "1", *CPU]

    process = subprocess.Popen(
        [*RUN, *arguments, "-o", str(output), "--batch-size", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 600
    while not (output.exists() and output.read_bytes().count(b"\n") >= 6):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    kept = records(output)
    assert (process.returncode, out) == (130, "")
    assert err == f"interrupted after {len(kept)} of 400; run the same command to continue\n"
    assert 6 <= len(kept) < 400

    with output.open("ab") as file:
        file.write(b'{"id": "r39", "before": "hal')  # as a kill in the middle of a write leaves it
    ended = rsicrc_run("caption", *arguments, "-o", output)
    assert (ended.code, ended.err) == (0, f"{len(kept)} of 400 rows are done already\n")
    rsicrc_run("caption", *arguments, "-o", undisturbed)
    assert_same(records(output), records(undisturbed))


def test_json_of_a_name_that_is_not_utf8_is_valid(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes((pictures / "1a.png").read_bytes())
    command: list[str | bytes] = [*RUN, name, str(pictures / "1b.png"), "--model", str(model_folder), "--json", *CPU]
    ended = subprocess.run(command, capture_output=True, check=True, env=environment())
    assert os.fsencode(json.loads(ended.stdout.decode("utf-8"))["before"]) == name


def test_folders_tables_and_standard_input_are_captioned(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    for number in "12":
        for date, name in (("a", "t1"), ("b", "t2")):
            folder = tmp_path / date
            folder.mkdir(exist_ok=True)
            (folder / f"{name}_{number}.png").write_bytes((pictures / f"{number}{date}.png").read_bytes())
            (folder / f"{number}.png").write_bytes((pictures / f"{number}{date}.png").read_bytes())

    def captions(*args: object, stdin: bytes = b"") -> list[tuple[str, str]]:
        command = [*RUN, *map(str, args), "--model", str(model_folder), *CPU]
        ended = subprocess.run(command, input=stdin, capture_output=True, check=True, env=environment())
        return [(record["id"], record["caption"]) for record in map(json.loads, ended.stdout.splitlines())]

    table = "before;after\r\n" + "".join(f"{pictures}/{n}a.png;{pictures}/{n}b.png\r\n" for n in "12")
    expected = captions("--pairs", "-", stdin=table.encode("utf-16"))
    assert [name for name, _ in expected] == ["1", "2"]
    match = ["--match", "t1_{id}.png", "t2_{id}.png"]
    assert captions(tmp_path / "a", tmp_path / "b", *match) == expected


def test_output_with_the_ending_of_another_format_is_refused(
    rsicrc_run: Command, pictures: Path, tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"before,after\n{pictures / '1a.png'},{pictures / '1b.png'}\n")
    ended = rsicrc_run("caption", "--pairs", table, "-o", tmp_path / "r.csv", "--model", tmp_path / "nowhere")
    assert (ended.code, ended.out) == (2, "")
    assert "r.csv: captions are written as JSON lines: end the name in .jsonl, not .csv" in ended.err
    assert not (tmp_path / "r.csv").exists()
