"""The command `rsicrc-run`.

Nothing heavy is imported here or at the top of a command's module (numpy, Pillow, rich, onnxruntime, tokenizers), so
that `--help` and shell completion answer at once.
"""

from __future__ import annotations

from typing import NoReturn

import click

from rsicrc import __version__
from rsicrc.cli.commands.caption import caption
from rsicrc.cli.commands.doctor import doctor
from rsicrc.cli.commands.evaluate import evaluate
from rsicrc.cli.commands.index import index
from rsicrc.cli.commands.info import info
from rsicrc.cli.commands.search import search
from rsicrc.cli.console import run_command

_NAME = "rsicrc-run"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=_NAME, message="%(prog)s %(version)s")
def cli() -> None:
    """Describe and find changes between two satellite or aerial images."""


cli.add_command(caption)
cli.add_command(index)
cli.add_command(search)
cli.add_command(evaluate)
cli.add_command(info)
cli.add_command(doctor)


def main() -> NoReturn:
    """Run `rsicrc-run` on the process's arguments and leave with its exit code."""
    run_command(cli, _NAME)
