"""PyTorch baseline: batched greedy or beam search that decodes the whole sentences in every step."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.beam_search import beam_search
from baselines.implementation import Setup
from baselines.torch_base import TorchBaseline
from rsicrc_train.model import ImageFeatures


class BatchedPyTorch(TorchBaseline):
    """The unchanged model; all pairs and beams are one batch."""

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Run a batched beam search without a cache."""
        visual = encoded.tokens.repeat_interleave(beams, dim=0)

        def step(ids: Tensor, _parents: Tensor) -> Tensor:
            return self.model.decode(self.model.encode_text(ids).hidden, visual)[:, -1]

        with self.autocast():
            return beam_search(step, len(encoded.tokens), beams, self.max_length, self.device)


def build(setup: Setup) -> BatchedPyTorch:
    """Open the baseline."""
    return BatchedPyTorch(setup)
