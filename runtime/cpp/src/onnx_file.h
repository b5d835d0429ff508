// Checks of ONNX files before a library opens them. See rsicrc/backends/onnx_file.py.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "manifest.h"

namespace rsicrc::impl {

// Checks the content of an ONNX file: the operators, the number of nodes, shapes, and that all external data is in
// files that the manifest declares. Throws BAD_MODEL, without the name of the file.
void check_graph(std::string_view content, const std::map<std::string, FileRecord>& files);

// Checks the ONNX files of all graphs of a manifest. Throws BAD_MODEL.
void check_graphs(const std::filesystem::path& folder, const Manifest& manifest);

}  // namespace rsicrc::impl
