"""Comparison of training runs: metrics, differences of their recipes and data, and validation curves."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsicrc.errors import DataError
from rsicrc.files import replacing
from rsicrc_train.figures import new_figure
from rsicrc_train.recipes import Recipe
from rsicrc_train.run_folder import LOG, RECIPE, STARTS, read_recipe
from rsicrc_train.run_log import read_log

_LOSSES = ("loss", "captioning", "contrastive")
_UNKNOWN = "–"
_STYLES: dict[str, dict[str, Any]] = {"train": {"alpha": 0.35, "linewidth": 0.7}, "val": {"marker": "o"}}


@dataclass(frozen=True)
class Run:
    """A training run, read from its folder.

    Attributes:
        name: Name in the tables.
        recipe: Recipe of the run.
        rows: Complete rows of the log.
        start: Record of the first start.
    """

    name: str
    recipe: Recipe
    rows: tuple[Mapping[str, str], ...]
    start: Mapping[str, Any]

    @property
    def validations(self) -> list[tuple[int, dict[str, float]]]:
        """Step and losses of each validation."""
        return [
            (int(row["step"]), {name: float(row[name]) for name in _LOSSES})
            for row in self.rows
            if row["split"] == "val"
        ]

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the run; those of the validation are absent before the first one."""
        training = [row for row in self.rows if row["split"] == "train"]
        metrics: dict[str, float] = {"steps": int(training[-1]["step"]) if training else 0}
        if training:
            speeds = [float(row["pairs_per_second"]) for row in training]
            metrics["median pairs per second"] = statistics.median(speeds)
            metrics["last training loss"] = float(training[-1]["loss"])
        if self.validations:
            step, losses = min(self.validations, key=lambda each: each[1]["loss"])
            metrics |= {"best step": step, **{f"validation {name}": value for name, value in losses.items()}}
        return metrics

    def options(self) -> dict[str, Any]:
        """Return all options by name: those of the model and of the training, and the data."""
        model = self.recipe.model.to_dict()
        trunk = {f"trunk.{name}": value for name, value in model.pop("trunk").items()}
        training = json.loads(json.dumps(vars(self.recipe.training)))
        data = {name: self.start.get(name, _UNKNOWN) for name in ("data_sha256", "init", "processes", "device")}
        return {
            **{f"model.{name}": value for name, value in {**model, **trunk}.items()},
            **{f"training.{name}": value for name, value in training.items()},
            **data,
        }


def read_run(folder: Path) -> Run:
    """Read a run's recipe, log and first start.

    Raises:
        DataError: The folder holds no run, or a file is damaged.
    """
    for name in (RECIPE, LOG, STARTS):
        if not (folder / name).is_file():
            raise DataError(f"{folder} is not the folder of a training run: it has no {name}")
    try:
        starts = json.loads((folder / STARTS).read_text(encoding="utf-8"))
        first = starts[0]
        rows = tuple(read_log(folder / LOG))
        run = Run(str(folder), read_recipe(folder), rows, dict(first))
        run.metrics()
    except (csv.Error, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}: {LOG} or {STARTS} is damaged ({error!r})") from error
    return run


def differing_options(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the options that are not equal in all runs, with the value of each run."""
    options = [run.options() for run in runs]
    names = dict.fromkeys(name for each in options for name in each)
    values = {name: [each.get(name, _UNKNOWN) for each in options] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def to_dict(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the comparison as plain containers for JSON."""
    return {
        "runs": [
            {
                "run": run.name,
                "metrics": run.metrics(),
                "validation": [{"step": step, **losses} for step, losses in run.validations],
            }
            for run in runs
        ],
        "differences": differing_options(runs),
    }


def tables(runs: Sequence[Run]) -> list[list[list[str]]]:
    """Return the comparison as tables of texts, each with a heading row: metrics, differences, validation losses."""
    names = [run.name for run in runs]
    metrics = [run.metrics() for run in runs]
    rows = dict.fromkeys(name for each in metrics for name in each)
    found = [["metric", *names], *([name, *(_text(each.get(name)) for each in metrics)] for name in rows)]
    differing = differing_options(runs)
    options = [["option", *names], *([name, *map(_text, values)] for name, values in differing.items())]
    curves = [dict(run.validations) for run in runs]
    steps = sorted({step for curve in curves for step in curve})
    losses = [
        ["validation loss at step", *names],
        *([str(step), *(_text(curve[step]["loss"] if step in curve else None) for curve in curves)] for step in steps),
    ]
    return [found, options, losses]


def draw_comparison(runs: Sequence[Run], path: Path) -> None:
    """Draw the training and validation losses of all runs over the steps as PNG.

    Raises:
        DataError: Matplotlib is not installed.
    """
    try:
        figure = new_figure(10, 7)
    except ModuleNotFoundError as error:
        raise DataError("curves need matplotlib: pip install 'rsicrc[train]'") from error
    for axes, name in zip(figure.subplots(3, 1), _LOSSES, strict=True):
        for number, run in enumerate(runs):
            for split, style in _STYLES.items():
                points = [(int(row["step"]), float(row[name])) for row in run.rows if row["split"] == split]
                label = f"{run.name}, {split}"
                steps, losses = [step for step, _ in points], [loss for _, loss in points]
                axes.plot(steps, losses, color=f"C{number}", label=label, **style)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=100)


def _text(value: object) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.4g}" if isinstance(value, float) else str(value)
