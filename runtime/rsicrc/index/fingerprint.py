"""Detection of changed files: checksums, and file sizes and times that avoid reading unchanged files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rsicrc.errors import ImageError, printable
from rsicrc.files import require_regular
from rsicrc.manifest import sha256_file

# A file can be written twice within one tick of the file system's clock, so younger stamps are not reliable.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Fingerprint:
    """Checksums, sizes and times of the two files of a pair.

    Attributes:
        before_sha256: SHA-256 of the file of the earlier image.
        after_sha256: SHA-256 of the file of the later image.
        stamp: Sizes and times of both files, see `stamp_of`; empty if the times were too recent to be reliable.
    """

    before_sha256: str
    after_sha256: str
    stamp: str

    def to_dict(self) -> dict[str, str]:
        """Return the columns of an index."""
        return {"before_sha256": self.before_sha256, "after_sha256": self.after_sha256, "stamp": self.stamp}


def stamp_of(paths: tuple[Path, Path]) -> str:
    """Return sizes and times of two files. If the stamp is unchanged, the content is unchanged.

    The stamp includes the inode change time, which programs cannot set: a file that was replaced by another file with
    the same size and modification time (`cp -p`, `rsync -t`) has another stamp.

    Raises:
        ImageError: A file is missing or cannot be read.
    """
    parts = []
    for path in paths:
        try:
            status = path.stat()
            require_regular(status, path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        parts.append(f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}")
    return " ".join(parts)


def fingerprint(paths: tuple[Path, Path]) -> Fingerprint:
    """Read two files and compute their fingerprint.

    Raises:
        ImageError: A file is missing or cannot be read.
    """
    stamp = stamp_of(paths)
    newest = max(int(part.rsplit(":", 1)[1]) for part in stamp.split())
    settled = time.time_ns() - newest > _SETTLED_NS
    sums = []
    for path in paths:
        try:
            sums.append(sha256_file(path))
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
    return Fingerprint(sums[0], sums[1], stamp if settled else "")


def _unreadable(path: Path, error: Exception) -> ImageError:
    name = printable(str(path))
    if isinstance(error, FileNotFoundError):
        return ImageError(f"{name}: no such file. Check the path")
    return ImageError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error}). Check the path")
