// Prepares an image of any size, stride and buffer length: the result is a square or an Error, and no byte outside the
// buffer is read.
#include <algorithm>
#include <cstring>
#include <vector>

#include "error.h"
#include "preprocessing.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rsicrc::impl;
  struct Header {
    std::uint16_t width, height, stride, side;
    std::uint32_t missing;
  } header{};
  if (size < sizeof header) return 0;
  std::memcpy(&header, data, sizeof header);
  data += sizeof header;
  size -= sizeof header;
  // A separate buffer of the declared size minus `missing` bytes, so that AddressSanitizer detects reads beyond its
  // end.
  const std::size_t row = header.stride == 0 ? 3 * std::size_t{header.width} : header.stride;
  const std::size_t whole = row * header.height;
  if (whole > (std::size_t{1} << 20)) return 0;
  std::vector<std::uint8_t> buffer(whole - std::min<std::size_t>(whole, header.missing));
  for (std::size_t i = 0; i < buffer.size() && size != 0; ++i) buffer[i] = data[i % size];
  const rsicrc_image image{buffer.data(), buffer.size(), header.width, header.height, header.stride};
  const std::size_t side = 1 + header.side % 128;
  try {
    check_pair({image, image}, 0);
    std::vector<std::uint8_t> square(3 * side * side);
    Preprocessor(side).prepare(image, square);
  } catch (const Error&) {
  }
  return 0;
}
