"""This project's engine, through its public interface."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

import rsicrc
from contestants.base import Captioned, Contestant, Images, Paths, Setup, Vectors
from rsicrc.decoding.beam_search import beam_search
from rsicrc.decoding.options import CaptionOptions
from rsicrc.manifest import IMAGE_ENCODER


class RsicrcEngine(Contestant):
    """`rsicrc.load(folder)`; the parts of a time are those that every caption carries in its `timings`."""

    def __init__(self, setup: Setup) -> None:
        self.engine = rsicrc.load(
            setup.folder, setup.device, backend=setup.backend, precision=setup.precision, threads=setup.threads
        )
        self.settings = {"length_penalty": 1.0, "early_stopping": True, "max_length": setup.max_length}
        if setup.backend == "auto":
            self.note = f"chose {self.engine.backend.name}"
        files = {graph.file for graph in self.engine.manifest.graphs.values()}
        self.size = sum(path.stat().st_size for file in files for path in setup.folder.glob(f"{file}*"))

    def warm_up(self, images: Images, beams: int) -> None:
        """`Engine.warmup`."""
        self.engine.warmup(len(images), beams)

    def caption(self, images: Images, beams: int) -> Captioned:
        """`Engine.caption`."""
        start = perf_counter()
        captions = self.engine.caption(_pairs(images), beams=beams, batch_size=len(images), **self.settings)
        seconds = perf_counter() - start
        # The pairs of a batch share one record; the engine may make batches of its own.
        records = {id(caption.timings): caption.timings for caption in captions}.values()
        lengths = [len(caption.token_log_probs) for caption in captions]
        return Captioned(
            texts=[caption.text for caption in captions],
            seconds=seconds,
            image=sum(record.image_encoder for record in records),
            decode=sum(record.decoder + record.search for record in records),
            steps=max(lengths),
            words=sum(lengths),
        )

    def caption_files(self, paths: Paths, beams: int, batch: int) -> None:
        """`Engine.caption` reads the files too."""
        self.engine.caption(paths, beams=beams, batch_size=batch, **self.settings)

    def embed_images(self, images: Images) -> Vectors:
        """`Engine.embed_images`."""
        return self.engine.embed_images(_pairs(images), batch_size=len(images))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """`Engine.embed_texts`."""
        return self.engine.embed_texts(texts)

    def look(self, images: Images, beams: int) -> tuple[list[str], Vectors]:
        """`Engine.encode_stream`: one look gives both."""
        texts, vectors = [], []
        for result in self.engine.encode_stream(
            _pairs(images), captions=CaptionOptions(beams=beams), batch_size=len(images)
        ):
            if not isinstance(result, rsicrc.EncodedPair) or result.caption is None:
                raise TypeError(f"no caption: {result}")
            texts.append(result.caption.text)
            vectors.append(result.embedding)
        return texts, np.stack(vectors)

    def encoder(self, images: Images) -> float:
        """The graph as the engine runs it, its pixels there already; reading its smallest output waits for all."""
        pixels = self.engine.backend.take(images)
        self._encode(pixels)  # what is still on its way has then arrived
        start = perf_counter()
        self._encode(pixels)
        return perf_counter() - start

    def step(self, images: Images, beams: int) -> float:
        """The engine's search over its steps, the host's share of each included."""
        outputs = self._encode(images)
        cross = {name: value for name, value in outputs.items() if name.startswith("cross_")}
        options = CaptionOptions(beams=beams, **self.settings).resolve(self.engine.manifest)
        start = perf_counter()
        found = beam_search(self.engine.backend, cross, len(images), options)
        return (perf_counter() - start) / found.steps

    def _encode(self, images: Any) -> dict[str, Any]:
        backend = self.engine.backend
        outputs = backend.run(IMAGE_ENCODER, {"images": images})
        backend.numpy(outputs["image_embedding"])
        return outputs


def _pairs(images: Images) -> list[Any]:
    """As the engine takes them: (before, after), each uint8 [H, W, 3]."""
    return [(before, after) for before, after in images]


def build(setup: Setup) -> RsicrcEngine:
    """Open it."""
    return RsicrcEngine(setup)
