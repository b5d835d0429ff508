"""int8: packed weights, calibration pairs, and the accuracy limit."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rsicrc.errors import DataError, ExportError, PairsError
from rsicrc.manifest import Manifest
from rsicrc.preprocessing import Preprocessing
from tests.export.command import run_export

PREPROCESSING = Preprocessing(96)


def test_packed_weights_are_within_half_a_step() -> None:
    from rsicrc_export.quantize import block_size, pack

    block = block_size(37)
    assert [block, block_size(192), block_size(2048)] == [32, 64, 128]
    weight = np.random.default_rng(0).normal(size=(7, block + 5)).astype(np.float32)
    weight[3, :block] = 0
    packed, scales = pack(weight, block)
    assert (packed.shape, scales.shape) == ((7, 2, block), (7, 2))
    unpacked = ((packed.astype(np.float32) - 128) * scales[..., np.newaxis]).reshape(7, -1)
    assert np.all(unpacked[:, weight.shape[1] :] == 0)
    steps = scales.repeat(block, axis=1)[:, : weight.shape[1]]
    assert np.all(np.abs(unpacked[:, : weight.shape[1]] - weight) <= steps / 2 + 1e-7)


def test_calibration_reads_a_table(calibration_table: Path) -> None:
    from rsicrc_export.calibration import read_calibration

    calibration = read_calibration(calibration_table, PREPROCESSING)
    assert calibration.scaling.shape == (30, 2, 96, 96, 3)
    assert calibration.judging.shape == (10, 2, 96, 96, 3)
    assert calibration.source == "pairs.csv"


def test_calibration_refuses_unusable_data(tmp_path: Path, calibration_table: Path) -> None:
    from rsicrc_export.calibration import read_calibration

    with pytest.raises(ExportError, match="neither a table of pairs nor a folder"):
        read_calibration(tmp_path, PREPROCESSING)
    (tmp_path / "LevirCCcaptions.json").write_text("{")
    with pytest.raises(DataError, match=r"LevirCCcaptions\.json"):
        read_calibration(tmp_path, PREPROCESSING)
    table = tmp_path / "few.csv"
    table.write_text("before,after\n" + "\n".join(calibration_table.read_text().splitlines()[1:4]))
    with pytest.raises(ExportError, match=r"few\.csv: 0 pairs can be read, and at least 16 are needed"):
        read_calibration(table, PREPROCESSING)
    table.write_text("")
    with pytest.raises(PairsError, match="no rows"):
        read_calibration(table, PREPROCESSING)


def test_int8_beyond_its_accuracy_limit_is_refused(
    model_folder: Path, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf", reason="needs rsicrc[quantize]")  # sets the level of its logger at import
    from rsicrc_export import precisions
    from rsicrc_export.calibration import Calibration
    from rsicrc_train import checkpoint
    from tests.models import random_images

    folder = shutil.copytree(model_folder, tmp_path / "model")
    monkeypatch.setattr(precisions, "TOLERANCES", {"int8": precisions.Tolerance(cosine=1.01, loss=1.0)})
    calibration = Calibration("noise", random_images(8, seed=1), random_images(3, seed=2))
    model = checkpoint.load(checkpoint_file).build_model()
    logger, handler = logging.getLogger("nncf"), logging.NullHandler(logging.INFO)
    logger.addHandler(handler)
    before = (logger.level, list(logger.filters))
    with pytest.raises(ExportError, match=r"int8 loses too much accuracy .*: image embedding cosine \d\.\d+"):
        precisions.add_variants(folder, Manifest.load(folder), model, ["int8"], calibration)
    logger.removeHandler(handler)
    assert handler.level == logging.INFO
    assert (logger.level, logger.filters) == before


def test_float32_folder_is_written_where_int8_is_refused(
    checkpoint_file: Path,
    calibration_table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("nncf", reason="needs rsicrc[quantize]")
    import rsicrc
    from rsicrc_export import precisions

    monkeypatch.setattr(precisions, "TOLERANCES", {"int8": precisions.Tolerance(cosine=1.01, loss=1.0)})
    output = tmp_path / "model"
    options = ("--precision", "int8", "--calibration", calibration_table)
    assert run_export(checkpoint_file, "-o", output, *options) == 1
    captured = capsys.readouterr()
    assert f"{output}\n" not in captured.out  # NNCF prints its progress there
    (line,) = [line for line in captured.err.splitlines() if line.startswith("rsicrc-export: error: ")]
    assert f"{output} is written with fp32, but without int8: int8 loses too much accuracy" in line
    manifest = Manifest.load(output)
    assert manifest.precisions == ("fp32",)
    assert "nncf" not in manifest.producers
    assert sorted(path.name for path in output.iterdir()) == sorted([*manifest.files, "manifest.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert len(rsicrc.load(output, threads=1).embed_texts(["a road"])) == 1


def test_failure_of_nncf_is_an_export_error(model_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs rsicrc[quantize]")
    from rsicrc_export.quantize import quantize_activations

    wrong_size = np.zeros((2, 2, 33, 33, 3), np.uint8)
    with pytest.raises(ExportError, match=r"NNCF cannot quantize image_encoder\.onnx: "):
        quantize_activations(model_folder / "image_encoder.onnx", tmp_path / "int8.onnx", wrong_size)


def test_quieted_logger_drops_only_records_of_its_thread() -> None:
    from rsicrc_export.quantize import _only_errors

    records: list[str] = []
    logger, handler = logging.getLogger("tests.export.quieted"), logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with _only_errors(logger.name):
        logger.info("dropped")
        logger.error("error")
        thread = threading.Thread(target=logger.info, args=("another thread",))
        thread.start()
        thread.join()
    logger.info("after")
    logger.removeHandler(handler)
    assert records == ["error", "another thread", "after"]


def test_command_refuses_wrong_calibration_options(
    checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_export(checkpoint_file, "-o", tmp_path / "model", "--precision", "int8") == 2
    err = capsys.readouterr().err
    assert "--precision int8 needs --calibration: a few hundred real pairs" in err
    assert run_export(checkpoint_file, "-o", tmp_path / "model", "--calibration", tmp_path) == 2
    err = capsys.readouterr().err
    assert "--calibration goes with --precision int8, fp16 or bf16" in err
    options = ("--precision", "int8", "--calibration", tmp_path / "nothing.csv")
    assert run_export(checkpoint_file, "-o", tmp_path / "model", *options) == 1
    err = capsys.readouterr().err
    assert "nothing.csv" in err
    assert not (tmp_path / "model").exists()


def test_missing_nncf_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from rsicrc_export import precisions

    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"NNCF, which is not installed: `pip install 'rsicrc\[quantize\]'`"):
        precisions.check_installed()
