// engines/engines.json: the list of the TensorRT plans in a model folder.
#pragma once

#include <filesystem>
#include <string>

#include "manifest.h"

namespace rsicrc::impl {

// The library and GPU that a plan must have been built for.
struct PlanReader {
  std::string library;  // "tensorrt" or "tensorrt_rtx"
  std::string version;  // for example "10.13.3"
  std::string device;   // the GPU's name and compute capability, for example "NVIDIA H200 9.0"
};

// Returns the file of the first plan of a graph that fits, after a check of its hash. Throws BAD_MODEL if no plan fits,
// with the reason for each.
std::filesystem::path find_plan(const std::filesystem::path& folder, const Manifest& manifest, Graph graph,
                                const PlanReader& reader);

}  // namespace rsicrc::impl
