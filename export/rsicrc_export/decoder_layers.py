"""Decoder layers with folded projections, shared by the text encoder, the decoder step and the scorer.

A graph module calls the parts of a layer separately, because each graph attends to other keys: to the cache of a beam,
to the preceding tokens, or, in the last layer of the text encoder, from END only.

Attribute names of modules become names of weights in the ONNX files.
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

IMPOSSIBLE = -1e9  # instead of minus infinity: a sum with a score stays finite, and its exponential is zero


class Projected(NamedTuple):
    """Query (scaled), key and value of tokens, each [..., d]."""

    query: Tensor
    key: Tensor
    value: Tensor


class FoldedDecoderLayer(nn.Module):
    """One decoder layer on hidden states [..., d].

    Args:
        layer: The layer of the model.
        projects: Include the projection of queries, keys and values; False if `TokenEmbedding` provides them.
    """

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
        """Project hidden states [..., d] to queries, keys and values of the self-attention."""
        projected: Projected = self.projection(self._before(x, self.self_norm))
        return projected

    def add_self_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the self-attention, of which `attended` [..., d] is the weighted sum of values, to x [..., d]."""
        return self._after(x, self.self_out(attended), self.self_norm)

    def project_cross_query(self, x: Tensor) -> Tensor:
        """Project hidden states [..., d] to the scaled queries of the cross-attention [..., d]."""
        query: Tensor = self.cross_query(self._before(x, self.cross_norm))
        return query

    def add_cross_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the cross-attention, of which `attended` [..., d] is the weighted sum of values, to x [..., d]."""
        return self._after(x, self.cross_out(attended), self.cross_norm)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Add the feed-forward network to x [..., d]."""
        hidden = functional.gelu(self.hidden(self._before(x, self.feed_forward_norm)))
        return self._after(x, self.last(hidden), self.feed_forward_norm)

    def _before(self, x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
        return cast(Tensor, norm(x)) if self.prenorm and norm is not None else x

    def _after(self, x: Tensor, y: Tensor, norm: nn.LayerNorm | None) -> Tensor:
        return x + y if self.prenorm or norm is None else cast(Tensor, norm(x + y))


class ProjectionGraph(nn.Module):
    """Queries, keys and values in one product."""

    def __init__(self, projection: fold.SelfProjection) -> None:
        super().__init__()
        self.weight, self.query_bias = (nn.Buffer(part) for part in projection)

    def forward(self, x: Tensor) -> Projected:
        """Project [..., d] to three tensors [..., d]."""
        query, key, value = (x @ self.weight).chunk(3, dim=-1)
        return Projected(query + self.query_bias, key, value)


class TokenEmbedding(nn.Module):
    """Token ids → input of the first layer and its projections.

    In a post-norm model the projections come from two tables (`fold.fold_first_layer`). A tied output layer uses
    `embedding` too; see `decoder_graphs.Output`.
    """

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

    def forward(self, ids: Tensor, positions: Tensor, first: FoldedDecoderLayer) -> tuple[Tensor, Projected]:
        """Return the input of the first layer [..., d] and its projections, for ids at the given positions."""
        look_up = functional.embedding
        x = look_up(ids, self.embedding) + look_up(positions, self.positions)
        if not self.has_tables:
            return x, first.project(x)
        projected = look_up(ids, self.projected_words) + look_up(positions, self.projected_positions)
        return x, Projected(*projected.chunk(3, dim=-1))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split [..., n, d] into heads [..., H, n, dh]."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(-3, -2)


def join_heads(x: Tensor) -> Tensor:
    """Join heads [..., H, n, dh] to [..., n, d]."""
    return x.transpose(-3, -2).flatten(-2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute attention of queries [..., q, dh] over keys and values [..., k, dh]; `mask` is added to the scores.

    Returns:
        The weighted sums of values [..., q, dh], and the weights [..., q, k] in float32 or wider.
    """
    scores = widen(query @ key.transpose(-1, -2))  # the numbers of the mask exceed the range of float16
    weights = softmax(scores if mask is None else scores + mask)
    return narrow(weights, value) @ value, weights


def attend_causally(projected: Projected, heads: int) -> Tensor:
    """Compute self-attention over tokens [..., n, d], each over itself and the preceding tokens → [..., n, d]."""
    positions = torch.arange(projected.query.shape[-2], device=projected.query.device)
    mask = torch.where(positions > positions.unsqueeze(1), IMPOSSIBLE, 0.0)
    query, key, value = (split_heads(part, heads) for part in projected)
    attended, _ = attend(query, key, value, mask)
    return join_heads(attended)


def fold_decoder_layers(layers: Iterable[nn.Module], tokens: TokenEmbedding) -> nn.ModuleList:
    """Fold decoder layers; the first gets no projection if `tokens` provides its queries, keys and values."""
    return nn.ModuleList(
        FoldedDecoderLayer(cast(DecoderLayer, layer), projects=number > 0 or not tokens.has_tables)
        for number, layer in enumerate(layers)
    )
