"""Compiled graphs in the user's cache, with a record of the size and SHA-256 of each file next to it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsicrc.errors import describe_os_error
from rsicrc.files import replacing
from rsicrc.manifest import FileRecord, sha256_file

logger = logging.getLogger("rsicrc")

_RECORD = "record.json"
_SUFFIX = ".blob"


class CompiledFile:
    """The compiled graph in a folder of the user's cache.

    The file is named by its SHA-256 and is written before the record, and both are written atomically. So any number of
    processes may read and write the folder, and a damaged file is never used.

    Args:
        folder: The folder, from `rsicrc.files.compiled_folder`; None stands for an empty folder that cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, allocate: Any) -> tuple[Any, dict[str, Any]] | None:
        """Read the file and its settings; None if there is no file with the recorded content.

        The content that has been compared with the record is the content that is returned. Every file that is not
        recorded, or not as recorded, is deleted.

        Args:
            allocate: Function that returns a tensor of `n` bytes for `n`; its attribute `data` is a numpy array.
        """
        if self._folder is None or not self._folder.is_dir():
            return None
        valid = found = None
        try:
            record = json.loads((self._folder / _RECORD).read_bytes())
            name, settings = f"{record['sha256']}{_SUFFIX}", dict(record["settings"])
            path = self._folder / Path(name).name
            if path.is_file() and path.stat().st_size == record["bytes"] > 0:
                tensor = allocate(record["bytes"])
                with path.open("rb") as file:
                    complete = file.readinto(tensor.data) == record["bytes"]
                if complete and hashlib.sha256(tensor.data).hexdigest() == record["sha256"]:
                    valid, found = path.name, (tensor, settings)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.debug("%s: no compiled graph is read: %s", self._folder, error)
        self._delete_all_but(valid)
        return found

    def write(self, content: bytes | memoryview, settings: Mapping[str, Any]) -> None:
        """Write the file and its record. A failure is logged: the graph is then compiled again at the next start."""
        if self._folder is None:
            return
        digest = hashlib.sha256(content).hexdigest()
        record = {"sha256": digest, "bytes": len(content), "settings": dict(settings)}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(self._folder / f"{digest}{_SUFFIX}") as temporary:
                temporary.write_bytes(content)
            with replacing(self._folder / _RECORD) as temporary:
                temporary.write_text(json.dumps(record), encoding="utf-8")
        except OSError as error:
            logger.info("compiled graphs are not cached: %s", describe_os_error(error))

    def delete(self) -> None:
        """Delete the file and its record."""
        self._delete_all_but(None)

    def _delete_all_but(self, name: str | None) -> None:
        if self._folder is None:
            return
        try:
            kept = () if name is None else (name, _RECORD)
            for path in self._folder.iterdir():
                if path.name not in kept:
                    path.unlink(missing_ok=True)
        except OSError as error:
            logger.debug("%s: cannot be cleaned: %s", self._folder, error)


def delete_unrecorded(folder: Path) -> None:
    """Delete every file of a folder that `record_files` did not record, or that has changed since.

    This is for a library that reads and writes the files of its cache by itself.
    """
    if not folder.is_dir():
        return
    try:
        records = json.loads((folder / _RECORD).read_bytes())
        recorded = {str(name): (int(each["bytes"]), str(each["sha256"])) for name, each in records.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        recorded = {}
    for path in folder.iterdir():
        size, digest = recorded.get(path.name, (-1, ""))
        if path.name != _RECORD and (path.stat().st_size != size or sha256_file(path) != digest):
            path.unlink(missing_ok=True)


def record_files(folder: Path) -> None:
    """Record the size and SHA-256 of every file of a folder.

    Raises:
        OSError: The record cannot be written.
    """
    records = {path.name: FileRecord.of(path).to_dict() for path in folder.iterdir() if path.name != _RECORD}
    with replacing(folder / _RECORD) as temporary:
        temporary.write_text(json.dumps(records), encoding="utf-8")
