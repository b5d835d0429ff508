"""Throughput and latency of a small model: all baselines finish, results are saved, and fp32 answers are equal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
EXACT = ("pytorch", "huggingface", "onnx-plain", "rsicrc auto fp32")
QUICK = ("--rounds", "1", "--seconds", "0", "--threads", "1")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def start(command: str, work: Path, size: Path, *options: str) -> subprocess.Popen[str]:
    arguments = [str(BENCHMARKS / f"{command}.py"), "--size", str(size), "--work", str(work), *QUICK, *options]
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(command: str, work: Path, size: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """Return a command's table and its results."""
    output = work / "results" / f"{command}.json"
    process = start(command, work, size, "--json", str(output), *options)
    table, progress = process.communicate(timeout=900)
    assert process.returncode == 0, progress
    return table, json.loads(output.read_text())


def measured(results: dict[str, Any]) -> dict[str, set[tuple[str, int, int]]]:
    assert not [turn["error"] for turn in results["turns"] if turn["error"]]
    return {
        turn["contestant"]: {(cell["task"], cell["batch"], cell["beams"]) for cell in turn["cells"]}
        for turn in results["turns"]
    }


@pytest.mark.slow
def test_throughput_measures_all_tasks(work: Path, checkpoint_file: Path) -> None:
    plot = work / "plot.svg"
    options = ("--batches", "3", "--beams", "1", "3", "--held-out", "6", "--plot", str(plot))
    others = ("published", "pytorch", "pytorch-bf16", "huggingface", "onnx-plain", "rsicrc")
    table, results = run("throughput", work, checkpoint_file, *options, "--baselines", *others)
    cells = {("caption", 3, 1), ("caption", 3, 3), ("files", 3, 1), ("files", 3, 3), ("images", 3, 0), ("texts", 3, 0)}
    cells.add(("held-out", 6, 3))
    found = measured(results)
    alone = found.pop("published")
    assert alone == {("caption", 1, 1), ("files", 1, 1), ("images", 1, 0)}
    assert found == dict.fromkeys(["pytorch", "pytorch-bf16", "huggingface", "onnx-plain", "rsicrc auto fp32"], cells)

    for name in EXACT:
        answers = results["answers"][name]
        assert {cell: answers[cell]["same_captions"] for cell in answers if "caption" in cell} == {
            "caption-3x1": 1.0,
            "caption-3x3": 1.0,
        }
        assert answers["held-out-6x3"]["same_captions"] == 1.0
        assert answers["images-3"]["cosine"] > 0.9999
        assert answers["texts-3"]["cosine"] > 0.9999
        assert 0 <= answers["held-out-6x3"]["precision_at_1"] <= 1
    assert set(results["about"]["limits"]["gmacs"]) == {"fp32", "bf16", "int8"}
    for turn in results["turns"]:
        assert turn["start"] > 0
        assert turn["size"] > 0
        assert all(cell["memory"] > 1e7 and min(cell["seconds"]) > 0 for cell in turn["cells"])
    for name in found:
        assert name in table
    assert "of roofline" in table
    assert str(work) not in json.dumps(results)  # results are published
    assert plot.read_text(encoding="utf-8").lstrip().startswith("<?xml")

    shown = [sys.executable, str(BENCHMARKS / "throughput.py"), "--show", str(work / "results" / "throughput.json")]
    again = subprocess.run(shown, capture_output=True, text=True, check=True)
    assert again.stdout == table


@pytest.mark.slow
def test_latency_measures_a_compiled_baseline(work: Path, checkpoint_file: Path) -> None:
    names = ("published", "pytorch", "compile-bf16", "rsicrc")
    table, results = run("latency", work, checkpoint_file, "--beams", "1", "--baselines", *names)
    cells = {("caption", 1, 1), ("images", 1, 0), ("texts", 1, 0)}
    assert measured(results)["compile-bf16"] == measured(results)["rsicrc auto fp32"] == cells
    assert all(turn["first"] > 0 for turn in results["turns"])
    for name in ("published", "rsicrc auto fp32"):
        assert results["answers"][name]["caption-1x1"]["same_captions"] == 1.0
    assert results["answers"]["compile-bf16"]["images-1"]["cosine"] > 0.99
    assert "p99 ms" in table


@pytest.mark.slow
def test_stopped_run_keeps_its_measurements(work: Path, checkpoint_file: Path) -> None:
    output = work / "results" / "stopped.json"
    names = ("--baselines", "pytorch", "huggingface", "--tasks", "caption", "--batches", "3", "--beams", "3")
    process = start("throughput", work, checkpoint_file, "--json", str(output), *names, "--rounds", "1000")
    deadline = time.monotonic() + 600
    while not (output.is_file() and any(turn["cells"] for turn in json.loads(output.read_text())["turns"])):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    table, progress = process.communicate(timeout=120)
    assert process.returncode == 0, progress
    assert "pytorch" in table
    assert json.loads(output.read_text())["answers"]["pytorch"]["caption-3x3"]["same_captions"] == 1.0


def test_missing_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    process = start("latency", tmp_path, tmp_path / "none.pt")
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 1
    assert complaint.splitlines()[-1].startswith("error: ")
    assert "none.pt" in complaint


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "results").glob("[!g]*.json")), ids=lambda path: path.stem)
def test_recorded_results_are_shown(path: Path) -> None:
    about = json.loads(path.read_text())["about"]
    shown = [sys.executable, str(BENCHMARKS / f"{about['command']}.py"), "--show", str(path)]
    table = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    assert "of roofline" in table
    assert all(name in table for name in about["contestants"])


@pytest.mark.slow
def test_failed_worker_is_reported_without_paths(work: Path, checkpoint_file: Path, model_folder: Path) -> None:
    options = ("--model", str(model_folder), "--baselines", "rsicrc", "--backends", "none", "--tasks", "texts")
    table, results = run("throughput", work, checkpoint_file, *options, "--batches", "1")
    assert "no backend 'none'" in results["turns"][0]["error"]
    assert "no backend 'none'" in table
    assert str(work) not in json.dumps(results)
