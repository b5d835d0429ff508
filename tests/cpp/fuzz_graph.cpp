// Checks any bytes as an ONNX file: they are accepted or refused with an Error, and no byte outside the content is
// read.
#include <cstdint>
#include <string_view>

#include "error.h"
#include "onnx_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rsicrc::impl;
  static const std::map<std::string, FileRecord> files = {{"weights.data", {"", 4096}}};
  try {
    check_graph({reinterpret_cast<const char*>(data), size}, files);
  } catch (const Error&) {
  }
  return 0;
}
