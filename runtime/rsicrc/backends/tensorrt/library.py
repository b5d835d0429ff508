"""The installed TensorRT library, `tensorrt` or `tensorrt_rtx`: its version, its logger and its differences."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from rsicrc.errors import BackendError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"
# In order of preference: `tensorrt` supports every GPU and spends more time on the choice of kernels.
LIBRARIES = (TENSORRT, TENSORRT_RTX)
_OLDEST = {TENSORRT: (10, 3), TENSORRT_RTX: (1, 0)}
_INSTALL = {
    TENSORRT: "`pip install 'rsicrc[tensorrt]'` (any GPU)",
    TENSORRT_RTX: "`pip install 'rsicrc[tensorrt-rtx]'` (GeForce and RTX GPUs; also builds plans without a GPU)",
}

LogFunction: TypeAlias = Callable[[str], None]

_collector_lock = threading.Lock()
_collector_pauses: list[bool] = []  # of each block in `paused_garbage_collection`: was the collector enabled before?


@dataclass(frozen=True)
class Library:
    """A TensorRT library.

    Attributes:
        name: Name of the module: "tensorrt" or "tensorrt_rtx".
        version: Three numbers, as in the list of plans: "10.13.3".
        module: The module.
    """

    name: str
    version: str
    module: Any

    @property
    def is_portable(self) -> bool:
        """True if plans are built for several GPUs and without a GPU, and finished on the GPU that runs them."""
        return hasattr(self.module, "ComputeCapability")

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that portable plans can be built for, such as "8.9"; empty if plans are not portable."""
        if not self.is_portable:
            return ()
        names = (name for name in self.module.ComputeCapability.__members__ if name.startswith("SM"))
        return tuple(f"{name[2:-1]}.{name[-1]}" for name in names)

    def capability(self, text: str) -> Any:
        """Return the constant of the library for one of `capabilities`."""
        return getattr(self.module.ComputeCapability, "SM" + text.replace(".", ""))


def open_library(name: str | None = None) -> Library:
    """Import a TensorRT library.

    Args:
        name: One of `LIBRARIES`; None for the first installed library.

    Raises:
        BackendError: The library is not installed, cannot be loaded, or is too old; the message has a remedy.
    """
    if name is not None and name not in LIBRARIES:
        raise BackendError(f"no TensorRT library {name!r}: there is {', '.join(LIBRARIES)}")
    candidates = LIBRARIES if name is None else (name,)
    present = [each for each in candidates if importlib.util.find_spec(each) is not None]
    if not present:
        raise BackendError(f"TensorRT is not installed: {', or '.join(_INSTALL[each] for each in candidates)}")
    chosen = present[0]
    try:
        module = importlib.import_module(chosen)
        version = tuple(int(part) for part in str(module.__version__).split(".")[:3])
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as error:
        reason = one_line(str(error))
        raise BackendError(f"{chosen} is installed but cannot be loaded ({reason}): install it again") from error
    if version < _OLDEST[chosen]:
        oldest = ".".join(map(str, _OLDEST[chosen]))
        raise BackendError(f"{chosen} {module.__version__} is too old: `pip install -U '{chosen}>={oldest}'`")
    return Library(chosen, ".".join(map(str, version)), module)


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Pause Python's garbage collector while the block calls TensorRT; usable as a decorator, too.

    TensorRT holds a lock while it calls the logger. If the collector ran in the logger and destroyed an old builder or
    runtime, which takes the same lock, the process would wait for ever (tensorrt_rtx 1.7).
    """
    with _collector_lock:
        _collector_pauses.append(gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _collector_lock:
            # The first block of overlapping blocks has seen the state to restore; the last one restores it.
            was_enabled = _collector_pauses[0]
            _collector_pauses.pop()
            if not _collector_pauses and was_enabled:
                gc.enable()


def make_logger(library: Library, library_log: LogFunction | None = None) -> Any:
    """Return a logger for TensorRT that stores errors, for use in our own messages.

    Args:
        library: The TensorRT library.
        library_log: Function that receives every line, with the details of a build.

    Returns:
        An `ILogger` with `errors`, a list of lines, and `reason`, the line to show. It must live as long as the objects
        that were created with it.
    """
    severities = library.module.ILogger.Severity
    error_severities = (severities.INTERNAL_ERROR, severities.ERROR)

    # The base class exists only once the library is imported.
    class Logger(library.module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in error_severities:
                self.errors.append(message)
            if library_log is not None:
                library_log(message)

        @property
        def reason(self) -> str:
            return one_line(self.errors[-1]) if self.errors else "it gave no reason"

    return Logger()


def one_line(text: str, width: int = 300) -> str:
    """Return a message as one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
