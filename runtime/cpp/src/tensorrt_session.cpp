// The TensorRT session: pinned and device buffers, one stream, and one captured CUDA graph for each decoder of the two
// that alternate.
#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <utility>

#include "error.h"
#include "session.h"
#include "tensorrt_backend.h"

namespace rsicrc::impl {
namespace {

class TensorRtSession : public Session {
 public:
  explicit TensorRtSession(TensorRtBackend& backend) : Session(backend.manifest()), backend_(backend) {}

 protected:
  // Rounds up to a power of two, so that few sizes are captured. The outputs of the added pairs are never read.
  std::size_t batch_for(std::size_t pairs) const override {
    std::size_t batch = 1;
    while (batch < pairs) batch *= 2;
    return batch;
  }

  Span<std::uint8_t> make_image_buffers(std::size_t batch) override {
    backend_.enter();
    if (!image_encoder_) image_encoder_ = std::make_unique<TensorRtExecution>(backend_, Graph::kImageEncoder);
    const Sizes sizes = Sizes::of_images(batch);
    const GraphSpec& graph = manifest().graph(Graph::kImageEncoder);
    const std::size_t square = 3 * manifest().image_size * manifest().image_size;
    bind_host_input(*image_encoder_, graph.input("images"), sizes, images_, Type::kUint8, batch * 2 * square);
    require_tensor(graph.output("image_embedding"), sizes, Type::kFloat32, batch * manifest().embedding_width);
    for (const TensorSpec& output : graph.outputs) {
      DualBuffer& buffer = image_outputs_[output.name];
      reserve(output, sizes, buffer, output.name == "image_embedding");
      image_encoder_->bind_output(output, buffer);
    }
    const Span<std::uint8_t> images = images_.host_view<std::uint8_t>();
    std::fill(images.begin(), images.end(), std::uint8_t{0});
    return images;
  }

  Span<const float> run_image_encoder() override {
    backend_.enter();
    const DualBuffer& embedding = image_outputs_.at("image_embedding");
    run(*image_encoder_, images_, embedding);
    return embedding.host_view<float>().subspan(0, pairs() * manifest().embedding_width);
  }

  Span<std::int64_t> make_text_buffers(const Sizes& sizes) override {
    backend_.enter();
    if (!text_encoder_) text_encoder_ = std::make_unique<TensorRtExecution>(backend_, Graph::kTextEncoder);
    const GraphSpec& graph = manifest().graph(Graph::kTextEncoder);
    const std::size_t ids = sizes.batch * sizes.length;
    bind_host_input(*text_encoder_, graph.input("input_ids"), sizes, text_ids_, Type::kInt64, ids);
    const TensorSpec& output = graph.output("text_embedding");
    require_tensor(output, sizes, Type::kFloat32, sizes.batch * manifest().embedding_width);
    reserve(output, sizes, text_embedding_, true);
    text_encoder_->bind_output(output, text_embedding_);
    return text_ids_.host_view<std::int64_t>();
  }

  Span<const float> run_text_encoder() override {
    backend_.enter();
    run(*text_encoder_, text_ids_, text_embedding_);
    return text_embedding_.host_view<float>();
  }

  Span<std::int64_t> make_scorer_buffers(const Sizes& sizes) override {
    backend_.enter();
    if (!scorer_) scorer_ = std::make_unique<TensorRtExecution>(backend_, Graph::kScorer);
    const GraphSpec& graph = manifest().graph(Graph::kScorer);
    const std::size_t ids = sizes.texts * sizes.length;
    bind_host_input(*scorer_, graph.input("input_ids"), sizes, scorer_ids_, Type::kInt64, ids);
    for (const TensorSpec& output : graph.outputs) {
      // The axis of length n - 1 has no named size, and the last axis of the attention maps is a number: the outputs
      // have at most these bytes.
      const bool is_read = output.name == "log_probs";
      DualBuffer& buffer = is_read ? log_probs_ : attention_;
      const std::size_t positions = is_read || output.shape.empty() ? 1 : output.shape.back().number;
      buffer.reserve(sizes.batch * ids * positions * sizeof(float), is_read);
      scorer_->bind_output(output, buffer);
    }
    bind_cross(*scorer_, graph, sizes);
    return scorer_ids_.host_view<std::int64_t>();
  }

  Span<const float> run_scorer() override {
    backend_.enter();
    run(*scorer_, scorer_ids_, log_probs_);
    const Sizes& sizes = scorer_sizes();
    return log_probs_.host_view<float>().subspan(0, pairs() * sizes.texts * (sizes.length - 1));
  }

  Settings make_search_buffers(std::size_t beams) override {
    backend_.enter();
    const GraphSpec& graph = manifest().graph(Graph::kDecoder);
    const Sizes sizes = Sizes::of_search(batch(), beams, manifest().max_length - 1);
    reserve_state(sizes);
    require_tensor(graph.output("unfinished"), sizes, Type::kInt64, 1);
    unfinished_.reserve(sizeof(std::int64_t), true);
    for (std::size_t set = 0; set < 2; ++set) {
      if (!decoders_[set]) decoders_[set] = std::make_unique<TensorRtExecution>(backend_, Graph::kDecoder);
      TensorRtExecution& decoder = *decoders_[set];
      for (std::size_t i = 0; i < state().tensors.size(); ++i) {
        decoder.bind_input(state().tensors[i].spec, sizes, values_[set][i]);
        decoder.bind_output(graph.output(state().tensors[i].next_name), values_[1 - set][i]);
      }
      bind_host_input(decoder, graph.input("length_penalty"), sizes, length_penalty_, Type::kFloat32, 1);
      bind_host_input(decoder, graph.input("early_stopping"), sizes, early_stopping_, Type::kBool, 1);
      bind_host_input(decoder, graph.input("max_length"), sizes, max_length_, Type::kInt64, 1);
      bind_host_input(decoder, graph.input("position"), sizes, position_, Type::kInt64, 1);
      decoder.bind_output(graph.output("unfinished"), unfinished_);
      bind_cross(decoder, graph, sizes);
    }
    *length_penalty_.host<float>() = 1.0F;
    *early_stopping_.host<bool>() = true;
    *max_length_.host<std::int64_t>() = static_cast<std::int64_t>(manifest().max_length);
    // The first run with new shapes allocates, which a capture must not do. It must not read uninitialized memory
    // either: the decoder uses the state as indices.
    upload_initial_state(beams);
    for (std::size_t set = 0; set < 2; ++set) {
      *position_.host<std::int64_t>() = static_cast<std::int64_t>(set);
      enqueue_step(set);
      stream_.wait();
      if (!decoders_[set]->reads_host()) cuda_graphs_[set].capture(stream_.get(), [&] { enqueue_step(set); });
    }
    return {length_penalty_.host<float>(), early_stopping_.host<bool>(), max_length_.host<std::int64_t>(),
            position_.host<std::int64_t>()};
  }

  void start_search(std::size_t) override {
    backend_.enter();
    upload_initial_state(beams());
  }

  void run_decoder(std::size_t) override {
    if (decoders_[newest()]->reads_host()) {
      enqueue_step(newest());
    } else {
      cuda_graphs_[newest()].launch(stream_.get());
    }
    stream_.wait();
  }

  std::int64_t unfinished() override { return *unfinished_.host<std::int64_t>(); }

  Span<const std::uint8_t> state_value(std::size_t index) override {
    const Span<const std::uint8_t> value = values_[newest()][index].host_view<const std::uint8_t>();
    return value.subspan(0, value.size() / batch() * rows());
  }

  void fetch_finished() override {
    const SearchState& index = state();
    for (const std::size_t i : {index.finished_scores, index.finished_sums, index.finished_lengths,
                                index.finished_tokens, index.finished_parents, index.done}) {
      values_[newest()][i].download(stream_.get());
    }
    stream_.wait();
  }

 private:
  static void reserve(const TensorSpec& spec, const Sizes& sizes, DualBuffer& buffer, bool with_host) {
    buffer.reserve(element_count(concrete_shape(spec, sizes)) * bytes_of(spec.type), with_host);
  }

  // Binds an input that the host writes, after a check of its declared type and number of elements.
  static void bind_host_input(TensorRtExecution& execution, const TensorSpec& spec, const Sizes& sizes,
                              DualBuffer& buffer, Type type, std::size_t count) {
    require_tensor(spec, sizes, type, count);
    reserve(spec, sizes, buffer, true);
    execution.bind_input(spec, sizes, buffer);
  }

  void bind_cross(TensorRtExecution& execution, const GraphSpec& graph, const Sizes& sizes) {
    for (const TensorSpec& input : graph.inputs) {
      if (input.name.rfind("cross_", 0) == 0) execution.bind_input(input, sizes, image_outputs_.at(input.name));
    }
  }

  // Allocates both sets of state tensors. The host's copies of all but the caches have one value for each beam or pair.
  void reserve_state(const Sizes& sizes) {
    for (std::vector<DualBuffer>& values : values_) {
      values.resize(state().tensors.size());
      for (std::size_t i = 0; i < state().tensors.size(); ++i) {
        const StateTensor& tensor = state().tensors[i];
        reserve(tensor.spec, sizes, values[i], !tensor.is_cache);
        if (tensor.is_cache || tensor.name == "lineage") continue;
        const std::size_t count = sizes.batch * (i == state().done ? 1 : sizes.beams);
        require_tensor(tensor.spec, sizes, tensor.spec.type, count);
      }
    }
  }

  // Uploads the settings and the initial state of a search into the first set.
  void upload_initial_state(std::size_t beams) {
    for (const DualBuffer* setting : {&length_penalty_, &early_stopping_, &max_length_}) setting->upload(stream_.get());
    for (std::size_t i = 0; i < state().tensors.size(); ++i) {
      const StateTensor& tensor = state().tensors[i];
      const DualBuffer& buffer = values_[0][i];
      if (tensor.is_cache) {
        check_cuda(cudaMemsetAsync(buffer.device(), 0, buffer.bytes(), stream_.get()), "clearing a cache");
        continue;
      }
      const Span<std::uint8_t> value = buffer.host_view<std::uint8_t>();
      write_initial_value(tensor, beams, value);
      // The pairs that fill up the batch are done from the start, and so are not counted as unfinished.
      if (i == state().done) std::fill(value.begin() + pairs(), value.end(), std::uint8_t{1});
      buffer.upload(stream_.get());
    }
    stream_.wait();
  }

  // Runs a graph that has one input and one output in host memory.
  void run(TensorRtExecution& execution, const DualBuffer& input, const DualBuffer& output) {
    input.upload(stream_.get());
    execution.enqueue(stream_.get());
    output.download(stream_.get());
    stream_.wait();
  }

  // Enqueues a decoding step with the copies of its position and of the outputs that the host reads in every step.
  void enqueue_step(std::size_t set) {
    position_.upload(stream_.get());
    decoders_[set]->enqueue(stream_.get());
    for (const std::size_t i : {state().tokens, state().parents, state().scores}) {
      values_[1 - set][i].download(stream_.get());
    }
    unfinished_.download(stream_.get());
  }

  TensorRtBackend& backend_;
  Stream stream_;

  std::unique_ptr<TensorRtExecution> image_encoder_;
  DualBuffer images_;
  std::map<std::string, DualBuffer, std::less<>> image_outputs_;

  std::unique_ptr<TensorRtExecution> text_encoder_;
  DualBuffer text_ids_, text_embedding_;

  std::unique_ptr<TensorRtExecution> scorer_;
  DualBuffer scorer_ids_, log_probs_, attention_;

  std::array<std::unique_ptr<TensorRtExecution>, 2> decoders_;  // decoder i reads values_[i] and writes values_[1 - i]
  std::array<CudaGraph, 2> cuda_graphs_;                        // a step of each decoder
  std::array<std::vector<DualBuffer>, 2> values_;               // of the state tensors
  DualBuffer length_penalty_, early_stopping_, max_length_, position_, unfinished_;
};

}  // namespace

std::unique_ptr<Session> TensorRtBackend::session() {
  enter();
  return std::make_unique<TensorRtSession>(*this);
}

}  // namespace rsicrc::impl
