"""Tests of the masks of negatives and of the mining of hard negatives."""

from __future__ import annotations

import torch

from rsicrc_train.negatives import Embedded, SentenceSimilarity, contrast_masks, mine_negatives


def test_contrast_masks_of_the_three_modes() -> None:
    labels = torch.tensor([7, -1, 9, -1])  # two changed pairs, two unchanged ones
    sentences = torch.tensor([[0, 1], [2, 3], [4, 0], [2, 3]])  # the changed pairs share sentence 0
    others, other_labels = sentences.flatten(), labels.repeat_interleave(2)
    own = torch.tensor(
        [[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1]]
    ).bool()
    same_text = own.clone()
    same_text[0, 5] = same_text[2, 0] = True
    for mode, positives, negatives in (
        ("none", own, ~own),
        ("eliminate", own, ~same_text),
        ("attract", same_text, ~same_text),
    ):
        masks = contrast_masks(labels, sentences, other_labels, others, mode, SentenceSimilarity())  # type: ignore[arg-type]
        assert torch.equal(masks.positives, positives)
        assert torch.equal(masks.negatives, negatives)


def test_similarity_threshold_tolerates_rounding() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.9999998, 0.0], [0.6, 0.8]])
    one, others = torch.tensor([[0]]), torch.tensor([1, 2])
    assert SentenceSimilarity(embeddings, 1.0)(one, others).tolist() == [[True, False]]
    assert SentenceSimilarity(embeddings, 0.6)(one, others).tolist() == [[True, True]]
    assert SentenceSimilarity(embeddings, 0.61)(one, others).tolist() == [[True, False]]


def test_mined_pairs_are_the_most_similar_negatives() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs, count = 30, 3
    embeddings = torch.randn(pairs, 4, generator=generator)
    labels = torch.tensor([number if number % 3 else -1 for number in range(pairs)])
    sentences = torch.randint(12, (pairs, 2), generator=generator)
    for mode in ("none", "attract"):
        queries = Embedded(embeddings, labels, sentences)
        found = mine_negatives(queries, queries, count, mode, SentenceSimilarity(), chunk=7)
        for pair in range(pairs):
            negatives = [
                other
                for other in range(pairs)
                if labels[other] != labels[pair] and (mode == "none" or sentences[other, 0] not in sentences[pair])
            ]
            cosines = torch.cosine_similarity(embeddings[pair], embeddings[negatives], dim=-1)
            nearest = [negatives[index] for index in cosines.argsort(descending=True)[:count]]
            assert found[pair].tolist() == nearest
