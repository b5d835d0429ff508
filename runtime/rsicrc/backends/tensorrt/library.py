"""The TensorRT library that is installed: `tensorrt` or `tensorrt_rtx`, its version, and what only one of them has."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rsicrc.errors import BackendError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"
LIBRARIES = (TENSORRT, TENSORRT_RTX)  # best first: the former knows every GPU and looks longer for the fastest kernels
_OLDEST = {TENSORRT: (10, 3), TENSORRT_RTX: (1, 0)}
_INSTALL = {
    TENSORRT: "`pip install 'rsicrc[tensorrt]'` (any GPU)",
    TENSORRT_RTX: "`pip install 'rsicrc[tensorrt-rtx]'` (GeForce and RTX GPUs; builds plans without one, too)",
}

Report = Callable[[str], None]


@dataclass(frozen=True)
class Library:
    """A TensorRT library.

    Attributes:
        name: "tensorrt" or "tensorrt_rtx", its module's name.
        version: three numbers, as plans are listed: "10.13.3".
        module: the module.
    """

    name: str
    version: str
    module: Any

    @property
    def is_portable(self) -> bool:
        """Whether its plans are finished on the GPU that they run on: they need none to be built, and fit several."""
        return hasattr(self.module, "ComputeCapability")

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that portable plans can be built for: "8.9". Empty where plans are not portable."""
        if not self.is_portable:
            return ()
        names = (name for name in self.module.ComputeCapability.__members__ if name.startswith("SM"))
        return tuple(f"{name[2:-1]}.{name[-1]}" for name in names)

    def capability(self, text: str) -> Any:
        """Return the library's own constant for one of `capabilities`."""
        return getattr(self.module.ComputeCapability, "SM" + text.replace(".", ""))


def open_library(name: str | None = None) -> Library:
    """Import a TensorRT library.

    Args:
        name: one of `LIBRARIES`; None for the first that is installed.

    Raises:
        BackendError: it is not installed, cannot be loaded, or is too old; the message says what to do.
    """
    if name is not None and name not in LIBRARIES:
        raise BackendError(f"no TensorRT library {name!r}: there is {', '.join(LIBRARIES)}")
    wanted = LIBRARIES if name is None else (name,)
    present = [each for each in wanted if importlib.util.find_spec(each) is not None]
    if not present:
        raise BackendError(f"TensorRT is not installed: {', or '.join(_INSTALL[each] for each in wanted)}")
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


def make_logger(library: Library, listen: Callable[[str], None] | None = None) -> Any:
    """Return a logger that TensorRT takes, and that keeps errors for our own message.

    Args:
        library: whose.
        listen: gets every line, those of the build's details too.

    Returns:
        An `ILogger` with `errors`, a list of lines, and `reason`, the one to show. Keep it as long as what was made
        with it.
    """
    severities = library.module.ILogger.Severity
    serious = (severities.INTERNAL_ERROR, severities.ERROR)

    # A class of the library's own, so it can only be made once that is imported.
    class Logger(library.module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in serious:
                self.errors.append(message)
            if listen is not None:
                listen(message)

        @property
        def reason(self) -> str:
            return one_line(self.errors[-1]) if self.errors else "it gave no reason"

    return Logger()


def one_line(text: str, width: int = 300) -> str:
    """Return a message of several lines as one of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
