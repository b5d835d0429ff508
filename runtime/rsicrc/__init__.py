"""Describe and find changes between two satellite or aerial images, from a model folder; no PyTorch needed.

    import rsicrc
    engine = rsicrc.load("model")
    print(engine.caption([("before.png", "after.png")])[0].text)

Names are imported when they are first used, so that `import rsicrc` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsicrc.captions import Caption, EncodedPair, Explanation, Hypothesis, PairFailure
    from rsicrc.engine import Engine
    from rsicrc.errors import (
        ArgumentError,
        BackendError,
        CheckpointError,
        DataError,
        DeviceMemoryError,
        ExportError,
        ImageError,
        IndexFolderError,
        ModelFolderError,
        ModelNotFoundError,
        PairsError,
        RsicrcError,
    )
    from rsicrc.index.hits import Hits
    from rsicrc.index.index import Index
    from rsicrc.loading import load

__version__ = "0.1.0.dev0"

_HOMES = {
    "Caption": "captions",
    "EncodedPair": "captions",
    "Explanation": "captions",
    "Hypothesis": "captions",
    "PairFailure": "captions",
    "Hits": "index.hits",
    "Index": "index.index",
    "Engine": "engine",
    "load": "loading",
    "ArgumentError": "errors",
    "BackendError": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
    "DeviceMemoryError": "errors",
    "ExportError": "errors",
    "ImageError": "errors",
    "IndexFolderError": "errors",
    "ModelFolderError": "errors",
    "ModelNotFoundError": "errors",
    "PairsError": "errors",
    "RsicrcError": "errors",
}

__all__ = [
    "ArgumentError",
    "BackendError",
    "Caption",
    "CheckpointError",
    "DataError",
    "DeviceMemoryError",
    "EncodedPair",
    "Engine",
    "Explanation",
    "ExportError",
    "Hits",
    "Hypothesis",
    "ImageError",
    "Index",
    "IndexFolderError",
    "ModelFolderError",
    "ModelNotFoundError",
    "PairFailure",
    "PairsError",
    "RsicrcError",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rsicrc' has no attribute {name!r}")
    value = getattr(import_module(f"rsicrc.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
