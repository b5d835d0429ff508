"""ONNX graphs of a model: their inputs and outputs, and the conversion."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from rsicrc.errors import ExportError
from rsicrc.manifest import BF16, DECODER, EXACT, FP16, IMAGE_ENCODER, SCORER, TEXT_ENCODER, GraphSpec, TensorSpec
from rsicrc_export.decoder_graphs import DecoderStepGraph, ImageEncoderGraph, ScorerGraph, TextEncoderGraph
from rsicrc_export.half_precision import cast_to_half
from rsicrc_train.model import RSICRC

# The lowest opset that the exporter of torch writes without a down-conversion, and so supported by most runtimes,
# TensorRT and OpenVINO included. In ONNX Runtime 1.31, opsets 20 (Gelu) and 23 (Attention) differed by less than 4 % in
# speed (docs/graphs.md).
OPSET = 18
_BF16_OPSET = 22  # the first opset with bfloat16 convolutions
# A protobuf file cannot exceed 2 GiB; the weights of larger graphs are stored in a separate file.
_LARGEST_FILE = 2_000_000_000
_FINISHED = ("scores", "sums", "lengths", "tokens", "parents")
_EXAMPLE = {"B": 3, "K": 2, "P": 14, "n": 6, "N": 5}  # all different; the exporter makes sizes 0 and 1 constant
_DTYPES = {EXACT: "float32", FP16: "float16", BF16: "bfloat16"}


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a graph in order: name → dtype and shape, where a name stands for a dynamic axis."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


def signatures(model: RSICRC, precision: str = EXACT) -> dict[str, Signature]:
    """Return the signature of every graph of a model, by graph name.

    In half precision the cross keys, cross values and caches have the 16-bit type. The types of all other inputs and
    outputs do not depend on the precision.
    """
    dtype = _DTYPES[precision]
    config = model.config
    d, heads, edge, size = config.d_model, config.num_heads, config.image_trunk.map_size, config.image_trunk.image_size
    tokens, narrow = edge * edge, d // heads
    memory = _indexed(
        ("cross_keys", "cross_values"), config.multimodal_layers, TensorSpec(dtype, ("B", heads, tokens, narrow))
    )
    layers = config.unimodal_layers + config.multimodal_layers
    beam_state = {
        "tokens": _int("B", "K"),
        "parents": _int("B", "K"),
        "scores": _float("B", "K"),
        "lineage": TensorSpec("bool", ("B", "K", "P")),
    }
    caches = _indexed(("self_keys", "self_values"), layers, TensorSpec(dtype, ("B", heads, "P", narrow)))
    ends = {
        f"finished_{name}": _float("B", "K") if name in ("scores", "sums") else _int("B", "K") for name in _FINISHED
    }
    ends["done"] = TensorSpec("bool", ("B",))
    settings = {"length_penalty": _float(), "early_stopping": TensorSpec("bool", ()), "max_length": _int()}
    next_state = {f"next_{name}": spec for name, spec in {**beam_state, **caches, **ends}.items()}
    return {
        IMAGE_ENCODER: Signature(
            {"images": TensorSpec("uint8", ("B", 2, size, size, 3))},
            {"image_embedding": _float("B", d), "similarity": _float("B", edge, edge), **memory},
        ),
        TEXT_ENCODER: Signature({"input_ids": _int("B", "n")}, {"text_embedding": _float("B", d)}),
        DECODER: Signature(
            {**beam_state, "position": _int(), **caches, **memory, **ends, **settings},
            {**next_state, "unfinished": _int()},
        ),
        SCORER: Signature(
            {"input_ids": _int("N", "n"), **memory},
            {"log_probs": _float("B", "N", "n - 1"), "attention": _float("B", "N", "n", tokens)},
        ),
    }


def export_graph(model: RSICRC, name: str, folder: Path, precision: str = EXACT) -> tuple[GraphSpec, list[str]]:
    """Write one graph as `<name>.onnx` (fp32) or `<name>.<precision>.onnx`.

    Args:
        model: The model, in evaluation mode.
        name: A key of `signatures`.
        folder: The folder to write to.
        precision: fp32, fp16 or bf16.

    Returns:
        The entry of the graph in the manifest, and the names of all written files.

    Raises:
        ExportError: The exported graph does not have its declared signature.
    """
    signature = signatures(model, precision)[name]
    with torch.no_grad():
        module = build_graph(model, name, precision)
    graph_model = _convert(module, signature, _BF16_OPSET if precision == BF16 else OPSET)
    strip(graph_model)
    check_signature(graph_model, name, signature)
    path = folder / (f"{name}.onnx" if precision == EXACT else f"{name}.{precision}.onnx")
    files = [path.name]
    weights = sum(value.const_value.nbytes for value in graph_model.graph.initializers.values() if value.const_value)
    if weights > _LARGEST_FILE:
        files.append(f"{path.name}.data")
        ir.save(graph_model, path, external_data=files[1])
    else:
        ir.save(graph_model, path)
    return GraphSpec(path.name, signature.inputs, signature.outputs), files


def build_graph(model: RSICRC, name: str, precision: str) -> nn.Module:
    """Build a graph as a PyTorch module, with weights in the type of the precision."""
    dtype: torch.dtype = getattr(torch, _DTYPES[precision])
    if precision == EXACT:
        return _MODULES[name](model).eval()
    module = ImageEncoderGraph(model, fold_pixels=False) if name == IMAGE_ENCODER else _MODULES[name](model)
    return cast_to_half(module, dtype).eval()


def strip(model: ir.Model) -> None:
    """Remove metadata of the export: stack traces, paths and descriptions of the machine."""
    model.metadata_props.clear()
    model.doc_string = None
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
    graph.metadata_props.clear()
    graph.doc_string = None


def check_signature(model: ir.Model, name: str, signature: Signature) -> None:
    """Check names, dtypes and axes of a graph: exactly the declared axes must be dynamic.

    Raises:
        ExportError: Names, dtypes or axes differ.
    """
    for kind, values, specs in (
        ("input", model.graph.inputs, signature.inputs),
        ("output", model.graph.outputs, signature.outputs),
    ):
        found = {str(value.name): _spec(value) for value in values}
        if found != dict(specs):
            differing = [
                f"{key} is {found.get(key)}, not {specs.get(key)}"
                for key in {**specs, **found}
                if found.get(key) != specs.get(key)
            ]
            raise ExportError(f"{name}: the {kind}s of the exported graph are wrong: {'; '.join(differing)}")


def _convert(module: nn.Module, signature: Signature, opset: int) -> ir.Model:
    example = {key: _example(key, spec) for key, spec in signature.inputs.items()}
    dims = {axis: torch.export.Dim(axis) for axis in _EXAMPLE}
    axes = {
        key: {index: dims[axis] for index, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for key, spec in signature.inputs.items()
    }
    with _ignore_axis_names(), torch.no_grad():
        program = torch.onnx.export(
            _Named(module, list(signature.inputs)).eval(),
            tuple(example.values()),
            dynamic_shapes={"inputs": tuple(axes.values())},
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx returned no graph")
    return program.model


class _Named(nn.Module):
    """Wrapper with flat inputs around a graph module: `self_keys_0`, `self_keys_1` become one list `self_keys`."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*group(dict(zip(self.names, inputs, strict=True))).values())


def group(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Group the tensors of all layers, and those of the finished hypotheses, into one list each."""
    grouped: dict[str, Any] = {}
    for name, value in inputs.items():
        stem = name.rpartition("_")[0] if name.rpartition("_")[2].isdigit() else name
        stem = "finished" if name.startswith("finished_") else stem
        if stem == name:
            grouped[name] = value
        else:
            grouped.setdefault(stem, []).append(value)
    return grouped


def _example(name: str, spec: TensorSpec) -> Tensor:
    shape = [_EXAMPLE[axis] if isinstance(axis, str) else axis for axis in spec.shape]
    values = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
    return values + 1 if name == "input_ids" else values


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise ExportError(f"{value.name} has no shape in the exported graph")
    shape = tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape)
    return TensorSpec(str(value.dtype.numpy()), shape)


def _indexed(stems: tuple[str, ...], count: int, spec: TensorSpec) -> dict[str, TensorSpec]:
    return {f"{stem}_{index}": spec for stem in stems for index in range(count)}


def _float(*shape: int | str) -> TensorSpec:
    return TensorSpec("float32", shape)


def _int(*shape: int | str) -> TensorSpec:
    return TensorSpec("int64", shape)


@contextmanager
def _ignore_axis_names() -> Iterator[None]:
    """Ignore the warning that the exporter gives for every dynamic axis that several inputs share."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name: .* will not be used", category=UserWarning)
        yield


_MODULES: dict[str, Callable[[RSICRC], nn.Module]] = {
    IMAGE_ENCODER: ImageEncoderGraph,
    TEXT_ENCODER: TextEncoderGraph,
    DECODER: DecoderStepGraph,
    SCORER: ScorerGraph,
}
