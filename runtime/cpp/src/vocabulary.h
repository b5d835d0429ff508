// The word-level tokenizer of tokenizer.json: from text to token ids and back. See rsicrc/text/vocabulary.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rsicrc::impl {

constexpr std::int64_t kPad = 0, kStart = 1, kUnknown = 2, kEnd = 3;

// Returns the tokens of a text: lower case, split at white space and punctuation, with hyphens and apostrophes inside a
// token. Throws INVALID_ARGUMENT if the text is not UTF-8.
std::vector<std::string> split_tokens(std::string_view text);

class Vocabulary {
 public:
  // Parses the text of a tokenizer.json; `path` is for messages. Throws BAD_MODEL, also if the file describes another
  // normalizer or model than this library implements.
  static Vocabulary parse(const std::string& text, const std::string& path);
  // Reads and parses a file. Throws BAD_MODEL.
  static Vocabulary load(const std::filesystem::path& path);

  std::size_t size() const { return tokens_.size(); }
  // Maximum length of a token sequence, START and END included. `encode` truncates longer texts.
  std::size_t max_length() const { return max_length_; }

  // Returns the token ids of a text, from START to END; unknown tokens are UNK. Throws INVALID_ARGUMENT for a text
  // without tokens.
  std::vector<std::int64_t> encode(std::string_view text) const;
  // Writes the tokens of `ids` up to END into `text`, separated by spaces. Allocates nothing if its capacity suffices.
  void decode(const std::vector<std::int64_t>& ids, std::string& text) const;

 private:
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, std::int64_t> ids_;
  std::size_t max_length_ = 0;
};

}  // namespace rsicrc::impl
