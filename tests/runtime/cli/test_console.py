"""Exit codes and one-line messages of commands."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from rsicrc.cli.console import InterruptedCommand, UsageError, progress, run_command
from rsicrc.errors import ArgumentError, ImageError


def end(action: Callable[[], None], *args: str) -> int:
    """Run a program with one command, `work`, and return the exit code."""
    app = typer.Typer()

    @app.callback()
    def start() -> None: ...

    @app.command()
    def work(count: int | None = None) -> None:
        action()

    with pytest.raises(SystemExit) as caught:
        run_command(app, "rsicrc-test", args or ["work"], extra="train")
    assert isinstance(caught.value.code, int)
    return caught.value.code


def fail(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def leave(code: int) -> Callable[[], None]:
    return fail(typer.Exit(code))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ImageError("a.png: the file\nis empty"), 1, "rsicrc-test: error: a.png: the file is empty"),
        (ImageError("\x1b]0;a\x07\u202e.png: bad"), 1, r"rsicrc-test: error: \x1b]0;a\x07\u202e.png: bad"),
        (ArgumentError("n_best is more than beams"), 2, "rsicrc-test: error: n_best is more than beams"),
        (OSError(errno.ENOSPC, "No space left", "o.jsonl"), 1, "rsicrc-test: error: o.jsonl: No space left"),
        (OSError(errno.EIO, "Input/output error"), 1, "rsicrc-test: error: Input/output error"),
        (OSError("odd"), 1, "rsicrc-test: error: odd"),
        (typer.TyperException("no"), 1, "rsicrc-test: error: no"),
        (UsageError("give two"), 2, "rsicrc-test: error: give two (see 'rsicrc-test work --help')"),
        (ModuleNotFoundError(name="cv2"), 1, "rsicrc-test: error: cv2 is not installed: pip install 'rsicrc[train]'"),
        (KeyboardInterrupt(), 130, "rsicrc-test: interrupted"),
        (InterruptedCommand("interrupted after 3 of 9"), 130, "interrupted after 3 of 9"),
    ],
)
def test_error_is_one_line(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(fail(error)) == code
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", line)


def test_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        end(fail(ZeroDivisionError()))


@pytest.mark.parametrize("code", [0, 1, 130])
def test_command_may_choose_its_exit_code(code: int) -> None:
    assert end(leave(code)) == code


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--help"], 0, "Usage: rsicrc-test"),
        (["play"], 2, "No such command 'play'"),
        (["work", "--count", "x"], 2, "valid int"),
        (["work", "--nonsense"], 2, "--nonsense"),
    ],
)
def test_parser_errors_are_one_line(args: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(lambda: None, *args) == code
    out, err = capsys.readouterr()
    assert text in (out if code == 0 else err)
    assert code == 0 or err.count("\n") == 1


SCRIPT = """
import sys
import typer
from rsicrc.cli.console import progress, run_command
app = typer.Typer()
@app.callback()
def start(): ...
@app.command()
def work(lines: int):
    with progress(lines, "work") as advance:
        for number in range(lines):
            print(f"line {number}")
            advance(note="half way")
run_command(app, "rsicrc-test")
"""


def test_full_disk_behind_stdout_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, "work", "3"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "rsicrc-test: error: No space left on device\n")


def test_closed_pipe_is_silent() -> None:
    command = f"{sys.executable} -c '{SCRIPT}' work 100000 | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("line 0\n", "")


def test_progress_bar_is_only_on_a_terminal() -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", SCRIPT, "work", "3"]
    with os.fdopen(follower, "wb") as terminal:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, text=True, check=True)
    shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert done.stdout == "line 0\nline 1\nline 2\n"
    assert "3/3" in shown
    assert "half way" in shown

    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert piped.stderr == ""


def test_progress_bar_in_a_pipe_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(None, "work") as advance:
        advance()
        advance(5, note="x")
    assert capsys.readouterr() == ("", "")
