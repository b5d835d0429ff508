"""The graph modules compared with the model, in PyTorch, for every option of the config; the beam search step.

In float64, except the normalization of pixels, which the model computes in float32: random models amplify rounding.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from rsicrc.text.vocabulary import END, START
from rsicrc_export.beam_search_step import Finished, Settings, Step, advance
from rsicrc_export.decoder_graphs import DecoderStepGraph, ImageEncoderGraph, ScorerGraph, TextEncoderGraph
from rsicrc_export.decoder_layers import IMPOSSIBLE
from rsicrc_export.parity import example_images, example_sentences, teacher_forced
from rsicrc_train.checkpoint import Checkpoint
from rsicrc_train.config import ModelConfig, TrunkConfig
from rsicrc_train.model import RSICRC
from tests.models import SMALL, VOCABULARY, random_checkpoint, with_options

V = len(VOCABULARY)
TRUNKS = {
    "resnet-3x3": SMALL,
    "resnet-7x7": replace(
        SMALL, trunk=TrunkConfig("clip_resnet", (1, 1, 1, 1), width=4), d_model=128, num_heads=2, a_dim=32
    ),
    "torchvision-8x8": replace(SMALL, trunk=TrunkConfig("torchvision_resnet", (1, 1, 1, 1), image_size=256)),
    "vit-16x16": replace(SMALL, trunk=TrunkConfig("clip_vit", (2,), width=48, heads=3, patch=14, image_size=224)),
    "vit-quick": replace(
        SMALL, trunk=TrunkConfig("clip_vit", (1,), width=64, heads=2, patch=32, image_size=96, quick_gelu=True)
    ),
    "no-fusion": with_options(encoder_layers=0),
    "one-head": with_options(num_heads=1),
}
DECODERS = {
    "published": SMALL,
    "prenorm": with_options(prenorm=True),
    "learnable-untied": with_options(learnable=True, tie_embeddings=False),
    "deep": with_options(unimodal_layers=2, multimodal_layers=3),
    "deep-prenorm": with_options(unimodal_layers=3, multimodal_layers=2, prenorm=True, tie_embeddings=False),
    "one-head": with_options(num_heads=1),
}


@cache
def checkpoint_of(config: ModelConfig) -> Checkpoint:
    return random_checkpoint(3, config)


def model_of(config: ModelConfig) -> RSICRC:
    return checkpoint_of(config).build_model().requires_grad_(False).double()


def memory_of(model: RSICRC, images: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    layers = model.config.multimodal_layers
    outputs = ImageEncoderGraph(model)(images)
    return outputs[2 : 2 + layers], outputs[2 + layers :]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("config", TRUNKS.values(), ids=TRUNKS.keys())
def test_image_encoder_graph_equals_the_model(config: ModelConfig) -> None:
    model = model_of(config)
    images = torch.from_numpy(example_images(2, config.image_trunk.image_size))
    embedding, similarity, keys, values = ImageEncoderGraph(model)(images)
    expected = model.encode_images(images)
    edge = config.image_trunk.map_size
    assert similarity.shape == (2, edge, edge)
    assert relative(embedding, torch.nn.functional.normalize(expected.embedding)) < 1e-6
    torch.testing.assert_close(similarity, expected.similarity.transpose(1, 2), rtol=0, atol=1e-6)
    # The published order swaps rows and columns; the folded keys and values have no bias.
    tokens = expected.tokens.view(2, edge, edge, -1).transpose(1, 2).flatten(1, 2)
    weights = model.state_dict()["decoder.multimodal.0.cross_attention.in_proj_weight"].chunk(3)
    for found, weight in ((keys, weights[1]), (values, weights[2])):
        assert relative(found.transpose(1, 2).flatten(2), tokens @ weight.T) < 1e-6


@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS.keys())
def test_text_encoder_graph_equals_the_model(config: ModelConfig) -> None:
    model = model_of(config)
    for ids in (torch.tensor([[START, END]]), torch.from_numpy(example_sentences(5, config.max_len, V))):
        expected = torch.nn.functional.normalize(model.encode_text(ids).embedding)
        assert relative(TextEncoderGraph(model)(ids), expected) < 1e-12


@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS.keys())
def test_scorer_graph_equals_the_model(config: ModelConfig) -> None:
    model = model_of(config)
    images = torch.from_numpy(example_images(2, 96))
    ids = example_sentences(5, config.max_len, V)
    found, attention = ScorerGraph(model)(torch.from_numpy(ids), *memory_of(model, images))
    for pair, tokens in enumerate(model.encode_images(images).tokens):
        expected, expected_attention = teacher_forced(model, tokens.expand(5, -1, -1), ids)
        torch.testing.assert_close(found[pair], torch.from_numpy(expected), rtol=0, atol=1e-4)
        torch.testing.assert_close(attention[pair], torch.from_numpy(expected_attention), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS.keys())
def test_decoder_steps_equal_the_model(config: ModelConfig) -> None:
    """After every step, the score of each beam is the log-probability of its tokens in the model."""
    model, (pairs, beams) = model_of(config), (2, 3)
    images = torch.from_numpy(example_images(pairs, 96))
    tokens, memory = model.encode_images(images).tokens, memory_of(model, images)
    graph = DecoderStepGraph(model)
    layers = config.unimodal_layers + config.multimodal_layers
    slots = config.max_len * beams
    cache_shape = (pairs, config.num_heads, slots, config.d_model // config.num_heads)
    caches = [torch.zeros(cache_shape, dtype=torch.float64) for _ in range(2 * layers)]
    last, parents, scores, finished, done = start(pairs, beams)
    followed, lineage = last.unsqueeze(-1), torch.zeros(pairs, beams, slots, dtype=torch.bool)
    settings = (torch.tensor(1.0), torch.tensor(False), torch.tensor(config.max_len))
    for position in range(config.max_len - 2):
        state = (last, parents, scores, lineage, torch.tensor(position), caches[:layers], caches[layers:])
        last, parents, scores, lineage, *rest = graph(*state, *memory, finished, done, *settings)
        caches, finished, done = rest[: 2 * layers], Finished(*rest[2 * layers : -2]), rest[-2]
        assert int(rest[-1]) == int((~done).sum())
        followed = torch.cat([followed[torch.arange(pairs).unsqueeze(1), parents], last.unsqueeze(-1)], dim=-1)
        for pair in range(pairs):
            hidden = model.encode_text(followed[pair, :, :-1].clone()).hidden
            log_probs = model.decode(hidden, tokens[pair].expand(beams, -1, -1)).log_softmax(-1)
            sums = log_probs.gather(2, followed[pair, :, 1:, None]).sum(dim=(1, 2))
            torch.testing.assert_close(scores[pair], sums, rtol=0, atol=1e-4)


def start(pairs: int, beams: int) -> tuple[Tensor, Tensor, Tensor, Finished, Tensor]:
    empty = torch.zeros(pairs, beams, dtype=torch.int64)
    none = torch.full((pairs, beams), IMPOSSIBLE)
    scores = none.clone()
    scores[:, 0] = 0.0
    finished = Finished(none, none, empty, empty, empty)
    return empty + START, empty, scores, finished, torch.zeros(pairs, dtype=torch.bool)


def step_on(
    scores: list[list[float]],
    finished: Finished | None = None,
    *,
    done: bool = False,
    position: int = 0,
    **options: float,
) -> Step:
    """Compute a step of one pair; row k has the log-probabilities of beam k for the tokens from END on."""
    log_probs = torch.full((1, len(scores), END + len(scores[0])), -50.0)
    log_probs[0, :, END:] = torch.tensor(scores)
    _, _, first, none, _ = start(1, len(scores))
    running = first if position == 0 else torch.zeros(1, len(scores))
    settings = Settings(
        torch.tensor(float(options.get("length_penalty", 1.0))),
        torch.tensor(bool(options.get("early_stopping", False))),
        torch.tensor(int(options.get("max_length", 10))),
    )
    return advance(log_probs, running, torch.tensor(position), finished or none, torch.tensor([done]), settings)


def test_end_becomes_a_hypothesis_only_among_the_best_beams() -> None:
    second = step_on([[-2.0, -1.0, -3.0, -4.0], [-9.0] * 4])
    assert second.finished.lengths.tolist() == [[1, 0]]
    assert second.finished.tokens[0, 0] == END
    assert second.finished.scores[0].tolist() == [-2.0, IMPOSSIBLE]
    assert second.tokens.tolist() == [[END + 1, END + 2]]
    third = step_on([[-3.0, -1.0, -2.0, -4.0], [-9.0] * 4])
    assert third.finished.lengths.tolist() == [[0, 0]]
    assert third.tokens.tolist() == [[END + 1, END + 2]]


def test_scores_are_divided_by_the_length() -> None:
    step = step_on([[-2.0, -6.0, -6.0], [-4.0, -7.0, -8.0]], position=3, length_penalty=2.0)
    assert step.finished.scores[0].tolist() == [-2.0 / 16, -4.0 / 16]
    assert step.finished.sums[0].tolist() == [-2.0, -4.0]
    assert step.finished.lengths[0].tolist() == [4, 4]
    assert step.finished.parents[0].tolist() == [0, 1]


def test_beams_become_hypotheses_at_the_maximum_length() -> None:
    step = step_on([[-9.0, -1.0, -2.0], [-9.0, -3.0, -4.0]], position=8)
    assert step.finished.tokens[0].tolist() == [END + 1, END + 2]
    assert step.finished.lengths[0].tolist() == [9, 9]
    assert step.done.tolist() == [True]


def test_early_stopping_ends_with_the_last_hypothesis() -> None:
    log_probs = [[-1.0, -0.1, -7.0], [-1.5, -0.2, -7.0]]
    finished = Finished(
        *(torch.tensor([row]) for row in ([-0.9, IMPOSSIBLE], [-0.9, IMPOSSIBLE], [1, 0], [END, 0], [0, 0]))
    )
    for early_stopping in (False, True):
        step = step_on([[-0.1, -1.0, -7.0], [-0.2, -2.0, -7.0]], finished, position=1, early_stopping=early_stopping)
        assert step.finished.lengths.tolist() == [[2, 2]]
        # The best live beam (-1.0 / 2) is worse than the worst hypothesis (-0.2 / 2): done either way.
        assert step.done.tolist() == [True]
    improvable = Finished(*(torch.tensor([row]) for row in ([-0.9, -2.0], [-0.9, -2.0], [1, 1], [END] * 2, [0] * 2)))
    assert step_on(log_probs, improvable, position=1).done.tolist() == [False]
    assert step_on(log_probs, improvable, position=1, early_stopping=True).done.tolist() == [True]


def test_done_pair_keeps_its_hypotheses() -> None:
    pool = Finished(*(torch.tensor([row]) for row in ([-5.0, -6.0], [-5.0, -6.0], [1, 1], [END] * 2, [0] * 2)))
    step = step_on([[-0.1, -1.0, -2.0], [-0.2, -1.0, -2.0]], pool, position=1, done=True)
    assert all(torch.equal(*both) for both in zip(step.finished, pool, strict=True))
    assert step.done.tolist() == [True]


def test_single_beam_is_greedy() -> None:
    continued = step_on([[-2.0, -1.0, -3.0]], early_stopping=True)
    assert (continued.tokens.tolist(), continued.done.tolist()) == ([[END + 1]], [False])
    ended = step_on([[-1.0, -2.0, -3.0]], early_stopping=True)
    assert (ended.finished.scores.tolist(), ended.done.tolist()) == ([[-1.0]], [True])
