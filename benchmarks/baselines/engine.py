"""The rsicrc engine through its public interface."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import rsicrc
from baselines.implementation import Images, Implementation, Paths, Setup, TimedCaptions, Vectors
from rsicrc.decoding.beam_search import beam_search
from rsicrc.decoding.options import CaptionOptions
from rsicrc.manifest import IMAGE_ENCODER


class RsicrcEngine(Implementation):
    """`rsicrc.load(folder)`; the parts of a time are the captions' own `timings`."""

    def __init__(self, setup: Setup) -> None:
        self.engine = rsicrc.load(
            setup.folder, setup.device, backend=setup.backend, precision=setup.precision, threads=setup.threads
        )
        self.settings: dict[str, Any] = {"length_penalty": 1.0, "early_stopping": True, "max_length": setup.max_length}
        if setup.backend == "auto":
            self.note = f"chose {self.engine.backend.name}"
        files = {graph.file for graph in self.engine.manifest.graphs.values()}
        self.size = sum(path.stat().st_size for file in files for path in setup.folder.glob(f"{file}*"))

    def warm_up(self, images: Images, beams: int) -> None:
        """Call `Engine.warmup`."""
        self.engine.warmup(len(images), beams)

    def caption(self, images: Images, beams: int) -> TimedCaptions:
        """Call `Engine.caption`."""
        start = perf_counter()
        captions = self.engine.caption(_pairs(images), beams=beams, batch_size=len(images), **self.settings)
        seconds = perf_counter() - start
        # The pairs of a batch share one `Timings`; the engine may use smaller batches than ours.
        timings = {id(caption.timings): caption.timings for caption in captions}.values()
        lengths = [len(caption.token_log_probs) for caption in captions]
        return TimedCaptions(
            texts=[caption.text for caption in captions],
            seconds=seconds,
            image=sum(each.image_encoder for each in timings),
            decode=sum(each.decoder + each.search for each in timings),
            steps=max(lengths),
            tokens=sum(lengths),
        )

    def caption_files(self, paths: Paths, beams: int, batch: int) -> None:
        """Call `Engine.caption`, which reads the files too."""
        self.engine.caption(paths, beams=beams, batch_size=batch, **self.settings)

    def embed_images(self, images: Images) -> Vectors:
        """Call `Engine.embed_images`."""
        return self.engine.embed_images(_pairs(images), batch_size=len(images))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Call `Engine.embed_texts`."""
        return self.engine.embed_texts(texts)

    def encoder(self, images: Images) -> float:
        """Return the seconds of the image encoder for pixels on the device; reading its smallest output waits."""
        pixels = self.engine.backend.take(images)
        self._encode(pixels)  # waits for the upload
        start = perf_counter()
        self._encode(pixels)
        return perf_counter() - start

    def step(self, images: Images, beams: int) -> float:
        """Return the seconds of the engine's beam search divided by its steps, with its work on the host."""
        outputs = self._encode(images)
        cross = {name: value for name, value in outputs.items() if name.startswith("cross_")}
        options = CaptionOptions(beams=beams, **self.settings).resolve(self.engine.manifest)
        start = perf_counter()
        result = beam_search(self.engine.backend, cross, len(images), options)
        return (perf_counter() - start) / result.steps

    def _encode(self, images: Any) -> dict[str, Any]:
        backend = self.engine.backend
        outputs = backend.run(IMAGE_ENCODER, {"images": images})
        backend.numpy(outputs["image_embedding"])
        return outputs


def _pairs(images: Images) -> list[Any]:
    """Return (before, after) tuples, each image uint8 [H, W, 3]."""
    return [(before, after) for before, after in images]
