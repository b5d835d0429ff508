// A model folder, open: shared by any number of contexts and never changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "manifest.h"
#include "rsicrc/rsicrc.h"
#include "session.h"
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
  // Ids of the sentences that mean "nothing changed", each once.
  const std::vector<std::vector<std::int64_t>>& no_change() const { return no_change_; }

 private:
  Manifest manifest_;
  Vocabulary vocabulary_;
  std::size_t max_batch_;
  std::vector<std::vector<std::int64_t>> no_change_;
  std::unique_ptr<Backend> backend_;
};

// Returns how many CPUs this process may use: its affinity, bounded by the container's quota.
std::size_t available_cpus();

}  // namespace rsicrc::impl
