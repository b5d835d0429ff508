"""Exponential moving average (EMA) of a model's weights."""

from __future__ import annotations

import copy

import torch

from rsicrc_train.model import RSICRC


class ExponentialMovingAverage:
    """Copy of a model whose weights are a moving average of the trained weights: w ← β·w + (1 − β)·trained.

    Attributes:
        decay: Decay β; the first steps use the smaller (1 + step) / (10 + step), so that the random initial weights
            are forgotten quickly.
        model: Model with the averaged weights, in evaluation mode.
    """

    def __init__(self, model: RSICRC, decay: float) -> None:
        """Start from the present weights of the model that is trained."""
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: RSICRC, step: int) -> None:
        """Include the model's weights after `step` steps; integer buffers, such as counters, are copied."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        # The state dict lists tied weights under two names, so averaging by its names would update them twice.
        for averages, trained in (
            (self.model.parameters(), model.parameters()),
            (self.model.buffers(), model.buffers()),
        ):
            for average, new in zip(averages, trained, strict=True):
                if average.is_floating_point():
                    average.lerp_(new, weight)
                else:
                    average.copy_(new)
