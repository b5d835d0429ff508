"""The fuzzed readers: valid inputs to start from, a mutation, and the function that reads the result."""

from __future__ import annotations

import csv
import io
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.mutation import mutate_bytes, mutate_json


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Attributes:
        name: Name of the target.
        mutate: Returns the name and the content of a changed file.
        read: Reads the file. An exception outside the family `RsicrcError` is a fault.
    """

    name: str
    mutate: Callable[[random.Random], tuple[str, bytes]]
    read: Callable[[Path], object]


def make_targets() -> dict[str, Callable[[], Target]]:
    """Return a function for each target that makes it; a target of a missing extra raises ModuleNotFoundError."""
    return {
        "images": _images,
        "manifests": _manifests,
        "tokenizers": _tokenizers,
        "tables": _tables,
        "conditions": _conditions,
        "checkpoints": _checkpoints,
    }


def _images() -> Target:
    from rsicrc.inputs.images import load_pair

    pictures = list(_encoded_images().items())

    def mutate(rng: random.Random) -> tuple[str, bytes]:
        name, content = rng.choice(pictures)
        return name, mutate_bytes(rng, content, rng.choice(pictures)[1])

    return Target("images", mutate, lambda path: load_pair((path, path)))


def _encoded_images() -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    colors = Image.fromarray(generator.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    formats: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "a.png": (colors, {"format": "PNG"}),
        "palette.png": (colors.quantize(16), {"format": "PNG"}),
        "alpha.png": (colors.convert("RGBA"), {"format": "PNG"}),
        "gray.png": (colors.convert("I;16"), {"format": "PNG"}),
        "a.jpg": (colors, {"format": "JPEG"}),
        "progressive.jpg": (colors, {"format": "JPEG", "progressive": True}),
        "cmyk.jpg": (colors.convert("CMYK"), {"format": "JPEG"}),
        "a.tif": (colors, {"format": "TIFF"}),
        "lzw.tif": (colors, {"format": "TIFF", "compression": "tiff_lzw"}),
        "deflate.tif": (colors.convert("L"), {"format": "TIFF", "compression": "tiff_adobe_deflate"}),
        "a.webp": (colors, {"format": "WEBP"}),
        "lossless.webp": (colors, {"format": "WEBP", "lossless": True}),
        "a.bmp": (colors, {"format": "BMP"}),
    }
    encoded = {}
    for name, (picture, options) in formats.items():
        file = io.BytesIO()
        picture.save(file, **options)
        encoded[name] = file.getvalue()
    return encoded


def _manifests() -> Target:
    from rsicrc.manifest import FileRecord, Manifest
    from rsicrc.preprocessing import Preprocessing
    from tests.runtime.signatures import declared_graphs

    graphs = declared_graphs(96)
    names = ["tokenizer.json", *(graph.file for graph in graphs.values())]
    document = Manifest(
        model={"d_model": 8, "trunk": {"layers": [1, 1]}},
        preprocessing=Preprocessing(96),
        max_len=12,
        vocab_size=40,
        no_change_sentences=("nothing has changed", "the scene is the same"),
        graphs=graphs,
        files={name: FileRecord("0" * 64, 7) for name in names},
        checkpoint={"sha256": "0" * 64},
        producers={"rsicrc": "0.1"},
    ).to_dict()

    def read(path: Path) -> object:
        from rsicrc.decoding.options import CaptionOptions
        from rsicrc.errors import ArgumentError

        manifest = Manifest.from_json(path.read_bytes().decode("utf-8", "replace"), path)
        assert manifest.preprocessing.size <= 4096
        assert json.loads(json.dumps(manifest.to_dict()))
        try:
            return CaptionOptions().resolve(manifest)
        except ArgumentError as error:
            raise AssertionError("the defaults of an accepted manifest are refused") from error

    return Target("manifests", lambda rng: ("manifest.json", mutate_json(rng, document).encode(errors="replace")), read)


def _tokenizers() -> Target:
    from rsicrc.text.vocabulary import SPECIAL_WORDS, Vocabulary

    words = (*SPECIAL_WORDS, "the", "road", "t-shaped", "is", "built", "café")
    document = json.loads(Vocabulary.from_words(words, 8).to_json())

    def read(path: Path) -> object:
        vocabulary = Vocabulary.load(path)
        ids = vocabulary.encode("The T-shaped road is built, is built.")
        assert len(ids) <= vocabulary.max_len
        return vocabulary.decode(ids[1:])

    def mutate(rng: random.Random) -> tuple[str, bytes]:
        return "tokenizer.json", mutate_json(rng, document).encode(errors="replace")

    return Target("tokenizers", mutate, read)


def _tables() -> Target:
    from rsicrc.inputs.pair_table import read_pairs

    columns = ("id", "before", "after", "year", "cloud", "place", "ok")
    rows = [(f"p{n}", f"{n}a.png", f"{n}b.png", 2018 + n, n / 10, "Graz é", n % 2 == 0) for n in range(6)]
    files = {}
    for name, separator in (("t.csv", ","), ("semicolon.csv", ";"), ("tab.tsv", "\t")):
        text = io.StringIO()
        csv.writer(text, delimiter=separator).writerows([columns, *rows])
        files[name] = text.getvalue().encode()
    files["utf16.csv"] = files["t.csv"].decode().encode("utf-16")
    files["cp1252.csv"] = files["semicolon.csv"].decode().encode("cp1252")
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    files["t.jsonl"] = "\n".join(lines).encode()
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        pass
    else:
        sink = io.BytesIO()
        parquet.write_table(pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True))), sink)
        files["t.parquet"] = sink.getvalue()
    contents = list(files.items())

    def mutate(rng: random.Random) -> tuple[str, bytes]:
        name, content = rng.choice(contents)
        if name == "t.jsonl" and rng.random() < 0.5:
            return name, "\n".join(mutate_json(rng, json.loads(line)) for line in lines).encode(errors="replace")
        return name, mutate_bytes(rng, content, rng.choice(contents)[1])

    return Target("tables", mutate, read_pairs)


def _conditions() -> Target:
    if find_spec("lancedb") is None:  # a package of the index; its import takes more than a second
        raise ModuleNotFoundError("lancedb is not installed", name="lancedb")
    from rsicrc.errors import ArgumentError
    from rsicrc.index.condition import ConditionError, normalize_condition

    columns = ("id", "year", "Place", "my col", "cloudy", "day")
    seeds = [
        text.encode()
        for text in (
            "year > 2018 and not (Place in ('Graz', 'it''s') or `my col` between 1 and 2.5)",
            "lower(Place) like '%g%' and day >= date '2020-01-01' and cloudy is not null",
            "cast(year as string) = '2018' or \"my col\" = -1 + 2 * 3 or coalesce(cloudy, true)",
        )
    ]

    def read(path: Path) -> object:
        try:
            written = normalize_condition(path.read_bytes().decode("utf-8", "replace"), columns)
        except ConditionError as error:
            raise ArgumentError(str(error)) from error
        try:
            again = normalize_condition(written, columns)
        except ConditionError as error:
            assert str(error).startswith("more than")  # noqa: PT017 - a limit: the normalized condition is longer
            return written
        assert again.replace("(", "").replace(")", "") == written.replace("(", "").replace(")", "")
        return written

    def mutate(rng: random.Random) -> tuple[str, bytes]:
        return "where.txt", mutate_bytes(rng, rng.choice(seeds), rng.choice(seeds))

    return Target("conditions", mutate, read)


def _checkpoints() -> Target:
    import torch

    from rsicrc_train import checkpoint
    from tests.models import random_checkpoint, with_options

    small = with_options(d_model=16, h_dim=8, a_dim=16, encoder_layers=1, num_heads=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "good.pt"
        checkpoint.save(random_checkpoint(0, small), path)
        content = path.read_bytes()
        plain = torch.load(path, weights_only=True)

    def mutate(rng: random.Random) -> tuple[str, bytes]:
        if rng.random() < 0.5:
            return "ckpt.pt", mutate_bytes(rng, content, content)
        changed = dict(plain)
        name = rng.choice(list(changed))
        if name != "state_dict":
            try:
                changed[name] = json.loads(mutate_json(rng, _as_json(changed[name])))
            except (ValueError, RecursionError):
                del changed[name]
        else:
            tensors = dict(changed[name])
            key = rng.choice(list(tensors))
            tensor = tensors.pop(key)
            replacement = rng.choice((None, tensor.double(), tensor.int(), tensor.flatten(), tensor * float("nan"), 7))
            if replacement is not None:
                tensors[rng.choice((key, f"module.{key}", ""))] = replacement
            changed[name] = tensors
        written = io.BytesIO()
        try:
            torch.save(changed, written)
        except (RecursionError, RuntimeError):  # nested more deeply than torch can write
            return "ckpt.pt", content[: len(content) // 2]
        return "ckpt.pt", written.getvalue()

    return Target("checkpoints", mutate, checkpoint.load)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
