"""Plain ONNX baseline: the unchanged model through `torch.onnx.export`, on ONNX Runtime; no folding and no cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common.assets import PLAIN
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.beam_search import beam_search
from baselines.implementation import Images, Setup, TwoStage, Vectors
from rsicrc.manifest import TOKENIZER_FILE, Manifest
from rsicrc.text.encoding import encode_sentences, pad
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint
from rsicrc_train.model import RSICRC

IMAGES, TEXTS, TOKENS = "images.onnx", "texts.onnx", "tokens.onnx"
_OPSET = 18
Encoded = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Embeddings [B, d] and visual tokens [B, S, d]."""


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
    """Export a checkpoint to the three ONNX files."""
    model = checkpoint.load(source).build_model().requires_grad_(False)
    config = model.config
    size, tokens = config.image_trunk.image_size, config.image_trunk.map_size**2
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=config.max_len)
    pixels = torch.zeros(3, 2, size, size, 3, dtype=torch.uint8)
    ids = torch.full((3, 5), 4)
    parts: dict[str, tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...], list[str]]] = {
        IMAGES: ((pixels,), ({0: batch},), ["images"]),
        TEXTS: ((ids,), ({0: batch, 1: length},), ["ids"]),
        TOKENS: (
            (ids, torch.zeros(3, tokens, config.d_model)),
            ({0: batch, 1: torch.export.Dim.DYNAMIC}, {0: batch}),
            ["ids", "tokens"],
        ),
    }
    options: dict[str, Any] = {"opset_version": _OPSET, "dynamo": True, "external_data": False, "verbose": False}
    for name, (example, axes, inputs) in parts.items():
        # Strict, because the model uses `len(images)`, which non-strict tracing fixes to the example's batch size.
        program = torch.export.export(_Part(model, name).eval(), example, dynamic_shapes={"inputs": axes}, strict=True)
        torch.onnx.export(program, f=folder / name, input_names=inputs, **options)


class PlainOnnx(TwoStage):
    """Three sessions; the captions grow by one token per run."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        self.vocabulary = Vocabulary.load(setup.folder / TOKENIZER_FILE)
        self.preprocessing = Manifest.load(setup.folder, verify=False).preprocessing
        plain = setup.assets / PLAIN
        self.size = sum(path.stat().st_size for path in plain.iterdir())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setup.threads
        options.log_severity_level = 3
        kind, _, index = setup.device.partition(":")
        self.device = (kind, int(index or 0))
        providers: list[Any] = ["CPUExecutionProvider"]
        if kind == "cuda":
            providers = [("CUDAExecutionProvider", {"device_id": self.device[1], "use_tf32": 0}), *providers]
        self.images, self.texts, self.tokens = (
            onnxruntime.InferenceSession(plain / name, options, providers=providers) for name in (IMAGES, TEXTS, TOKENS)
        )
        if kind == "cuda" and self.tokens.get_providers()[0] != providers[0][0]:
            raise SystemExit("ONNX Runtime cannot use the GPU: install onnxruntime-gpu and its CUDA libraries")

    def encode(self, images: Images) -> Encoded:
        """Return embeddings and visual tokens."""
        embedding, tokens = self.images.run(None, {"images": images})
        return embedding, tokens

    def embedding(self, encoded: Encoded) -> Vectors:
        """Return the image embeddings."""
        return _normalize(encoded[0])

    def search(self, encoded: Encoded, beams: int) -> list[list[int]]:
        """Run a batched beam search without a cache."""
        visual = onnxruntime.OrtValue.ortvalue_from_numpy(encoded[1].repeat(beams, axis=0), *self.device)
        names = [output.name for output in self.tokens.get_outputs()]

        def step(ids: Tensor, _parents: Tensor) -> Tensor:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(ids.contiguous().numpy(), *self.device)
            (logits,) = self.tokens.run_with_ort_values(names, {"ids": value, "tokens": visual})
            return torch.from_numpy(logits.numpy())

        return beam_search(step, len(encoded[1]), beams, self.max_length)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Run the text encoder."""
        (embedding,) = self.texts.run(None, {"ids": pad(encode_sentences(self.vocabulary, texts))})
        return _normalize(embedding)


def _normalize(embedding: NDArray[np.float32]) -> Vectors:
    vectors: Vectors = embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)
    return vectors
