"""Running a study: every cell is what `rsicrc-train fit` and `rsicrc-train evaluate` leave, in a folder of its own.

    DIR/data/…                          what was generated, once for all cells that use it
    DIR/cells/NAME/seed-0/recipe.yaml   what was trained
    DIR/cells/NAME/seed-0/run/          the run, as `fit` writes it
    DIR/cells/NAME/seed-0/evaluation.json
    DIR/table.md, table.json, curves.png

A finished cell has its evaluation and is not done again; an unfinished run is resumed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from rsicrc.datasets.levir_cc import CAPTIONS_FILE
from rsicrc.datasets.registry import read_splits
from rsicrc.errors import DataError
from rsicrc.files import replacing
from rsicrc_train.study.spec import Cell, Source, Study
from rsicrc_train.study.table import draw_curves, write_table
from rsicrc_train.synth import generate

EVALUATION, SETTINGS = "evaluation.json", "cell.json"
_TRAINING = {"train": 0.9, "val": 0.1}


def run_study(study: Study, folder: Path, *, device: str = "auto") -> None:
    """Run what is missing of a study, seed by seed, write its table anew after every cell, and its curves at the end.

    Args:
        study: the study.
        folder: where everything goes.
        device: as for `fit`.

    Raises:
        DataError: a command failed, or `folder` holds a cell of the same name with other settings.
    """
    for seed in study.seeds:
        for cell in study.cells:
            place = folder / "cells" / cell.name / f"seed-{seed}"
            if _finished(cell, seed, place):
                continue
            click.echo(f"{cell.name}, seed {seed}", err=True)
            _run_cell(cell, seed, place, folder / "data", device)
            write_table(study, folder, results(study, folder))
    draw_curves(study, folder, results(study, folder))


def results(study: Study, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The evaluations that there are, by the cell's name, in the order of the seeds."""
    places = {
        cell.name: [folder / "cells" / cell.name / f"seed-{seed}" / EVALUATION for seed in study.seeds]
        for cell in study.cells
    }
    return {
        name: [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        for name, paths in places.items()
    }


def _finished(cell: Cell, seed: int, place: Path) -> bool:
    """Whether the cell is done; a folder of other settings is refused rather than mixed up with this one."""
    try:
        before = json.loads((place / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    if before != _settings(cell, seed):
        raise DataError(f"{place} holds a cell of other settings: name another folder with -o, or remove it")
    return (place / EVALUATION).is_file()


def _run_cell(cell: Cell, seed: int, place: Path, data: Path, device: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    _write(place / SETTINGS, _settings(cell, seed))
    if cell.run is None:
        run = place / "run"
        _fit(cell, seed, run, _training_set(cell.data, data), device)
    else:
        run = place.parents[1] / cell.run / place.name / "run"
    test = _data_set(cell.test, data, {"test": 1.0})
    said = _command("evaluate", run / "best.pt", test, "--json", "--beams", 1, "-o", place / "said.jsonl")
    _write(place / EVALUATION, json.loads(said))


def _fit(cell: Cell, seed: int, run: Path, train: Path, device: str) -> None:
    recipe = run.with_name("recipe.yaml")
    own = replace(cell.recipe, training=replace(cell.recipe.training, seed=seed))
    recipe.write_text(own.to_yaml(), encoding="utf-8")
    if (run / "last.pt").is_file():
        more = ["--resume"]
    else:
        shutil.rmtree(run, ignore_errors=True)  # it ended before it had anything to go on from
        more = [] if cell.init is None else ["--init", cell.init]
    _command("fit", train, "-o", run, "--recipe", recipe, "--device", device, *more)


def _training_set(source: Source, data: Path) -> Path:
    """The data set that a cell trains on; a part of one is a table beside the whole."""
    whole = _data_set(source, data, _TRAINING)
    if source.share == 1:
        return whole
    table = data / f"{_name(source)}-share{source.share:g}.jsonl"
    splits = read_splits(whole)
    # The same permutation for every share: a larger part holds the smaller ones.
    order = np.random.default_rng(0).permutation(len(splits["train"]))
    kept = sorted(order[: max(1, round(source.share * len(order)))].tolist())
    splits["train"] = [splits["train"][row] for row in kept]
    with replacing(table) as temporary, temporary.open("w", encoding="utf-8") as file:
        for split, pairs in splits.items():
            for pair in pairs:
                paths = {"before": str(pair.before.absolute()), "after": str(pair.after.absolute())}
                row = {**paths, "split": split, "captions": list(pair.sentences), "changed": pair.changed}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return table


def _data_set(source: Source, data: Path, splits: Mapping[str, float]) -> Path:
    if source.path is not None:
        return source.path
    folder = data / f"{_name(source)}-{'-'.join(splits)}"
    if not (folder / CAPTIONS_FILE).is_file():  # they are written last
        shutil.rmtree(folder, ignore_errors=True)
        click.echo(f"drawing {source.pairs} pairs", err=True)
        generate(folder, source.pairs, source.seed, splits, grounds=source.grounds)
    return folder


def _name(source: Source) -> str:
    if source.path is not None:
        return source.path.stem
    return f"{source.pairs}-seed{source.seed}-{'-'.join(source.grounds)}"


def _settings(cell: Cell, seed: int) -> dict[str, Any]:
    """What makes the cell what it is, as JSON keeps it."""
    return json.loads(json.dumps({**asdict(cell), "seed": seed}, default=str))  # type: ignore[no-any-return]


def _write(path: Path, document: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _command(*arguments: object) -> str:
    """Run a command of `rsicrc-train` in a process of its own; returns what it printed."""
    command = [sys.executable, "-m", "rsicrc_train.cli", *map(str, arguments)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise DataError(
            f"`rsicrc-train {' '.join(command[3:])}` failed, see above; the same study goes on from here when it can"
        )
    return ended.stdout
