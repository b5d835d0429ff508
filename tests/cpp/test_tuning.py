"""The generated header of tuning constants."""

from __future__ import annotations

import runpy

from tests.cpp.conftest import SOURCE


def test_tuning_header_matches_python() -> None:
    generator = runpy.run_path(str(SOURCE / "generate_tuning.py"))
    message = "src/tuning.h differs from rsicrc/tuning.py: run runtime/cpp/generate_tuning.py"
    assert (SOURCE / "src" / "tuning.h").read_text() == generator["header"](), message
