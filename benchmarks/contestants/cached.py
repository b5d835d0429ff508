"""The decoder for one word at a time, with a cache: what a PyTorch user writes around the model's own layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from rsicrc_train.model import DecoderLayer, TextDecoder

Memory = tuple[Tensor, Tensor]
"""Cross-attention keys and values [B, H, S, dh] of a layer: of all pairs, or, expanded, of all beams."""
Update = Callable[[int, Tensor, Tensor], Memory]
"""The cache: a layer's number, the new word's key and value [R, H, 1, dh] → all so far [R, H, T, dh]."""


class CachedDecoder(nn.Module):
    """The text tower and the captioner above it, one word a call."""

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.layers: list[DecoderLayer] = [*decoder.unimodal, *decoder.multimodal]  # type: ignore[list-item]

    def remember(self, tokens: Tensor) -> list[Memory]:
        """Cross-attention keys and values of the visual tokens [B, S, d], for every multimodal layer."""
        memory = []
        for layer in self.layers:
            if layer.cross_attention is not None:
                weight, bias = layer.cross_attention.in_proj_weight, layer.cross_attention.in_proj_bias
                width = tokens.shape[-1]
                key, value = functional.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=-1)
                heads = layer.cross_attention.num_heads
                memory.append((_split(key, heads), _split(value, heads)))
        return memory

    def forward(
        self,
        words: Tensor,
        position: Tensor | int,
        memory: Sequence[Memory],
        update: Update,
        unseen: Tensor | None = None,
    ) -> Tensor:
        """Logits [R, V] of the words after `words` [R], which are at `position`.

        Args:
            words: ids of the last words.
            position: their index; START's is 0.
            memory: what `remember` gave.
            update: the cache.
            unseen: added to the scores of the cache's places [1, T]; for caches of fixed length.
        """
        x = self.decoder.embedding(words) + self.decoder.positions[position]
        cross = iter(memory)
        for number, layer in enumerate(self.layers):
            attention = layer.self_attention
            y = layer.self_norm(x) if layer.prenorm else x
            parts = functional.linear(y, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
            query, key, value = (_split(part.unsqueeze(1), attention.num_heads) for part in parts)
            keys, values = update(number, key, value)
            mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=unseen)
            x = _add(layer, x, attention.out_proj(mixed.flatten(1)), layer.self_norm)
            if layer.cross_attention is not None and layer.cross_norm is not None:
                y = layer.cross_norm(x) if layer.prenorm else x
                x = _add(layer, x, _look(layer.cross_attention, y, next(cross)), layer.cross_norm)
            y = layer.feed_forward_norm(x) if layer.prenorm else x
            x = _add(layer, x, layer.feed_forward(y), layer.feed_forward_norm)
        logits: Tensor = self.decoder.output(x)
        return logits


def _look(attention: nn.MultiheadAttention, x: Tensor, memory: Memory) -> Tensor:
    """Cross-attention of x [R, d]; all beams of a pair ask the pair's one set of keys."""
    keys, values = memory
    width, pairs = x.shape[-1], len(keys)
    query = functional.linear(x, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
    query = _split(query.view(pairs, -1, width), attention.num_heads)
    mixed = functional.scaled_dot_product_attention(query, keys, values)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(x.shape))
    return out


def _add(layer: DecoderLayer, x: Tensor, y: Tensor, norm: nn.LayerNorm) -> Tensor:
    out: Tensor = x + y if layer.prenorm else norm(x + y)
    return out


def _split(x: Tensor, heads: int) -> Tensor:
    """[R, n, d] → [R, H, n, dh]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
