"""The word graphs as PyTorch modules: `text_encoder`, `decoder` (one step of beam search) and `scorer`.

B pairs, K beams, n words, N sentences, P places in the caches, S visual tokens, H heads of width dh; d = H·dh.
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
    join_heads,
    mix,
    mix_causally,
    split_heads,
    word_layers,
)
from rsicrc_export.half_precision import is_half, softmax, widen
from rsicrc_export.image_graph import ImageEncoderGraph
from rsicrc_train.model import RSICRC

__all__ = ["DecoderStepGraph", "ImageEncoderGraph", "ScorerGraph", "TextEncoderGraph"]


class TextEncoderGraph(nn.Module):
    """Sentences → embeddings. The last layer is computed for END alone: nothing else of it is used."""

    def __init__(self, model: RSICRC) -> None:
        super().__init__()
        self.heads = model.config.num_heads
        self.words = TokenEmbedding(model.decoder)
        self.layers = word_layers(model.decoder.unimodal, self.words)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids int64 [B, n], right-padded with PAD → unit-length embeddings [B, d]."""
        layers = _typed(self.layers)
        places = torch.arange(ids.shape[1], device=ids.device)
        last = (ids != PAD).sum(dim=1) - 1
        x, projected = self.words(ids, places, layers[0])
        for layer, following in pairwise(layers):
            x = layer.think(layer.look_back(x, mix_causally(projected, self.heads)))
            projected = following.project(x)
        query, key, value = (split_heads(part, self.heads) for part in projected)
        after_end = torch.where(places > last.unsqueeze(1), IMPOSSIBLE, 0.0)
        mixed, _ = mix(_at(query, last, dim=2), key, value, after_end[:, None, None])
        top = layers[-1]
        x = top.think(top.look_back(_at(x, last, dim=1).flatten(1), mixed.flatten(1)))
        return functional.normalize(widen(x), dim=-1)


class ScorerGraph(nn.Module):
    """Given sentences on image pairs → the log-probability of every word, and where each looked.

    Every sentence is scored on every pair. What depends on the sentence alone, down to the question that it asks of the
    first image pair, is computed once for all pairs.
    """

    def __init__(self, model: RSICRC) -> None:
        super().__init__()
        self.heads = model.config.num_heads
        self.words = TokenEmbedding(model.decoder)
        self.layers = word_layers([*model.decoder.unimodal, *model.decoder.multimodal], self.words)
        self.unimodal = len(model.decoder.unimodal)
        self.output = Output(model, self.words)

    def forward(
        self, ids: Tensor, cross_keys: Sequence[Tensor], cross_values: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Sentences [N, n] on the pairs whose keys and values are [B, H, S, dh].

        Returns:
            log_probs [B, N, n - 1]: of word i + 1 given those before it; 0 where it is PAD.
            attention [B, N, n, S]: the last layer's, mean over the heads, while word i + 1 is predicted.
        """
        layers = _typed(self.layers)
        x, projected = self.words(ids, torch.arange(ids.shape[1], device=ids.device), layers[0])
        weights = None
        for number, layer in enumerate(layers):
            projected = projected if number == 0 else layer.project(x)
            x = layer.look_back(x, mix_causally(projected, self.heads))
            if (cross := number - self.unimodal) >= 0:
                query = split_heads(layer.ask(x).flatten(-3, -2), self.heads)  # [H, N·n, dh], then one for each pair
                mixed, weights = mix(query, cross_keys[cross], cross_values[cross])
                x = layer.look_at(x, join_heads(mixed).view(mixed.shape[0], *ids.shape, x.shape[-1]))
            x = layer.think(x)
        logits = self.output(x[:, :, :-1])
        targets = ids[:, 1:].expand(x.shape[0], -1, -1)
        log_probs = torch.log_softmax(logits, dim=-1).gather(3, targets.unsqueeze(3)).squeeze(3)
        attention = cast(Tensor, weights).mean(dim=1)
        return torch.where(targets == PAD, 0.0, log_probs), attention.view(x.shape[0], *ids.shape, attention.shape[-1])


class DecoderStepGraph(nn.Module):
    """One word for every beam of every pair, and the step of the search that selects it."""

    def __init__(self, model: RSICRC) -> None:
        super().__init__()
        self.heads = model.config.num_heads
        self.words = TokenEmbedding(model.decoder)
        self.layers = word_layers([*model.decoder.unimodal, *model.decoder.multimodal], self.words)
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
        """Take one step; docs/graphs.md says what each input is.

        Returns:
            Tokens, parents and scores of the next step, and the lineage; the caches, keys of all layers and then
            values; the finished pool; done; and the number of pairs that are not done.
        """
        layers = _typed(self.layers)
        pairs, beams = tokens.shape
        cache = Cache(lineage, parents, position, self.heads, apart=not is_half(self.words.embedding.dtype))
        x, projected = self.words(tokens.flatten(), position, layers[0])
        next_keys, next_values = [], []
        for number, layer in enumerate(layers):
            projected = projected if number == 0 else layer.project(x)
            # All beams of a pair ask one set of keys, of its words as of its images: [B, K, d] → [B, H, K, dh].
            query, key, value = (split_heads(part.view(pairs, beams, -1), self.heads) for part in projected)
            mixed, keys, values = cache.look_back(Projected(query, key, value), self_keys[number], self_values[number])
            next_keys.append(keys)
            next_values.append(values)
            x = layer.look_back(x, join_heads(mixed).flatten(0, 1))
            if (cross := number - self.unimodal) >= 0:
                query = split_heads(layer.ask(x).view(pairs, beams, -1), self.heads)
                mixed, _ = mix(query, cross_keys[cross], cross_values[cross])
                x = layer.look_at(x, join_heads(mixed).flatten(0, 1))
            x = layer.think(x)

        log_probs = torch.log_softmax(self.output(x), dim=-1).view(pairs, beams, -1)
        settings = Settings(length_penalty, early_stopping, max_length)
        step = advance(log_probs, scores, position, Finished(*finished), done, settings)
        unfinished = (~step.done).sum()
        beam_state = (step.tokens, step.parents, step.scores, cache.lineage)
        return (*beam_state, *next_keys, *next_values, *step.finished, step.done, unfinished)


class Cache:
    """Where the words of all beams are kept [B, H, P, dh], and which of them each beam descends from [B, K, P].

    The words of a step get the K places after those of the step before, and stay there: what a new set of beams
    continues is said by the lineage, gathered by parent, and not by moving keys and values. All beams of a pair ask all
    its places, and what is not their own is masked: a few more multiplications, but one product for the pair in place
    of one for each beam.

    A runtime can write a step's words into the cache where it is (a ScatterND whose input and output are one buffer),
    so a step reads its caches once and copies nothing. In float32 a beam asks its newest word apart from the cache, so
    that nothing waits for that ScatterND: a runtime that cannot write in place may leave it to its host. In half
    precisions the cache is asked with the words in it, for TensorRT's one kernel of attention takes one set of keys.
    """

    def __init__(self, lineage: Tensor, parents: Tensor, position: Tensor, heads: int, *, apart: bool) -> None:
        pairs, beams, places = lineage.shape
        pair, beam, head, place = (torch.arange(size, device=lineage.device) for size in (pairs, beams, heads, places))
        own = position * beams + beam
        before = lineage[pair[:, None].expand(pairs, beams), parents]
        self.lineage = before | (place == own[:, None])
        self.apart = apart
        self.unseen = torch.where(before if apart else self.lineage, 0.0, IMPOSSIBLE).unsqueeze(1)
        shape = (pairs, heads, beams)
        self.here = (pair[:, None, None].expand(shape), head[None, :, None].expand(shape), own.expand(shape))

    def look_back(self, words: Projected, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Self-attention of this step's words, each [B, H, K, dh].

        Returns:
            What they mixed [B, H, K, dh], and the two caches with them.
        """
        query, key, value = words
        next_keys, next_values = keys.index_put(self.here, key), values.index_put(self.here, value)
        if not self.apart:
            return mix(query, next_keys, next_values, self.unseen)[0], next_keys, next_values
        scores = query @ keys.transpose(-1, -2) + self.unseen
        own = (query * key).sum(-1, keepdim=True)
        weights = softmax(torch.cat([scores, own], dim=-1))
        return weights[..., :-1] @ values + weights[..., -1:] * value, next_keys, next_values


class Output(nn.Module):
    """Words [N, d] → logits [N, V]. A tied output layer is the very table in which the words are looked up."""

    def __init__(self, model: RSICRC, words: TokenEmbedding) -> None:
        super().__init__()
        own = model.decoder.output.weight
        self.table = words.embedding if own is model.decoder.embedding.weight else nn.Buffer(own.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[N, d] → [N, V], in float32 or wider."""
        return widen(functional.linear(x, self.table))


def _at(x: Tensor, places: Tensor, dim: int) -> Tensor:
    """From every row of x [N, ...] the entry of `dim` that `places` [N] names, `dim` kept."""
    index = places.view(-1, *[1] * (x.dim() - 1)).expand(*x.shape[:dim], 1, *x.shape[dim + 1 :])
    return x.gather(dim, index)


def _typed(layers: nn.ModuleList) -> list[FoldedDecoderLayer]:
    return cast(list[FoldedDecoderLayer], list(layers))
