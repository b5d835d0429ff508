// Runs internal parts of the library for comparison with Python.
//   probe encode TOKENIZER            reads texts, one a line; writes the token ids of each, or "-" for a refused text
//   probe resize SIZE WIDTH HEIGHT    reads pixels; writes the prepared square
//   probe plan FOLDER GRAPH LIBRARY VERSION DEVICE [ENGINES]    writes the path of the TensorRT plan that fits
//   probe plan_folder GRAPH_SHA256 LIBRARY VERSION DEVICE       writes the folder of its plans in the user's cache
//   probe graphs FOLDER    reads paths of ONNX files, one a line; writes "ok" or the reason why each is refused
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "error.h"
#include "files.h"
#include "manifest.h"
#include "onnx_file.h"
#include "plans.h"
#include "preprocessing.h"
#include "printable.h"
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

void plan(const char* folder, const std::string& graph, const PlanReader& reader, const char* named) {
  const auto engines = named == nullptr ? std::nullopt : std::optional<std::filesystem::path>(named);
  const Manifest manifest = Manifest::load(folder);
  for (std::size_t i = 0; i < kGraphs; ++i) {
    if (graph != name_of(static_cast<Graph>(i))) continue;
    std::cout << find_plan(engines, manifest, static_cast<Graph>(i), reader).path.string() << '\n';
  }
}

void graphs(const char* folder) {
  const Manifest manifest = Manifest::load(folder);
  for (std::string path; std::getline(std::cin, path);) {
    try {
      check_graph(read_file(path, std::size_t{1} << 30), manifest.files);
      std::cout << "ok\n";
    } catch (const Error& error) {
      std::cout << printable(error.what()) << '\n';
    }
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
      const PlanReader reader{arguments.at(3), arguments.at(4), arguments.at(5)};
      plan(argv[2], arguments.at(2), reader, arguments.size() > 6 ? argv[7] : nullptr);
    }
    if (arguments.at(0) == "plan_folder") {
      std::cout << plan_folder(arguments.at(1), {arguments.at(2), arguments.at(3), arguments.at(4)}).value().string();
    }
    if (arguments.at(0) == "graphs") graphs(argv[2]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
