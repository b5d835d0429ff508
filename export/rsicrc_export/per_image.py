"""The graphs `image_trunk` and `pair_fusion`: the two parts of an exported `image_encoder` graph, cut at its tokens.

The parts are cut from the written file, in every precision, so they hold the nodes and weights of `image_encoder`:
quantization and folds are the same, and `image_encoder` itself is unchanged.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rsicrc.backends import Backend
from rsicrc.errors import ExportError
from rsicrc.manifest import (
    EXACT,
    IMAGE_ENCODER,
    IMAGE_TRUNK,
    PAIR_FUSION,
    FileRecord,
    GraphSpec,
    Manifest,
    TensorSpec,
)
from rsicrc_export.comparisons import relative_distances
from rsicrc_export.parity import parity_images
from rsicrc_export.precisions import open_engine

logger = logging.getLogger("rsicrc.export")

# Largest relative difference between the outputs of the two parts and those of `image_encoder`, which have the same
# nodes: a runtime may only fuse other nodes at the cut. The rounding of 16-bit results is coarser.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 3e-2}
_TOKENS = "tokens"
_POSITIONS = "trunk.positions"
_WRAPPERS = ("QuantizeLinear", "DequantizeLinear", "Cast")
_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def add_per_image_graphs(folder: Path, manifest: Manifest) -> Manifest:
    """Write both parts of the image encoder in every precision of a folder.

    Args:
        folder: The model folder.
        manifest: The manifest of the folder, with all its precisions.

    Returns:
        The manifest with the new graphs and files, and the largest differences from `image_encoder` in the parity
        reports, under "per_image".

    Raises:
        ExportError: A graph cannot be cut, or the parts do not equal the whole.
    """
    images = parity_images(manifest.preprocessing.size)
    graphs = _cut(folder, manifest.graphs[IMAGE_ENCODER], EXACT)
    difference = _compare(folder, manifest, {**manifest.graphs, **graphs}, manifest.precision, images)
    written = list(graphs.values())
    manifest = replace(
        manifest,
        graphs={**manifest.graphs, **graphs},
        parity={**manifest.parity, "per_image": {"largest_relative_difference": difference}},
    )
    for name, variant in manifest.variants.items():
        graphs = _cut(folder, variant.graphs[IMAGE_ENCODER], name)
        difference = _compare(folder, manifest, {**variant.graphs, **graphs}, name, images)
        written += graphs.values()
        parity = {**variant.parity, "per_image": {"largest_relative_difference": difference}}
        changed = replace(variant, graphs={**variant.graphs, **graphs}, parity=parity)
        manifest = replace(manifest, variants={**manifest.variants, name: changed})
    records = {graph.file: FileRecord.of(folder / graph.file) for graph in written}
    return replace(manifest, files={**manifest.files, **records})


def _cut(folder: Path, whole: GraphSpec, precision: str) -> dict[str, GraphSpec]:
    """Write both parts of an `image_encoder` file; return their entries in the manifest."""
    model = onnx.load(folder / whole.file)
    cut = _find_tokens(model.graph)
    dtype = whole.outputs["cross_keys_0"].dtype
    _, edge, _ = whole.outputs["similarity"].shape
    width = whole.outputs["image_embedding"].shape[1]
    if not isinstance(edge, int):
        raise ExportError(f"{whole.file}: the similarity map has no fixed size")
    tokens = {_TOKENS: TensorSpec(dtype, ("B", edge * edge, 2, width))}
    parts = {
        IMAGE_TRUNK: (GraphSpec(_file(IMAGE_TRUNK, precision), whole.inputs, tokens), True),
        PAIR_FUSION: (GraphSpec(_file(PAIR_FUSION, precision), tokens, whole.outputs), False),
    }
    for spec, is_first in parts.values():
        part = onnx.ModelProto()
        part.CopyFrom(model)
        _reduce(part.graph, cut, tokens[_TOKENS], is_first=is_first)
        _require_complete(part.graph, spec.file)
        onnx.save(part, folder / spec.file)
    return {name: spec for name, (spec, _) in parts.items()}


def _file(name: str, precision: str) -> str:
    return f"{name}.onnx" if precision == EXACT else f"{name}.{precision}.onnx"


def _find_tokens(graph: Any) -> str:
    """Return the name of the tensor to cut at: the visual tokens after the position embedding was added."""
    names = {tensor.name for tensor in graph.initializer if tensor.name.endswith(_POSITIONS)}
    for node in graph.node:
        if names.isdisjoint(node.input):
            continue
        if node.op_type == "Add":
            return str(node.output[0])
        if node.op_type in _WRAPPERS:
            names.update(node.output)
    raise ExportError(f"{IMAGE_ENCODER}: the sum of tokens and positions was not found, so it cannot be cut in two")


def _reduce(graph: Any, cut: str, tokens: TensorSpec, *, is_first: bool) -> None:
    """Leave only the nodes and tensors of one part in a graph; the cut becomes its output or its input."""
    needed = {cut} if is_first else {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        is_computed = is_first or cut not in node.output  # the second part gets the tokens
        if is_computed and not needed.isdisjoint(node.output):
            needed.update(node.input)
            nodes.append(node)
    nodes.reverse()
    inputs = {value.name for value in graph.input}
    for node in nodes:
        if not is_first and _is_batch_size(node) and node.input[0] in inputs:
            node.input[0] = cut  # has the same number of pairs
        for names in (node.input, node.output):
            names[:] = [_TOKENS if name == cut else name for name in names]
    used = {name for node in nodes for name in (*node.input, *node.output)}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    info = [value for value in graph.value_info if value.name in used]
    value = helper.make_tensor_value_info(_TOKENS, _TYPES[tokens.dtype], list(tokens.shape))
    ends = graph.output if is_first else graph.input
    for field, entries in ((graph.node, nodes), (graph.initializer, kept), (graph.value_info, info), (ends, [value])):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
        del field[:]
        field.extend(copies)


def _is_batch_size(node: Any) -> bool:
    """Return True for a node that returns the first dimension of its input."""
    limits = {attribute.name: attribute.i for attribute in node.attribute}
    return bool(node.op_type == "Shape" and limits.get("start", 0) == 0 and limits.get("end") == 1)


def _require_complete(graph: Any, file: str) -> None:
    """Raise an error if a part needs a result of the other part in addition to the tokens."""
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        missing = sorted(set(node.input) - known)
        if missing:
            raise ExportError(f"{file}: the part also needs {missing[0]!r}, so {IMAGE_ENCODER} cannot be cut in two")
        known.update(node.output)


def _compare(
    folder: Path, manifest: Manifest, graphs: Mapping[str, GraphSpec], precision: str, images: NDArray[np.uint8]
) -> float:
    """Return the largest relative difference between the parts and the whole, over all outputs.

    Raises:
        ExportError: The difference exceeds the tolerance.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        backend = open_engine(folder, manifest, precision, graphs, Path(scratch)).backend
        whole, parts = (_run(backend, images, in_parts=in_parts) for in_parts in (False, True))
    difference = max(float(relative_distances(parts[name], whole[name]).max()) for name in whole)
    tolerance = TOLERANCES[graphs[IMAGE_TRUNK].outputs[_TOKENS].dtype]
    logger.info("%s + %s in %s: largest difference %.1e", IMAGE_TRUNK, PAIR_FUSION, precision, difference)
    if not difference <= tolerance:
        raise ExportError(
            f"{IMAGE_TRUNK} and {PAIR_FUSION} in {precision} differ from {IMAGE_ENCODER} by {difference:.1e}, "
            f"more than {tolerance:.0e}: export without --per-image"
        )
    return difference


def _run(backend: Backend, images: NDArray[np.uint8], *, in_parts: bool) -> dict[str, NDArray[Any]]:
    if in_parts:
        # Other images of the same rows: the tokens of an image must not depend on the image next to it.
        before, after = (
            backend.numpy(backend.run(IMAGE_TRUNK, {"images": pairs})[_TOKENS])[:, :, side]
            for side, pairs in enumerate((images[:, [0, 0]], images[:, [1, 1]]))
        )
        outputs = backend.run(PAIR_FUSION, {_TOKENS: np.stack([before, after], axis=2)})
    else:
        outputs = backend.run(IMAGE_ENCODER, {"images": images})
    return {name: np.asarray(backend.numpy(value), np.float32) for name, value in outputs.items()}
