// Owners of CUDA memory, streams and graphs, and the conversion of CUDA's errors to the library's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "error.h"
#include "span.h"

namespace rsicrc::impl {

// Throws OUT_OF_MEMORY or BACKEND unless a call succeeded; `action` names it in the message.
inline void check_cuda(cudaError_t error, const char* action) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, which the next call would report again
  if (error == cudaErrorMemoryAllocation) {
    fail(RSICRC_OUT_OF_MEMORY, action, ": the GPU is out of memory: caption fewer pairs or beams at once (max_batch)");
  }
  fail(RSICRC_BACKEND, action, " failed: ", cudaGetErrorString(error));
}

struct DeviceFree {
  void operator()(void* memory) const noexcept { cudaFree(memory); }
};
struct PinnedFree {
  void operator()(void* memory) const noexcept { cudaFreeHost(memory); }
};

// The memory of a tensor on the device, with a pinned copy in host memory if the host reads or writes it. It grows when
// needed and never shrinks.
class DualBuffer {
 public:
  void reserve(std::size_t bytes, bool with_host) {
    if (bytes > device_bytes_) {
      device_.reset();
      device_bytes_ = 0;
      void* memory = nullptr;
      check_cuda(cudaMalloc(&memory, bytes), "allocating on the GPU");
      device_.reset(memory);
      device_bytes_ = bytes;
    }
    if (with_host && bytes > host_bytes_) {
      host_.reset();
      host_bytes_ = 0;
      void* memory = nullptr;
      check_cuda(cudaMallocHost(&memory, bytes), "allocating pinned memory");
      host_.reset(memory);
      host_bytes_ = bytes;
    }
    bytes_ = bytes;
  }

  void* device() const { return device_.get(); }
  // Returns the address of the host's copy.
  template <typename Number>
  Number* host() const {
    return static_cast<Number*>(host_.get());
  }
  template <typename Number>
  Span<Number> host_view() const {
    return {host<Number>(), bytes_ / sizeof(Number)};
  }
  std::size_t bytes() const { return bytes_; }

  void upload(cudaStream_t stream) const {
    check_cuda(cudaMemcpyAsync(device(), host_.get(), bytes_, cudaMemcpyHostToDevice, stream), "uploading");
  }
  void download(cudaStream_t stream) const {
    check_cuda(cudaMemcpyAsync(host_.get(), device(), bytes_, cudaMemcpyDeviceToHost, stream), "downloading");
  }

 private:
  std::unique_ptr<void, DeviceFree> device_;
  std::unique_ptr<void, PinnedFree> host_;
  std::size_t device_bytes_ = 0, host_bytes_ = 0;  // allocated
  std::size_t bytes_ = 0;                          // of the tensor
};

class Stream {
 public:
  Stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a CUDA stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  void wait() const { check_cuda(cudaStreamSynchronize(stream_), "running a graph on the GPU"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// A CUDA graph: captured work of a stream that is launched again as a whole.
class CudaGraph {
 public:
  CudaGraph() = default;
  ~CudaGraph() { clear(); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  // Captures the work that `enqueue` puts into the stream.
  template <typename Enqueue>
  void capture(cudaStream_t stream, const Enqueue& enqueue) {
    clear();
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a CUDA graph");
    cudaGraph_t graph = nullptr;
    try {
      enqueue();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      cudaGraphDestroy(graph);
      throw;
    }
    check_cuda(cudaStreamEndCapture(stream, &graph), "capturing a CUDA graph");
    const cudaError_t error = cudaGraphInstantiateWithFlags(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(error, "instantiating a CUDA graph");
  }
  void launch(cudaStream_t stream) const { check_cuda(cudaGraphLaunch(executable_, stream), "launching a CUDA graph"); }
  void clear() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    executable_ = nullptr;
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace rsicrc::impl
