"""The log `rsicrc` on stderr, for the commands only; applications configure the log themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer

_LOGGER = logging.getLogger("rsicrc")


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show warnings and errors of the log `rsicrc` on stderr while the block runs; see `show_all`."""
    handler, level = _StderrHandler(), _LOGGER.level
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)


def show_all() -> None:
    """Show all messages of the log `rsicrc`, until the block of `log_to_stderr` ends."""
    _LOGGER.setLevel(logging.DEBUG)


def shows_information() -> bool:
    """Return whether messages of the level INFO are shown."""
    return _LOGGER.isEnabledFor(logging.INFO)


class _StderrHandler(logging.Handler):
    """Write each message as one line, `rsicrc: warning: …`, to the present `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        typer.echo(f"rsicrc: {level}{' '.join(record.getMessage().splitlines())}", err=True)
