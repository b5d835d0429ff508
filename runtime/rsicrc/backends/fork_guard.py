"""Detection of a process that was forked while a library with threads of its own was in use."""

from __future__ import annotations

import ctypes
import os

from rsicrc.errors import BackendError


class ForkGuard:
    """Refusal of a library in the children of the process that used it.

    A fork copies only the thread that calls it. A library that started threads before the fork waits for them forever
    in the child: in its next run, and when its objects are destroyed at the end of the process.

    Args:
        title: Name of the library, for messages.
        kept: Object of the library that is not destroyed in such a child, because that would wait forever.
    """

    def __init__(self, title: str, kept: object) -> None:
        self._title, self._kept = title, kept
        self._is_used = self._is_forked = False
        if hasattr(os, "register_at_fork"):  # Windows has no fork
            os.register_at_fork(after_in_child=self._in_child)

    def begin_use(self) -> None:
        """Record that the library starts threads in this process."""
        self.check()
        self._is_used = True

    def check(self) -> None:
        """Raise an error if this process was forked from one that had used the library.

        Raises:
            BackendError: The library would wait forever; the message has remedies.
        """
        if self._is_forked:
            raise BackendError(
                f"{self._title} was used before this process was forked, and does not work after a fork: load the "
                "model in the child before any use in the parent, start processes with the method 'spawn', or choose "
                "the backend onnxruntime"
            )

    def _in_child(self) -> None:
        if self._is_used and not self._is_forked:
            self._is_forked = True
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._kept))
