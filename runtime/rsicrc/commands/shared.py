"""What several commands need: options, and the name of a model."""

from __future__ import annotations

from pathlib import Path

import click

# A file that a user names. Whether it is there and good is the work's matter (exit code 1), not the parser's.
FILE = click.Path(path_type=Path)

model_option = click.option(
    "--model", type=FILE, metavar="DIR", help="Model folder. [default: $RSICRC_MODEL, else ./model]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def model_id(folder: Path) -> str:
    """Name a model folder by its content, in 12 characters: its manifest holds the hash of every other file."""
    from rsicrc.manifest import MANIFEST_FILE, sha256_file

    return sha256_file(folder / MANIFEST_FILE)[:12]
