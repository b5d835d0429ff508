"""The program `rsicrc`: the commands of `rsicrc-run`, and those of the upper packages (`train`, `export`)."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from rsicrc.cli.console import run_command
from rsicrc.cli.main import COMMANDS, start
from rsicrc.cli.options import APP_SETTINGS
from rsicrc.cli.plugins import plugin_group

# The extra of rsicrc that installs the packages of a command.
EXTRAS = {"train": "train", "export": "export"}

app = typer.Typer(cls=plugin_group("rsicrc.commands", EXTRAS), **APP_SETTINGS)
app.callback(invoke_without_command=True)(start)
for _command in COMMANDS:
    app.command()(_command)


def main() -> NoReturn:
    """Run `rsicrc` on the process's arguments and leave with its exit code."""
    command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    run_command(app, "rsicrc", extra=EXTRAS.get(command))
