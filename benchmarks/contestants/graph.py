"""PyTorch and CUDA graphs: the image side and a step with a key-value cache, captured once for a size and replayed.

What a PyTorch user writes who wants no launch overhead without a compiler: weights cast to bfloat16 once (a cast under
autocast would be captured, and repeated at every replay), caches of fixed length that are updated where they lie, and
inputs that are copied into the captured ones. On a CPU, where nothing can be captured, the same functions are called:
the tests do that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from contestants.base import Images, Setup
from contestants.beam_search import IMPOSSIBLE, search
from contestants.cached import CachedDecoder, Memory
from contestants.torch_base import TorchContestant
from rsicrc_train.model import ImageFeatures

_DTYPE = torch.bfloat16
_WARM_UPS = 3  # libraries choose their algorithms and allocate, which must not happen during a capture


@dataclass
class _Images:
    """The image side for some number of pairs: its input, its outputs, and the run that fills them."""

    pixels: Tensor
    features: ImageFeatures
    memory: list[Memory]
    replay: Callable[[], None]


@dataclass
class _Step:
    """A step for some number of rows: its inputs, its logits, and the run that fills them."""

    words: Tensor
    parents: Tensor
    position: Tensor
    logits: Tensor
    replay: Callable[[], None]


class Graphed(TorchContestant):
    """Two captured graphs for every size of batch; a step reads its keys where the image side left them."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        # Pixels are scaled in float32; all that follows is bfloat16.
        encoder = self.model.encoder
        scale = encoder.mean, encoder.std
        self.model.to(_DTYPE)
        encoder.mean, encoder.std = scale
        encoder.trunk.register_forward_pre_hook(lambda _module, inputs: (inputs[0].to(_DTYPE),))
        self.decoder = CachedDecoder(self.model.decoder)
        self.images: dict[int, _Images] = {}
        self.steps: dict[tuple[int, int], _Step] = {}

    def warm_up(self, images: Images, beams: int) -> None:
        """Capture both graphs for this size."""
        self.search(self.encode(images), beams)

    @torch.no_grad()
    def encode(self, images: Images) -> ImageFeatures:
        """The captured image side; its outputs stay good until the next one of the same size."""
        pairs = len(images)
        if pairs not in self.images:
            self.images[pairs] = self._capture_images(self.pixels(images))
        captured = self.images[pairs]
        captured.pixels.copy_(torch.from_numpy(images))
        captured.replay()
        return captured.features

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Batched search over the captured step."""
        pairs = len(encoded.tokens)
        if (pairs, beams) not in self.steps:
            self.steps[pairs, beams] = self._capture_step(pairs, beams)
        captured = self.steps[pairs, beams]

        def step(words: Tensor, parents: Tensor) -> Tensor:
            captured.words.copy_(words[:, -1])
            captured.parents.copy_(parents)
            captured.position.fill_(words.shape[1] - 1)
            captured.replay()
            return captured.logits

        return search(step, pairs, beams, self.max_length, self.device)

    def _capture_images(self, pixels: Tensor) -> _Images:
        outputs: list[tuple[ImageFeatures, list[Memory]]] = []

        def run() -> None:
            features = self.model.encode_images(pixels)
            made = (features, self.decoder.remember(features.tokens))
            if not outputs:
                outputs.append(made)
            _copy(made, outputs[0])

        replay = self._capture(run)
        return _Images(pixels, *outputs[0], replay)

    def _capture_step(self, pairs: int, beams: int) -> _Step:
        rows, config = pairs * beams, self.model.config
        shape = (rows, config.num_heads, self.max_length, config.d_model // config.num_heads)
        caches = [torch.zeros((2, *shape), dtype=_DTYPE, device=self.device) for _ in self.decoder.layers]
        memory = self.images[pairs].memory
        words, parents = (torch.zeros(rows, dtype=torch.int64, device=self.device) for _ in range(2))
        position = torch.zeros(1, dtype=torch.int64, device=self.device)
        places = torch.arange(self.max_length, device=self.device)
        logits = torch.zeros(rows, self.model.decoder.output.out_features, dtype=_DTYPE, device=self.device)

        def update(layer: int, key: Tensor, value: Tensor) -> Memory:
            cache = caches[layer]
            cache.copy_(cache[:, parents])
            cache.index_copy_(3, position, torch.stack([key, value]))
            return cache[0], cache[1]

        def run() -> None:
            unseen = torch.where(places > position, IMPOSSIBLE, 0.0).to(_DTYPE).unsqueeze(0)
            logits.copy_(self.decoder(words, position, memory, update, unseen))

        return _Step(words, parents, position, logits, self._capture(run))

    def _capture(self, run: Callable[[], None]) -> Callable[[], None]:
        if self.device.type != "cuda":
            run()
            return run
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream(self.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph):
            run()
        return graph.replay


def _copy(made: tuple[ImageFeatures, list[Memory]], kept: tuple[ImageFeatures, list[Memory]]) -> None:
    for new, old in zip([*made[0], *sum(made[1], ())], [*kept[0], *sum(kept[1], ())], strict=True):
        old.copy_(new)


def build(setup: Setup) -> Graphed:
    """Open it."""
    return Graphed(setup)
