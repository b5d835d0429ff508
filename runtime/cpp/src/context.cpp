#include "context.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "error.h"

namespace rsicrc::impl {
namespace {

// Sentences in one run of the text encoder or the scorer: enough to fill the cores, few enough to bound the memory.
constexpr std::size_t kRows = 256;

void require_room(const void* buffer, std::size_t room, std::size_t needed, const char* what) {
  if (buffer == nullptr) fail(RSICRC_INVALID_ARGUMENT, "no buffer (NULL) for the ", what, " that come out");
  if (room < needed) fail(RSICRC_INVALID_ARGUMENT, "room for ", room, " ", what, " where ", needed, " come out");
}

std::size_t product(std::size_t count, std::size_t width) {
  if (width != 0 && count > std::numeric_limits<std::size_t>::max() / width) {
    fail(RSICRC_INVALID_ARGUMENT, "a list of ", count, " is longer than any memory");
  }
  return count * width;
}

}  // namespace

Context::Turn::Turn(std::atomic<bool>& taken) : taken_(taken) {
  if (taken_.exchange(true)) {
    fail(RSICRC_INVALID_ARGUMENT, "this context is at work in another thread: open one for each thread");
  }
}

Context::Turn::~Turn() { taken_ = false; }

Context::Context(std::shared_ptr<const Model> model)
    : model_(std::move(model)), session_(model_->backend().session()), preprocessor_(model_->manifest().image_size) {}

void Context::caption(const rsicrc_pair* pairs, std::size_t count, const rsicrc_caption_options* asked) {
  const Turn turn(taken_);
  const SearchOptions options = resolve_options(model_->manifest(), asked);
  check_pairs(pairs, count);
  captions_ = 0;
  n_best_ = options.n_best;
  const std::size_t sentences = product(count, n_best_), no_change = model_->no_change().size();
  if (sentences_.size() < sentences) sentences_.resize(sentences);
  if (change_scores_.size() < count) change_scores_.resize(count);
  for (std::size_t start = 0; start < count; start += model_->max_batch()) {
    const std::size_t batch = std::min(count - start, model_->max_batch());
    encode(pairs + start, batch);
    if (unchanged_.size() < batch * no_change) unchanged_.resize(batch * no_change);
    log_probabilities(batch, model_->no_change(), unchanged_.data());
    search_.run(*session_, batch, options);
    for (std::size_t pair = 0; pair < batch; ++pair) {
      double probability = 0;
      for (std::size_t i = 0; i < no_change; ++i) probability += std::exp(unchanged_[pair * no_change + i]);
      change_scores_[start + pair] = no_change == 0 ? std::nan("") : std::clamp(1.0 - probability, 0.0, 1.0);
      for (std::size_t rank = 0; rank < n_best_; ++rank) {
        Sentence& sentence = sentences_[(start + pair) * n_best_ + rank];
        search_.follow(pair, rank, sentence.beam);
        model_->vocabulary().decode(sentence.beam.ids, sentence.text);
      }
    }
  }
  captions_ = count;
}

void Context::caption_at(std::size_t pair, std::size_t rank, rsicrc_sentence& sentence) const {
  if (sentence.size != sizeof(rsicrc_sentence)) {
    fail(RSICRC_INVALID_ARGUMENT, "a sentence of ", sentence.size, " bytes, not ", sizeof(rsicrc_sentence),
         ": set its size");
  }
  if (pair >= captions_ || rank >= n_best_) {
    fail(RSICRC_INVALID_ARGUMENT, "no sentence ", rank, " of pair ", pair, ": the last call gave ", captions_,
         " captions of ", n_best_, " sentences");
  }
  const Sentence& found = sentences_[pair * n_best_ + rank];
  sentence.text = found.text.c_str();
  sentence.score = found.beam.score;
  sentence.change_score = change_scores_[pair];
  sentence.token_count = found.beam.ids.size();
  sentence.token_log_probs = found.beam.log_probs.data();
  sentence.token_ids = found.beam.ids.data();
}

void Context::embed_pairs(const rsicrc_pair* pairs, std::size_t count, float* vectors, std::size_t room) {
  const Turn turn(taken_);
  const std::size_t width = model_->manifest().embedding_width;
  require_room(vectors, room, product(count, width), "floats");
  check_pairs(pairs, count);
  for (std::size_t start = 0; start < count; start += model_->max_batch()) {
    const std::size_t batch = std::min(count - start, model_->max_batch());
    std::copy_n(encode(pairs + start, batch), batch * width, vectors + start * width);
  }
}

void Context::embed_texts(const char* const* texts, std::size_t count, float* vectors, std::size_t room) {
  const Turn turn(taken_);
  const std::size_t width = model_->manifest().embedding_width;
  require_room(vectors, room, product(count, width), "floats");
  const Sentences sentences = encode_sentences(texts, count);
  for (std::size_t start = 0; start < count; start += kRows) {
    const std::size_t batch = std::min(count - start, kRows);
    std::size_t longest = 0;
    for (std::size_t i = 0; i < batch; ++i) longest = std::max(longest, sentences[start + i].size());
    std::int64_t* const ids = session_->texts(batch, longest);
    std::fill_n(ids, batch * longest, kPad);
    for (std::size_t i = 0; i < batch; ++i) {
      std::copy(sentences[start + i].begin(), sentences[start + i].end(), ids + i * longest);
    }
    std::copy_n(session_->encode_texts(), batch * width, vectors + start * width);
  }
}

void Context::score(const rsicrc_pair* pairs, std::size_t count, const char* const* texts, std::size_t text_count,
                    double* log_probs, std::size_t room) {
  const Turn turn(taken_);
  require_room(log_probs, room, product(count, text_count), "doubles");
  check_pairs(pairs, count);
  const Sentences sentences = encode_sentences(texts, text_count);
  for (std::size_t start = 0; start < count; start += model_->max_batch()) {
    const std::size_t batch = std::min(count - start, model_->max_batch());
    encode(pairs + start, batch);
    log_probabilities(batch, sentences, log_probs + start * text_count);
  }
}

const float* Context::encode(const rsicrc_pair* pairs, std::size_t count) {
  const std::size_t square = 3 * model_->manifest().image_size * model_->manifest().image_size;
  std::uint8_t* room = session_->images(count);
  for (std::size_t i = 0; i < count; ++i, room += 2 * square) {
    preprocessor_.prepare(pairs[i].before, room);
    preprocessor_.prepare(pairs[i].after, room + square);
  }
  return session_->encode_images();
}

Context::Sentences Context::encode_sentences(const char* const* texts, std::size_t count) const {
  if (texts == nullptr || count == 0) fail(RSICRC_INVALID_ARGUMENT, "no texts");
  Sentences sentences;
  for (std::size_t i = 0; i < count; ++i) {
    if (texts[i] == nullptr) fail(RSICRC_INVALID_ARGUMENT, "text ", i, " (counted from 0) is NULL");
    sentences.push_back(model_->vocabulary().encode(texts[i]));
  }
  return sentences;
}

void Context::log_probabilities(std::size_t pairs, const Sentences& sentences, double* log_probs) {
  const std::size_t step = std::max<std::size_t>(kRows / pairs, 1);
  for (std::size_t start = 0; start < sentences.size(); start += step) {
    const std::size_t rows = std::min(sentences.size() - start, step);
    std::size_t longest = 0;
    for (std::size_t row = 0; row < rows; ++row) longest = std::max(longest, sentences[start + row].size());
    std::int64_t* const ids = session_->sentences(rows, longest);
    std::fill_n(ids, rows * longest, kPad);
    for (std::size_t row = 0; row < rows; ++row) {
      std::copy(sentences[start + row].begin(), sentences[start + row].end(), ids + row * longest);
    }
    const float* words = session_->score();
    for (std::size_t pair = 0; pair < pairs; ++pair) {
      for (std::size_t row = 0; row < rows; ++row, words += longest - 1) {
        double sum = 0;
        for (std::size_t i = 0; i < longest - 1; ++i) sum += static_cast<double>(words[i]);
        log_probs[pair * sentences.size() + start + row] = sum;
      }
    }
  }
}

void Context::check_pairs(const rsicrc_pair* pairs, std::size_t count) const {
  if (pairs == nullptr || count == 0) fail(RSICRC_INVALID_ARGUMENT, "no pairs");
  for (std::size_t i = 0; i < count; ++i) check_pair(pairs[i], i);
}

}  // namespace rsicrc::impl
