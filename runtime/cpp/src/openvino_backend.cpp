#include "openvino_backend.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <unordered_set>

#include "error.h"

namespace rsicrc::impl {
namespace {

// Returns the one core of the process, which is never destroyed. The CPU plugin of a core replaces the signal stack of
// the thread that creates the core, and restores the previous one when the core is destroyed. If several cores are not
// destroyed in reverse order, or on another thread, the thread keeps a signal stack that is already freed, and the next
// signal with a handler kills the process (OpenVINO 2026.4.1).
ov::Core& core() {
  static ov::Core* const only = new ov::Core;
  return *only;
}

bool detect_bf16() {
#ifdef __x86_64__
  // On x86, OpenVINO's list of capabilities has bfloat16 also where it can only emulate it.
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  const auto capabilities = core().get_property("CPU", ov::device::capabilities);
  return std::find(capabilities.begin(), capabilities.end(), ov::device::capability::BF16) != capabilities.end();
#endif
}

// Removes all outputs but one, so that OpenVINO does not compute them.
void keep_output(ov::Model& model, const std::string& output) {
  for (const auto& result : ov::ResultVector(model.get_results())) {
    if (result->input_value(0).get_names().count(output) == 0) model.remove_result(result);
  }
}

// Replaces each cache output of the decoder by the new keys or values that the graph writes into the cache. OpenVINO
// would copy the whole cache to update it, and copy it again to the output.
void emit_new_kv(ov::Model& model) {
  for (const auto& result : model.get_results()) {
    ov::Output<ov::Node> cache = result->input_value(0);
    const ov::Node& update = *cache.get_node();
    if (std::strcmp(update.get_type_name(), "ScatterNDUpdate") != 0) continue;
    ov::Output<ov::Node> new_kv = update.input_value(2);
    const std::unordered_set<std::string> names = cache.get_names();
    cache.set_names({});
    new_kv.add_names(names);
    result->input(0).replace_source_output(new_kv);
  }
}

// Returns how many int8 weights of one output share a scale: the minimum over the graph's MatMulNBits, 0 without any.
// Only the weights of MatMulNBits are uint8 constants with three axes: outputs, blocks, weights.
std::size_t weight_block(const ov::Model& model) {
  std::size_t block = 0;
  for (const auto& node : model.get_ops()) {
    if (std::strcmp(node->get_type_name(), "Constant") != 0 || node->get_element_type() != ov::element::u8) continue;
    const ov::Shape& shape = node->get_shape();
    if (shape.size() == 3 && (block == 0 || shape[2] < block)) block = shape[2];
  }
  return block;
}

}  // namespace

OpenVinoBackend::OpenVinoBackend(std::filesystem::path folder, const Manifest& manifest, std::size_t threads)
    : folder_(std::move(folder)), manifest_(manifest), threads_(threads), has_bf16_(detect_bf16()) {
  if (manifest.precision == "bf16" && !has_bf16_) {
    fail(RSICRC_BACKEND, "this processor has no instructions for bf16 (AVX-512 BF16 or AMX): choose fp32 or int8");
  }
}

ov::InferRequest OpenVinoBackend::request(Graph graph) {
  const std::lock_guard<std::mutex> lock(compiling_);
  std::optional<ov::CompiledModel>& compiled = compiled_[static_cast<std::size_t>(graph)];
  if (!compiled) compiled = compile(graph);
  return compiled->create_infer_request();
}

ov::CompiledModel OpenVinoBackend::compile(Graph graph) const {
  const std::filesystem::path path = folder_ / manifest_.graph(graph).file;
  try {
    const std::shared_ptr<ov::Model> model = core().read_model(path.string());
    if (graph == Graph::kScorer) keep_output(*model, "log_probs");
    if (graph == Graph::kDecoder) emit_new_kv(*model);
    const bool int8_text = manifest_.precision == "int8" && graph != Graph::kImageEncoder;
    const bool exact = manifest_.precision == "fp32";
    ov::AnyMap properties = {
        ov::inference_num_threads(static_cast<int>(threads_)),
        ov::num_streams(1),
        ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
        // By default, OpenVINO computes in bfloat16 if the processor can. That is right for bf16, and for the
        // operations of the int8 image encoder that are not int8. In int8 text graphs, bfloat16 is no faster than
        // float32.
        ov::hint::inference_precision(exact || int8_text || !has_bf16_ ? ov::element::f32 : ov::element::bf16),
        ov::hint::enable_cpu_pinning(false),
    };
    // Lets OpenVINO multiply int8 weights in int8: a row of activations gets one scale for each block of weights.
    const std::size_t block = weight_block(*model);
    if (block > 0) properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = std::to_string(block);
    return core().compile_model(model, "CPU", properties);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    fail(RSICRC_BACKEND, path.string(), ": OpenVINO cannot open this graph: ", error.what());
  }
}

void OpenVinoRequest::set(const std::string& name, const ov::Tensor& tensor) {
  try {
    request_.set_tensor(name, tensor);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    failed(error);
  }
}

void OpenVinoRequest::run() {
  try {
    request_.infer();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    failed(error);
  }
}

void OpenVinoRequest::failed(const std::exception& error) const {
  fail(RSICRC_BACKEND, "graph '", name_of(graph_), "' failed in OpenVINO: ", error.what());
}

ov::element::Type element_type(Type type) {
  switch (type) {
    case Type::kUint8:
      return ov::element::u8;
    case Type::kInt64:
      return ov::element::i64;
    case Type::kFloat32:
      return ov::element::f32;
    case Type::kBool:
      return ov::element::boolean;
    case Type::kFloat16:
      return ov::element::f16;
    case Type::kBfloat16:
      return ov::element::bf16;
  }
  return ov::element::dynamic;
}

std::unique_ptr<Backend> open_openvino(const std::filesystem::path& folder, const Manifest& manifest,
                                       const BackendOptions& options) {
  try {
    return std::make_unique<OpenVinoBackend>(folder, manifest, options.threads);
  } catch (const ov::Exception& error) {
    fail(RSICRC_BACKEND, "OpenVINO cannot start: ", error.what());
  }
}

}  // namespace rsicrc::impl
