"""Studies: a YAML file with cells, the changes of each cell to the recipe or the data, and seeds to repeat it with.

    title: Size of the data set
    recipe: tiny                        # recipe of every cell
    training: {epochs: 4}               # changes for all cells; also `model:`
    data: {pairs: 3000, seed: 1}        # generated, for training and validation; or {path: DATA}
    test: {pairs: 400, seed: 2}         # generated; or {path: DATA}
    seeds: [0, 1, 2]
    cells:
      - {name: half, x: 50, data: {share: 0.5}}
      - {name: all, x: 100}

`captions: terse` of `data` and `test` shortens the captions, so that many changes have the same sentence;
`images: after` shows the after image twice, for a model that cannot compare. `evaluation: retrieval` measures the
retrieval only, without an export. `baseline` names a cell that all other cells are compared with, seed by seed.
`question` and `limits` (the results that the study cannot show) are printed with the table. `quick` holds other
`seeds`, and changes of `training`, `data` and `test` that come last, for `--quick`.

A cell's `training`, `model`, `data` and `test` override single options of the study's. `init`, of a cell or of the
study, names pre-trained weights of the trunk (null: none). `run` names an earlier cell whose trained model is evaluated
on this cell's `test`. Cells with an `x` are drawn as curves, one per `line`; other cells as points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from rsicrc.errors import DataError
from rsicrc_train.config import ModelConfig
from rsicrc_train.quoting import list_names, quote
from rsicrc_train.recipes import Recipe, load_recipe
from rsicrc_train.synth.change_facts import GROUNDS

_NAME = re.compile(r"[\w.+-][\w.+ -]*")
_OVERRIDABLE = ("training", "model", "data", "test")
_TEXTS = ("question", "limits")
_STUDY_KEYS = frozenset(
    {"title", "recipe", "init", "seeds", "cells", "evaluation", "baseline", "quick", *_TEXTS, *_OVERRIDABLE}
)
_QUICK_KEYS = frozenset({"seeds", "training", "data", "test"})
_CELL_KEYS = frozenset({"name", "line", "x", "init", "run", *_OVERRIDABLE})


@dataclass(frozen=True)
class Source:
    """Source of a cell's pairs: a data set on disk, or generated scenes.

    Attributes:
        path: Path of the data set; None generates one.
        pairs: Number of pairs to generate.
        seed: Seed of the generator.
        grounds: Kinds of scene to generate.
        share: Share of the training pairs to use; equal shares are the same pairs.
        captions: `full`, or `terse` as `terse.shorten` makes them.
        images: `both`, or `after` in the place of both.
    """

    path: Path | None = None
    pairs: int = 0
    seed: int = 0
    grounds: tuple[str, ...] = GROUNDS
    share: float = 1.0
    captions: str = "full"
    images: str = "both"


@dataclass(frozen=True)
class Cell:
    """One setting of a study.

    Attributes:
        name: Name of the cell's folder and row in the table.
        recipe: Recipe; its seed is replaced by the seeds of the study.
        data: Source of the training and validation pairs.
        test: Source of the evaluation pairs.
        init: Pre-trained weights of the trunk; None starts from random weights.
        run: Name of the cell whose trained model is evaluated; None trains this cell.
        line: Name of the curve that the cell belongs to.
        x: Position on the x axis of the curve.
    """

    name: str
    recipe: Recipe
    data: Source
    test: Source
    init: str | None
    run: str | None
    line: str
    x: float | None


@dataclass(frozen=True)
class Study:
    """Content of a study file.

    Attributes:
        title: Title of the table.
        seeds: Seeds of each cell.
        cells: Cells in the order of the file.
        evaluation: `full` exports each model and evaluates it; `retrieval` measures the retrieval only.
        baseline: Name of the cell that the others are compared with; None compares nothing.
        question: Question that the study answers.
        limits: Statement of the results that the study cannot show.
    """

    title: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    evaluation: str = "full"
    baseline: str | None = None
    question: str = ""
    limits: str = ""


def read_study(path: Path, *, quick: bool = False) -> Study:
    """Read a study and check all of its cells, so that mistakes are reported before the first training.

    Args:
        path: File of the study.
        quick: Apply the changes under `quick` of the file, which make it short.

    Raises:
        DataError: The file is not a study, or a cell is invalid; the message names the cell.
        CheckpointError: A model option does not exist or has an invalid value.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no study at {path}: give a YAML file, such as those in studies/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("cells"), list) or not plain["cells"]:
        raise DataError(f"{path} is not a study: it needs a list of cells")
    _check_keys(plain, _STUDY_KEYS, f"{path}")
    changes = plain.get("quick", {})
    if not isinstance(changes, dict) or (quick and not changes):
        raise DataError(f"{path}: quick holds the changes for --quick, not {changes!r}")
    _check_keys(changes, _QUICK_KEYS, f"{path}, quick")
    if quick:
        plain = {**plain, "seeds": changes.get("seeds", plain.get("seeds", [0]))}
    seeds = plain.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise DataError(f"{path}: seeds is a list of whole numbers, not {quote(seeds)}")
    cells = tuple(_cell(plain, each, path, changes if quick else {}) for each in plain["cells"])
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise DataError(f"{path}: two cells have the same name")
    for number, cell in enumerate(cells):
        if cell.run is not None and not any(cell.run == own.name and own.run is None for own in cells[:number]):
            raise DataError(
                f"{path}, cell {quote(cell.name)}: run names an earlier cell that is trained, not {quote(cell.run)}"
            )
    evaluation, baseline = plain.get("evaluation", "full"), plain.get("baseline")
    if evaluation not in ("full", "retrieval"):
        raise DataError(f"{path}: evaluation is full or retrieval, not {quote(evaluation)}")
    if baseline is not None and baseline not in names:
        raise DataError(f"{path}: baseline names a cell, not {quote(baseline)}")
    texts = [str(plain.get(name, "")) for name in _TEXTS]
    return Study(str(plain.get("title", path.stem)), tuple(seeds), cells, evaluation, baseline, *texts)


def _cell(study: Mapping[str, Any], cell: Any, path: Path, quick: Mapping[str, Any]) -> Cell:
    if not isinstance(cell, dict) or not _NAME.fullmatch(str(cell.get("name", ""))):
        raise DataError(
            f"{path}: every cell needs a name of letters, digits, spaces, '.', '+' and '-', not {quote(cell)}"
        )
    where = f"{path}, cell {quote(cell['name'])}"
    _check_keys(cell, _CELL_KEYS, where)
    options = {}
    for key in _OVERRIDABLE:
        parts = [study.get(key, {}), cell.get(key, {}), quick.get(key, {})]
        if wrong := [part for part in parts if not isinstance(part, dict)]:
            raise DataError(f"{where}: {key} holds options by name, not {quote(wrong[0])}")
        # A data set on disk has no options of a generated one.
        options[key] = parts[1] if "path" in parts[1] else {**parts[0], **parts[1], **parts[2]}
    try:
        recipe = _recipe(str(study.get("recipe", "tiny")), path.parent, options["model"], options["training"])
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    x = cell.get("x")
    if x is not None and not isinstance(x, (int, float)):
        raise DataError(f"{where}: x is a number, not {quote(x)}")
    init = cell.get("init", study.get("init"))
    return Cell(
        name=str(cell["name"]),
        recipe=recipe,
        data=_source(options["data"], f"{where}, data", path.parent),
        test=_source(options["test"], f"{where}, test", path.parent),
        init=None if init is None else init if str(init).startswith("hf:") else str(path.parent / str(init)),
        run=None if (run := cell.get("run")) is None else str(run),
        line=str(cell.get("line", "")),
        x=x,
    )


def _recipe(reference: str, folder: Path, model: Mapping[str, Any], training: Mapping[str, Any]) -> Recipe:
    file = folder / reference
    recipe = load_recipe(str(file) if file.is_file() else reference, training)
    sizes = recipe.model.to_dict()
    if "backbone" in model:
        del sizes["trunk"]  # another backbone has its own sizes
    return Recipe(ModelConfig.from_dict({**sizes, **model}), recipe.training)


def _source(options: Mapping[str, Any], where: str, folder: Path) -> Source:
    _check_keys(options, frozenset(field.name for field in fields(Source)), where)
    given = dict(options)
    if (path := given.get("path")) is not None:
        given["path"] = folder / str(path)
    given["grounds"] = tuple(given.get("grounds", GROUNDS))
    source = Source(**given)
    if (source.path is None) != (source.pairs > 0):
        raise DataError(f"{where}: name either a path, or the number of pairs to generate")
    if not source.grounds or not set(source.grounds) <= set(GROUNDS):
        raise DataError(f"{where}: grounds are some of {', '.join(GROUNDS)}, not {quote(str(list(source.grounds)))}")
    for name, known in (("captions", ("full", "terse")), ("images", ("both", "after"))):
        if getattr(source, name) not in known:
            raise DataError(f"{where}: {name} is {' or '.join(known)}, not {quote(getattr(source, name))}")
    if not 0 < source.share <= 1:
        raise DataError(f"{where}: share is above 0 and at most 1, not {quote(source.share)}")
    return source


def _check_keys(given: Mapping[Any, Any], known: frozenset[str], where: str) -> None:
    if unknown := sorted(str(key) for key in given if key not in known):
        raise DataError(f"{where}: unknown option(s) {list_names(unknown)}: known are {', '.join(sorted(known))}")
