"""Published method: one pair at a time, greedy search, the whole decoder for every token."""

from __future__ import annotations

import torch

from baselines.implementation import Setup
from baselines.torch_base import TorchBaseline
from rsicrc.text.vocabulary import END, START
from rsicrc_train.model import ImageFeatures


class Published(TorchBaseline):
    """Evaluation as in the published method: PyTorch in fp32."""

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Run a greedy search; `beams` is 1."""
        captions = []
        for visual in torch.split(encoded.tokens, 1):
            ids = [START]
            while len(ids) < self.max_length and ids[-1] != END:
                hidden = self.model.encode_text(torch.tensor([ids], device=self.device)).hidden
                ids.append(int(self.model.decode(hidden, visual)[0, -1].argmax()))
            captions.append(ids[1:])
        return captions


def build(setup: Setup) -> Published:
    """Open the baseline."""
    return Published(setup)
