"""Comparisons of the results of a graph with those of the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc_export.rounding import References, Rounding, compare_rounding
from rsicrc_train.model import RSICRC

Difference = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
# The results of a model for the quantities of one graph, in their order.
Evaluation = list[Sequence[NDArray[Any]]]


def _differences(
    difference: Difference, found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]
) -> NDArray[np.float64]:
    pairs = zip(found, expected, strict=True)
    return np.concatenate([np.ravel(difference(first, second)).astype(np.float64) for first, second in pairs])


def absolute(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """Return the absolute differences of two arrays."""
    return np.asarray(np.abs(found - expected))


def distances(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """Return the distances between the rows of two arrays."""
    return np.asarray(np.linalg.norm(found - expected, axis=-1))


def relative_distances(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """Return the distances between the values of each pair, relative to the length of the expected values."""
    rows = expected.reshape(len(expected), -1)
    return np.asarray(distances(found.reshape(rows.shape), rows) / np.linalg.norm(rows, axis=1))


def log_prob_differences(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """Return differences of log-probabilities, relative to the expected one where that is below -1."""
    return np.asarray(np.abs(found - expected) / np.maximum(1.0, np.abs(expected)))


def regrets(chosen: NDArray[Any], log_probs: NDArray[Any]) -> NDArray[Any]:
    """Return by how much the best token's log-probability exceeds the chosen one's, at each position.

    Args:
        chosen: The chosen tokens [n].
        log_probs: The log-probabilities of all tokens [n, V].
    """
    return np.asarray(log_probs.max(axis=1) - np.take_along_axis(log_probs, chosen[:, None], axis=1)[:, 0])


def largest_per_position(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """Return the largest difference of log-probabilities [n, V] at each position."""
    return np.asarray(np.abs(found - expected).max(axis=1))


@dataclass(frozen=True)
class Comparison:
    """The difference between graph and model in one quantity.

    Attributes:
        quantity: The compared quantity, and whether the difference is absolute or relative.
        inputs: The inputs of the comparison.
        difference: The largest difference.
        tolerance: The largest difference that is allowed without a comparison in float64.
        rounding: The comparison with the model in float64; None where the difference is within the tolerance.
    """

    quantity: str
    inputs: str
    difference: float
    tolerance: float
    rounding: Rounding | None

    @property
    def passed(self) -> bool:
        """True if the difference is within the tolerance, or no larger than rounding explains."""
        # `<=` is false for NaN.
        return self.difference <= self.tolerance or (self.rounding is not None and self.rounding.passed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for the manifest."""
        return {
            "quantity": self.quantity,
            "inputs": self.inputs,
            "largest_difference": self.difference,
            "tolerance": self.tolerance,
            "rule": "tolerance" if self.rounding is None else "float64",
            **(self.rounding.to_dict() if self.rounding is not None else {}),
        }

    def __str__(self) -> str:
        line = f"{self.quantity}, largest difference {self.difference:.1e} (allowed {self.tolerance:.0e})"
        if self.rounding is not None:
            line += f", {self.rounding}"
        return f"{line} on {self.inputs}"


@dataclass(frozen=True)
class Quantity:
    """One compared quantity of a graph.

    Attributes:
        name: The quantity, and whether the difference is absolute or relative.
        inputs: The inputs of the comparison.
        tolerance: The largest allowed difference.
        found: The results of the graph: one array for each run, pair or sentence.
        difference: Function that compares an array of the graph with the array of a model → differences.
        model_difference: Function that compares an array of the float32 model with the array of the float64 model; None
            if it is `difference`.
    """

    name: str
    inputs: str
    tolerance: float
    found: Sequence[NDArray[Any]]
    difference: Difference
    model_difference: Difference | None = None

    def compare(
        self, expected: Sequence[NDArray[Any]], references: Callable[[], list[Sequence[NDArray[Any]]]]
    ) -> Comparison:
        """Compare with the results of the model.

        Args:
            expected: The results of the model.
            references: Function that returns the results of the float64 model, then those of the perturbed models; it
                is called only if the tolerance is exceeded.
        """
        largest = float(_differences(self.difference, self.found, expected).max())  # NaN if any is NaN
        rounding = None
        if not largest <= self.tolerance:
            exact, *others = references()
            models = [
                _differences(self.model_difference or self.difference, each, exact) for each in (expected, *others)
            ]
            rounding = compare_rounding(_differences(self.difference, self.found, exact), models, self.tolerance)
        return Comparison(self.name, self.inputs, largest, self.tolerance, rounding)


@dataclass(frozen=True)
class GraphCheck:
    """The quantities of one graph, and the function that computes them with a model in float32 or float64."""

    graph: str
    quantities: Sequence[Quantity]
    evaluate: Callable[[RSICRC], Evaluation]

    def run(self, model: RSICRC, references: References) -> list[Comparison]:
        """Compare all quantities; the references are evaluated at most once."""
        expected = self.evaluate(model)

        @cache
        def evaluations() -> list[Evaluation]:
            return [self.evaluate(references.double), *map(self.evaluate, references.perturbed())]

        return [
            quantity.compare(values, lambda number=number: [each[number] for each in evaluations()])  # type: ignore[misc]
            for number, (quantity, values) in enumerate(zip(self.quantities, expected, strict=True))
        ]
