"""torch.compile baseline: bfloat16 autocast, key-value caches of fixed length, one program per batch size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from baselines.beam_search import IMPOSSIBLE, beam_search
from baselines.cached_decoder import CachedDecoder, KeysValues
from baselines.implementation import Images, Setup
from baselines.pytorch import PyTorch
from rsicrc_train.model import ImageFeatures


class StaticStep(nn.Module):
    """A decoder step with caches [R, H, T, dh] as inputs and outputs."""

    def __init__(self, decoder: CachedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, ids: Tensor, parents: Tensor, position: Tensor, caches: list[KeysValues], cross: list[KeysValues]
    ) -> tuple[Tensor, list[KeysValues]]:
        """Return logits [R, V] and the next caches; row r continues the caption of row parents[r]."""
        following: list[KeysValues] = []

        def update(layer: int, key: Tensor, value: Tensor) -> KeysValues:
            keys, values = (
                cache[parents].index_copy(2, position, new.to(cache.dtype))
                for cache, new in zip(caches[layer], (key, value), strict=True)
            )
            following.append((keys, values))
            return keys, values

        slots = torch.arange(caches[0][0].shape[2], device=ids.device)
        mask = torch.where(slots > position, IMPOSSIBLE, 0.0).to(caches[0][0].dtype).unsqueeze(0)
        return self.decoder(ids, position, cross, update, mask), following


class Compiled(PyTorch):
    """Image encoder and decoder step as compiled programs with frozen weights."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        torch._inductor.config.freezing = True
        torch._dynamo.config.recompile_limit = 64  # one program per batch size
        self.slots = setup.max_length
        self.decoder = CachedDecoder(self.model.decoder)
        self.run_encoder: Any = torch.compile(self.model.encoder, dynamic=False)
        self.run_cross: Any = torch.compile(self.decoder.cross_keys_values, dynamic=False)
        self.run_step: Any = torch.compile(StaticStep(self.decoder), dynamic=False)

    def warm_up(self, images: Images, beams: int) -> None:
        """Compile for this batch size: the first step, and the second, whose caches have other strides."""
        length, self.max_length = self.max_length, 3
        self.search(self.encode(images), beams)
        self.max_length = length

    @torch.no_grad()
    def encode(self, images: Images) -> ImageFeatures:
        """Run the compiled image encoder."""
        with self.autocast():
            features: ImageFeatures = self.run_encoder(self.pixels(images))
            return features

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Run a batched beam search over the compiled step."""
        config, rows = self.model.config, len(encoded.tokens) * beams
        shape = (rows, config.num_heads, self.slots, config.d_model // config.num_heads)
        with self.autocast():
            cross = self.run_cross(encoded.tokens)
            kind: dict[str, Any] = {"dtype": torch.bfloat16, "device": self.device}
            caches = [(torch.zeros(shape, **kind), torch.zeros(shape, **kind)) for _ in self.decoder.layers]

            def step(ids: Tensor, parents: Tensor) -> Tensor:
                nonlocal caches
                position = torch.tensor([ids.shape[1] - 1], device=self.device)
                logits, caches = self.run_step(ids[:, -1].contiguous(), parents, position, caches, cross)
                out: Tensor = logits
                return out

            return beam_search(step, len(encoded.tokens), beams, self.max_length, self.device)
