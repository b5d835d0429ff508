"""The command `rsicrc-run doctor`: checks of the installation, the machine and the model folder."""

from __future__ import annotations

import json

import typer

from rsicrc.cli.console import FAILED
from rsicrc.cli.options import Json, Model, Verbose

_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


def doctor(model: Model = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Check the installation, the machine and the model folder.

    The exit code is 1 if there is a problem.
    """
    from rsicrc.cli.checks import Level, examine

    findings = examine(model)
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if as_json:
        document = {"ok": not problems, "findings": [finding.to_dict() for finding in findings]}
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        width = max(len(finding.topic) for finding in findings)
        for finding in findings:
            mark = typer.style(f"{finding.level:<7}", fg=_COLORS[finding.level])
            typer.echo(f"{mark}  {finding.topic:<{width}}  {finding.text}")
            if finding.advice:
                typer.echo(f"{'':<7}  {'':<{width}}  → {finding.advice}")
    if problems:
        raise typer.Exit(FAILED)
