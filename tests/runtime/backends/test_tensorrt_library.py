from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsicrc.backends.tensorrt import library as libraries
from rsicrc.backends.tensorrt.library import Library, make_logger, one_line, open_library
from rsicrc.errors import BackendError


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where modules are looked for, and none of TensorRT's elsewhere."""
    for name in libraries.LIBRARIES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    return tmp_path


def test_the_message_says_what_to_install(elsewhere: Path) -> None:
    with pytest.raises(BackendError, match=r"rsicrc\[tensorrt\].*rsicrc\[tensorrt-rtx\]"):
        open_library()
    with pytest.raises(BackendError, match=r"not installed: `pip install 'rsicrc\[tensorrt-rtx\]'`"):
        open_library("tensorrt_rtx")
    with pytest.raises(BackendError, match="no TensorRT library 'cudnn'"):
        open_library("cudnn")


def test_the_first_that_is_installed(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "tensorrt_rtx.py").write_text("__version__ = '1.7.1.116'")
    assert (open_library().name, open_library().version) == ("tensorrt_rtx", "1.7.1")
    (elsewhere / "tensorrt.py").write_text("__version__ = '10.13.3.9.post1'")
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
def test_one_that_is_of_no_use(elsewhere: Path, content: str, message: str) -> None:
    (elsewhere / "tensorrt.py").write_text(content)
    try:
        with pytest.raises(BackendError, match=message) as caught:
            open_library()
        assert "\n" not in str(caught.value)
    finally:
        sys.modules.pop("tensorrt", None)


def test_compute_capabilities_of_portable_plans() -> None:
    members = {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM120": 120}
    portable = Library("tensorrt_rtx", "1.7.1", SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=members)))
    assert portable.is_portable
    assert portable.capabilities == ("7.5", "12.0")
    other = Library("tensorrt", "10.13.3", SimpleNamespace())
    assert not other.is_portable
    assert other.capabilities == ()


def test_the_logger_keeps_the_last_error() -> None:
    module = pytest.importorskip("tensorrt_rtx")
    heard: list[str] = []
    logger = make_logger(Library("tensorrt_rtx", "1", module), heard.append)
    assert logger.reason == "it gave no reason"
    severity = module.ILogger.Severity
    for level, line in ((severity.ERROR, "first"), (severity.ERROR, "no\n  memory"), (severity.WARNING, "slow")):
        logger.log(level, line)
    assert logger.reason == "no memory"
    assert heard == ["first", "no\n  memory", "slow"]


def test_one_line() -> None:
    assert one_line("a\n\tb  c") == "a b c"
    assert len(one_line("word " * 1000)) == 300
