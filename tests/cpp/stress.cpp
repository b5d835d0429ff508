// stress MODEL: uses several contexts of one model at the same time and compares their results with those of one
// context. For the sanitizers, it runs every function with valid and invalid input.
#include <cmath>
#include <functional>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "image_pairs.h"

namespace {

constexpr std::size_t kThreads = 4;
constexpr int kRounds = 3;

struct Results {
  std::vector<std::string> captions;
  std::vector<float> images, texts;
  std::vector<double> scores;
};

Results compute(const rsicrc::Model& model, const std::vector<rsicrc::Pair>& pairs, std::size_t beams) {
  rsicrc::Context context(model);
  rsicrc::CaptionOptions options;
  options.beams = beams;
  options.n_best = beams;
  Results results;
  for (const rsicrc::Caption& caption : context.caption(pairs, options)) {
    for (const rsicrc::Sentence& sentence : caption.n_best) results.captions.push_back(sentence.text);
  }
  results.images = context.embed_pairs(pairs);
  results.texts = context.embed_texts({"the road is built", "a scene", "nothing has changed, they say"});
  results.scores = context.score(pairs, {"there is no change", "a road"});
  return results;
}

template <typename Number>
bool close(const std::vector<Number>& one, const std::vector<Number>& other) {
  if (one.size() != other.size()) return false;
  for (std::size_t i = 0; i < one.size(); ++i) {
    if (!(std::abs(one[i] - other[i]) <= 1e-4 * (1 + std::abs(one[i])))) return false;
  }
  return true;
}

bool same(const Results& one, const Results& other) {
  return one.captions == other.captions && close(one.images, other.images) && close(one.texts, other.texts) &&
         close(one.scores, other.scores);
}

void expect(rsicrc_status status, const std::function<void()>& work) {
  try {
    work();
  } catch (const rsicrc::Error& error) {
    if (error.status() == status && error.what()[0] != '\0') return;
    throw std::runtime_error(std::string("unexpected error: ") + error.what());
  }
  throw std::runtime_error("invalid input was accepted");
}

void check_refusals(const rsicrc::Model& model, const char* folder) {
  rsicrc::Context context(model);
  const ImagePairs good(1, 100, 90), small(1, 10, 90);
  const rsicrc::Pair& pair = good.pairs().front();
  expect(RSICRC_INVALID_ARGUMENT, [&] { context.caption({}); });
  expect(RSICRC_BAD_IMAGE, [&] { context.caption(small.pairs()); });
  expect(RSICRC_BAD_IMAGE, [&] {
    context.embed_pairs({{rsicrc::Image(pair.before.pixels, 90, 90), rsicrc::Image(pair.before.pixels, 90, 80)}});
  });
  expect(RSICRC_INVALID_ARGUMENT,
         [&] { context.embed_pairs({{rsicrc::Image(nullptr, 90, 90), rsicrc::Image(pair.before.pixels, 90, 90)}}); });
  expect(RSICRC_INVALID_ARGUMENT, [&] { context.embed_texts({"..."}); });
  expect(RSICRC_INVALID_ARGUMENT, [&] { context.embed_texts({"\xff\xfe"}); });
  rsicrc::CaptionOptions options;
  options.beams = 1000000;
  expect(RSICRC_INVALID_ARGUMENT, [&] { context.caption(good.pairs(), options); });
  expect(RSICRC_NOT_FOUND, [&] { rsicrc::Model(std::string(folder) + "/nowhere"); });
  rsicrc::OpenOptions unknown;
  unknown.backend = "abacus";
  expect(RSICRC_BACKEND, [&] { rsicrc::Model(folder, unknown); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    rsicrc::OpenOptions options;
    options.threads = 2;
    options.max_batch = 3;  // less than the number of pairs, so that lists are split
    const rsicrc::Model model(argv[1], options);
    const ImagePairs images(5, 150, 110);
    const auto part = [&](std::size_t thread) {
      return std::vector<rsicrc::Pair>(images.pairs().begin(),
                                       images.pairs().begin() + static_cast<std::ptrdiff_t>(1 + thread));
    };
    std::vector<Results> first(kThreads);
    std::vector<int> different(kThreads);
    std::vector<std::thread> threads;
    // All threads start before any graph is open, so that they compete to open the graphs.
    for (std::size_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        first[i] = compute(model, part(i), 1 + i);
        for (int round = 1; round < kRounds; ++round)
          different[i] += same(first[i], compute(model, part(i), 1 + i)) ? 0 : 1;
      });
    }
    for (std::thread& thread : threads) thread.join();
    int wrong = 0;
    for (std::size_t i = 0; i < kThreads; ++i) {
      wrong += different[i] + (same(first[i], compute(model, part(i), 1 + i)) ? 0 : 1);
    }
    check_refusals(model, argv[1]);
    std::cout << wrong << " results differ\n";
    return wrong == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
