#include "printable.h"

#include <utf8proc.h>

namespace rsicrc::impl {
namespace {

struct Character {
  std::size_t bytes;
  bool is_printable;
};

// Returns the first character of a text that is not empty. A byte that is not UTF-8 is a character.
Character first_character(std::string_view text) {
  utf8proc_int32_t codepoint = 0;
  const utf8proc_ssize_t read = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                                 static_cast<utf8proc_ssize_t>(text.size()), &codepoint);
  if (read <= 0) return {1, false};
  switch (utf8proc_category(codepoint)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return {static_cast<std::size_t>(read), false};
    default:
      return {static_cast<std::size_t>(read), true};
  }
}

}  // namespace

bool is_printable(std::string_view text) {
  while (!text.empty()) {
    const Character character = first_character(text);
    if (!character.is_printable) return false;
    text.remove_prefix(character.bytes);
  }
  return true;
}

std::string printable(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string shown;
  while (!text.empty()) {
    const Character character = first_character(text);
    const std::string_view bytes = text.substr(0, character.bytes);
    text.remove_prefix(character.bytes);
    if (character.is_printable) {
      shown += bytes;
    } else if (bytes == "\n" || bytes == "\r" || bytes == "\t") {
      shown += ' ';
    } else {
      for (const char byte : bytes) {
        const auto number = static_cast<unsigned char>(byte);
        shown += {'\\', 'x', kDigits[number >> 4], kDigits[number & 15]};
      }
    }
  }
  return shown;
}

}  // namespace rsicrc::impl
