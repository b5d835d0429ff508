"""Check of the numbers that a model returns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import BackendError


def require_numbers(values: NDArray[Any], kind: str) -> NDArray[Any]:
    """Return values of a model if none of them is NaN. A caption or a score made from NaN would look like a result.

    Args:
        values: Results of a graph, of any shape.
        kind: Name of the values, for the message.

    Raises:
        BackendError: A value is NaN.
    """
    if np.isnan(values).any():
        raise BackendError(
            f"the model gave NaN (not a number) for {kind}: its weights are damaged, or the precision is too low for "
            "them. Try fp32, or export the model again"
        )
    return values
