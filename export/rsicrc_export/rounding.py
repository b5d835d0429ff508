"""Rounding as an explanation of a difference between a graph and the PyTorch model.

Weights can amplify rounding so far that two correct float32 computations differ by more than any useful tolerance. The
model in float64 separates rounding from errors: a correct graph is about as far from it as the float32 model is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsicrc_train.model import RSICRC

FACTOR = 4.0  # largest allowed ratio of the distances of graph and float32 model from float64
SAMPLES = 4  # number of further float32 models
FLOOR = 0.1  # added to the allowed distance: this share of the tolerance


class References:
    """Copies of a model that show its rounding, made when they are used.

    Args:
        model: The float32 model.
    """

    def __init__(self, model: RSICRC) -> None:
        self._source = model

    @cached_property
    def double(self) -> RSICRC:
        """The model in float64, which needs twice the memory of the weights."""
        return copy.deepcopy(self._source).double()

    def perturbed(self) -> Iterator[RSICRC]:
        """Yield float32 models whose weights are changed by random amounts of up to half a unit in the last place.

        One float32 result is a single sample of the rounding error, which is small by chance for some inputs. These
        models are further samples (stochastic arithmetic, after Vignes, "A stochastic arithmetic for reliable
        scientific computation", 1993).
        """
        for seed in range(SAMPLES):
            generator = torch.Generator().manual_seed(seed)
            other = copy.deepcopy(self._source)
            for weight in other.parameters():
                noise = torch.rand(weight.shape, generator=generator, dtype=torch.float64) * 2 - 1
                weight.copy_(weight.double() * (1 + 2.0**-24 * noise))
            yield other


@dataclass(frozen=True)
class Rounding:
    """Distances of a graph and of the float32 model from the model in float64.

    Attributes:
        graph: Largest and median distance of the graph.
        model: Largest and median distance of the float32 model.
        allowed: Largest allowed distances of the graph.
    """

    graph: tuple[float, float]
    model: tuple[float, float]
    allowed: tuple[float, float]

    @property
    def passed(self) -> bool:
        """True if neither distance of the graph exceeds the allowed one."""
        # `<=` is false for NaN.
        return all(found <= allowed for found, allowed in zip(self.graph, self.allowed, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for the manifest."""
        return {
            name: dict(zip(("largest", "median"), values, strict=True))
            for name, values in (
                ("graph_from_float64", self.graph),
                ("model_from_float64", self.model),
                ("allowed_from_float64", self.allowed),
            )
        }

    def __str__(self) -> str:
        graph, model, allowed = (
            f"{largest:.1e} (median {median:.1e})" for largest, median in (self.graph, self.model, self.allowed)
        )
        return f"distance from the model in float64 {graph}, of PyTorch in float32 {model}, allowed {allowed}"


def compare_rounding(graph: NDArray[np.float64], models: Sequence[NDArray[np.float64]], tolerance: float) -> Rounding:
    """Compare the distances of a graph from the model in float64 with those of the float32 model.

    Args:
        graph: The distances of the graph for all inputs.
        models: The distances of the float32 model, and of its perturbed copies, for the same inputs. The largest of
            each input counts.
        tolerance: The tolerance of the quantity.
    """
    from_graph, from_model = (
        (float(values.max()), float(np.median(values))) for values in (graph, np.max(models, axis=0))
    )
    largest, median = (FACTOR * distance + FLOOR * tolerance for distance in from_model)
    return Rounding(from_graph, from_model, (largest, median))
