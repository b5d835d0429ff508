"""State dicts of other programs: PyTorch files and safetensors, read without running code that they may contain."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rsicrc.errors import CheckpointError
from rsicrc_train.checkpoint import read_tensors


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict by name.

    Args:
        path: A `.safetensors` file, or a PyTorch file with a state dict, directly or under the key `state_dict`, as
            open_clip's training writes it.

    Raises:
        CheckpointError: The file is missing, is not of these formats, or holds something other than tensors.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    plain = read_tensors(path)
    if isinstance(plain.get("state_dict"), dict):
        plain = plain["state_dict"]
    if others := [str(name) for name, value in plain.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path} is not a state dict: {', '.join(others[:5])} is not a tensor")
    return plain


def check_names(path: Path, target: str, *, missing: list[str], extra: list[str], misshapen: list[str]) -> None:
    """Raise one error that names every missing, unknown or wrongly shaped tensor.

    Args:
        path: File that holds the tensors.
        target: Description of the model that they should fit, for the message.
        missing: Names that are not in the file.
        extra: Names in the file that the model does not have.
        misshapen: Phrase for each wrong shape, such as `conv1.weight is (3, 3), not (4, 3)`.

    Raises:
        CheckpointError: One of the three lists is not empty.
    """
    parts = [f"missing {', '.join(missing)}"] if missing else []
    parts += [f"unknown {', '.join(extra)}"] if extra else []
    parts += misshapen
    if parts:
        raise CheckpointError(f"{path} does not fit {target}: {'; '.join(parts)}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"no weights at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
