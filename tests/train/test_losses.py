"""Tests of the losses against slow, simple implementations in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch

from rsicrc_train.losses import ContrastiveLoss, caption_loss, contrastive_loss
from rsicrc_train.negatives import Masks, MinedSentences, SentenceSimilarity
from rsicrc_train.recipes import Training

PLAIN = Training(temperature=0.1)


class Case(NamedTuple):
    """Random batch: pairs with a label and sentences each, and the embedding of each sentence by number."""

    images: torch.Tensor
    texts: torch.Tensor
    labels: list[int]
    sentences: list[list[int]]
    mined: list[tuple[int, int]]
    embeddings: torch.Tensor

    def loss(self, training: Training) -> torch.Tensor:
        labels, numbers = torch.tensor(self.mined).T if self.mined else (None, None)
        mined = None if labels is None or numbers is None else MinedSentences(labels, numbers)
        contrast = ContrastiveLoss(training, SentenceSimilarity(self.embeddings, training.threshold))
        return contrast(self.images, self.texts, torch.tensor(self.labels), torch.tensor(self.sentences), mined)


def random_case(seed: int, *, pairs: int = 6, repeats: int = 2, mined: int = 4, unchanged: bool = False) -> Case:
    """Return a batch with half of the pairs unchanged, repeated sentences, and some near or equal embeddings."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = 9
    embeddings = torch.randn(vocabulary, 5, generator=generator)
    embeddings[1] = embeddings[0] + 0.05 * torch.randn(5, generator=generator)  # a false negative
    embeddings[3] = embeddings[2]  # another sentence of the same meaning
    embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
    changed = [not unchanged and number % 2 == 0 for number in range(pairs + mined)]
    labels = [number if change else -1 for number, change in enumerate(changed)]
    numbers = torch.randint(vocabulary, (pairs, repeats), generator=generator)
    numbers[2, 0], numbers[0, 0], numbers[4, 1] = 1, 0, 0
    extra = torch.randint(vocabulary, (mined,), generator=generator)
    return Case(
        torch.randn(pairs, 8, generator=generator),
        torch.randn(pairs * repeats + mined, 8, generator=generator),
        labels[:pairs],
        numbers.tolist(),
        list(zip(labels[pairs:], extra.tolist(), strict=True)),
        embeddings,
    )


def reference_loss(case: Case, training: Training) -> float:
    """Compute the published definition with Python numbers."""
    images = [image / image.norm() for image in case.images.double()]
    texts = [text / text.norm() for text in case.texts.double()]
    keys = [(label, number) for label, row in zip(case.labels, case.sentences, strict=True) for number in row]
    own, keys = len(keys), keys + case.mined

    def same(one: int, other: int) -> bool:
        cosine = float(case.embeddings[one].double() @ case.embeddings[other].double())
        return one == other or cosine >= training.threshold - 1e-5

    def relation(pair: int, key: int) -> str:
        label, number = keys[key]
        if label == case.labels[pair]:
            return "positive"
        if training.false_negatives != "none" and any(same(own_number, number) for own_number in case.sentences[pair]):
            return "positive" if training.false_negatives == "attract" else "neither"
        return "negative"

    def mean_loss(rows: list[list[float]], relations: list[list[str]]) -> float:
        scores = [[cosine / training.temperature for cosine in row] for row in rows]
        cells = [(row, column) for row, kinds in enumerate(relations) for column in range(len(kinds))]
        negatives = [(row, column) for row, column in cells if relations[row][column] == "negative"]
        negatives.sort(key=lambda cell: scores[cell[0]][cell[1]], reverse=True)
        if training.hardest and training.hardest_of == "batch":
            negatives = negatives[: training.hardest]
        losses = []
        for row, kinds in enumerate(relations):
            own = [scores[row][column] for other, column in negatives if other == row]
            if training.hardest_of == "query":
                own = own[: training.hardest or None]
            against = sum(map(math.exp, own))
            positives = [score for score, kind in zip(scores[row], kinds, strict=True) if kind == "positive"]
            losses.append([-math.log(math.exp(score) / (math.exp(score) + against)) for score in positives])
        if training.contrast_mean == "positives":
            return sum(map(sum, losses)) / sum(map(len, losses))
        return sum(sum(each) / len(each) for each in losses) / len(losses)

    loss = mean_loss(
        [[float(image @ text) for text in texts] for image in images],
        [[relation(pair, key) for key in range(len(keys))] for pair in range(len(images))],
    )
    if not training.symmetric:
        return loss
    text_loss = mean_loss(
        [[float(text @ image) for image in images] for text in texts[:own]],
        [[relation(pair, key) for pair in range(len(images))] for key in range(own)],
    )
    return (loss + text_loss) / 2


OPTIONS: list[dict[str, Any]] = [
    {"false_negatives": "none"},
    {"false_negatives": "eliminate", "threshold": 0.9},
    {"false_negatives": "attract", "threshold": 0.9},
    {"false_negatives": "attract", "threshold": 1.0},
    {"false_negatives": "eliminate", "threshold": 0.3, "hardest": 2},
    {"false_negatives": "attract", "threshold": 0.5, "symmetric": True},
    {"false_negatives": "eliminate", "threshold": 0.7, "symmetric": True, "hardest": 3},
    {"false_negatives": "none", "contrast_mean": "positives"},
    {"false_negatives": "attract", "threshold": 0.5, "contrast_mean": "positives", "symmetric": True},
    {"false_negatives": "none", "hardest": 3, "hardest_of": "batch", "contrast_mean": "positives"},
    {"false_negatives": "eliminate", "threshold": 0.9, "hardest": 5, "hardest_of": "batch", "symmetric": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("mined", [0, 4])
def test_contrastive_loss_matches_the_published_definition(options: dict[str, Any], mined: int) -> None:
    training = replace(PLAIN, **options)
    for seed in range(5):
        case = random_case(seed, mined=mined)
        assert case.loss(training).item() == pytest.approx(reference_loss(case, training), rel=1e-5, abs=1e-7)


def test_false_negative_modes_give_different_losses() -> None:
    """Check that the test above can fail."""
    losses = [random_case(0).loss(replace(PLAIN, **options)).item() for options in OPTIONS[:4]]
    assert len({round(loss, 4) for loss in losses}) == 4


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("hardest", [0, 3])
def test_batch_of_unchanged_pairs_has_zero_loss_and_zero_gradients(symmetric: bool, hardest: int) -> None:
    case = random_case(0, unchanged=True)
    images, texts = case.images.requires_grad_(), case.texts.requires_grad_()
    loss = case.loss(replace(PLAIN, symmetric=symmetric, hardest=hardest, temperature=0.01))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert images.grad is not None
    assert texts.grad is not None
    assert torch.equal(images.grad, torch.zeros_like(images))
    assert torch.equal(texts.grad, torch.zeros_like(texts))


@pytest.mark.parametrize("options", OPTIONS[2:6], ids=lambda options: "-".join(map(str, options.values())))
def test_gradients_match_finite_differences(options: dict[str, Any]) -> None:
    training, case = replace(PLAIN, **options), random_case(7)
    images, texts = case.images.clone().requires_grad_(), case.texts.clone().requires_grad_()
    case._replace(images=images, texts=texts).loss(training).backward()  # type: ignore[no-untyped-call]
    for leaf in (images, texts):
        assert leaf.grad is not None
        for i, j in ((0, 0), (1, 3), (3, 5), (len(leaf) - 1, 7)):
            step = torch.zeros_like(leaf, dtype=torch.float64)
            step[i, j] = 1e-6
            moved = [leaf.detach().double() + sign * step for sign in (1, -1)]
            up, down = (
                reference_loss(case._replace(images=x) if leaf is images else case._replace(texts=x), training)
                for x in moved
            )
            assert leaf.grad[i, j].item() == pytest.approx((up - down) / 2e-6, rel=1e-3, abs=1e-5)


def test_low_temperature_does_not_overflow() -> None:
    masks = Masks(torch.eye(4, dtype=torch.bool), ~torch.eye(4, dtype=torch.bool))
    keys = torch.eye(4)
    assert contrastive_loss(keys, keys, masks, Training(temperature=0.001)).item() == 0.0
    assert contrastive_loss(keys, -keys, masks, Training(temperature=0.001)).item() == pytest.approx(1000 + math.log(3))


def test_caption_loss_ignores_padding() -> None:
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 5, 6, 3], [1, 8, 3, 0]])
    targets = [(0, 0, 5), (0, 1, 6), (0, 2, 3), (1, 0, 8), (1, 1, 3)]
    log_probs = logits.double().log_softmax(-1)
    expected = -sum(float(log_probs[row, position, token]) for row, position, token in targets) / len(targets)
    assert caption_loss(logits, ids).item() == pytest.approx(expected, rel=1e-5)
