"""What the PyTorch contestants share: the checkpoint's model, its vocabulary, its embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from contestants.base import Images, Setup, TwoPart, Vectors
from rsicrc.text.encoding import encode_sentences, pad
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint
from rsicrc_train.model import ImageFeatures


class TorchContestant(TwoPart):
    """The model of the checkpoint, in evaluation mode; `search` is left to the contestant."""

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        self.device = torch.device(setup.device)
        # Float32 means float32 for all; what rounds to TF32 would be another precision.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        saved = checkpoint.load(setup.checkpoint)
        self.model = saved.build_model().to(self.device)
        self.vocabulary = Vocabulary.from_words(saved.vocabulary, saved.config.max_len)
        self.preprocessing = saved.config.preprocessing
        self.size = setup.checkpoint.stat().st_size
        self.threads = setup.threads
        self.max_length = setup.max_length
        self.low = setup.precision == "bf16"

    def autocast(self) -> AbstractContextManager[Any]:
        """Bfloat16 where it was asked for. One context a call: within it, the weights are cast once."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.low else nullcontext()

    def wait(self) -> None:
        """Wait for the GPU, where it is one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def pixels(self, images: Images) -> Tensor:
        """Pairs on the device."""
        return torch.from_numpy(images).to(self.device)

    @torch.no_grad()
    def encode(self, images: Images) -> ImageFeatures:
        """The model's image side."""
        with self.autocast():
            return self.model.encode_images(self.pixels(images))

    def embedding(self, encoded: ImageFeatures) -> Vectors:
        """The image embedding."""
        return unit(encoded.embedding)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """The model's text tower."""
        ids = torch.from_numpy(pad(encode_sentences(self.vocabulary, texts))).to(self.device)
        with self.autocast():
            return unit(self.model.encode_text(ids).embedding)


def unit(embedding: Tensor) -> Vectors:
    """Rows of length 1, float32."""
    vectors: Vectors = functional.normalize(embedding.float(), dim=-1).cpu().numpy()
    return vectors
