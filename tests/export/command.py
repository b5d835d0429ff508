"""The command `rsicrc-export`, run in the test process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def run_export(*arguments: str | Path) -> int:
    """Run the command with the arguments, and return its exit code."""
    from rsicrc_export.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rsicrc-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)
