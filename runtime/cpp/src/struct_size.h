// Structs of the C interface that begin with `size`. An application that was compiled against an older header passes
// shorter structs: the fields that the older struct lacks take their defaults, or are not written.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "error.h"

namespace rsicrc::impl {

// Throws INVALID_ARGUMENT unless `given` can be the size of the struct `name` in this header or an older one.
inline void check_size(const char* name, std::size_t given, std::size_t known, std::size_t alignment) {
  if (given > known) {
    fail(RSICRC_INVALID_ARGUMENT, name, " has a size of ", given, " bytes, but this library knows only ", known,
         ": set size to sizeof(", name, "), or use the library of the header that the application was built with");
  }
  // A multiple of the alignment, as every sizeof is, cuts no field in two.
  if (given < sizeof(std::size_t) || given % alignment != 0) {
    fail(RSICRC_INVALID_ARGUMENT, name, " has a size of ", given, " bytes, which no version of it has (now ", known,
         "): set size to sizeof(", name, ")");
  }
}

// Returns a struct that a caller filled in, with the defaults where it is NULL or too short to have a field.
template <typename Struct>
Struct read_struct(const char* name, const Struct* given, const Struct& defaults) {
  static_assert(std::is_trivially_copyable_v<Struct> && offsetof(Struct, size) == 0);
  Struct full = defaults;
  if (given == nullptr) return full;
  check_size(name, given->size, sizeof(Struct), alignof(Struct));
  std::memcpy(&full, given, given->size);
  full.size = sizeof(Struct);
  return full;
}

// Writes as many fields of `full` as the caller's struct has. The caller's `size` stays as it is.
template <typename Struct>
void write_struct(const char* name, Struct full, Struct& target) {
  static_assert(std::is_trivially_copyable_v<Struct> && offsetof(Struct, size) == 0);
  check_size(name, target.size, sizeof(Struct), alignof(Struct));
  full.size = target.size;
  std::memcpy(&target, &full, full.size);
}

}  // namespace rsicrc::impl
