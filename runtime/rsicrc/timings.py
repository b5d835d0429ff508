"""Time measurements of the parts of a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass
class Timings:
    """Seconds that a batch of pairs took, by part.

    `read` and `prepare` are summed over the pairs; they run in threads, in parallel with the graphs. The first batch of
    an engine includes opening the graphs. GPU work that is still running when a call returns is counted in the part
    in which the host next waits for the GPU.

    Attributes:
        pairs: Number of pairs in the batch.
        read: Time to read and decode the images.
        prepare: Time to resize the images to the model's size.
        image_encoder: Time of the image encoder graph.
        decoder: Time of all steps of the decoder graph.
        decoder_steps: Number of decoder steps.
        search: Time of the beam search on the host: between the steps, and for the backtracking of the sentences.
        scorer: Time of the scorer graph, which computes `change_score`.
        detokenize: Time to turn ids into sentences.
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
        """Add the duration of the block to a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - started)

    def add(self, other: Timings) -> None:
        """Add the times of another batch."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, float]:
        """Return plain containers for JSON."""
        return asdict(self)
