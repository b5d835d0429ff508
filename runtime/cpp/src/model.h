// An opened model folder. It never changes, and any number of contexts share it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "backend.h"
#include "manifest.h"
#include "rsicrc/rsicrc.h"
#include "vocabulary.h"

namespace rsicrc::impl {

class Model {
 public:
  // Throws NOT_FOUND, BAD_MODEL, BACKEND or INVALID_ARGUMENT.
  Model(const std::filesystem::path& folder, const rsicrc_open_options& options);

  const Manifest& manifest() const { return manifest_; }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  Backend& backend() const { return *backend_; }
  std::size_t max_batch() const { return max_batch_; }
  // Token ids of the sentences that mean "nothing changed", without duplicates.
  const std::vector<std::vector<std::int64_t>>& no_change() const { return no_change_; }

 private:
  Manifest manifest_;
  Vocabulary vocabulary_;
  std::size_t max_batch_;
  std::vector<std::vector<std::int64_t>> no_change_;
  std::unique_ptr<Backend> backend_;
};

// Returns the number of CPUs that this process may use: its affinity, limited by the container's CPU quota.
std::size_t available_cpus();

}  // namespace rsicrc::impl
