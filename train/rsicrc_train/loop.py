"""The training loop: steps, validation, and states that a killed run resumes from."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rsicrc.console import Advance, progress
from rsicrc.errors import DataError
from rsicrc.levir import CaptionedPair, read_levir
from rsicrc.vocabulary import Vocabulary
from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.checkpoint import Checkpoint
from rsicrc_train.data import Batch, PairDataset, build_words, collate, no_change_sentences
from rsicrc_train.initialise import initialise_trunk
from rsicrc_train.losses import caption_loss, contrastive_loss, matching
from rsicrc_train.model import RSICRC
from rsicrc_train.recipes import Recipe, Training, load_recipe

BEST, LAST, RECIPE, LOG = "best.pt", "last.pt", "recipe.yaml", "log.csv"
_LOG_COLUMNS = ("step", "split", "loss", "captioning", "contrastive", "learning_rate", "pairs_per_second")


@dataclass
class _Progress:
    """Where a run stands; what a resumed one takes up again."""

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    seconds: float = 0.0


class Run:
    """One training run and its folder: `best.pt`, `last.pt` (to resume from), `recipe.yaml` and `log.csv`."""

    def __init__(
        self, data: Path, folder: Path, recipe: Recipe, *, resume: bool, init: str | None, device: str
    ) -> None:
        """Read the data's captions, build the model and, to resume, take up the run's last state.

        Raises:
            DataError: the data set is unusable, or the folder already holds a run and `resume` is not asked for.
        """
        self.folder = folder
        if resume:
            if not (folder / LAST).exists():
                raise DataError(f"{folder} holds no run that saved a state: start it without --resume")
            recipe = load_recipe(str(folder / RECIPE))
        elif (folder / RECIPE).exists():
            raise DataError(f"{folder} already holds a run: go on with --resume, or name another folder")
        self.recipe, self.training = recipe, recipe.training
        pairs = {split: read_levir(data, split) for split in ("train", "val")}
        self.data = data
        self.no_change = no_change_sentences(pairs["train"])
        words = build_words(sentence for pair in pairs["train"] for sentence in pair.sentences)
        self.vocabulary = Vocabulary.from_words(words, recipe.model.max_len)
        self.fabric = Fabric(accelerator=device, devices=1, precision=self.training.precision)  # type: ignore[arg-type]
        self.fabric.seed_everything(self.training.seed, workers=False, verbose=False)
        self.datasets = {split: self._dataset(pairs[split]) for split in pairs}
        self.steps_per_epoch = len(pairs["train"]) // self.training.batch_size
        if self.steps_per_epoch == 0:
            raise DataError(f"{len(pairs['train'])} training pairs do not fill one batch of {self.training.batch_size}")
        self.total_steps = self.steps_per_epoch * self.training.epochs

        model = RSICRC(recipe.model, len(self.vocabulary))
        if init is not None:
            initialise_trunk(model, init)
            model.encoder.trunk.learn_last()
        optimiser = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=self.training.learning_rate,
            weight_decay=self.training.weight_decay,
        )
        self.progress = _Progress()
        if resume:
            self._restore(model, optimiser)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        self.raw_model = model
        self.model, self.optimiser = self.fabric.setup(model, optimiser)

    def fit(self) -> Path:
        """Train to the last epoch; returns the file of the checkpoint with the lowest validation loss.

        Raises:
            DataError: the loss became NaN or infinite; the last state that was saved is kept.
        """
        began = time.monotonic() - self.progress.seconds
        with progress(self.total_steps, "training", completed=self.progress.step) as advance:
            while self.progress.step < self.total_steps:
                self._epoch(advance, began)
        return self.folder / BEST

    def _epoch(self, advance: Advance, began: float) -> None:
        epoch, done = divmod(self.progress.step, self.steps_per_epoch)
        self.model.train()
        clock, seen = time.monotonic(), 0
        for batch in self._batches("train", epoch, skip=done):
            learning_rate = self._set_learning_rate()
            loss, captioning, contrastive = self._losses(batch)
            if not torch.isfinite(loss):
                raise DataError(
                    f"the loss became {loss.item()} at step {self.progress.step}: "
                    f"go on from {self.folder / LAST} with a lower learning rate"
                )
            self.fabric.backward(loss)
            if self.training.gradient_clip:
                self.fabric.clip_gradients(self.model, self.optimiser, max_norm=self.training.gradient_clip)
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.progress.step += 1
            seen += len(batch.images)
            rate = seen / (time.monotonic() - clock)
            self._log("train", loss, captioning, contrastive, learning_rate, rate)
            advance(note=f"loss {loss.item():.3f}  {rate:.0f} pairs/s")
            end_of_epoch = self.progress.step % self.steps_per_epoch == 0
            if self.progress.step % self.training.save_every == 0 or end_of_epoch:
                self.progress.seconds = time.monotonic() - began
                if end_of_epoch:
                    self._validate(epoch)
                self._save(LAST)

    def _validate(self, epoch: int) -> None:
        self.model.eval()
        sums, count = torch.zeros(3, dtype=torch.float64), 0
        with torch.no_grad():
            for batch in self._batches("val", 0):
                sums += torch.stack(self._losses(batch)).double().cpu() * len(batch.images)
                count += len(batch.images)
        loss, captioning, contrastive = sums / count
        self._log("val", loss, captioning, contrastive)
        better = loss.item() < self.progress.best_loss
        if better:
            self.progress.best_loss, self.progress.best_step = loss.item(), self.progress.step
            self._save(BEST)
        click.echo(
            f"epoch {epoch + 1}/{self.training.epochs}  validation loss {loss:.4f} (captioning {captioning:.4f}, "
            f"contrastive {contrastive:.4f})  {self.progress.seconds:.0f} s{'  best so far' if better else ''}",
            err=True,
        )

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        image, text, logits = self.model(batch.images, batch.ids)
        captioning = caption_loss(logits, batch.ids)
        matches = matching(batch.labels, batch.sentences)
        contrastive = contrastive_loss(image.embedding, text.embedding, matches, self.training.temperature)
        if self.training.symmetric:
            back = contrastive_loss(text.embedding, image.embedding, matches.T, self.training.temperature)
            contrastive = (contrastive + back) / 2
        return captioning + self.training.contrastive_weight * contrastive, captioning, contrastive

    def _batches(self, split: str, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Batches in an order that depends on the seed and the epoch alone; `skip` leaves out the first ones."""
        dataset, size = self.datasets[split], self.training.batch_size
        if split == "train":
            generator = torch.Generator().manual_seed(self.training.seed + 1_000_003 * (epoch + 1))
            order = torch.randperm(len(dataset), generator=generator)[: self.steps_per_epoch * size]
        else:
            order = torch.arange(len(dataset))
        loader: DataLoader[Batch] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=[chunk.tolist() for chunk in torch.split(order, size)[skip:]],
            collate_fn=collate,
            num_workers=self.training.workers,
            generator=torch.Generator(),  # else every pass draws from the global one, and a resumed run once more
        )
        for batch in loader:
            yield Batch(*(tensor.to(self.fabric.device) for tensor in batch))

    def _dataset(self, pairs: list[CaptionedPair]) -> PairDataset:
        return PairDataset(pairs, self.vocabulary, self.recipe.model.preprocessing, self.training.captions)

    def _set_learning_rate(self) -> float:
        rate = learning_rate(self.training, self.progress.step, self.total_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _save(self, name: str) -> None:
        checkpoint = Checkpoint(
            config=self.recipe.model,
            vocabulary=self.vocabulary.words,
            no_change_sentences=self.no_change,
            state_dict=self.raw_model.state_dict(),
            training={
                **asdict(self.training),
                "data": self.data.name,
                "pairs": len(self.datasets["train"]),
                "steps": self.progress.step,
                "seconds": round(self.progress.seconds, 1),
                "validation_loss": self.progress.best_loss,
            },
        )
        if name == LAST:
            state = {"optimiser": self.optimiser.state_dict(), "random": torch.get_rng_state(), **asdict(self.progress)}
            checkpoint = replace(checkpoint, progress=state)
        checkpoints.save(checkpoint, self.folder / name)

    def _restore(self, model: RSICRC, optimiser: torch.optim.Optimizer) -> None:
        last = checkpoints.load(self.folder / LAST)
        if last.vocabulary != self.vocabulary.words:
            raise DataError(
                f"{self.folder} was trained with another vocabulary than {self.data} gives: resume on its data"
            )
        state: dict[str, Any] = dict(last.progress)
        checkpoints.load_tensors(model, last.state_dict)
        optimiser.load_state_dict(state.pop("optimiser"))
        torch.set_rng_state(state.pop("random"))
        self.progress = _Progress(**state)
        _truncate_log(self.folder / LOG, self.progress.step)

    def _log(
        self, split: str, loss: Tensor, captioning: Tensor, contrastive: Tensor, rate: float = 0.0, pairs: float = 0.0
    ) -> None:
        path = self.folder / LOG
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(_LOG_COLUMNS)
            figures = [f"{x:.5g}" for x in (loss.item(), captioning.item(), contrastive.item(), rate, pairs)]
            writer.writerow([self.progress.step, split, *figures])


def learning_rate(training: Training, step: int, total: int) -> float:
    """The learning rate of a step: a linear warm-up, then constant or half a cosine down to 0."""
    warmup = max(1, round(training.warmup * total))
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    if training.schedule == "constant":
        return training.learning_rate
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def parameter_count(model: nn.Module) -> int:
    """How many numbers a model learns or could learn."""
    return sum(parameter.numel() for parameter in model.parameters())


def _truncate_log(path: Path, step: int) -> None:
    """Drop what a killed run logged after the state that is resumed."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(row for row in rows if not row[0].isdigit() or int(row[0]) <= step)
