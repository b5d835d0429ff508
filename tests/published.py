"""Checkpoints in the published layout: rebuilt from a golden file, or written from a checkpoint of this project."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.text.vocabulary import SPECIAL_WORDS

if TYPE_CHECKING:
    import torch

    from rsicrc_train.checkpoint import Checkpoint

GOLDEN_FOLDER = Path(__file__).with_name("golden")


@dataclass(frozen=True)
class PublishedFiles:
    """The three files of a published checkpoint."""

    weights: Path
    config: Path
    vocab: Path

    def load(self, **options: Any) -> Checkpoint:
        from rsicrc_train.published import load_published

        return load_published(self.weights, self.config, self.vocab, **options)


@dataclass(frozen=True)
class Golden:
    """Inputs and outputs of the published code; `golden/README.md` describes each array."""

    arrays: dict[str, NDArray[Any]]
    shapes: dict[str, list[int]]

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(str(self.arrays["config"]))
        return config

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def write(self, folder: Path) -> PublishedFiles:
        """Write the checkpoint from which the golden file was computed."""
        import torch

        filled = {name: fill(name, shape, int(self["seed"])) for name, shape in self.shapes.items()}
        filled.pop("decoder.position_encoding.pe", None)
        overrides = {name.removeprefix("override/"): self[name] for name in self.arrays if name.startswith("override/")}
        rows = overrides.pop("output_rows")
        filled |= {**overrides, "decoder.lm_head.weight": rows}
        if self.config["tie_embeddings"]:
            filled["decoder.tokens_embed.weight"] = rows
        words = (*SPECIAL_WORDS, *(f"word{number}" for number in range(4, int(self["vocab_size"]))))
        tensors = {name: torch.from_numpy(array) for name, array in filled.items()}
        return write_files(folder, tensors, self.config, words)


def read_golden(arrays: Path, shapes: Path) -> Golden:
    with np.load(arrays) as archive:
        return Golden(dict(archive), json.loads(shapes.read_text()))


def kept_golden(variant: str) -> Golden:
    """Read one of the golden files in `tests/golden/`."""
    return read_golden(GOLDEN_FOLDER / f"{variant}.npz", GOLDEN_FOLDER / f"{variant}.json")


def fill(name: str, shape: list[int], seed: int) -> NDArray[Any]:
    """Return the values of one tensor of a golden file's weights, which depend only on seed, name and shape.

    The same rule (Philox with seed and CRC of the name as key; scale by kind of tensor) was used when the golden files
    were computed.
    """
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    key = (seed << 32) | zlib.crc32(name.encode())
    normal = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return np.float32(1) + np.float32(0.2) * np.abs(normal)
    if name.endswith(("running_mean", "bias")):
        return np.float32(0.05) * normal
    if len(shape) == 1:
        return np.float32(1) + np.float32(0.1) * normal
    if name.endswith(("tokens_embed.weight", "lm_head.weight", "positional_embedding", "class_embedding")):
        return normal
    loud = name.startswith("decoder.") and ("cross_attn" in name or "ff_linear" in name)
    return normal * np.float32((4.0 if loud else 1.0) * np.sqrt(1.6 / np.prod(shape[1:])))


def published_files(checkpoint: Checkpoint, folder: Path) -> PublishedFiles:
    """Write a checkpoint in the published layout, including the tensors that the published code does not use."""
    import torch

    from rsicrc_train.published import published_names

    config, model = checkpoint.config, checkpoint.build_model()
    assert config.unimodal_layers == config.multimodal_layers
    tensors = {published: checkpoint.state_dict[name].clone() for name, published in published_names(model).items()}
    keys = [name for name in tensors if name.endswith(".att.to_k.weight")]
    tensors |= {name.replace("to_k", "to_v"): torch.randn_like(tensors[name]) for name in keys}
    if not config.learnable:
        tensors["decoder.position_encoding.pe"] = model.decoder.positions.unsqueeze(0).clone()
    if config.image_trunk.kind == "clip_vit":
        tensors["encoder.encoder.net.proj"] = torch.randn(config.image_trunk.width, 8)
    names = ("d_model", "max_len", "encoder_layers", "num_heads", "h_dim", "a_dim", "dropout", "learnable")
    options = {name: getattr(config, name) for name in (*names, "tie_embeddings", "prenorm", "backbone")}
    options |= {"decoder_layers": config.multimodal_layers, "fine_tune": True, "fna": True, "s-threshold": 1.0}
    return write_files(folder, tensors, options, checkpoint.vocabulary)


def write_files(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], words: tuple[str, ...]
) -> PublishedFiles:
    """Write the three files into a new folder."""
    import torch

    folder.mkdir()
    files = PublishedFiles(folder / "model_best.pt", folder / "config.json", folder / "levir_vocab.json")
    torch.save(tensors, files.weights)
    files.config.write_text(json.dumps(config))
    # As in the published file, the special words come last, whatever their ids.
    ids = {word: number for number, word in enumerate(words)}
    files.vocab.write_text(json.dumps(dict(sorted(ids.items(), key=lambda item: (item[1] < 4, item[1])))))
    return files


def relative_error(found: Any, expected: Any) -> float:
    """Return the norm of the difference divided by the norm of `expected`."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
