"""The losses against slow, obvious implementations in float64."""

from __future__ import annotations

import math

import pytest
import torch

from rsicrc_train.losses import caption_loss, contrastive_loss, matching


def obvious_contrast(queries: torch.Tensor, keys: torch.Tensor, matches: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for i, query in enumerate(queries.double()):
        cosines = [float(query @ key / query.norm() / key.norm()) / temperature for key in keys.double()]
        against = sum(math.exp(c) for c, match in zip(cosines, matches[i], strict=True) if not match)
        own = [c for c, match in zip(cosines, matches[i], strict=True) if match]
        total += sum(-math.log(math.exp(c) / (math.exp(c) + against)) for c in own) / len(own)
    return total / len(queries)


@pytest.mark.parametrize("seed", range(4))
def test_contrastive_loss_is_infonce_with_its_own_rows_negatives(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, keys = torch.randn(5, 8, generator=generator), torch.randn(10, 8, generator=generator)
    matches = torch.rand(5, 10, generator=generator) < 0.3
    matches[torch.arange(5), torch.arange(5)] = True
    expected = obvious_contrast(queries, keys, matches, 0.1)
    assert contrastive_loss(queries, keys, matches, 0.1).item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_negatives_costs_nothing_and_has_finite_gradients() -> None:
    queries, keys = torch.randn(3, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    loss = contrastive_loss(queries, keys, torch.ones(3, 6, dtype=torch.bool), 0.01)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert queries.grad is not None
    assert keys.grad is not None
    assert torch.equal(queries.grad, torch.zeros(3, 4))
    assert torch.equal(keys.grad, torch.zeros(6, 4))


def test_contrastive_gradients() -> None:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    keys = torch.randn(8, 6, generator=generator)
    matches = torch.eye(4, dtype=torch.bool).repeat_interleave(2, dim=1)
    leaf = queries.float().requires_grad_()
    contrastive_loss(leaf, keys, matches, 0.1).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    for i, j in ((0, 0), (1, 3), (3, 5)):
        step = torch.zeros_like(queries)
        step[i, j] = 1e-5
        slope = obvious_contrast(queries + step, keys, matches, 0.1) - obvious_contrast(
            queries - step, keys, matches, 0.1
        )
        assert leaf.grad[i, j].item() == pytest.approx(slope / 2e-5, rel=1e-3, abs=1e-5)


def test_sentences_match_their_label_and_the_pairs_that_carry_the_same_words() -> None:
    labels = torch.tensor([7, -1, 9, -1])  # two changed pairs, two unchanged ones
    sentences = torch.tensor([[0, 1], [2, 3], [4, 0], [2, 3]])  # the changed pairs share sentence 0
    expected = torch.tensor(
        [
            [1, 1, 0, 0, 0, 1, 0, 0],
            [0, 0, 1, 1, 0, 0, 1, 1],
            [1, 0, 0, 0, 1, 1, 0, 0],
            [0, 0, 1, 1, 0, 0, 1, 1],
        ]
    )
    assert torch.equal(matching(labels, sentences), expected.bool())


def test_caption_loss_counts_real_words_only() -> None:
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 5, 6, 3], [1, 8, 3, 0]])
    targets = [(0, 0, 5), (0, 1, 6), (0, 2, 3), (1, 0, 8), (1, 1, 3)]
    log_probs = logits.double().log_softmax(-1)
    expected = -sum(float(log_probs[row, position, word]) for row, position, word in targets) / len(targets)
    assert caption_loss(logits, ids).item() == pytest.approx(expected, rel=1e-5)
