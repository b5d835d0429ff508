"""Results of a study as a table (Markdown and JSON) and as curves."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsicrc.evaluation.evaluate import ALL, BY_SCORE, CHANGED, STRICT
from rsicrc.evaluation.metrics.captioning import PERIOD_FREE, PUBLISHED
from rsicrc.files import replacing
from rsicrc_train.figures import new_figure
from rsicrc_train.study.pairing import paired_difference, query_interval
from rsicrc_train.study.retrieval import AVERAGE_PRECISION

if TYPE_CHECKING:
    from rsicrc_train.study.spec import Study

TABLE, _METRICS, _CURVES = "table.md", "table.json", "curves.png"
# Columns of the table: path of each metric in an evaluation.
COLUMNS = {
    "BLEU-4 changed": ("captions", CHANGED, PERIOD_FREE, "BLEU-4"),
    "CIDEr changed": ("captions", CHANGED, PERIOD_FREE, "CIDEr"),
    "P@1 changed, published": ("retrieval", CHANGED, PUBLISHED, "P@1"),
    "mAP changed, published": ("retrieval", CHANGED, PUBLISHED, "mAP"),
    "R@10 strict": ("retrieval", ALL, STRICT, "R@10"),
    "MRR strict": ("retrieval", ALL, STRICT, "MRR"),
    "change accuracy": ("change", BY_SCORE, "accuracy"),
}
_MISSING = "–"

Metrics = Mapping[str, Sequence[float]]
Results = Mapping[str, Sequence[Mapping[str, Any]]]


def write_table(study: Study, folder: Path, results: Results) -> None:
    """Write `table.md` and `table.json` of the finished cells.

    Args:
        study: Study with all cells.
        folder: Folder to write to.
        results: Finished evaluations by the name of the cell, one per seed, as printed by `evaluate --json`.
    """
    metrics = {name: _metrics(evaluations) for name, evaluations in results.items()}
    plain = [
        {"cell": cell.name, "line": cell.line, "x": cell.x, "seeds": len(results[cell.name]), **metrics[cell.name]}
        for cell in study.cells
    ]
    with replacing(folder / _METRICS) as temporary:
        document = {"title": study.title, "cells": plain}
        temporary.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    with replacing(folder / TABLE) as temporary:
        temporary.write_text(markdown(study, metrics) + comparison(study, metrics, results), encoding="utf-8")


def draw_curves(study: Study, folder: Path, results: Results) -> None:
    """Draw `curves.png`: one plot per column, with curves over `x` for cells that have an `x`, else one point per cell.

    Args:
        study: Study with all cells.
        folder: Folder to write to.
        results: Finished evaluations as for `write_table`; at least one.
    """
    metrics = {name: _metrics(evaluations) for name, evaluations in results.items()}
    columns = [column for column in COLUMNS if any(cell.get(column) for cell in metrics.values())]
    rows = -(-len(columns) // 2)
    figure = new_figure(11, 3.2 * rows)
    figure.suptitle(study.title)
    lines: dict[str, list[Any]] = {}
    for cell in study.cells:
        if cell.x is not None:
            lines.setdefault(cell.line, []).append(cell)
    for number, column in enumerate(columns, start=1):
        axes = figure.add_subplot(rows, 2, number, title=column)
        for line, cells in lines.items():
            known = sorted((cell for cell in cells if metrics[cell.name].get(column)), key=lambda cell: cell.x)
            _draw_means(axes, [cell.x for cell in known], [metrics[cell.name][column] for cell in known], line or None)
        if lines:
            for cell in study.cells:
                values = metrics[cell.name].get(column)
                if cell.x is None and values:
                    axes.axhline(statistics.fmean(values), linestyle=":", color="gray", label=cell.name)
        else:
            known = [cell for cell in study.cells if metrics[cell.name].get(column)]
            _draw_means(
                axes, [cell.name for cell in known], [metrics[cell.name][column] for cell in known], None, "none"
            )
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small")
    with replacing(folder / _CURVES) as temporary:
        figure.savefig(temporary, dpi=110)


def markdown(study: Study, metrics: Mapping[str, Metrics]) -> str:
    """Return the table: one row per cell, mean ± standard deviation over the seeds."""
    columns = [column for column in COLUMNS if any(cell.get(column) for cell in metrics.values())]
    lines = [f"# {study.title}", ""]
    for text in (study.question, study.limits and f"Not shown: {study.limits}"):
        lines += [text, ""] if text else []
    lines += [f"Mean ± standard deviation over the seeds; {len(study.seeds)} planned.", ""]
    lines += ["| " + " | ".join(["cell", "seeds", *columns]) + " |", "|---|" + "---:|" * (len(columns) + 1)]
    for cell in study.cells:
        values = metrics[cell.name]
        seeds = max((len(each) for each in values.values()), default=0)
        lines.append(
            "| "
            + " | ".join([cell.name, str(seeds), *(_mean_and_deviation(values.get(name, ())) for name in columns)])
            + " |"
        )
    return "\n".join(lines) + "\n"


def comparison(study: Study, metrics: Mapping[str, Metrics], results: Results) -> str:
    """Return the table of differences from the baseline; empty without a baseline."""
    if study.baseline is None:
        return ""
    lines = [
        "",
        f"Difference from {study.baseline}, paired by seed: mean ± half of the 95 % t interval; in brackets the "
        "smallest true difference that these seeds find with a probability of 80 %.",
        "",
    ]
    baseline = metrics[study.baseline]
    others = [cell.name for cell in study.cells if cell.name != study.baseline]
    columns = [column for column in COLUMNS if baseline.get(column)]
    lines += ["| " + " | ".join(["cell", "seeds", *columns]) + " |", "|---|" + "---:|" * (len(columns) + 1)]
    for name in others:
        found = [paired_difference(metrics[name].get(column, ()), baseline[column]) for column in columns]
        seeds = max((each.seeds for each in found if each is not None), default=0)
        cells = [
            _MISSING if each is None else f"{each.mean:+.4f} ± {each.interval:.4f} ({each.visible:.4f})"
            for each in found
        ]
        lines.append("| " + " | ".join([name, str(seeds), *cells]) + " |")
    lines += _query_intervals(study.baseline, others, results)
    return "\n".join(lines) + "\n"


def _query_intervals(baseline: str, others: Sequence[str], results: Results) -> list[str]:
    """Return the bootstrap intervals of the mAP over the queries, if the evaluations hold the queries."""
    queries = {
        name: [each[AVERAGE_PRECISION] for each in found if AVERAGE_PRECISION in each]
        for name, found in results.items()
    }
    if not queries[baseline]:
        return []
    lines = [
        "",
        f"95 % bootstrap interval of the difference of mAP over the {len(queries[baseline][0])} changed queries:",
        "",
    ]
    for name in others:
        if queries[name]:
            low, high = query_interval(queries[name], queries[baseline])
            lines.append(f"- {name}: {low:+.4f} to {high:+.4f}")
    return lines


def _metrics(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the metrics of each column, one per seed; a column that is missing in an evaluation is left out."""
    found = {column: [_get(each, path) for each in evaluations] for column, path in COLUMNS.items()}
    return {
        column: [value for value in values if value is not None]
        for column, values in found.items()
        if values and None not in values
    }


def _get(document: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = document
    for key in path:
        value = value.get(key, {})
    return value if isinstance(value, float) else None


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return _MISSING
    mean = statistics.fmean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {statistics.stdev(values):.3f}"


def _draw_means(
    axes: Any, x: Sequence[Any], values: Sequence[Sequence[float]], label: str | None, join: str = "-"
) -> None:
    means = [statistics.fmean(each) for each in values]
    spread = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
    axes.errorbar(x, means, yerr=spread, marker="o", capsize=3, linestyle=join, label=label)
