"""Tests of `rsicrc-train study`: study file, folder of results, and table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from rsicrc.datasets.registry import read_splits
from rsicrc.errors import CheckpointError, DataError
from rsicrc_train.recipes import Recipe
from rsicrc_train.study import run as study_run
from rsicrc_train.study.pairing import paired_difference, query_interval, t_quantile
from rsicrc_train.study.retrieval import evaluate_retrieval
from rsicrc_train.study.run import run_study
from rsicrc_train.study.spec import Source, Study, read_study
from rsicrc_train.study.table import COLUMNS, draw_curves, markdown, write_table
from rsicrc_train.study.terse import shorten
from rsicrc_train.trainer import Trainer
from tests.train.test_cli import rsicrc_train

STUDIES = Path(__file__).parents[2] / "studies"
GENERATED = {"data": {"pairs": 40, "seed": 1}, "test": {"pairs": 8, "seed": 2}}


def study_file(folder: Path, **content: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**GENERATED, **content}))
    return path


def evaluation(value: float) -> dict[str, Any]:
    """Return the part of the output of `evaluate --json` that a table needs."""
    document: dict[str, Any] = {}
    for path in COLUMNS.values():
        part = document
        for key in path[:-1]:
            part = part.setdefault(key, {})
        part[path[-1]] = value
    return document


def test_cell_options_override_those_of_the_study(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "own.yaml").write_text(recipe.to_yaml())
    path = study_file(
        tmp_path,
        recipe="own.yaml",
        training={"epochs": 7, "learning_rate": 0.5},
        init="w.pt",
        seeds=[0, 3],
        cells=[
            {"name": "a", "training": {"epochs": 8}, "data": {"grounds": ["woods"], "share": 0.5}},
            {"name": "b", "x": 2, "line": "L", "model": {"num_heads": 2}, "test": {"path": "elsewhere"}, "init": None},
        ],
    )
    study = read_study(path)
    first, second = study.cells
    assert (study.title, study.seeds) == ("study", (0, 3))
    assert first.recipe == replace(recipe, training=replace(recipe.training, epochs=8, learning_rate=0.5))
    assert first.data == Source(pairs=40, seed=1, grounds=("woods",), share=0.5)
    assert first.init == str(tmp_path / "w.pt")
    assert second.recipe.model == replace(recipe.model, num_heads=2)
    assert second.recipe.training.epochs == 7
    assert (second.x, second.line, second.init, second.test.path) == (2, "L", None, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "needs a list of cells"),
        ({"cells": [{"name": "a"}], "color": 1}, r"unknown option\(s\) color"),
        ({"cells": [{"name": "../a"}]}, "every cell needs a name"),
        ({"cells": [{"name": "a"}, {"name": "a"}]}, "two cells have the same name"),
        ({"cells": [{"name": "a", "training": {"epoch": 1}}]}, "cell 'a': unknown training option"),
        ({"cells": [{"name": "a", "training": [1]}]}, r"training holds options by name, not a list"),
        ({"cells": [{"name": "a", "data": {"pairs": 0}}]}, "data: name either a path, or the number"),
        ({"cells": [{"name": "a", "data": {"grounds": ["sea"]}}]}, "grounds are some of bareland"),
        ({"cells": [{"name": "a", "data": {"share": 2}}]}, "share is above 0 and at most 1"),
        ({"cells": [{"name": "a", "x": "much"}]}, "x is a number"),
        ({"cells": [{"name": "a", "run": "b"}, {"name": "b"}]}, "run names an earlier cell that is trained, not 'b'"),
        ({"cells": [{"name": "a"}], "seeds": 3}, "seeds is a list of whole numbers"),
    ],
)
def test_invalid_study_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_study(study_file(tmp_path, **content))


def test_unknown_model_option_of_a_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"unknown model option\(s\) color"):
        read_study(study_file(tmp_path, cells=[{"name": "a", "model": {"color": 1}}]))


@pytest.mark.parametrize("name", sorted(path.name for path in STUDIES.glob("*.yaml") if path.name != "small.yaml"))
def test_bundled_studies_are_valid(name: str) -> None:
    study = read_study(STUDIES / name)
    assert study.seeds[:3] == (0, 1, 2)
    assert len(study.cells) > 1
    if "quick:" in (STUDIES / name).read_text():
        quick = read_study(STUDIES / name, quick=True)
        assert len(quick.seeds) < 3
        assert [cell.name for cell in quick.cells] == [cell.name for cell in study.cells]
        assert all(cell.data.pairs < 1000 for cell in quick.cells)
    for cell in study.cells:
        assert cell.init is None or Path(cell.init).is_file()
        assert cell.data != cell.test


def test_larger_shares_of_a_data_set_contain_smaller_ones(tmp_path: Path, scenes: Path) -> None:
    sets = [study_run._view(Source(path=scenes, share=share), tmp_path, {"train": 1.0}) for share in (0.25, 0.5, 1.0)]
    small, half, whole = (read_splits(data) for data in sets)
    assert [len(each["train"]) for each in (small, half, whole)] == [12, 24, 48]
    assert set(small["train"]) < set(half["train"]) < set(whole["train"])
    assert small["val"] == whole["val"]


@pytest.fixture
def study(tmp_path: Path, recipe: Recipe) -> Study:
    (tmp_path / "own.yaml").write_text(recipe.to_yaml())
    cells = [{"name": "few", "x": 1, "line": "A"}, {"name": "many", "x": 2, "line": "A"}, {"name": "flat"}]
    return read_study(study_file(tmp_path, recipe="own.yaml", title="Sizes", seeds=[0, 1], cells=cells))


def test_table_and_curves_show_all_finished_cells(tmp_path: Path, study: Study) -> None:
    results = {"few": [evaluation(0.1), evaluation(0.3)], "many": [evaluation(0.5)], "flat": []}
    write_table(study, tmp_path, results)
    draw_curves(study, tmp_path, results)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "# Sizes"
    assert lines[-3].startswith("| few | 2 | 0.200 ± 0.141 |")
    assert lines[-2].startswith("| many | 1 | 0.500 |")
    assert lines[-1].startswith("| flat | 0 | – |")
    rows = json.loads((tmp_path / "table.json").read_text())["cells"]
    assert [row["seeds"] for row in rows] == [2, 1, 0]
    assert rows[0]["CIDEr changed"] == [0.1, 0.3]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000
    assert "CIDEr" not in markdown(study, {"few": {"MRR strict": [0.5]}, "many": {}, "flat": {}})


def test_study_skips_finished_cells_and_refuses_other_settings(
    tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, ...]] = []

    def command(*arguments: object) -> str:
        done.append(tuple(map(str, arguments)))
        if arguments[0] == "evaluate" and len(done) == 6:
            raise DataError("killed")
        return json.dumps(evaluation(0.5))

    monkeypatch.setattr(study_run, "_command", command)
    monkeypatch.setattr(study_run, "generate", lambda folder, *_, **__: folder.mkdir(parents=True))
    out = tmp_path / "out"
    with pytest.raises(DataError, match="killed"):
        run_study(study, out)
    assert [call[0] for call in done] == ["fit", "evaluate"] * 3
    (out / "cells/flat/seed-0/run").mkdir()
    (out / "cells/flat/seed-0/run/last.pt").touch()
    run_study(study, out)
    assert [call[0] for call in done[6:]] == ["fit", "evaluate"] * 4
    assert done[6][-1] == "--resume"
    assert "--resume" not in done[8]
    run_study(study, out)
    assert len(done) == 14
    changed = replace(study, cells=(replace(study.cells[0], init="w.pt"), *study.cells[1:]))
    with pytest.raises(DataError, match="holds a cell of other settings"):
        run_study(changed, out)


def test_cell_evaluates_the_model_of_another_cell(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[object, ...]] = []

    def command(*arguments: object) -> str:
        done.append(arguments)
        return json.dumps(evaluation(0.5))

    monkeypatch.setattr(study_run, "_command", command)
    monkeypatch.setattr(study_run, "generate", lambda folder, *_, **__: folder.mkdir(parents=True))
    (tmp_path / "own.yaml").write_text(recipe.to_yaml())
    cells = [{"name": "a"}, {"name": "b", "run": "a", "test": {"grounds": ["woods"]}}]
    run_study(read_study(study_file(tmp_path, recipe="own.yaml", cells=cells)), tmp_path / "out")
    assert [call[0] for call in done] == ["fit", "evaluate", "evaluate"]
    assert done[1][1] == done[2][1] == tmp_path / "out/cells/a/seed-0/run/best.pt"
    assert done[1][2] != done[2][2]


@pytest.mark.slow
def test_smallest_study_runs_from_data_to_table(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "own.yaml").write_text(recipe.to_yaml())
    path = study_file(tmp_path, recipe="own.yaml", title="One", training={"epochs": 1}, cells=[{"name": "only"}])
    ended = rsicrc_train("study", path, "-o", tmp_path / "out", "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "out/cells/only/seed-0"
    assert ended.stdout == (tmp_path / "out/table.md").read_text()
    assert ended.stdout.splitlines()[-1].startswith("| only | 1 | 0.")
    assert {path.name for path in folder.iterdir()} == {
        "cell.json",
        "evaluation.json",
        "recipe.yaml",
        "run",
        "captions.jsonl",
    }
    assert (folder / "run/best.pt").is_file()
    assert json.loads((folder / "evaluation.json").read_text())["pairs"] == 8
    again = rsicrc_train("study", path, "-o", tmp_path / "out", "--device", "cpu")
    assert (again.returncode, again.stdout, again.stderr) == (0, ended.stdout, "")


def test_failing_command_of_a_cell_is_named(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "own.yaml").write_text(recipe.to_yaml())
    cells = [{"name": "only", "data": {"path": "nowhere"}}]
    ended = rsicrc_train("study", study_file(tmp_path, recipe="own.yaml", cells=cells), "-o", tmp_path / "out")
    assert ended.returncode == 1
    assert "nowhere" in ended.stderr.splitlines()[-2]
    assert "`rsicrc-train fit" in ended.stderr.splitlines()[-1]


def test_views_shorten_captions_and_repeat_the_after_image(tmp_path: Path, scenes: Path) -> None:
    source = Source(path=scenes, captions="terse", images="after")
    table = study_run._view(source, tmp_path, {"train": 0.9, "val": 0.1})
    whole, view = read_splits(scenes), read_splits(table)
    assert {split: len(pairs) for split, pairs in view.items()} == {"train": 48, "val": 12}
    changed = 0
    for pair, other in zip(whole["train"], view["train"], strict=True):
        assert (other.before, other.after) == (pair.after, pair.after)
        assert other.changed == pair.changed
        if pair.changed:
            changed += other.sentences != pair.sentences
            assert all(len(short) <= len(text) for short, text in zip(other.sentences, pair.sentences, strict=True))
        else:
            assert other.sentences == pair.sentences
    assert changed > 20


def test_terse_captions_lose_place_count_roof_and_neighbor() -> None:
    assert shorten("two houses with a red roof are built on the upper left next to the pond") == "houses are built"
    assert shorten("some trees appear in the bottom right corner") == "trees appear"
    assert shorten("in the center") == "in the center"


def test_quick_changes_come_last(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "own.yaml").write_text(recipe.to_yaml())
    cells = [{"name": "a", "training": {"epochs": 9}, "data": {"share": 0.5}}]
    quick = {"seeds": [4], "training": {"epochs": 1}, "data": {"pairs": 20}}
    path = study_file(tmp_path, recipe="own.yaml", seeds=[0, 1], cells=cells, quick=quick)
    study = read_study(path, quick=True)
    (cell,) = study.cells
    assert (study.seeds, cell.recipe.training.epochs, cell.data.pairs, cell.data.share) == ((4,), 1, 20, 0.5)
    assert (read_study(path).seeds, read_study(path).cells[0].recipe.training.epochs) == ((0, 1), 9)
    with pytest.raises(DataError, match="quick holds the changes for --quick"):
        read_study(study_file(tmp_path, recipe="own.yaml", cells=cells), quick=True)


def test_paired_difference_has_the_t_interval_of_the_seeds() -> None:
    assert t_quantile(0.975, 1) == pytest.approx(12.706, rel=1e-3)
    assert t_quantile(0.975, 15) == pytest.approx(2.1314, rel=1e-4)
    assert t_quantile(0.8, 15) == pytest.approx(0.8662, rel=1e-3)
    found = paired_difference([0.3, 0.5, 0.4, 0.7], [0.2, 0.3, 0.4, 0.4])
    assert found is not None
    # Differences 0.1, 0.2, 0.0, 0.3: mean 0.15, standard deviation 0.12910, t(3) 3.1824 and 0.9785.
    assert found.mean == pytest.approx(0.15)
    assert found.interval == pytest.approx(3.1824 * 0.12910 / 2, rel=1e-3)
    assert found.visible == pytest.approx((3.1824 + 0.9785) * 0.12910 / 2, rel=1e-3)
    assert found.seeds == 4
    assert paired_difference([0.3], [0.2]) is None
    low, high = query_interval([[0.4, 0.6, 0.5] * 40], [[0.3, 0.5, 0.4] * 40])
    assert [low, high] == pytest.approx([0.1, 0.1])


def test_table_compares_cells_with_the_baseline(tmp_path: Path, study: Study) -> None:
    compared = replace(study, baseline=study.cells[0].name, question="Why?", limits="photographs")
    results = {
        cell.name: [{**evaluation(value + number / 10), "average_precision": [value, value]} for value in (0.2, 0.4)]
        for number, cell in enumerate(study.cells)
    }
    write_table(compared, tmp_path, results)
    text = (tmp_path / "table.md").read_text()
    assert "Why?\n\nNot shown: photographs\n" in text
    assert f"| {study.cells[1].name} | 2 | +0.1000 ± 0.0000 (0.0000) |" in text
    assert f"- {study.cells[1].name}: +0.0000 to +0.0000" in text


def test_retrieval_of_a_checkpoint_equals_the_metrics_of_its_embeddings(
    tmp_path: Path, scenes: Path, recipe: Recipe
) -> None:
    training = replace(recipe.training, epochs=1, trunk="frozen")
    trainer = Trainer(scenes, tmp_path / "run", Recipe(recipe.model, training), resume=False, init=None, device="cpu")
    best = trainer.fit()
    test = tmp_path / "test.jsonl"
    rows = [
        {
            "before": str(p.before),
            "after": str(p.after),
            "split": "test",
            "captions": list(p.sentences),
            "changed": p.changed,
        }
        for p in read_splits(scenes)["val"]
    ]
    test.write_text("\n".join(map(json.dumps, rows)))
    found = evaluate_retrieval(best, test, "cpu")
    assert (found["pairs"], found["changed"], len(found["average_precision"])) == (12, 6, 6)
    published = found["retrieval"]["changed"]["published"]
    assert published["mAP"] == pytest.approx(sum(found["average_precision"]) / 6)
    assert 0 < found["retrieval"]["all"]["strict"]["MRR"] <= 1
