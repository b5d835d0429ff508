// Parses any bytes as tokenizer.json, and encodes the bytes after the first zero as a text.
#include <algorithm>
#include <string>

#include "error.h"
#include "vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rsicrc::impl;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const std::string document = bytes.substr(0, bytes.find('\0'));
  const std::string text = document.size() < size ? bytes.substr(document.size() + 1) : bytes;
  try {
    split_tokens(text);
  } catch (const Error&) {
  }
  try {
    const Vocabulary vocabulary = Vocabulary::parse(document, "fuzz");
    std::string decoded;
    vocabulary.decode(vocabulary.encode(text), decoded);
  } catch (const Error&) {
  }
  return 0;
}
