#include "cache.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <vector>

#include "files.h"

namespace rsicrc::impl {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kKeyDigits = 16;

// Returns the home folder of this user, or "".
std::string home() {
  if (const char* const variable = std::getenv("HOME")) return *variable == '\0' ? "/" : variable;
  passwd entry{};
  passwd* found = nullptr;
  std::vector<char> buffer(std::size_t{1} << 16);
  if (getpwuid_r(getuid(), &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr) return "";
  return found->pw_dir;
}

// Replaces every run of characters that are no letter, digit, dot or dash by one underscore.
std::string file_name(const std::string& text) {
  std::string name;
  for (const char c : text) {
    const bool plain =
        (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-';
    if (plain) {
      name += c;
    } else if (name.empty() || name.back() != '_') {
      name += '_';
    }
  }
  return name;
}

}  // namespace

std::optional<std::filesystem::path> user_cache() {
  const char* const own = std::getenv("RSICRC_CACHE");
  if (own != nullptr && *own != '\0') return own;
  const char* const shared = std::getenv("XDG_CACHE_HOME");
  if (shared != nullptr && *shared != '\0') return std::filesystem::path(shared) / "rsicrc";
  const std::string folder = home();
  if (folder.empty()) return std::nullopt;
  return std::filesystem::path(folder) / ".cache" / "rsicrc";
}

std::optional<std::filesystem::path> compiled_folder(const std::string& graph_sha256, const std::string& library,
                                                     const std::string& version, const std::string& device,
                                                     const std::string& settings) {
  const std::optional<std::filesystem::path> cache = user_cache();
  if (!cache) return std::nullopt;
  // The text that Python's json.dumps gives for [device, settings] with the separators "," and ":".
  const std::string key = Json::array({device, settings}).dump(-1, ' ', true, Json::error_handler_t::replace);
  const std::string name = file_name(library + "-" + version + "-" + device) + "-" + sha256(key).substr(0, kKeyDigits);
  return *cache / "compiled" / graph_sha256 / name;
}

}  // namespace rsicrc::impl
