// The host side of the beam search: the decoder graph takes the steps, the host traces the finished sentences back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "manifest.h"
#include "rsicrc/rsicrc.h"
#include "session.h"

namespace rsicrc::impl {

// Returns a caller's options with the model's defaults filled in. `given` may be null. Throws INVALID_ARGUMENT if an
// option is out of range.
BeamSearchOptions resolve_options(const Manifest& manifest, const rsicrc_caption_options* given);

// A sentence that the beam search finished: token ids without START, and with END unless the sentence was cut at the
// maximum length; the log-probability of each token.
struct FinishedBeam {
  std::vector<std::int64_t> ids;
  std::vector<double> log_probs;
  double score = 0;
};

// Searches the best sentences of the pairs that a session has encoded. Its memory is reused by the next search.
class BeamSearch {
 public:
  void run(Session& session, std::size_t pairs, const BeamSearchOptions& options);
  // Writes the sentence of a rank (0 is best) for a pair of the last search into `beam`.
  void trace_back(std::size_t pair, std::size_t rank, FinishedBeam& beam) const;

 private:
  void record_step(const Step& step);
  void record_finished(const Finished& finished);

  // Outputs of every step, [steps, pairs, beams].
  std::vector<std::int64_t> tokens_, parents_;
  std::vector<float> scores_;
  // The best hypotheses of every pair, [pairs, beams].
  std::vector<std::int64_t> lengths_, last_tokens_, last_parents_;
  std::vector<float> best_scores_, sums_;
  std::vector<std::size_t> active_pairs_;  // the pair of each row of the batch
  std::vector<std::size_t> kept_rows_;     // rows that stay in the batch when finished pairs leave it
  std::size_t pairs_ = 0, beams_ = 0, steps_ = 0;
};

}  // namespace rsicrc::impl
