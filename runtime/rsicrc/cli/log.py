"""The log `rsicrc` on stderr, for the commands only; applications configure the log themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer

_LOGGER = logging.getLogger("rsicrc")
_previous_levels: dict[str, int] = {}  # of the loggers whose level was changed in the block of `log_to_stderr`


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show warnings and errors of the log `rsicrc` on stderr while the block runs.

    In the block, `show_all` and `show_information` show more. The levels of all loggers are restored at its end.
    """
    handler = _StderrHandler()
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        for name, level in _previous_levels.items():
            logging.getLogger(name).setLevel(level)
        _previous_levels.clear()


def show_all() -> None:
    """Show all messages of the log `rsicrc`."""
    _set_level(_LOGGER.name, logging.DEBUG)


def show_information(name: str) -> None:
    """Show messages of the level INFO, too, of a part of the log such as `rsicrc.train`."""
    if not logging.getLogger(name).isEnabledFor(logging.INFO):
        _set_level(name, logging.INFO)


def shows_information() -> bool:
    """Return whether messages of the level INFO are shown."""
    return _LOGGER.isEnabledFor(logging.INFO)


def _set_level(name: str, level: int) -> None:
    logger = logging.getLogger(name)
    _previous_levels.setdefault(name, logger.level)
    logger.setLevel(level)


class _StderrHandler(logging.Handler):
    """Handler that writes each message as one line, `rsicrc: warning: …`, to the present `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        typer.echo(f"rsicrc: {level}{' '.join(record.getMessage().splitlines())}", err=True)
