// The C++17 interface of rsicrc: the C interface of rsicrc.h with owners, containers and exceptions. Header only.
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

// The exception that every function below throws on failure, with the status and message of the C interface.
class Error : public std::runtime_error {
 public:
  explicit Error(rsicrc_status status) : std::runtime_error(rsicrc_last_error()), status_(status) {}
  rsicrc_status status() const noexcept { return status_; }

 private:
  rsicrc_status status_;
};

// Throws an Error unless the status is RSICRC_OK.
inline void check(rsicrc_status status) {
  if (status != RSICRC_OK) throw Error(status);
}

// A view of 8-bit RGB pixels in rows from top to bottom. It does not own the pixels. `stride` is the number of bytes
// from the beginning of one row to the next, and `bytes` the size of the buffer.
struct Image : rsicrc_image {
  Image(const std::uint8_t* pixels, std::size_t width, std::size_t height)
      : rsicrc_image{pixels, 3 * width * height, width, height, 0} {}
  Image(const std::uint8_t* pixels, std::size_t bytes, std::size_t width, std::size_t height, std::size_t stride)
      : rsicrc_image{pixels, bytes, width, height, stride} {}
};

// Two images of one place on the same grid, of the same size. It does not own the pixels.
struct Pair : rsicrc_pair {
  Pair(const Image& before, const Image& after) : rsicrc_pair{before, after} {}
};

// Options of Model, with their defaults; rsicrc.h describes them.
struct OpenOptions : rsicrc_open_options {
  OpenOptions() : rsicrc_open_options RSICRC_OPEN_OPTIONS_INIT {}
};

// Options of Context::caption, with their defaults; rsicrc.h describes them.
struct CaptionOptions : rsicrc_caption_options {
  CaptionOptions() : rsicrc_caption_options RSICRC_CAPTION_OPTIONS_INIT {}
};

// A sentence that the beam search finished.
struct Sentence {
  std::string text;                     // UTF-8
  double score;                         // sum of the log-probabilities / length^length_penalty
  std::vector<double> token_log_probs;  // natural logarithms, one for each of token_ids
  std::vector<std::int64_t> token_ids;  // without START, with END unless cut at the maximum length
};

// The sentences of a pair.
struct Caption {
  std::vector<Sentence> n_best;  // best first; at least one
  double change_score;           // 1 - p(a no-change sentence), 0 to 1; NaN if the model lists none

  const std::string& text() const { return n_best.front().text; }
  double score() const { return n_best.front().score; }
};

// An opened model folder. Any number of threads may share it. Movable, not copyable.
class Model {
 public:
  explicit Model(const std::string& folder, const OpenOptions& options = {}) {
    rsicrc_model* model = nullptr;
    check(rsicrc_open(folder.c_str(), &options, &model));
    model_.reset(model);
  }

  // Returns the properties of the model. The strings are valid as long as the model.
  rsicrc_info info() const {
    rsicrc_info info{};
    info.size = sizeof info;
    check(rsicrc_model_info(model_.get(), &info));
    return info;
  }

  // Returns the handle for functions of the C interface. The model remains its owner.
  rsicrc_model* get() const noexcept { return model_.get(); }

 private:
  struct Close {
    void operator()(rsicrc_model* model) const noexcept { rsicrc_close(model); }
  };
  std::unique_ptr<rsicrc_model, Close> model_;
};

// The buffers of one thread. One thread at a time may use it. Movable, not copyable. Results are copies.
class Context {
 public:
  explicit Context(const Model& model) : width_(model.info().embedding_width) {
    rsicrc_context* context = nullptr;
    check(rsicrc_context_open(model.get(), &context));
    context_.reset(context);
  }

  // Returns a caption for each pair. `options` may set `n_best` from 1 to the number of beams.
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

  // Returns the embeddings, [pairs, embedding_width], each of Euclidean length 1.
  std::vector<float> embed_pairs(const std::vector<Pair>& pairs) {
    const std::vector<rsicrc_pair> plain(pairs.begin(), pairs.end());
    std::vector<float> vectors(plain.size() * width_);
    check(rsicrc_embed_pairs(context_.get(), plain.data(), plain.size(), vectors.data(), vectors.size()));
    return vectors;
  }

  // Returns the embeddings, [texts, embedding_width], each of Euclidean length 1. Texts are UTF-8.
  std::vector<float> embed_texts(const std::vector<std::string>& texts) {
    const std::vector<const char*> plain = pointers(texts);
    std::vector<float> vectors(plain.size() * width_);
    check(rsicrc_embed_texts(context_.get(), plain.data(), plain.size(), vectors.data(), vectors.size()));
    return vectors;
  }

  // Returns log p(text | pair), [pairs, texts].
  std::vector<double> score(const std::vector<Pair>& pairs, const std::vector<std::string>& texts) {
    const std::vector<rsicrc_pair> plain(pairs.begin(), pairs.end());
    const std::vector<const char*> strings = pointers(texts);
    std::vector<double> log_probs(plain.size() * strings.size());
    check(rsicrc_score(context_.get(), plain.data(), plain.size(), strings.data(), strings.size(), log_probs.data(),
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
