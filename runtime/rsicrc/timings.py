"""Where the time went: a stopwatch for the parts of the work, and what it showed for one batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass
class Timings:
    """Seconds that a batch of pairs took, by part.

    Reading and preparing are summed over the pairs, in threads that work while the graphs do. An engine's first batch
    opens the graphs, too. On a GPU, what still runs when a call returns is counted where the host next waits for it.

    Attributes:
        pairs: How many pairs went through together.
        read: Reading and decoding the images.
        prepare: Resizing them to the model's size.
        image_encoder: Its graph.
        decoder: Its graph, all steps together.
        decoder_steps: How many steps.
        search: What the host does between the steps, and walking the sentences back.
        scorer: The graph that `change_score` asks.
        detokenize: From ids to sentences.
    """

    pairs: int = 0
    read: float = 0.0
    prepare: float = 0.0
    image_encoder: float = 0.0
    decoder: float = 0.0
    decoder_steps: int = 0
    search: float = 0.0
    scorer: float = 0.0
    detokenize: float = 0.0

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time that the block takes to a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - started)

    def add(self, other: Timings) -> None:
        """Add what another batch took."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, float]:
        """Return plain containers for JSON."""
        return asdict(self)
