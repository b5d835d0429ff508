"""Matplotlib's figures, without files of Matplotlib in the home folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rsicrc.files import user_cache

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches.

    Matplotlib keeps its list of fonts in the cache of rsicrc, unless `MPLCONFIGDIR` is set or Matplotlib was imported
    before.

    Raises:
        ModuleNotFoundError: Matplotlib is not installed.
    """
    if (cache := user_cache()) is not None:
        os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
