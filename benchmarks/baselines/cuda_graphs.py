"""CUDA graphs baseline: image encoder and cached decoder step in PyTorch, captured per batch size and replayed.

It has no launch overhead and needs no compiler: the weights are cast to bfloat16 once (a cast under autocast would be
captured and repeated in every replay), the caches have a fixed length and are updated in place, and inputs are copied
into the captured tensors. On a CPU the same functions are called directly, so that tests can run them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from baselines.beam_search import IMPOSSIBLE, beam_search
from baselines.cached_decoder import CachedDecoder, KeysValues
from baselines.implementation import Images, Setup
from baselines.pytorch import PyTorch
from rsicrc_train.model import ImageFeatures

_DTYPE = torch.bfloat16
_WARM_UPS = 3  # libraries choose algorithms and allocate memory, which must not happen during a capture


Replay = Callable[[], None]
_CapturedEncoder = tuple[Tensor, ImageFeatures, list[KeysValues], Replay]
"""Input pixels, outputs, cross-attention keys and values, and the function that fills the outputs."""
_CapturedStep = tuple[Tensor, Tensor, Tensor, Tensor, Replay]
"""Input ids, parents and position, logits, and the function that fills the logits."""


class CudaGraphs(PyTorch):
    """Two captured graphs per batch size; the step reads the keys where the image encoder wrote them."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        # Pixels are normalized in fp32; everything after that is bfloat16.
        encoder = self.model.encoder
        scale = encoder.mean, encoder.std
        self.model.to(_DTYPE)
        encoder.mean, encoder.std = scale
        encoder.trunk.register_forward_pre_hook(lambda _module, inputs: (inputs[0].to(_DTYPE),))
        self.decoder = CachedDecoder(self.model.decoder)
        self.encoders: dict[int, _CapturedEncoder] = {}
        self.steps: dict[tuple[int, int], _CapturedStep] = {}

    def warm_up(self, images: Images, beams: int) -> None:
        """Capture both graphs for this batch size."""
        self.search(self.encode(images), beams)

    @torch.no_grad()
    def encode(self, images: Images) -> ImageFeatures:
        """Run the captured image encoder; the next call with the same number of pairs overwrites the results."""
        pairs = len(images)
        if pairs not in self.encoders:
            self.encoders[pairs] = self._capture_encoder(self.pixels(images))
        pixels, features, _, replay = self.encoders[pairs]
        pixels.copy_(torch.from_numpy(images))
        replay()
        return features

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Run a batched beam search over the captured step."""
        pairs = len(encoded.tokens)
        if (pairs, beams) not in self.steps:
            self.steps[pairs, beams] = self._capture_step(pairs, beams)
        last, row_parents, position, logits, replay = self.steps[pairs, beams]

        def step(ids: Tensor, parents: Tensor) -> Tensor:
            last.copy_(ids[:, -1])
            row_parents.copy_(parents)
            position.fill_(ids.shape[1] - 1)
            replay()
            return logits

        return beam_search(step, pairs, beams, self.max_length, self.device)

    def _capture_encoder(self, pixels: Tensor) -> _CapturedEncoder:
        outputs: list[tuple[ImageFeatures, list[KeysValues]]] = []

        def run() -> None:
            features = self.model.encode_images(pixels)
            result = (features, self.decoder.cross_keys_values(features.tokens))
            if not outputs:
                outputs.append(result)
            for target, source in zip(_tensors(*outputs[0]), _tensors(*result), strict=True):
                target.copy_(source)

        replay = self._capture(run)
        return pixels, *outputs[0], replay

    def _capture_step(self, pairs: int, beams: int) -> _CapturedStep:
        rows, config = pairs * beams, self.model.config
        shape = (2, rows, config.num_heads, self.max_length, config.d_model // config.num_heads)
        caches = [torch.zeros(shape, dtype=_DTYPE, device=self.device) for _ in self.decoder.layers]
        cross = self.encoders[pairs][2]
        ids, parents = torch.zeros((2, rows), dtype=torch.int64, device=self.device)
        position = torch.zeros(1, dtype=torch.int64, device=self.device)
        slots = torch.arange(self.max_length, device=self.device)
        logits = torch.zeros(rows, self.model.decoder.output.out_features, dtype=_DTYPE, device=self.device)

        def update(layer: int, key: Tensor, value: Tensor) -> KeysValues:
            cache = caches[layer]
            cache.copy_(cache[:, parents])
            cache.index_copy_(3, position, torch.stack([key, value]))
            return cache[0], cache[1]

        def run() -> None:
            mask = torch.where(slots > position, IMPOSSIBLE, 0.0).to(_DTYPE).unsqueeze(0)
            logits.copy_(self.decoder(ids, position, cross, update, mask))

        return ids, parents, position, logits, self._capture(run)

    def _capture(self, run: Replay) -> Replay:
        if self.device.type != "cuda":
            run()
            return run
        stream: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph):
            run()
        return graph.replay


def _tensors(features: ImageFeatures, cross: list[KeysValues]) -> list[Tensor]:
    return [*features, *(tensor for layer in cross for tensor in layer)]


def build(setup: Setup) -> CudaGraphs:
    """Open the baseline."""
    return CudaGraphs(setup)
