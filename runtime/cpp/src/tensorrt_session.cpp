// Sessions on an NVIDIA GPU by TensorRT 10, 11 or TensorRT-RTX, from plans in the model folder.
#include <NvInferRuntime.h>
#include <NvInferVersion.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>

#include "device_memory.h"
#include "error.h"
#include "files.h"
#include "plans.h"
#include "session.h"

namespace rsicrc::impl {
namespace {

#ifdef TRT_MAJOR_RTX
constexpr char kLibrary[] = "tensorrt_rtx";
#else
constexpr char kLibrary[] = "tensorrt";
#endif
constexpr std::size_t kMostPlanBytes = std::size_t{1} << 36;

// Keeps the last error, for our own message.
class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      last_ = message;
    } catch (...) {  // no memory for a message is no reason to end
    }
  }
  std::string last() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_.empty() ? "it gave no reason" : last_;
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

std::string version_text(std::int32_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

// Asked before TensorRT is touched: without a driver some of its builds give objects that crash.
PlanReader require_device(int device) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    fail(RSICRC_BACKEND, "TensorRT needs an NVIDIA GPU and its driver: ",
         error == cudaSuccess ? "there is no GPU" : cudaGetErrorString(error));
  }
  if (device >= count) fail(RSICRC_BACKEND, "no GPU ", device, ": there are ", count, ", counted from 0");
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "asking for the GPU's name");
  check_cuda(cudaSetDevice(device), "choosing the GPU");
  const std::int32_t version = getInferLibVersion();
  if (version / 10000 != NV_TENSORRT_MAJOR) {
    fail(RSICRC_BACKEND, "built against ", kLibrary, " ", NV_TENSORRT_MAJOR, ", but ", version_text(version),
         " was loaded: build the library again");
  }
  return {
      kLibrary, version_text(version),
      std::string(properties.name) + " " + std::to_string(properties.major) + "." + std::to_string(properties.minor)};
}

class TensorRtBackend : public Backend {
 public:
  TensorRtBackend(std::filesystem::path folder, const Manifest& manifest, int device)
      : folder_(std::move(folder)), manifest_(manifest), device_(device), reader_(require_device(device)) {
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    if (!runtime_) fail(RSICRC_BACKEND, kLibrary, " cannot start: ", logger_.last());
  }

  const char* name() const override { return "tensorrt"; }
  std::unique_ptr<Session> session() override;
  const Manifest& manifest() const { return manifest_; }
  std::string last_error() { return logger_.last(); }
  // Devices are chosen thread by thread.
  void enter() const { check_cuda(cudaSetDevice(device_), "choosing the GPU"); }

  // Returns the engine of a graph, whose plan is loaded when it is first asked for.
  nvinfer1::ICudaEngine& engine(Graph graph) {
    const std::lock_guard<std::mutex> lock(loading_);
    std::unique_ptr<nvinfer1::ICudaEngine>& engine = engines_[static_cast<std::size_t>(graph)];
    if (!engine) {
      const std::filesystem::path file = find_plan(folder_, manifest_, graph, reader_);
      const std::string plan = read_file(file, kMostPlanBytes);
      engine.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
      if (!engine) fail(RSICRC_BACKEND, file.string(), ": ", kLibrary, " refuses this plan: ", logger_.last());
    }
    return *engine;
  }

 private:
  std::filesystem::path folder_;
  const Manifest& manifest_;
  int device_;
  PlanReader reader_;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::mutex loading_;
  std::array<std::unique_ptr<nvinfer1::ICudaEngine>, kGraphs> engines_;
};

// A graph's execution context.
class Runner {
 public:
  Runner(TensorRtBackend& backend, Graph graph)
      : backend_(backend), graph_(graph), engine_(backend.engine(graph)), context_(engine_.createExecutionContext()) {
    if (!context_) fail(RSICRC_OUT_OF_MEMORY, "no memory on the GPU for ", name_of(graph), ": ", backend.last_error());
  }

  // Gives an input or output its memory, and an input its shape.
  void bind(const TensorSpec& spec, const Sizes& sizes, const DualBuffer& buffer, bool is_input) {
    const char* name = spec.name.c_str();
    const bool on_host = engine_.getTensorLocation(name) == nvinfer1::TensorLocation::kHOST;
    if (is_input) set_shape(name, concrete_shape(spec, sizes));
    if (!context_->setTensorAddress(name, on_host ? buffer.host<void>() : buffer.device())) refused(name);
    reads_host_ = reads_host_ || on_host;
  }

  // Whether an input is read when the work is queued, so that a recording would keep its value for ever.
  bool reads_host() const { return reads_host_; }

  void enqueue(cudaStream_t stream) {
    if (!context_->enqueueV3(stream)) {
      fail(RSICRC_BACKEND, "graph '", name_of(graph_), "' failed in ", kLibrary, ": ", backend_.last_error());
    }
  }

 private:
  void set_shape(const char* name, const std::vector<std::size_t>& shape) {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    if (shape.size() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) refused(name);
    const auto least = engine_.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMIN);
    const auto most = engine_.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMAX);
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      const auto size = static_cast<std::int64_t>(shape[axis]);
      dims.d[axis] = size;
      if (size >= least.d[axis] && size <= most.d[axis]) continue;
      fail(RSICRC_BACKEND, "the plan of ", name_of(graph_), " takes ", least.d[axis], " to ", most.d[axis], " on axis ",
           axis, " of ", name, ", not ", size, ": lower max_batch or beams, or build another profile");
    }
    if (!context_->setInputShape(name, dims)) refused(name);
  }

  [[noreturn]] void refused(const char* name) {
    fail(RSICRC_BAD_MODEL, "the plan of ", name_of(graph_), " does not take ", name,
         " as the manifest says: ", backend_.last_error());
  }

  TensorRtBackend& backend_;
  Graph graph_;
  nvinfer1::ICudaEngine& engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  bool reads_host_ = false;
};

// Batches go up to the next power of two, so that few sizes are recorded; what is added is never looked at.
std::size_t bucket(std::size_t count) {
  std::size_t size = 1;
  while (size < count) size *= 2;
  return size;
}

class TensorRtSession : public Session {
 public:
  explicit TensorRtSession(TensorRtBackend& backend)
      : backend_(backend), manifest_(backend.manifest()), state_(search_state(manifest_.graph(Graph::kDecoder))) {}

  std::uint8_t* images(std::size_t pairs) override {
    backend_.enter();
    if (!encoder_) encoder_ = std::make_unique<Runner>(backend_, Graph::kImageEncoder);
    if (bucket(pairs) != bucket_) {
      bucket_ = 0, beams_ = 0, scored_ = {};
      const Sizes sizes{bucket(pairs), 0, 0, 0, 0};
      const GraphSpec& graph = manifest_.graph(Graph::kImageEncoder);
      const std::size_t square = 3 * manifest_.image_size * manifest_.image_size;
      bind(*encoder_, graph.input("images"), sizes, images_, true, true, Type::kUint8, sizes.pairs * 2 * square);
      for (const TensorSpec& output : graph.outputs) {
        bind(*encoder_, output, sizes, outputs_[output.name], false, output.name == "image_embedding");
      }
      require_type(graph.output("image_embedding"), sizes, Type::kFloat32, sizes.pairs * manifest_.embedding_width);
      std::fill_n(images_.host<std::uint8_t>(), images_.bytes(), std::uint8_t{0});
      bucket_ = sizes.pairs;
    }
    pairs_ = pairs;
    return images_.host<std::uint8_t>();
  }

  const float* encode_images() override {
    backend_.enter();
    images_.upload(stream_.get());
    encoder_->enqueue(stream_.get());
    outputs_.at("image_embedding").download(stream_.get());
    stream_.wait();
    return outputs_.at("image_embedding").host<float>();
  }

  std::int64_t* texts(std::size_t sentences, std::size_t ids) override {
    backend_.enter();
    if (!texts_) texts_ = std::make_unique<Runner>(backend_, Graph::kTextEncoder);
    const GraphSpec& graph = manifest_.graph(Graph::kTextEncoder);
    const Sizes sizes{sentences, 0, 0, 0, ids};
    bind(*texts_, graph.input("input_ids"), sizes, text_ids_, true, true, Type::kInt64, sentences * ids);
    bind(*texts_, graph.output("text_embedding"), sizes, text_embedding_, false, true, Type::kFloat32,
         sentences * manifest_.embedding_width);
    return text_ids_.host<std::int64_t>();
  }

  const float* encode_texts() override {
    backend_.enter();
    text_ids_.upload(stream_.get());
    texts_->enqueue(stream_.get());
    text_embedding_.download(stream_.get());
    stream_.wait();
    return text_embedding_.host<float>();
  }

  std::int64_t* sentences(std::size_t sentences, std::size_t ids) override {
    backend_.enter();
    if (!scorer_) scorer_ = std::make_unique<Runner>(backend_, Graph::kScorer);
    if (scored_ != std::array<std::size_t, 2>{sentences, ids}) {
      scored_ = {};
      const GraphSpec& graph = manifest_.graph(Graph::kScorer);
      const Sizes sizes{bucket_, 0, 0, sentences, ids};
      bind(*scorer_, graph.input("input_ids"), sizes, score_ids_, true, true, Type::kInt64, sentences * ids);
      for (const TensorSpec& output : graph.outputs) {
        // "n - 1" is no dimension of its own; the number of places is a number. Both have at most these bytes.
        const bool wanted = output.name == "log_probs";
        DualBuffer& buffer = wanted ? log_probs_ : attention_;
        const std::size_t places = wanted || output.shape.empty() ? 1 : output.shape.back().number;
        buffer.reserve(bucket_ * sentences * ids * places * sizeof(float), wanted);
        scorer_->bind(output, sizes, buffer, false);
      }
      bind_cross(*scorer_, graph, sizes);
      scored_ = {sentences, ids};
    }
    return score_ids_.host<std::int64_t>();
  }

  const float* score() override {
    backend_.enter();
    score_ids_.upload(stream_.get());
    scorer_->enqueue(stream_.get());
    log_probs_.download(stream_.get());
    stream_.wait();
    return log_probs_.host<float>();
  }

  void begin_search(const SearchOptions& options) override {
    backend_.enter();
    if (beams_ != options.beams) make_search(options.beams);
    *settings_["length_penalty"].host<float>() = static_cast<float>(options.length_penalty);
    *settings_["early_stopping"].host<bool>() = options.early_stopping;
    *settings_["max_length"].host<std::int64_t>() = static_cast<std::int64_t>(options.max_length);
    for (const char* name : {"length_penalty", "early_stopping", "max_length"}) settings_[name].upload(stream_.get());
    newest_ = 0;
    for (std::size_t i = 0; i < state_.size(); ++i) {
      const DualBuffer& buffer = values_[0][i];
      if (state_[i].is_cache) {
        check_cuda(cudaMemsetAsync(buffer.device(), 0, buffer.bytes(), stream_.get()), "clearing a cache");
        continue;
      }
      write_first_value(state_[i], beams_, buffer.host<void>(), buffer.bytes());
      // What was added to fill the bucket is done from the start: the count of unfinished pairs leaves it out.
      if (state_[i].name == "done") {
        std::fill(buffer.host<bool>() + pairs_, buffer.host<bool>() + buffer.bytes(), true);
      }
      buffer.upload(stream_.get());
    }
    stream_.wait();
  }

  Step step(std::size_t position) override {
    *settings_.at("position").host<std::int64_t>() = static_cast<std::int64_t>(position);
    if (decoders_[newest_]->reads_host()) {
      queue_step(newest_);
    } else {
      recorded_[newest_].replay(stream_.get());
    }
    stream_.wait();
    newest_ = 1 - newest_;
    return {value("tokens").host<std::int64_t>(), value("parents").host<std::int64_t>(), value("scores").host<float>(),
            static_cast<std::size_t>(*unfinished_.host<std::int64_t>())};
  }

  Finished finished() override {
    for (const char* name :
         {"finished_scores", "finished_sums", "finished_lengths", "finished_tokens", "finished_parents", "done"}) {
      value(name).download(stream_.get());
    }
    stream_.wait();
    return {value("finished_scores").host<float>(),        value("finished_lengths").host<std::int64_t>(),
            value("finished_tokens").host<std::int64_t>(), value("finished_parents").host<std::int64_t>(),
            value("finished_sums").host<float>(),          value("done").host<std::uint8_t>()};
  }

  // The recorded steps are for whole batches.
  bool keep(const std::vector<std::size_t>&) override { return false; }

 private:
  static void require_type(const TensorSpec& spec, const Sizes& sizes, Type type, std::size_t count) {
    if (spec.type == type && element_count(concrete_shape(spec, sizes)) == count) return;
    fail(RSICRC_BAD_MODEL, spec.name, " has another type or shape than graphs of this format: export the model again");
  }

  static void bind(Runner& runner, const TensorSpec& spec, const Sizes& sizes, DualBuffer& buffer, bool is_input,
                   bool with_host) {
    buffer.reserve(element_count(concrete_shape(spec, sizes)) * bytes_of(spec.type), with_host);
    runner.bind(spec, sizes, buffer, is_input);
  }

  // For what the host reads or writes: of this type and so many elements, whatever the manifest says.
  static void bind(Runner& runner, const TensorSpec& spec, const Sizes& sizes, DualBuffer& buffer, bool is_input,
                   bool with_host, Type type, std::size_t count) {
    require_type(spec, sizes, type, count);
    bind(runner, spec, sizes, buffer, is_input, with_host);
  }

  void bind_cross(Runner& runner, const GraphSpec& graph, const Sizes& sizes) {
    for (const TensorSpec& input : graph.inputs) {
      if (input.name.rfind("cross_", 0) == 0) runner.bind(input, sizes, outputs_.at(input.name), true);
    }
  }

  const DualBuffer& value(std::string_view name) const {
    for (std::size_t i = 0; i < state_.size(); ++i) {
      if (state_[i].name == name) return values_[newest_][i];
    }
    fail(RSICRC_BAD_MODEL, "the decoder has no state ", name);
  }

  // Two contexts used in turn: what one writes the other reads. A step of each is recorded, with the one number and the
  // three rows that the host looks at.
  void make_search(std::size_t beams) {
    beams_ = 0;
    const GraphSpec& graph = manifest_.graph(Graph::kDecoder);
    const Sizes sizes{bucket_, beams, beams * (manifest_.max_length - 1), 0, 0};
    for (std::size_t turn = 0; turn < 2; ++turn) {
      values_[turn].resize(state_.size());
      for (std::size_t i = 0; i < state_.size(); ++i) {
        const std::size_t bytes = element_count(concrete_shape(state_[i].spec, sizes)) * bytes_of(state_[i].spec.type);
        const bool read = !state_[i].is_cache;
        const std::size_t expected = (state_[i].name == "done" ? 1 : beams) * bucket_ * bytes_of(state_[i].spec.type);
        if (read && state_[i].name != "lineage" && bytes != expected) {
          fail(RSICRC_BAD_MODEL, state_[i].name, " is not one number for each beam: export the model again");
        }
        values_[turn][i].reserve(bytes, read);
      }
    }
    unfinished_.reserve(sizeof(std::int64_t), true);
    require_type(graph.output("unfinished"), sizes, Type::kInt64, 1);
    for (std::size_t turn = 0; turn < 2; ++turn) {
      if (!decoders_[turn]) decoders_[turn] = std::make_unique<Runner>(backend_, Graph::kDecoder);
      Runner& runner = *decoders_[turn];
      for (std::size_t i = 0; i < state_.size(); ++i) {
        runner.bind(state_[i].spec, sizes, values_[turn][i], true);
        runner.bind(graph.output(state_[i].next_name), sizes, values_[1 - turn][i], false);
      }
      const std::pair<const char*, Type> settings[] = {{"length_penalty", Type::kFloat32},
                                                       {"early_stopping", Type::kBool},
                                                       {"max_length", Type::kInt64},
                                                       {"position", Type::kInt64}};
      for (const auto& [name, type] : settings)
        bind(runner, graph.input(name), sizes, settings_[name], true, true, type, 1);
      runner.bind(graph.output("unfinished"), sizes, unfinished_, false);
      bind_cross(runner, graph, sizes);
      *settings_["position"].host<std::int64_t>() = 0;
      // Once as it is: the first run with new shapes makes what a recording must not.
      queue_step(turn);
      stream_.wait();
      if (!runner.reads_host()) recorded_[turn].record(stream_.get(), [&] { queue_step(turn); });
    }
    beams_ = beams;
  }

  void queue_step(std::size_t turn) {
    settings_.at("position").upload(stream_.get());
    decoders_[turn]->enqueue(stream_.get());
    for (std::size_t i = 0; i < state_.size(); ++i) {
      const std::string& name = state_[i].name;
      if (name == "tokens" || name == "parents" || name == "scores") values_[1 - turn][i].download(stream_.get());
    }
    unfinished_.download(stream_.get());
  }

  TensorRtBackend& backend_;
  const Manifest& manifest_;
  const std::vector<StateTensor> state_;
  Stream stream_;

  std::unique_ptr<Runner> encoder_;
  std::size_t pairs_ = 0, bucket_ = 0;
  DualBuffer images_;
  std::map<std::string, DualBuffer, std::less<>> outputs_;  // of the image encoder

  std::unique_ptr<Runner> texts_;
  DualBuffer text_ids_, text_embedding_;

  std::unique_ptr<Runner> scorer_;
  std::array<std::size_t, 2> scored_{};
  DualBuffer score_ids_, log_probs_, attention_;

  std::array<std::unique_ptr<Runner>, 2> decoders_;
  std::array<RecordedWork, 2> recorded_;
  std::size_t beams_ = 0;
  std::array<std::vector<DualBuffer>, 2> values_;  // of state_; decoder i reads values_[i] and writes the other
  std::size_t newest_ = 0;                         // which of the two holds the present state
  std::map<std::string, DualBuffer, std::less<>> settings_;
  DualBuffer unfinished_;
};

std::unique_ptr<Session> TensorRtBackend::session() {
  enter();
  return std::make_unique<TensorRtSession>(*this);
}

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const std::filesystem::path& folder, const Manifest& manifest,
                                       const BackendOptions& options) {
  return std::make_unique<TensorRtBackend>(folder, manifest, options.device);
}

}  // namespace rsicrc::impl
