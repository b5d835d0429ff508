"""From a checkpoint's model to ONNX files: what each graph takes and gives, and the conversion itself."""

from __future__ import annotations

import logging
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
from rsicrc_export.half_precision import halve
from rsicrc_train.model import RSICRC

# The lowest that torch's exporter writes without a down-conversion, so the one that most runtimes take, TensorRT and
# OpenVINO among them. In ONNX Runtime 1.31, 20 (Gelu) and 23 (Attention) ran within 4 % of it (docs/graphs.md).
OPSET = 18
_BF16_OPSET = 22  # the first in which convolutions may be bfloat16
# A protobuf file ends at 2 GiB; what is larger keeps its weights in a file beside it.
_LARGEST_FILE = 2_000_000_000
_FINISHED = ("scores", "sums", "lengths", "tokens", "parents")
_EXAMPLE = {"B": 3, "K": 2, "P": 14, "n": 6, "N": 5}  # all different and none 0 or 1, which would be frozen
_DTYPES = {EXACT: "float32", FP16: "float16", BF16: "bfloat16"}


@dataclass(frozen=True)
class Signature:
    """What a graph takes and gives, in order: name → dtype and shape, in which names stand for axes that vary."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


def signatures(model: RSICRC, precision: str = EXACT) -> dict[str, Signature]:
    """The signature of every graph of a model, by graph name.

    In a half precision the cross keys and values and the caches have its type; all else is as in float32.
    """
    narrowest = _DTYPES[precision]
    config = model.config
    d, heads, edge, size = config.d_model, config.num_heads, config.image_trunk.map_size, config.image_trunk.image_size
    tokens, narrow = edge * edge, d // heads
    memory = _indexed(
        ("cross_keys", "cross_values"), config.multimodal_layers, TensorSpec(narrowest, ("B", heads, tokens, narrow))
    )
    layers = config.unimodal_layers + config.multimodal_layers
    beam_state = {
        "tokens": _int("B", "K"),
        "parents": _int("B", "K"),
        "scores": _float("B", "K"),
        "lineage": TensorSpec("bool", ("B", "K", "P")),
    }
    caches = _indexed(("self_keys", "self_values"), layers, TensorSpec(narrowest, ("B", heads, "P", narrow)))
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
    """Write one graph as `<name>.onnx`, or `<name>.<precision>.onnx` where it is not exact.

    Args:
        model: the model, in evaluation mode.
        name: a name of `signatures`.
        folder: where to.
        precision: fp32, fp16 or bf16.

    Returns:
        The graph as the manifest declares it, and the names of all files written.

    Raises:
        ExportError: the graph did not come out with the signature that it must have.
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
    """One graph as a PyTorch module, its weights in the type of the precision."""
    dtype: torch.dtype = getattr(torch, _DTYPES[precision])
    if precision == EXACT:
        return _MODULES[name](model).eval()
    module = ImageEncoderGraph(model, fold_pixels=False) if name == IMAGE_ENCODER else _MODULES[name](model)
    return halve(module, dtype).eval()


def strip(model: ir.Model) -> None:
    """Take out everything that only describes the export: stack traces, paths and notes about this machine."""
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
    """Make sure that exactly the axes that must vary do.

    Raises:
        ExportError: names, dtypes or axes differ.
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
            raise ExportError(f"{name}: the {kind}s of the graph came out wrong: {'; '.join(differing)}")


def _convert(module: nn.Module, signature: Signature, opset: int) -> ir.Model:
    example = {key: _example(key, spec) for key, spec in signature.inputs.items()}
    dims = {axis: torch.export.Dim(axis) for axis in _EXAMPLE}
    axes = {
        key: {index: dims[axis] for index, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for key, spec in signature.inputs.items()
    }
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Named(module, list(signature.inputs)),
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
    """Calls a graph's module with its inputs grouped: `self_keys_0`, `self_keys_1` become one list `self_keys`."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*group(dict(zip(self.names, inputs, strict=True))).values())


def group(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the tensors of the layers, and those of the finished pool, into one list each."""
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
        raise ExportError(f"{value.name} came out without a shape")
    shape = tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape)
    return TensorSpec(str(value.dtype.numpy()), shape)


def _indexed(stems: tuple[str, ...], count: int, spec: TensorSpec) -> dict[str, TensorSpec]:
    return {f"{stem}_{index}": spec for stem in stems for index in range(count)}


def _float(*shape: int | str) -> TensorSpec:
    return TensorSpec("float32", shape)


def _int(*shape: int | str) -> TensorSpec:
    return TensorSpec("int64", shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about its own workings from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_MODULES: dict[str, Callable[[RSICRC], nn.Module]] = {
    IMAGE_ENCODER: ImageEncoderGraph,
    TEXT_ENCODER: TextEncoderGraph,
    DECODER: DecoderStepGraph,
    SCORER: ScorerGraph,
}
