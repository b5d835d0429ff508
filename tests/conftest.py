"""What all rooms' tests share: a small random model, exported once, and the optional folder of shared material."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "tiny.pt"
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of `model_folder`."""
    from tests.models import save_checkpoint

    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=0)


@pytest.fixture(scope="session")
def model_folder(checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model as an exported folder. Read it; to change it, copy it first."""
    from rsicrc_export.model_folder import export_checkpoint

    folder = tmp_path_factory.mktemp("exported") / "model"
    export_checkpoint(checkpoint_file, folder)
    return folder


@pytest.fixture(scope="session")
def calibration_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 40 generated pairs."""
    from PIL import Image

    from rsicrc_train.synth import make_pair

    folder = tmp_path_factory.mktemp("calibration")
    lines = ["before,after"]
    for number in range(40):
        pair = make_pair(77, number)
        for name, picture in (("a", pair.before), ("b", pair.after)):
            Image.fromarray(picture).save(folder / f"{number}{name}.png", compress_level=1)
        lines.append(f"{number}a.png,{number}b.png")
    table = folder / "pairs.csv"
    table.write_text("\n".join(lines))
    return table


@pytest.fixture(scope="session")
def variants_folder(calibration_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained example model as an exported folder, in all precisions: random weights say nothing about them."""
    from rsicrc_export.model_folder import export_checkpoint

    folder = tmp_path_factory.mktemp("variants") / "model"
    export_checkpoint(EXAMPLE, folder, precisions=["fp16", "bf16", "int8"], calibration=calibration_table)
    return folder


@pytest.fixture
def declared_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs find the entry points that pyproject.toml declares, also those that are not installed yet."""
    declared = tomllib.loads((EXAMPLE.parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]

    def found(*, group: str) -> EntryPoints:
        return EntryPoints(EntryPoint(name, value, group) for name, value in declared[group].items())

    monkeypatch.setattr("importlib.metadata.entry_points", found)


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The shared material beside the checkout; skips the test where it is not there. Mark such tests `shared`."""
    if not SHARED.is_dir():
        pytest.skip("no shared folder beside the checkout")
    return SHARED
