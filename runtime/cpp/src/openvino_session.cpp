// Sessions on the CPU by OpenVINO.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>
#include <openvino/openvino.hpp>
#include <optional>

#include "error.h"
#include "session.h"

namespace rsicrc::impl {
namespace {

[[noreturn]] void backend_failed(const char* graph, const std::exception& error) {
  fail(RSICRC_BACKEND, "graph '", graph, "' failed in OpenVINO: ", error.what());
}

ov::element::Type element_type(Type type) {
  switch (type) {
    case Type::kUint8:
      return ov::element::u8;
    case Type::kInt64:
      return ov::element::i64;
    case Type::kFloat32:
      return ov::element::f32;
    case Type::kBool:
      return ov::element::boolean;
    case Type::kFloat16:
      return ov::element::f16;
    case Type::kBfloat16:
      return ov::element::bf16;
  }
  return ov::element::dynamic;
}

ov::Tensor make_tensor(const TensorSpec& spec, const Sizes& sizes) {
  const std::vector<std::size_t> shape = concrete_shape(spec, sizes);
  element_count(shape);  // so that no product of a damaged manifest overflows
  return {element_type(spec.type), ov::Shape(shape)};
}

// Makes a tensor that the host writes: of this type and so many elements, whatever the manifest says.
ov::Tensor make_tensor(const TensorSpec& spec, const Sizes& sizes, Type type, std::size_t count) {
  if (spec.type != type || element_count(concrete_shape(spec, sizes)) != count) {
    fail(RSICRC_BAD_MODEL, "input ", spec.name,
         " has another type or shape than graphs of this format: export the model again");
  }
  return make_tensor(spec, sizes);
}

// Returns what a graph wrote, after a look at its type and size: a graph that disagrees with its manifest must not make
// us read past a buffer.
template <typename Number>
const Number* read(const ov::Tensor& tensor, ov::element::Type type, std::size_t count) {
  if (tensor.get_element_type() != type || tensor.get_size() != count) {
    fail(RSICRC_BAD_MODEL, "a graph gave another type or shape than the manifest says: export the model again");
  }
  return static_cast<const Number*>(tensor.data());
}

// Returns some rows of a tensor, over its memory.
ov::Tensor rows_of(ov::Tensor whole, std::size_t first, std::size_t count) {
  ov::Shape shape = whole.get_shape();
  const std::size_t row = whole.get_byte_size() / shape[0];
  shape[0] = count;
  return {whole.get_element_type(), shape, static_cast<std::uint8_t*>(whole.data()) + first * row};
}

// Pairs in one run of the image encoder: its intermediate results for more than these do not stay in the caches.
constexpr std::size_t kPairs = 8;
// Steps that the caches have room for at first, and grow by: a step reads all of them, and most captions are short.
constexpr std::size_t kRoom = 16;

// The one core of the process, never destroyed. A core's CPU plugin gives the thread that makes it another stack for
// signal handlers and takes it away at its end. Of several that do not end in the reverse order, or that end in another
// thread, a stack stays set that is no longer there, and the next signal with a handler kills the process (2026.4.1).
ov::Core& core() {
  static ov::Core* const only = new ov::Core;
  return *only;
}

class OpenVinoBackend : public Backend {
 public:
  OpenVinoBackend(std::filesystem::path folder, const Manifest& manifest, std::size_t threads)
      : folder_(std::move(folder)), manifest_(manifest), threads_(threads), has_bf16_(bf16_is_there()) {
    if (manifest.precision == "bf16" && !has_bf16_) {
      fail(RSICRC_BACKEND, "this processor has no instructions for bf16 (AVX-512 BF16 or AMX): choose fp32 or int8");
    }
  }

  const char* name() const override { return "openvino"; }
  std::unique_ptr<Session> session() override;
  const Manifest& manifest() const { return manifest_; }

  // Returns requests of a graph, which is compiled when it is first asked for.
  ov::InferRequest request(Graph graph) {
    const std::lock_guard<std::mutex> lock(compiling_);
    std::optional<ov::CompiledModel>& compiled = compiled_[static_cast<std::size_t>(graph)];
    if (!compiled) compiled = compile(graph);
    return compiled->create_infer_request();
  }

 private:
  ov::CompiledModel compile(Graph graph) {
    const std::filesystem::path path = folder_ / manifest_.graph(graph).file;
    try {
      const std::shared_ptr<ov::Model> model = core().read_model(path.string());
      if (graph == Graph::kScorer) keep_only(*model, "log_probs");
      if (graph == Graph::kDecoder) give_words_apart(*model);
      const bool int8_words = manifest_.precision == "int8" && graph != Graph::kImageEncoder;
      const bool exact = manifest_.precision == "fp32";
      ov::AnyMap properties = {
          ov::inference_num_threads(static_cast<int>(threads_)),
          ov::num_streams(1),
          ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
          // Left alone, OpenVINO computes in bfloat16 where the chip can: so do bf16, and the images in int8 in what is
          // not int8. Beside products of int8 weights it is no quicker.
          ov::hint::inference_precision(exact || int8_words || !has_bf16_ ? ov::element::f32 : ov::element::bf16),
          ov::hint::enable_cpu_pinning(false),
      };
      // OpenVINO's fused attention was wrong for key lengths of 16 and more that vary (2026.4.1): only the image
      // encoder has none that do.
      if (graph != Graph::kImageEncoder) properties["SNIPPETS_MODE"] = "DISABLE";
      // Products of int8 weights in int8: a row of activations gets a scale for each block of weights.
      const std::size_t block = weight_block(*model);
      if (block > 0) properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = std::to_string(block);
      return core().compile_model(model, "CPU", properties);
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      fail(RSICRC_BACKEND, path.string(), ": OpenVINO cannot open this graph: ", error.what());
    }
  }

  // What leads to the other outputs (the maps of attention) is then not computed.
  static void keep_only(ov::Model& model, const std::string& output) {
    for (const auto& result : ov::ResultVector(model.get_results())) {
      if (result->input_value(0).get_names().count(output) == 0) model.remove_result(result);
    }
  }

  // Lets the decoder give what it would write into a cache in place of the cache with it. OpenVINO would copy a whole
  // cache to write a step's words into it, and again to give it out.
  static void give_words_apart(ov::Model& model) {
    for (const auto& result : model.get_results()) {
      ov::Output<ov::Node> cache = result->input_value(0);
      const ov::Node& writer = *cache.get_node();
      if (std::strcmp(writer.get_type_name(), "ScatterNDUpdate") != 0) continue;
      ov::Output<ov::Node> words = writer.input_value(2);
      const std::unordered_set<std::string> names = cache.get_names();
      cache.set_names({});
      words.add_names(names);
      result->input(0).replace_source_output(words);
    }
  }

  // How many int8 weights of one output share a scale: the least of a graph's MatMulNBits, 0 without any. Their weights
  // are the only bytes with three axes: outputs, blocks, weights.
  static std::size_t weight_block(const ov::Model& model) {
    std::size_t least = 0;
    for (const auto& node : model.get_ops()) {
      if (std::strcmp(node->get_type_name(), "Constant") != 0 || node->get_element_type() != ov::element::u8) continue;
      const ov::Shape& shape = node->get_shape();
      if (shape.size() == 3 && (least == 0 || shape[2] < least)) least = shape[2];
    }
    return least;
  }

  // On x86, OpenVINO also names bfloat16 among its capabilities where it can only imitate it.
  bool bf16_is_there() {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512bf16") != 0;
#else
    const auto able = core().get_property("CPU", ov::device::capabilities);
    return std::find(able.begin(), able.end(), ov::device::capability::BF16) != able.end();
#endif
  }

  std::filesystem::path folder_;
  const Manifest& manifest_;
  std::size_t threads_;
  bool has_bf16_;
  std::mutex compiling_;
  std::array<std::optional<ov::CompiledModel>, kGraphs> compiled_;
};

// A request with the tensors that it reads and writes.
class Runner {
 public:
  Runner(OpenVinoBackend& backend, Graph graph) : graph_(graph), request_(backend.request(graph)) {}

  ov::InferRequest& request() { return request_; }

  void set(const std::string& name, const ov::Tensor& tensor) {
    try {
      request_.set_tensor(name, tensor);
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      backend_failed(name_of(graph_), error);
    }
  }

  void run() {
    try {
      request_.infer();
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      backend_failed(name_of(graph_), error);
    }
  }

 private:
  Graph graph_;
  ov::InferRequest request_;
};

class OpenVinoSession : public Session {
 public:
  explicit OpenVinoSession(OpenVinoBackend& backend)
      : backend_(backend), manifest_(backend.manifest()), state_(search_state(manifest_.graph(Graph::kDecoder))) {}

  std::uint8_t* images(std::size_t pairs) override {
    if (!encoder_) encoder_.emplace(backend_, Graph::kImageEncoder);
    if (pairs_ != pairs) {
      pairs_ = 0;
      const GraphSpec& graph = manifest_.graph(Graph::kImageEncoder);
      const Sizes sizes{pairs, 0, 0, 0, 0};
      const std::size_t square = 3 * manifest_.image_size * manifest_.image_size;
      images_ = make_tensor(graph.input("images"), sizes, Type::kUint8, pairs * 2 * square);
      embedding_ = make_tensor(graph.output("image_embedding"), sizes);
      cross_.clear();
      for (const TensorSpec& output : graph.outputs) {
        if (output.name.rfind("cross_", 0) == 0) cross_.emplace_back(output.name, make_tensor(output, sizes));
      }
      divide(pairs);
      if (scorer_) set_cross(*scorer_);
      beams_ = 0;  // the search's buffers are for another number of pairs
      pairs_ = pairs;
    }
    return images_.data<std::uint8_t>();
  }

  const float* encode_images() override {
    if (rows_ != pairs_) restore_cross();
    for (const Named& part : parts_) {
      for (const auto& [name, tensor] : part) encoder_->set(name, tensor);
      encoder_->run();
    }
    return read<float>(embedding_, ov::element::f32, pairs_ * manifest_.embedding_width);
  }

  std::int64_t* texts(std::size_t sentences, std::size_t ids) override {
    if (!texts_) texts_.emplace(backend_, Graph::kTextEncoder);
    if (text_sentences_ != sentences || text_ids_.get_size() != sentences * ids) {
      text_sentences_ = 0;
      const TensorSpec& input = manifest_.graph(Graph::kTextEncoder).input("input_ids");
      text_ids_ = make_tensor(input, {sentences, 0, 0, 0, ids}, Type::kInt64, sentences * ids);
      texts_->set("input_ids", text_ids_);
      text_sentences_ = sentences;
    }
    return text_ids_.data<std::int64_t>();
  }

  const float* encode_texts() override {
    texts_->run();
    return read<float>(texts_->request().get_tensor("text_embedding"), ov::element::f32,
                       text_sentences_ * manifest_.embedding_width);
  }

  std::int64_t* sentences(std::size_t sentences, std::size_t ids) override {
    if (!scorer_) {
      Runner scorer(backend_, Graph::kScorer);
      set_cross(scorer);
      scorer_ = std::move(scorer);  // kept only whole: memory may run out at any line
    }
    if (score_sentences_ != sentences || score_ids_.get_size() != sentences * ids) {
      score_sentences_ = 0;
      const TensorSpec& input = manifest_.graph(Graph::kScorer).input("input_ids");
      score_ids_ = make_tensor(input, {0, 0, 0, sentences, ids}, Type::kInt64, sentences * ids);
      scorer_->set("input_ids", score_ids_);
      score_sentences_ = sentences;
    }
    return score_ids_.data<std::int64_t>();
  }

  const float* score() override {
    scorer_->run();
    return read<float>(scorer_->request().get_tensor("log_probs"), ov::element::f32,
                       pairs_ * (score_ids_.get_size() - score_sentences_));
  }

  void begin_search(const SearchOptions& options) override {
    if (beams_ != options.beams) make_search(options.beams);
    *length_penalty_.data<float>() = static_cast<float>(options.length_penalty);
    *early_stopping_.data<bool>() = options.early_stopping;
    *max_length_.data<std::int64_t>() = static_cast<std::int64_t>(options.max_length);
    newest_ = 0;
    longest_ = options.max_length - 1;
    resize(pairs_, std::min(kRoom, longest_));
    for (std::size_t i = 0; i < state_.size(); ++i) {
      // What an earlier search left in the caches is masked and need not go, unless it is no number: 0 * NaN is NaN.
      if (state_[i].is_cache && !dirty_) continue;
      ov::Tensor& tensor = values_[0][i];
      const std::size_t bytes = state_[i].is_cache ? capacity_[i] : tensor.get_byte_size();
      write_first_value(state_[i], beams_, tensor.data(), bytes);
    }
    dirty_ = false;
  }

  Step step(std::size_t position) override {
    if (position == room_) grow();
    *position_.data<std::int64_t>() = static_cast<std::int64_t>(position);
    Runner& runner = *decoders_[newest_];
    runner.run();
    newest_ = 1 - newest_;
    write_words(position);
    const std::size_t count = rows_ * beams_;
    const Step step{read<std::int64_t>(value(tokens_), ov::element::i64, count),
                    read<std::int64_t>(value(parents_), ov::element::i64, count),
                    read<float>(value(scores_), ov::element::f32, count),
                    static_cast<std::size_t>(*read<std::int64_t>(unfinished_, ov::element::i64, 1))};
    for (std::size_t i = 0; i < count; ++i) dirty_ = dirty_ || !std::isfinite(step.scores[i]);
    return step;
  }

  Finished finished() override {
    const std::size_t count = rows_ * beams_;
    const auto numbers = [&](const char* name) {
      return read<std::int64_t>(value(index_of(name)), ov::element::i64, count);
    };
    const auto floats = [&](const char* name) { return read<float>(value(index_of(name)), ov::element::f32, count); };
    return {floats("finished_scores"),
            numbers("finished_lengths"),
            numbers("finished_tokens"),
            numbers("finished_parents"),
            floats("finished_sums"),
            reinterpret_cast<const std::uint8_t*>(read<bool>(value(index_of("done")), ov::element::boolean, rows_))};
  }

  bool keep(const std::vector<std::size_t>& rows) override {
    const auto move_rows = [&](ov::Tensor& tensor) {
      auto* const bytes = static_cast<std::uint8_t*>(tensor.data());
      const std::size_t row = tensor.get_byte_size() / rows_;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        if (rows[i] != i) std::memcpy(bytes + i * row, bytes + rows[i] * row, row);
      }
    };
    for (ov::Tensor& tensor : values_[newest_]) move_rows(tensor);
    for (auto& [name, tensor] : cross_) move_rows(tensor);
    resize(rows.size(), room_);
    return true;
  }

 private:
  using Named = std::vector<std::pair<std::string, ov::Tensor>>;

  // Cuts what the image encoder reads and writes into parts of a few pairs each, as even as can be.
  void divide(std::size_t pairs) {
    parts_.clear();
    const std::size_t count = (pairs + kPairs - 1) / kPairs;
    for (std::size_t i = 0, first = 0; i < count; ++i) {
      const std::size_t rows = (pairs - first + count - i - 1) / (count - i);
      Named& part = parts_.emplace_back();
      part.emplace_back("images", rows_of(images_, first, rows));
      part.emplace_back("image_embedding", rows_of(embedding_, first, rows));
      for (const auto& [name, tensor] : cross_) part.emplace_back(name, rows_of(tensor, first, rows));
      first += rows;
    }
  }

  // A search may have left fewer rows than there are pairs. The memory stays where it is.
  void restore_cross() {
    for (auto& [name, tensor] : cross_) {
      set_shape(tensor, manifest_.graph(Graph::kImageEncoder).output(name), {pairs_, 0, 0, 0, 0});
    }
    if (scorer_) set_cross(*scorer_);
    rows_ = pairs_;
  }

  void set_cross(Runner& runner) {
    for (const auto& [name, tensor] : cross_) runner.set(name, tensor);
  }

  std::size_t index_of(const char* name) const {
    for (std::size_t i = 0; i < state_.size(); ++i) {
      if (state_[i].name == name) return i;
    }
    fail(RSICRC_BAD_MODEL, "the decoder has no state ", name);
  }

  const ov::Tensor& value(std::size_t index) const { return values_[newest_][index]; }

  // Writes the words of a step where they belong in the caches: [rows, heads, beams, width] into [rows, heads, P,
  // width].
  void write_words(std::size_t position) {
    for (std::size_t i = 0; i < state_.size(); ++i) {
      if (!state_[i].is_cache) continue;
      const ov::Tensor& words = words_[i];
      const std::size_t heads = words.get_shape()[0] * words.get_shape()[1];
      const std::size_t bytes = words.get_byte_size() / heads;
      const auto* const from = static_cast<const std::uint8_t*>(words.data());
      auto* const into = static_cast<std::uint8_t*>(values_[newest_][i].data()) + position * bytes;
      for (std::size_t head = 0; head < heads; ++head) {
        std::memcpy(into + head * room_ * bytes, from + head * bytes, bytes);
      }
    }
  }

  // Two requests used in turn: what one writes the other reads. The caches are one for both: a graph only reads them.
  void make_search(std::size_t beams) {
    beams_ = 0;
    tokens_ = index_of("tokens"), parents_ = index_of("parents"), scores_ = index_of("scores");
    const GraphSpec& graph = manifest_.graph(Graph::kDecoder);
    // Room for the longest search; a shorter one uses its beginning.
    const Sizes sizes{pairs_, beams, beams * (manifest_.max_length - 1), 0, 0};
    const Sizes step{pairs_, beams, beams, 0, 0};
    for (std::vector<ov::Tensor>* tensors : {&values_[0], &values_[1], &words_}) tensors->clear();
    for (const StateTensor& tensor : state_) {
      values_[0].push_back(make_tensor(tensor.spec, sizes));
      values_[1].push_back(tensor.is_cache ? values_[0].back() : make_tensor(tensor.spec, sizes));
      words_.push_back(tensor.is_cache ? make_tensor(tensor.spec, step) : ov::Tensor());
    }
    capacity_.clear();
    for (const ov::Tensor& tensor : values_[0]) capacity_.push_back(tensor.get_byte_size());
    length_penalty_ = make_tensor(graph.input("length_penalty"), sizes, Type::kFloat32, 1);
    early_stopping_ = make_tensor(graph.input("early_stopping"), sizes, Type::kBool, 1);
    max_length_ = make_tensor(graph.input("max_length"), sizes, Type::kInt64, 1);
    position_ = make_tensor(graph.input("position"), sizes, Type::kInt64, 1);
    unfinished_ = make_tensor(graph.output("unfinished"), sizes);
    for (std::optional<Runner>& decoder : decoders_) {
      if (!decoder) decoder.emplace(backend_, Graph::kDecoder);
      decoder->set("length_penalty", length_penalty_);
      decoder->set("early_stopping", early_stopping_);
      decoder->set("max_length", max_length_);
      decoder->set("position", position_);
      decoder->set("unfinished", unfinished_);
    }
    dirty_ = true;  // new memory holds anything
    beams_ = beams;
  }

  // Gives the state as many rows, and places for as many steps, and shows the requests its tensors.
  void resize(std::size_t rows, std::size_t room) {
    rows_ = rows, room_ = room;
    const Sizes sizes{rows, beams_, beams_ * room, 0, 0};
    for (std::vector<ov::Tensor>& values : values_) {
      for (std::size_t i = 0; i < state_.size(); ++i) set_shape(values[i], state_[i].spec, sizes);
    }
    for (std::size_t i = 0; i < state_.size(); ++i) {
      if (state_[i].is_cache) set_shape(words_[i], state_[i].spec, {rows, beams_, beams_, 0, 0});
    }
    for (auto& [name, tensor] : cross_) {
      set_shape(tensor, manifest_.graph(Graph::kImageEncoder).output(name), sizes);
    }
    for (std::size_t turn = 0; turn < 2; ++turn) {
      // After an odd number of steps the requests have changed sides.
      Runner& runner = *decoders_[turn];
      for (std::size_t i = 0; i < state_.size(); ++i) {
        runner.set(state_[i].name, values_[turn][i]);
        runner.set(state_[i].next_name, state_[i].is_cache ? words_[i] : values_[1 - turn][i]);
      }
      set_cross(runner);
    }
  }

  void set_shape(ov::Tensor& tensor, const TensorSpec& spec, const Sizes& sizes) {
    concrete_shape(spec, sizes, shape_);
    tensor.set_shape(shape_);
  }

  // More places in the caches: each part of a tensor moves to where it begins then.
  void grow() {
    const std::size_t room = std::min(room_ + kRoom, longest_), old = beams_ * room_, places = beams_ * room;
    for (std::size_t i = 0; i < state_.size(); ++i) {
      const std::vector<Dimension>& shape = state_[i].spec.shape;
      const auto axis =
          std::find_if(shape.begin(), shape.end(), [](const Dimension& size) { return size.name == "P"; });
      if (axis == shape.end()) continue;
      ov::Tensor& tensor = values_[newest_][i];
      auto* const bytes = static_cast<std::uint8_t*>(tensor.data());
      const std::size_t after =
          std::accumulate(axis + 1, shape.end(), bytes_of(state_[i].spec.type),
                          [](std::size_t size, const Dimension& next) { return size * next.number; });
      for (std::size_t part = tensor.get_byte_size() / (old * after); part-- > 0;) {
        std::memmove(bytes + part * places * after, bytes + part * old * after, old * after);
        std::memset(bytes + part * places * after + old * after, 0, (places - old) * after);
      }
    }
    resize(rows_, room);
  }

  OpenVinoBackend& backend_;
  const Manifest& manifest_;
  const std::vector<StateTensor> state_;

  std::optional<Runner> encoder_;
  std::size_t pairs_ = 0;
  ov::Tensor images_, embedding_;
  Named cross_;
  std::vector<Named> parts_;  // views of the pairs in one run of the encoder

  std::optional<Runner> texts_;
  std::size_t text_sentences_ = 0;
  ov::Tensor text_ids_;

  std::optional<Runner> scorer_;
  std::size_t score_sentences_ = 0;
  ov::Tensor score_ids_;

  std::array<std::optional<Runner>, 2> decoders_;
  std::size_t beams_ = 0, rows_ = 0, room_ = 0, longest_ = 0;  // rows: of the pairs, those still searched
  ov::Shape shape_;
  std::vector<std::size_t> capacity_;              // bytes of each of state_
  std::array<std::vector<ov::Tensor>, 2> values_;  // of state_; decoder i reads values_[i] and writes the other
  std::vector<ov::Tensor> words_;                  // what a step adds to each cache; empty for the rest of state_
  std::size_t newest_ = 0;                         // which of the two holds the present state
  std::size_t tokens_ = 0, parents_ = 0, scores_ = 0;
  ov::Tensor length_penalty_, early_stopping_, max_length_, position_, unfinished_;
  bool dirty_ = true;
};

std::unique_ptr<Session> OpenVinoBackend::session() { return std::make_unique<OpenVinoSession>(*this); }

}  // namespace

std::unique_ptr<Backend> open_openvino(const std::filesystem::path& folder, const Manifest& manifest,
                                       const BackendOptions& options) {
  try {
    return std::make_unique<OpenVinoBackend>(folder, manifest, options.threads);
  } catch (const ov::Exception& error) {
    fail(RSICRC_BACKEND, "OpenVINO cannot start: ", error.what());
  }
}

}  // namespace rsicrc::impl
