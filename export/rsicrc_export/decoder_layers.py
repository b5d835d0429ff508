"""The decoder's layers with their projections folded, shared by the text encoder, the decoder step and the scorer.

A graph drives a layer in parts, because only the graph knows what a word may look back at: the cache of its beam, the
words before it, or, for the text encoder's last layer, from END alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsicrc_export import fold
from rsicrc_export.half_precision import narrow, softmax, widen
from rsicrc_export.image_graph import ProductGraph
from rsicrc_train.model import DecoderLayer, TextDecoder

IMPOSSIBLE = -1e9  # stands for minus infinity: added to a score it stays finite, and its exponential is zero


class Projected(NamedTuple):
    """Query (scaled), key and value of words, each [..., d]."""

    query: Tensor
    key: Tensor
    value: Tensor


class FoldedDecoderLayer(nn.Module):
    """One decoder layer on words [..., d]."""

    def __init__(self, layer: DecoderLayer, *, projects: bool = True) -> None:
        super().__init__()
        self.prenorm = layer.prenorm
        self.heads, self.width = layer.self_attention.num_heads, layer.self_attention.embed_dim
        if projects:
            self.projection = ProjectionGraph(fold.fold_self_projection(layer.self_attention))
        self.self_out = ProductGraph(fold.fold_value_bias(layer.self_attention))
        self.self_norm = layer.self_norm
        if layer.cross_attention is not None:
            self.cross_query = ProductGraph(fold.fold_cross_query(layer.cross_attention))
            self.cross_out = ProductGraph(fold.fold_value_bias(layer.cross_attention))
        self.cross_norm = layer.cross_norm
        self.hidden = ProductGraph(fold.linear_product(cast(nn.Linear, layer.feed_forward[0])))
        self.last = ProductGraph(fold.linear_product(cast(nn.Linear, layer.feed_forward[3])))
        self.feed_forward_norm = layer.feed_forward_norm

    def project(self, x: Tensor) -> Projected:
        """Words → what they ask for, answer to and say."""
        projected: Projected = self.projection(self._before(x, self.self_norm))
        return projected

    def look_back(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Words and what their self-attention mixed, both [..., d] → words."""
        return self._after(x, self.self_out(mixed), self.self_norm)

    def ask(self, x: Tensor) -> Tensor:
        """Words → their queries to the image pair (scaled) [..., d]."""
        query: Tensor = self.cross_query(self._before(x, self.cross_norm))
        return query

    def look_at(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Words and what their cross-attention mixed, both [..., d] → words."""
        return self._after(x, self.cross_out(mixed), self.cross_norm)

    def think(self, x: Tensor) -> Tensor:
        """The feed-forward part."""
        hidden = functional.gelu(self.hidden(self._before(x, self.feed_forward_norm)))
        return self._after(x, self.last(hidden), self.feed_forward_norm)

    def _before(self, x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
        return cast(Tensor, norm(x)) if self.prenorm and norm is not None else x

    def _after(self, x: Tensor, y: Tensor, norm: nn.LayerNorm | None) -> Tensor:
        return x + y if self.prenorm or norm is None else cast(Tensor, norm(x + y))


class ProjectionGraph(nn.Module):
    """Q, K and V in one product."""

    def __init__(self, projection: fold.SelfProjection) -> None:
        super().__init__()
        self.weight, self.query_bias = (nn.Buffer(part) for part in projection)

    def forward(self, x: Tensor) -> Projected:
        """[..., d] → three of [..., d]."""
        query, key, value = (x @ self.weight).chunk(3, dim=-1)
        return Projected(query + self.query_bias, key, value)


class TokenEmbedding(nn.Module):
    """From word ids to the first layer's input and its projections; and back, from the last layer to the logits."""

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__()
        first = cast(DecoderLayer, [*decoder.unimodal, *decoder.multimodal][0])
        self.embedding = nn.Buffer(decoder.embedding.weight.detach())
        self.positions = nn.Buffer(decoder.positions.detach())
        self.has_tables = not first.prenorm
        if self.has_tables:
            projection = fold.fold_self_projection(first.self_attention)
            tables = fold.fold_first_layer(self.embedding, self.positions, projection)
            self.projected_words, self.projected_positions = (nn.Buffer(table) for table in tables)

    def forward(self, ids: Tensor, places: Tensor, first: FoldedDecoderLayer) -> tuple[Tensor, Projected]:
        """Ids at some places → the first layer's input [..., d] and its projections."""
        look_up = functional.embedding
        x = look_up(ids, self.embedding) + look_up(places, self.positions)
        if not self.has_tables:
            return x, first.project(x)
        projected = look_up(ids, self.projected_words) + look_up(places, self.projected_positions)
        return x, Projected(*projected.chunk(3, dim=-1))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., n, d] → [..., H, n, dh]."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(-3, -2)


def join_heads(x: Tensor) -> Tensor:
    """[..., H, n, dh] → [..., n, d]."""
    return x.transpose(-3, -2).flatten(-2)


def mix(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attend: queries [..., q, dh] to keys [..., k, dh], with `mask` added to the scores.

    Returns:
        The mixed values [..., q, dh] and the weights [..., q, k], these in float32 or wider.
    """
    scores = widen(query @ key.transpose(-1, -2))  # the mask's numbers are beyond float16
    weights = softmax(scores if mask is None else scores + mask)
    return narrow(weights, value) @ value, weights


def mix_causally(projected: Projected, heads: int) -> Tensor:
    """Self-attention of words [..., n, d] in which each sees itself and those before it → [..., n, d]."""
    places = torch.arange(projected.query.shape[-2], device=projected.query.device)
    unseen = torch.where(places > places.unsqueeze(1), IMPOSSIBLE, 0.0)
    query, key, value = (split_heads(part, heads) for part in projected)
    mixed, _ = mix(query, key, value, unseen)
    return join_heads(mixed)


def word_layers(layers: Iterable[nn.Module], words: TokenEmbedding) -> nn.ModuleList:
    """The layers above `words`, which has the first one's projections if they fold into tables."""
    return nn.ModuleList(
        FoldedDecoderLayer(cast(DecoderLayer, layer), projects=number > 0 or not words.has_tables)
        for number, layer in enumerate(layers)
    )
