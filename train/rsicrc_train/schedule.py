"""Number of steps of a run, and the learning rate of each step."""

from __future__ import annotations

import math

from rsicrc.errors import DataError
from rsicrc_train.recipes import Training


def learning_rate(training: Training, step: int, total: int) -> float:
    """Return the learning rate of a step: a linear warm-up from 0, then constant or half a cosine down to 0."""
    warmup = round(training.warmup * total)
    if step < warmup:
        return training.learning_rate * step / warmup
    if training.schedule == "constant":
        return training.learning_rate
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def steps_per_epoch(training: Training, items: int, processes: int) -> int:
    """Return the number of optimizer steps in an epoch of `items` items.

    Raises:
        DataError: The items do not fill one step, or a batch is not divisible by the number of processes.
    """
    if training.batch_size % processes:
        raise DataError(f"a batch of {training.batch_size} pairs cannot be shared equally by {processes} processes")
    step = training.batch_size * training.accumulate
    if training.partial_batch:
        return -(-items // step)
    if items < step:
        several = f"{training.accumulate} batches" if training.accumulate > 1 else "one batch"
        raise DataError(f"{items} training {training.item}s do not fill {several} of {training.batch_size}")
    return items // step
