#include "search.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "error.h"

namespace rsicrc::impl {
namespace {

// When no more than 3 of 4 pairs of a batch are unfinished, the others leave it.
constexpr std::size_t kEnough = 3, kOf = 4;

template <typename... Vectors>
void reserve(std::size_t size, Vectors&... vectors) {
  (..., (vectors.size() < size ? vectors.resize(size) : void()));
}

}  // namespace

SearchOptions resolve_options(const Manifest& manifest, const rsicrc_caption_options* asked) {
  rsicrc_caption_options defaults = RSICRC_CAPTION_OPTIONS_INIT;
  if (asked == nullptr) asked = &defaults;
  if (asked->size != sizeof(rsicrc_caption_options)) {
    fail(RSICRC_INVALID_ARGUMENT, "caption options of ", asked->size, " bytes, not ", sizeof(rsicrc_caption_options),
         ": begin with RSICRC_CAPTION_OPTIONS_INIT");
  }
  SearchOptions options;
  options.beams = asked->beams == 0 ? manifest.search.beams : asked->beams;
  options.n_best = asked->n_best;
  options.length_penalty = asked->use_length_penalty != 0 ? asked->length_penalty : manifest.search.length_penalty;
  options.early_stopping = asked->early_stopping < 0 ? manifest.search.early_stopping : asked->early_stopping != 0;
  options.max_length = asked->max_length == 0 ? manifest.max_length : asked->max_length;
  // Each step keeps the best 2 * beams continuations, and the first step has one beam to take them from.
  const std::size_t most = manifest.vocabulary_size / 2;
  if (options.beams > most) {
    fail(RSICRC_INVALID_ARGUMENT, "beams must be from 1 to ", most, " for this model, not ", options.beams);
  }
  if (options.n_best < 1 || options.n_best > options.beams) {
    fail(RSICRC_INVALID_ARGUMENT, "n_best must be from 1 to beams (", options.beams, "), not ", options.n_best);
  }
  // `generate` is greedy for one beam, whatever early_stopping says.
  if (options.beams == 1) options.early_stopping = true;
  if (!std::isfinite(options.length_penalty)) fail(RSICRC_INVALID_ARGUMENT, "length_penalty must be a finite number");
  if (options.max_length < 2 || options.max_length > manifest.max_length) {
    fail(RSICRC_INVALID_ARGUMENT, "max_length must be from 2 to ", manifest.max_length, ", not ", options.max_length);
  }
  return options;
}

void Search::run(Session& session, std::size_t pairs, const SearchOptions& options) {
  const std::size_t beams = options.beams, width = pairs * beams, most = (options.max_length - 1) * width;
  reserve(most, tokens_, parents_, scores_);
  reserve(width, lengths_, last_tokens_, last_parents_, best_scores_, sums_);
  here_.resize(pairs);
  std::iota(here_.begin(), here_.end(), std::size_t{0});
  pairs_ = pairs, beams_ = beams, steps_ = 0;
  session.begin_search(options);
  while (steps_ < options.max_length - 1) {
    const Step step = session.step(steps_);
    for (std::size_t row = 0; row < here_.size(); ++row) {
      const std::size_t to = steps_ * width + here_[row] * beams;
      std::copy_n(step.tokens + row * beams, beams, &tokens_[to]);
      std::copy_n(step.parents + row * beams, beams, &parents_[to]);
      std::copy_n(step.scores + row * beams, beams, &scores_[to]);
    }
    ++steps_;
    if (step.unfinished * kOf > here_.size() * kEnough) continue;
    const Finished finished = session.finished();
    take_finished(finished);
    if (step.unfinished == 0) return;
    kept_.clear();
    for (std::size_t row = 0; row < here_.size(); ++row) {
      if (finished.done[row] == 0) kept_.push_back(row);
    }
    if (kept_.empty() || !session.keep(kept_)) continue;
    for (std::size_t row = 0; row < kept_.size(); ++row) here_[row] = here_[kept_[row]];
    here_.resize(kept_.size());
  }
  take_finished(session.finished());
}

void Search::take_finished(const Finished& finished) {
  for (std::size_t row = 0; row < here_.size(); ++row) {
    const std::size_t from = row * beams_, to = here_[row] * beams_;
    std::copy_n(finished.lengths + from, beams_, &lengths_[to]);
    std::copy_n(finished.tokens + from, beams_, &last_tokens_[to]);
    std::copy_n(finished.parents + from, beams_, &last_parents_[to]);
    std::copy_n(finished.scores + from, beams_, &best_scores_[to]);
    std::copy_n(finished.sums + from, beams_, &sums_[to]);
  }
}

void Search::follow(std::size_t pair, std::size_t rank, FinishedBeam& beam) const {
  const std::size_t at = pair * beams_ + rank;
  beam.ids.clear();
  beam.log_probs.clear();
  beam.score = static_cast<double>(best_scores_[at]);
  beam.ids.push_back(last_tokens_[at]);
  beam.log_probs.push_back(static_cast<double>(sums_[at]));
  std::int64_t parent = last_parents_[at];
  const auto length = static_cast<std::size_t>(std::max<std::int64_t>(lengths_[at], 1));
  for (std::size_t step = std::min(length - 1, steps_); step-- > 0;) {
    if (parent < 0 || static_cast<std::size_t>(parent) >= beams_) {
      fail(RSICRC_BAD_MODEL, "the decoder continued beam ", parent, " of ", beams_, ": export the model again");
    }
    const std::size_t from = (step * pairs_ + pair) * beams_ + static_cast<std::size_t>(parent);
    beam.ids.push_back(tokens_[from]);
    beam.log_probs.push_back(static_cast<double>(scores_[from]));
    parent = parents_[from];
  }
  std::reverse(beam.ids.begin(), beam.ids.end());
  std::reverse(beam.log_probs.begin(), beam.log_probs.end());
  // The steps kept running sums; a word's own log-probability is the difference to the word before it.
  for (std::size_t i = beam.log_probs.size(); i-- > 1;) beam.log_probs[i] -= beam.log_probs[i - 1];
}

}  // namespace rsicrc::impl
