"""The model as it is through `torch.onnx.export`, on ONNX Runtime: no fold, no cache, the search in the host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contestants.base import Images, Setup, TwoPart, Vectors
from contestants.beam_search import search
from rsicrc.manifest import TOKENIZER_FILE, Manifest
from rsicrc.text.encoding import encode_sentences, pad
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint
from rsicrc_train.model import RSICRC

IMAGES, TEXTS, WORDS = "images.onnx", "texts.onnx", "words.onnx"
_OPSET = 18


class _Part(nn.Module):
    """A method of the model as a module, for the exporter."""

    def __init__(self, model: RSICRC, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *inputs: Tensor) -> Any:
        if self.name == IMAGES:
            features = self.model.encode_images(inputs[0])
            return features.embedding, features.tokens
        if self.name == TEXTS:
            return self.model.encode_text(inputs[0]).embedding
        return self.model.decode(self.model.encode_text(inputs[0]).hidden, inputs[1])[:, -1]


def export(source: Path, folder: Path) -> None:
    """Write the three files."""
    model = checkpoint.load(source).build_model().requires_grad_(False)
    config = model.config
    size, tokens = config.image_trunk.image_size, config.image_trunk.map_size**2
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=config.max_len)
    pixels = torch.zeros(3, 2, size, size, 3, dtype=torch.uint8)
    ids = torch.full((3, 5), 4)
    parts: dict[str, tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...], list[str]]] = {
        IMAGES: ((pixels,), ({0: batch},), ["images"]),
        TEXTS: ((ids,), ({0: batch, 1: length},), ["ids"]),
        WORDS: (
            (ids, torch.zeros(3, tokens, config.d_model)),
            ({0: batch, 1: torch.export.Dim.DYNAMIC}, {0: batch}),
            ["ids", "tokens"],
        ),
    }
    for name, (example, axes, inputs) in parts.items():
        # Strict: the model asks `len(images)`, which plain tracing would freeze to the example's number.
        program = torch.export.export(_Part(model, name).eval(), example, dynamic_shapes={"inputs": axes}, strict=True)
        torch.onnx.export(
            program,
            f=folder / name,
            input_names=inputs,
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


class PlainOnnx(TwoPart):
    """Three sessions; the sentences grow by a word a run."""

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        manifest = Manifest.load(setup.folder, verify=False)
        self.vocabulary = Vocabulary.load(setup.folder / TOKENIZER_FILE)
        self.preprocessing = manifest.preprocessing
        self.size = sum(path.stat().st_size for path in setup.plain.iterdir())
        self.threads, self.max_length = setup.threads, setup.max_length
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setup.threads
        options.log_severity_level = 3
        kind, _, number = setup.device.partition(":")
        self.place = (kind, int(number or 0))
        providers: list[Any] = ["CPUExecutionProvider"]
        if kind == "cuda":
            providers = [("CUDAExecutionProvider", {"device_id": self.place[1], "use_tf32": 0}), *providers]
        self.images, self.texts, self.words = (
            onnxruntime.InferenceSession(setup.plain / name, options, providers=providers)
            for name in (IMAGES, TEXTS, WORDS)
        )
        if kind == "cuda" and self.words.get_providers()[0] != providers[0][0]:
            raise SystemExit(
                "ONNX Runtime cannot use the GPU here: onnxruntime-gpu and what it is linked with must be there"
            )

    def encode(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embedding [B, d] and visual tokens [B, S, d]."""
        embedding, tokens = self.images.run(None, {"images": images})
        return embedding, tokens

    def embedding(self, encoded: tuple[NDArray[np.float32], NDArray[np.float32]]) -> Vectors:
        """The image embedding."""
        return _unit(encoded[0])

    def search(self, encoded: tuple[NDArray[np.float32], NDArray[np.float32]], beams: int) -> list[list[int]]:
        """Batched search without a cache."""
        tokens = onnxruntime.OrtValue.ortvalue_from_numpy(encoded[1].repeat(beams, axis=0), *self.place)
        names = [output.name for output in self.words.get_outputs()]

        def step(words: Tensor, _parents: Tensor) -> Tensor:
            ids = onnxruntime.OrtValue.ortvalue_from_numpy(words.contiguous().numpy(), *self.place)
            (logits,) = self.words.run_with_ort_values(names, {"ids": ids, "tokens": tokens})
            return torch.from_numpy(logits.numpy())

        return search(step, len(encoded[1]), beams, self.max_length)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """The text tower."""
        (embedding,) = self.texts.run(None, {"ids": pad(encode_sentences(self.vocabulary, texts))})
        return _unit(embedding)


def _unit(embedding: NDArray[np.float32]) -> Vectors:
    vectors: Vectors = embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)
    return vectors


def build(setup: Setup) -> PlainOnnx:
    """Open it."""
    return PlainOnnx(setup)
