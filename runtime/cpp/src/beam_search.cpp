#include "beam_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "error.h"
#include "struct_size.h"
#include "tuning.h"

namespace rsicrc::impl {
namespace {

template <typename... Vectors>
void grow_to(std::size_t size, Vectors&... vectors) {
  (..., (vectors.size() < size ? vectors.resize(size) : void()));
}

}  // namespace

BeamSearchOptions resolve_options(const Manifest& manifest, const rsicrc_caption_options* given) {
  constexpr rsicrc_caption_options kDefaults = RSICRC_CAPTION_OPTIONS_INIT;
  const rsicrc_caption_options chosen = read_struct("rsicrc_caption_options", given, kDefaults);
  const BeamSearchDefaults& defaults = manifest.beam_search;
  BeamSearchOptions options;
  options.beams = chosen.beams == 0 ? defaults.beams : chosen.beams;
  options.n_best = chosen.n_best;
  options.length_penalty = chosen.use_length_penalty != 0 ? chosen.length_penalty : defaults.length_penalty;
  options.early_stopping = chosen.early_stopping < 0 ? defaults.early_stopping : chosen.early_stopping != 0;
  options.max_length = chosen.max_length == 0 ? manifest.max_length : chosen.max_length;
  // Each step selects the best 2 * beams continuations, and in the first step only one beam has continuations.
  const std::size_t max_beams = manifest.vocabulary_size / 2;
  if (options.beams > max_beams) {
    fail(RSICRC_INVALID_ARGUMENT, "beams must be from 1 to ", max_beams, " for this model, not ", options.beams);
  }
  if (options.n_best < 1 || options.n_best > options.beams) {
    fail(RSICRC_INVALID_ARGUMENT, "n_best must be from 1 to beams (", options.beams, "), not ", options.n_best);
  }
  // With one beam, `generate` of transformers is greedy and ignores early_stopping.
  if (options.beams == 1) options.early_stopping = true;
  if (!std::isfinite(options.length_penalty)) fail(RSICRC_INVALID_ARGUMENT, "length_penalty must be a finite number");
  if (options.max_length < 2 || options.max_length > manifest.max_length) {
    fail(RSICRC_INVALID_ARGUMENT, "max_length must be from 2 to ", manifest.max_length, ", not ", options.max_length);
  }
  return options;
}

void BeamSearch::run(Session& session, std::size_t pairs, const BeamSearchOptions& options) {
  const std::size_t max_steps = options.max_length - 1;
  const std::size_t width = pairs * options.beams;
  grow_to(max_steps * width, tokens_, parents_, scores_);
  grow_to(width, lengths_, last_tokens_, last_parents_, best_scores_, sums_);
  active_pairs_.resize(pairs);
  std::iota(active_pairs_.begin(), active_pairs_.end(), std::size_t{0});
  pairs_ = pairs;
  beams_ = options.beams;
  steps_ = 0;
  session.begin_search(options);
  while (steps_ < max_steps) {
    const Step step = session.step(steps_);
    record_step(step);
    if (static_cast<double>(step.unfinished) > kShrinkShare * static_cast<double>(active_pairs_.size())) continue;
    const Finished finished = session.finished();
    record_finished(finished);
    if (step.unfinished == 0) return;
    kept_rows_.clear();
    for (std::size_t row = 0; row < active_pairs_.size(); ++row) {
      if (finished.done[row] == 0) kept_rows_.push_back(row);
    }
    if (kept_rows_.size() != step.unfinished) {
      fail(RSICRC_BAD_MODEL, "the decoder returned unfinished of ", step.unfinished, ", but ", kept_rows_.size(),
           " pairs are not done: its graph is damaged, export the model again");
    }
    if (!session.keep_rows(kept_rows_)) continue;
    for (std::size_t row = 0; row < kept_rows_.size(); ++row) active_pairs_[row] = active_pairs_[kept_rows_[row]];
    active_pairs_.resize(kept_rows_.size());
  }
  record_finished(session.finished());
}

void BeamSearch::record_step(const Step& step) {
  for (std::size_t row = 0; row < active_pairs_.size(); ++row) {
    const std::size_t from = row * beams_;
    const std::size_t to = (steps_ * pairs_ + active_pairs_[row]) * beams_;
    std::copy_n(&step.tokens[from], beams_, &tokens_[to]);
    std::copy_n(&step.parents[from], beams_, &parents_[to]);
    std::copy_n(&step.scores[from], beams_, &scores_[to]);
  }
  ++steps_;
}

void BeamSearch::record_finished(const Finished& finished) {
  for (std::size_t row = 0; row < active_pairs_.size(); ++row) {
    const std::size_t from = row * beams_;
    const std::size_t to = active_pairs_[row] * beams_;
    std::copy_n(&finished.lengths[from], beams_, &lengths_[to]);
    std::copy_n(&finished.tokens[from], beams_, &last_tokens_[to]);
    std::copy_n(&finished.parents[from], beams_, &last_parents_[to]);
    std::copy_n(&finished.scores[from], beams_, &best_scores_[to]);
    std::copy_n(&finished.sums[from], beams_, &sums_[to]);
  }
}

void BeamSearch::trace_back(std::size_t pair, std::size_t rank, FinishedBeam& beam) const {
  const std::size_t at = pair * beams_ + rank;
  beam.ids.clear();
  beam.log_probs.clear();
  beam.score = static_cast<double>(best_scores_[at]);
  require_number(beam.score, "the score of a sentence");
  require_range("finished_lengths", lengths_[at], 1, steps_);
  require_range("finished_parents", last_parents_[at], 0, beams_ - 1);
  beam.ids.push_back(last_tokens_[at]);
  beam.log_probs.push_back(static_cast<double>(sums_[at]));
  std::int64_t parent = last_parents_[at];
  for (std::size_t step = static_cast<std::size_t>(lengths_[at]) - 1; step-- > 0;) {
    const std::size_t from = (step * pairs_ + pair) * beams_ + static_cast<std::size_t>(parent);
    beam.ids.push_back(tokens_[from]);
    beam.log_probs.push_back(static_cast<double>(scores_[from]));
    parent = parents_[from];
  }
  std::reverse(beam.ids.begin(), beam.ids.end());
  std::reverse(beam.log_probs.begin(), beam.log_probs.end());
  // The graph gives cumulative sums: a token's log-probability is the difference from the sum at the previous token.
  for (std::size_t i = beam.log_probs.size(); i-- > 1;) beam.log_probs[i] -= beam.log_probs[i - 1];
}

}  // namespace rsicrc::impl
