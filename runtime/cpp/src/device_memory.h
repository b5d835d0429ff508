// CUDA memory and streams with owners, and CUDA's errors as ours.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "error.h"

namespace rsicrc::impl {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report this one
  if (error == cudaErrorMemoryAllocation) {
    fail(RSICRC_OUT_OF_MEMORY, what, ": the GPU is out of memory: caption fewer pairs or beams at once (max_batch)");
  }
  fail(RSICRC_BACKEND, what, " failed: ", cudaGetErrorString(error));
}

struct DeviceFree {
  void operator()(void* memory) const noexcept { cudaFree(memory); }
};
struct PinnedFree {
  void operator()(void* memory) const noexcept { cudaFreeHost(memory); }
};

// A tensor on the device, and where the host looks at it also a pinned one. Grows, never shrinks.
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
  template <typename Number>
  Number* host() const {
    return static_cast<Number*>(host_.get());
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
  std::size_t device_bytes_ = 0, host_bytes_ = 0, bytes_ = 0;
};

class Stream {
 public:
  Stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a CUDA stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  void wait() const { check_cuda(cudaStreamSynchronize(stream_), "a graph on the GPU"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// A recorded sequence of work, to be replayed in one launch.
class RecordedWork {
 public:
  RecordedWork() = default;
  ~RecordedWork() { clear(); }
  RecordedWork(const RecordedWork&) = delete;
  RecordedWork& operator=(const RecordedWork&) = delete;

  template <typename Work>
  void record(cudaStream_t stream, const Work& work) {
    clear();
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording a step");
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      cudaGraphDestroy(graph);
      throw;
    }
    check_cuda(cudaStreamEndCapture(stream, &graph), "recording a step");
    const cudaError_t made = cudaGraphInstantiateWithFlags(&recorded_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(made, "recording a step");
  }
  void replay(cudaStream_t stream) const { check_cuda(cudaGraphLaunch(recorded_, stream), "a step of the search"); }
  void clear() {
    if (recorded_ != nullptr) cudaGraphExecDestroy(recorded_);
    recorded_ = nullptr;
  }

 private:
  cudaGraphExec_t recorded_ = nullptr;
};

}  // namespace rsicrc::impl
