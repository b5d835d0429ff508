#include "onnx_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "error.h"
#include "operators.h"

namespace rsicrc::impl {
namespace {

using Files = std::map<std::string, FileRecord>;

constexpr std::uint64_t kExternal = 1;       // TensorProto.DataLocation
constexpr std::uint64_t kPackedPerByte = 4;  // most values of a tensor in one byte: two of 4 bits, or four of 2 bits
constexpr std::size_t kMaxText = 1000;

[[noreturn]] void refuse_content() { fail(RSICRC_BAD_MODEL, "not an ONNX graph, or truncated"); }

// Reads the fields of a protobuf message. The content of tensors is skipped, so a check takes a few milliseconds.
class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}

  // Reads the next field. Returns false at the end of the message.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    field_ = key >> 3;
    is_number_ = false;
    std::uint64_t size = 0;
    switch (key & 7) {
      case 0:
        is_number_ = true;
        number_ = varint();
        return true;
      case 1:
        size = 8;
        break;
      case 2:
        size = varint();
        break;
      case 5:
        size = 4;
        break;
      default:
        refuse_content();
    }
    if (size > rest_.size()) refuse_content();
    bytes_ = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }

  std::uint64_t field() const { return field_; }
  bool is_number() const { return is_number_; }
  std::uint64_t number() const { return number_; }
  std::string_view bytes() const {
    if (is_number_) refuse_content();
    return bytes_;
  }
  std::string text() const { return std::string(bytes().substr(0, kMaxText)); }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<std::uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    refuse_content();
  }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_, bytes_;
  std::uint64_t field_ = 0, number_ = 0;
  bool is_number_ = false;
};

// Returns the product of a tensor's dimensions, or the largest number if it is larger.
std::uint64_t value_count(const std::vector<std::uint64_t>& dims) {
  if (std::find(dims.begin(), dims.end(), 0U) != dims.end()) return 0;
  std::uint64_t count = 1;
  for (const std::uint64_t size : dims) {
    if (count > std::numeric_limits<std::uint64_t>::max() / size) return std::numeric_limits<std::uint64_t>::max();
    count *= size;
  }
  return count;
}

void check_tensor(std::string_view tensor, const Files& files) {
  std::vector<std::uint64_t> dims;
  std::map<std::string, std::string> external;
  std::uint64_t location = 0;
  for (Message field(tensor); field.next();) {
    if (field.field() == 1) {
      if (field.is_number()) {
        dims.push_back(field.number());
      } else {
        for (Message packed(field.bytes()); !packed.at_end();) dims.push_back(packed.varint());
      }
    } else if (field.field() == 13) {
      std::string key, value;
      for (Message entry(field.bytes()); entry.next();) {
        if (entry.field() == 1) key = entry.text();
        if (entry.field() == 2) value = entry.text();
      }
      external[key] = value;
    } else if (field.field() == 14) {
      location = field.is_number() ? field.number() : kExternal;
    }
  }
  std::uint64_t bytes = tensor.size();
  if (!external.empty() || location == kExternal) {
    const auto declared = files.find(external["location"]);
    if (declared == files.end()) {
      fail(RSICRC_BAD_MODEL, "reads data from the file '", external["location"],
           "', which the manifest does not declare");
    }
    bytes = declared->second.bytes;
  }
  if (value_count(dims) / kPackedPerByte > bytes || value_count(dims) > bytes * kPackedPerByte) {
    fail(RSICRC_BAD_MODEL, "has a tensor whose shape is larger than its data");
  }
}

void check_node(std::string_view node, const Files& files) {
  static const std::set<std::string_view> allowed(std::begin(kOperators), std::end(kOperators));
  std::string type, domain;
  for (Message field(node); field.next();) {
    if (field.field() == 4) type = field.text();
    if (field.field() == 7) domain = field.text();
    if (field.field() != 5) continue;
    for (Message attribute(field.bytes()); attribute.next();) {
      switch (attribute.field()) {
        case 6:
        case 11:
          fail(RSICRC_BAD_MODEL, "has a node with a graph inside, which rsicrc-export does not write");
        case 22:
        case 23:
          fail(RSICRC_BAD_MODEL, "has sparse tensors, which rsicrc-export does not write");
        case 5:
        case 10:
          check_tensor(attribute.bytes(), files);
          break;
        default:
          break;
      }
    }
  }
  const std::string name = domain.empty() || domain == "ai.onnx" ? type : domain + ":" + type;
  if (allowed.count(name) == 0) {
    fail(RSICRC_BAD_MODEL, "has the operator '", name, "', which rsicrc-export does not write");
  }
}

void check_nodes_and_tensors(std::string_view graph, const Files& files) {
  std::size_t nodes = 0;
  for (Message field(graph); field.next();) {
    if (field.field() == 1) {
      if (++nodes > kMaxNodes) fail(RSICRC_BAD_MODEL, "has more than ", kMaxNodes, " nodes");
      check_node(field.bytes(), files);
    } else if (field.field() == 5) {
      check_tensor(field.bytes(), files);
    } else if (field.field() == 15) {
      fail(RSICRC_BAD_MODEL, "has sparse tensors, which rsicrc-export does not write");
    }
  }
}

// A file in memory, which the operating system reads when it is used.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status{};
    if (file >= 0 && fstat(file, &status) == 0 && status.st_size > 0) {
      bytes_ = static_cast<std::size_t>(status.st_size);
      address_ = mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file, 0);
    }
    if (file >= 0) close(file);
    if (address_ == MAP_FAILED) fail(RSICRC_BAD_MODEL, "empty, or cannot be read");
  }
  ~MappedFile() { munmap(address_, bytes_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view content() const { return {static_cast<const char*>(address_), bytes_}; }

 private:
  void* address_ = MAP_FAILED;
  std::size_t bytes_ = 0;
};

}  // namespace

void check_graph(std::string_view content, const Files& files) {
  std::size_t graphs = 0;
  for (Message field(content); field.next();) {
    if (field.field() == 7) {
      ++graphs;
      check_nodes_and_tensors(field.bytes(), files);
    } else if (field.field() == 20 || field.field() == 25) {
      fail(RSICRC_BAD_MODEL, "has functions or training graphs, which rsicrc-export does not write");
    }
  }
  if (graphs != 1) fail(RSICRC_BAD_MODEL, "not an ONNX graph");
}

void check_graphs(const std::filesystem::path& folder, const Manifest& manifest) {
  std::set<std::string> names;
  for (const auto& [name, graph] : manifest.graphs) names.insert(graph.file);
  for (const std::string& name : names) {
    try {
      check_graph(MappedFile(folder / name).content(), manifest.files);
    } catch (const Error& error) {
      fail(error.status(), (folder / name).string(), ": ", error.what(),
           ": export the model again, or do not use this model folder");
    }
  }
}

}  // namespace rsicrc::impl
