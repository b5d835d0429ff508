"""Progress callbacks of long-running functions."""

from __future__ import annotations

from typing import Protocol


class ProgressCallback(Protocol):
    """A function that receives the progress of a long task, for example to move a progress bar."""

    def __call__(self, steps: int = 1, note: str | None = None) -> None:
        """Report progress.

        Args:
            steps: Number of steps that were finished since the last call.
            note: Short text that replaces the previous one next to the progress bar (a loss, a number of failures).
        """


def ignore_progress(steps: int = 1, note: str | None = None) -> None:
    """Ignore progress: the default `ProgressCallback` of library functions."""
