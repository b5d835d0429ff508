// The interface to the libraries that run the graphs, implemented with OpenVINO and with TensorRT.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "manifest.h"
#include "session.h"

namespace rsicrc::impl {

// The opened graphs of a model folder, shared by any number of threads.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;
  virtual std::unique_ptr<Session> session() = 0;
};

struct BackendOptions {
  std::string name;  // "openvino" or "tensorrt"; empty: the first that this library was built with, and has `engines`
  std::size_t threads = 1;  // CPU threads of one graph
  int device = 0;           // number of the GPU
  std::string precision = "fp32";
  std::optional<std::filesystem::path> engines;  // folder of TensorRT plans; empty: the user's cache
};

// Opens a backend, and changes the manifest's graphs and precision to those of the options. Throws BACKEND if the
// backend or its device does not exist, or if the backend cannot compute this precision from this folder; BAD_MODEL if
// a graph is not as rsicrc-export writes graphs; INVALID_ARGUMENT if `engines` is given and the backend has no plans.
std::unique_ptr<Backend> open_backend(const std::filesystem::path& folder, Manifest& manifest,
                                      const BackendOptions& options);

// Defined in openvino_backend.cpp and tensorrt_backend.cpp, which are built if the library is found. The manifest must
// outlive the backend.
std::unique_ptr<Backend> open_openvino(const std::filesystem::path& folder, const Manifest& manifest,
                                       const BackendOptions& options);
std::unique_ptr<Backend> open_tensorrt(const Manifest& manifest, const BackendOptions& options);

}  // namespace rsicrc::impl
