"""CUDA graphs baseline: image encoder and cached decoder step in PyTorch, captured per batch size and replayed.

It has no launch overhead and needs no compiler: the weights are cast to bfloat16 once (a cast under autocast would be
captured and repeated in every replay), and the caches have a fixed length and are updated in place. On a CPU the same
functions are called directly, so that tests can run them.
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


class _Captured:
    """A function captured as a CUDA graph; a call copies the inputs, and overwrites the outputs of the last call."""

    def __init__(self, function: Callable[..., Any], *inputs: Tensor) -> None:
        self.function, self.inputs = function, [each.clone() for each in inputs]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.outputs: Any = None
        device = inputs[0].device
        if device.type != "cuda":
            return
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.outputs = function(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        for target, source in zip(self.inputs, inputs, strict=True):
            target.copy_(source)
        if self.graph is None:
            self.outputs = self.function(*self.inputs)
        else:
            self.graph.replay()
        return self.outputs


class CudaGraphs(PyTorch):
    """Two captured functions per batch size; the step reads the keys where the image encoder wrote them."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        # Pixels are normalized in fp32; everything after that is bfloat16.
        encoder = self.model.encoder
        scale = encoder.mean, encoder.std
        self.model.to(_DTYPE)
        encoder.mean, encoder.std = scale
        encoder.trunk.register_forward_pre_hook(lambda _module, inputs: (inputs[0].to(_DTYPE),))
        self.decoder = CachedDecoder(self.model.decoder)
        self.encoders: dict[int, _Captured] = {}
        self.steps: dict[tuple[int, int], _Captured] = {}

    def warm_up(self, images: Images, beams: int) -> None:
        """Capture both functions for this batch size."""
        self.search(self.encode(images), beams)

    @torch.no_grad()
    def encode(self, images: Images) -> ImageFeatures:
        """Run the captured image encoder; the next call with the same number of pairs overwrites the results."""

        def run(pixels: Tensor) -> tuple[ImageFeatures, list[KeysValues]]:
            features = self.model.encode_images(pixels)
            return features, self.decoder.cross_keys_values(features.tokens)

        pairs = len(images)
        if pairs not in self.encoders:
            self.encoders[pairs] = _Captured(run, self.pixels(images))
        features: ImageFeatures = self.encoders[pairs](torch.from_numpy(images))[0]
        return features

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Run a batched beam search over the captured step."""
        pairs = len(encoded.tokens)
        if (pairs, beams) not in self.steps:
            self.steps[pairs, beams] = self._capture_step(pairs, beams)
        captured = self.steps[pairs, beams]
        slots = torch.arange(self.max_length, device=self.device)

        def step(ids: Tensor, parents: Tensor) -> Tensor:
            logits: Tensor = captured(ids[:, -1], parents, slots[ids.shape[1] - 1 : ids.shape[1]])
            return logits

        return beam_search(step, pairs, beams, self.max_length, self.device)

    def _capture_step(self, pairs: int, beams: int) -> _Captured:
        rows, config = pairs * beams, self.model.config
        shape = (2, rows, config.num_heads, self.max_length, config.d_model // config.num_heads)
        caches = [torch.zeros(shape, dtype=_DTYPE, device=self.device) for _ in self.decoder.layers]
        ids, parents = torch.zeros((2, rows), dtype=torch.int64, device=self.device)
        slots = torch.arange(self.max_length, device=self.device)

        def run(ids: Tensor, parents: Tensor, position: Tensor) -> Tensor:
            def update(layer: int, key: Tensor, value: Tensor) -> KeysValues:
                cache = caches[layer]
                cache.copy_(cache[:, parents])
                cache.index_copy_(3, position, torch.stack([key, value]))
                return cache[0], cache[1]

            mask = torch.where(slots > position, IMPOSSIBLE, 0.0).to(_DTYPE).unsqueeze(0)
            return self.decoder(ids, position, self.encoders[pairs].outputs[1], update, mask)

        return _Captured(run, ids, parents, slots[:1])
