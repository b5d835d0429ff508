"""The program `rsicrc`: its own commands, and those that upper packages add by entry points."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path

import pytest
import typer

import rsicrc
from rsicrc.cli import umbrella
from rsicrc.cli.console import run_command
from rsicrc.cli.main import COMMANDS
from rsicrc.cli.options import APP_SETTINGS

added = typer.Typer(**APP_SETTINGS)


@added.command()
def describe(word: str, missing: bool = False) -> None:
    """Print a word."""
    if missing:
        raise ModuleNotFoundError(name="torch")
    typer.echo(word)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str) -> tuple[int, str, str]:
    """Run `rsicrc` in this process → exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["rsicrc", *args])
    with pytest.raises(SystemExit) as ended:
        umbrella.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def entry_points_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the entry points of the group `rsicrc.commands`, to be filled by a test."""
    commands: dict[str, str] = {}

    def found(*, group: str) -> EntryPoints:
        return EntryPoints(EntryPoint(name, value, group) for name, value in commands.items())

    monkeypatch.setattr("importlib.metadata.entry_points", found)
    return commands


def test_module_runs_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "rsicrc", "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"rsicrc {rsicrc.__version__}\n", "")


def test_help_lists_all_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, entry_points_of: dict[str, str]
) -> None:
    entry_points_of["added"] = f"{__name__}:added"
    code, out, _ = run(capsys, monkeypatch, "--help")
    listed = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()]
    assert code == 0
    assert listed == [*(command.__name__ for command in COMMANDS), "added"]


def test_entry_point_becomes_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, entry_points_of: dict[str, str]
) -> None:
    entry_points_of["added"] = f"{__name__}:added"
    assert run(capsys, monkeypatch, "added", "road") == (0, "road\n", "")
    code, out, _ = run(capsys, monkeypatch, "added", "--help")
    assert code == 0
    assert out.startswith("Usage: rsicrc added")
    assert "completion" not in out
    code, out, err = run(capsys, monkeypatch, "added")
    assert (code, out) == (2, "")
    assert err.startswith("rsicrc: error: Missing argument")
    assert err.endswith("(see 'rsicrc added --help')\n")


@pytest.mark.parametrize("command", ["train fit", "train evaluate", "export"])
def test_declared_entry_points_are_commands(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, declared_commands: None
) -> None:
    code, out, _ = run(capsys, monkeypatch, *command.split(), "--help")
    assert code == 0
    assert out.startswith(f"Usage: rsicrc {command} ")


@pytest.mark.parametrize("name", ["train", "export"])
def test_absent_package_is_one_line(
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    entry_points_of: dict[str, str],
) -> None:
    line = f"rsicrc: error: the command '{name}' is not installed: pip install 'rsicrc[{name}]'\n"
    assert run(capsys, monkeypatch, name, "--help") == (1, "", line)


def test_absent_library_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, entry_points_of: dict[str, str]
) -> None:
    entry_points_of["train"] = f"{__name__}:added"
    line = "rsicrc: error: torch is not installed: pip install 'rsicrc[train]'\n"
    assert run(capsys, monkeypatch, "train", "road", "--missing") == (1, "", line)


def test_other_names_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, entry_points_of: dict[str, str]
) -> None:
    code, out, err = run(capsys, monkeypatch, "play")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "No such command 'play'" in err


def test_own_commands_need_no_entry_points(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    def fail(**_: str) -> EntryPoints:
        raise AssertionError("entry points were searched")

    monkeypatch.setattr("importlib.metadata.entry_points", fail)
    code, out, err = run(capsys, monkeypatch, "info", "--model", str(model_folder))
    assert (code, err) == (0, "")
    assert str(model_folder) in out


def test_no_command_prints_the_help_as_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, monkeypatch)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: rsicrc [OPTIONS] COMMAND")


def test_shell_completion_answers() -> None:
    words = {"COMP_WORDS": "rsicrc eval", "COMP_CWORD": "1", "_RSICRC_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-m", "rsicrc"], env={**os.environ, **words}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["evaluate"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_for_the_program(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    command = [sys.executable, "-m", "rsicrc", "--show-completion", shell]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "_RSICRC_COMPLETE=complete_" + shell in script


@pytest.mark.skipif(not entry_points(group="rsicrc.commands"), reason="rsicrc was installed without its entry points")
def test_installed_program_has_the_upper_commands() -> None:
    script = shutil.which("rsicrc", path=str(Path(sys.executable).parent))
    assert script is not None
    for command in ("train", "export"):
        done = subprocess.run([script, command, "--help"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"Usage: rsicrc {command}")


def test_run_command_reports_the_program_that_was_started(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(umbrella.app, "rsicrc", ["info", "--model", "absent"])
    assert capsys.readouterr().err.startswith("rsicrc: error: absent: no such model folder")
