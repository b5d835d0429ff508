"""State dicts of this and of other programs: nesting, prefixes of names, and the fit of tensors to a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsicrc.errors import CheckpointError
from rsicrc_train.pytorch_files import as_dict, read_pytorch
from rsicrc_train.quoting import list_names, quote, quote_name

# Keys under which training programs save the state dict of a model next to other data.
_NESTED = ("state_dict", "model_state_dict", "model", "module")
_DEEPEST = 8
# Parts of names that wrappers add: DDP and DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MODEL = re.compile(r"^(?:model\.)+")  # the attribute of a LightningModule
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict by name, without the prefixes of wrappers.

    Args:
        path: A `.safetensors` file, or a PyTorch file with a state dict, directly or nested under `state_dict`,
            `model_state_dict`, `model` or `module`.

    Raises:
        CheckpointError: The file is missing, is not of these formats, or holds something other than tensors.
    """
    if path.suffix == ".safetensors":
        return named_tensors(_read_safetensors(path), str(path))
    return named_tensors(unwrap(read_pytorch(path)), str(path))


def unwrap(plain: dict[Any, Any], stop: str | None = None) -> dict[Any, Any]:
    """Return the innermost dict under the keys of nested state dicts.

    Args:
        plain: The dict of a file.
        stop: Key of the dict to return, if a dict with this key is found first.
    """
    for _ in range(_DEEPEST):
        nested = next((plain[key] for key in _NESTED if isinstance(plain.get(key), dict)), None)
        if nested is None or (stop is not None and stop in plain):
            break
        plain = as_dict(nested)
    return plain


def named_tensors(plain: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict by their names without the prefixes of wrappers.

    Args:
        plain: Content of the state dict.
        where: File or part of a file, for messages.

    Raises:
        CheckpointError: An entry is not a dense tensor with data, or two names differ only in their prefixes.
    """
    if others := [name for name, value in plain.items() if not isinstance(name, str) or not isinstance(value, Tensor)]:
        raise CheckpointError(f"{where} is not a state dict: {list_names(others)} is not a tensor")
    tensors: dict[str, Tensor] = {}
    for name, value in plain.items():
        short = _MODEL.sub("", _WRAPPERS.sub("", name))
        if short in tensors:
            raise CheckpointError(f"{where} holds {quote_name(short)} twice, with and without a prefix: save one model")
        tensors[short] = Tensor.detach(value)  # without attributes, which a file can set
        if problem := _problem(tensors[short]):
            raise CheckpointError(f"{where}: {quote_name(name)} {problem}: save the weights as dense tensors")
    return tensors


def fit_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, target: str
) -> dict[str, Tensor]:
    """Return a copy of the tensors in the types of a model, after a check of names, shapes, types and values.

    Args:
        tensors: Tensors by name, as from `named_tensors`.
        expected: Tensors of the model with the same names; their values are not used.
        where: File or part of a file that holds the tensors, for messages.
        target: Description of the model, for messages.

    Raises:
        CheckpointError: Tensors are missing, unknown, wrongly shaped, of a wrong type, or hold NaN or infinite values.
    """
    problems = []
    if missing := [name for name in expected if name not in tensors]:
        problems.append(f"missing {list_names(missing)}")
    if unknown := sorted(name for name in tensors if name not in expected):
        problems.append(f"unknown {list_names(unknown)}")
    common = [name for name in expected if name in tensors]
    if misshapen := [name for name in common if tensors[name].shape != expected[name].shape]:
        first = misshapen[0]
        shapes = f"{quote_name(first)} is {_shape(tensors[first])}, not {_shape(expected[first])}"
        problems.append(shapes + (f"; wrong shapes of {list_names(misshapen[1:])}" if len(misshapen) > 1 else ""))
    if problems:
        raise CheckpointError(f"{where} does not fit {target}: {'; '.join(problems)}")
    return {name: _convert(name, tensors[name], wanted.dtype, where) for name, wanted in expected.items()}


def _convert(name: str, tensor: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """Return a copy in the wanted type; integers never become weights, and counters may be of any real type."""
    if tensor.dtype not in (_FLOATS if dtype.is_floating_point else (*_INTEGERS, *_FLOATS)):
        wanted = "floating-point numbers" if dtype.is_floating_point else "whole numbers"
        raise CheckpointError(f"{where}: {name} holds {_type_name(tensor.dtype)}, not {wanted}: save the weights again")
    converted = tensor.to(dtype, copy=True).contiguous()
    # The type float32 turns large float64 values into infinity, so the check follows the conversion.
    checked = converted if dtype.is_floating_point else tensor.to(torch.float64)
    if checked.numel() and not all(torch.isfinite(limit) for limit in torch.aminmax(checked)):
        raise CheckpointError(
            f"{where}: {name} has NaN or infinite values: use a state that was saved before the training diverged"
        )
    if name.endswith("running_var") and bool((converted < 0).any()):
        raise CheckpointError(f"{where}: {name} has negative values, but it is a variance: the file is damaged")
    return converted


def _problem(tensor: Tensor) -> str | None:
    """Return the reason why a tensor is not dense memory of the CPU, or None."""
    if tensor.is_nested or tensor.layout != torch.strided:
        return "is sparse or nested"
    if tensor.device.type != "cpu":
        return f"is on the device {tensor.device.type!r} and has no data"
    if tensor.is_quantized:
        return f"is quantized ({_type_name(tensor.dtype)})"
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return f"claims the shape {_shape(tensor)}, but the file does not hold so many values"
    return None


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape)) if tensor.ndim <= 8 else f"of {tensor.ndim} dimensions"


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"no weights at {path}")
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, and others for damaged headers
        reason = quote(str(error))
        raise CheckpointError(
            f"{path} is not a safetensors file, or it is damaged ({reason}): copy it again"
        ) from error
