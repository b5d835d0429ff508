"""Data loading compared with training: pairs per second that the data loader delivers, and that training takes.

    python studies/loading.py [--data DATA] [--recipe tiny] [--pairs 512] [--rounds 3] [--threads 1]

One process measures both in turn, so that other programs on the machine affect both alike; each rate is the best of the
rounds. Loading includes the start of the workers, decoding, resizing and collating; training is forward, captioning
loss, backward and optimizer step on batches in memory. Processor time is that of this process, and is not measured for
loading with workers. Without DATA, scenes are generated.
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
from rsicrc_train.data import PairDataset, TrainingBatch, build_vocabulary, collate
from rsicrc_train.losses import caption_loss
from rsicrc_train.model import RSICRC
from rsicrc_train.recipes import Recipe, load_recipe
from rsicrc_train.synth import generate

STEPS = 4  # of training in a round


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
        data = arguments.data or Path(folder) / "scenes"
        if arguments.data is None:
            generate(data, arguments.pairs, seed=1, splits={"train": 1.0})
        pairs = read_split(data, "train")[: arguments.pairs]
        words = build_vocabulary(sentence for pair in pairs for sentence in pair.sentences)
        vocabulary = Vocabulary.from_words(words, recipe.model.max_len)
        plain, augmented = (
            PairDataset(pairs, vocabulary, recipe.model.preprocessing, recipe.training.captions, augmentation)
            for augmentation in (None, Augmentation(turns=True, jitter=0.5, swap=True))
        )
        batches = list(itertools.islice(_batches(plain, recipe, 0), STEPS))
        train = _training(recipe, len(words))
        ways: dict[str, Callable[[], int]] = {"training": lambda: sum(map(train, batches))}
        for title, dataset, workers in (("loading", plain, (0, 1, 2)), ("loading and augmenting", augmented, (0, 2))):
            for count in workers:
                name = f"{title}, {count or 'no'} worker{'s' if count > 1 else ''}"
                ways[name] = lambda dataset=dataset, count=count: sum(  # type: ignore[misc]
                    len(batch.images) for batch in _batches(dataset, recipe, count)
                )
        rates = dict.fromkeys(ways, (0.0, 0.0))
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                start, spent = time.perf_counter(), time.process_time()
                done = way()
                rate, own = done / (time.perf_counter() - start), done / (time.process_time() - spent)
                rates[name] = max(rates[name][0], rate), max(rates[name][1], own)
    load = f"load {os.getloadavg()[0]:.1f}"
    lines = [f"{len(plain)} pairs, recipe {arguments.recipe}, {arguments.threads} threads, {load}\n"]
    lines += [
        "| task | pairs/s | × training | pairs per second of processor time | × training |\n|---|---:|---:|---:|---:|"
    ]
    first = rates["training"]
    for name, (rate, own) in rates.items():
        processor = "– | –" if name.endswith(("1 worker", "2 workers")) else f"{own:.1f} | {own / first[1]:.1f}"
        lines.append(f"| {name} | {rate:.1f} | {rate / first[0]:.1f} | {processor} |")
    sys.stdout.write("\n".join(lines) + "\n")


def _training(recipe: Recipe, words: int) -> Callable[[TrainingBatch], int]:
    """Return a function that trains on a batch, and returns its number of pairs."""
    model = RSICRC(recipe.model, words).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    is_mixed = recipe.training.precision == "bf16-mixed"

    def train(batch: TrainingBatch) -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            image, text, logits = model(batch.images, batch.ids)
            loss = caption_loss(logits, batch.ids) + image.embedding.square().mean() + text.embedding.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return len(batch.images)

    return train


def _batches(dataset: PairDataset, recipe: Recipe, workers: int) -> Iterator[TrainingBatch]:
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    batches = [part.tolist() for part in torch.split(order, recipe.training.batch_size)]
    loader: DataLoader[TrainingBatch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
    )
    return iter(loader)


if __name__ == "__main__":
    main()
