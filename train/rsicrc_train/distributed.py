"""Collective operations that make several training processes compute the result of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from rsicrc import cpu
from rsicrc.errors import DataError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def launch(device: str, devices: int, nodes: int, precision: str) -> Fabric:
    """Start Fabric on `devices` devices of each of `nodes` machines, with the other processes of this machine.

    Raises:
        DataError: There is no such device.
    """
    from lightning_fabric import Fabric  # imports torch._dynamo, which takes seconds

    try:
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            precision=precision,  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError) as error:
        raise DataError(f"cannot train on {devices} x {device}: {str(error).splitlines()[0]}") from error
    fabric.launch()
    return fabric


def has_bf16(device: str) -> bool:
    """Return true if a device, `auto`, `cpu` or `cuda`, has instructions for products of bfloat16."""
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu.has_bf16()


def gather(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Concatenate a tensor [n, …] of every process, equal in shape, to [processes · n, …] in the order of the ranks.

    The result is differentiable: the gradient of each part is summed over the processes. If all processes compute the
    same loss from the gathered tensor, DDP's mean over the processes turns that sum into the gradient of the one loss.
    """
    if fabric.world_size == 1:
        return tensor
    return _stack(tensor).flatten(0, 1)


def mean(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes, without a gradient."""
    return _reduce(fabric, tensor, "mean")


def total(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes, without a gradient."""
    return _reduce(fabric, tensor, "sum")


def on_main_process(fabric: Fabric, action: Callable[[], None]) -> None:
    """Call a function in the main process only; if it fails, all processes raise its error.

    Raises:
        OSError: The function raised it.
    """
    failure: OSError | None = None
    if fabric.is_global_zero:
        try:
            action()
        except OSError as error:
            failure = error
    failure = fabric.broadcast(failure)
    if failure is not None:
        raise failure


def random_states(fabric: Fabric) -> dict[str, Tensor]:
    """Return torch's random states of all processes, uint8 [processes, bytes]: `random` and, on a GPU, `cuda_random`.

    All processes must call this function.
    """
    device = fabric.device
    states = {"random": gather(fabric, torch.get_rng_state().unsqueeze(0).to(device)).cpu()}
    if device.type == "cuda":
        own = torch.cuda.get_rng_state(device).unsqueeze(0).to(device)
        states["cuda_random"] = gather(fabric, own).cpu()
    return states


def restore_random_states(fabric: Fabric, states: Mapping[str, Any]) -> None:
    """Restore this process's random states from `random_states`.

    If there are more processes than at the time of saving, the additional ones keep their present states.
    """
    rank, device = fabric.global_rank, fabric.device
    if rank < len(states["random"]):
        torch.set_rng_state(states["random"][rank].clone())  # of a view, torch would read the whole storage
        if device.type == "cuda" and "cuda_random" in states:
            torch.cuda.set_rng_state(states["cuda_random"][rank].clone(), device)


def synchronize_batchnorm(model: nn.Module) -> None:
    """Make every BatchNorm layer of a model normalize over the pairs of all processes.

    This replaces torch's SyncBatchNorm, which works on GPUs only.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d  # same parameters, buffers and names


@contextmanager
def unsynchronized(model: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Let the BatchNorm layers of a model normalize over this process's pairs only, if `enabled`."""
    norms = [module for module in model.modules() if isinstance(module, SynchronizedBatchNorm2d)]
    for norm in norms:
        norm.synchronized = not enabled
    try:
        yield
    finally:
        for norm in norms:
            norm.synchronized = True


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, which must be equal in size.

    Attributes:
        synchronized: False normalizes over the batch of this process only.
    """

    synchronized = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [B, C, h, w] → [B, C, h, w]."""
        if not self.training or not self.synchronized:
            return super().forward(x)
        variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        means, variances = _stack(torch.stack([mean, variance])).unbind(1)
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        self._update_running_statistics(mean.detach(), variance.detach(), x.numel() // x.shape[1] * len(means))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running mean and variance as torch does, with the unbiased variance of `count` values."""
        unbiased = variance * (count / (count - 1))
        for running, current in ((self.running_mean, mean), (self.running_var, unbiased)):
            if running is not None and self.momentum is not None:
                running.lerp_(current, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient[distributed.get_rank()]


def _stack(tensor: Tensor) -> Tensor:
    """Stack a tensor of every process, equal in shape, to [processes, …]; its gradient is summed over the processes."""
    stacked: Tensor = _Gather.apply(tensor.contiguous())
    return stacked


def _reduce(fabric: Fabric, tensor: Tensor, operation: str) -> Tensor:
    if fabric.world_size == 1:
        return tensor
    # The reduction works in place, so it gets a copy.
    reduced: Any = fabric.all_reduce(tensor.detach().clone(), reduce_op=operation)
    return torch.as_tensor(reduced)
