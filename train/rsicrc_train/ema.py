"""A running average of a model's weights."""

from __future__ import annotations

import copy

import torch

from rsicrc_train.model import RSICRC


class Average:
    """A copy of a model whose weights follow the trained ones slowly (EMA): w ← β·w + (1 − β)·trained."""

    def __init__(self, model: RSICRC, decay: float) -> None:
        """Start from the model's present weights.

        Args:
            model: the model that is trained.
            decay: β. The first steps use less, (1 + step) / (10 + step), to leave the random start behind.
        """
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def follow(self, model: RSICRC, step: int) -> None:
        """Move towards the model's weights after `step` steps; counters and other whole numbers are copied."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        # Not by the names of the state dict: tied weights have two, and would move twice.
        for followers, trained in (
            (self.model.parameters(), model.parameters()),
            (self.model.buffers(), model.buffers()),
        ):
            for tensor, new in zip(followers, trained, strict=True):
                if tensor.is_floating_point():
                    tensor.lerp_(new, weight)
                else:
                    tensor.copy_(new)
