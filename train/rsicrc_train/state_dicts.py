"""State dicts that others wrote: PyTorch files and safetensors, read without running any code that they may hold."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rsicrc.errors import CheckpointError
from rsicrc_train.checkpoint import read_tensors


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name.

    Args:
        path: a `.safetensors` file, or a PyTorch file with a state dict, bare or under the key `state_dict`, as
            open_clip's training writes it.

    Raises:
        CheckpointError: no such file, not such a file, or something other than tensors in it.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    plain = read_tensors(path)
    if isinstance(plain.get("state_dict"), dict):
        plain = plain["state_dict"]
    if strange := [str(name) for name, value in plain.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path} is not a state dict: {', '.join(strange[:5])} is not a tensor")
    return plain


def complain(path: Path, what: str, *, missing: list[str], extra: list[str], misshapen: list[str]) -> None:
    """Name every tensor that is not as expected, in one error.

    Args:
        path: the file that holds the tensors.
        what: what they should be, for the message.
        missing: names that are not in the file.
        extra: names in the file that nothing wants.
        misshapen: for each wrong shape a phrase such as `conv1.weight is (3, 3), not (4, 3)`.

    Raises:
        CheckpointError: unless all three lists are empty.
    """
    parts = [f"missing {', '.join(missing)}"] if missing else []
    parts += [f"unknown {', '.join(extra)}"] if extra else []
    parts += misshapen
    if parts:
        raise CheckpointError(f"{path} does not fit {what}: {'; '.join(parts)}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"no weights at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
