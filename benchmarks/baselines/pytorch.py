"""PyTorch baseline, in fp32 or under bfloat16 autocast, and the common part of the other PyTorch baselines.

Its beam search has no cache: every step decodes the whole sentences. One pair with one beam is the published method.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from common.assets import CHECKPOINT
from torch import Tensor
from torch.nn import functional

from baselines.beam_search import beam_search
from baselines.implementation import Images, Setup, TwoStage, Vectors
from rsicrc.text.encoding import encode_sentences, pad
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint
from rsicrc_train.model import ImageFeatures


class PyTorch(TwoStage):
    """The checkpoint's model in evaluation mode; all pairs and beams are one batch."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        self.device = torch.device(setup.device)
        # fp32 is fp32 in every implementation: TF32 rounds to another precision.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        path = setup.assets / CHECKPOINT
        saved = checkpoint.load(path)
        self.model = saved.build_model().to(self.device)
        self.vocabulary = Vocabulary.from_words(saved.vocabulary, saved.config.max_len)
        self.preprocessing = saved.config.preprocessing
        self.size = path.stat().st_size
        self.is_bf16 = setup.precision == "bf16"

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a bfloat16 autocast context where bf16 is wanted; within one context, weights are cast once."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.is_bf16 else nullcontext()

    def wait(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def pixels(self, images: Images) -> Tensor:
        """Copy pairs to the device."""
        return torch.from_numpy(images).to(self.device)

    @torch.no_grad()
    def encode(self, images: Images) -> ImageFeatures:
        """Run the model's image encoder."""
        with self.autocast():
            return self.model.encode_images(self.pixels(images))

    def embedding(self, encoded: ImageFeatures) -> Vectors:
        """Return the image embeddings."""
        return _normalize(encoded.embedding)

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Run a batched beam search without a cache."""
        visual = encoded.tokens.repeat_interleave(beams, dim=0)

        def step(ids: Tensor, _parents: Tensor) -> Tensor:
            return self.model.decode(self.model.encode_text(ids).hidden, visual)[:, -1]

        with self.autocast():
            return beam_search(step, len(encoded.tokens), beams, self.max_length, self.device)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Run the model's text encoder."""
        ids = torch.from_numpy(pad(encode_sentences(self.vocabulary, texts))).to(self.device)
        with self.autocast():
            return _normalize(self.model.encode_text(ids).embedding)


def _normalize(embedding: Tensor) -> Vectors:
    vectors: Vectors = functional.normalize(embedding.float(), dim=-1).cpu().numpy()
    return vectors
