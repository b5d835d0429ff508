"""Functions that all commands share: errors as one line, exit codes, and a progress bar.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted. Results go to stdout, all other text to stderr.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.main import get_command

from rsicrc.errors import ArgumentError, RsicrcError, describe_os_error, printable
from rsicrc.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from typing import TextIO

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT: the exit code that a shell reports for a command that Ctrl-C ended


def run_command(
    app: typer.Typer, name: str, args: Sequence[str] | None = None, *, extra: str | None = None
) -> NoReturn:
    """Run a command line to its end and leave the process with the right exit code.

    An error that a user can act on becomes one line on stderr, `NAME: error: …`; a traceback means a bug in rsicrc.
    A command fails by raising an exception, or by `typer.Exit(code)` after it has printed the reason. Warnings of the
    log `rsicrc` are shown on stderr.

    Args:
        app: The command and its sub-commands.
        name: Name of the program (`rsicrc-run`), for help and messages.
        args: The arguments; None takes them from `sys.argv`.
        extra: The extra of rsicrc that installs the packages which the command imports, for an error message.

    Raises:
        SystemExit: Always; the code is 0, 1, 2 or 130.
    """
    from rsicrc.cli.log import log_to_stderr

    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names that are not UTF-8 are printed with escapes, which are valid in JSON too.
        sys.stdout.reconfigure(errors="backslashreplace")
    settings: dict[str, Any] = {"color": False} if os.environ.get("NO_COLOR") else {}
    try:
        with log_to_stderr():
            code = get_command(app).main(args=args, prog_name=name, standalone_mode=False, **settings)
        sys.stdout.flush()  # so that a full disk or a closed pipe behind stdout shows up here, not at shutdown
        if code == INTERRUPTED:
            typer.echo(f"{name}: interrupted", err=True)
    except typer.TyperException as error:
        code = _report_typer_error(error, name)
    except InterruptedCommand as error:
        typer.echo(str(error), err=True)
        code = INTERRUPTED
    except (typer.Abort, KeyboardInterrupt):
        typer.echo(f"{name}: interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        _silence(sys.stdout)  # the reader of the pipe has ended (`… | head`): not an error of the command
        code = FAILED
    except ArgumentError as error:
        _report_error(str(error), name)
        code = WRONG_USAGE
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        code = _report_error(f"{error.name} is not installed: pip install 'rsicrc[{extra}]'", name)
    except RsicrcError as error:
        code = _report_error(str(error), name)
    except OSError as error:
        code = _report_error(describe_os_error(error), name)
        _silence(sys.stdout)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def progress(total: int | None, description: str, *, completed: int = 0) -> Iterator[ProgressCallback]:
    """Show a progress bar on stderr while the block runs; silent when stderr is not a terminal.

    Args:
        total: Number of steps; None if it is unknown (the bar pulses).
        description: A word or two in front of the bar.
        completed: Steps that an earlier, interrupted run has done.

    Yields:
        The function that advances the bar: `advance()`, `advance(8)`, `advance(note="loss 1.23")`.
    """
    if not sys.stderr.isatty():
        yield ignore_progress
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn() if total is not None else TextColumn("{task.completed:.0f}"),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        # rich would redirect stdout to its console, which is stderr; results in a pipe must stay on stdout.
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        task = bar.add_task(description, total=total, completed=completed, note="")

        def advance(steps: int = 1, note: str | None = None) -> None:
            if note is None:
                bar.update(task, advance=steps)
            else:
                bar.update(task, advance=steps, note=note)

        yield advance


def _report_typer_error(error: typer.TyperException, name: str) -> int:
    message = " ".join(error.format_message().splitlines())
    if error.exit_code == WRONG_USAGE:
        context = getattr(error, "ctx", None)
        command = name if context is None else context.command_path
        message += f" (see '{command} --help')"
    _report_error(message, name)
    return error.exit_code


def _report_error(message: str, name: str) -> int:
    typer.echo(f"{name}: error: {printable(' '.join(message.splitlines()))}", err=True)
    return FAILED


def _silence(stream: TextIO) -> None:
    """Discard the buffered output of a stream, or the interpreter reports its error once more at shutdown."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class UsageError(typer.BadParameter):
    """A wrong combination of arguments; the message is shown as it is, with a pointer to the command's help."""

    def format_message(self) -> str:
        """Return the message, without the prefix "Invalid value" of the base class."""
        return self.message


class InterruptedCommand(Exception):  # noqa: N818
    """A command that Ctrl-C ended; the message says how much was done."""
