// What runs the graphs: one small interface, implemented for OpenVINO and for TensorRT.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "manifest.h"

namespace rsicrc::impl {

struct SearchOptions {
  std::size_t beams = 1;
  std::size_t n_best = 1;
  double length_penalty = 1.0;
  bool early_stopping = true;
  std::size_t max_length = 0;
};

// What one step of the search left for the host, [pairs, beams] each; lives until the next step.
struct Step {
  const std::int64_t* tokens;
  const std::int64_t* parents;
  const float* scores;
  std::size_t unfinished;
};

// The hypotheses so far, [pairs, beams] each, best first; and [pairs] whether they will not change any more.
struct Finished {
  const float* scores;
  const std::int64_t* lengths;
  const std::int64_t* tokens;
  const std::int64_t* parents;
  const float* sums;
  const std::uint8_t* done;
};

// The graphs of one model with the buffers of one context. Not for two threads at a time.
//
// The host fills buffers that the session lends, so that it may keep them where its device reads them best, and gets
// pointers into others. Buffers are made for the largest sizes seen; a call with sizes seen before allocates nothing.
class Session {
 public:
  virtual ~Session() = default;

  // Returns room for uint8 [pairs, 2, size, size, 3].
  virtual std::uint8_t* images(std::size_t pairs) = 0;
  // Runs the image encoder over them: float32 [pairs, width]. Keeps the cross keys and values for the calls below.
  virtual const float* encode_images() = 0;

  // Returns room for int64 [sentences, ids].
  virtual std::int64_t* texts(std::size_t sentences, std::size_t ids) = 0;
  // Runs the text encoder over them: float32 [sentences, width].
  virtual const float* encode_texts() = 0;

  // Likewise int64 [sentences, ids], for the scorer.
  virtual std::int64_t* sentences(std::size_t sentences, std::size_t ids) = 0;
  // Runs the scorer over them on every encoded pair: float32 [pairs, sentences, ids - 1].
  virtual const float* score() = 0;

  // Begins a search over the encoded pairs, which are not to be used for anything else after it.
  virtual void begin_search(const SearchOptions& options) = 0;
  virtual Step step(std::size_t position) = 0;
  virtual Finished finished() = 0;
  // Goes on with some of the pairs of the last step only, in this order (ascending). Returns false where it goes on
  // with all of them.
  virtual bool keep(const std::vector<std::size_t>& rows) = 0;
};

// A model folder's graphs, open. For any number of threads.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;
  virtual std::unique_ptr<Session> session() = 0;
};

struct BackendOptions {
  std::string name;  // empty: the first that was built in
  std::size_t threads = 1;
  int device = 0;
  std::string precision = "fp32";
};

// Throws BACKEND where there is no such backend, or no device for it, or it cannot do the precision with this folder.
// The manifest's graphs and precision become those that are used.
std::unique_ptr<Backend> open_backend(const std::filesystem::path& folder, Manifest& manifest,
                                      const BackendOptions& options);

// Each in its own file, built where its library is there.
std::unique_ptr<Backend> open_openvino(const std::filesystem::path& folder, const Manifest& manifest,
                                       const BackendOptions& options);
std::unique_ptr<Backend> open_tensorrt(const std::filesystem::path& folder, const Manifest& manifest,
                                       const BackendOptions& options);

// One tensor of the search's state: an input of the decoder that has an output `next_<name>`.
struct StateTensor {
  std::string name, next_name;
  TensorSpec spec;
  bool is_cache;
};
std::vector<StateTensor> search_state(const GraphSpec& decoder);
// Writes a state tensor's first value over its `bytes`; `beams` is the length of its last axis where that matters.
void write_first_value(const StateTensor& tensor, std::size_t beams, void* buffer, std::size_t bytes);

}  // namespace rsicrc::impl
