#include "context.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "error.h"
#include "struct_size.h"
#include "tuning.h"

namespace rsicrc::impl {
namespace {

// Throws INVALID_ARGUMENT unless a caller's buffer can hold `needed` elements.
template <typename Number>
void require_capacity(Span<Number> buffer, std::size_t needed, const char* unit) {
  if (buffer.data() == nullptr) fail(RSICRC_INVALID_ARGUMENT, "the buffer for the results is NULL");
  if (buffer.size() < needed) {
    fail(RSICRC_INVALID_ARGUMENT, "the buffer has a capacity of ", buffer.size(), " ", unit, ", but the results are ",
         needed);
  }
}

std::size_t product(std::size_t count, std::size_t width) {
  if (width != 0 && count > std::numeric_limits<std::size_t>::max() / width) {
    fail(RSICRC_INVALID_ARGUMENT, "a list of ", count, " elements does not fit into memory");
  }
  return count * width;
}

void check_pairs(Span<const rsicrc_pair> pairs) {
  if (pairs.data() == nullptr || pairs.empty()) fail(RSICRC_INVALID_ARGUMENT, "no pairs");
  for (std::size_t i = 0; i < pairs.size(); ++i) check_pair(pairs[i], i);
}

// Writes token sequences as rows of a buffer [texts, length], filled up with PAD.
void pad(Span<const std::vector<std::int64_t>> texts, std::size_t length, Span<std::int64_t> buffer) {
  std::fill(buffer.begin(), buffer.end(), kPad);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::copy(texts[i].begin(), texts[i].end(), buffer.begin() + i * length);
  }
}

std::size_t longest(Span<const std::vector<std::int64_t>> texts) {
  std::size_t length = 0;
  for (const std::vector<std::int64_t>& text : texts) length = std::max(length, text.size());
  return length;
}

}  // namespace

Context::ExclusiveUse::ExclusiveUse(std::atomic<bool>& in_use) : in_use_(in_use) {
  if (in_use_.exchange(true)) {
    fail(RSICRC_INVALID_ARGUMENT, "this context is in use in another thread: open one context for each thread");
  }
}

Context::ExclusiveUse::~ExclusiveUse() { in_use_ = false; }

Context::Context(std::shared_ptr<const Model> model)
    : model_(std::move(model)), session_(model_->backend().session()), preprocessor_(model_->manifest().image_size) {}

void Context::caption(Span<const rsicrc_pair> pairs, const rsicrc_caption_options* given) {
  const ExclusiveUse use(in_use_);
  const BeamSearchOptions options = resolve_options(model_->manifest(), given);
  check_pairs(pairs);
  captions_ = 0;
  n_best_ = options.n_best;
  const std::size_t sentences = product(pairs.size(), n_best_);
  const std::size_t no_change = model_->no_change().size();
  if (sentences_.size() < sentences) sentences_.resize(sentences);
  if (change_scores_.size() < pairs.size()) change_scores_.resize(pairs.size());
  for (std::size_t start = 0; start < pairs.size(); start += model_->max_batch()) {
    const std::size_t batch = std::min(pairs.size() - start, model_->max_batch());
    encode(pairs.subspan(start, batch));
    if (no_change_log_probs_.size() < batch * no_change) no_change_log_probs_.resize(batch * no_change);
    log_probabilities(batch, model_->no_change(), no_change_log_probs_);
    beam_search_.run(*session_, batch, options);
    for (std::size_t pair = 0; pair < batch; ++pair) {
      double probability = 0;
      for (std::size_t i = 0; i < no_change; ++i) probability += std::exp(no_change_log_probs_[pair * no_change + i]);
      change_scores_[start + pair] = no_change == 0 ? std::nan("") : std::clamp(1.0 - probability, 0.0, 1.0);
      for (std::size_t rank = 0; rank < n_best_; ++rank) {
        Sentence& sentence = sentences_[(start + pair) * n_best_ + rank];
        beam_search_.trace_back(pair, rank, sentence.beam);
        model_->vocabulary().decode(sentence.beam.ids, sentence.text);
      }
    }
  }
  captions_ = pairs.size();
}

void Context::caption_at(std::size_t pair, std::size_t rank, rsicrc_sentence& sentence) const {
  if (pair >= captions_ || rank >= n_best_) {
    fail(RSICRC_INVALID_ARGUMENT, "no sentence ", rank, " of pair ", pair, ": the last call gave ", captions_,
         " captions of ", n_best_, " sentences");
  }
  const Sentence& found = sentences_[pair * n_best_ + rank];
  rsicrc_sentence full{};
  full.text = found.text.c_str();
  full.score = found.beam.score;
  full.change_score = change_scores_[pair];
  full.token_count = found.beam.ids.size();
  full.token_log_probs = found.beam.log_probs.data();
  full.token_ids = found.beam.ids.data();
  write_struct("rsicrc_sentence", full, sentence);
}

void Context::embed_pairs(Span<const rsicrc_pair> pairs, Span<float> vectors) {
  const ExclusiveUse use(in_use_);
  const std::size_t width = model_->manifest().embedding_width;
  require_capacity(vectors, product(pairs.size(), width), "floats");
  check_pairs(pairs);
  for (std::size_t start = 0; start < pairs.size(); start += model_->max_batch()) {
    const std::size_t batch = std::min(pairs.size() - start, model_->max_batch());
    const Span<const float> embeddings = encode(pairs.subspan(start, batch));
    std::copy(embeddings.begin(), embeddings.end(), vectors.begin() + start * width);
  }
}

void Context::embed_texts(Span<const char* const> texts, Span<float> vectors) {
  const ExclusiveUse use(in_use_);
  const std::size_t width = model_->manifest().embedding_width;
  require_capacity(vectors, product(texts.size(), width), "floats");
  const std::vector<TokenIds> tokenized = tokenize(texts);
  for (std::size_t start = 0; start < tokenized.size(); start += kTextsPerRun) {
    const auto batch = Span<const TokenIds>(tokenized).subspan(start, std::min(tokenized.size() - start, kTextsPerRun));
    const std::size_t length = longest(batch);
    pad(batch, length, session_->text_buffer(batch.size(), length));
    const Span<const float> embeddings = session_->encode_texts();
    std::copy(embeddings.begin(), embeddings.end(), vectors.begin() + start * width);
  }
}

void Context::score(Span<const rsicrc_pair> pairs, Span<const char* const> texts, Span<double> log_probs) {
  const ExclusiveUse use(in_use_);
  require_capacity(log_probs, product(pairs.size(), texts.size()), "doubles");
  check_pairs(pairs);
  const std::vector<TokenIds> tokenized = tokenize(texts);
  for (std::size_t start = 0; start < pairs.size(); start += model_->max_batch()) {
    const std::size_t batch = std::min(pairs.size() - start, model_->max_batch());
    encode(pairs.subspan(start, batch));
    log_probabilities(batch, tokenized, log_probs.subspan(start * texts.size(), batch * texts.size()));
  }
}

Span<const float> Context::encode(Span<const rsicrc_pair> pairs) {
  const std::size_t square = 3 * model_->manifest().image_size * model_->manifest().image_size;
  const Span<std::uint8_t> images = session_->image_buffer(pairs.size());
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    preprocessor_.prepare(pairs[i].before, images.subspan(2 * i * square, square));
    preprocessor_.prepare(pairs[i].after, images.subspan((2 * i + 1) * square, square));
  }
  return session_->encode_images();
}

std::vector<Context::TokenIds> Context::tokenize(Span<const char* const> texts) const {
  if (texts.data() == nullptr || texts.empty()) fail(RSICRC_INVALID_ARGUMENT, "no texts");
  std::vector<TokenIds> tokenized;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts[i] == nullptr) fail(RSICRC_INVALID_ARGUMENT, "text ", i, " (counted from 0) is NULL");
    tokenized.push_back(model_->vocabulary().encode(texts[i]));
  }
  return tokenized;
}

void Context::log_probabilities(std::size_t pairs, Span<const TokenIds> texts, Span<double> log_probs) {
  const std::size_t step = std::max<std::size_t>(kTextsPerRun / pairs, 1);
  for (std::size_t start = 0; start < texts.size(); start += step) {
    const Span<const TokenIds> batch = texts.subspan(start, std::min(texts.size() - start, step));
    const std::size_t length = longest(batch);
    pad(batch, length, session_->scorer_buffer(batch.size(), length));
    const float* token_log_probs = session_->score().data();
    for (std::size_t pair = 0; pair < pairs; ++pair) {
      for (std::size_t i = 0; i < batch.size(); ++i, token_log_probs += length - 1) {
        double& log_prob_of_text = log_probs[pair * texts.size() + start + i];
        log_prob_of_text =
            std::accumulate(token_log_probs, token_log_probs + length - 1, 0.0,
                            [](double sum, float log_prob) { return sum + static_cast<double>(log_prob); });
        require_number(log_prob_of_text, "the log-probability of a sentence");
      }
    }
  }
}

}  // namespace rsicrc::impl
