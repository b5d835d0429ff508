"""Whether reading is the bottleneck: pairs a second that the data loader delivers by itself, and that training takes.

    python benchmarks/loading.py [--data DATA] [--recipe tiny] [--pairs 512] [--rounds 3] [--threads 1]

One process run measures both in turn, round after round, so that other work on the machine meets both alike; each rate
is the best of the rounds. Loading is what `fit` does (start the workers, decode, resize, collate, hand over) with
nobody to use it; training is forward, captioning loss, backward and step on batches that are in memory already.
Without DATA, scenes are generated.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from rsicrc.datasets import read_split
from rsicrc.vocabulary import Vocabulary
from rsicrc_train.augment import Augmentation
from rsicrc_train.data import Batch, PairDataset, build_words, collate
from rsicrc_train.losses import caption_loss
from rsicrc_train.model import RSICRC
from rsicrc_train.recipes import Recipe, load_recipe
from rsicrc_train.synth import generate

STEPS = 4  # of training in a round; more would only say the same


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--pairs", type=int, default=512, help="pairs that are loaded in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of a training step")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = load_recipe(arguments.recipe)
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            data = Path(folder) / "scenes"
            generate(data, arguments.pairs, seed=1, splits={"train": 1.0})
        pairs = read_split(data, "train")[: arguments.pairs]
        words = build_words(sentence for pair in pairs for sentence in pair.sentences)
        vocabulary = Vocabulary.from_words(words, recipe.model.max_len)
        plain, augmented = (
            PairDataset(pairs, vocabulary, recipe.model.preprocessing, recipe.training.captions, augmentation)
            for augmentation in (None, Augmentation(turns=True, jitter=0.5, swap=True))
        )
        rates = _measure(recipe, len(words), plain, augmented, arguments.rounds)
    train = rates.pop("training")
    say(f"{len(plain)} pairs, recipe {arguments.recipe}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}\n")
    say(f"| what | pairs/s | × training |\n|---|---:|---:|\n| training | {train:.1f} | 1 |")
    for name, rate in rates.items():
        say(f"| {name} | {rate:.0f} | {rate / train:.1f} |")


def _measure(recipe: Recipe, words: int, plain: PairDataset, augmented: PairDataset, rounds: int) -> dict[str, float]:
    """The best rate of each thing over the rounds, in pairs a second."""
    batches = list(itertools.islice(_batches(plain, recipe, workers=0), STEPS))
    step = _Step(recipe, words)
    rates: dict[str, float] = {}
    for _ in range(rounds):
        began = time.perf_counter()
        for batch in batches:
            step(batch)
        _keep(rates, "training", sum(len(batch.images) for batch in batches) / (time.perf_counter() - began))
        for name, dataset, workers in (
            ("loading, 1 worker", plain, 1),
            ("loading, 2 workers", plain, 2),
            ("loading and augmenting, 2 workers", augmented, 2),
        ):
            loader = _batches(dataset, recipe, workers)
            began = time.perf_counter()
            seen = sum(len(batch.images) for batch in loader)
            _keep(rates, name, seen / (time.perf_counter() - began))
    return rates


class _Step:
    """One step of training on a batch in memory."""

    def __init__(self, recipe: Recipe, words: int) -> None:
        self.model = RSICRC(recipe.model, words).train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.mixed = recipe.training.precision == "bf16-mixed"

    def __call__(self, batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            image, text, logits = self.model(batch.images, batch.ids)
            loss = caption_loss(logits, batch.ids) + image.embedding.square().mean() + text.embedding.square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def _batches(dataset: PairDataset, recipe: Recipe, workers: int) -> Iterator[Batch]:
    size = recipe.training.batch_size
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=[chunk.tolist() for chunk in torch.split(order, size)],
        collate_fn=collate,
        num_workers=workers,
    )
    return iter(loader)


def _keep(rates: dict[str, float], name: str, rate: float) -> None:
    rates[name] = max(rate, rates.get(name, 0.0))


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
