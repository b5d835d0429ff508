// The host side of the beam search: the decoder takes the steps, this walks the finished sentences back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "manifest.h"
#include "rsicrc/rsicrc.h"
#include "session.h"

namespace rsicrc::impl {

// Fills in a model's defaults and checks the ranges. Throws INVALID_ARGUMENT. `asked` may be null.
SearchOptions resolve_options(const Manifest& manifest, const rsicrc_caption_options* asked);

// A sentence that the search finished: ids without START, with END unless cut; the log-probability of each.
struct FinishedBeam {
  std::vector<std::int64_t> ids;
  std::vector<double> log_probs;
  double score = 0;
};

// Searches the best sentences of the pairs that a session has encoded. Keeps its memory for the next search.
class Search {
 public:
  void run(Session& session, std::size_t pairs, const SearchOptions& options);
  // Sets `beam` to the sentence of a rank for a pair of the last run.
  void follow(std::size_t pair, std::size_t rank, FinishedBeam& beam) const;

 private:
  // What every step left, [steps, pairs, beams].
  std::vector<std::int64_t> tokens_, parents_;
  std::vector<float> scores_;
  // The hypotheses of every pair, [pairs, beams].
  std::vector<std::int64_t> lengths_, last_tokens_, last_parents_;
  std::vector<float> best_scores_, sums_;
  std::vector<std::size_t> here_, kept_;  // the pair that each row of the batch belongs to; rows that stay in it
  std::size_t pairs_ = 0, beams_ = 0, steps_ = 0;

  void take_finished(const Finished& finished);
};

}  // namespace rsicrc::impl
