#include "plans.h"

#include <nlohmann/json.hpp>

#include "error.h"
#include "files.h"

namespace rsicrc::impl {
namespace {

using Json = nlohmann::json;

constexpr char kFolder[] = "engines";
constexpr char kIndex[] = "engines.json";
constexpr std::size_t kMaxBytes = std::size_t{1} << 24;

// Returns the reason why a plan does not fit, or "".
std::string mismatch(const Json& plan, const std::string& graph_hash, const PlanReader& reader) {
  const auto differs = [&](const char* field, const std::string& expected) -> std::string {
    const auto value = plan.at(field).get<std::string>();
    return value == expected ? "" : std::string(field) + " " + value + ", not " + expected;
  };
  for (const auto& [field, expected] : {std::pair<const char*, const std::string&>{"library", reader.library},
                                        {"version", reader.version},
                                        {"graph_sha256", graph_hash}}) {
    std::string difference = differs(field, expected);
    if (!difference.empty()) return difference;
  }
  const auto capabilities = plan.find("compute_capabilities");
  if (capabilities == plan.end()) return differs("device", reader.device);
  // A portable plan is compiled further on the GPU that runs it, so only the compute capability must fit: the last word
  // of `device`.
  const std::string capability_of_device = reader.device.substr(reader.device.rfind(' ') + 1);
  std::string all;
  for (const Json& capability : *capabilities) {
    if (capability.get<std::string>() == capability_of_device) return "";
    all += (all.empty() ? "" : ", ") + capability.get<std::string>();
  }
  return "compute capabilities " + all + ", not " + reader.device;
}

std::filesystem::path checked(const std::filesystem::path& engines, const Json& plan) {
  const auto name = plan.at("file").get<std::string>();
  if (name.empty() || name.find_first_of("/\\") != std::string::npos) {
    fail(RSICRC_BAD_MODEL, "'", name, "' is not a plain file name");
  }
  const std::filesystem::path file = engines / name;
  if (sha256_file(file) != plan.at("sha256").get<std::string>()) {
    fail(RSICRC_BAD_MODEL, file.string(), ": changed since it was built (SHA-256 differs)");
  }
  return file;
}

}  // namespace

std::filesystem::path find_plan(const std::filesystem::path& folder, const Manifest& manifest, Graph graph,
                                const PlanReader& reader) {
  const std::string advice =
      ". Build plans on this machine with `rsicrc-export --tensorrt` (" + reader.library + " " + reader.version + ")";
  const std::filesystem::path index = folder / kFolder / kIndex;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(index, ignored)) {
    fail(RSICRC_BAD_MODEL, folder.string(), ": no TensorRT plans", advice);
  }
  try {
    const Json document = Json::parse(read_file(index, kMaxBytes));
    const std::string& hash = manifest.files.at(manifest.graph(graph).file).sha256;
    std::string reasons;
    for (const Json& plan : document.at("engines")) {
      if (plan.at("graph") != name_of(graph)) continue;
      const std::string reason = mismatch(plan, hash, reader);
      if (reason.empty()) return checked(folder / kFolder, plan);
      reasons += (reasons.empty() ? ": " : "; ") + plan.at("file").get<std::string>() + " is for " + reason;
    }
    fail(RSICRC_BAD_MODEL, folder.string(), ": no plan of ", name_of(graph), " fits", reasons, advice);
  } catch (const Json::exception& error) {
    fail(RSICRC_BAD_MODEL, index.string(), ": damaged (", error.what(), ")", advice);
  }
}

}  // namespace rsicrc::impl
