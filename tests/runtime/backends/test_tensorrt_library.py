from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsicrc.backends.tensorrt import library as libraries
from rsicrc.backends.tensorrt.library import Library, make_logger, one_line, open_library
from rsicrc.errors import BackendError


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder from which modules are imported; empty."""
    for name in libraries.LIBRARIES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    return tmp_path


def test_missing_library_names_the_extra(module_folder: Path) -> None:
    with pytest.raises(BackendError, match=r"rsicrc\[tensorrt\].*rsicrc\[tensorrt-rtx\]"):
        open_library()
    with pytest.raises(BackendError, match=r"not installed: `pip install 'rsicrc\[tensorrt-rtx\]'`"):
        open_library("tensorrt_rtx")
    with pytest.raises(BackendError, match="no TensorRT library 'cudnn'"):
        open_library("cudnn")


def test_first_installed_library_is_opened(module_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (module_folder / "tensorrt_rtx.py").write_text("__version__ = '1.7.1.116'")
    assert (open_library().name, open_library().version) == ("tensorrt_rtx", "1.7.1")
    (module_folder / "tensorrt.py").write_text("__version__ = '10.13.3.9.post1'")
    sys.path_importer_cache.clear()
    try:
        assert (open_library().name, open_library().version) == ("tensorrt", "10.13.3")
    finally:
        for name in libraries.LIBRARIES:
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "raise OSError('libnvinfer.so.10: cannot open\\nshared object file')",
            r"cannot be loaded \(libnvinfer.so.10: ",
        ),
        ("pass", "cannot be loaded"),
        ("__version__ = '8.6.1'", r"tensorrt 8.6.1 is too old: `pip install -U 'tensorrt>=10.3'`"),
    ],
)
def test_unusable_library_is_refused(module_folder: Path, content: str, message: str) -> None:
    (module_folder / "tensorrt.py").write_text(content)
    try:
        with pytest.raises(BackendError, match=message) as caught:
            open_library()
        assert "\n" not in str(caught.value)
    finally:
        sys.modules.pop("tensorrt", None)


def test_portable_library_lists_compute_capabilities() -> None:
    members = {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM120": 120}
    portable = Library("tensorrt_rtx", "1.7.1", SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=members)))
    assert portable.is_portable
    assert portable.capabilities == ("7.5", "12.0")
    other = Library("tensorrt", "10.13.3", SimpleNamespace())
    assert not other.is_portable
    assert other.capabilities == ()


def test_logger_stores_the_last_error() -> None:
    module = pytest.importorskip("tensorrt_rtx", reason="needs rsicrc[tensorrt-rtx]")
    received: list[str] = []
    logger = make_logger(Library("tensorrt_rtx", "1", module), received.append)
    assert logger.reason == "it gave no reason"
    severity = module.ILogger.Severity
    for level, line in ((severity.ERROR, "first"), (severity.ERROR, "no\n  memory"), (severity.WARNING, "slow")):
        logger.log(level, line)
    assert logger.reason == "no memory"
    assert received == ["first", "no\n  memory", "slow"]


def test_one_line_joins_and_truncates() -> None:
    assert one_line("a\n\tb  c") == "a b c"
    assert len(one_line("word " * 1000)) == 300
