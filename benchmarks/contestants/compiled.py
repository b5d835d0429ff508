"""torch.compile under bfloat16 autocast, with a key-value cache of fixed length: a program for every size of batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from contestants.base import Images, Setup
from contestants.beam_search import IMPOSSIBLE, search
from contestants.cached import CachedDecoder, Memory
from contestants.torch_base import TorchContestant
from rsicrc_train.model import ImageFeatures


class StaticStep(nn.Module):
    """One word for every row, with caches [R, H, T, dh] that go in and come out."""

    def __init__(self, decoder: CachedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, words: Tensor, parents: Tensor, position: Tensor, caches: list[Memory], memory: list[Memory]
    ) -> tuple[Tensor, list[Memory]]:
        """Logits [R, V] and the next caches; row r continues the sentence of row parents[r]."""
        following: list[Memory] = []

        def update(layer: int, key: Tensor, value: Tensor) -> Memory:
            keys, values = (
                cache[parents].index_copy(2, position, new.to(cache.dtype))
                for cache, new in zip(caches[layer], (key, value), strict=True)
            )
            following.append((keys, values))
            return keys, values

        places = torch.arange(caches[0][0].shape[2], device=words.device)
        unseen = torch.where(places > position, IMPOSSIBLE, 0.0).to(caches[0][0].dtype).unsqueeze(0)
        return self.decoder(words, position, memory, update, unseen), following


class Compiled(TorchContestant):
    """The image side and the decoder's step as compiled programs, their weights frozen into them."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        torch._inductor.config.freezing = True
        torch._dynamo.config.recompile_limit = 64  # one program for every size
        self.places = setup.max_length
        self.decoder = CachedDecoder(self.model.decoder)
        self.run_images: Any = torch.compile(self.model.encoder, dynamic=False)
        self.run_memory: Any = torch.compile(self.decoder.remember, dynamic=False)
        self.run_step: Any = torch.compile(StaticStep(self.decoder), dynamic=False)

    def warm_up(self, images: Images, beams: int) -> None:
        """Compile for this size: the first step of a search, and the second, whose caches lie otherwise."""
        length, self.max_length = self.max_length, 3
        self.search(self.encode(images), beams)
        self.max_length = length

    @torch.no_grad()
    def encode(self, images: Images) -> ImageFeatures:
        """The compiled image side."""
        with self.autocast():
            features: ImageFeatures = self.run_images(self.pixels(images))
            return features

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Batched search over the compiled step."""
        config, rows = self.model.config, len(encoded.tokens) * beams
        shape = (rows, config.num_heads, self.places, config.d_model // config.num_heads)
        with self.autocast():
            memory = self.run_memory(encoded.tokens)
            kind: dict[str, Any] = {"dtype": torch.bfloat16, "device": self.device}
            caches = [(torch.zeros(shape, **kind), torch.zeros(shape, **kind)) for _ in self.decoder.layers]

            def step(words: Tensor, parents: Tensor) -> Tensor:
                nonlocal caches
                position = torch.tensor([words.shape[1] - 1], device=self.device)
                logits, caches = self.run_step(words[:, -1].contiguous(), parents, position, caches, memory)
                out: Tensor = logits
                return out

            return search(step, len(encoded.tokens), beams, self.max_length, self.device)


def build(setup: Setup) -> Compiled:
    """Open it."""
    return Compiled(setup)
