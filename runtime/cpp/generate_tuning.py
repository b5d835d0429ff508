#!/usr/bin/env python3
"""Write `src/tuning.h`, the C++ form of `rsicrc.tuning`. The header is committed, so a C++ build needs no Python."""

from __future__ import annotations

from pathlib import Path

from rsicrc import tuning

HEADER_FILE = Path(__file__).resolve().parent / "src" / "tuning.h"


def header() -> str:
    """Return the text of the header."""
    return f"""\
// Tuning constants that the Python and the C++ runtime share.
// Generated from rsicrc/tuning.py, which gives the reasons, by runtime/cpp/generate_tuning.py. Do not edit.
#pragma once

#include <cstddef>

namespace rsicrc::impl {{

// Texts in one run of the text encoder or the scorer.
constexpr std::size_t kTextsPerRun = {tuning.TEXTS_PER_RUN};
// Pairs in one run of the image encoder on a CPU.
constexpr std::size_t kPairsPerRun = {tuning.PAIRS_PER_RUN};
// Decoding steps that the key/value caches hold at first, and by which they grow.
constexpr std::size_t kCacheSteps = {tuning.CACHE_STEPS};
// Finished pairs leave the batch when at most this share of its pairs is unfinished.
constexpr double kShrinkShare = {tuning.SHRINK_SHARE};

}}  // namespace rsicrc::impl
"""


if __name__ == "__main__":
    HEADER_FILE.write_text(header())
