"""PyTorch files, read without running code that they may contain and without trusting their sizes."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from rsicrc.errors import CheckpointError, describe_os_error
from rsicrc_train.quoting import quote, quote_name

_CODE = re.compile(r"(?:[Uu]nsupported (?:global: )?GLOBAL|unrecognized function|allowlisted via\D+got) (?P<name>\S+)")
_REASON = re.compile(r"WeightsUnpickler error: (.*)")
_ZIP = b"PK\x03\x04"  # by which PyTorch, too, tells the zip format from the older one
_PICKLE = b"\x80"  # the first byte of pickles since protocol 2
_CHUNK = 1 << 20  # bytes that are read at once to check a record


def read_pytorch(path: Path) -> dict[Any, Any]:
    """Read the dict in a PyTorch file: plain containers, numbers, texts and tensors on the CPU.

    Tensors may be mapped from the file: copy them before the file can change.

    Raises:
        CheckpointError: The file is missing, damaged, not a PyTorch file, or holds code.
    """
    try:
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "does not exist"
            raise CheckpointError(
                f"no checkpoint at {path}, which {kind}: give a .pt file, such as the best.pt of a training run"
            )
        with path.open("rb") as file:
            begin = file.read(len(_ZIP))
        is_zip = begin == _ZIP
        if is_zip:
            _check_archive(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {describe_os_error(error)}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats of other programs, which the checks below report
            # Mapping bounds every tensor by the file; a plain read would trust the sizes that the pickle claims.
            plain = torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # a damaged pickle raises almost any type of error
        raise _unreadable(path, str(error), is_pickle=begin.startswith(_PICKLE)) from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path} holds {quote(plain)}, not a dict of tensors")
    return as_dict(plain)


def as_dict(mapping: dict[Any, Any]) -> dict[Any, Any]:
    """Return the items as a plain dict; attributes of an OrderedDict, which a file can set, have no effect."""
    return dict(dict.items(mapping))


def _check_archive(path: Path) -> None:
    """Check the records of a zip archive: PyTorch itself checks neither their sizes nor their checksums."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise CheckpointError(f"{path} has compressed records, which PyTorch does not write: save it again")
            if sum(record.file_size for record in records) > size:
                raise CheckpointError(f"{path} is damaged: its records are larger than the file. Copy it again")
            for record in records:
                with archive.open(record) as file:
                    while file.read(_CHUNK):
                        pass  # the end of the record compares the checksum
    except CheckpointError:
        raise
    except Exception as error:  # damaged archives raise many types of errors
        raise CheckpointError(f"{path} is damaged or incomplete ({error}): copy it again") from error


def _unreadable(path: Path, reason: str, *, is_pickle: bool) -> CheckpointError:
    name = _CODE.search(reason)
    origin = None if name is None else quote_name(name["name"].strip("`.,"))
    if origin is None and "TorchScript" in reason:
        origin = "TorchScript"
    if origin is None and is_pickle and "Unsupported operand" in reason:
        origin = "a pickle of Python objects"
    if origin is not None:
        return CheckpointError(
            f"{path} holds code, which is never run ({origin}): save only the weights with the program that wrote the "
            "file, by torch.save(model.state_dict(), FILE) or as .safetensors"
        )
    detail = _REASON.search(reason)
    first = detail[1] if detail is not None else next(iter(reason.splitlines()), "")
    return CheckpointError(
        f"{path} is not a PyTorch file of weights, or it is damaged ({quote(first)}): copy or save it again"
    )
