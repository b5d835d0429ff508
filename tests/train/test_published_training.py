"""Recipe `published` compared with the definitions of the published training, written here in float64.

The definitions are those of Ferrod et al. (2024) and of the published code. Nothing here uses the model or the losses
of this project, except the open_clip trunk, which is not theirs either.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rsicrc.datasets.registry import read_splits
from rsicrc_train.batches import Part
from rsicrc_train.data import PairDataset, collate, count_items, split_vocabulary
from rsicrc_train.negatives import Embedded, SentenceSimilarity, mine_negatives
from rsicrc_train.recipes import Recipe, load_recipe
from rsicrc_train.schedule import learning_rate, steps_per_epoch
from rsicrc_train.trainer import Trainer

PUBLISHED = load_recipe("published").training
TEMPERATURE, WEIGHT = 0.01, 0.5
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)
State = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def data(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pairs; of the changed ones, each has a sentence of another one."""
    folder = shutil.copytree(scenes, tmp_path_factory.mktemp("repeated") / "data")
    file = folder / "LevirCCcaptions.json"
    document = json.loads(file.read_text())
    changed = [image for image in document["images"] if image["changeflag"]]
    for one, other in zip(changed[::2], changed[1::2], strict=False):
        other["sentences"][0] = one["sentences"][0]
    file.write_text(json.dumps(document))
    return folder


def small(recipe: Recipe, **options: Any) -> Recipe:
    training = replace(PUBLISHED, output_dropout=0.0, workers=0, epochs=1, **options)
    return Recipe(replace(recipe.model, dropout=0.0), training)


@pytest.mark.parametrize("size", [4, 32])
@pytest.mark.parametrize("mode", ["none", "eliminate", "attract"])
def test_loss_and_gradient_equal_the_definition(
    mode: Literal["none", "eliminate", "attract"], size: int, data: Path, recipe: Recipe, tmp_path: Path
) -> None:
    options = small(recipe, false_negatives=mode, batch_size=size)
    trainer = Trainer(data, tmp_path / "run", options, resume=False, init=None, device="cpu")
    dataset, model = trainer.datasets["train"], trainer.raw_model.double().train()
    first = dataset.first_items()
    items = [item for item in first if dataset.labels[item] >= 0][: size // 2]
    items += [item + number % 5 for number, item in enumerate(i for i in first if dataset.labels[i] < 0)][: size // 2]
    batch = collate([dataset[item] for item in items])
    losses = trainer.objectives["train"].training_losses(model, Part(items, batch, shared=True))
    losses.loss.backward()  # type: ignore[no-untyped-call]

    trunk = copy.deepcopy(model.encoder.trunk.visual).double().train()
    leaves = {name: tensor.detach().double().requires_grad_() for name, tensor in model.named_parameters()}
    texts = [dataset.texts[numbers[0]] for numbers in batch.sentences.tolist()]
    captioning, contrast = definition(leaves, trunk, batch.images, batch.ids, batch.labels.tolist(), texts, mode)
    loss = captioning + WEIGHT * contrast
    loss.backward()  # type: ignore[no-untyped-call]
    assert losses.captioning.item() == pytest.approx(captioning.item(), rel=1e-5)
    assert losses.contrastive.item() == pytest.approx(contrast.item(), rel=1e-5)
    assert losses.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    for name, leaf in trunk.named_parameters():
        assert leaf.grad is not None
        expected[f"encoder.trunk.visual.{name}"] = leaf.grad
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found.keys() == expected.keys()
    difference = sum(float((found[name].double() - expected[name]).square().sum()) for name in found)
    assert math.sqrt(difference / sum(float(each.square().sum()) for each in expected.values())) < 1e-5


def test_modes_differ_on_the_batches_of_the_test_above(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    losses = set()
    for mode in ("none", "eliminate", "attract"):
        options = small(recipe, false_negatives=mode)
        trainer = Trainer(data, tmp_path / mode, options, resume=False, init=None, device="cpu")
        dataset = trainer.datasets["train"]
        items = [item for item in dataset.first_items() if dataset.labels[item] >= 0][
            :3
        ]  # the first two have one sentence
        part = Part(items, collate([dataset[item] for item in items]), shared=True)
        losses.add(trainer.objectives["train"].training_losses(trainer.raw_model.train(), part).contrastive.item())
    assert len(losses) == 3


def test_epoch_contains_every_caption_once_and_a_last_smaller_batch(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(data, tmp_path / "run", small(recipe, batch_size=7), resume=False, init=None, device="cpu")
    parts = list(trainer.loaders["train"].shuffled(0))
    assert sorted(item for part in parts for item in part.items) == list(range(48 * 5))
    assert [len(part.items) for part in parts] == [7] * 34 + [2]
    assert (trainer.steps_per_epoch, [part.shared for part in parts]) == (35, [True] * 34 + [False])
    dataset = trainer.datasets["train"]
    seen = {(dataset.pair_of[item], dataset.texts[dataset.sentences[item][0]]) for item in range(len(dataset))}
    assert seen == {(number, text) for number, pair in enumerate(dataset.pairs) for text in pair.sentences}
    trainer.model.train()
    assert all(map(math.isfinite, trainer._train_step(parts[-1:])))


@pytest.mark.shared
def test_epoch_of_levir_cc_counts_the_published_items_and_words(shared_folder: Path) -> None:
    splits = read_splits(shared_folder / "data" / "captions")
    assert count_items(splits["train"], PUBLISHED.item) == 34_075
    assert steps_per_epoch(PUBLISHED, 34_075, 1) == 8_519
    words = split_vocabulary(splits, PUBLISHED.vocabulary)
    assert len(words) == 468
    assert set(words) == set(json.loads((shared_folder / "data" / "captions" / "vocab.json").read_text()))
    assert len(split_vocabulary(splits, "train")) == 404


def test_initial_weights_have_the_published_ranges(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(data, tmp_path / "run", small(recipe), resume=False, init=None, device="cpu")
    state = trainer.raw_model.state_dict()
    for name in (
        "encoder.column_embedding.weight",
        "encoder.fusion.0.date.attention.query.weight",
        "encoder.fusion.0.pair.feed_forward.0.weight",
        "encoder.pool.attention.in_proj_weight",
    ):
        rows, columns = state[name].shape
        bound = math.sqrt(6 / (rows + columns))
        assert 0.85 * bound < state[name].abs().max() <= bound, name
        assert state[name].std() == pytest.approx(bound / math.sqrt(3), rel=0.2), name
    assert 0.099 < state["decoder.embedding.weight"].abs().max() <= 0.1


def test_warm_up_starts_at_zero_and_ends_at_the_published_step() -> None:
    total = 8_519 * 50
    assert learning_rate(PUBLISHED, 0, total) == 0
    assert learning_rate(PUBLISHED, 1, total) == pytest.approx(1e-4 / 10_649)
    assert learning_rate(PUBLISHED, 10_648, total) < learning_rate(PUBLISHED, 10_649, total) == 1e-4


def test_validation_is_the_mean_over_batches(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(data, tmp_path / "run", small(recipe, batch_size=16), resume=False, init=None, device="cpu")
    trainer.state.step = trainer.steps_per_epoch
    trainer._validate(0)
    objective, model = trainer.objectives["val"], trainer.raw_model.eval()
    losses = [objective.validation_losses(model, batch).loss for _, batch in trainer.loaders["val"].in_order(0)]
    assert len(losses) == 4  # of 60 captions of 12 pairs, the last one of 12
    assert trainer.state.best_loss == pytest.approx(float(sum(losses)) / 4, rel=1e-6)


def test_text_searches_the_images_and_only_its_label_is_left_out(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    options = small(recipe, mined=2, batch_size=8)
    trainer = Trainer(data, tmp_path / "run", options, resume=False, init=None, device="cpu")
    dataset, objective, model = trainer.datasets["train"], trainer.objectives["train"], trainer.raw_model
    objective.mine_negatives(model, trainer.loaders["train"], 0)
    mined = objective.mined_items()
    assert mined is not None
    assert mined.shape == (240, 2)
    with torch.no_grad():
        images = torch.cat([model.encode_images(batch.images).embedding for _, batch in in_pairs(dataset)])
        for item in range(0, 240, 7):
            label, (number,) = dataset.labels[item], dataset.sentences[item]
            query = model.encode_text(torch.tensor([dataset.ids[number]])).embedding
            cosines = functional.cosine_similarity(query, images)
            for chosen in mined[item].tolist():
                assert dataset.labels[chosen] != label
                assert chosen % 5 == item % 5  # the caption at the same position
            others = [n for n in range(48) if (n if dataset.pairs[n].changed else -1) != label]
            best = sorted((float(cosines[n]) for n in others), reverse=True)[:2]
            assert [float(cosines[chosen // 5]) for chosen in mined[item].tolist()] == pytest.approx(best, abs=1e-5)
    part = next(iter(trainer.loaders["train"].shuffled(0, mined=mined)))
    assert part.items[8:] == mined[part.items[:8]].flatten().tolist()
    assert part.batch.images.shape[0] == len(part.batch.ids) == 24  # mined pairs are queries and captions, too
    trainer.model.train()
    assert all(map(math.isfinite, trainer._train_step([part])))


def test_false_negatives_are_mined_by_text_and_not_by_image() -> None:
    embeddings = torch.eye(3)
    labels, sentences = torch.tensor([0, 1, 2]), torch.tensor([[5], [5], [6]])
    both = Embedded(embeddings, labels, sentences)
    near = Embedded(torch.tensor([[1.0, 0.9, 0.1]]), labels[:1], sentences[:1])
    assert mine_negatives(near, both, 1, "none", SentenceSimilarity()).tolist() == [[1]]
    assert mine_negatives(near, both, 1, "attract", SentenceSimilarity()).tolist() == [[2]]


def test_sentences_are_compared_with_their_period(
    data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def embed(texts: list[str], *_: object) -> Any:
        seen.extend(texts)
        return np.eye(len(texts), 8, dtype=np.float32)

    monkeypatch.setattr("rsicrc_train.objective.embed_sentences", embed)
    Trainer(data, tmp_path / "run", small(recipe, threshold=0.9), resume=False, init=None, device="cpu")
    assert seen
    assert all(text.endswith(" .") for text in seen)


def in_pairs(dataset: PairDataset) -> list[tuple[int, Any]]:
    return [(item, collate([dataset[item]])) for item in dataset.first_items()]


def definition(
    state: State, trunk: nn.Module, images: Tensor, ids: Tensor, labels: list[int], texts: list[str], mode: str
) -> tuple[Tensor, Tensor]:
    """Compute captioning and contrastive loss of pairs with one sentence each, without dropout."""
    embedding, visual = encode_images(state, trunk, images)
    words = state["decoder.embedding.weight"]
    hidden = words[ids] + sinusoids(ids.shape[1], words.shape[1])
    hidden = decoder_layer(state, "decoder.unimodal.0.", hidden, None)
    end = (ids != 0).sum(dim=1) - 1
    sentence = torch.stack([hidden[row, position] for row, position in enumerate(end.tolist())])
    logits = decoder_layer(state, "decoder.multimodal.0.", hidden, visual) @ words.T
    log_probs = logits.log_softmax(-1)
    targets = [(row, position) for row in range(len(ids)) for position in range(int(end[row]))]
    captioning = -sum(log_probs[row, at, ids[row, at + 1]] for row, at in targets) / len(targets)

    cosines = unit(embedding) @ unit(sentence).T
    terms = []
    for query, label in enumerate(labels):
        kinds = []
        for key, other in enumerate(labels):
            alike = texts[query] == texts[key]
            if label == other:
                kinds.append("positive")
            elif mode != "none" and alike:
                kinds.append("positive" if mode == "attract" else "left out")
            else:
                kinds.append("negative")
        scores = cosines[query] / TEMPERATURE
        negatives = [scores[key] for key, kind in enumerate(kinds) if kind == "negative"]
        for key, kind in enumerate(kinds):
            if kind == "positive":
                terms.append(torch.stack([scores[key], *negatives]).logsumexp(0) - scores[key])
    return torch.as_tensor(captioning), torch.stack(terms).mean()


def encode_images(state: State, trunk: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return embeddings [B, d] and visual tokens [B, S, d]; the trunk runs once for each date."""
    dates = []
    for date in (0, 1):
        pixels = ((images[:, date].double() / 255 - MEAN) / STD).permute(0, 3, 1, 2)
        maps = trunk(pixels)
        if "encoder.proj.weight" in state:
            maps = functional.conv2d(maps, state["encoder.proj.weight"], state["encoder.proj.bias"])
        dates.append(maps)
    batch, width, height, _ = dates[0].shape
    columns, rows = state["encoder.column_embedding.weight"], state["encoder.row_embedding.weight"]
    position = torch.stack([torch.cat([columns[w], rows[h]]) for h in range(height) for w in range(height)])
    first = [maps.flatten(2).transpose(1, 2) + position for maps in dates]
    tokens = first
    layer = 0
    while f"encoder.fusion.{layer}.date.attention.query.weight" in state:
        name = f"encoder.fusion.{layer}."
        tokens = [fusion_block(state, name + "date.", date) + date for date in tokens]
        both = fusion_block(state, name + "pair.", torch.cat(tokens, dim=-1))
        tokens = [both[..., :width] + first[0], both[..., width:] + first[1]]
        layer += 1
    before, after = (date.reshape(batch, height, height, width).transpose(-1, 1) for date in tokens)
    dot = (before * after).sum(1)
    cosine = dot / (before.square().sum(1).sqrt() * after.square().sum(1).sqrt())
    joined = torch.cat([before, after], dim=1) + cosine.unsqueeze(1)
    merged = functional.conv2d(joined, state["encoder.merge.weight"], state["encoder.merge.bias"])
    left = merged
    for number, padding in ((0, 0), (3, 1), (6, 0)):
        name = f"encoder.residual.left.{number}."
        left = functional.conv2d(left, state[name + "weight"], state[name + "bias"], padding=padding)
        left = batch_norm(left, state, f"encoder.residual.left.{number + 1}.")
        left = left.relu() if number < 6 else left
    visual = (left + merged).relu().flatten(2).transpose(1, 2)
    query = state["encoder.pool.query"].expand(batch, 1, -1)
    pooled = attention(state, "encoder.pool.attention.", query, visual, HEADS)[:, 0]
    return layer_norm(state, "encoder.pool.norm.", pooled), visual


HEADS = 4


def fusion_block(state: State, name: str, x: Tensor) -> Tensor:
    query = x @ state[name + "attention.query.weight"].T
    key = x @ state[name + "attention.key.weight"].T  # also the values
    attended = attend(query, key, key, HEADS, (query.shape[-1] // HEADS) ** -0.5)
    out = attended @ state[name + "attention.out.weight"].T + state[name + "attention.out.bias"]
    x = layer_norm(state, name + "attention_norm.", out + x)
    hidden = (x @ state[name + "feed_forward.0.weight"].T + state[name + "feed_forward.0.bias"]).relu()
    out = hidden @ state[name + "feed_forward.3.weight"].T + state[name + "feed_forward.3.bias"]
    return layer_norm(state, name + "feed_forward_norm.", out + x)


def decoder_layer(state: State, name: str, x: Tensor, visual: Tensor | None) -> Tensor:
    x = layer_norm(state, name + "self_norm.", x + attention(state, name + "self_attention.", x, x, HEADS, causal=True))
    if visual is not None:
        attended = attention(state, name + "cross_attention.", x, visual, HEADS)
        x = layer_norm(state, name + "cross_norm.", x + attended)
    hidden = x @ state[name + "feed_forward.0.weight"].T + state[name + "feed_forward.0.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    out = hidden @ state[name + "feed_forward.3.weight"].T + state[name + "feed_forward.3.bias"]
    return layer_norm(state, name + "feed_forward_norm.", x + out)


def attention(state: State, name: str, x: Tensor, memory: Tensor, heads: int, *, causal: bool = False) -> Tensor:
    weights, biases = state[name + "in_proj_weight"].chunk(3), state[name + "in_proj_bias"].chunk(3)
    query = x @ weights[0].T + biases[0]
    key, value = (memory @ weights[part].T + biases[part] for part in (1, 2))
    attended = attend(query, key, value, heads, (query.shape[-1] // heads) ** -0.5, causal=causal)
    return attended @ state[name + "out_proj.weight"].T + state[name + "out_proj.bias"]


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float, *, causal: bool = False) -> Tensor:
    results = []
    for q, k, v in zip(*(x.chunk(heads, dim=-1) for x in (query, key, value)), strict=True):
        scores = scale * q @ k.transpose(-1, -2)
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
        results.append(scores.softmax(-1) @ v)
    return torch.cat(results, dim=-1)


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[name + "weight"] + state[name + "bias"]


def batch_norm(x: Tensor, state: State, name: str) -> Tensor:
    centered = x - x.mean((0, 2, 3), keepdim=True)
    scaled = centered / (centered.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    return scaled * state[name + "weight"][:, None, None] + state[name + "bias"][:, None, None]


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def sinusoids(length: int, width: int) -> Tensor:
    table = torch.zeros(length, width, dtype=torch.float64)
    for position in range(length):
        for channel in range(0, width, 2):
            angle = position / 10000 ** (channel / width)
            table[position, channel], table[position, channel + 1] = math.sin(angle), math.cos(angle)
    return table
