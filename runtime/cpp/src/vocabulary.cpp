#include "vocabulary.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "error.h"
#include "files.h"
#include "printable.h"

namespace rsicrc::impl {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxBytes = std::size_t{1} << 26;
constexpr std::size_t kMaxLength = std::size_t{1} << 24;

// The normalizer that tokenizer.cpp implements, as rsicrc/text/vocabulary.py writes it. Another one needs other code.
const Json& known_normalizer() {
  static const Json normalizer = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Lowercase"}},
        {{"type", "Replace"}, {"pattern", {{"Regex", R"([^\p{L}\p{M}\p{N}'\-\s])"}}}, {"content", " "}},
        {{"type", "Replace"},
         {"pattern", {{"Regex", R"((?<![\p{L}\p{M}\p{N}])['\-]+|['\-]+(?![\p{L}\p{N}]))"}}},
         {"content", " "}}}}};
  return normalizer;
}

void require_known(const Json& document) {
  const Json& model = document.at("model");
  const Json& before_and_after = document.at("post_processor").at("single");
  const bool adds_start_and_end = before_and_after.size() == 3 && before_and_after[0].contains("SpecialToken") &&
                                  before_and_after[0]["SpecialToken"].at("id") == "START" &&
                                  before_and_after[2].contains("SpecialToken") &&
                                  before_and_after[2]["SpecialToken"].at("id") == "END";
  if (model.at("type") != "WordLevel" || model.at("unk_token") != "UNK" || !document.at("added_tokens").empty() ||
      document.at("normalizer") != known_normalizer() ||
      document.at("pre_tokenizer") != Json{{"type", "WhitespaceSplit"}} || !adds_start_and_end) {
    fail(RSICRC_BAD_MODEL, "describes a tokenizer that this version of the library does not know");
  }
}

}  // namespace

Vocabulary Vocabulary::parse(const std::string& text, const std::string& path) {
  try {
    const Json document = Json::parse(text);
    require_known(document);
    Vocabulary vocabulary;
    const Json& longest = document.at("truncation").at("max_length");
    if (!longest.is_number_unsigned() || longest.get<std::uint64_t>() < 3 ||
        longest.get<std::uint64_t>() > kMaxLength) {
      fail(RSICRC_BAD_MODEL, "truncation.max_length is out of range");
    }
    vocabulary.max_length_ = longest.get<std::size_t>();
    const Json& tokens = document.at("model").at("vocab");
    vocabulary.tokens_.resize(tokens.size());
    for (const auto& [token, id] : tokens.items()) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= tokens.size() || token.empty() ||
          !vocabulary.tokens_[id.get<std::size_t>()].empty()) {
        fail(RSICRC_BAD_MODEL, "the token ids are not 0, 1, 2, …");
      }
      if (!is_printable(token)) fail(RSICRC_BAD_MODEL, "a word has a control character: ", token);
      vocabulary.tokens_[id.get<std::size_t>()] = token;
      vocabulary.ids_.emplace(token, id.get<std::int64_t>());
    }
    const std::vector<std::string> special = {"PAD", "START", "UNK", "END"};
    if (tokens.size() < special.size() || !std::equal(special.begin(), special.end(), vocabulary.tokens_.begin())) {
      fail(RSICRC_BAD_MODEL, "a vocabulary begins with PAD, START, UNK, END");
    }
    return vocabulary;
  } catch (const Json::exception& error) {
    fail(RSICRC_BAD_MODEL, path, ": not a vocabulary (", error.what(), "): export the model again");
  } catch (const Error& error) {
    fail(error.status(), path, ": ", error.what(), ": export the model again");
  }
}

Vocabulary Vocabulary::load(const std::filesystem::path& path) {
  return parse(read_file(path, kMaxBytes), path.string());
}

std::vector<std::int64_t> Vocabulary::encode(std::string_view text) const {
  const std::vector<std::string> tokens = split_tokens(text);
  if (tokens.empty()) {
    fail(RSICRC_INVALID_ARGUMENT, "the text '", text, "' has no tokens");
  }
  std::vector<std::int64_t> ids = {kStart};
  for (std::size_t i = 0; i < std::min(tokens.size(), max_length_ - 2); ++i) {
    const auto found = ids_.find(tokens[i]);
    ids.push_back(found == ids_.end() ? kUnknown : found->second);
  }
  ids.push_back(kEnd);
  return ids;
}

void Vocabulary::decode(const std::vector<std::int64_t>& ids, std::string& text) const {
  text.clear();
  for (const std::int64_t id : ids) {
    if (id == kEnd) break;
    if (id == kPad || id == kStart) continue;
    if (id < 0 || static_cast<std::size_t>(id) >= tokens_.size()) {
      fail(RSICRC_BAD_MODEL, "the decoder chose token ", id, ", which is not in the vocabulary");
    }
    if (!text.empty()) text += ' ';
    text += tokens_[static_cast<std::size_t>(id)];
  }
}

}  // namespace rsicrc::impl
