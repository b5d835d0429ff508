"""Execution of a study: each cell is trained by `rsicrc-train fit` and measured by `rsicrc-train evaluate`.

    DIR/data/…                          generated data sets, shared by all cells that use them
    DIR/cells/NAME/seed-0/recipe.yaml   recipe of the cell
    DIR/cells/NAME/seed-0/run/          folder of the run, as `fit` writes it
    DIR/cells/NAME/seed-0/evaluation.json
    DIR/table.md, table.json, curves.png

A finished cell has an evaluation and is not repeated; an unfinished run is resumed.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsicrc.datasets.levir_cc import CAPTIONS_FILE
from rsicrc.datasets.registry import read_splits
from rsicrc.errors import DataError
from rsicrc.files import replacing
from rsicrc_train.study.retrieval import evaluate_retrieval
from rsicrc_train.study.spec import Cell, Source, Study
from rsicrc_train.study.table import draw_curves, write_table
from rsicrc_train.study.terse import shorten
from rsicrc_train.synth import generate

_LOGGER = logging.getLogger("rsicrc.train")
_EVALUATION, _SETTINGS = "evaluation.json", "cell.json"
_TRAINING = {"train": 0.9, "val": 0.1}


def run_study(study: Study, folder: Path, *, device: str = "auto") -> None:
    """Run the missing cells of a study, seed by seed; write the table after every cell and the curves at the end.

    Args:
        study: Study to run.
        folder: Folder for data, runs and results.
        device: Device of the training, as for `fit`.

    Raises:
        DataError: A command failed, or `folder` holds a cell of the same name with other settings.
    """
    for seed in study.seeds:
        for cell in study.cells:
            cell_folder = folder / "cells" / cell.name / f"seed-{seed}"
            if _is_finished(cell, seed, cell_folder):
                continue
            _LOGGER.info("%s, seed %d", cell.name, seed)
            _run_cell(cell, seed, cell_folder, folder / "data", device, study.evaluation)
            write_table(study, folder, _read_results(study, folder))
    draw_curves(study, folder, _read_results(study, folder))


def _read_results(study: Study, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the finished evaluations by the name of the cell, in the order of the seeds."""
    files = {
        cell.name: [folder / "cells" / cell.name / f"seed-{seed}" / _EVALUATION for seed in study.seeds]
        for cell in study.cells
    }
    return {
        name: [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        for name, paths in files.items()
    }


def _is_finished(cell: Cell, seed: int, cell_folder: Path) -> bool:
    """Return true if the folder holds the evaluation of this cell.

    Raises:
        DataError: The folder belongs to a cell of other settings, which must not be mixed with this cell.
    """
    try:
        present = json.loads((cell_folder / _SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    if present != _settings(cell, seed):
        raise DataError(f"{cell_folder} holds a cell of other settings: choose another folder with -o, or remove it")
    return (cell_folder / _EVALUATION).is_file()


def _run_cell(cell: Cell, seed: int, cell_folder: Path, data: Path, device: str, evaluation: str) -> None:
    cell_folder.mkdir(parents=True, exist_ok=True)
    _write_json(cell_folder / _SETTINGS, _settings(cell, seed))
    if cell.run is None:
        run = cell_folder / "run"
        _fit(cell, seed, run, _view(cell.data, data, _TRAINING), device)
    else:
        run = cell_folder.parents[1] / cell.run / cell_folder.name / "run"
    test = _view(cell.test, data, {"test": 1.0})
    if evaluation == "retrieval":
        _write_json(cell_folder / _EVALUATION, evaluate_retrieval(run / "best.pt", test, device))
        return
    captions = cell_folder / "captions.jsonl"
    output = _command("evaluate", run / "best.pt", test, "--json", "--beams", 1, "-o", captions)
    _write_json(cell_folder / _EVALUATION, json.loads(output))


def _fit(cell: Cell, seed: int, run: Path, train: Path, device: str) -> None:
    recipe = run.with_name("recipe.yaml")
    seeded = replace(cell.recipe, training=replace(cell.recipe.training, seed=seed))
    recipe.write_text(seeded.to_yaml(), encoding="utf-8")
    if (run / "last.pt").is_file():
        options = ["--resume"]
    else:
        shutil.rmtree(run, ignore_errors=True)  # an earlier run was killed before it saved a state
        options = [] if cell.init is None else ["--init", cell.init]
    _command("fit", train, "-o", run, "--recipe", recipe, "--device", device, *options)


def _view(source: Source, data: Path, shares: Mapping[str, float]) -> Path:
    """Return the data of a cell; a part or another form of a data set is a table next to the whole data set."""
    whole = _data_set(source, data, shares)
    if (source.share, source.captions, source.images) == (1, "full", "both"):
        return whole
    form = f"{source.share:g}-{source.captions}-{source.images}"
    table = data / f"{_source_name(source)}-{'-'.join(shares)}-{form}.jsonl"
    splits = read_splits(whole)
    if source.share < 1:
        # The same permutation for every share: a larger share contains the smaller ones.
        order = np.random.default_rng(0).permutation(len(splits["train"]))
        kept = sorted(order[: max(1, round(source.share * len(order)))].tolist())
        splits["train"] = [splits["train"][row] for row in kept]
    with replacing(table) as temporary, temporary.open("w", encoding="utf-8") as file:
        for split, pairs in splits.items():
            for pair in pairs:
                before = pair.before if source.images == "both" else pair.after
                paths = {"before": str(before.absolute()), "after": str(pair.after.absolute())}
                terse = source.captions == "terse" and pair.changed
                captions = [shorten(text) if terse else text for text in pair.sentences]
                row = {**paths, "split": split, "captions": captions, "changed": pair.changed}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return table


def _data_set(source: Source, data: Path, splits: Mapping[str, float]) -> Path:
    if source.path is not None:
        return source.path
    folder = data / f"{_source_name(source)}-{'-'.join(splits)}"
    if not (folder / CAPTIONS_FILE).is_file():  # the captions are written last
        shutil.rmtree(folder, ignore_errors=True)
        _LOGGER.info("generating %d pairs", source.pairs)
        generate(folder, source.pairs, source.seed, splits, grounds=source.grounds)
    return folder


def _source_name(source: Source) -> str:
    if source.path is not None:
        return source.path.stem
    return f"{source.pairs}-seed{source.seed}-{'-'.join(source.grounds)}"


def _settings(cell: Cell, seed: int) -> dict[str, Any]:
    """Return all settings of a cell as JSON stores them."""
    return json.loads(json.dumps({**asdict(cell), "seed": seed}, default=str))  # type: ignore[no-any-return]


def _write_json(path: Path, document: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _command(*arguments: object) -> str:
    """Run a command of `rsicrc-train` in a separate process and return its standard output."""
    command = [sys.executable, "-m", "rsicrc_train.cli", *map(str, arguments)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise DataError(
            f"`rsicrc-train {' '.join(command[3:])}` failed, see above; run the study again to continue from here"
        )
    return ended.stdout
