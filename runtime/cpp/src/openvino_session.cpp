// The OpenVINO session: host buffers, and two infer requests of the decoder that alternate.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "error.h"
#include "openvino_backend.h"
#include "session.h"
#include "tuning.h"

namespace rsicrc::impl {
namespace {

ov::Tensor make_tensor(const TensorSpec& spec, const Sizes& sizes) {
  const std::vector<std::size_t> shape = concrete_shape(spec, sizes);
  element_count(shape);  // throws if the sizes of a damaged manifest overflow
  return {element_type(spec.type), ov::Shape(shape)};
}

// Makes a tensor that the host writes. Throws BAD_MODEL unless the manifest declares this type and number of elements.
ov::Tensor make_input(const TensorSpec& spec, const Sizes& sizes, Type type, std::size_t count) {
  require_tensor(spec, sizes, type, count);
  return make_tensor(spec, sizes);
}

// Returns a view of a graph's output. The output's own type and size are checked, not those of the manifest: the graph
// may disagree with its manifest, and then the host must not read beyond the buffer.
template <typename Number>
Span<const Number> view(const ov::Tensor& tensor, ov::element::Type type) {
  if (tensor.get_element_type() != type) {
    fail(RSICRC_BAD_MODEL, "a graph's output differs in type from the manifest: export the model again");
  }
  return {static_cast<const Number*>(tensor.data()), tensor.get_size()};
}

template <typename Number>
Span<Number> input_view(ov::Tensor& tensor) {
  return {tensor.data<Number>(), tensor.get_size()};
}

// Returns some rows of a tensor, in the tensor's memory.
ov::Tensor rows_of(ov::Tensor whole, std::size_t first, std::size_t count) {
  ov::Shape shape = whole.get_shape();
  const std::size_t row = whole.get_byte_size() / shape[0];
  shape[0] = count;
  return {whole.get_element_type(), shape, static_cast<std::uint8_t*>(whole.data()) + first * row};
}

class OpenVinoSession : public Session {
 public:
  explicit OpenVinoSession(OpenVinoBackend& backend) : Session(backend.manifest()), backend_(backend) {}

 protected:
  Span<std::uint8_t> make_image_buffers(std::size_t batch) override {
    if (!image_encoder_) image_encoder_.emplace(backend_, Graph::kImageEncoder);
    const GraphSpec& graph = manifest().graph(Graph::kImageEncoder);
    const Sizes sizes = Sizes::of_images(batch);
    const std::size_t square = 3 * manifest().image_size * manifest().image_size;
    images_ = make_input(graph.input("images"), sizes, Type::kUint8, batch * 2 * square);
    image_embedding_ = make_tensor(graph.output("image_embedding"), sizes);
    cross_.clear();
    for (const TensorSpec& output : graph.outputs) {
      if (output.name.rfind("cross_", 0) == 0) cross_.emplace_back(output.name, make_tensor(output, sizes));
    }
    split_batch(batch);
    cross_rows_ = batch;
    return input_view<std::uint8_t>(images_);
  }

  Span<const float> run_image_encoder() override {
    if (cross_rows_ != pairs()) restore_cross();
    for (const NamedTensors& part : parts_) {
      for (const auto& [name, tensor] : part) image_encoder_->set(name, tensor);
      image_encoder_->run();
    }
    return view<float>(image_embedding_, ov::element::f32);
  }

  Span<std::int64_t> make_text_buffers(const Sizes& sizes) override {
    if (!text_encoder_) text_encoder_.emplace(backend_, Graph::kTextEncoder);
    const TensorSpec& input = manifest().graph(Graph::kTextEncoder).input("input_ids");
    text_ids_ = make_input(input, sizes, Type::kInt64, sizes.batch * sizes.length);
    text_encoder_->set("input_ids", text_ids_);
    return input_view<std::int64_t>(text_ids_);
  }

  Span<const float> run_text_encoder() override {
    text_encoder_->run();
    return view<float>(text_encoder_->get("text_embedding"), ov::element::f32);
  }

  Span<std::int64_t> make_scorer_buffers(const Sizes& sizes) override {
    if (!scorer_) scorer_.emplace(backend_, Graph::kScorer);
    set_cross(*scorer_);
    const TensorSpec& input = manifest().graph(Graph::kScorer).input("input_ids");
    scorer_ids_ = make_input(input, sizes, Type::kInt64, sizes.texts * sizes.length);
    scorer_->set("input_ids", scorer_ids_);
    return input_view<std::int64_t>(scorer_ids_);
  }

  Span<const float> run_scorer() override {
    scorer_->run();
    return view<float>(scorer_->get("log_probs"), ov::element::f32);
  }

  Settings make_search_buffers(std::size_t beams) override {
    const GraphSpec& graph = manifest().graph(Graph::kDecoder);
    // Caches have the capacity for the longest search; a shorter search uses the beginning of the memory.
    const Sizes sizes = Sizes::of_search(pairs(), beams, manifest().max_length - 1);
    const Sizes one_step = Sizes::of_search(pairs(), beams, 1);
    for (std::vector<ov::Tensor>* tensors : {&values_[0], &values_[1], &new_kv_}) tensors->clear();
    for (const StateTensor& tensor : state().tensors) {
      values_[0].push_back(make_tensor(tensor.spec, sizes));
      // The decoder only reads the caches, so both sets share them.
      values_[1].push_back(tensor.is_cache ? values_[0].back() : make_tensor(tensor.spec, sizes));
      new_kv_.push_back(tensor.is_cache ? make_tensor(tensor.spec, one_step) : ov::Tensor());
    }
    capacities_.clear();
    for (const ov::Tensor& tensor : values_[0]) capacities_.push_back(tensor.get_byte_size());
    length_penalty_ = make_input(graph.input("length_penalty"), sizes, Type::kFloat32, 1);
    early_stopping_ = make_input(graph.input("early_stopping"), sizes, Type::kBool, 1);
    max_length_ = make_input(graph.input("max_length"), sizes, Type::kInt64, 1);
    position_ = make_input(graph.input("position"), sizes, Type::kInt64, 1);
    unfinished_ = make_tensor(graph.output("unfinished"), sizes);
    for (std::optional<OpenVinoRequest>& decoder : decoders_) {
      if (!decoder) decoder.emplace(backend_, Graph::kDecoder);
      decoder->set("length_penalty", length_penalty_);
      decoder->set("early_stopping", early_stopping_);
      decoder->set("max_length", max_length_);
      decoder->set("position", position_);
      decoder->set("unfinished", unfinished_);
    }
    must_clear_caches_ = true;  // new memory may hold NaN
    return {length_penalty_.data<float>(), early_stopping_.data<bool>(), max_length_.data<std::int64_t>(),
            position_.data<std::int64_t>()};
  }

  void start_search(std::size_t steps) override {
    max_steps_ = steps;
    resize(pairs(), std::min(kCacheSteps, steps));
    for (std::size_t i = 0; i < state().tensors.size(); ++i) {
      const StateTensor& tensor = state().tensors[i];
      // The mask hides the values that an earlier search left in the caches, except NaN and infinity: 0 * NaN is NaN.
      if (tensor.is_cache && !must_clear_caches_) continue;
      ov::Tensor& value = values_[0][i];
      write_initial_value(
          tensor, beams(),
          {static_cast<std::uint8_t*>(value.data()), tensor.is_cache ? capacities_[i] : value.get_byte_size()});
    }
    must_clear_caches_ = false;
  }

  void run_decoder(std::size_t position) override {
    if (position == cache_steps_) grow_caches();
    decoders_[newest()]->run();
    write_new_kv(position);
    for (const float score : view<float>(values_[1 - newest()][state().scores], ov::element::f32)) {
      must_clear_caches_ = must_clear_caches_ || !std::isfinite(score);
    }
  }

  std::int64_t unfinished() override {
    const Span<const std::int64_t> count = view<std::int64_t>(unfinished_, ov::element::i64);
    if (count.size() != 1) fail(RSICRC_BAD_MODEL, "the decoder's unfinished is no scalar: export the model again");
    return count[0];
  }

  Span<const std::uint8_t> state_value(std::size_t index) override {
    const ov::Tensor& tensor = values_[newest()][index];
    if (tensor.get_element_type() != element_type(state().tensors[index].spec.type)) {
      fail(RSICRC_BAD_MODEL, "a graph's output differs in type from the manifest: export the model again");
    }
    return {static_cast<const std::uint8_t*>(tensor.data()), tensor.get_byte_size()};
  }

  bool drop_rows(Span<const std::size_t> kept) override {
    const auto move_rows = [&](ov::Tensor& tensor) {
      auto* const bytes = static_cast<std::uint8_t*>(tensor.data());
      const std::size_t row = tensor.get_byte_size() / rows();
      for (std::size_t i = 0; i < kept.size(); ++i) {
        if (kept[i] != i) std::memcpy(bytes + i * row, bytes + kept[i] * row, row);
      }
    };
    for (ov::Tensor& tensor : values_[newest()]) move_rows(tensor);
    for (auto& [name, tensor] : cross_) move_rows(tensor);
    resize(kept.size(), cache_steps_);
    return true;
  }

 private:
  using NamedTensors = std::vector<std::pair<std::string, ov::Tensor>>;

  // Splits the image encoder's input and outputs into parts of at most kPairsPerRun pairs, of sizes as equal as
  // possible.
  void split_batch(std::size_t pairs) {
    parts_.clear();
    const std::size_t count = (pairs + kPairsPerRun - 1) / kPairsPerRun;
    for (std::size_t i = 0, first = 0; i < count; ++i) {
      const std::size_t rows = (pairs - first + count - i - 1) / (count - i);
      NamedTensors& part = parts_.emplace_back();
      part.emplace_back("images", rows_of(images_, first, rows));
      part.emplace_back("image_embedding", rows_of(image_embedding_, first, rows));
      for (const auto& [name, tensor] : cross_) part.emplace_back(name, rows_of(tensor, first, rows));
      first += rows;
    }
  }

  // Gives the cross-attention tensors a row for every pair again after a search that dropped rows. Their memory stays.
  void restore_cross() {
    for (auto& [name, tensor] : cross_) {
      set_shape(tensor, manifest().graph(Graph::kImageEncoder).output(name), Sizes::of_images(pairs()));
    }
    if (scorer_) set_cross(*scorer_);
    cross_rows_ = pairs();
  }

  void set_cross(OpenVinoRequest& request) {
    for (const auto& [name, tensor] : cross_) request.set(name, tensor);
  }

  // Copies the new keys and values of a step, [rows, heads, beams, width], into the caches, [rows, heads, P, width].
  void write_new_kv(std::size_t position) {
    for (std::size_t i = 0; i < state().tensors.size(); ++i) {
      if (!state().tensors[i].is_cache) continue;
      const ov::Tensor& source = new_kv_[i];
      const std::size_t heads = source.get_shape()[0] * source.get_shape()[1];
      const std::size_t bytes = source.get_byte_size() / heads;
      const auto* const from = static_cast<const std::uint8_t*>(source.data());
      auto* const to = static_cast<std::uint8_t*>(values_[newest()][i].data()) + position * bytes;
      for (std::size_t head = 0; head < heads; ++head) {
        std::memcpy(to + head * cache_steps_ * bytes, from + head * bytes, bytes);
      }
    }
  }

  // Sets the shapes of the search's tensors for so many rows and decoding steps, and binds them to the requests.
  void resize(std::size_t rows, std::size_t steps) {
    cross_rows_ = rows;
    cache_steps_ = steps;
    const std::vector<StateTensor>& tensors = state().tensors;
    const Sizes sizes = Sizes::of_search(rows, beams(), steps);
    for (std::vector<ov::Tensor>& values : values_) {
      for (std::size_t i = 0; i < tensors.size(); ++i) set_shape(values[i], tensors[i].spec, sizes);
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].is_cache) set_shape(new_kv_[i], tensors[i].spec, Sizes::of_search(rows, beams(), 1));
    }
    for (auto& [name, tensor] : cross_) {
      set_shape(tensor, manifest().graph(Graph::kImageEncoder).output(name), sizes);
    }
    for (std::size_t set = 0; set < 2; ++set) {
      OpenVinoRequest& decoder = *decoders_[set];
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        decoder.set(tensors[i].name, values_[set][i]);
        decoder.set(tensors[i].next_name, tensors[i].is_cache ? new_kv_[i] : values_[1 - set][i]);
      }
      set_cross(decoder);
    }
  }

  void set_shape(ov::Tensor& tensor, const TensorSpec& spec, const Sizes& sizes) {
    concrete_shape(spec, sizes, shape_);
    tensor.set_shape(shape_);
  }

  // Adds cache slots for kCacheSteps steps: moves the values of each head, or mask row, to their offset in the new
  // shape.
  void grow_caches() {
    const std::size_t steps = std::min(cache_steps_ + kCacheSteps, max_steps_);
    const std::size_t old_slots = beams() * cache_steps_;
    const std::size_t slots = beams() * steps;
    for (std::size_t i = 0; i < state().tensors.size(); ++i) {
      const TensorSpec& spec = state().tensors[i].spec;
      const auto axis = std::find_if(spec.shape.begin(), spec.shape.end(),
                                     [](const Dimension& dimension) { return dimension.name == "P"; });
      if (axis == spec.shape.end()) continue;
      ov::Tensor& tensor = values_[newest()][i];
      auto* const bytes = static_cast<std::uint8_t*>(tensor.data());
      const std::size_t slot_bytes =
          std::accumulate(axis + 1, spec.shape.end(), bytes_of(spec.type),
                          [](std::size_t size, const Dimension& next) { return size * next.number; });
      const std::size_t old_bytes = old_slots * slot_bytes;
      const std::size_t new_bytes = slots * slot_bytes;
      for (std::size_t part = tensor.get_byte_size() / old_bytes; part-- > 0;) {
        std::memmove(bytes + part * new_bytes, bytes + part * old_bytes, old_bytes);
        std::memset(bytes + part * new_bytes + old_bytes, 0, new_bytes - old_bytes);
      }
    }
    resize(rows(), steps);
  }

  OpenVinoBackend& backend_;

  std::optional<OpenVinoRequest> image_encoder_;
  ov::Tensor images_, image_embedding_;
  NamedTensors cross_;               // cross-attention keys and values, [pairs, …]
  std::size_t cross_rows_ = 0;       // pairs in the present shape of cross_
  std::vector<NamedTensors> parts_;  // views of the pairs in one run of the image encoder

  std::optional<OpenVinoRequest> text_encoder_;
  ov::Tensor text_ids_;

  std::optional<OpenVinoRequest> scorer_;
  ov::Tensor scorer_ids_;

  std::array<std::optional<OpenVinoRequest>, 2> decoders_;  // decoder i reads values_[i] and writes values_[1 - i]
  std::array<std::vector<ov::Tensor>, 2> values_;           // of the state tensors
  std::vector<ov::Tensor> new_kv_;       // new keys or values of a step for each cache; empty for other state tensors
  std::vector<std::size_t> capacities_;  // bytes of each state tensor for the longest search
  std::size_t cache_steps_ = 0;          // decoding steps that the caches hold in their present shape
  std::size_t max_steps_ = 0;            // of the present search
  ov::Tensor length_penalty_, early_stopping_, max_length_, position_, unfinished_;
  bool must_clear_caches_ = true;
  ov::Shape shape_;  // reused, so that a new shape allocates nothing
};

}  // namespace

std::unique_ptr<Session> OpenVinoBackend::session() { return std::make_unique<OpenVinoSession>(*this); }

}  // namespace rsicrc::impl
