"""int8: the packing, calibration pairs, and a precision that costs too much."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from rsicrc.errors import DataError, ExportError, PairsError
from rsicrc.manifest import Manifest
from rsicrc.preprocessing import Preprocessing
from rsicrc_export import precisions
from rsicrc_export.calibration import Calibration, read_calibration
from rsicrc_export.quantize import block_size, pack
from rsicrc_train import checkpoint
from tests.export.test_cli import export
from tests.models import random_images

PREPROCESSING = Preprocessing(96)


def test_packed_weights_are_within_half_a_step() -> None:
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


def test_calibration_from_a_table(calibration_table: Path) -> None:
    calibration = read_calibration(calibration_table, PREPROCESSING)
    assert calibration.scaling.shape == (30, 2, 96, 96, 3)
    assert calibration.judging.shape == (10, 2, 96, 96, 3)
    assert calibration.source == "pairs.csv"


def test_calibration_that_cannot_be_used(tmp_path: Path, calibration_table: Path) -> None:
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


def test_a_precision_that_costs_too_much_is_refused(
    model_folder: Path, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    monkeypatch.setattr(precisions, "TOLERANCES", {"int8": precisions.Tolerance(cosine=1.01, loss=1.0)})
    calibration = Calibration("noise", random_images(8, seed=1), random_images(3, seed=2))
    model = checkpoint.load(checkpoint_file).build_model()
    listener = logging.NullHandler(logging.INFO)  # somebody else, who wants to hear NNCF
    logging.getLogger("nncf").addHandler(listener)
    with pytest.raises(
        ExportError, match=r"int8 loses too much accuracy with this model: image embedding cosine \d\.\d+"
    ):
        precisions.add_variants(folder, Manifest.load(folder), model, ["int8"], calibration)
    logging.getLogger("nncf").removeHandler(listener)
    assert listener.level == logging.INFO


def test_wrong_options(checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = export(capsys, checkpoint_file, "-o", tmp_path / "model", "--precision", "int8")
    assert code == 2
    assert "--precision int8 needs --calibration: a couple of hundred real pairs" in err
    code, _, err = export(capsys, checkpoint_file, "-o", tmp_path / "model", "--calibration", tmp_path)
    assert code == 2
    assert "--calibration goes with --precision int8, fp16 or bf16" in err
    options = ("--precision", "int8", "--calibration", tmp_path / "nothing.csv")
    code, _, err = export(capsys, checkpoint_file, "-o", tmp_path / "model", *options)
    assert code == 1
    assert "nothing.csv" in err
    assert not (tmp_path / "model").exists()


def test_without_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"NNCF, which is not installed: `pip install 'rsicrc\[quantize\]'`"):
        precisions.check_installed()
