"""Batches for a GPU: the next one is uploaded while the graphs work on this one."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from rsicrc.backends import Backend
from rsicrc.errors import DeviceMemoryError
from rsicrc.inputs.prefetch import Batch


class Feed:
    """Batches one after the other, on the backend's device where it has one. Close it to stop reading.

    Args:
        batches: from `rsicrc.inputs.prefetch`.
        backend: what will run them.
    """

    def __init__(self, batches: Generator[Batch], backend: Backend) -> None:
        self._batches, self._backend = batches, backend
        self._current: Batch | None = None
        self._next: Batch | Exception | None = None

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Batch:
        upcoming = self._next or self._fetch()
        self._next = self._current = None
        if isinstance(upcoming, Exception):
            try:
                raise upcoming
            finally:
                del upcoming  # which would keep this frame, and it the error
        self._current = upcoming
        return upcoming

    def look_ahead(self) -> None:
        """Begin to upload the batch after this one, if it has been read already.

        Call it when the device has work to do: the upload runs beside that.
        """
        if self._backend.stream is not None and self._current is not None and self._next is None:
            self._next = self._fetch() if self._current.is_next_read() else None

    def close(self) -> None:
        """Stop reading."""
        self._next = self._current = None
        self._batches.close()

    def _fetch(self) -> Batch | Exception:
        try:
            batch = next(self._batches)
        except Exception as error:  # the end, too: each is due when the batch before was worked on
            return error
        if self._backend.stream is None or not len(batch.images):
            return batch
        try:
            return replace(batch, images=self._backend.take(batch.images))
        except DeviceMemoryError:
            return batch  # the graphs will ask for the same memory, and the engine knows what to do then
