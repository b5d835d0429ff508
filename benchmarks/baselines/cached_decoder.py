"""Decoder with a key-value cache over the model's own layers, as a PyTorch user writes one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from rsicrc_train.model import DecoderLayer, TextDecoder

KeysValues = tuple[Tensor, Tensor]
"""Keys and values [B, H, S, dh] of a layer, for all pairs or for all beams."""
Update = Callable[[int, Tensor, Tensor], KeysValues]
"""Update of a cache: layer index, the new token's key and value [R, H, 1, dh] → all keys and values [R, H, T, dh]."""


class CachedDecoder(nn.Module):
    """Unimodal and multimodal decoder layers, one token per call."""

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        layers = [*decoder.unimodal, *decoder.multimodal]
        self.layers = [layer for layer in layers if isinstance(layer, DecoderLayer)]

    def cross_keys_values(self, tokens: Tensor) -> list[KeysValues]:
        """Return the cross-attention keys and values of visual tokens [B, S, d], for every multimodal layer."""
        cross = []
        for layer in self.layers:
            if layer.cross_attention is not None:
                weight, bias = layer.cross_attention.in_proj_weight, layer.cross_attention.in_proj_bias
                width = tokens.shape[-1]
                key, value = functional.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=-1)
                heads = layer.cross_attention.num_heads
                cross.append((_split_heads(key, heads), _split_heads(value, heads)))
        return cross

    def forward(
        self, ids: Tensor, position: Tensor | int, cross: list[KeysValues], update: Update, mask: Tensor | None = None
    ) -> Tensor:
        """Return the logits [R, V] of the next tokens, for the last tokens `ids` [R], which are at `position`.

        `mask` [1, T] is added to the scores of the self-attention, for caches of fixed length.
        """
        x = self.decoder.embedding(ids) + self.decoder.positions[position]
        remaining = iter(cross)
        for index, layer in enumerate(self.layers):
            attention = layer.self_attention
            y = layer.self_norm(x) if layer.prenorm else x
            parts = functional.linear(y, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
            query, key, value = (_split_heads(part.unsqueeze(1), attention.num_heads) for part in parts)
            keys, values = update(index, key, value)
            mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            x = _add(layer, x, attention.out_proj(mixed.flatten(1)), layer.self_norm)
            if layer.cross_attention is not None and layer.cross_norm is not None:
                y = layer.cross_norm(x) if layer.prenorm else x
                x = _add(layer, x, _attend(layer.cross_attention, y, next(remaining)), layer.cross_norm)
            y = layer.feed_forward_norm(x) if layer.prenorm else x
            x = _add(layer, x, layer.feed_forward(y), layer.feed_forward_norm)
        logits: Tensor = self.decoder.output(x)
        return logits


def _attend(attention: nn.MultiheadAttention, x: Tensor, cross: KeysValues) -> Tensor:
    """Return the cross-attention of x [R, d]; all beams of a pair share the pair's keys and values."""
    keys, values = cross
    width, pairs = x.shape[-1], len(keys)
    query = functional.linear(x, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
    query = _split_heads(query.view(pairs, -1, width), attention.num_heads)
    mixed = functional.scaled_dot_product_attention(query, keys, values)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(x.shape))
    return out


def _add(layer: DecoderLayer, x: Tensor, y: Tensor, norm: nn.LayerNorm) -> Tensor:
    out: Tensor = x + y if layer.prenorm else norm(x + y)
    return out


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """Return x [R, n, d] as [R, H, n, dh]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
