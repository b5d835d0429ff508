// The search for TensorRT plans: in the user's cache, or in a folder that the user names. See
// rsicrc/backends/tensorrt/plans.py.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "manifest.h"

namespace rsicrc::impl {

// The library and GPU that a plan must have been built for.
struct PlanReader {
  std::string library;  // "tensorrt" or "tensorrt_rtx"
  std::string version;  // for example "10.13.3"
  std::string device;   // the GPU's name and compute capability, for example "NVIDIA H200 9.0"
};

struct Plan {
  std::filesystem::path path;
  std::string content;
};

// Returns the folder in the user's cache for the plans of a graph. Empty without a cache.
std::optional<std::filesystem::path> plan_folder(const std::string& graph_sha256, const PlanReader& reader);

// Returns the first plan of a graph that fits, with the content whose hash was checked. Plans are code: without
// `engines`, which the user names, they are only read from the user's cache, never from a model folder. Throws BACKEND
// if no plan fits, with the reason for each.
Plan find_plan(const std::optional<std::filesystem::path>& engines, const Manifest& manifest, Graph graph,
               const PlanReader& reader);

}  // namespace rsicrc::impl
