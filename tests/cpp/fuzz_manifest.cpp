// Parses any bytes as manifest.json: the result is a manifest or an Error, nothing else.
#include <string>

#include "error.h"
#include "manifest.h"
#include "session.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rsicrc::impl;
  try {
    const Manifest manifest = Manifest::parse(std::string(reinterpret_cast<const char*>(data), size), "fuzz");
    for (const StateTensor& tensor : search_state(manifest.graph(Graph::kDecoder)).tensors) {
      element_count(concrete_shape(tensor.spec, Sizes::of_search(32, 5, manifest.max_length)));
    }
  } catch (const Error&) {
  }
  return 0;
}
