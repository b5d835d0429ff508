"""Baselines of fixed sizes: torch.compile under autocast, and CUDA graphs with bfloat16 weights.

Image encoder and decoder step are prepared once per batch size, by compiling or by capturing; the key-value caches have
a fixed length and are updated in place. CUDA graphs need no compiler and have no launch overhead; their weights are
cast once, because a cast under autocast would be captured and repeated in every replay.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from baselines.beam_search import IMPOSSIBLE, beam_search
from baselines.cached_decoder import CachedDecoder, KeysValues
from baselines.implementation import Images, Setup, Vectors
from baselines.pytorch import PyTorch
from rsicrc_train.model import RSICRC, ImageFeatures

_DTYPE = torch.bfloat16
_WARM_UPS = 3  # libraries choose algorithms and allocate memory, which must not happen during a capture
Function = Callable[..., Any]
Encoded = tuple[ImageFeatures, list[KeysValues]]
"""Image features, and cross-attention keys and values of every layer."""


class _Encoder(nn.Module):
    def __init__(self, model: RSICRC, decoder: CachedDecoder) -> None:
        super().__init__()
        self.model, self.decoder = model, decoder

    def forward(self, pixels: Tensor) -> Encoded:
        features = self.model.encode_images(pixels)
        return features, self.decoder.cross_keys_values(features.tokens)


class _Step(nn.Module):
    """Decoder step; row r continues the caption of row parents[r]. The caches are [2, R, H, T, dh] for every layer."""

    def __init__(self, decoder: CachedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, ids: Tensor, parents: Tensor, position: Tensor, caches: list[Tensor], cross: list[KeysValues]
    ) -> Tensor:
        def update(layer: int, key: Tensor, value: Tensor) -> KeysValues:
            cache = caches[layer]
            cache.copy_(cache[:, parents])
            cache.index_copy_(3, position, torch.stack([key, value]).to(cache.dtype))
            return cache[0], cache[1]

        slots = torch.arange(caches[0].shape[3], device=ids.device)
        mask = torch.where(slots > position, IMPOSSIBLE, 0.0).to(caches[0].dtype).unsqueeze(0)
        return self.decoder(ids, position, cross, update, mask)  # type: ignore[no-any-return]


class StaticShapes(PyTorch):
    """Image encoder and decoder step that are prepared once per batch size."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.slots = setup.max_length
        self.decoder = CachedDecoder(self.model.decoder)
        self.encoders: dict[int, Function] = {}
        self.steps: dict[tuple[int, int], tuple[Function, list[Tensor]]] = {}

    @abstractmethod
    def prepare(self, module: nn.Module) -> Function:
        """Return a function that runs a module, always with inputs of the same sizes."""

    def warm_up(self, images: Images, beams: int) -> None:
        """Prepare for this batch size with the first two steps of a search."""
        length, self.max_length = self.max_length, 3
        self.search(self.encode(images), beams)
        self.max_length = length

    @torch.no_grad()
    def encode(self, images: Images) -> Any:
        """Run the prepared image encoder; the next call with the same number of pairs may overwrite the results."""
        if len(images) not in self.encoders:
            self.encoders[len(images)] = self.prepare(_Encoder(self.model, self.decoder))
        with self.autocast():
            return self.encoders[len(images)](self.pixels(images))

    def embedding(self, encoded: Any) -> Vectors:
        """Return the image embeddings."""
        return super().embedding(encoded[0])

    @torch.no_grad()
    def search(self, encoded: Any, beams: int) -> list[list[int]]:
        """Run a batched beam search over the prepared step."""
        pairs, config = len(encoded[0].tokens), self.model.config
        if (pairs, beams) not in self.steps:
            shape = (2, pairs * beams, config.num_heads, self.slots, config.d_model // config.num_heads)
            caches = [torch.zeros(shape, dtype=_DTYPE, device=self.device) for _ in self.decoder.layers]
            self.steps[pairs, beams] = self.prepare(_Step(self.decoder)), caches
        run, caches = self.steps[pairs, beams]
        positions = torch.arange(self.slots, device=self.device)

        def step(ids: Tensor, parents: Tensor) -> Tensor:
            length = ids.shape[1]
            logits: Tensor = run(ids[:, -1].contiguous(), parents, positions[length - 1].view(1), caches, encoded[1])
            return logits

        with self.autocast():
            return beam_search(step, pairs, beams, self.max_length, self.device)


class Compiled(StaticShapes):
    """Programs of torch.compile with frozen weights."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        torch._inductor.config.freezing = True
        torch._dynamo.config.recompile_limit = 64  # one program per batch size

    def prepare(self, module: nn.Module) -> Function:
        """Compile a module."""
        return torch.compile(module, dynamic=False)


class CudaGraphs(StaticShapes):
    """CUDA graphs; on a CPU, the modules are called directly, so that tests can run them."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        # Pixels are normalized in fp32; everything after that is bfloat16.
        encoder = self.model.encoder
        scale = encoder.mean, encoder.std
        self.model.to(_DTYPE)
        encoder.mean, encoder.std = scale
        encoder.trunk.register_forward_pre_hook(lambda _module, inputs: (inputs[0].to(_DTYPE),))
        self.is_bf16 = False  # without autocast

    def prepare(self, module: nn.Module) -> Function:
        """Capture a module at its first call."""
        return module if self.device.type == "cpu" else _Captured(module)


class _Captured:
    """A captured module; a call copies the tensors among its inputs, and overwrites the outputs of the last call."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Any) -> Any:
        if self.graph is None:
            self._capture(inputs)
        for target, source in zip(self.inputs, inputs, strict=True):
            if isinstance(source, Tensor):
                target.copy_(source)
        self.graph.replay()  # type: ignore[union-attr]
        return self.outputs

    def _capture(self, inputs: tuple[Any, ...]) -> None:
        device = inputs[0].device
        self.inputs = [each.clone() if isinstance(each, Tensor) else each for each in inputs]
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.module(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(self.graph):
            self.outputs = self.module(*self.inputs)
