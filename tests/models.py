"""Small random models for tests: the real architecture, with random weights that give captions of varying length.

Importing this module needs no extra of rsicrc; a test that builds a model is skipped without `rsicrc[train]`.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rsicrc.text.vocabulary import END, SPECIAL_WORDS
from rsicrc_train.config import ModelConfig, TrunkConfig

if TYPE_CHECKING:
    import torch

    from rsicrc_train.checkpoint import Checkpoint
    from rsicrc_train.model import RSICRC

WORDS = tuple(
    "the a is has road and built are no houses on of two scene in some roads appear as same there changed change "  # noqa: SIM905
    "before nothing identical buildings bareland many with trees along lower-right t-shaped corner pond".split()
)
VOCABULARY = (*SPECIAL_WORDS, *WORDS)
NO_CHANGE = ("the scene is the same as before", "nothing has changed", "there is no change")
END_GAIN = 2.6
SMALL = ModelConfig(
    backbone="small",
    trunk=TrunkConfig("clip_resnet", (1, 1, 1, 1), width=8, image_size=96),
    d_model=64,
    max_len=12,
    encoder_layers=2,
    num_heads=4,
    h_dim=32,
    a_dim=64,
)


def random_checkpoint(seed: int, config: ModelConfig = SMALL, vocabulary: tuple[str, ...] = VOCABULARY) -> Checkpoint:
    """Return a model whose weights depend only on the seed and the names of the tensors.

    The scales are chosen so that every part of the network influences the output. With unchanged random weights, one or
    two tokens would win at every step, because all decoder states share a large common component: the output layer is
    made orthogonal to it. The row of END is scaled up, so that its logit varies more than others, and the length of the
    captions varies from one token to the maximum.
    """
    torch = pytest.importorskip("torch", reason="needs rsicrc[train]")
    pytest.importorskip("open_clip", reason="needs rsicrc[train]")
    from rsicrc_train.checkpoint import Checkpoint
    from rsicrc_train.model import RSICRC

    model = RSICRC(config, len(vocabulary))
    tensors = {name: _fill(name, tensor, seed) for name, tensor in model.state_dict().items()}
    if config.tie_embeddings:
        tensors["decoder.embedding.weight"] = tensors["decoder.output.weight"]
    rows = tensors["decoder.output.weight"]
    rows[:END] *= 0.1
    model.load_state_dict(tensors)
    states = _decoder_states(model, seed)
    common = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
    rows -= torch.outer(rows @ common, common)
    if not config.tie_embeddings:
        rows /= states.std()  # without a last normalization (`prenorm`), logits would exceed 100
    rows[END] *= END_GAIN
    return Checkpoint(config, vocabulary, NO_CHANGE, {name: tensor.clone() for name, tensor in tensors.items()})


def save_checkpoint(folder: Path, seed: int, config: ModelConfig = SMALL) -> Path:
    """Write `random_checkpoint` into a folder and return the file."""
    written = random_checkpoint(seed, config)  # skips the test if the extra is missing
    from rsicrc_train import checkpoint

    path = folder / "ckpt.pt"
    checkpoint.save(written, path)
    return path


def with_options(**options: Any) -> ModelConfig:
    """Return the small config with some options changed."""
    return replace(SMALL, **options)


def random_images(pairs: int, seed: int, size: int = SMALL.image_trunk.image_size) -> NDArray[np.uint8]:
    """Return smooth random pairs that differ strongly from each other, uint8 [pairs, 2, size, size, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (pairs, 2, 4, 4, 3))
    cells = -(-size // 4)
    return coarse.repeat(cells, axis=2).repeat(cells, axis=3)[:, :, :size, :size].astype(np.uint8)


def _decoder_states(model: RSICRC, seed: int) -> torch.Tensor:
    """Return the inputs [states, d] of the output layer for random pairs and sentences."""
    import torch

    states: list[torch.Tensor] = []
    hook = model.decoder.output.register_forward_hook(lambda _module, inputs, _output: states.append(inputs[0]))
    images = torch.from_numpy(random_images(8, seed, model.config.image_trunk.image_size))
    size, length = model.decoder.embedding.num_embeddings, model.config.max_len
    ids = torch.randint(END + 1, size, (8, length), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.eval()(images, ids)
    hook.remove()
    return states[0].flatten(0, 1)


def _fill(name: str, tensor: torch.Tensor, seed: int) -> torch.Tensor:
    import torch

    if not tensor.is_floating_point():
        return tensor.clone()
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    normal: torch.Tensor = torch.from_numpy(generator.standard_normal(tuple(tensor.shape), dtype=np.float32))
    if name.endswith("running_var"):
        return 1.0 + 0.2 * normal.abs()
    if name.endswith(("running_mean", "bias")):
        return 0.05 * normal
    if tensor.ndim == 1:  # the scale of a normalization layer
        return 1.0 + 0.1 * normal
    if name.endswith(("embedding.weight", "output.weight", "pool.query", "positions")):
        return normal
    gain = 4.0 if "cross_attention" in name or "feed_forward" in name else 1.6**0.5
    scale: float = gain * tensor[0].numel() ** -0.5
    return normal * scale
