#include "manifest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "error.h"
#include "files.h"

namespace rsicrc::impl {
namespace {

using Json = nlohmann::json;

constexpr char kFormat[] = "rsicrc-model";
constexpr int kFormatVersion = 1;
constexpr char kManifestFile[] = "manifest.json";
constexpr char kTokenizerFile[] = "tokenizer.json";
constexpr std::size_t kMaxBytes = std::size_t{1} << 26;
// Far above any dimension of a real model, and low enough that element_count detects every overflow.
constexpr std::int64_t kMaxNumber = 1 << 24;

std::size_t number(const Json& value, const char* field, std::int64_t minimum) {
  if (!value.is_number_integer()) fail(RSICRC_BAD_MODEL, field, " is not a whole number");
  const auto result = value.get<std::int64_t>();
  if (result < minimum || result > kMaxNumber) fail(RSICRC_BAD_MODEL, field, " is out of range: ", result);
  return static_cast<std::size_t>(result);
}

Type type_of(const std::string& name) {
  if (name == "uint8") return Type::kUint8;
  if (name == "int64") return Type::kInt64;
  if (name == "float32") return Type::kFloat32;
  if (name == "bool") return Type::kBool;
  if (name == "float16") return Type::kFloat16;
  if (name == "bfloat16") return Type::kBfloat16;
  fail(RSICRC_BAD_MODEL, "this version of the library has no tensors of type ", name);
}

std::vector<TensorSpec> tensors(const Json& fields) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, field] : fields.items()) {
    TensorSpec spec{name, type_of(field.at("dtype").get<std::string>()), {}};
    for (const Json& size : field.at("shape")) {
      spec.shape.push_back(size.is_string() ? Dimension{0, size.get<std::string>()}
                                            : Dimension{number(size, "a dimension", 1), ""});
    }
    specs.push_back(std::move(spec));
  }
  return specs;
}

const TensorSpec& find(const std::vector<TensorSpec>& specs, std::string_view name, const std::string& file) {
  const auto found =
      std::find_if(specs.begin(), specs.end(), [&](const TensorSpec& spec) { return spec.name == name; });
  if (found == specs.end()) fail(RSICRC_BAD_MODEL, file, " declares no ", name);
  return *found;
}

// An untrusted manifest must not open files outside its folder.
void require_plain_name(const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find_first_of("/\\:") != std::string::npos ||
      name.find('\0') != std::string::npos) {
    fail(RSICRC_BAD_MODEL, "'", name, "' is not a plain file name");
  }
}

BeamSearchDefaults beam_search_defaults(const Json& fields) {
  BeamSearchDefaults defaults{number(fields.at("beams"), "search.beams", 1), fields.at("length_penalty").get<double>(),
                              fields.at("early_stopping").get<bool>()};
  if (!std::isfinite(defaults.length_penalty)) fail(RSICRC_BAD_MODEL, "search.length_penalty is not finite");
  return defaults;
}

using Graphs = std::map<std::string, GraphSpec>;

const GraphSpec& graph_in(const Graphs& graphs, Graph which) {
  const auto found = graphs.find(name_of(which));
  if (found == graphs.end()) fail(RSICRC_BAD_MODEL, "no graph '", name_of(which), "' is declared");
  return found->second;
}

void check_graphs(const Manifest& manifest, const Graphs& graphs) {
  for (std::size_t i = 0; i < kGraphs; ++i) {
    const GraphSpec& graph = graph_in(graphs, static_cast<Graph>(i));
    if (manifest.files.count(graph.file) == 0) fail(RSICRC_BAD_MODEL, "no hash of ", graph.file);
  }
}

Graphs graphs_of(const Json& fields) {
  Graphs graphs;
  for (const auto& [name, graph] : fields.items()) {
    graphs[name] = {graph.at("file").get<std::string>(), tensors(graph.at("inputs")), tensors(graph.at("outputs"))};
  }
  return graphs;
}

std::size_t embedding_width(const Manifest& manifest) {
  const TensorSpec& images = manifest.graph(Graph::kImageEncoder).output("image_embedding");
  const TensorSpec& texts = manifest.graph(Graph::kTextEncoder).output("text_embedding");
  if (images.shape.size() != 2 || texts.shape.size() != 2 || images.shape[1].number == 0 ||
      images.shape[1].number != texts.shape[1].number) {
    fail(RSICRC_BAD_MODEL, "the embeddings of images and texts differ in width");
  }
  return images.shape[1].number;
}

Manifest from_fields(const Json& fields) {
  if (fields.at("special_ids") != Json{{"pad", 0}, {"start", 1}, {"unk", 2}, {"end", 3}}) {
    fail(RSICRC_BAD_MODEL, "special_ids are not PAD 0, START 1, UNK 2, END 3");
  }
  Manifest manifest;
  manifest.image_size = number(fields.at("preprocessing").at("size"), "preprocessing.size", 1);
  manifest.max_length = number(fields.at("max_len"), "max_len", 3);
  manifest.vocabulary_size = number(fields.at("vocab_size"), "vocab_size", 4);
  manifest.precision = fields.at("precision").get<std::string>();
  manifest.beam_search = beam_search_defaults(fields.at("search"));
  manifest.no_change_sentences = fields.at("no_change_sentences").get<std::vector<std::string>>();
  manifest.graphs = graphs_of(fields.at("graphs"));
  // Folders of an early version have no variants.
  const Json variants = fields.value("variants", Json::object());
  for (const auto& [name, variant] : variants.items()) {
    manifest.variants[name] = graphs_of(variant.at("graphs"));
  }
  for (const auto& [name, record] : fields.at("files").items()) {
    require_plain_name(name);
    manifest.files[name] = {record.at("sha256").get<std::string>(), record.at("bytes").get<std::uintmax_t>()};
  }
  check_graphs(manifest, manifest.graphs);
  for (const auto& [name, graphs] : manifest.variants) check_graphs(manifest, graphs);
  if (manifest.files.count(kTokenizerFile) == 0) fail(RSICRC_BAD_MODEL, "no hash of ", kTokenizerFile);
  manifest.embedding_width = embedding_width(manifest);
  return manifest;
}

void check_file(const std::filesystem::path& path, const FileRecord& record) {
  constexpr char kAdvice[] = ": copy or export the folder again";
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    fail(RSICRC_BAD_MODEL, path.string(), ": missing, though the manifest declares it", kAdvice);
  }
  const std::uintmax_t bytes = std::filesystem::file_size(path);
  if (bytes != record.bytes) {
    fail(RSICRC_BAD_MODEL, path.string(), ": ", bytes, " bytes where the manifest says ", record.bytes, kAdvice);
  }
  if (sha256_file(path) != record.sha256) {
    fail(RSICRC_BAD_MODEL, path.string(), ": changed since the export (SHA-256 differs)", kAdvice);
  }
}

std::size_t value_of(const Dimension& dimension, const Sizes& sizes) {
  if (dimension.name.empty()) return dimension.number;
  if (dimension.name == "B") return sizes.batch;
  if (dimension.name == "K") return sizes.beams;
  if (dimension.name == "P") return sizes.cache_slots;
  if (dimension.name == "N") return sizes.texts;
  if (dimension.name == "n") return sizes.length;
  fail(RSICRC_BAD_MODEL, "this version of the library has no dimension '", dimension.name, "'");
}

}  // namespace

std::size_t bytes_of(Type type) {
  switch (type) {
    case Type::kUint8:
    case Type::kBool:
      return 1;
    case Type::kFloat16:
    case Type::kBfloat16:
      return 2;
    case Type::kFloat32:
      return 4;
    case Type::kInt64:
      return 8;
  }
  return 0;
}

const char* name_of(Graph graph) {
  constexpr const char* kNames[] = {"image_encoder", "text_encoder", "decoder", "scorer"};
  return kNames[static_cast<std::size_t>(graph)];
}

const TensorSpec& GraphSpec::input(std::string_view name) const { return find(inputs, name, file); }

const TensorSpec& GraphSpec::output(std::string_view name) const { return find(outputs, name, file); }

const GraphSpec& Manifest::graph(Graph which) const { return graph_in(graphs, which); }

void Manifest::choose(const std::string& variant, const std::string& folder) {
  const auto found = variants.find(variant);
  if (found == variants.end()) {
    std::string available = precision;
    for (const auto& [name, graphs] : variants) available += ", " + name;
    fail(RSICRC_BACKEND, folder, ": no graphs in ", variant, ", only in ", available,
         ": export it again with `rsicrc-export CKPT -o ", folder, " --force --precision …`");
  }
  graphs = found->second;
}

Manifest Manifest::parse(const std::string& text, const std::string& path) {
  constexpr char kAdvice[] = ": export the model again";
  try {
    const Json fields = Json::parse(text);
    if (!fields.is_object() || fields.value("format", Json()) != kFormat) {
      fail(RSICRC_BAD_MODEL, "not the manifest of an rsicrc model folder (no 'format': '", kFormat, "')");
    }
    const std::size_t version = number(fields.at("format_version"), "format_version", 1);
    if (version > kFormatVersion) {
      fail(RSICRC_BAD_MODEL, "made by a newer rsicrc (format ", version, "; this library reads ", kFormatVersion,
           "): build a newer library");
    }
    return from_fields(fields);
  } catch (const Json::parse_error& error) {
    fail(RSICRC_BAD_MODEL, path, ": not valid JSON (", error.what(), ")", kAdvice);
  } catch (const Json::exception& error) {
    fail(RSICRC_BAD_MODEL, path, ": a field is missing or wrong (", error.what(), ")", kAdvice);
  } catch (const Error& error) {
    fail(error.status(), path, ": ", error.what());
  }
}

Manifest Manifest::load(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    fail(RSICRC_NOT_FOUND, folder.string(), ": no such model folder. Make one with `rsicrc-export ckpt.pt -o ",
         folder.string(), "`, or name another");
  }
  const std::filesystem::path path = folder / kManifestFile;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    fail(RSICRC_BAD_MODEL, path.string(), ": missing, so ", folder.string(), " is not a model folder");
  }
  Manifest manifest = parse(read_file(path, kMaxBytes), path.string());
  for (const auto& [name, record] : manifest.files) check_file(folder / name, record);
  return manifest;
}

Sizes Sizes::of_images(std::size_t pairs) {
  Sizes sizes;
  sizes.batch = pairs;
  return sizes;
}

Sizes Sizes::of_texts(std::size_t texts, std::size_t length) {
  Sizes sizes;
  sizes.batch = texts;
  sizes.length = length;
  return sizes;
}

Sizes Sizes::of_scorer(std::size_t pairs, std::size_t texts, std::size_t length) {
  Sizes sizes = of_images(pairs);
  sizes.texts = texts;
  sizes.length = length;
  return sizes;
}

Sizes Sizes::of_search(std::size_t pairs, std::size_t beams, std::size_t steps) {
  Sizes sizes = of_images(pairs);
  sizes.beams = beams;
  sizes.cache_slots = beams * steps;
  return sizes;
}

bool operator==(const Sizes& one, const Sizes& other) {
  return one.batch == other.batch && one.beams == other.beams && one.cache_slots == other.cache_slots &&
         one.texts == other.texts && one.length == other.length;
}

bool operator!=(const Sizes& one, const Sizes& other) { return !(one == other); }

std::vector<std::size_t> concrete_shape(const TensorSpec& spec, const Sizes& sizes) {
  std::vector<std::size_t> shape;
  concrete_shape(spec, sizes, shape);
  return shape;
}

void concrete_shape(const TensorSpec& spec, const Sizes& sizes, std::vector<std::size_t>& shape) {
  shape.clear();
  for (const Dimension& dimension : spec.shape) shape.push_back(value_of(dimension, sizes));
}

void require_tensor(const TensorSpec& spec, const Sizes& sizes, Type type, std::size_t count) {
  if (spec.type == type && element_count(concrete_shape(spec, sizes)) == count) return;
  fail(RSICRC_BAD_MODEL, spec.name, " has another type or shape than in graphs of this format: export the model again");
}

std::size_t element_count(const std::vector<std::size_t>& shape) {
  constexpr std::size_t kMax = std::numeric_limits<std::size_t>::max() / 16;
  std::size_t count = 1;
  for (const std::size_t size : shape) {
    if (size != 0 && count > kMax / size) fail(RSICRC_OUT_OF_MEMORY, "a tensor of the model is too large");
    count *= size;
  }
  return count;
}

}  // namespace rsicrc::impl
