// rsicrc for C++17: the C interface of rsicrc.h with owners, containers and exceptions. Header only.
//
//   rsicrc::Model model("model");
//   rsicrc::Context context(model);
//   rsicrc::Pair pair{{before, width, height}, {after, width, height}};
//   std::cout << context.caption({pair}).front().text() << '\n';
#ifndef RSICRC_RSICRC_HPP
#define RSICRC_RSICRC_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "rsicrc/rsicrc.h"

namespace rsicrc {

// What every function here throws: the C interface's status and message.
class Error : public std::runtime_error {
 public:
  explicit Error(rsicrc_status status) : std::runtime_error(rsicrc_last_error()), status_(status) {}
  rsicrc_status status() const noexcept { return status_; }

 private:
  rsicrc_status status_;
};

inline void check(rsicrc_status status) {
  if (status != RSICRC_OK) throw Error(status);
}

// 8-bit RGB pixels, row by row, that stay the caller's.
struct Image : rsicrc_image {
  Image(const std::uint8_t* pixels, std::size_t width, std::size_t height)
      : rsicrc_image{pixels, 3 * width * height, width, height, 0} {}
  Image(const std::uint8_t* pixels, std::size_t bytes, std::size_t width, std::size_t height, std::size_t stride)
      : rsicrc_image{pixels, bytes, width, height, stride} {}
};

struct Pair : rsicrc_pair {
  Pair(const Image& before, const Image& after) : rsicrc_pair{before, after} {}
};

struct OpenOptions : rsicrc_open_options {
  OpenOptions() : rsicrc_open_options RSICRC_OPEN_OPTIONS_INIT {}
};

struct CaptionOptions : rsicrc_caption_options {
  CaptionOptions() : rsicrc_caption_options RSICRC_CAPTION_OPTIONS_INIT {}
};

// One sentence that the search finished.
struct Sentence {
  std::string text;
  double score;
  std::vector<double> token_log_probs;
  std::vector<std::int64_t> token_ids;
};

// A pair's sentences, best first; at least one.
struct Caption {
  std::vector<Sentence> n_best;
  double change_score;

  const std::string& text() const { return n_best.front().text; }
  double score() const { return n_best.front().score; }
};

// A model folder, open. For any number of threads.
class Model {
 public:
  explicit Model(const std::string& folder, const OpenOptions& options = {}) {
    rsicrc_model* model = nullptr;
    check(rsicrc_open(folder.c_str(), &options, &model));
    model_.reset(model);
  }

  rsicrc_info info() const {
    rsicrc_info info{};
    info.size = sizeof info;
    check(rsicrc_model_info(model_.get(), &info));
    return info;
  }

  rsicrc_model* get() const noexcept { return model_.get(); }

 private:
  struct Close {
    void operator()(rsicrc_model* model) const noexcept { rsicrc_close(model); }
  };
  std::unique_ptr<rsicrc_model, Close> model_;
};

// A place to work in. For one thread at a time.
class Context {
 public:
  explicit Context(const Model& model) : width_(model.info().embedding_width) {
    rsicrc_context* context = nullptr;
    check(rsicrc_context_open(model.get(), &context));
    context_.reset(context);
  }

  std::vector<Caption> caption(const std::vector<Pair>& pairs, const CaptionOptions& options = {}) {
    const std::vector<rsicrc_pair> plain(pairs.begin(), pairs.end());
    check(rsicrc_caption(context_.get(), plain.data(), plain.size(), &options));
    std::vector<Caption> captions;
    for (std::size_t pair = 0; pair < pairs.size(); ++pair) {
      Caption caption{{}, 0.0};
      for (std::size_t rank = 0; rank < options.n_best; ++rank) {
        rsicrc_sentence found{};
        found.size = sizeof found;
        check(rsicrc_caption_at(context_.get(), pair, rank, &found));
        caption.n_best.push_back({found.text,
                                  found.score,
                                  {found.token_log_probs, found.token_log_probs + found.token_count},
                                  {found.token_ids, found.token_ids + found.token_count}});
        caption.change_score = found.change_score;
      }
      captions.push_back(std::move(caption));
    }
    return captions;
  }

  // Returns one vector of length 1 after the other.
  std::vector<float> embed_pairs(const std::vector<Pair>& pairs) {
    const std::vector<rsicrc_pair> plain(pairs.begin(), pairs.end());
    std::vector<float> vectors(plain.size() * width_);
    check(rsicrc_embed_pairs(context_.get(), plain.data(), plain.size(), vectors.data(), vectors.size()));
    return vectors;
  }

  std::vector<float> embed_texts(const std::vector<std::string>& texts) {
    const std::vector<const char*> plain = pointers(texts);
    std::vector<float> vectors(plain.size() * width_);
    check(rsicrc_embed_texts(context_.get(), plain.data(), plain.size(), vectors.data(), vectors.size()));
    return vectors;
  }

  // Returns log p(text | pair), pair by pair.
  std::vector<double> score(const std::vector<Pair>& pairs, const std::vector<std::string>& texts) {
    const std::vector<rsicrc_pair> plain(pairs.begin(), pairs.end());
    const std::vector<const char*> sentences = pointers(texts);
    std::vector<double> log_probs(plain.size() * sentences.size());
    check(rsicrc_score(context_.get(), plain.data(), plain.size(), sentences.data(), sentences.size(), log_probs.data(),
                       log_probs.size()));
    return log_probs;
  }

 private:
  static std::vector<const char*> pointers(const std::vector<std::string>& texts) {
    std::vector<const char*> plain;
    for (const std::string& text : texts) plain.push_back(text.c_str());
    return plain;
  }

  struct Close {
    void operator()(rsicrc_context* context) const noexcept { rsicrc_context_close(context); }
  };
  std::unique_ptr<rsicrc_context, Close> context_;
  std::size_t width_;
};

}  // namespace rsicrc

#endif
