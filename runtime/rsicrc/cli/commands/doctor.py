"""`rsicrc-run doctor`: is this machine ready?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from rsicrc.cli.console import FAILED
from rsicrc.cli.options import json_option, model_option

_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


@click.command()
@model_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, model: Path | None, as_json: bool) -> None:
    """Check the installation, the machine and the model folder.

    The exit code is 1 if there is a problem.
    """
    from rsicrc.cli.checks import Level, examine

    findings = examine(model)
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if as_json:
        document = {"ok": not problems, "findings": [finding.to_dict() for finding in findings]}
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        width = max(len(finding.topic) for finding in findings)
        for finding in findings:
            mark = click.style(f"{finding.level:<7}", fg=_COLORS[finding.level])
            click.echo(f"{mark}  {finding.topic:<{width}}  {finding.text}")
            if finding.advice:
                click.echo(f"{'':<7}  {'':<{width}}  → {finding.advice}")
    if problems:
        ctx.exit(FAILED)
