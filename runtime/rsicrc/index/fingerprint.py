"""What tells whether a pair's files are still those that were indexed: checksums, and a cheap look before them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rsicrc.errors import ImageError
from rsicrc.manifest import sha256_file

# A file can be written twice within one tick of the file system's clock. Stamps younger than this prove nothing.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Fingerprint:
    """Two files at the moment when they were read.

    Attributes:
        before_sha256: Checksum of the earlier image's file.
        after_sha256: Checksum of the later image's file.
        stamp: Sizes and times of both, see `stamp_of`; empty when they were too fresh to be trusted.
    """

    before_sha256: str
    after_sha256: str
    stamp: str

    def to_dict(self) -> dict[str, str]:
        """Return the columns of an index."""
        return {"before_sha256": self.before_sha256, "after_sha256": self.after_sha256, "stamp": self.stamp}


def stamp_of(paths: tuple[Path, Path]) -> str:
    """Return sizes and times of two files: while these stay, the content does.

    The time of the last change of the inode is part of it, which programs cannot set: a file that was replaced by one
    of the same size and modification time (`cp -p`, `rsync -t`) still gets another stamp.

    Raises:
        ImageError: A file is not there, or may not be looked at.
    """
    parts = []
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such file. Check the path") from error
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
        parts.append(f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}")
    return " ".join(parts)


def fingerprint(paths: tuple[Path, Path]) -> Fingerprint:
    """Read two files and return what they hold.

    Raises:
        ImageError: A file is not there, or cannot be read.
    """
    stamp = stamp_of(paths)
    newest = max(int(part.rsplit(":", 1)[1]) for part in stamp.split())
    settled = time.time_ns() - newest > _SETTLED_NS
    sums = []
    for path in paths:
        try:
            sums.append(sha256_file(path))
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    return Fingerprint(sums[0], sums[1], stamp if settled else "")
