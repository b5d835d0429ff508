// manifest.json: what a model folder holds, and the proof that it holds it unchanged. See rsicrc/manifest.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace rsicrc::impl {

enum class Type { kUint8, kInt64, kFloat32, kBool, kFloat16, kBfloat16 };

std::size_t bytes_of(Type type);

// A number, or the name of what varies ("B" pairs, "K" beams, "P" places in the caches, "N" sentences, "n" ids).
struct Dimension {
  std::size_t number = 0;
  std::string name;
};

struct TensorSpec {
  std::string name;
  Type type = Type::kFloat32;
  std::vector<Dimension> shape;
};

struct GraphSpec {
  std::string file;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;

  const TensorSpec& input(std::string_view name) const;
  const TensorSpec& output(std::string_view name) const;
};

struct FileRecord {
  std::string sha256;
  std::uintmax_t bytes = 0;
};

struct SearchDefaults {
  std::size_t beams = 3;
  double length_penalty = 1.0;
  bool early_stopping = true;
};

enum class Graph { kImageEncoder, kTextEncoder, kDecoder, kScorer };
constexpr std::size_t kGraphs = 4;

const char* name_of(Graph graph);

struct Manifest {
  std::size_t image_size = 0;
  std::size_t max_length = 0;
  std::size_t vocabulary_size = 0;
  std::size_t embedding_width = 0;
  std::string precision;
  SearchDefaults search;
  std::vector<std::string> no_change_sentences;
  std::map<std::string, GraphSpec> graphs;
  std::map<std::string, std::map<std::string, GraphSpec>> variants;  // the same graphs in other precisions
  std::map<std::string, FileRecord> files;

  const GraphSpec& graph(Graph which) const;
  // Makes the graphs of a variant the manifest's own. Throws BACKEND where the folder has none of that name.
  void choose(const std::string& variant, const std::string& folder);

  // Reads a manifest's text; `path` is for messages. Throws BAD_MODEL.
  static Manifest parse(const std::string& text, const std::string& path);
  // Reads a folder's manifest and checks every declared file's size and hash. Throws NOT_FOUND or BAD_MODEL.
  static Manifest load(const std::filesystem::path& folder);
};

// Values of the named dimensions. A name that a graph does not have is left at 0.
struct Sizes {
  std::size_t pairs = 0;      // B
  std::size_t beams = 0;      // K
  std::size_t places = 0;     // P
  std::size_t sentences = 0;  // N
  std::size_t ids = 0;        // n
};

// Returns a tensor's shape in numbers. Throws BAD_MODEL for a name that is none of `Sizes`.
std::vector<std::size_t> concrete_shape(const TensorSpec& spec, const Sizes& sizes);
// Likewise, into `shape`, whose memory it keeps.
void concrete_shape(const TensorSpec& spec, const Sizes& sizes, std::vector<std::size_t>& shape);
// Returns how many elements that shape has. Throws OUT_OF_MEMORY where no machine could hold them.
std::size_t element_count(const std::vector<std::size_t>& shape);

}  // namespace rsicrc::impl
