// engines/engines.json: which TensorRT plans of a model folder fit this library and this GPU.
#pragma once

#include <filesystem>
#include <string>

#include "manifest.h"

namespace rsicrc::impl {

// Who wants to load a plan; plans fit no other library version, and no other kind of GPU.
struct PlanReader {
  std::string library;  // "tensorrt" or "tensorrt_rtx"
  std::string version;  // for example "10.13.3"
  std::string device;   // the GPU's name and compute capability, for example "NVIDIA H200 9.0"
};

// Returns the file of the plan of a graph that fits, checked against its hash. Throws BAD_MODEL where there is none,
// with the reason for each plan that does not fit.
std::filesystem::path find_plan(const std::filesystem::path& folder, const Manifest& manifest, Graph graph,
                                const PlanReader& reader);

}  // namespace rsicrc::impl
