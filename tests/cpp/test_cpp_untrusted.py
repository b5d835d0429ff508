"""Model folders of strangers in the C++ library: graphs, results of the decoder, and words with terminal escapes."""

from __future__ import annotations

import ctypes as c
import json
import random
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsicrc.backends.onnx_file import MOST_NODES, check_graph
from rsicrc.errors import ModelFolderError
from rsicrc.manifest import MANIFEST_FILE, TOKENIZER_FILE, Manifest, sha256_file
from tests.cpp import binding
from tests.cpp.binding import CallError, Engine
from tests.cpp.conftest import SOURCE, Build, smooth_pairs

onnx: Any = pytest.importorskip("onnx", reason="needs rsicrc[export]")

Edit = Callable[[Any], object]


def test_operators_header_matches_python() -> None:
    generator = runpy.run_path(str(SOURCE / "generate_operators.py"))
    message = "src/operators.h differs from rsicrc/backends/onnx_file.py: run runtime/cpp/generate_operators.py"
    assert (SOURCE / "src" / "operators.h").read_text() == generator["header"](), message


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the model folder."""
    return shutil.copytree(model_folder, tmp_path / "model")


def declare(folder: Path, name: str) -> None:
    """Write the hash of a changed or new file into the manifest."""
    fields = json.loads((folder / MANIFEST_FILE).read_text())
    fields["files"][name] = {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
    (folder / MANIFEST_FILE).write_text(json.dumps(fields))


def change(folder: Path, graph: str, edit: Edit) -> None:
    model = onnx.load(folder / f"{graph}.onnx")
    edit(model)
    (folder / f"{graph}.onnx").write_bytes(model.SerializeToString())
    declare(folder, f"{graph}.onnx")


def add_loop(model: Any) -> None:
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", ["", "c"], ["x"], body=body))


def store_outside(location: str) -> Edit:
    def edit(model: Any) -> None:
        tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return edit


EDITS: list[tuple[Edit, str]] = [
    (add_loop, "has a node with a graph inside"),
    (store_outside("w.data"), "reads data from the file 'w.data', which the manifest does not declare"),
    (store_outside("../w.data"), "reads data from the file '../w.data'"),
    (lambda model: model.graph.node.add(op_type="EvilOp", domain="evil"), "has the operator 'evil:EvilOp'"),
    (lambda model: model.graph.node.add(op_type="Add", domain="evil"), "has the operator 'evil:Add'"),
    (lambda model: model.graph.node.add(op_type="\x1b]0;pwn\x07"), r"has the operator '\x1b]0;pwn\x07'"),
    (
        lambda model: model.graph.node.extend([onnx.NodeProto(op_type="Relu")] * (MOST_NODES + 1)),
        "has more than 10000 nodes",
    ),
    (
        lambda model: model.graph.initializer.add(name="x", data_type=1, dims=[1 << 40]),
        "has a tensor whose shape is larger than its data",
    ),
    (
        lambda model: model.graph.initializer.add(name="x", data_type=1, dims=[1 << 62, 1 << 62]),
        "has a tensor whose shape is larger than its data",
    ),
    (lambda model: model.functions.add(name="f"), "has functions"),
    (lambda model: model.graph.sparse_initializer.add(), "has sparse tensors"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("edit", "reason"), EDITS)
def test_graph_that_the_exporter_does_not_write_is_refused(
    library: c.CDLL, folder: Path, edit: Edit, reason: str
) -> None:
    (folder / "w.data").write_bytes(bytes(1 << 20))
    change(folder, "text_encoder", edit)
    with pytest.raises(CallError) as caught:
        Engine(library, folder)
    assert caught.value.status == binding.BAD_MODEL
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.slow
def test_graphs_are_refused_as_in_python(gcc_build: Build, variants_folder: Path, tmp_path: Path) -> None:
    """The two parsers agree on the exported graphs in all precisions, on edited and on randomly changed files."""
    generator = random.Random(7)
    manifest = Manifest.load(variants_folder)
    paths = sorted(variants_folder.glob("*.onnx"))
    smallest = min(paths, key=lambda path: path.stat().st_size)
    for number, (edit, _) in enumerate(EDITS):
        model = onnx.load(smallest, load_external_data=False)
        edit(model)
        paths.append(tmp_path / f"edited{number}.onnx")
        paths[-1].write_bytes(model.SerializeToString())
    content = smallest.read_bytes()
    for number in range(300):
        changed = bytearray(content)
        for _ in range(generator.choice((1, 3, 20))):
            changed[generator.randrange(len(changed) if number % 3 else 3000)] = generator.randrange(256)
        if number % 5 == 0:
            del changed[generator.randrange(len(changed)) :]
        paths.append(tmp_path / f"changed{number}.onnx")
        paths[-1].write_bytes(changed)
    found = subprocess.run(
        [str(gcc_build.program("probe")), "graphs", str(variants_folder)],
        input="\n".join(map(str, paths)), capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    expected = []
    for path in paths:
        try:
            check_graph(path, manifest.files)
            expected.append(True)
        except ModelFolderError:
            expected.append(False)
    assert [line == "ok" for line in found] == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.slow
def test_declared_external_data_is_used(library: c.CDLL, folder: Path) -> None:
    def embed() -> Any:
        engine = Engine(library, folder)
        vectors = engine.embed_texts(["the road"])
        engine.close()
        return vectors

    expected = embed()
    model = onnx.load(folder / "text_encoder.onnx")
    onnx.save(model, folder / "text_encoder.onnx", save_as_external_data=True, location="w.data", size_threshold=1024)
    for name in ("text_encoder.onnx", "w.data"):
        declare(folder, name)
    np.testing.assert_array_equal(embed(), expected)


def add_to(output: str, value: float) -> Edit:
    """Return an edit that adds a number to an output of a graph."""

    def edit(model: Any) -> None:
        graph = model.graph
        (info,) = (each for each in graph.output if each.name == output)
        number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(np.int64))
        kind = info.type.tensor_type.elem_type
        scalar = np.array(value, np.int64 if kind == number else np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(scalar, "planted"))
        for node in graph.node:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    if name == output:
                        names[at] = "honest"
        graph.node.append(onnx.helper.make_node("Add", ["honest", "planted"], [output]))

    return edit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "value", "reason"),
    [
        ("next_parents", 1e6, r"parents of \d{7},"),
        ("next_parents", -1e6, r"parents of -\d+, not"),
        ("next_tokens", 1e6, r"tokens of \d{7},"),
        ("next_tokens", -1e6, r"tokens of -\d+, not"),
        ("unfinished", 1e6, r"unfinished of \d{7},"),
        ("unfinished", -1e6, r"unfinished of -\d+, not"),
        ("next_finished_lengths", 1e6, r"finished_lengths of \d{7},"),
        ("next_finished_lengths", -1e6, r"finished_lengths of -\d+, not"),
        ("next_finished_parents", 1e6, r"finished_parents of \d{7},"),
        ("next_finished_tokens", 1e6, r"token \d{7}, which is not"),
        ("next_scores", float("nan"), r"NaN \(not a number\) for the score of a beam"),
        ("next_finished_scores", float("nan"), r"NaN \(not a number\) for the score of a sentence"),
    ],
)
def test_results_of_the_decoder_are_checked(
    library: c.CDLL, folder: Path, output: str, value: float, reason: str
) -> None:
    change(folder, "decoder", add_to(output, value))
    engine = Engine(library, folder)
    pairs = smooth_pairs(3, 100, 90)
    with pytest.raises(CallError, match=reason) as caught:
        engine.caption(pairs, 3, 1)
    assert caught.value.status == binding.BAD_MODEL
    assert engine.embed_pairs(pairs).shape[0] == 3  # the context remains usable
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "output", "call"),
    [
        ("scorer", "log_probs", lambda engine, pairs: engine.score(pairs, ["a road"])),
        ("scorer", "log_probs", lambda engine, pairs: engine.caption(pairs, 3, 1)),
        ("image_encoder", "image_embedding", lambda engine, pairs: engine.embed_pairs(pairs)),
        ("text_encoder", "text_embedding", lambda engine, pairs: engine.embed_texts(["a road"])),
    ],
)
def test_nan_is_an_error(
    library: c.CDLL, folder: Path, graph: str, output: str, call: Callable[[Engine, Any], object]
) -> None:
    change(folder, graph, add_to(output, float("nan")))
    engine = Engine(library, folder)
    with pytest.raises(CallError, match=r"NaN \(not a number\)") as caught:
        call(engine, smooth_pairs(2, 100, 90))
    assert caught.value.status == binding.BAD_MODEL
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("word", ["\x1b]0;pwn\x07", "a\nb", "\x9b2J", "\u202eroad", "\u2028", "\x7f"])
def test_word_with_a_control_character_is_refused(library: c.CDLL, folder: Path, word: str) -> None:
    path = folder / TOKENIZER_FILE
    document = json.loads(path.read_text())
    words = document["model"]["vocab"]
    (first,) = (each for each, number in words.items() if number == 4)
    words[word] = words.pop(first)
    path.write_text(json.dumps(document))
    declare(folder, TOKENIZER_FILE)
    with pytest.raises(CallError, match="a word has a control character") as caught:
        Engine(library, folder)
    assert caught.value.status == binding.BAD_MODEL
    assert str(caught.value).isprintable()


@pytest.mark.slow
def test_no_message_has_a_control_character(library: c.CDLL, folder: Path) -> None:
    fields = json.loads((folder / MANIFEST_FILE).read_text())
    fields["graphs"]["decoder"]["file"] = "\x1b[31m\u202e\x00\x9b.onnx"
    (folder / MANIFEST_FILE).write_text(json.dumps(fields))
    with pytest.raises(CallError, match=r"\\x1b\[31m\\xe2\\x80\\xae") as caught:
        Engine(library, folder)
    assert str(caught.value).isprintable()
