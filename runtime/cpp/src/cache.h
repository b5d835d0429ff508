// The user's cache, in which the Python and the C++ library find the same compiled graphs. See rsicrc/files.py.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace rsicrc::impl {

// Returns the user's cache: $RSICRC_CACHE, else $XDG_CACHE_HOME/rsicrc, else ~/.cache/rsicrc. Empty without a home
// folder.
std::optional<std::filesystem::path> user_cache();

// Returns the folder in the user's cache for a graph that a library has compiled. Empty without a cache. The path
// identifies all that the result of the compilation depends on.
std::optional<std::filesystem::path> compiled_folder(const std::string& graph_sha256, const std::string& library,
                                                     const std::string& version, const std::string& device,
                                                     const std::string& settings);

}  // namespace rsicrc::impl
