// The buffers and the last results of one thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "beam_search.h"
#include "model.h"
#include "preprocessing.h"
#include "span.h"

namespace rsicrc::impl {

// Implements the functions of the C interface that take a context; rsicrc.h documents them.
class Context {
 public:
  explicit Context(std::shared_ptr<const Model> model);

  void caption(Span<const rsicrc_pair> pairs, const rsicrc_caption_options* options);
  void caption_at(std::size_t pair, std::size_t rank, rsicrc_sentence& sentence) const;
  void embed_pairs(Span<const rsicrc_pair> pairs, Span<float> vectors);
  void embed_texts(Span<const char* const> texts, Span<float> vectors);
  void score(Span<const rsicrc_pair> pairs, Span<const char* const> texts, Span<double> log_probs);

 private:
  using TokenIds = std::vector<std::int64_t>;
  struct Sentence {
    std::string text;
    FinishedBeam beam;
  };

  // Refuses a second thread while a call is running: a context's buffers serve one thread.
  class ExclusiveUse {
   public:
    explicit ExclusiveUse(std::atomic<bool>& in_use);
    ~ExclusiveUse();
    ExclusiveUse(const ExclusiveUse&) = delete;
    ExclusiveUse& operator=(const ExclusiveUse&) = delete;

   private:
    std::atomic<bool>& in_use_;
  };

  // Resizes, crops and encodes pairs; returns their embeddings, [pairs, embedding_width].
  Span<const float> encode(Span<const rsicrc_pair> pairs);
  std::vector<TokenIds> tokenize(Span<const char* const> texts) const;
  // Writes log p of every text given each of the `pairs` encoded last, [pairs, texts].
  void log_probabilities(std::size_t pairs, Span<const TokenIds> texts, Span<double> log_probs);

  std::shared_ptr<const Model> model_;
  std::unique_ptr<Session> session_;
  Preprocessor preprocessor_;
  BeamSearch beam_search_;
  std::vector<double> no_change_log_probs_;
  std::vector<Sentence> sentences_;        // [pairs, n_best]
  std::vector<double> change_scores_;      // [pairs]
  std::size_t captions_ = 0, n_best_ = 0;  // of the last call: how much of the two vectors is valid
  std::atomic<bool> in_use_{false};
};

}  // namespace rsicrc::impl
