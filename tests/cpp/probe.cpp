// Runs internal parts of the library for comparison with Python.
//   probe encode TOKENIZER            reads texts, one a line; writes the token ids of each, or "-" for a refused text
//   probe resize SIZE WIDTH HEIGHT    reads pixels; writes the prepared square
//   probe plan FOLDER GRAPH LIBRARY VERSION DEVICE    writes the path of the TensorRT plan that fits
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "error.h"
#include "manifest.h"
#include "plans.h"
#include "preprocessing.h"
#include "vocabulary.h"

namespace {

using namespace rsicrc::impl;

void encode(const char* tokenizer) {
  const Vocabulary vocabulary = Vocabulary::load(tokenizer);
  for (std::string line; std::getline(std::cin, line);) {
    try {
      for (const std::int64_t id : vocabulary.encode(line)) std::cout << id << ' ';
    } catch (const Error&) {
      std::cout << '-';
    }
    std::cout << '\n';
  }
}

void resize(std::size_t size, std::size_t width, std::size_t height) {
  const std::vector<char> bytes{std::istreambuf_iterator<char>(std::cin), {}};
  const rsicrc_image image{reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), width, height, 0};
  check_pair({image, image}, 0);
  std::vector<std::uint8_t> square(3 * size * size);
  Preprocessor(size).prepare(image, square);
  std::cout.write(reinterpret_cast<const char*>(square.data()), static_cast<std::streamsize>(square.size()));
}

void plan(const char* folder, const std::string& graph, const PlanReader& reader) {
  const Manifest manifest = Manifest::load(folder);
  for (std::size_t i = 0; i < kGraphs; ++i) {
    if (graph != name_of(static_cast<Graph>(i))) continue;
    std::cout << find_plan(folder, manifest, static_cast<Graph>(i), reader).string() << '\n';
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  try {
    if (arguments.at(0) == "encode") encode(argv[2]);
    if (arguments.at(0) == "resize") {
      resize(std::stoul(arguments.at(1)), std::stoul(arguments.at(2)), std::stoul(arguments.at(3)));
    }
    if (arguments.at(0) == "plan") {
      plan(argv[2], arguments.at(2), {arguments.at(3), arguments.at(4), arguments.at(5)});
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
