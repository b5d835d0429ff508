// Limits of the graphs that rsicrc-export writes.
// Generated from rsicrc/backends/onnx_file.py by runtime/cpp/generate_operators.py. Do not edit.
#pragma once

#include <cstddef>
#include <string_view>

namespace rsicrc::impl {

constexpr std::size_t kMaxNodes = 10000;
constexpr std::string_view kOperators[] = {
    "Add",
    "And",
    "AveragePool",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "DequantizeLinear",
    "Div",
    "Equal",
    "Erf",
    "Expand",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "LayerNormalization",
    "Less",
    "LogSoftmax",
    "MatMul",
    "MaxPool",
    "Mul",
    "Not",
    "Or",
    "Pow",
    "QuantizeLinear",
    "Range",
    "ReduceL2",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "Relu",
    "Reshape",
    "ScatterND",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "TopK",
    "Transpose",
    "Unsqueeze",
    "Where",
    "com.microsoft:MatMulNBits",
};

}  // namespace rsicrc::impl
