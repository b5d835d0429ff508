// cpp_overhead MODEL PAIRS BEAMS REPEAT [THREADS]: what the library takes beside the backend's own calls.
//
// Captions the same pairs through the library and by bare OpenVINO calls (image encoder, scorer, decoder step by step,
// with buffers bound once and the words written into the caches), in turn in one process; prints the processor time of
// both, median and shortest, which other programs on the machine disturb less than the clock on the wall. All pairs are
// one pair, so that none leaves the batch early, and no search is longer than the caches' first room: both sides do the
// same work. The sentences that the scorer gets are as many, and as long, as those of the example model that mean no
// change.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <iostream>
#include <map>
#include <openvino/openvino.hpp>
#include <rsicrc/rsicrc.hpp>

namespace {

constexpr std::size_t kSentences = 5, kIds = 9;
constexpr std::size_t kLongest = 17;
constexpr std::size_t kPairs = 8;  // in one run of the image encoder, as in the library

// What the library does with OpenVINO, and nothing else.
class Bare {
 public:
  Bare(const std::string& folder, std::size_t pairs, std::size_t beams, std::size_t longest, int threads)
      : longest_(longest) {
    image_ = open(folder + "/image_encoder.onnx", threads);
    scorer_ = open(folder + "/scorer.onnx", threads);
    first_ = open(folder + "/decoder.onnx", threads);
    second_ = decoder_.create_infer_request();
    const auto images = image_.get_compiled_model().input().get_partial_shape();
    const auto side = static_cast<std::size_t>(images[2].get_length());
    images_ = ov::Tensor(ov::element::u8, {pairs, 2, side, side, 3});
    image_.set_input_tensor(images_);
    image_.infer();  // now its outputs have their shapes
    for (const auto& output : image_.get_compiled_model().outputs()) {
      const ov::Tensor like = image_.get_tensor(output);
      encoded_[output.get_any_name()] = ov::Tensor(like.get_element_type(), like.get_shape());
    }
    const std::size_t parts = (pairs + kPairs - 1) / kPairs;
    for (std::size_t i = 0, first = 0; i < parts; ++i) {
      const std::size_t rows = (pairs - first + parts - i - 1) / (parts - i);
      parts_.push_back({{"images", rows_of(images_, first, rows)}});
      for (auto& [name, tensor] : encoded_) parts_.back()[name] = rows_of(tensor, first, rows);
      first += rows;
    }
    const std::size_t places = beams * (longest - 1);
    for (const auto& input : decoder_.inputs()) {
      const std::string name = input.get_any_name();
      if (name.rfind("cross_", 0) == 0) {
        first_.set_tensor(name, encoded_.at(name));
        second_.set_tensor(name, encoded_.at(name));
        if (has_input(scorer_, name)) scorer_.set_tensor(name, encoded_.at(name));
        continue;
      }
      ov::Shape shape;
      for (const auto& axis : input.get_partial_shape()) {
        // What varies is, in order, pairs, beams, and places, which come third of the caches' axes too.
        const std::size_t varying = shape.empty() ? pairs : shape.size() == 1 ? beams : places;
        shape.push_back(axis.is_static() ? static_cast<std::size_t>(axis.get_length()) : varying);
      }
      ov::Tensor one(input.get_element_type(), shape);
      if (name.rfind("self_", 0) == 0) {
        shape[2] = beams;
        const ov::Tensor words(input.get_element_type(), shape);
        for (ov::InferRequest* request : {&first_, &second_}) {
          request->set_tensor(name, one);
          request->set_tensor("next_" + name, words);
        }
        std::memset(one.data(), 0, one.get_byte_size());
        caches_.emplace_back(one, words);
        continue;
      }
      ov::Tensor other(input.get_element_type(), shape);
      if (has_output(decoder_, "next_" + name)) {
        first_.set_tensor(name, one), second_.set_tensor("next_" + name, one);
        second_.set_tensor(name, other), first_.set_tensor("next_" + name, other);
        std::memset(one.data(), 0, one.get_byte_size());
        std::memset(other.data(), 0, other.get_byte_size());
        state_[name] = one;
      } else {
        first_.set_tensor(name, one), second_.set_tensor(name, one);
        state_[name] = one;
      }
    }
    ov::Tensor sentences(ov::element::i64, {kSentences, kIds});
    std::fill_n(sentences.data<std::int64_t>(), kSentences * kIds, 2);
    scorer_.set_tensor("input_ids", sentences);
  }

  void images(const std::vector<rsicrc::Pair>& pairs) {
    auto* room = images_.data<std::uint8_t>();
    for (const rsicrc::Pair& pair : pairs) {
      for (const rsicrc_image* image : {&pair.before, &pair.after}) {
        room = std::copy_n(image->pixels, 3 * image->width * image->height, room);
      }
    }
  }

  // Returns the number of steps.
  std::size_t run(std::size_t beams, float length_penalty, bool early_stopping) {
    for (const auto& part : parts_) {
      for (const auto& [name, tensor] : part) image_.set_tensor(name, tensor);
      image_.infer();
    }
    scorer_.infer();
    for (const char* name : {"parents", "finished_lengths", "finished_tokens", "finished_parents", "done", "lineage"}) {
      std::memset(state_[name].data(), 0, state_[name].get_byte_size());
    }
    for (const char* name : {"finished_scores", "finished_sums", "scores"}) {
      std::fill_n(state_[name].data<float>(), state_[name].get_size(), -1e9F);
    }
    for (std::size_t i = 0; i < state_["scores"].get_size(); i += beams) state_["scores"].data<float>()[i] = 0;
    std::fill_n(state_["tokens"].data<std::int64_t>(), state_["tokens"].get_size(), 1);
    *state_["length_penalty"].data<float>() = length_penalty;
    *state_["early_stopping"].data<bool>() = early_stopping;
    *state_["max_length"].data<std::int64_t>() = static_cast<std::int64_t>(longest_);
    ov::InferRequest *now = &first_, *next = &second_;
    for (std::size_t step = 0; step < longest_ - 1; ++step, std::swap(now, next)) {
      *state_["position"].data<std::int64_t>() = static_cast<std::int64_t>(step);
      now->infer();
      for (auto& [cache, words] : caches_) write_words(cache, words, step);
      if (*now->get_tensor("unfinished").data<std::int64_t>() == 0) return step + 1;
    }
    return longest_ - 1;
  }

 private:
  ov::InferRequest open(const std::string& path, int threads) {
    const std::shared_ptr<ov::Model> model = core_.read_model(path);
    for (const auto& result : ov::ResultVector(model->get_results())) {
      ov::Output<ov::Node> value = result->input_value(0);
      if (value.get_names().count("attention") != 0) model->remove_result(result);
      if (std::strcmp(value.get_node()->get_type_name(), "ScatterNDUpdate") != 0) continue;
      ov::Output<ov::Node> words = value.get_node()->input_value(2);
      const std::unordered_set<std::string> names = value.get_names();
      value.set_names({});
      words.add_names(names);
      result->input(0).replace_source_output(words);
    }
    const ov::AnyMap properties = {ov::inference_num_threads(threads), ov::num_streams(1),
                             ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                             ov::hint::inference_precision(ov::element::f32), ov::hint::enable_cpu_pinning(false)};
    decoder_ = core_.compile_model(model, "CPU", properties);
    return decoder_.create_infer_request();
  }

  // A step's words [pairs, heads, beams, width] into their places of a cache [pairs, heads, places, width].
  static void write_words(ov::Tensor& cache, const ov::Tensor& words, std::size_t step) {
    const ov::Shape shape = words.get_shape();
    const std::size_t heads = shape[0] * shape[1], bytes = words.get_byte_size() / heads;
    const std::size_t row = cache.get_byte_size() / heads;
    for (std::size_t head = 0; head < heads; ++head) {
      std::memcpy(static_cast<std::uint8_t*>(cache.data()) + head * row + step * bytes,
                  static_cast<const std::uint8_t*>(words.data()) + head * bytes, bytes);
    }
  }

  static ov::Tensor rows_of(ov::Tensor whole, std::size_t first, std::size_t count) {
    ov::Shape shape = whole.get_shape();
    const std::size_t row = whole.get_byte_size() / shape[0];
    shape[0] = count;
    return {whole.get_element_type(), shape, static_cast<std::uint8_t*>(whole.data()) + first * row};
  }

  static bool has_output(const ov::CompiledModel& model, const std::string& name) {
    const auto outputs = model.outputs();
    return std::any_of(outputs.begin(), outputs.end(), [&](const auto& output) { return output.get_names().count(name); });
  }
  static bool has_input(ov::InferRequest& request, const std::string& name) {
    const auto inputs = request.get_compiled_model().inputs();
    return std::any_of(inputs.begin(), inputs.end(), [&](const auto& input) { return input.get_names().count(name); });
  }

  std::size_t longest_;
  ov::Tensor images_;
  std::map<std::string, ov::Tensor> encoded_;                // what the image encoder gives for all pairs
  std::vector<std::map<std::string, ov::Tensor>> parts_;  // views of the pairs in one run of it
  ov::Core core_;
  ov::CompiledModel decoder_;  // the graph opened last
  ov::InferRequest image_, scorer_, first_, second_;
  std::map<std::string, ov::Tensor> state_;
  std::vector<std::pair<ov::Tensor, ov::Tensor>> caches_;  // and what a step adds to each
};

double processor_milliseconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return 1e3 * static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_nsec);
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

double shortest(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  const std::size_t pairs = std::stoul(argv[2]), beams = std::stoul(argv[3]), repeat = std::stoul(argv[4]);
  rsicrc::OpenOptions options;
  options.threads = argc > 5 ? std::stoi(argv[5]) : 1;
  options.max_batch = pairs;
  const rsicrc::Model model(argv[1], options);
  rsicrc::Context context(model);
  const rsicrc_info info = model.info();
  std::vector<std::uint8_t> pixels(2 * 3 * info.image_size * info.image_size);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>((i * 2654435761U) >> 11);
  std::vector<rsicrc::Pair> list;
  for (std::size_t i = 0; i < pairs; ++i) {
    const std::size_t square = 3 * info.image_size * info.image_size;
    list.emplace_back(rsicrc::Image(&pixels[0], info.image_size, info.image_size),
                      rsicrc::Image(&pixels[square], info.image_size, info.image_size));
  }
  rsicrc::CaptionOptions search;
  search.beams = beams;
  search.max_length = std::min(info.max_length, kLongest);
  Bare bare(argv[1], pairs, beams, search.max_length, options.threads);
  bare.images(list);
  std::vector<double> through, alone, ratios;
  std::size_t steps = 0;
  for (std::size_t i = 0; i < repeat + 2; ++i) {
    const double begin = processor_milliseconds();
    context.caption(list, search);
    const double between = processor_milliseconds();
    steps = bare.run(beams, 1.0F, true);
    const double end = processor_milliseconds();
    if (i < 2) continue;  // the first calls make buffers
    through.push_back(between - begin);
    alone.push_back(end - between);
    ratios.push_back(through.back() / alone.back());
  }
  std::cout << pairs << " pairs, " << beams << " beams, " << steps << " steps: library " << median(through)
            << " ms, bare calls " << median(alone) << " ms (ratio " << median(ratios) << "); shortest " << shortest(through) << " and " << shortest(alone) << " ms\n";
}
