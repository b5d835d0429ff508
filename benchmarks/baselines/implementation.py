"""Interface of the implementations that are measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.inputs.prefetch import prepare_pair
from rsicrc.preprocessing import Preprocessing
from rsicrc.text.vocabulary import Vocabulary

Images = NDArray[np.uint8]
"""Image pairs, uint8 [B, 2, size, size, 3]: before and after."""
Vectors = NDArray[np.float32]
"""Embeddings, float32 [N, d], each of length 1."""
Paths = Sequence[tuple[Path, Path]]


@dataclass(frozen=True)
class Setup:
    """Files of the model, and settings that are the same for all implementations.

    Attributes:
        assets: Folder of the checkpoint and the plain ONNX files; see `common.assets`.
        folder: Model folder.
        device: "cpu", or a GPU: "cuda:0".
        threads: Threads of every library.
        precision: Number format of the products.
        backend: Backend of the engine.
        max_length: Largest number of token ids in a caption, with START.
    """

    assets: Path
    folder: Path
    device: str
    threads: int
    precision: str
    backend: str
    max_length: int


@dataclass(frozen=True)
class TimedCaptions:
    """Captions of a batch; seconds in total, in the image encoder and in the beam search; tokens with END.

    Attributes:
        steps: Tokens of the longest caption.
        tokens: Tokens of all captions together.
    """

    texts: list[str]
    seconds: float
    image: float
    decode: float
    steps: int
    tokens: int


class Implementation(ABC):
    """An implementation of the model. Its captions use early stopping and a length penalty of 1.

    Attributes:
        size: Bytes on disk of the files that it loads.
        note: Choice that it made by itself; empty if it made none.
    """

    size: int
    note: str = ""

    def warm_up(self, images: Images, beams: int) -> None:  # noqa: B027 - most have nothing to prepare
        """Prepare for a batch size and a number of beams, for example by compiling; not timed."""

    @abstractmethod
    def caption(self, images: Images, beams: int) -> TimedCaptions:
        """Caption pairs in memory as one batch."""

    @abstractmethod
    def caption_files(self, paths: Paths, beams: int, batch: int) -> None:
        """Caption PNG files in batches."""

    @abstractmethod
    def embed_images(self, images: Images) -> Vectors:
        """Embed pairs as one batch."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed sentences as one batch."""

    def encoder(self, images: Images) -> float:
        """Return the seconds of the image encoder's graph by itself."""
        raise NotImplementedError

    def step(self, images: Images, beams: int) -> float:
        """Return the mean seconds of a step of the beam search."""
        raise NotImplementedError


class TwoStage(Implementation):
    """An implementation that calls an image encoder, then a beam search."""

    vocabulary: Vocabulary
    preprocessing: Preprocessing

    def __init__(self, setup: Setup) -> None:
        self.threads, self.max_length = setup.threads, setup.max_length

    def wait(self) -> None:
        """Wait for the device, so that times are not those of launches."""

    @abstractmethod
    def encode(self, images: Images) -> Any:
        """Run the image encoder."""

    @abstractmethod
    def embedding(self, encoded: Any) -> Vectors:
        """Return the embeddings among the results of `encode`."""

    @abstractmethod
    def search(self, encoded: Any, beams: int) -> list[list[int]]:
        """Return the token ids of each pair's best caption, with END if it ended, without START."""

    def caption(self, images: Images, beams: int) -> TimedCaptions:
        """Encode, then search."""
        start = perf_counter()
        encoded = self.encode(images)
        self.wait()
        middle = perf_counter()
        captions = self.search(encoded, beams)
        texts = [self.vocabulary.decode(ids) for ids in captions]
        end = perf_counter()
        lengths = [len(ids) for ids in captions]
        return TimedCaptions(texts, end - start, middle - start, end - middle, max(lengths), sum(lengths))

    def caption_files(self, paths: Paths, beams: int, batch: int) -> None:
        """Read each batch with threads, then encode and search."""
        with ThreadPoolExecutor(self.threads) as pool:
            for begin in range(0, len(paths), batch):
                part = pool.map(lambda pair: prepare_pair(pair, self.preprocessing), paths[begin : begin + batch])
                self.caption(np.stack(list(part)), beams)

    def embed_images(self, images: Images) -> Vectors:
        """Run the image encoder."""
        return self.embedding(self.encode(images))
