#include "plans.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "cache.h"
#include "error.h"
#include "files.h"

namespace rsicrc::impl {
namespace {

using Json = nlohmann::json;

constexpr char kList[] = "engines.json";
constexpr char kPortable[] = "any";  // the device of portable plans
// As in rsicrc/backends/tensorrt/plans.py.
constexpr char kSettings[] = "strongly typed, no TF32";
constexpr std::size_t kMaxListBytes = std::size_t{1} << 24;
constexpr std::size_t kMaxPlanBytes = std::size_t{1} << 36;

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

Plan read_plan(const std::filesystem::path& folder, const Json& plan) {
  const auto name = plan.at("file").get<std::string>();
  if (name.empty() || name.find_first_of("/\\") != std::string::npos) {
    fail(RSICRC_BACKEND, "'", name, "' is not a plain file name");
  }
  const std::filesystem::path path = folder / name;
  std::string content = read_file(path, kMaxPlanBytes);
  if (sha256(content) != plan.at("sha256").get<std::string>()) {
    fail(RSICRC_BACKEND, path.string(), ": changed since it was built (SHA-256 differs)");
  }
  return {path, std::move(content)};
}

// Returns the first plan of a folder that fits. Adds the reasons why the plans before it do not fit to `reasons`.
std::optional<Plan> search(const std::filesystem::path& folder, const char* graph, const std::string& graph_hash,
                           const PlanReader& reader, std::vector<std::string>& reasons) {
  const std::filesystem::path list = folder / kList;
  std::error_code ignored;
  if (!std::filesystem::exists(list, ignored)) return std::nullopt;
  try {
    const Json document = Json::parse(read_file(list, kMaxListBytes));
    for (const Json& plan : document.at("engines")) {
      if (plan.at("graph") != graph) continue;
      const std::string reason = mismatch(plan, graph_hash, reader);
      if (reason.empty()) return read_plan(folder, plan);
      reasons.push_back(plan.at("file").get<std::string>() + " is for " + reason);
    }
  } catch (const Json::exception& error) {
    fail(RSICRC_BACKEND, list.string(), ": not a list of TensorRT plans (", error.what(), ")");
  } catch (const Error& error) {
    fail(RSICRC_BACKEND, error.what());
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::filesystem::path> plan_folder(const std::string& graph_sha256, const PlanReader& reader) {
  return compiled_folder(graph_sha256, reader.library, reader.version, reader.device, kSettings);
}

Plan find_plan(const std::optional<std::filesystem::path>& engines, const Manifest& manifest, Graph graph,
               const PlanReader& reader) {
  const std::string& hash = manifest.files.at(manifest.graph(graph).file).sha256;
  std::vector<std::string> reasons;
  if (engines) {
    if (std::optional<Plan> plan = search(*engines, name_of(graph), hash, reader, reasons)) return *std::move(plan);
  } else {
    for (const std::string& device : {reader.device, std::string(kPortable)}) {
      const std::optional<std::filesystem::path> folder = plan_folder(hash, {reader.library, reader.version, device});
      if (!folder) continue;
      try {
        if (std::optional<Plan> plan = search(*folder, name_of(graph), hash, reader, reasons)) return *std::move(plan);
      } catch (const Error& error) {  // everything in a cache is disposable, so a damaged plan does not fit
        reasons.emplace_back(error.what());
      }
    }
  }
  std::string because;
  for (const std::string& reason : reasons) because += (because.empty() ? ": " : "; ") + reason;
  fail(RSICRC_BACKEND, engines ? engines->string() : "the user's cache", ": no plan of ", name_of(graph), " fits",
       because, ". Build plans on this machine with `rsicrc-export CKPT --tensorrt",
       engines ? " --engines " + engines->string() : "", "` (", reader.library, " ", reader.version, ")");
}

}  // namespace rsicrc::impl
