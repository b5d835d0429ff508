"""The order in which batches come, and which process gets which."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from rsicrc_train.data import Batch, PairDataset, collate
from rsicrc_train.recipes import Training


class Batches:
    """The batches of one split. Their order depends on the seed and the epoch alone, not on the number of processes."""

    def __init__(self, fabric: Fabric, dataset: PairDataset, training: Training) -> None:
        """Serve this process of `fabric`."""
        self.fabric = fabric
        self.dataset = dataset
        self.training = training

    def shares(self, epoch: int, skip: int = 0) -> Iterator[tuple[list[int], Batch]]:
        """This process's part of each shuffled batch of an epoch; what does not fill a step is left out.

        Args:
            epoch: which one, from 0.
            skip: how many batches at the beginning are left out.

        Yields:
            The numbers of the pairs, and the pairs.
        """
        self.dataset.epoch = epoch
        size = self.training.batch_size
        step = size * self.training.accumulate
        generator = torch.Generator().manual_seed(self.training.seed + 1_000_003 * (epoch + 1))
        order = torch.randperm(len(self.dataset), generator=generator)[: len(self.dataset) // step * step]
        share = size // self.fabric.world_size
        mine = slice(self.fabric.global_rank * share, (self.fabric.global_rank + 1) * share)
        return self._load([chunk[mine].tolist() for chunk in torch.split(order, size)[skip:]])

    def turns(self, epoch: int) -> Iterator[tuple[list[int], Batch]]:
        """All pairs, as an epoch shows them, in their own order as whole batches: each process takes one in turn."""
        self.dataset.epoch = epoch
        chunks = torch.split(torch.arange(len(self.dataset)), self.training.batch_size)
        return self._load([chunk.tolist() for chunk in chunks[self.fabric.global_rank :: self.fabric.world_size]])

    def _load(self, chosen: list[list[int]]) -> Iterator[tuple[list[int], Batch]]:
        loader: DataLoader[Batch] = DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=chosen,
            collate_fn=collate,
            num_workers=self.training.workers,
            generator=torch.Generator(),  # else every pass draws from the global one, and a resumed run once more
        )
        for numbers, batch in zip(chosen, loader, strict=True):
            yield numbers, Batch(*(tensor.to(self.fabric.device) for tensor in batch))
