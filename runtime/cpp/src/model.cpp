#include "model.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>

#include "error.h"

namespace rsicrc::impl {
namespace {

constexpr std::size_t kMaxBatch = 4096;

// Returns the CPU quota of the container in CPUs, by cgroup version 2 or 1, or 0 without a quota.
double cgroup_quota() {
  std::string limit;
  double period = 0;
  if (std::ifstream file("/sys/fs/cgroup/cpu.max"); !(file >> limit >> period)) {
    std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
        period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (!(quota_file >> limit) || !(period_file >> period)) return 0;
  }
  const double quota = limit == "max" ? 0 : std::strtod(limit.c_str(), nullptr);
  return quota > 0 && period > 0 ? quota / period : 0;
}

BackendOptions backend_options(const rsicrc_open_options& options) {
  if (options.threads < 0) fail(RSICRC_INVALID_ARGUMENT, "threads must be at least 0, not ", options.threads);
  if (options.device < 0) fail(RSICRC_INVALID_ARGUMENT, "device must be at least 0, not ", options.device);
  return {options.backend == nullptr ? "" : options.backend,
          options.threads == 0 ? available_cpus() : static_cast<std::size_t>(options.threads), options.device,
          options.precision == nullptr ? "fp32" : options.precision,
          options.engines == nullptr ? std::nullopt : std::optional<std::filesystem::path>(options.engines)};
}

}  // namespace

Model::Model(const std::filesystem::path& folder, const rsicrc_open_options& options)
    : manifest_(Manifest::load(folder)),
      vocabulary_(Vocabulary::load(folder / "tokenizer.json")),
      max_batch_(options.max_batch) {
  if (max_batch_ < 1 || max_batch_ > kMaxBatch) {
    fail(RSICRC_INVALID_ARGUMENT, "max_batch must be from 1 to ", kMaxBatch, ", not ", max_batch_);
  }
  if (vocabulary_.size() != manifest_.vocabulary_size || vocabulary_.max_length() != manifest_.max_length) {
    fail(RSICRC_BAD_MODEL, (folder / "tokenizer.json").string(), ": ", vocabulary_.size(), " tokens, texts up to ",
         vocabulary_.max_length(), ", where the manifest says ", manifest_.vocabulary_size, " and ",
         manifest_.max_length, ": export the model again");
  }
  // A duplicate would count twice in the sum of probabilities.
  for (const std::string& sentence : manifest_.no_change_sentences) {
    std::vector<std::int64_t> ids = vocabulary_.encode(sentence);
    if (std::find(no_change_.begin(), no_change_.end(), ids) == no_change_.end()) no_change_.push_back(std::move(ids));
  }
  backend_ = open_backend(folder, manifest_, backend_options(options));
}

std::size_t available_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::size_t cpus = std::thread::hardware_concurrency();
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) cpus = static_cast<std::size_t>(CPU_COUNT(&allowed));
  const double quota = cgroup_quota();
  if (quota > 0) cpus = std::min(cpus, static_cast<std::size_t>(std::ceil(quota)));
  return std::max<std::size_t>(cpus, 1);
}

}  // namespace rsicrc::impl
