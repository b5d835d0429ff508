// Tuning constants that the Python and the C++ runtime share.
// Generated from rsicrc/tuning.py, which gives the reasons, by runtime/cpp/generate_tuning.py. Do not edit.
#pragma once

#include <cstddef>

namespace rsicrc::impl {

// Texts in one run of the text encoder or the scorer.
constexpr std::size_t kTextsPerRun = 256;
// Pairs in one run of the image encoder on a CPU.
constexpr std::size_t kPairsPerRun = 8;
// Decoding steps that the key/value caches hold at first, and by which they grow.
constexpr std::size_t kCacheSteps = 16;
// Finished pairs leave the batch when at most this share of its pairs is unfinished.
constexpr double kShrinkShare = 0.75;

}  // namespace rsicrc::impl
