"""The published way: one pair at a time, greedily, the whole decoder again for every word."""

from __future__ import annotations

import torch

from contestants.base import Setup
from contestants.torch_base import TorchContestant
from rsicrc.text.vocabulary import END, START
from rsicrc_train.model import ImageFeatures


class Published(TorchContestant):
    """As in the published code's evaluation: PyTorch in float32."""

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Greedy search; `beams` is 1."""
        captions = []
        for tokens in encoded.tokens.split(1):
            ids = [START]
            while len(ids) < self.max_length and ids[-1] != END:
                hidden = self.model.encode_text(torch.tensor([ids], device=self.device)).hidden
                ids.append(int(self.model.decode(hidden, tokens)[0, -1].argmax()))
            captions.append(ids[1:])
        return captions


def build(setup: Setup) -> Published:
    """Open it."""
    return Published(setup)
