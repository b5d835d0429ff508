#include "session.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"
#include "vocabulary.h"

namespace rsicrc::impl {
namespace {

constexpr float kImpossible = -1.0e9F;

template <typename Number>
void fill(Span<std::uint8_t> buffer, Number value) {
  auto* const first = reinterpret_cast<Number*>(buffer.data());
  std::fill_n(first, buffer.size() / sizeof(Number), value);
}

// Throws BAD_MODEL if a graph gave another number of values than its manifest declares: more would be read than exist.
template <typename Number>
Span<const Number> checked(Span<const Number> values, std::size_t count) {
  if (values.size() != count) {
    fail(RSICRC_BAD_MODEL, "a graph's output differs in shape from the manifest: export the model again");
  }
  return values;
}

Span<const float> require_numbers(Span<const float> values, const char* kind) {
  for (const float value : values) require_number(static_cast<double>(value), kind);
  return values;
}

}  // namespace

SearchState search_state(const GraphSpec& decoder) {
  SearchState state{};
  for (const TensorSpec& input : decoder.inputs) {
    const auto continues = [&](const TensorSpec& output) { return output.name == "next_" + input.name; };
    if (std::none_of(decoder.outputs.begin(), decoder.outputs.end(), continues)) continue;
    const bool is_cache = input.name.rfind("self_", 0) == 0;
    if (is_cache && (input.shape.size() != 4 || input.shape[2].name != "P")) {
      fail(RSICRC_BAD_MODEL, decoder.file, ": ", input.name, " is no cache [B, heads, P, width]");
    }
    state.tensors.push_back({input.name, "next_" + input.name, input, is_cache});
  }
  struct HostTensor {
    const char* name;
    Type type;
    std::size_t& index;
  };
  // Other state tensors may have any type: the host does not read them.
  for (const HostTensor& wanted : {HostTensor{"tokens", Type::kInt64, state.tokens},
                                   {"parents", Type::kInt64, state.parents},
                                   {"scores", Type::kFloat32, state.scores},
                                   {"done", Type::kBool, state.done},
                                   {"finished_scores", Type::kFloat32, state.finished_scores},
                                   {"finished_sums", Type::kFloat32, state.finished_sums},
                                   {"finished_lengths", Type::kInt64, state.finished_lengths},
                                   {"finished_tokens", Type::kInt64, state.finished_tokens},
                                   {"finished_parents", Type::kInt64, state.finished_parents}}) {
    const auto found = std::find_if(state.tensors.begin(), state.tensors.end(),
                                    [&](const StateTensor& tensor) { return tensor.name == wanted.name; });
    if (found == state.tensors.end()) fail(RSICRC_BAD_MODEL, decoder.file, " has no state tensor ", wanted.name);
    if (found->spec.type != wanted.type) {
      fail(RSICRC_BAD_MODEL, decoder.file, ": ", wanted.name, " has another type than in graphs of this format");
    }
    wanted.index = static_cast<std::size_t>(found - state.tensors.begin());
  }
  return state;
}

void require_range(const char* name, std::int64_t value, std::size_t least, std::size_t most) {
  if (value >= static_cast<std::int64_t>(least) && value <= static_cast<std::int64_t>(most)) return;
  fail(RSICRC_BAD_MODEL, "the decoder returned ", name, " of ", value, ", not ", least, " to ", most,
       ": its graph is damaged, export the model again");
}

void require_number(double value, const char* kind) {
  if (!std::isnan(value)) return;
  fail(RSICRC_BAD_MODEL, "the model gave NaN (not a number) for ", kind,
       ": its weights are damaged, or the precision is too low for them. Try fp32, or export the model again");
}

void write_initial_value(const StateTensor& tensor, std::size_t beams, Span<std::uint8_t> buffer) {
  if (tensor.name == "tokens") {
    fill(buffer, kStart);
  } else if (tensor.name == "finished_scores" || tensor.name == "finished_sums") {
    fill(buffer, kImpossible);
  } else if (tensor.name == "scores") {
    fill(buffer, kImpossible);
    // All beams begin as START, so only the first beam of each pair may continue.
    auto* const scores = reinterpret_cast<float*>(buffer.data());
    for (std::size_t i = 0; i < buffer.size() / sizeof(float); i += beams) scores[i] = 0.0F;
  } else {
    std::memset(buffer.data(), 0, buffer.size());
  }
}

Session::Session(const Manifest& manifest)
    : manifest_(manifest), state_(search_state(manifest.graph(Graph::kDecoder))) {}

Span<std::uint8_t> Session::image_buffer(std::size_t pairs) {
  const std::size_t batch = batch_for(pairs);
  if (batch != batch_) {
    // The buffers of the scorer and of the search have the size of the batch too.
    batch_ = 0;
    beams_ = 0;
    scorer_sizes_ = {};
    image_buffer_ = make_image_buffers(batch);
    batch_ = batch;
  }
  pairs_ = pairs;
  return image_buffer_.subspan(0, pairs * (image_buffer_.size() / batch_));
}

Span<const float> Session::encode_images() {
  return require_numbers(checked(run_image_encoder(), pairs_ * manifest_.embedding_width), "the embedding of a pair");
}

Span<std::int64_t> Session::text_buffer(std::size_t texts, std::size_t length) {
  const Sizes sizes = Sizes::of_texts(texts, length);
  if (sizes != text_sizes_) {
    text_sizes_ = {};
    text_buffer_ = make_text_buffers(sizes);
    text_sizes_ = sizes;
  }
  return text_buffer_;
}

Span<const float> Session::encode_texts() {
  return require_numbers(checked(run_text_encoder(), text_sizes_.batch * manifest_.embedding_width), "an embedding");
}

Span<std::int64_t> Session::scorer_buffer(std::size_t texts, std::size_t length) {
  const Sizes sizes = Sizes::of_scorer(batch_, texts, length);
  if (sizes != scorer_sizes_) {
    scorer_sizes_ = {};
    scorer_buffer_ = make_scorer_buffers(sizes);
    scorer_sizes_ = sizes;
  }
  return scorer_buffer_;
}

Span<const float> Session::score() {
  return checked(run_scorer(), pairs_ * scorer_sizes_.texts * (scorer_sizes_.length - 1));
}

void Session::begin_search(const BeamSearchOptions& options) {
  if (options.beams != beams_) {
    beams_ = 0;
    settings_ = make_search_buffers(options.beams);
    beams_ = options.beams;
  }
  *settings_.length_penalty = static_cast<float>(options.length_penalty);
  *settings_.early_stopping = options.early_stopping;
  *settings_.max_length = static_cast<std::int64_t>(options.max_length);
  newest_ = 0;
  rows_ = pairs_;
  start_search(options.max_length - 1);
}

Step Session::step(std::size_t position) {
  *settings_.position = static_cast<std::int64_t>(position);
  run_decoder(position);
  newest_ = 1 - newest_;
  const std::size_t count = rows_ * beams_;
  const Step step{state_values<std::int64_t>(state_.tokens, count), state_values<std::int64_t>(state_.parents, count),
                  state_values<float>(state_.scores, count), static_cast<std::size_t>(unfinished())};
  require_range("unfinished", static_cast<std::int64_t>(step.unfinished), 0, rows_);
  require_numbers(step.scores, "the score of a beam");
  for (const std::int64_t token : step.tokens) require_range("tokens", token, 0, manifest_.vocabulary_size - 1);
  for (const std::int64_t parent : step.parents) require_range("parents", parent, 0, beams_ - 1);
  return step;
}

Finished Session::finished() {
  fetch_finished();
  const std::size_t count = rows_ * beams_;
  return {state_values<float>(state_.finished_scores, count),
          state_values<std::int64_t>(state_.finished_lengths, count),
          state_values<std::int64_t>(state_.finished_tokens, count),
          state_values<std::int64_t>(state_.finished_parents, count),
          state_values<float>(state_.finished_sums, count),
          state_values<std::uint8_t>(state_.done, rows_)};
}

bool Session::keep_rows(Span<const std::size_t> rows) {
  if (!drop_rows(rows)) return false;
  rows_ = rows.size();
  return true;
}

template <typename Number>
Span<const Number> Session::state_values(std::size_t index, std::size_t count) {
  const Span<const std::uint8_t> bytes = checked(state_value(index), count * sizeof(Number));
  return {reinterpret_cast<const Number*>(bytes.data()), count};
}

}  // namespace rsicrc::impl
