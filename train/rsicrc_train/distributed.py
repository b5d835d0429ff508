"""What several processes that train one model need beside DDP, so that they do what one process would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn

from rsicrc.errors import DataError


def launch(device: str, devices: int, nodes: int, precision: str) -> Fabric:
    """Fabric on `devices` devices of each of `nodes` machines; starts this machine's other processes if need be.

    Raises:
        DataError: there is no such device.
    """
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


def gather(fabric: Fabric, tensor: Tensor) -> Tensor:
    """[n, …] of every process, equal in shape → [processes · n, …] in the order of the processes; has a gradient.

    The gradient of each part is summed over the processes. Where all of them compute the same loss from what they
    gathered, DDP's mean over the processes turns that back into the gradient of the one loss.
    """
    if fabric.world_size == 1:
        return tensor
    return _stack(tensor).flatten(0, 1)


def mean(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The mean of a tensor over the processes, without a gradient."""
    return _reduce(fabric, tensor, "mean")


def total(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes, without a gradient."""
    return _reduce(fabric, tensor, "sum")


def lead(fabric: Fabric, action: Callable[[], None]) -> None:
    """Let the first process alone do something; where it fails, all of them stop.

    Raises:
        OSError: the action failed so.
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
    """A tensor of every process, equal in shape → [processes, …]; the gradient is summed over the processes."""
    stacked: Tensor = _Gather.apply(tensor.contiguous())
    return stacked


def _reduce(fabric: Fabric, tensor: Tensor, operation: str) -> Tensor:
    if fabric.world_size == 1:
        return tensor
    # A copy, since the reduction writes into what it is given.
    reduced: Any = fabric.all_reduce(tensor.detach().clone(), reduce_op=operation)
    return torch.as_tensor(reduced)


def share_statistics(model: nn.Module) -> None:
    """Make every BatchNorm of a model normalize by the pairs of all processes, as one process with them all would.

    torch's own SyncBatchNorm does so on GPUs only.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d  # same parameters, buffers and names


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, which must be equal in size."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] → [B, C, h, w]."""
        if not self.training:
            return super().forward(x)
        variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        means, variances = _stack(torch.stack([mean, variance])).unbind(1)
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        self._follow(mean.detach(), variance.detach(), x.numel() // x.shape[1] * len(means))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, as torch does: the variance without bias."""
        unbiased = variance * (count / (count - 1))
        for running, found in ((self.running_mean, mean), (self.running_var, unbiased)):
            if running is not None and self.momentum is not None:
                running.lerp_(found, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
