"""Checks of an ONNX file before a library opens it: operators, number of nodes, and external data.

The file is read as protobuf messages, field by field, and the content of tensors is skipped, so a check takes a few
milliseconds and needs no package. The fields are those of `onnx.proto3`.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from rsicrc.errors import ModelFolderError
from rsicrc.manifest import FileRecord, Manifest
from rsicrc.untrusted.fields import shown

# All operators that rsicrc-export writes, in all precisions. There is none with a graph inside (If, Loop, Scan).
OPERATORS = frozenset(
    "Add And AveragePool Cast Clip Concat Conv DequantizeLinear Div Equal Erf Expand Floor Gather GatherElements "  # noqa: SIM905
    "GatherND Gelu Gemm Greater GreaterOrEqual LayerNormalization Less LogSoftmax MatMul MaxPool Mul Not Or Pow "
    "QuantizeLinear Range ReduceL2 ReduceMean ReduceMin ReduceSum Relu Reshape ScatterND Shape Slice Softmax Split "
    "Sigmoid Sqrt Squeeze Sub TopK Transpose Unsqueeze Where com.microsoft:MatMulNBits".split()
)
MOST_NODES = 10_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1  # TensorProto.DataLocation
_PACKED_PER_BYTE = 4  # most values of a tensor in one byte: two of 4 bits, or four of 2 bits


def check_graphs(folder: Path, manifest: Manifest) -> None:
    """Check the ONNX files of all graphs of a manifest.

    Raises:
        ModelFolderError: A file is not an ONNX graph that rsicrc-export writes, or has data in a file that the manifest
            does not declare.
    """
    for name in sorted({graph.file for graph in manifest.graphs.values()}):
        check_graph(folder / name, manifest.files)


def check_graph(path: Path, files: Mapping[str, FileRecord]) -> None:
    """Check one ONNX file.

    Args:
        path: The file.
        files: Files that the manifest declares, by name.

    Raises:
        ModelFolderError: See `check_graphs`.
    """
    try:
        with path.open("rb") as file:
            _check_model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), files)
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({error})") from error
    except (_RefusedError, ValueError) as error:
        raise ModelFolderError(f"{path}: {error}: export the model again, or do not use this model folder") from None


class _RefusedError(Exception):
    """The reason why a file is refused."""


def _check_model(model: memoryview, files: Mapping[str, FileRecord]) -> None:
    graphs = 0
    for number, value in _fields(model):
        if number == 7:
            graphs += 1
            _check_graph(_message(value), files)
        elif number in (20, 25):
            raise _RefusedError("has functions or training graphs, which rsicrc-export does not write")
    if graphs != 1:
        raise _RefusedError("not an ONNX graph")


def _check_graph(graph: memoryview, files: Mapping[str, FileRecord]) -> None:
    nodes = 0
    for number, value in _fields(graph):
        if number == 1:
            nodes += 1
            if nodes > MOST_NODES:
                raise _RefusedError(f"has more than {MOST_NODES} nodes")
            _check_node(_message(value), files)
        elif number == 5:
            _check_tensor(_message(value), files)
        elif number == 15:
            raise _RefusedError("has sparse tensors, which rsicrc-export does not write")


def _check_node(node: memoryview, files: Mapping[str, FileRecord]) -> None:
    operator = domain = ""
    for number, value in _fields(node):
        if number == 4:
            operator = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            for kind, attribute in _fields(_message(value)):
                if kind in (6, 11):
                    raise _RefusedError("has a node with a graph inside, which rsicrc-export does not write")
                if kind in (22, 23):
                    raise _RefusedError("has sparse tensors, which rsicrc-export does not write")
                if kind in (5, 10):
                    _check_tensor(_message(attribute), files)
    name = operator if domain in ("", "ai.onnx") else f"{domain}:{operator}"
    if name not in OPERATORS:
        raise _RefusedError(f"has the operator {shown(name)}, which rsicrc-export does not write")


def _check_tensor(tensor: memoryview, files: Mapping[str, FileRecord]) -> None:
    dims: list[int] = []
    external: dict[str, str] = {}
    location = 0
    for number, value in _fields(tensor):
        if number == 1:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif number == 13:
            entry = {kind: _text(text) for kind, text in _fields(_message(value)) if kind in (1, 2)}
            external[entry.get(1, "")] = entry.get(2, "")
        elif number == 14:
            location = value if isinstance(value, int) else _EXTERNAL
    size = len(tensor)
    if external or location == _EXTERNAL:
        name = external.get("location", "")
        if name not in files:
            raise _RefusedError(f"reads data from the file {shown(name)}, which the manifest does not declare")
        size = files[name].bytes
    if math.prod(dims) > size * _PACKED_PER_BYTE:
        raise _RefusedError(f"has a tensor of the shape {shown(dims)} with less data than that")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the value of each field of a message: a number, or the bytes of text or a message."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise _RefusedError("not an ONNX graph")
        if at + size > end:
            raise _RefusedError("not an ONNX graph, or truncated")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise _RefusedError("not an ONNX graph, or truncated")


def _varints(packed: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value)
    return values


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _RefusedError("not an ONNX graph")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)[:1000]).decode("utf-8", "replace")
