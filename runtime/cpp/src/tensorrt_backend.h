// The TensorRT backend: plans of a model's graphs on an NVIDIA GPU, by TensorRT 10 or 11 or by TensorRT-RTX.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend.h"
#include "cuda.h"
#include "manifest.h"
#include "plans.h"

namespace rsicrc::impl {

// Stores the last error message of TensorRT for the messages of this library.
class TensorRtLogger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;
  std::string last();

 private:
  std::mutex mutex_;
  std::string last_;
};

class TensorRtBackend : public Backend {
 public:
  // Throws BACKEND if there is no such GPU, no driver, or another version of TensorRT than at build time.
  TensorRtBackend(std::optional<std::filesystem::path> engines, const Manifest& manifest, int device);

  const char* name() const override { return "tensorrt"; }
  std::unique_ptr<Session> session() override;  // defined in tensorrt_session.cpp
  const Manifest& manifest() const { return manifest_; }
  std::string last_error() { return logger_.last(); }
  // Selects the GPU for the calling thread, as CUDA requires.
  void enter() const { check_cuda(cudaSetDevice(device_), "selecting the GPU"); }
  // Returns the engine of a graph. The first call for a graph loads its plan.
  nvinfer1::ICudaEngine& engine(Graph graph);

 private:
  std::optional<std::filesystem::path> plans_;  // the folder of plans that the user names
  const Manifest& manifest_;
  int device_;
  PlanReader reader_;
  TensorRtLogger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::mutex loading_;
  std::array<std::unique_ptr<nvinfer1::ICudaEngine>, kGraphs> engines_;
};

// An execution context of a graph.
class TensorRtExecution {
 public:
  TensorRtExecution(TensorRtBackend& backend, Graph graph);

  // Set the memory of a tensor, and the shape of an input.
  void bind_input(const TensorSpec& spec, const Sizes& sizes, const DualBuffer& buffer);
  void bind_output(const TensorSpec& spec, const DualBuffer& buffer);
  // Returns true if TensorRT reads an input in host memory when the work is enqueued. A CUDA graph would then repeat
  // the value that the input had during the capture.
  bool reads_host() const { return reads_host_; }
  void enqueue(cudaStream_t stream);

 private:
  void set_shape(const char* name, const std::vector<std::size_t>& shape);
  void set_address(const char* name, const DualBuffer& buffer);
  [[noreturn]] void refused(const char* name);

  TensorRtBackend& backend_;
  Graph graph_;
  nvinfer1::ICudaEngine& engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  bool reads_host_ = false;
};

}  // namespace rsicrc::impl
