"""The module `openvino` without its model converter, and the core of this process.

`import openvino` also imports `openvino.tools.ovc`, the converter. Inference does not need the converter, whose import
takes two thirds of the time, sends a usage report over the network, starts a process and writes files in the user's
home directory. `openvino/__init__.py` continues without the converter where it cannot be imported.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_CONVERTER = "openvino.tools.ovc"


def import_openvino() -> ModuleType:
    """Import `openvino` without its converter; a module that the process has imported before is returned as it is.

    `openvino.convert_model` still works for other users of the process: its first call imports the converter.

    Raises:
        ImportError: OpenVINO is not installed, or broken.
    """
    if "openvino" in sys.modules or _CONVERTER in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # Python raises ModuleNotFoundError for such an entry
    try:
        module = importlib.import_module("openvino")
    finally:
        del sys.modules[_CONVERTER]
    if not hasattr(module, "convert_model"):
        module.convert_model = _convert_model  # type: ignore[attr-defined]
    return module


def _convert_model(*args: Any, **options: Any) -> Any:
    """Convert a model by `openvino.tools.ovc.convert_model`."""
    return importlib.import_module(_CONVERTER).convert_model(*args, **options)


openvino: Any = import_openvino()

# One core for the whole process. The CPU plugin of a core installs an alternate signal stack in the thread that
# creates the core, and removes it when the core is destroyed. If several cores are destroyed in another order than the
# reverse, or in another thread, a freed signal stack stays installed, and the next signal with a handler (Ctrl-C, the
# exit of a child process) kills the process (OpenVINO 2026.4.1).
CORE: Any = openvino.Core()
