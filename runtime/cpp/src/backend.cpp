#include "backend.h"

#include "error.h"
#include "onnx_file.h"

namespace rsicrc::impl {
namespace {

// Selects the graphs in the manifest from which a backend computes a precision.
void set_precision(Manifest& manifest, const std::string& folder, const std::string& backend,
                   const std::string& precision) {
  if (precision == manifest.precision) return;
  const bool on_gpu = backend == "tensorrt";
  if (precision == "bf16" && !on_gpu) {
    // OpenVINO converts the exact graphs to bfloat16 itself.
  } else if (precision == "bf16" || (precision == "fp16" && on_gpu)) {
    manifest.choose(precision, folder);
  } else if (precision == "int8") {
    manifest.choose(on_gpu ? "int8-fp16" : "int8", folder);
  } else {
    fail(RSICRC_BACKEND, backend, " has no precision '", precision, "': choose fp32, bf16", on_gpu ? ", fp16" : "",
         " or int8");
  }
  manifest.precision = precision;
}

}  // namespace

std::unique_ptr<Backend> open_backend(const std::filesystem::path& folder, Manifest& manifest,
                                      const BackendOptions& options) {
  if (options.engines && !options.name.empty() && options.name != "tensorrt") {
    fail(RSICRC_INVALID_ARGUMENT, "engines is an option of tensorrt: leave it out, or choose that backend");
  }
  const bool any = options.name.empty();
#ifdef RSICRC_WITH_OPENVINO
  if ((any && !options.engines) || options.name == "openvino") {
    set_precision(manifest, folder.string(), "openvino", options.precision);
    check_graphs(folder, manifest);
    return open_openvino(folder, manifest, options);
  }
#endif
#ifdef RSICRC_WITH_TENSORRT
  if (any || options.name == "tensorrt") {
    set_precision(manifest, folder.string(), "tensorrt", options.precision);
    check_graphs(folder, manifest);
    return open_tensorrt(manifest, options);
  }
#endif
  if (any && !options.engines) fail(RSICRC_BACKEND, "this library was built without a backend");
  if (any) fail(RSICRC_BACKEND, "this library was built without tensorrt, which reads engines: build it again with it");
  if (options.name == "openvino" || options.name == "tensorrt") {
    fail(RSICRC_BACKEND, "this library was built without ", options.name, ": build it again with that backend");
  }
  fail(RSICRC_BACKEND, "no backend '", options.name, "': choose openvino or tensorrt");
}

}  // namespace rsicrc::impl
