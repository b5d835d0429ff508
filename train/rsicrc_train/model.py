"""RSICRC: a siamese image encoder for image pairs, a text tower, and a decoder that describes the change.

After Ferrod, Di Caro, Ienco, "Towards a Multimodal Framework for Remote Sensing Image Change Retrieval and
Captioning" (Discovery Science 2024, arXiv 2406.13424). B is the number of pairs, d the model's width, S = h·w the
number of visual tokens, n the number of text tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsicrc_train.config import ModelConfig
from rsicrc_train.trunks import Trunk, normalize


class ImageFeatures(NamedTuple):
    """Output of the image encoder: `embedding` [B, d], not normalized; `tokens` [B, S, d]; `similarity` [B, h, w].

    Tokens and similarity are in the published order, in which rows and columns are swapped.
    """

    embedding: Tensor
    tokens: Tensor
    similarity: Tensor


class TextFeatures(NamedTuple):
    """Output of the text tower: `embedding` [B, d], not normalized, and the `hidden` states [B, n, d]."""

    embedding: Tensor
    hidden: Tensor


class SharedKeyAttention(nn.Module):
    """Self-attention that uses the keys as values too, as in the published model."""

    def __init__(self, width: int, attention_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, attention_width, bias=False)
        self.key = nn.Linear(width, attention_width, bias=False)
        self.out = nn.Linear(attention_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention, [B, S, width] → [B, S, width]."""
        query, key = (_split_heads(project(x), self.heads) for project in (self.query, self.key))
        attended = functional.scaled_dot_product_attention(
            query, key, key, dropout_p=self.dropout.p if self.training else 0.0
        )
        out: Tensor = self.dropout(self.out(_join_heads(attended)))
        return out


class FusionBlock(nn.Module):
    """A post-norm transformer block with a ReLU feed-forward of width `hidden`."""

    def __init__(self, width: int, attention_width: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SharedKeyAttention(width, attention_width, heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
        )
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, [B, S, width] → [B, S, width]."""
        x = self.attention_norm(self.attention(x) + x)
        out: Tensor = self.feed_forward_norm(self.feed_forward(x) + x)
        return out


class FusionLayer(nn.Module):
    """Attention within each image by one shared block, then over both images concatenated along the channels.

    A block that the config switches off is None, and the tokens pass unchanged.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = (config.a_dim, config.h_dim, config.num_heads, config.dropout)
        # "date" is part of tensor names in checkpoints.
        self.date = FusionBlock(config.d_model, *sizes) if config.image_attention else None
        self.pair = FusionBlock(2 * config.d_model, *sizes) if config.pair_attention else None

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse the tokens of both images, [B, S, d] each; the caller adds the features with positions again."""
        if self.date is not None:
            before, after = self.date(before) + before, self.date(after) + after
        if self.pair is not None:
            before, after = self.pair(torch.cat([before, after], dim=-1)).chunk(2, dim=-1)
        return before, after


class ResidualBlock(nn.Module):
    """A bottleneck of 1×1, 3×3 and 1×1 convolutions, each with BatchNorm, around a residual; ends in ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.left = nn.Sequential(
            nn.Conv2d(width, half, 1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, width, 1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, [B, d, h, w] → [B, d, h, w]."""
        return functional.relu(self.left(x) + x)


class AttentionPool(nn.Module):
    """Attention of one learned query to the visual tokens, which gives the embedding of the pair."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens [B, S, d] into embeddings [B, d]."""
        query = self.query.expand(len(tokens), 1, -1)
        pooled, _ = self.attention(query, tokens, tokens, need_weights=False)
        embedding: Tensor = self.norm(pooled[:, 0])
        return embedding


class ImageEncoder(nn.Module):
    """Encoder of an image pair: visual tokens for the decoder and one embedding for retrieval."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, edge = config.d_model, config.image_trunk.map_size
        pixels = config.preprocessing
        self.register_buffer("mean", torch.tensor(pixels.mean), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std), persistent=False)
        self.trunk = Trunk(config.image_trunk)
        self.separate_images = False  # in training, statistics of BatchNorm for the before and for the after images
        channels = self.trunk.channels
        self.proj: nn.Module = nn.Identity() if channels == d else nn.Conv2d(channels, d, 1)
        self.column_embedding = nn.Embedding(edge, d // 2)
        self.row_embedding = nn.Embedding(edge, d // 2)
        self.fusion = nn.ModuleList(FusionLayer(config) for _ in range(config.encoder_layers))
        self.adds_cosine = config.cosine
        self.merge = nn.Conv2d(2 * d, d, 1)
        self.residual = ResidualBlock(d)
        self.pool = AttentionPool(d, config.num_heads)

    def forward(self, images: Tensor) -> ImageFeatures:
        """Encode pixels uint8 [B, 2, size, size, 3], or features of the trunk float [B, 2, C, h, w], of pairs."""
        batch = len(images)
        stacked = images.transpose(0, 1).flatten(0, 1)
        maps = self.proj(self._trunk_maps(stacked) if images.dtype == torch.uint8 else stacked.to(self.mean.dtype))
        edge = maps.shape[-1]
        positioned = maps.flatten(2).transpose(1, 2) + self._positions(edge)
        before, after = first_before, first_after = positioned[:batch], positioned[batch:]
        for layer in self.fusion:
            before, after = layer(before, after)
            before, after = before + first_before, after + first_after
        # To restore maps, the published code exchanges the last axis with the *second*: rows and columns are swapped.
        before, after = (x.reshape(batch, edge, edge, -1).transpose(-1, 1) for x in (before, after))
        similarity = functional.cosine_similarity(before, after, dim=1)
        joined = torch.cat([before, after], dim=1)
        merged = self.residual(self.merge(joined + similarity.unsqueeze(1) if self.adds_cosine else joined))
        tokens = merged.flatten(2).transpose(1, 2)
        return ImageFeatures(self.pool(tokens), tokens, similarity)

    def _trunk_maps(self, pixels: Tensor) -> Tensor:
        """Return the features [2B, C, h, w] of pixels uint8 [2B, size, size, 3], the before images first."""
        images = normalize(pixels, self.mean, self.std)
        parts = images.chunk(2) if self.training and self.separate_images else (images,)
        maps = [self.trunk(part) for part in parts]
        return torch.cat(maps) if len(maps) > 1 else maps[0]

    def _positions(self, edge: int) -> Tensor:
        """Return the position embeddings [S, d]: for each token those of its column and its row, concatenated."""
        columns = self.column_embedding.weight.unsqueeze(0).expand(edge, -1, -1)
        rows = self.row_embedding.weight.unsqueeze(1).expand(-1, edge, -1)
        return torch.cat([columns, rows], dim=-1).flatten(0, 1)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the image pair where `cross`, and a feed-forward of width 4d (GELU)."""

    def __init__(self, config: ModelConfig, *, cross: bool) -> None:
        super().__init__()
        d, heads, dropout = config.d_model, config.num_heads, config.dropout
        self.prenorm = config.prenorm
        self.self_attention = nn.MultiheadAttention(d, heads, dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(d)
        self.cross_attention = nn.MultiheadAttention(d, heads, dropout, batch_first=True) if cross else None
        self.cross_norm = nn.LayerNorm(d) if cross else None
        self.feed_forward = nn.Sequential(
            nn.Linear(d, 4 * d), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * d, d), nn.Dropout(dropout)
        )
        self.feed_forward_norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, visual: Tensor | None = None) -> Tensor:
        """Apply the layer to text [B, n, d] and, with cross-attention, visual tokens [B, S, d]."""
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        y = self.self_norm(x) if self.prenorm else x
        y, _ = self.self_attention(y, y, y, attn_mask=causal, need_weights=False)
        x = self._add(x, self.dropout(y), self.self_norm)
        if self.cross_attention is not None and self.cross_norm is not None:
            y = self.cross_norm(x) if self.prenorm else x
            y, _ = self.cross_attention(y, visual, visual, need_weights=False)
            x = self._add(x, self.dropout(y), self.cross_norm)
        y = self.feed_forward_norm(x) if self.prenorm else x
        return self._add(x, self.feed_forward(y), self.feed_forward_norm)

    def _add(self, x: Tensor, y: Tensor, norm: nn.LayerNorm) -> Tensor:
        out: Tensor = x + y if self.prenorm else norm(x + y)
        return out


class TextDecoder(nn.Module):
    """Text tower (unimodal layers) and the captioner on top of it (multimodal layers and output layer)."""

    positions: Tensor

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        d = config.d_model
        self.embedding = nn.Embedding(vocabulary_size, d)
        if config.learnable:
            self.positions = nn.Parameter(torch.randn(config.max_len, d))
        else:
            self.register_buffer("positions", sinusoids(config.max_len, d), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.unimodal = nn.ModuleList(DecoderLayer(config, cross=False) for _ in range(config.unimodal_layers))
        self.multimodal = nn.ModuleList(DecoderLayer(config, cross=True) for _ in range(config.multimodal_layers))
        self.output_dropout = nn.Dropout(0.0)
        self.output = nn.Linear(d, vocabulary_size, bias=False)
        if config.tie_embeddings:
            self.output.weight = self.embedding.weight

    def encode(self, ids: Tensor) -> TextFeatures:
        """Encode token ids int64 [B, n], right-padded with PAD = 0."""
        x = self.dropout(self.embedding(ids) + self.positions[: ids.shape[1]])
        for layer in self.unimodal:
            x = layer(x)
        last = (ids != 0).sum(dim=1) - 1
        return TextFeatures(x[torch.arange(len(x), device=x.device), last], x)

    def caption(self, hidden: Tensor, visual: Tensor) -> Tensor:
        """Compute logits [B, n, V] of the next tokens from text states [B, n, d] and visual tokens [B, S, d]."""
        for layer in self.multimodal:
            hidden = layer(hidden, visual)
        logits: Tensor = self.output(self.output_dropout(hidden))
        return logits


class RSICRC(nn.Module):
    """Whole model; see the docstring of this module."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config)
        self.decoder = TextDecoder(config, vocabulary_size)
        # Embeddings of unit length: with a tied output layer, logits start near zero, as in most language models.
        nn.init.normal_(self.decoder.embedding.weight, std=config.d_model**-0.5)

    def encode_images(self, images: Tensor) -> ImageFeatures:
        """Encode pixels uint8 [B, 2, size, size, 3], or features of the trunk float [B, 2, C, h, w], of pairs."""
        features: ImageFeatures = self.encoder(images)
        return features

    def encode_text(self, ids: Tensor) -> TextFeatures:
        """Encode token ids int64 [B, n], right-padded with PAD = 0."""
        return self.decoder.encode(ids)

    def decode(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Compute logits [B, n, V] from hidden states [B, n, d] of the text tower and visual tokens [B, S, d]."""
        return self.decoder.caption(hidden, tokens)

    def forward(
        self, images: Tensor, ids: Tensor, captions: int | None = None
    ) -> tuple[ImageFeatures, TextFeatures, Tensor]:
        """Run the forward pass of training.

        Args:
            images: Pixels of B pairs, uint8 [B, 2, size, size, 3], or features of the trunk, float [B, 2, C, h, w].
            ids: Token ids int64 of N = B·r sentences, r in a row for each pair; more rows are embedded, not decoded.
            captions: Number N of sentences to decode; None decodes all.

        Returns:
            The image features of the B pairs, the text features of all sentences and the logits [N, n, V].
        """
        captions = captions or len(ids)
        image = self.encode_images(images)
        text = self.encode_text(ids)
        tokens = image.tokens.repeat_interleave(captions // len(images), dim=0)
        return image, text, self.decode(text.hidden[:captions], tokens)


def sinusoids(length: int, width: int) -> Tensor:
    """Return sinusoidal positions [length, width] (Vaswani et al. 2017): sines at even, cosines at odd channels."""
    angles = torch.arange(length).unsqueeze(1) * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
