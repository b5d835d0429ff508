"""What a contestant is given, and what it must be able to do."""

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
"""uint8 [B, 2, size, size, 3]: before and after."""
Vectors = NDArray[np.float32]
"""float32 [N, d], each of length 1."""
Paths = Sequence[tuple[Path, Path]]


@dataclass(frozen=True)
class Setup:
    """Where the model is, in all its forms, and how it shall run.

    Attributes:
        checkpoint: the PyTorch checkpoint.
        folder: the model folder exported from it.
        plain: a folder with the model's own modules as ONNX files, unfolded.
        device: "cpu", or a GPU: "cuda:0".
        threads: threads of every library.
        precision: number format of the products.
        backend: of the engine.
        max_length: longest sequence of ids, START included.
    """

    checkpoint: Path
    folder: Path
    plain: Path
    device: str
    threads: int
    precision: str
    backend: str
    max_length: int


@dataclass(frozen=True)
class Captioned:
    """Captions and how long they took.

    Attributes:
        texts: one for each pair.
        seconds: for all of them.
        image: the part of the image side.
        decode: the part of the search.
        steps: words of the longest one, END included.
        words: words of all, END included.
    """

    texts: list[str]
    seconds: float
    image: float
    decode: float
    steps: int
    words: int


class Contestant(ABC):
    """A way to run the model. Captions are those of `generate` with early_stopping and a length penalty of 1.

    Attributes:
        size: bytes on disk of what it loads.
        note: what it chose by itself, where it chose.
    """

    size: int
    note: str = ""

    def warm_up(self, images: Images, beams: int) -> None:  # noqa: B027 - most have nothing to do
        """Do what is done once for these sizes, such as compiling; not timed."""

    @abstractmethod
    def caption(self, images: Images, beams: int) -> Captioned:
        """Caption pairs that are in memory, all at once."""

    @abstractmethod
    def caption_files(self, paths: Paths, beams: int, batch: int) -> None:
        """Caption PNG files, a batch after the other."""

    @abstractmethod
    def embed_images(self, images: Images) -> Vectors:
        """Embed pairs, all at once."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed sentences, all at once."""

    @abstractmethod
    def look(self, images: Images, beams: int) -> tuple[list[str], Vectors]:
        """Captions and embeddings of pairs, from one look at each."""

    def encoder(self, images: Images) -> float:
        """Seconds of the image encoder's graph alone."""
        raise NotImplementedError

    def step(self, images: Images, beams: int) -> float:
        """Seconds of a step of the search, alone."""
        raise NotImplementedError


class TwoPart(Contestant):
    """A contestant whose image side and search are two calls.

    Attributes:
        vocabulary: the model's words.
        preprocessing: how a picture becomes the model's input.
        threads: how many threads it may use.
        max_length: longest sequence of ids, START included.
    """

    vocabulary: Vocabulary
    preprocessing: Preprocessing
    threads: int
    max_length: int

    def wait(self) -> None:
        """Wait until the device is done; without it a time would be that of the launches."""

    @abstractmethod
    def encode(self, images: Images) -> Any:
        """The image side: what the search needs, and the embedding."""

    @abstractmethod
    def embedding(self, encoded: Any) -> Vectors:
        """The embedding among what `encode` gave."""

    @abstractmethod
    def search(self, encoded: Any, beams: int) -> list[list[int]]:
        """The best caption of each pair: generated ids, END included where it ended."""

    def caption(self, images: Images, beams: int) -> Captioned:
        """Encode, then search."""
        start = perf_counter()
        encoded = self.encode(images)
        self.wait()
        middle = perf_counter()
        found = self.search(encoded, beams)
        texts = [self.vocabulary.decode(ids) for ids in found]
        end = perf_counter()
        lengths = [len(ids) for ids in found]
        return Captioned(texts, end - start, middle - start, end - middle, max(lengths), sum(lengths))

    def caption_files(self, paths: Paths, beams: int, batch: int) -> None:
        """Threads read a batch, then it is encoded and searched."""
        with ThreadPoolExecutor(self.threads) as pool:
            for begin in range(0, len(paths), batch):
                part = pool.map(lambda pair: prepare_pair(pair, self.preprocessing), paths[begin : begin + batch])
                self.caption(np.stack(list(part)), beams)

    def embed_images(self, images: Images) -> Vectors:
        """The image side alone."""
        return self.embedding(self.encode(images))

    def look(self, images: Images, beams: int) -> tuple[list[str], Vectors]:
        """Encode once, for both."""
        encoded = self.encode(images)
        texts = [self.vocabulary.decode(ids) for ids in self.search(encoded, beams)]
        return texts, self.embedding(encoded)
