"""PyTorch, batched: greedy or beam search over the whole sentences at every step, in float32 or under autocast."""

from __future__ import annotations

import torch
from torch import Tensor

from contestants.base import Setup
from contestants.beam_search import search
from contestants.torch_base import TorchContestant
from rsicrc_train.model import ImageFeatures


class Batched(TorchContestant):
    """The model as it is; all pairs and beams go through it together."""

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Batched search without a cache."""
        tokens = encoded.tokens.repeat_interleave(beams, dim=0)

        def step(words: Tensor, _parents: Tensor) -> Tensor:
            return self.model.decode(self.model.encode_text(words).hidden, tokens)[:, -1]

        with self.autocast():
            return search(step, len(encoded.tokens), beams, self.max_length, self.device)


def build(setup: Setup) -> Batched:
    """Open it."""
    return Batched(setup)
