// manifest.json: the content of a model folder, with the hashes of its files. See rsicrc/manifest.py.
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

// A number, or the name of a size that varies: "B" pairs (texts in the text encoder), "K" beams, "P" cache slots, "N"
// texts, "n" tokens of a text.
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

struct BeamSearchDefaults {
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
  BeamSearchDefaults beam_search;
  std::vector<std::string> no_change_sentences;  // of which each means "nothing changed"
  std::map<std::string, GraphSpec> graphs;
  std::map<std::string, std::map<std::string, GraphSpec>> variants;  // the same graphs in other precisions
  std::map<std::string, FileRecord> files;

  const GraphSpec& graph(Graph which) const;
  // Replaces the graphs with those of a variant. Throws BACKEND if the folder has no variant of that name.
  void choose(const std::string& variant, const std::string& folder);

  // Parses the text of a manifest; `path` is for messages. Throws BAD_MODEL.
  static Manifest parse(const std::string& text, const std::string& path);
  // Reads a folder's manifest and checks every declared file's size and hash. Throws NOT_FOUND or BAD_MODEL.
  static Manifest load(const std::filesystem::path& folder);
};

// Values of the named dimensions. A dimension that a graph does not have is 0.
struct Sizes {
  std::size_t batch = 0;        // B: pairs, or texts in the text encoder
  std::size_t beams = 0;        // K
  std::size_t cache_slots = 0;  // P: one for each beam and decoding step
  std::size_t texts = 0;        // N: texts in the scorer
  std::size_t length = 0;       // n: tokens of the longest text

  static Sizes of_images(std::size_t pairs);
  static Sizes of_texts(std::size_t texts, std::size_t length);
  static Sizes of_scorer(std::size_t pairs, std::size_t texts, std::size_t length);
  // Of a decoder whose caches hold the tokens of `steps` decoding steps.
  static Sizes of_search(std::size_t pairs, std::size_t beams, std::size_t steps);
};
bool operator==(const Sizes& one, const Sizes& other);
bool operator!=(const Sizes& one, const Sizes& other);

// Returns a tensor's shape in numbers. Throws BAD_MODEL if a dimension's name is not one of `Sizes`.
std::vector<std::size_t> concrete_shape(const TensorSpec& spec, const Sizes& sizes);
// Writes the shape into `shape`, and allocates nothing if its capacity suffices.
void concrete_shape(const TensorSpec& spec, const Sizes& sizes, std::vector<std::size_t>& shape);
// Throws BAD_MODEL unless a tensor, which the host reads or writes, has this type and number of elements.
void require_tensor(const TensorSpec& spec, const Sizes& sizes, Type type, std::size_t count);
// Returns the number of elements of a shape. Throws OUT_OF_MEMORY if no machine could hold so many.
std::size_t element_count(const std::vector<std::size_t>& shape);

}  // namespace rsicrc::impl
