"""Rates of the data loader and of the training in pairs per second: is reading the bottleneck?

    python studies/loading.py [--data DATA] [--recipe tiny] [--pairs 512] [--rounds 3] [--threads 1]

One process run measures both in turn, round after round, so that other work on the machine meets both alike; each
figure is the best of the rounds. Loading is what `fit` does (start the workers, decode, resize, collate, hand over)
with nobody to use it; training is forward, captioning loss, backward and step on batches that are in memory already.
Processor time is that of this process, where it does the work itself: it says what a core can do even when it is not
given a whole one. Without DATA, scenes are generated.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from rsicrc.datasets.registry import read_split
from rsicrc.text.vocabulary import Vocabulary
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
    say(f"{len(plain)} pairs, recipe {arguments.recipe}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}\n")
    say("| what | pairs/s | × training | pairs per second of processor time | × training |\n|---|---:|---:|---:|---:|")
    train = rates["training"]
    for name, (rate, own) in rates.items():
        processor = f"{own:.1f} | {own / train[1]:.1f}" if own else "– | –"
        say(f"| {name} | {rate:.1f} | {rate / train[0]:.1f} | {processor} |")


def _measure(
    recipe: Recipe, words: int, plain: PairDataset, augmented: PairDataset, rounds: int
) -> dict[str, tuple[float, float]]:
    """Of each thing the best pairs per second, and per second of this process's processor time (0: others work)."""
    batches = list(itertools.islice(_batches(plain, recipe, workers=0), STEPS))
    step = _Step(recipe, words)

    def train() -> int:
        for batch in batches:
            step(batch)
        return sum(len(batch.images) for batch in batches)

    def load(dataset: PairDataset, workers: int) -> int:
        return sum(len(batch.images) for batch in _batches(dataset, recipe, workers))

    things: dict[str, tuple[Callable[[], int], bool]] = {
        "training": (train, True),
        "loading, no worker": (lambda: load(plain, 0), True),
        "loading, 1 worker": (lambda: load(plain, 1), False),
        "loading, 2 workers": (lambda: load(plain, 2), False),
        "loading and augmenting, no worker": (lambda: load(augmented, 0), True),
        "loading and augmenting, 2 workers": (lambda: load(augmented, 2), False),
    }
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, (thing, alone) in things.items():
            began, used = time.perf_counter(), time.process_time()
            pairs = thing()
            wall, used = time.perf_counter() - began, time.process_time() - used
            rate, own = best.get(name, (0.0, 0.0))
            best[name] = (max(rate, pairs / wall), max(own, pairs / used) if alone else 0.0)
    return best


class _Step:
    """One step of training on a batch in memory."""

    def __init__(self, recipe: Recipe, words: int) -> None:
        self.model = RSICRC(recipe.model, words).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.mixed = recipe.training.precision == "bf16-mixed"

    def __call__(self, batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            image, text, logits = self.model(batch.images, batch.ids)
            loss = caption_loss(logits, batch.ids) + image.embedding.square().mean() + text.embedding.square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


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


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
