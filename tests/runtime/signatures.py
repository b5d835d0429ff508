"""Declarations of graphs for manifests in tests: a small model with two decoder layers."""

from __future__ import annotations

from rsicrc.manifest import DECODER, IMAGE_ENCODER, SCORER, TEXT_ENCODER, GraphSpec, TensorSpec

WIDTH, HEADS, EDGE, NARROW = 8, 2, 3, 4


def declared_graphs(size: int) -> dict[str, GraphSpec]:
    """Return the four graphs of a model for images of a size, with the files `<name>.onnx`."""
    ints, floats = TensorSpec("int64", ("B", "K")), TensorSpec("float32", ("B", "K"))
    scalars = {"float": TensorSpec("float32", ()), "int": TensorSpec("int64", ()), "bool": TensorSpec("bool", ())}
    memory = {
        f"cross_{kind}_0": TensorSpec("float32", ("B", HEADS, EDGE * EDGE, NARROW)) for kind in ("keys", "values")
    }
    caches = {
        f"self_{kind}_{layer}": TensorSpec("float32", ("B", HEADS, "P", NARROW))
        for kind in ("keys", "values")
        for layer in range(2)
    }
    state = {
        "tokens": ints,
        "parents": ints,
        "scores": floats,
        "lineage": TensorSpec("bool", ("B", "K", "P")),
        **caches,
        "finished_scores": floats,
        "finished_sums": floats,
        "finished_lengths": ints,
        "finished_tokens": ints,
        "finished_parents": ints,
        "done": TensorSpec("bool", ("B",)),
    }
    settings = {
        "position": scalars["int"],
        "length_penalty": scalars["float"],
        "early_stopping": scalars["bool"],
        "max_length": scalars["int"],
    }
    outputs = {f"next_{name}": spec for name, spec in state.items()} | {"unfinished": scalars["int"]}
    return {
        IMAGE_ENCODER: GraphSpec(
            "image_encoder.onnx",
            {"images": TensorSpec("uint8", ("B", 2, size, size, 3))},
            {
                "image_embedding": TensorSpec("float32", ("B", WIDTH)),
                "similarity": TensorSpec("float32", ("B", EDGE, EDGE)),
                **memory,
            },
        ),
        TEXT_ENCODER: GraphSpec(
            "text_encoder.onnx",
            {"input_ids": TensorSpec("int64", ("B", "n"))},
            {"text_embedding": TensorSpec("float32", ("B", WIDTH))},
        ),
        DECODER: GraphSpec("decoder.onnx", {**state, **memory, **settings}, outputs),
        SCORER: GraphSpec(
            "scorer.onnx",
            {"input_ids": TensorSpec("int64", ("N", "n")), **memory},
            {
                "log_probs": TensorSpec("float32", ("B", "N", "n - 1")),
                "attention": TensorSpec("float32", ("B", "N", "n", EDGE * EDGE)),
            },
        ),
    }
