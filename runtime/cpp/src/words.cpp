// From a sentence to its words, as the normalizer of tokenizer.json says it in regular expressions.
#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "error.h"
#include "vocabulary.h"

namespace rsicrc::impl {
namespace {

using Codepoint = utf8proc_int32_t;

enum class Kind { kSeparator, kLetterOrNumber, kMark, kJoiner };

// Space and punctuation separate alike; a hyphen or an apostrophe may join.
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

std::vector<Codepoint> lower_case(std::string_view sentence) {
  std::vector<Codepoint> codepoints;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(sentence.data());
  auto left = static_cast<utf8proc_ssize_t>(sentence.size());
  while (left > 0) {
    Codepoint codepoint = 0;
    const utf8proc_ssize_t read = utf8proc_iterate(bytes, left, &codepoint);
    if (read <= 0) fail(RSICRC_INVALID_ARGUMENT, "a sentence is not valid UTF-8");
    bytes += read;
    left -= read;
    if (codepoint == 0x130) {  // the one capital whose lower case is two characters
      codepoints.push_back('i');
      codepoints.push_back(0x307);
    } else {
      codepoints.push_back(utf8proc_tolower(codepoint));
    }
  }
  return codepoints;
}

// A hyphen or an apostrophe belongs to a word only alone, after a letter, number or mark and before a letter or number.
bool joins(const std::vector<Codepoint>& text, std::size_t at) {
  if (at == 0 || at + 1 == text.size()) return false;
  const Kind before = kind_of(text[at - 1]);
  return (before == Kind::kLetterOrNumber || before == Kind::kMark) && kind_of(text[at + 1]) == Kind::kLetterOrNumber;
}

}  // namespace

std::vector<std::string> split_words(std::string_view sentence) {
  const std::vector<Codepoint> text = lower_case(sentence);
  std::vector<std::string> words;
  bool inside = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const Kind kind = kind_of(text[i]);
    const bool separates = kind == Kind::kSeparator || (kind == Kind::kJoiner && !joins(text, i));
    if (!separates) {
      if (!inside) words.emplace_back();
      std::array<utf8proc_uint8_t, 4> bytes{};
      const utf8proc_ssize_t count = utf8proc_encode_char(text[i], bytes.data());
      words.back().append(bytes.begin(), bytes.begin() + count);
    }
    inside = !separates;
  }
  return words;
}

}  // namespace rsicrc::impl
