#!/usr/bin/env python3
"""Write `src/operators.h`, the C++ form of the list in `rsicrc.backends.onnx_file`. The header is committed."""

from __future__ import annotations

from pathlib import Path

from rsicrc.backends.onnx_file import MOST_NODES, OPERATORS

HEADER_FILE = Path(__file__).resolve().parent / "src" / "operators.h"


def header() -> str:
    """Return the text of the header."""
    names = "\n".join(f'    "{name}",' for name in sorted(OPERATORS))
    return f"""\
// Limits of the graphs that rsicrc-export writes.
// Generated from rsicrc/backends/onnx_file.py by runtime/cpp/generate_operators.py. Do not edit.
#pragma once

#include <cstddef>
#include <string_view>

namespace rsicrc::impl {{

constexpr std::size_t kMaxNodes = {MOST_NODES};
constexpr std::string_view kOperators[] = {{
{names}
}};

}}  // namespace rsicrc::impl
"""


if __name__ == "__main__":
    HEADER_FILE.write_text(header())
