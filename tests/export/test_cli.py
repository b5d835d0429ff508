"""The program `rsicrc-export`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsicrc.cli.console import run_command
from rsicrc.manifest import Manifest, sha256_file
from rsicrc_export.cli import app
from tests.hub_cache import add_repository, use_offline


def export(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command → its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        run_command(app, "rsicrc-export", [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_force_replaces_a_folder(
    model_folder: Path,
    checkpoint_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The checkpoint comes from the hub."""
    use_offline(tmp_path / "hub", monkeypatch)
    add_repository(tmp_path / "hub", "owner/repo", {"ckpt.pt": checkpoint_file.read_bytes()})
    output = tmp_path / "models" / "model"
    shutil.copytree(model_folder, output)
    (output / "stale.txt").write_text("from the old model")
    scale = ("--pixel-size", "0.5", "--image-side", "256")
    code, out, err = export(capsys, "hf:owner/repo", "-o", output, "--force", *scale)
    assert (code, out) == (0, f"{output}\n")
    assert "image_encoder: exporting" in err
    assert "text_embedding, relative, largest difference" in err
    manifest = Manifest.load(output)
    assert manifest.checkpoint["sha256"] == sha256_file(checkpoint_file)
    assert (manifest.pixel_size, manifest.image_side) == (0.5, 256)
    assert sorted(path.name for path in output.iterdir()) == sorted([*manifest.files, "manifest.json"])
    assert [path.name for path in output.parent.iterdir()] == ["model"]


def test_existing_folder_needs_force(
    checkpoint_file: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = export(capsys, checkpoint_file, "-o", model_folder)
    assert (code, out) == (1, "")
    assert err.startswith("rsicrc-export: error: ")
    assert "--force" in err


def test_impossible_scale_is_refused(checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = export(capsys, checkpoint_file, "-o", tmp_path / "model", "--pixel-size", "0")
    assert code == 1
    assert err.startswith("rsicrc-export: error: --pixel-size 0.0: give a number of meters")
    code, _, err = export(capsys, checkpoint_file, "-o", tmp_path / "model", "--image-side", "1")
    assert code == 1
    assert "--image-side 1: give a number of pixels" in err
    assert not (tmp_path / "model").exists()


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ckpt.pt").write_text("no")
    code, out, err = export(capsys, tmp_path / "ckpt.pt", "-o", tmp_path / "model")
    assert (code, out) == (1, "")
    assert "ckpt.pt is not a PyTorch file" in err
    assert not (tmp_path / "model").exists()
    code, _, err = export(capsys, tmp_path / "none.pt", "-o", tmp_path / "model")
    assert (code, "no checkpoint at" in err) == (1, True)


def test_published_weights_need_both_files(checkpoint_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = export(capsys, checkpoint_file, "--config", "config.json")
    assert code == 2
    assert "both --config and --vocab" in err


def test_missing_argument_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert export(capsys)[0] == 2


def test_help_imports_nothing_heavy() -> None:
    listing = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rsicrc_export.cli"], capture_output=True, text=True, check=False
    ).stderr
    assert "| typer" in listing
    assert not [name for name in ("torch", "onnx", "numpy", "onnxruntime") if f"| {name}\n" in listing]


def test_missing_tensorrt_is_reported_before_the_export(
    checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rsicrc.backends.tensorrt.library.LIBRARIES", ("tensorrt_rtx",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, err = export(capsys, checkpoint_file, "-o", tmp_path / "model", "--tensorrt")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "TensorRT is not installed: `pip install 'rsicrc[tensorrt-rtx]'`" in err
    assert not (tmp_path / "model").exists()


def test_profiles_are_checked_before_the_export(
    checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = export(capsys, checkpoint_file, "-o", tmp_path / "model", "--profile", "1:8:64")
    assert (code, "--profile goes with --tensorrt" in err) == (2, True)
    code, _, err = export(capsys, checkpoint_file, "-o", tmp_path / "model", "--tensorrt", "--profile", "8:1")
    assert (code, "write MIN:OPT:MAX pairs" in err) == (2, True)
    code, _, err = export(capsys, checkpoint_file, "-o", tmp_path / "model", "--engines", tmp_path / "plans")
    assert (code, "--engines goes with --tensorrt" in err) == (2, True)
    assert not (tmp_path / "model").exists()


def test_plans_are_built_if_another_precision_is_refused(
    checkpoint_file: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rsicrc_export.precisions import PrecisionError

    manifest = Manifest.load(model_folder)
    built: list[object] = []

    def refuse(*_: object, **__: object) -> Manifest:
        raise PrecisionError("model is written with fp32, but without bf16: too inaccurate", ["bf16"], manifest)

    def open_builder(profiles: tuple[str, ...], engines: Path | None) -> SimpleNamespace:
        return SimpleNamespace(build=lambda folder, manifest: built.append((folder, manifest, engines)))

    monkeypatch.setattr("rsicrc_export.model_folder.export_checkpoint", refuse)
    monkeypatch.setattr("rsicrc_export.tensorrt_plans.PlanBuilder.open", open_builder)
    arguments = (checkpoint_file, "-o", tmp_path / "model", "--precision", "bf16", "--tensorrt")
    code, out, err = export(capsys, *arguments, "--engines", tmp_path / "plans")
    assert (code, out) == (1, "")
    assert "but without bf16: too inaccurate" in err
    assert built == [(tmp_path / "model", manifest, tmp_path / "plans")]
