// One thread's place to work in: the session's buffers, and the results of the last call.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model.h"
#include "preprocessing.h"
#include "search.h"

namespace rsicrc::impl {

class Context {
 public:
  explicit Context(std::shared_ptr<const Model> model);

  void caption(const rsicrc_pair* pairs, std::size_t count, const rsicrc_caption_options* options);
  void caption_at(std::size_t pair, std::size_t rank, rsicrc_sentence& sentence) const;
  void embed_pairs(const rsicrc_pair* pairs, std::size_t count, float* vectors, std::size_t room);
  void embed_texts(const char* const* texts, std::size_t count, float* vectors, std::size_t room);
  void score(const rsicrc_pair* pairs, std::size_t count, const char* const* texts, std::size_t text_count,
             double* log_probs, std::size_t room);

 private:
  using Sentences = std::vector<std::vector<std::int64_t>>;
  struct Sentence {
    std::string text;
    FinishedBeam beam;
  };

  // Refuses a second thread; a context's buffers are for one.
  class Turn {
   public:
    explicit Turn(std::atomic<bool>& taken);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    std::atomic<bool>& taken_;
  };

  // Resizes, crops and encodes pairs; returns their embeddings.
  const float* encode(const rsicrc_pair* pairs, std::size_t count);
  Sentences encode_sentences(const char* const* texts, std::size_t count) const;
  // Writes log p of every sentence on each of the `pairs` encoded last, [pairs, sentences].
  void log_probabilities(std::size_t pairs, const Sentences& sentences, double* log_probs);
  void check_pairs(const rsicrc_pair* pairs, std::size_t count) const;

  std::shared_ptr<const Model> model_;
  std::unique_ptr<Session> session_;
  Preprocessor preprocessor_;
  Search search_;
  std::vector<double> unchanged_;
  std::vector<Sentence> sentences_;
  std::vector<double> change_scores_;
  std::size_t captions_ = 0, n_best_ = 0;  // what of the two above is the last call's
  std::atomic<bool> taken_{false};
};

}  // namespace rsicrc::impl
