"""Builds of the C++ library, each shared by all tests. A missing tool skips the tests that need it, with a message."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cpp import binding

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "runtime" / "cpp"
CLANGS = ("clang++", "clang++-19", "clang++-18", "clang++-17", "clang++-16")


@dataclass(frozen=True)
class Build:
    """A configured and built tree."""

    folder: Path
    prefix: Path

    @property
    def library(self) -> Path:
        return self.folder / "librsicrc.so"

    def program(self, name: str) -> Path:
        return self.folder / "tests" / name


def run(*command: str | Path, env: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command and assert that it succeeds. On failure, show the end of its output."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def openvino_folder() -> Path:
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        pytest.skip("OpenVINO is not installed: pip install 'rsicrc[openvino]'")
    return Path(spec.origin).parent / "cmake"


def clang() -> str:
    """Return the name of an installed Clang for C++."""
    for name in CLANGS:
        if shutil.which(name):
            return name
    pytest.skip("no Clang: apt-get install clang-19")


def build(folder: Path, compiler: str, *options: str, flags: str = "") -> Build:
    """Configure, build and install with warnings as errors."""
    for tool in ("cmake", compiler):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: docs/cpp.md says what the C++ library needs")
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    prefix = folder / "installed"
    run(
        "cmake", "-S", SOURCE, "-B", folder, *generator, f"-DCMAKE_CXX_COMPILER={compiler}",
        f"-DCMAKE_CXX_FLAGS=-Werror {flags}", f"-DOpenVINO_DIR={openvino_folder()}", "-DRSICRC_OPENVINO=ON",
        f"-DCMAKE_INSTALL_PREFIX={prefix}", *options,
    )  # fmt: skip
    run("cmake", "--build", folder, "--parallel", os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "2"))
    run("cmake", "--install", folder)
    return Build(folder, prefix)


@pytest.fixture(scope="session")
def gcc_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return the library in its release configuration, built by GCC with the test programs."""
    return build(tmp_path_factory.mktemp("gcc"), "g++", "-DRSICRC_BUILD_TESTS=ON")


@pytest.fixture(scope="session")
def memory_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return the library with AddressSanitizer and UndefinedBehaviorSanitizer, built by Clang with the fuzzers."""
    return build(
        tmp_path_factory.mktemp("memory"), clang(), "-DCMAKE_BUILD_TYPE=None", "-DRSICRC_BUILD_TESTS=ON",
        "-DRSICRC_BUILD_FUZZERS=ON", "-DRSICRC_SANITIZE=address,undefined", flags="-O1",
    )  # fmt: skip


@pytest.fixture(scope="session")
def thread_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return the library with ThreadSanitizer, built by Clang."""
    return build(
        tmp_path_factory.mktemp("thread"), clang(), "-DCMAKE_BUILD_TYPE=None", "-DRSICRC_BUILD_TESTS=ON",
        "-DRSICRC_SANITIZE=thread", flags="-O1",
    )  # fmt: skip


@pytest.fixture(scope="session")
def library(gcc_build: Build) -> ctypes.CDLL:
    return binding.open_library(gcc_build.library)


def smooth_pairs(count: int, width: int, height: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return random pairs of smooth images, uint8 [height, width, 3]. The seed depends on the size."""
    generator = np.random.default_rng(width * height)
    coarse = generator.integers(0, 256, (count, 2, 6, 5, 3), dtype=np.uint8)
    resized = [
        [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)) for image in pair]
        for pair in coarse
    ]
    return [(before, after) for before, after in resized]
