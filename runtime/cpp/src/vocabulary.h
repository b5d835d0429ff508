// The word-level tokenizer of tokenizer.json: sentences to ids and back. See rsicrc/vocabulary.py.
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

// Returns a sentence's words: lower case, without punctuation but for hyphens and apostrophes inside a word.
// Throws INVALID_ARGUMENT where the sentence is not UTF-8.
std::vector<std::string> split_words(std::string_view sentence);

class Vocabulary {
 public:
  // Reads a tokenizer's text; `path` is for messages. Throws BAD_MODEL, also for a tokenizer that works differently
  // from the one built in here.
  static Vocabulary parse(const std::string& text, const std::string& path);
  static Vocabulary load(const std::filesystem::path& path);

  std::size_t size() const { return words_.size(); }
  // Longest sequence of ids, START and END included; `encode` cuts to it.
  std::size_t max_length() const { return max_length_; }

  // Returns START … END; words that are not in the vocabulary are UNK. Throws INVALID_ARGUMENT for an empty sentence.
  std::vector<std::int64_t> encode(std::string_view sentence) const;
  // Sets `text` to the words of `ids` up to END. Keeps the string's memory.
  void decode(const std::vector<std::int64_t>& ids, std::string& text) const;

 private:
  std::vector<std::string> words_;
  std::unordered_map<std::string, std::int64_t> ids_;
  std::size_t max_length_ = 0;
};

}  // namespace rsicrc::impl
