"""A folder of TensorRT plans with their list, `engines.json`.

The C++ library reads the same lists (runtime/cpp/src/plans.cpp, docs/cpp.md).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from rsicrc.backends.tensorrt.plan import Plan
from rsicrc.errors import BackendError
from rsicrc.files import replacing
from rsicrc.manifest import sha256_file

_LIST = "engines.json"


@dataclass(frozen=True)
class PlanFile:
    """A plan on disk.

    Attributes:
        path: The file.
        sha256: SHA-256 of the plan when it was built.
    """

    path: Path
    sha256: str

    def read(self) -> bytes:
        """Return the content of the file, which is compared with the hash.

        Raises:
            BackendError: The file cannot be read, or has changed.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise BackendError(f"{self.path}: cannot be read ({error.strerror or error}): build it again") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise BackendError(_changed(self.path))
        return content


def read_plans(folder: Path) -> list[Plan]:
    """Return the plans in the list of a folder; empty if there is no list.

    Raises:
        BackendError: The list is damaged.
    """
    path = folder / _LIST
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["engines"]
        return [Plan.from_dict(entry) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackendError(
            f"{path}: not a list of TensorRT plans ({type(error).__name__}: {error}): build them in a new folder"
        ) from error


def open_plan(folder: Path, plan: Plan) -> PlanFile:
    """Return the file of a plan in the list of a folder, after a check of its hash.

    Raises:
        BackendError: The file is missing, or has changed.
    """
    path = folder / plan.file
    try:
        unchanged = path.is_file() and sha256_file(path) == plan.sha256
    except OSError as error:
        raise BackendError(f"{path}: cannot be read ({error.strerror or error}): build it again") from error
    if not unchanged:
        raise BackendError(_changed(path))
    return PlanFile(path, plan.sha256)


def add_plan(folder: Path, plan: Plan, content: bytes) -> PlanFile:
    """Write a plan, and insert it at the beginning of the list: readers use the first plan that fits, so the newest.

    Raises:
        OSError: The folder cannot be written.
    """
    path = folder / plan.file
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    try:
        others = [each for each in read_plans(folder) if each.file != plan.file]
    except BackendError:  # a damaged list is written anew
        others = []
    document = {"engines": [each.to_dict() for each in (plan, *others)]}
    with replacing(folder / _LIST) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return PlanFile(path, plan.sha256)


def _changed(path: Path) -> str:
    return f"{path}: missing, or changed since it was built (SHA-256 differs): build the plans again in a new folder"
