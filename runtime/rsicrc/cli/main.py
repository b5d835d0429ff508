"""The program `rsicrc-run`.

Nothing heavy is imported here or at the top of a command's module (numpy, Pillow, rich, onnxruntime, tokenizers), so
that `--help` and shell completion answer at once.
"""

from __future__ import annotations

from typing import NoReturn

import typer

from rsicrc.cli.commands.caption import caption
from rsicrc.cli.commands.doctor import doctor
from rsicrc.cli.commands.evaluate import evaluate
from rsicrc.cli.commands.index import index
from rsicrc.cli.commands.info import info
from rsicrc.cli.commands.scene import scene
from rsicrc.cli.commands.search import search
from rsicrc.cli.console import run_command
from rsicrc.cli.options import APP_SETTINGS, Verbose, Version, require_command

COMMANDS = (caption, scene, index, search, evaluate, info, doctor)


def start(ctx: typer.Context, version: Version = False, verbose: Verbose = False) -> None:
    """Describe and find changes between two satellite or aerial images."""
    require_command(ctx)


app = typer.Typer(**APP_SETTINGS)
app.callback(invoke_without_command=True)(start)
for _command in COMMANDS:
    app.command()(_command)


def main() -> NoReturn:
    """Run `rsicrc-run` on the process's arguments and leave with its exit code."""
    run_command(app, "rsicrc-run")
