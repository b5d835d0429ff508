#include "session.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "vocabulary.h"

namespace rsicrc::impl {
namespace {

constexpr float kImpossible = -1.0e9F;

template <typename Number>
void fill(void* buffer, std::size_t bytes, Number value) {
  auto* const first = static_cast<Number*>(buffer);
  std::fill(first, first + bytes / sizeof(Number), value);
}

// Makes a manifest's graphs those that a backend computes a precision from.
void set_precision(Manifest& manifest, const std::string& folder, const std::string& backend,
                   const std::string& precision) {
  if (precision == manifest.precision) return;
  const bool on_gpu = backend == "tensorrt";
  if (precision == "bf16" && !on_gpu) {
    // OpenVINO rounds to bfloat16 by itself, so these are the exact graphs.
  } else if (precision == "bf16" || (precision == "fp16" && on_gpu)) {
    manifest.choose(precision, folder);
  } else if (precision == "int8") {
    manifest.choose(on_gpu ? "int8-fp16" : "int8", folder);
  } else {
    fail(RSICRC_BACKEND, backend, " has no precision '", precision, "': there are fp32, bf16, int8",
         on_gpu ? " and fp16" : "");
  }
  manifest.precision = precision;
}

}  // namespace

std::unique_ptr<Backend> open_backend(const std::filesystem::path& folder, Manifest& manifest,
                                      const BackendOptions& options) {
  const bool any = options.name.empty();
#ifdef RSICRC_WITH_OPENVINO
  if (any || options.name == "openvino") {
    set_precision(manifest, folder.string(), "openvino", options.precision);
    return open_openvino(folder, manifest, options);
  }
#endif
#ifdef RSICRC_WITH_TENSORRT
  if (any || options.name == "tensorrt") {
    set_precision(manifest, folder.string(), "tensorrt", options.precision);
    return open_tensorrt(folder, manifest, options);
  }
#endif
  if (any) fail(RSICRC_BACKEND, "this library was built without a backend");
  if (options.name == "openvino" || options.name == "tensorrt") {
    fail(RSICRC_BACKEND, "this library was built without ", options.name, ": configure it with that backend");
  }
  fail(RSICRC_BACKEND, "no backend '", options.name, "': there are openvino and tensorrt");
}

std::vector<StateTensor> search_state(const GraphSpec& decoder) {
  std::vector<StateTensor> state;
  for (const TensorSpec& input : decoder.inputs) {
    const auto goes_on = [&](const TensorSpec& output) { return output.name == "next_" + input.name; };
    if (std::none_of(decoder.outputs.begin(), decoder.outputs.end(), goes_on)) continue;
    const bool is_cache = input.name.rfind("self_", 0) == 0;
    if (is_cache && (input.shape.size() != 4 || input.shape[2].name != "P")) {
      fail(RSICRC_BAD_MODEL, decoder.file, ": ", input.name, " is no cache [B, heads, P, width]");
    }
    state.push_back({input.name, "next_" + input.name, input, is_cache});
  }
  // Whatever else a decoder keeps, the host reads these.
  for (const char* name : {"tokens", "parents", "finished_lengths", "finished_tokens", "finished_parents"}) {
    if (decoder.input(name).type != Type::kInt64) fail(RSICRC_BAD_MODEL, decoder.file, ": ", name, " is not int64");
  }
  if (decoder.input("done").type != Type::kBool) fail(RSICRC_BAD_MODEL, decoder.file, ": done is not bool");
  for (const char* name : {"scores", "finished_scores", "finished_sums"}) {
    if (decoder.input(name).type != Type::kFloat32) fail(RSICRC_BAD_MODEL, decoder.file, ": ", name, " is not float32");
  }
  return state;
}

void write_first_value(const StateTensor& tensor, std::size_t beams, void* buffer, std::size_t bytes) {
  if (tensor.name == "tokens") {
    fill(buffer, bytes, kStart);
  } else if (tensor.name == "finished_scores" || tensor.name == "finished_sums") {
    fill(buffer, bytes, kImpossible);
  } else if (tensor.name == "scores") {
    fill(buffer, bytes, kImpossible);
    // All beams are START: only one of them may be continued.
    auto* const scores = static_cast<float*>(buffer);
    for (std::size_t i = 0; i < bytes / sizeof(float); i += beams) scores[i] = 0.0F;
  } else {
    std::memset(buffer, 0, bytes);
  }
}

}  // namespace rsicrc::impl
