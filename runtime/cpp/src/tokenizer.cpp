// Splits a text into tokens, as the regular expressions of tokenizer.json's normalizer specify.
#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "error.h"
#include "vocabulary.h"

namespace rsicrc::impl {
namespace {

using Codepoint = utf8proc_int32_t;

enum class Kind { kSeparator, kLetterOrNumber, kMark, kJoiner };

// White space and punctuation are separators. A hyphen or an apostrophe may be part of a token.
Kind kind_of(Codepoint codepoint) {
  if (codepoint == '\'' || codepoint == '-') return Kind::kJoiner;
  switch (utf8proc_category(codepoint)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Kind::kLetterOrNumber;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return Kind::kMark;
    default:
      return Kind::kSeparator;
  }
}

std::vector<Codepoint> lower_case(std::string_view text) {
  std::vector<Codepoint> codepoints;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    Codepoint codepoint = 0;
    const utf8proc_ssize_t read = utf8proc_iterate(bytes, left, &codepoint);
    if (read <= 0) fail(RSICRC_INVALID_ARGUMENT, "a text is not valid UTF-8");
    bytes += read;
    left -= read;
    if (codepoint == 0x130) {  // the only letter whose lower case has two code points
      codepoints.push_back('i');
      codepoints.push_back(0x307);
    } else {
      codepoints.push_back(utf8proc_tolower(codepoint));
    }
  }
  return codepoints;
}

// Returns true if the hyphen or apostrophe at a position is part of a token: a single one, after a letter, number or
// mark, and before a letter or number.
bool joins(const std::vector<Codepoint>& text, std::size_t at) {
  if (at == 0 || at + 1 == text.size()) return false;
  const Kind before = kind_of(text[at - 1]);
  return (before == Kind::kLetterOrNumber || before == Kind::kMark) && kind_of(text[at + 1]) == Kind::kLetterOrNumber;
}

}  // namespace

std::vector<std::string> split_tokens(std::string_view text) {
  const std::vector<Codepoint> codepoints = lower_case(text);
  std::vector<std::string> tokens;
  bool in_token = false;
  for (std::size_t i = 0; i < codepoints.size(); ++i) {
    const Kind kind = kind_of(codepoints[i]);
    const bool separates = kind == Kind::kSeparator || (kind == Kind::kJoiner && !joins(codepoints, i));
    if (!separates) {
      if (!in_token) tokens.emplace_back();
      std::array<utf8proc_uint8_t, 4> bytes{};
      const utf8proc_ssize_t count = utf8proc_encode_char(codepoints[i], bytes.data());
      tokens.back().append(bytes.begin(), bytes.begin() + count);
    }
    in_token = !separates;
  }
  return tokens;
}

}  // namespace rsicrc::impl
