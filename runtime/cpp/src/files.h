// Reads and hashes the files of a model folder.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace rsicrc::impl {

// Returns the content of a file. Throws BAD_MODEL if the file is missing, unreadable or longer than `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::size_t max_bytes);

// Returns the hexadecimal SHA-256 of a file. Throws BAD_MODEL if it is missing or unreadable.
std::string sha256_file(const std::filesystem::path& path);

// Returns the hexadecimal SHA-256 of a content.
std::string sha256(std::string_view content);

}  // namespace rsicrc::impl
