// The OpenVINO backend: the graphs of a model folder, compiled for the CPU.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <mutex>
#include <openvino/openvino.hpp>
#include <optional>
#include <string>

#include "backend.h"
#include "manifest.h"

namespace rsicrc::impl {

class OpenVinoBackend : public Backend {
 public:
  // Throws BACKEND if the processor cannot compute the manifest's precision.
  OpenVinoBackend(std::filesystem::path folder, const Manifest& manifest, std::size_t threads);

  const char* name() const override { return "openvino"; }
  std::unique_ptr<Session> session() override;  // defined in openvino_session.cpp
  const Manifest& manifest() const { return manifest_; }
  // Returns a new request of a graph. The first request of a graph compiles it.
  ov::InferRequest request(Graph graph);

 private:
  ov::CompiledModel compile(Graph graph) const;

  std::filesystem::path folder_;
  const Manifest& manifest_;
  std::size_t threads_;
  bool has_bf16_;
  std::mutex compiling_;
  std::array<std::optional<ov::CompiledModel>, kGraphs> compiled_;
};

// An infer request whose errors have the library's type and name the graph.
class OpenVinoRequest {
 public:
  OpenVinoRequest(OpenVinoBackend& backend, Graph graph) : graph_(graph), request_(backend.request(graph)) {}

  void set(const std::string& name, const ov::Tensor& tensor);
  ov::Tensor get(const std::string& name) { return request_.get_tensor(name); }
  void run();

 private:
  [[noreturn]] void failed(const std::exception& error) const;

  Graph graph_;
  ov::InferRequest request_;
};

ov::element::Type element_type(Type type);

}  // namespace rsicrc::impl
