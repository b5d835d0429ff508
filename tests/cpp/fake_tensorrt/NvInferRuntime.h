// A stand-in for the part of TensorRT that runtime/cpp uses. A plan is the path of an ONNX graph, which OpenVINO runs.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <openvino/openvino.hpp>
#include <string>

namespace nvinfer1 {

struct Dims {
  static constexpr std::int32_t MAX_DIMS = 8;
  std::int32_t nbDims;
  std::int64_t d[MAX_DIMS];
};
enum class OptProfileSelector { kMIN, kOPT, kMAX };
enum class TensorLocation { kDEVICE, kHOST };

class ILogger {
 public:
  enum class Severity { kINTERNAL_ERROR, kERROR, kWARNING };
  virtual ~ILogger() = default;
  virtual void log(Severity severity, const char* message) noexcept = 0;
};

class IExecutionContext {
 public:
  explicit IExecutionContext(ov::CompiledModel model) : model_(std::move(model)) {}

  bool setInputShape(const char* name, const Dims& dims) {
    shapes_[name] = ov::Shape(dims.d, dims.d + dims.nbDims);
    return true;
  }
  bool setTensorAddress(const char* name, void* address) {
    addresses_[name] = address;
    return address != nullptr;
  }
  // As in a CUDA graph, the work has the addresses and shapes of the time when it was enqueued.
  bool enqueueV3(cudaStream_t stream) {
    stream->add([model = model_, shapes = shapes_, addresses = addresses_]() mutable {
      ov::InferRequest request = model.create_infer_request();
      for (const auto& input : model.inputs()) {
        const std::string name = input.get_any_name();
        request.set_tensor(input, ov::Tensor(input.get_element_type(), shapes.at(name), addresses.at(name)));
      }
      request.infer();
      for (const auto& output : model.outputs()) {
        const ov::Tensor value = request.get_tensor(output);
        std::memcpy(addresses.at(output.get_any_name()), value.data(), value.get_byte_size());
      }
    });
    return true;
  }

 private:
  ov::CompiledModel model_;
  std::map<std::string, ov::Shape> shapes_;
  std::map<std::string, void*> addresses_;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(ov::CompiledModel model) : model_(std::move(model)) {}
  IExecutionContext* createExecutionContext() { return new IExecutionContext(model_); }
  TensorLocation getTensorLocation(const char*) const { return TensorLocation::kDEVICE; }
  Dims getProfileShape(const char*, std::int32_t, OptProfileSelector selector) const {
    Dims dims{};
    for (std::int64_t& size : dims.d) size = selector == OptProfileSelector::kMAX ? 1 << 20 : 0;
    return dims;
  }

 private:
  ov::CompiledModel model_;
};

class IRuntime {
 public:
  ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t bytes) {
    static auto* const core = new ov::Core;  // never destroyed, for the reason in openvino_backend.cpp
    const std::string path(static_cast<const char*>(plan), bytes);
    return new ICudaEngine(core->compile_model(path, "CPU", ov::hint::inference_precision(ov::element::f32),
                                               ov::inference_num_threads(1)));
  }
};

inline IRuntime* createInferRuntime(ILogger&) { return new IRuntime; }

}  // namespace nvinfer1

inline std::int32_t getInferLibVersion() { return 101303; }
