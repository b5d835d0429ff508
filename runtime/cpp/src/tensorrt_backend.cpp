#include "tensorrt_backend.h"

#include <NvInferVersion.h>

#include "error.h"

namespace rsicrc::impl {
namespace {

#ifdef TRT_MAJOR_RTX
constexpr char kLibrary[] = "tensorrt_rtx";
#else
constexpr char kLibrary[] = "tensorrt";
#endif

std::string version_text(std::int32_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

// Returns the properties that a plan must fit. Called before any TensorRT object is created: without a driver, some
// builds of TensorRT create objects that crash.
PlanReader require_device(int device) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    fail(RSICRC_BACKEND, "TensorRT needs an NVIDIA GPU and its driver: ",
         error == cudaSuccess ? "there is no GPU" : cudaGetErrorString(error));
  }
  if (device >= count) fail(RSICRC_BACKEND, "no GPU ", device, ": there are ", count, ", counted from 0");
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "reading the GPU's properties");
  check_cuda(cudaSetDevice(device), "selecting the GPU");
  const std::int32_t version = getInferLibVersion();
  if (version / 10000 != NV_TENSORRT_MAJOR) {
    fail(RSICRC_BACKEND, "built against ", kLibrary, " ", NV_TENSORRT_MAJOR, ", but ", version_text(version),
         " was loaded: build this library again");
  }
  return {
      kLibrary, version_text(version),
      std::string(properties.name) + " " + std::to_string(properties.major) + "." + std::to_string(properties.minor)};
}

}  // namespace

void TensorRtLogger::log(Severity severity, const char* message) noexcept {
  if (severity > Severity::kERROR) return;
  try {
    const std::lock_guard<std::mutex> lock(mutex_);
    last_ = message;
  } catch (...) {  // Without memory for the message, the error itself is still reported.
  }
}

std::string TensorRtLogger::last() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_.empty() ? "TensorRT gave no reason" : last_;
}

TensorRtBackend::TensorRtBackend(std::optional<std::filesystem::path> engines, const Manifest& manifest, int device)
    : plans_(std::move(engines)), manifest_(manifest), device_(device), reader_(require_device(device)) {
  runtime_.reset(nvinfer1::createInferRuntime(logger_));
  if (!runtime_) fail(RSICRC_BACKEND, kLibrary, " cannot start: ", logger_.last());
}

nvinfer1::ICudaEngine& TensorRtBackend::engine(Graph graph) {
  const std::lock_guard<std::mutex> lock(loading_);
  std::unique_ptr<nvinfer1::ICudaEngine>& engine = engines_[static_cast<std::size_t>(graph)];
  if (!engine) {
    const Plan plan = find_plan(plans_, manifest_, graph, reader_);
    engine.reset(runtime_->deserializeCudaEngine(plan.content.data(), plan.content.size()));
    if (!engine) fail(RSICRC_BACKEND, plan.path.string(), ": ", kLibrary, " refuses this plan: ", logger_.last());
  }
  return *engine;
}

TensorRtExecution::TensorRtExecution(TensorRtBackend& backend, Graph graph)
    : backend_(backend), graph_(graph), engine_(backend.engine(graph)), context_(engine_.createExecutionContext()) {
  if (!context_) fail(RSICRC_OUT_OF_MEMORY, "no memory on the GPU for ", name_of(graph), ": ", backend.last_error());
}

void TensorRtExecution::bind_input(const TensorSpec& spec, const Sizes& sizes, const DualBuffer& buffer) {
  set_shape(spec.name.c_str(), concrete_shape(spec, sizes));
  set_address(spec.name.c_str(), buffer);
}

void TensorRtExecution::bind_output(const TensorSpec& spec, const DualBuffer& buffer) {
  set_address(spec.name.c_str(), buffer);
}

void TensorRtExecution::enqueue(cudaStream_t stream) {
  if (!context_->enqueueV3(stream)) {
    fail(RSICRC_BACKEND, "graph '", name_of(graph_), "' failed in ", kLibrary, ": ", backend_.last_error());
  }
}

void TensorRtExecution::set_shape(const char* name, const std::vector<std::size_t>& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  if (shape.size() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) refused(name);
  const auto least = engine_.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMIN);
  const auto most = engine_.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMAX);
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    const auto size = static_cast<std::int64_t>(shape[axis]);
    dims.d[axis] = size;
    if (size >= least.d[axis] && size <= most.d[axis]) continue;
    fail(RSICRC_BACKEND, "the plan of ", name_of(graph_), " takes ", least.d[axis], " to ", most.d[axis], " on axis ",
         axis, " of ", name, ", not ", size, ": lower max_batch or beams, or build another profile");
  }
  if (!context_->setInputShape(name, dims)) refused(name);
}

void TensorRtExecution::set_address(const char* name, const DualBuffer& buffer) {
  const bool on_host = engine_.getTensorLocation(name) == nvinfer1::TensorLocation::kHOST;
  if (!context_->setTensorAddress(name, on_host ? buffer.host<void>() : buffer.device())) refused(name);
  reads_host_ = reads_host_ || on_host;
}

void TensorRtExecution::refused(const char* name) {
  fail(RSICRC_BAD_MODEL, "the plan of ", name_of(graph_), " does not take ", name,
       " as the manifest declares: ", backend_.last_error());
}

std::unique_ptr<Backend> open_tensorrt(const Manifest& manifest, const BackendOptions& options) {
  return std::make_unique<TensorRtBackend>(options.engines, manifest, options.device);
}

}  // namespace rsicrc::impl
