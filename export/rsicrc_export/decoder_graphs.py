"""The text graphs as PyTorch modules: `text_encoder`, `decoder` (one step of the beam search) and `scorer`.

B pairs, K beams, n tokens, N sentences, P cache slots, S visual tokens, H heads of width dh; d = H·dh.

Attribute names of modules, such as `words` for the token embedding, become names of weights in the ONNX files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsicrc.text.vocabulary import PAD
from rsicrc_export.beam_search_step import Finished, Settings, advance
from rsicrc_export.decoder_layers import (
    IMPOSSIBLE,
    FoldedDecoderLayer,
    Projected,
    TokenEmbedding,
    attend,
    attend_causally,
    fold_decoder_layers,
    join_heads,
    split_heads,
)
from rsicrc_export.half_precision import is_half, softmax, widen
from rsicrc_export.image_graph import ImageEncoderGraph
from rsicrc_train.model import RSICRC

__all__ = ["DecoderStepGraph", "ImageEncoderGraph", "ScorerGraph", "TextEncoderGraph"]


class TextEncoderGraph(nn.Module):
    """Sentences → embeddings. The last layer is computed for END only, because the embedding is its state."""

    def __init__(self, model: RSICRC) -> None:
        super().__init__()
        self.heads = model.config.num_heads
        self.words = TokenEmbedding(model.decoder)
        self.layers = fold_decoder_layers(model.decoder.unimodal, self.words)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed sentences int64 [B, n], right-padded with PAD, as vectors of length 1 [B, d]."""
        layers = _typed(self.layers)
        positions = torch.arange(ids.shape[1], device=ids.device)
        last = (ids != PAD).sum(dim=1) - 1
        x, projected = self.words(ids, positions, layers[0])
        for layer, following in pairwise(layers):
            x = layer.feed_forward(layer.add_self_attention(x, attend_causally(projected, self.heads)))
            projected = following.project(x)
        query, key, value = (split_heads(part, self.heads) for part in projected)
        padding_mask = torch.where(positions > last.unsqueeze(1), IMPOSSIBLE, 0.0)
        attended, _ = attend(_select(query, last, dim=2), key, value, padding_mask[:, None, None])
        top = layers[-1]
        x = top.feed_forward(top.add_self_attention(_select(x, last, dim=1).flatten(1), attended.flatten(1)))
        return functional.normalize(widen(x), dim=-1)


class ScorerGraph(nn.Module):
    """Sentences and image pairs → log-probability and attention of every token of every sentence on every pair.

    The part that depends on the sentence only, up to the query of the first cross-attention, is computed once for all
    pairs.
    """

    def __init__(self, model: RSICRC) -> None:
        super().__init__()
        self.heads = model.config.num_heads
        self.words = TokenEmbedding(model.decoder)
        self.layers = fold_decoder_layers([*model.decoder.unimodal, *model.decoder.multimodal], self.words)
        self.unimodal = len(model.decoder.unimodal)
        self.output = Output(model, self.words)

    def forward(
        self, ids: Tensor, cross_keys: Sequence[Tensor], cross_values: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Score sentences [N, n] on the pairs whose cross keys and values are [B, H, S, dh].

        Returns:
            log_probs [B, N, n - 1]: Log-probability of token i + 1 given the tokens before it; 0 where token i + 1 is
                PAD.
            attention [B, N, n, S]: Attention of the last layer for the prediction of token i + 1, mean over the heads.
        """
        layers = _typed(self.layers)
        x, projected = self.words(ids, torch.arange(ids.shape[1], device=ids.device), layers[0])
        weights = None
        for number, layer in enumerate(layers):
            projected = projected if number == 0 else layer.project(x)
            x = layer.add_self_attention(x, attend_causally(projected, self.heads))
            if (cross := number - self.unimodal) >= 0:
                # [H, N·n, dh] for the first cross-attention, then [B, H, N·n, dh].
                query = split_heads(layer.project_cross_query(x).flatten(-3, -2), self.heads)
                attended, weights = attend(query, cross_keys[cross], cross_values[cross])
                x = layer.add_cross_attention(x, join_heads(attended).view(attended.shape[0], *ids.shape, x.shape[-1]))
            x = layer.feed_forward(x)
        logits = self.output(x[:, :, :-1])
        targets = ids[:, 1:].expand(x.shape[0], -1, -1)
        log_probs = torch.log_softmax(logits, dim=-1).gather(3, targets.unsqueeze(3)).squeeze(3)
        attention = cast(Tensor, weights).mean(dim=1)
        return torch.where(targets == PAD, 0.0, log_probs), attention.view(x.shape[0], *ids.shape, attention.shape[-1])


class DecoderStepGraph(nn.Module):
    """One step of the beam search: the log-probabilities of the next token of every beam, and the selection."""

    def __init__(self, model: RSICRC) -> None:
        super().__init__()
        self.heads = model.config.num_heads
        self.words = TokenEmbedding(model.decoder)
        self.layers = fold_decoder_layers([*model.decoder.unimodal, *model.decoder.multimodal], self.words)
        self.unimodal = len(model.decoder.unimodal)
        self.output = Output(model, self.words)

    def forward(
        self,
        tokens: Tensor,
        parents: Tensor,
        scores: Tensor,
        lineage: Tensor,
        position: Tensor,
        self_keys: Sequence[Tensor],
        self_values: Sequence[Tensor],
        cross_keys: Sequence[Tensor],
        cross_values: Sequence[Tensor],
        finished: Sequence[Tensor],
        done: Tensor,
        length_penalty: Tensor,
        early_stopping: Tensor,
        max_length: Tensor,
    ) -> tuple[Tensor, ...]:
        """Compute one step; docs/graphs.md describes the inputs.

        Returns:
            Tokens, parents and scores for the next step, and the ancestry mask; the caches, first the keys and then
            the values of all layers; the finished hypotheses; `done`; and the number of pairs that are not done.
        """
        layers = _typed(self.layers)
        pairs, beams = tokens.shape
        cache = Cache(lineage, parents, position, self.heads, separate_new=not is_half(self.words.embedding.dtype))
        x, projected = self.words(tokens.flatten(), position, layers[0])
        next_keys, next_values = [], []
        for number, layer in enumerate(layers):
            projected = projected if number == 0 else layer.project(x)
            # The beams of a pair share its keys, in self- and in cross-attention: [B, K, d] → [B, H, K, dh].
            query, key, value = (split_heads(part.view(pairs, beams, -1), self.heads) for part in projected)
            attended, keys, values = cache.attend(Projected(query, key, value), self_keys[number], self_values[number])
            next_keys.append(keys)
            next_values.append(values)
            x = layer.add_self_attention(x, join_heads(attended).flatten(0, 1))
            if (cross := number - self.unimodal) >= 0:
                query = split_heads(layer.project_cross_query(x).view(pairs, beams, -1), self.heads)
                attended, _ = attend(query, cross_keys[cross], cross_values[cross])
                x = layer.add_cross_attention(x, join_heads(attended).flatten(0, 1))
            x = layer.feed_forward(x)

        log_probs = torch.log_softmax(self.output(x), dim=-1).view(pairs, beams, -1)
        settings = Settings(length_penalty, early_stopping, max_length)
        step = advance(log_probs, scores, position, Finished(*finished), done, settings)
        unfinished = (~step.done).sum()
        beam_state = (step.tokens, step.parents, step.scores, cache.ancestry)
        return (*beam_state, *next_keys, *next_values, *step.finished, step.done, unfinished)


class Cache:
    """Cache slots of all beams [B, H, P, dh], and the ancestry mask [B, K, P] of the slots that each beam continues.

    A step writes its tokens into the K slots after those of the preceding step. Keys and values are never moved: when
    beams are reordered, only the ancestry mask is gathered by parent. All beams of a pair attend to all its slots, and
    the slots of other beams are masked. That costs some multiplications, but needs one product per pair instead of one
    per beam.

    A runtime can write the new keys and values into the existing buffer (a ScatterND whose input and output are the
    same buffer), so a step reads its caches once and copies nothing. In float32 the score of a beam's newest token is
    computed separately from the cache, so that the attention does not depend on that ScatterND: if a runtime cannot
    write in place, its host can write the new keys and values instead. In half precision the attention reads the
    updated cache, because the fused attention kernel of TensorRT takes only one set of keys.

    Args:
        lineage: Ancestry mask of the preceding step, bool [B, K, P].
        parents: The beam of the preceding step that each beam continues, int64 [B, K].
        position: Position of the new tokens, int64 [].
        heads: Number of heads H.
        separate_new: Compute the attention to the newest token separately from the cache.
    """

    def __init__(self, lineage: Tensor, parents: Tensor, position: Tensor, heads: int, *, separate_new: bool) -> None:
        pairs, beams, slots = lineage.shape
        pair, beam, head, slot = (torch.arange(size, device=lineage.device) for size in (pairs, beams, heads, slots))
        own = position * beams + beam
        preceding = lineage[pair[:, None].expand(pairs, beams), parents]
        self.ancestry = preceding | (slot == own[:, None])
        self.separate_new = separate_new
        self.mask = torch.where(preceding if separate_new else self.ancestry, 0.0, IMPOSSIBLE).unsqueeze(1)
        shape = (pairs, heads, beams)
        self.new_slots = (pair[:, None, None].expand(shape), head[None, :, None].expand(shape), own.expand(shape))

    def attend(self, projected: Projected, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the self-attention of the new tokens, whose projections are [B, H, K, dh].

        Returns:
            The weighted sums of values [B, H, K, dh], and the caches of keys and values with the new tokens.
        """
        query, key, value = projected
        next_keys, next_values = keys.index_put(self.new_slots, key), values.index_put(self.new_slots, value)
        if not self.separate_new:
            return attend(query, next_keys, next_values, self.mask)[0], next_keys, next_values
        scores = query @ keys.transpose(-1, -2) + self.mask
        own = (query * key).sum(-1, keepdim=True)
        weights = softmax(torch.cat([scores, own], dim=-1))
        return weights[..., :-1] @ values + weights[..., -1:] * value, next_keys, next_values


class Output(nn.Module):
    """Hidden states [N, d] → logits [N, V]. A tied output layer shares the tensor of the token embedding."""

    def __init__(self, model: RSICRC, tokens: TokenEmbedding) -> None:
        super().__init__()
        own = model.decoder.output.weight
        self.table = tokens.embedding if own is model.decoder.embedding.weight else nn.Buffer(own.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x [N, d] in float32 or wider [N, V]."""
        return widen(functional.linear(x, self.table))


def _select(x: Tensor, indices: Tensor, dim: int) -> Tensor:
    """Select, from every row of x [N, ...], the entry of `dim` with the index in `indices` [N]; keep `dim`."""
    index = indices.view(-1, *[1] * (x.dim() - 1)).expand(*x.shape[:dim], 1, *x.shape[dim + 1 :])
    return x.gather(dim, index)


def _typed(layers: nn.ModuleList) -> list[FoldedDecoderLayer]:
    return cast(list[FoldedDecoderLayer], list(layers))
