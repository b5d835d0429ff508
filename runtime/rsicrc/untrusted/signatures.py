"""The signatures of the graphs: the inputs and outputs that a manifest must declare.

A declaration sets the sizes of buffers, so a wrong one could take all memory or make a library write outside a buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

from rsicrc.errors import shortened

_FLOATS = ("float32", "float16", "bfloat16")
_FINISHED = {"scores": "float32", "sums": "float32", "lengths": "int64", "tokens": "int64", "parents": "int64"}
_MOST_LAYERS = 64
# Largest size of a declared dimension; larger than that of any known model.
_MOST = {"width": 16_384, "edge": 256, "heads": 256, "narrow": 1024}
# Largest number of elements of keys and values per pair or per cache slot.
_MOST_ELEMENTS = 1 << 26

# dtype and shape
Tensor: TypeAlias = tuple[str, tuple[int | str, ...]]


class Spec(Protocol):
    """A declared tensor."""

    @property
    def dtype(self) -> str:
        """The NumPy name of the type."""

    @property
    def shape(self) -> tuple[int | str, ...]:
        """The sizes; a name stands for a dimension that varies."""


class Graph(Protocol):
    """A declared graph."""

    @property
    def inputs(self) -> Mapping[str, Spec]:
        """The inputs in order."""

    @property
    def outputs(self) -> Mapping[str, Spec]:
        """The outputs in order."""


def check_signatures(graphs: Mapping[str, Graph], size: int) -> None:
    """Check the names, types and shapes of all inputs and outputs.

    Args:
        graphs: The four graphs by name, and optionally `image_trunk` and `pair_fusion`.
        size: Side of the images.

    Raises:
        ValueError: An input or output is missing, unknown, or of another type or shape than the other declarations
            need.
    """
    encoder, text_encoder, decoder, scorer = (
        graphs[name] for name in ("image_encoder", "text_encoder", "decoder", "scorer")
    )
    width = _size(encoder.outputs, "image_embedding", 1, 2, "width")
    edge = _size(encoder.outputs, "similarity", 1, 3, "edge")
    cross = _count(encoder.outputs, "cross_keys")
    caches = _count(decoder.inputs, "self_keys")
    heads = _size(encoder.outputs, "cross_keys_0", 1, 4, "heads")
    narrow = _size(encoder.outputs, "cross_keys_0", 3, 4, "narrow")
    if cross * heads * edge * edge * narrow > _MOST_ELEMENTS:
        raise ValueError("the keys of the image encoder are too large")
    memory_type = _half_or_float(encoder.outputs, "cross_keys_0")
    cache_type = _half_or_float(decoder.inputs, "self_keys_0")
    memory = dict(_indexed("cross", cross, (memory_type, ("B", heads, edge * edge, narrow))))
    state: dict[str, Tensor] = {
        "tokens": ("int64", ("B", "K")),
        "parents": ("int64", ("B", "K")),
        "scores": ("float32", ("B", "K")),
        "lineage": ("bool", ("B", "K", "P")),
        **dict(_indexed("self", caches, (cache_type, ("B", heads, "P", narrow)))),
        **{f"finished_{name}": (dtype, ("B", "K")) for name, dtype in _FINISHED.items()},
        "done": ("bool", ("B",)),
    }
    settings: dict[str, Tensor] = {
        "position": ("int64", ()),
        "length_penalty": ("float32", ()),
        "early_stopping": ("bool", ()),
        "max_length": ("int64", ()),
    }
    _compare("image_encoder inputs", encoder.inputs, {"images": ("uint8", ("B", 2, size, size, 3))})
    embedding: dict[str, Tensor] = {"image_embedding": ("float32", ("B", width))}
    similarity: dict[str, Tensor] = {"similarity": ("float32", ("B", edge, edge))}
    _compare("image_encoder outputs", encoder.outputs, {**embedding, **similarity, **memory})
    if parts := graphs.keys() & {"image_trunk", "pair_fusion"}:
        if len(parts) == 1:
            raise ValueError(f"{min(parts)} is declared alone: image_trunk and pair_fusion belong together")
        trunk, fusion = graphs["image_trunk"], graphs["pair_fusion"]
        token_type = _half_or_float(trunk.outputs, "tokens")
        tokens: dict[str, Tensor] = {"tokens": (token_type, ("B", edge * edge, 2, width))}
        _compare("image_trunk inputs", trunk.inputs, {"images": ("uint8", ("B", 2, size, size, 3))})
        _compare("image_trunk outputs", trunk.outputs, tokens)
        _compare("pair_fusion inputs", fusion.inputs, tokens)
        _compare("pair_fusion outputs", fusion.outputs, {**embedding, **similarity, **memory})
    _compare("text_encoder inputs", text_encoder.inputs, {"input_ids": ("int64", ("B", "n"))})
    _compare("text_encoder outputs", text_encoder.outputs, {"text_embedding": ("float32", ("B", width))})
    _compare("decoder inputs", decoder.inputs, {**state, **memory, **settings})
    advanced = {f"next_{name}": tensor for name, tensor in state.items()}
    _compare("decoder outputs", decoder.outputs, {**advanced, "unfinished": ("int64", ())})
    _compare("scorer inputs", scorer.inputs, {"input_ids": ("int64", ("N", "n")), **memory})
    attention: dict[str, Tensor] = {"attention": ("float32", ("B", "N", "n", edge * edge))}
    _compare("scorer outputs", scorer.outputs, {"log_probs": ("float32", ("B", "N", "n - 1")), **attention})


def _indexed(stem: str, count: int, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    for kind in ("keys", "values"):
        yield from ((f"{stem}_{kind}_{layer}", tensor) for layer in range(count))


def _count(specs: Mapping[str, Spec], stem: str) -> int:
    count = sum(name.startswith(f"{stem}_") for name in specs)
    if not 1 <= count <= _MOST_LAYERS:
        raise ValueError(f"from 1 to {_MOST_LAYERS} tensors {stem}_N must be declared, not {count}")
    return count


def _size(specs: Mapping[str, Spec], name: str, axis: int, axes: int, kind: str) -> int:
    spec = _tensor(specs, name)
    value = spec.shape[axis] if len(spec.shape) == axes else None
    if not isinstance(value, int) or not 1 <= value <= _MOST[kind]:
        raise ValueError(f"{name}: the {kind} must be from 1 to {_MOST[kind]}, in the shape {_text(spec.shape)}")
    return value


def _half_or_float(specs: Mapping[str, Spec], name: str) -> str:
    dtype = _tensor(specs, name).dtype
    if dtype not in _FLOATS:
        raise ValueError(f"{name} must be of type {', '.join(_FLOATS)}, not {dtype}")
    return dtype


def _tensor(specs: Mapping[str, Spec], name: str) -> Spec:
    if name not in specs:
        raise ValueError(f"{name} is not declared")
    return specs[name]


def _compare(place: str, specs: Mapping[str, Spec], expected: Mapping[str, Tensor]) -> None:
    if unknown := specs.keys() - expected.keys():
        raise ValueError(f"{place}: there is no '{shortened(min(unknown))}'")
    for name, (dtype, shape) in expected.items():
        if name not in specs:
            raise ValueError(f"{place}: '{name}' is not declared")
        spec = specs[name]
        if (spec.dtype, spec.shape) != (dtype, shape):
            raise ValueError(
                f"{place}: '{name}' is {spec.dtype} {_text(spec.shape)} where {dtype} {_text(shape)} is needed"
            )


def _text(shape: Sequence[int | str]) -> str:
    return shortened(f"[{', '.join(map(str, shape))}]")
