// Files of a model folder: read whole with a bound, or hashed in pieces.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace rsicrc::impl {

// Returns a file's bytes; throws BAD_MODEL where it is missing, unreadable or longer than `most`.
std::string read_file(const std::filesystem::path& path, std::size_t most);

// Returns the hexadecimal SHA-256 of a file; throws BAD_MODEL where it cannot be read.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace rsicrc::impl
