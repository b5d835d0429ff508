"""The training loop: steps, validation, and states that a killed run resumes from."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from rsicrc.cli.console import progress
from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.datasets.registry import read_split
from rsicrc.errors import DataError
from rsicrc.progress import ProgressCallback, ignore_progress
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint as checkpoints, distributed, run_log
from rsicrc_train.augment import Augmentation
from rsicrc_train.batches import Batches
from rsicrc_train.checkpoint import Checkpoint
from rsicrc_train.data import Batch, PairDataset, build_words, no_change_sentences
from rsicrc_train.ema import Average
from rsicrc_train.model import RSICRC
from rsicrc_train.negatives import SentenceSimilarity
from rsicrc_train.objective import Objective
from rsicrc_train.pretrained import initialize_trunk
from rsicrc_train.recipes import Recipe, load_recipe
from rsicrc_train.schedule import learning_rate, steps_per_epoch
from rsicrc_train.sentence_embeddings import embed_sentences

BEST, LAST, RECIPE = "best.pt", "last.pt", "recipe.yaml"
LOG, CURVES, STARTS = "log.csv", "curves.png", "starts.json"
_DRAW_EVERY = 60.0  # seconds between two pictures of the curves


@dataclass
class _Progress:
    """Where a run stands; what a resumed one takes up again."""

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    seconds: float = 0.0


class Run:
    """One training run and its folder.

    The folder holds `best.pt`, `last.pt` (to resume from), `recipe.yaml`, `log.csv`, `curves.png` and `starts.json`.
    """

    def __init__(
        self,
        data: Path,
        folder: Path,
        recipe: Recipe,
        *,
        resume: bool,
        init: str | None,
        device: str,
        devices: int = 1,
        nodes: int = 1,
    ) -> None:
        """Read the data's captions, build the model and, to resume, take up the run's last state.

        Args:
            data: the data set.
            folder: the run's folder.
            recipe: the model and its training; to resume, the folder's own is taken instead.
            resume: go on with the run in the folder.
            init: weights that the trunk starts from, as for `initialize_trunk`.
            device: `auto`, `cpu` or `cuda`.
            devices: how many of them on each machine train together, one process each.
            nodes: machines that train together.

        Raises:
            DataError: the data set is unusable or another one than the resumed run's, or the folder already holds a
                run and `resume` is not asked for.
            CheckpointError: `init` or the last state does not fit the model.
        """
        self.data, self.folder = data, folder
        self.recipe = _checked_recipe(folder, recipe, resume=resume, init=init)
        self.training = self.recipe.training
        pairs = {split: read_split(data, split) for split in ("train", "val")}
        self.no_change = no_change_sentences(pairs["train"])
        words = build_words(sentence for pair in pairs["train"] for sentence in pair.sentences)
        self.vocabulary = Vocabulary.from_words(words, self.recipe.model.max_len)
        self.steps_per_epoch = steps_per_epoch(self.training, len(pairs["train"]), devices * nodes)
        self.total_steps = self.steps_per_epoch * self.training.epochs
        augmentation = {"train": self.training.augmentation, "val": Augmentation()}
        self.datasets = {split: self._dataset(pairs[split], augmentation[split]) for split in pairs}
        last = self._last_state() if resume else None

        self.fabric = distributed.launch(device, devices, nodes, self.training.precision)
        self.batches = {split: Batches(self.fabric, dataset, self.training) for split, dataset in self.datasets.items()}
        self.objectives = {
            split: Objective(self.fabric, dataset, self.training, self._alike(dataset))
            for split, dataset in self.datasets.items()
        }
        self.fabric.seed_everything(self.training.seed, workers=False, verbose=False)
        self.raw_model = self._build(init)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.raw_model.parameters() if parameter.requires_grad],
            lr=self.training.learning_rate,
            weight_decay=self.training.weight_decay,
        )
        self.model, self.optimizer = self.fabric.setup(self.raw_model, optimizer)
        self.average = Average(self.raw_model, self.training.ema) if self.training.ema else None
        if self.fabric.world_size > 1:
            distributed.share_statistics(self.raw_model)
            # The weights are equal everywhere; the dropout shall differ.
            torch.manual_seed(self.training.seed + 1_000_003 * self.fabric.global_rank)
        self.progress = _Progress()
        if last is not None:
            self._restore(last)
        self.fabric.barrier()  # all processes have looked at the folder before the first one writes to it
        self.log: run_log.Log | None = None
        distributed.lead(self.fabric, self._open_records)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the run's folder and speaks for all."""
        return self.fabric.is_global_zero

    def fit(self) -> Path:
        """Train to the last epoch; returns the file of the checkpoint with the lowest validation loss.

        Raises:
            DataError: the loss or a weight became NaN or infinite; the last state that was saved is kept.
            OSError: a checkpoint cannot be written, for example because the disk is full; the one before is kept.
        """
        began = drawn = time.monotonic()
        began -= self.progress.seconds
        bar = progress(self.total_steps, "training", completed=self.progress.step)
        with bar if self.leads else nullcontext(ignore_progress) as advance:
            while self.progress.step < self.total_steps:
                self._epoch(advance, began)
                if self.leads and time.monotonic() - drawn > _DRAW_EVERY:
                    run_log.draw_curves(self.folder / LOG, self.folder / CURVES)
                    drawn = time.monotonic()
        if self.leads:
            run_log.draw_curves(self.folder / LOG, self.folder / CURVES)
        return self.folder / BEST

    def _epoch(self, advance: ProgressCallback, began: float) -> None:
        epoch, done = divmod(self.progress.step, self.steps_per_epoch)
        if self.training.mined and done == 0:
            advance(0, note="mining hard negatives")
            self.objectives["train"].mine(self.raw_model, self.batches["train"], epoch)
        self.model.train()
        if self.training.trunk == "frozen":
            self.raw_model.encoder.trunk.eval()  # the statistics of its BatchNorm stay too
        clock, seen = time.monotonic(), 0
        batches = self.batches["train"].shares(epoch, skip=done * self.training.accumulate)
        while group := list(islice(batches, self.training.accumulate)):
            rate = self._set_learning_rate()
            figures = self._step(group)
            self.progress.step += 1
            if self.average is not None:
                self.average.follow(self.raw_model, self.progress.step)
            seen += self.training.batch_size * len(group)
            speed = seen / (time.monotonic() - clock)
            if self.log is not None:
                self.log.write(self.progress.step, "train", figures, rate, speed)
            advance(note=f"loss {figures[0]:.3f}  rate {rate:.1e}  {2 * speed:.0f} images/s")
            end_of_epoch = self.progress.step % self.steps_per_epoch == 0
            if self.progress.step % self.training.save_every == 0 or end_of_epoch:
                self.progress.seconds = time.monotonic() - began
                if end_of_epoch:
                    self._validate(epoch)
                self._save(LAST)

    def _step(self, group: list[tuple[list[int], Batch]]) -> list[float]:
        """Learn from the batches of one step; returns the three losses, means over the batches and processes."""
        figures = []
        for number, (chosen, batch) in enumerate(group, start=1):
            more_to_come = self.fabric.world_size > 1 and number < len(group)
            with self.fabric.no_backward_sync(self.model, enabled=more_to_come):
                losses = self.objectives["train"].of_share(self.model, chosen, batch)
                figures.append(distributed.mean(self.fabric, torch.stack(losses).detach()))
                if not torch.isfinite(figures[-1]).all():
                    pairs = self.datasets["train"].pairs
                    names = ", ".join(pairs[pair].before.name for pair in chosen[:4])
                    more = ", …" if len(chosen) > 4 else ""
                    raise self._diverged(f"the loss became {figures[-1][0].item()}", f", on the pairs {names}{more}")
                self.fabric.backward(losses.loss / len(group))
        if self.training.gradient_clip:
            # In fp16 the gradients overflow now and then, and Fabric skips the step; a lasting NaN reaches the loss.
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.training.gradient_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        means: list[float] = torch.stack(figures).mean(dim=0).tolist()
        return means

    def _validate(self, epoch: int) -> None:
        model = (self.raw_model if self.average is None else self.average.model).eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.fabric.device)
        for _, batch in self.batches["val"].turns(epoch):
            losses = self.objectives["val"].of_whole(model, batch)
            sums[:3] += torch.stack(losses).double() * len(batch.images)
            sums[3] += len(batch.images)
        *totals, count = distributed.total(self.fabric, sums).tolist()
        loss, captioning, contrastive = figures = [total / count for total in totals]
        if self.log is not None:
            self.log.write(self.progress.step, "val", figures, 0.0, 0.0)
        better = loss < self.progress.best_loss
        if better:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            self._save(BEST)
        if self.leads:
            click.echo(
                f"epoch {epoch + 1}/{self.training.epochs}  validation loss {loss:.4f} (captioning {captioning:.4f}, "
                f"contrastive {contrastive:.4f})  {self.progress.seconds:.0f} s{'  best so far' if better else ''}",
                err=True,
            )

    def _build(self, init: str | None) -> RSICRC:
        model = RSICRC(self.recipe.model, len(self.vocabulary))
        if init is not None:
            initialize_trunk(model, init)
        if self.training.trunk in ("last", "frozen"):
            model.encoder.trunk.learn_last(0 if self.training.trunk == "frozen" else None)
        return model

    def _alike(self, dataset: PairDataset) -> SentenceSimilarity:
        """How the sentences of a split are compared; the first process fills the cache for the others."""
        if self.training.false_negatives == "none" or self.training.threshold == 1:
            return SentenceSimilarity()
        if not self.leads:
            self.fabric.barrier()
        device = self.fabric.device
        meanings = embed_sentences(dataset.texts, self.training.sentence_encoder, str(device))
        if self.leads:
            self.fabric.barrier()
        return SentenceSimilarity(torch.from_numpy(meanings).to(device), self.training.threshold)

    def _dataset(self, pairs: list[CaptionedPair], augmentation: Augmentation) -> PairDataset:
        preprocessing, captions = self.recipe.model.preprocessing, self.training.captions
        return PairDataset(pairs, self.vocabulary, preprocessing, captions, augmentation)

    def _set_learning_rate(self) -> float:
        rate = learning_rate(self.training, self.progress.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _diverged(self, what: str, where: str = "") -> DataError:
        epoch, step = divmod(self.progress.step, self.steps_per_epoch)
        last = self.folder / LAST
        return DataError(
            f"{what} at step {self.progress.step} (epoch {epoch + 1}, step {step + 1} of it{where}): "
            + (f"{last} keeps the last good state; " if last.exists() else "")
            + f"take a lower learning rate, by learning_rate in {self.folder / RECIPE} and --resume, or afresh"
        )

    def _save(self, name: str) -> None:
        """Write the state to resume from, or the best model. All processes call this; the first one writes."""
        model = self.raw_model if name == LAST or self.average is None else self.average.model
        tensors = model.state_dict()
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise self._diverged("a weight became NaN or infinite")
        checkpoint = Checkpoint(
            config=self.recipe.model,
            vocabulary=self.vocabulary.words,
            no_change_sentences=self.no_change,
            state_dict=tensors,
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
            checkpoint = replace(checkpoint, progress=self._state())
        distributed.lead(self.fabric, lambda: checkpoints.save(checkpoint, self.folder / name))

    def _state(self) -> dict[str, Any]:
        """All beside the weights that a resumed run takes up; one random state for each process."""
        device = self.fabric.device
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "random": distributed.gather(self.fabric, torch.get_rng_state().unsqueeze(0).to(device)).cpu(),
            "mined": self.objectives["train"].mined,
            "average": None if self.average is None else self.average.model.state_dict(),
            **asdict(self.progress),
        }
        if device.type == "cuda":
            own = torch.cuda.get_rng_state(device).unsqueeze(0).to(device)
            state["cuda_random"] = distributed.gather(self.fabric, own).cpu()
        return state

    def _last_state(self) -> Checkpoint:
        last = checkpoints.load(self.folder / LAST)
        if last.vocabulary != self.vocabulary.words:
            raise DataError(
                f"{self.folder} was trained with another vocabulary than {self.data} gives: resume on its data"
            )
        return last

    def _restore(self, last: Checkpoint) -> None:
        state: dict[str, Any] = dict(last.progress)
        checkpoints.load_tensors(self.raw_model, last.state_dict)
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.objectives["train"].mined = state["mined"]
        if self.average is not None:
            checkpoints.load_tensors(self.average.model, state["average"])
        rank, device = self.fabric.global_rank, self.fabric.device
        if rank < len(state["random"]):  # of more processes than before, the new ones go on with a state of their own
            torch.set_rng_state(state["random"][rank].clone())  # a view would be taken for the whole
            if device.type == "cuda" and "cuda_random" in state:
                torch.cuda.set_rng_state(state["cuda_random"][rank].clone(), device)
        self.progress = _Progress(**{name: state[name] for name in asdict(_Progress())})

    def _open_records(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.progress.step:
            (self.folder / RECIPE).write_text(self.recipe.to_yaml(), encoding="utf-8")
        step, fabric = self.progress.step, self.fabric
        run_log.describe_start(self.folder / STARTS, step, fabric.world_size, _name(fabric.device))
        self.log = run_log.Log(self.folder / LOG, step, tensorboard=self.training.tensorboard)


def parameter_count(model: nn.Module) -> int:
    """How many numbers a model learns or could learn."""
    return sum(parameter.numel() for parameter in model.parameters())


def _checked_recipe(folder: Path, recipe: Recipe, *, resume: bool, init: str | None) -> Recipe:
    """The recipe of a new run, with `auto` resolved, or that of the run to resume."""
    if resume:
        if not (folder / LAST).exists():
            raise DataError(f"{folder} holds no run that saved a state: start it without --resume")
        return load_recipe(str(folder / RECIPE))
    if (folder / LAST).exists() or (folder / BEST).exists():  # what was killed before it saved anything is no run
        raise DataError(f"{folder} already holds a run: go on with --resume, or name another folder")
    if recipe.training.trunk != "auto":
        return recipe
    return replace(recipe, training=replace(recipe.training, trunk="all" if init is None else "last"))


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
