"""What the three commands share: errors as one line, exit codes, and a progress bar.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted. Results go to stdout, what is said beside them to
stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from rsicrc.errors import ArgumentError, RsicrcError
from rsicrc.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from typing import TextIO

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for a command that Ctrl-C ended


def run_command(
    group: click.Command, name: str, args: Sequence[str] | None = None, *, extra: str | None = None
) -> NoReturn:
    """Run a command line to its end and leave the process with the right exit code.

    An error that a user can act on becomes one line on stderr, `NAME: error: …`; a traceback means a bug of ours.
    A command fails by raising, or ends with a code of its own by `ctx.exit(code)` after it has said why.

    Args:
        group: The command and its sub-commands.
        name: What the user typed (`rsicrc-run`), for help and messages.
        args: The arguments; None takes them from `sys.argv`.
        extra: The extra of rsicrc that brings what the command imports, for when it is not installed.

    Raises:
        SystemExit: Always; the code is 0, 1, 2 or 130.
    """
    try:
        code = group.main(args=args, prog_name=name, standalone_mode=False)
        sys.stdout.flush()  # so that a full disk or a closed pipe behind stdout shows up here, not at shutdown
    except click.UsageError as error:
        code = _wrong_usage(error, name)
    except click.ClickException as error:
        code = _failed(error.format_message(), name)
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{name}: interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        _silence(sys.stdout)  # the reader has gone (`… | head`): nothing to tell anybody
        code = FAILED
    except ArgumentError as error:
        _failed(str(error), name)
        code = WRONG_USAGE
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        code = _failed(f"{error.name} is not installed: pip install 'rsicrc[{extra}]'", name)
    except RsicrcError as error:
        code = _failed(str(error), name)
    except OSError as error:
        code = _failed(describe_os_error(error), name)
        _silence(sys.stdout)
    sys.exit(code if isinstance(code, int) else 0)


def describe_os_error(error: OSError) -> str:
    """Say `file: what went wrong`, without the number that `str(error)` puts in front."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


@contextmanager
def progress(total: int | None, description: str, *, completed: int = 0) -> Iterator[ProgressCallback]:
    """Show a progress bar on stderr while the block runs; silent when stderr is not a terminal.

    Args:
        total: Steps in all; None when nobody knows (the bar pulses).
        description: A word or two in front of the bar.
        completed: Steps that an earlier, interrupted run has done.

    Yields:
        The function that moves the bar on: `advance()`, `advance(8)`, `advance(note="loss 1.23")`.
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
        # rich would send what is printed meanwhile to *its* console, stderr; results in a pipe must stay on stdout.
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


def _wrong_usage(error: click.UsageError, name: str) -> int:
    # A group called without a sub-command: click (8.2 and later) raises its whole help as an error.
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
    else:
        command = error.ctx.command_path if error.ctx is not None else name
        message = " ".join(error.format_message().splitlines())
        click.echo(f"{name}: error: {message} (see '{command} --help')", err=True)
    return WRONG_USAGE


def _failed(message: str, name: str) -> int:
    click.echo(f"{name}: error: {' '.join(message.splitlines())}", err=True)
    return FAILED


def _silence(stream: TextIO) -> None:
    """Send what is still buffered to nowhere, or the interpreter complains about it once more when it shuts down."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
