// The graphs of one model with the buffers of one context, and the tensors of the beam search between two steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "manifest.h"
#include "span.h"

namespace rsicrc::impl {

struct BeamSearchOptions {
  std::size_t beams = 1;
  std::size_t n_best = 1;  // at most `beams`
  double length_penalty = 1.0;
  bool early_stopping = true;
  std::size_t max_length = 0;  // of a token sequence, START included
};

// Outputs of one decoding step, [rows, beams] each. The memory is valid until the next step.
struct Step {
  Span<const std::int64_t> tokens;
  Span<const std::int64_t> parents;
  Span<const float> scores;
  std::size_t unfinished;  // pairs that need more steps
};

// The best hypotheses so far, [rows, beams] each, best first. The memory is valid until the next step.
struct Finished {
  Span<const float> scores;
  Span<const std::int64_t> lengths;
  Span<const std::int64_t> tokens;
  Span<const std::int64_t> parents;
  Span<const float> sums;
  Span<const std::uint8_t> done;  // [rows]: 1 if the pair's hypotheses are final
};

// One state tensor of the beam search: an input of the decoder that the output `next_<name>` continues.
struct StateTensor {
  std::string name, next_name;
  TensorSpec spec;
  bool is_cache;  // keys or values of self-attention, [B, heads, P, width]
};

struct SearchState {
  std::vector<StateTensor> tensors;
  // Positions in `tensors` of those that the host reads.
  std::size_t tokens, parents, scores, done;
  std::size_t finished_scores, finished_sums, finished_lengths, finished_tokens, finished_parents;
};

// Returns the state tensors of a decoder. Throws BAD_MODEL if one is missing or has another type than the host reads.
SearchState search_state(const GraphSpec& decoder);

// Throws BAD_MODEL if a result of the decoder is out of its range.
void require_range(const char* name, std::int64_t value, std::size_t least, std::size_t most);
// Throws BAD_MODEL if a result is NaN: a caption or a score made from NaN would look like a result.
void require_number(double value, const char* kind);

// Writes the initial value of a state tensor over `buffer`. `beams` is the length of the last axis of "scores".
void write_initial_value(const StateTensor& tensor, std::size_t beams, Span<std::uint8_t> buffer);

// The graphs of one model with the buffers of one context. For one thread at a time.
//
// The host writes into buffers that the session provides where the device reads them fastest, and receives views of
// output buffers, which are valid until the next call. Buffers are made again if a size changes; a call with the sizes
// of the call before allocates nothing.
//
// A derived class provides the buffers and runs the graphs; this class tracks sizes and settings.
class Session {
 public:
  explicit Session(const Manifest& manifest);
  virtual ~Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Returns the buffer for uint8 images [pairs, 2, image_size, image_size, 3].
  Span<std::uint8_t> image_buffer(std::size_t pairs);
  // Runs the image encoder on the image buffer: returns embeddings, float32 [pairs, embedding_width]. The
  // cross-attention keys and values stay in the session for the scorer and the beam search.
  Span<const float> encode_images();

  // Returns the buffer for int64 token ids [texts, length].
  Span<std::int64_t> text_buffer(std::size_t texts, std::size_t length);
  // Runs the text encoder on the text buffer: returns embeddings, float32 [texts, embedding_width].
  Span<const float> encode_texts();

  // Returns the scorer's buffer for int64 token ids [texts, length].
  Span<std::int64_t> scorer_buffer(std::size_t texts, std::size_t length);
  // Runs the scorer on every text for every encoded pair: returns log-probabilities of the tokens after START, float32
  // [pairs, texts, length - 1].
  Span<const float> score();

  // Starts a beam search over the encoded pairs. Afterwards the pairs must be encoded again for any other use.
  void begin_search(const BeamSearchOptions& options);
  // Runs the decoder for the token at `position`, counted from 0. Throws BAD_MODEL if its results are NaN or out of
  // range: the graph reads them in the next step, where a library may crash.
  Step step(std::size_t position);
  Finished finished();
  // Drops all rows of the search but `rows` (ascending). Returns false, and drops none, if the backend cannot.
  bool keep_rows(Span<const std::size_t> rows);

 protected:
  // The decoder's scalar inputs, in host memory.
  struct Settings {
    float* length_penalty = nullptr;
    bool* early_stopping = nullptr;
    std::int64_t* max_length = nullptr;
    std::int64_t* position = nullptr;
  };

  const Manifest& manifest() const { return manifest_; }
  const SearchState& state() const { return state_; }
  std::size_t pairs() const { return pairs_; }  // encoded, or to be encoded
  std::size_t batch() const { return batch_; }  // pairs that the buffers hold
  std::size_t beams() const { return beams_; }  // that the search's buffers hold
  std::size_t rows() const { return rows_; }    // pairs that are still searched
  const Sizes& text_sizes() const { return text_sizes_; }
  const Sizes& scorer_sizes() const { return scorer_sizes_; }
  // The search is double-buffered: the decoder reads the tensors of set `newest` and writes those of `1 - newest`.
  std::size_t newest() const { return newest_; }

  // Returns how many pairs the buffers must hold for so many.
  virtual std::size_t batch_for(std::size_t pairs) const { return pairs; }
  // Make the buffers of a graph and return the input, which the host writes. If one throws, it is called again.
  virtual Span<std::uint8_t> make_image_buffers(std::size_t batch) = 0;
  virtual Span<std::int64_t> make_text_buffers(const Sizes& sizes) = 0;
  virtual Span<std::int64_t> make_scorer_buffers(const Sizes& sizes) = 0;
  virtual Settings make_search_buffers(std::size_t beams) = 0;
  // Run a graph and return its output for the host.
  virtual Span<const float> run_image_encoder() = 0;
  virtual Span<const float> run_text_encoder() = 0;
  virtual Span<const float> run_scorer() = 0;
  // Writes the initial state of a search of at most `steps` steps. The settings are already written.
  virtual void start_search(std::size_t steps) = 0;
  virtual void run_decoder(std::size_t position) = 0;
  // Return outputs of the last step: the number of unfinished pairs; a state tensor's bytes for `rows` pairs.
  virtual std::int64_t unfinished() = 0;
  virtual Span<const std::uint8_t> state_value(std::size_t index) = 0;
  // Copies to the host the state tensors that only `finished` reads.
  virtual void fetch_finished() {}
  virtual bool drop_rows(Span<const std::size_t>) { return false; }

 private:
  template <typename Number>
  Span<const Number> state_values(std::size_t index, std::size_t count);

  const Manifest& manifest_;
  const SearchState state_;
  std::size_t pairs_ = 0, batch_ = 0, beams_ = 0, rows_ = 0, newest_ = 0;
  Sizes text_sizes_, scorer_sizes_;
  Span<std::uint8_t> image_buffer_;
  Span<std::int64_t> text_buffer_, scorer_buffer_;
  Settings settings_;
};

}  // namespace rsicrc::impl
