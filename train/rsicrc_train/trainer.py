"""Training loop: steps, validation, and checkpoints from which an interrupted run resumes exactly."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.datasets.registry import read_split, read_splits
from rsicrc.errors import CheckpointError, DataError
from rsicrc.progress import ProgressCallback, ignore_progress
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint as checkpoints, distributed
from rsicrc_train.augment import Augmentation
from rsicrc_train.batches import BatchLoader, Part
from rsicrc_train.calibration import CHANGE_CALIBRATION, calibrate_change
from rsicrc_train.checkpoint import Checkpoint
from rsicrc_train.data import PairDataset, count_items, describe_unused, no_change_sentences, training_vocabulary
from rsicrc_train.ema import ExponentialMovingAverage
from rsicrc_train.initialization import initialize_as_published
from rsicrc_train.model import RSICRC
from rsicrc_train.objective import Objective, sentence_similarity
from rsicrc_train.pretrained import initialize_trunk
from rsicrc_train.recipes import Recipe
from rsicrc_train.run_folder import (
    BEST,
    CURVES,
    LAST,
    LOG,
    RECIPE,
    STARTS,
    check_resumed_data,
    check_resumed_init,
    fingerprint,
    name_of,
    resolve_recipe,
)
from rsicrc_train.run_log import RunLog, draw_curves, record_start
from rsicrc_train.schedule import learning_rate, steps_per_epoch
from rsicrc_train.trunk_features import cached_features

_LOGGER = logging.getLogger("rsicrc.train")
_DRAW_EVERY = 60.0  # seconds between two drawings of the curves


@dataclass
class RunState:
    """Progress of a run, saved in `last.pt`.

    Attributes:
        step: Number of optimizer steps done.
        best_loss: Lowest validation loss so far.
        best_step: Step after which `best_loss` was measured.
        seconds: Training time so far in seconds, over all starts of the run.
    """

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    seconds: float = 0.0


class Trainer:
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
        """Read the captions of the data set, build the model and, to resume, restore the last state of the run.

        Args:
            data: Path of the data set.
            folder: Folder of the run.
            recipe: Model and training options; a resumed run uses the recipe in its folder instead.
            resume: Continue the run in the folder.
            init: Pre-trained weights of the trunk, as for `initialize_trunk`; None starts from random weights.
            device: `auto`, `cpu` or `cuda`.
            devices: Number of devices per machine; each is driven by one process.
            nodes: Number of machines that train together.

        Raises:
            DataError: The data set is unusable or differs from that of the resumed run, or the folder already holds a
                run and `resume` is false.
            CheckpointError: `init` or the last state does not fit the model.
        """
        self.data, self.folder = data, folder
        self.recipe = resolve_recipe(folder, recipe, resume=resume, init=init, device=device)
        self.training = self.recipe.training

        pairs = {split: read_split(data, split) for split in ("train", "val")}
        self.no_change = no_change_sentences(pairs["train"])
        counted = self.training.vocabulary
        words = training_vocabulary(pairs if counted == "train" else read_splits(data), counted, data)
        self.vocabulary = Vocabulary.from_words(words, self.recipe.model.max_len)
        self.origin = {"init": None if init is None else name_of(init), "data_sha256": fingerprint(pairs)}
        items = count_items(pairs["train"], self.training.item)
        self.steps_per_epoch = steps_per_epoch(self.training, items, devices * nodes)
        self.total_steps = self.steps_per_epoch * self.training.epochs
        augmentation = {"train": self.training.augmentation, "val": Augmentation()}
        self.datasets = {split: self._dataset(pairs[split], augmentation[split]) for split in pairs}
        last = self._load_last(init) if resume else None

        self.fabric = distributed.launch(device, devices, nodes, self.training.precision)
        self.loaders = {
            split: BatchLoader(self.fabric, dataset, self.training) for split, dataset in self.datasets.items()
        }
        self.objectives: dict[str, Objective] = {}
        for split, dataset in self.datasets.items():
            similarity = sentence_similarity(self.fabric, dataset, self.training)
            self.objectives[split] = Objective(self.fabric, dataset, self.training, similarity)

        self.fabric.seed_everything(self.training.seed, workers=False, verbose=False)
        self.raw_model = self._build_model(None if resume else init)
        optimizer = torch.optim.AdamW(
            parameter_groups(self.raw_model, self.training.trunk_rate),
            lr=self.training.learning_rate,
            weight_decay=self.training.weight_decay,
        )
        self.model, self.optimizer = self.fabric.setup(self.raw_model, optimizer)
        self.ema = ExponentialMovingAverage(self.raw_model, self.training.ema) if self.training.ema else None
        if self.fabric.world_size > 1:
            distributed.synchronize_batchnorm(self.raw_model)
            # Weights start equal in all processes, but each process needs its own dropout masks.
            torch.manual_seed(self.training.seed + 1_000_003 * self.fabric.global_rank)

        self.state = RunState()
        if last is not None:
            self._restore(last)
        self.fabric.barrier()  # the main process writes to the folder only after all processes have read it
        self.log: RunLog | None = None
        distributed.on_main_process(self.fabric, self._open_log)

    @property
    def is_main_process(self) -> bool:
        """True in the one process that writes the folder and reports progress."""
        return self.fabric.is_global_zero

    def fit(self, advance: ProgressCallback = ignore_progress) -> Path:
        """Train to the last epoch.

        Args:
            advance: Progress callback, called after each optimizer step with the loss, learning rate and speed as note.

        Returns:
            Path of the checkpoint with the lowest validation loss.

        Raises:
            DataError: The loss or a weight became NaN or infinite; the state that was saved last is kept.
            OSError: A checkpoint cannot be written, for example because the disk is full; the previous one is kept.
        """
        size = sum(parameter.numel() for parameter in self.raw_model.parameters())
        self._report(
            f"{size / 1e6:.2f} M parameters, {len(self.vocabulary)} tokens, "
            f"{len(self.datasets['train'].pairs)} training pairs, {len(self.datasets['train'])} items in an epoch, "
            f"{self.total_steps} steps"
        )
        if self.state.step >= self.total_steps:
            self._report(
                f"{self.folder} is finished after {self.total_steps} steps: there is nothing left to train",
                logging.WARNING,
            )
        else:
            step = 1 if self.training.partial_batch else self.training.batch_size * self.training.accumulate
            for message in describe_unused(self.datasets["train"], self.vocabulary, step):
                self._report(message, logging.WARNING)
            self._use_cached_features(advance)
        drawn = time.monotonic()
        started = drawn - self.state.seconds
        while self.state.step < self.total_steps:
            self._train_epoch(advance, started)
            if self.is_main_process and time.monotonic() - drawn > _DRAW_EVERY:
                draw_curves(self.folder / LOG, self.folder / CURVES)
                drawn = time.monotonic()
        if self.is_main_process:
            draw_curves(self.folder / LOG, self.folder / CURVES)
            self._calibrate(self.folder / BEST)
        return self.folder / BEST

    def _use_cached_features(self, advance: ProgressCallback) -> None:
        """Replace the pixels by features of the trunk in the splits whose pixels do not change, if it is frozen."""
        if self.training.trunk != "frozen" or not self.training.cache_features:
            return
        for dataset, loader in zip(self.datasets.values(), self.loaders.values(), strict=True):
            if not (dataset.augmentation.turns or dataset.augmentation.jitter):
                advance(0, note="computing features of the trunk")
                dataset.features = cached_features(self.raw_model, loader)

    def _train_epoch(self, advance: ProgressCallback, started: float) -> None:
        """Train to the end of the current epoch, of which a resumed run may have done some steps, and validate."""
        epoch, done = divmod(self.state.step, self.steps_per_epoch)
        if self.training.mined and done == 0:
            advance(0, note="mining hard negatives")
            self.objectives["train"].mine_negatives(self.raw_model, self.loaders["train"], epoch)
        self.model.train()
        if self.training.trunk == "frozen":
            self.raw_model.encoder.trunk.eval()  # keeps the BatchNorm statistics unchanged, too
        step_started = time.monotonic()
        for group in self._accumulation_groups(epoch, skip=done):
            rate = self._set_learning_rate()
            losses = self._train_step(group)
            self.state.step += 1
            if self.ema is not None:
                self.ema.update(self.raw_model, self.state.step)
            items = sum(len(part.items) * (self.fabric.world_size if part.shared else 1) for part in group)
            speed = items / (time.monotonic() - step_started)
            if self.log is not None:
                self.log.write(self.state.step, "train", losses, rate, speed)
            advance(note=f"loss {losses[0]:.3f}  rate {rate:.1e}  {2 * speed:.0f} images/s")
            end_of_epoch = self.state.step % self.steps_per_epoch == 0
            if self.state.step % self.training.save_every == 0 or end_of_epoch:
                self.state.seconds = time.monotonic() - started
                if end_of_epoch:
                    self._validate(epoch)
                self._save(LAST)
            step_started = time.monotonic()

    def _calibrate(self, path: Path) -> None:
        """Record the calibration of the best model's change score on the validation split in its checkpoint."""
        best = checkpoints.load(path)
        if CHANGE_CALIBRATION in best.training:
            return
        model, pairs = best.build_model(), self.datasets["val"].pairs
        calibration = calibrate_change(model, pairs, self.vocabulary, best.no_change_sentences)
        if calibration is not None:
            record = {**best.training, CHANGE_CALIBRATION: calibration.to_dict()}
            checkpoints.save(replace(best, state_dict=model.state_dict(), training=record), path)

    def _accumulation_groups(self, epoch: int, skip: int) -> Iterator[list[Part]]:
        """Yield the batches of each optimizer step of an epoch, without the first `skip` steps."""
        size = self.training.accumulate
        mined = self.objectives["train"].mined_items()
        batches = self.loaders["train"].shuffled(epoch, skip=skip * size, mined=mined)
        while group := list(islice(batches, size)):
            yield group

    def _train_step(self, group: list[Part]) -> list[float]:
        """Update the weights once; return the three losses, averaged over the batches and processes."""
        history = []
        for number, part in enumerate(group, start=1):
            not_last = self.fabric.world_size > 1 and number < len(group)
            with self.fabric.no_backward_sync(self.model, enabled=not_last):
                losses = self.objectives["train"].training_losses(self.model, part)
                history.append(distributed.mean(self.fabric, torch.stack(losses).detach()))
                if not torch.isfinite(history[-1]).all():
                    raise self._diverged(f"the loss became {history[-1][0].item()}", part.items)
                self.fabric.backward(losses.loss / len(group))
        if self.training.gradient_clip:
            # In fp16, gradients overflow occasionally and Fabric skips the step; a persistent NaN reaches the loss.
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.training.gradient_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        means: list[float] = torch.stack(history).mean(dim=0).tolist()
        return means

    def _validate(self, epoch: int) -> None:
        """Measure the losses on the validation split, and save the model if its loss is the lowest so far."""
        model = self._evaluated_model().eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.fabric.device)
        for _, batch in self.loaders["val"].in_order(epoch):
            losses = self.objectives["val"].validation_losses(model, batch)
            weight = 1 if self.training.validation_mean == "batches" else len(batch.images)
            sums[:3] += torch.stack(losses).double() * weight
            sums[3] += weight
        *totals, count = distributed.total(self.fabric, sums).tolist()
        loss, captioning, contrastive = means = [total / count for total in totals]
        if self.log is not None:
            self.log.write(self.state.step, "val", means, 0.0, 0.0)
        better = loss < self.state.best_loss
        if better:
            self.state.best_loss, self.state.best_step = loss, self.state.step
            self._save(BEST)
        self._report(
            f"epoch {epoch + 1}/{self.training.epochs}  validation loss {loss:.4f} (captioning {captioning:.4f}, "
            f"contrastive {contrastive:.4f})  {self.state.seconds:.0f} s{'  best so far' if better else ''}"
        )

    def _evaluated_model(self) -> RSICRC:
        """Return the model that is validated and saved as the best: the moving average, if there is one."""
        return self.raw_model if self.ema is None else self.ema.model

    def _set_learning_rate(self) -> float:
        rate = learning_rate(self.training, self.state.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)  # states of earlier versions have no factor
        return rate

    def _dataset(self, pairs: list[CaptionedPair], augmentation: Augmentation) -> PairDataset:
        preprocessing, captions = self.recipe.model.preprocessing, self.training.captions
        return PairDataset(pairs, self.vocabulary, preprocessing, captions, augmentation, self.training.item)

    def _build_model(self, init: str | None) -> RSICRC:
        model = RSICRC(self.recipe.model, len(self.vocabulary))
        if self.training.initialization == "xavier":
            initialize_as_published(model)
        model.encoder.separate_images = self.training.separate_images
        model.decoder.output_dropout.p = self.training.output_dropout
        if init is not None:
            initialize_trunk(model, init)
        if self.training.trunk in ("last", "frozen"):
            model.encoder.trunk.train_last(0 if self.training.trunk == "frozen" else None)
        return model

    def _save(self, name: str) -> None:
        """Write `last.pt` or `best.pt`. All processes call this method; the main process writes."""
        tensors = (self.raw_model if name == LAST else self._evaluated_model()).state_dict()
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
                **self.origin,
                "pairs": len(self.datasets["train"].pairs),
                "steps": self.state.step,
                "seconds": round(self.state.seconds, 1),
                "validation_loss": self.state.best_loss,
            },
        )
        if name == LAST:
            checkpoint = replace(checkpoint, progress=self._resume_state())
        distributed.on_main_process(self.fabric, lambda: checkpoints.save(checkpoint, self.folder / name))

    def _resume_state(self) -> dict[str, Any]:
        """Return all that a resumed run needs in addition to the weights; one random state per process."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "mined": self.objectives["train"].mined,
            "average": None if self.ema is None else self.ema.model.state_dict(),
            **asdict(self.state),
            **distributed.random_states(self.fabric),
        }

    def _load_last(self, init: str | None) -> Checkpoint:
        last = checkpoints.load(self.folder / LAST)
        if last.vocabulary != self.vocabulary.words:
            raise DataError(
                f"{self.folder} was trained with another vocabulary than the one of {self.data}: resume on its data"
            )
        check_resumed_data(self.folder, self.data, last.training, len(self.datasets["train"].pairs), self.origin)
        check_resumed_init(self.folder, init, last.training.get("init"))
        self.origin["init"] = last.training.get("init")
        return last

    def _restore(self, last: Checkpoint) -> None:
        try:
            # A copy, because tensors of the progress are mapped from the file, which is replaced later.
            state: dict[str, Any] = copy.deepcopy(last.progress)
            checkpoints.load_tensors(self.raw_model, last.state_dict)
            self.optimizer.load_state_dict(state["optimizer"])
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
            self.objectives["train"].mined = state["mined"]
            if self.ema is not None:
                checkpoints.load_tensors(self.ema.model, state["average"])
            distributed.restore_random_states(self.fabric, state)
            self.state = RunState(**{name: state[name] for name in asdict(RunState())})
        except (AttributeError, IndexError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.folder / LAST} holds no state to resume from ({error}): start a new run in another folder"
            ) from error

    def _open_log(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.state.step:
            (self.folder / RECIPE).write_text(self.recipe.to_yaml(), encoding="utf-8")
        step, fabric = self.state.step, self.fabric
        record_start(self.folder / STARTS, step, fabric.world_size, _device_name(fabric.device), self.origin)
        self.log = RunLog(self.folder / LOG, step, tensorboard=self.training.tensorboard)

    def _report(self, message: str, level: int = logging.INFO) -> None:
        if self.is_main_process:
            _LOGGER.log(level, message)

    def _diverged(self, problem: str, items: list[int] | None = None) -> DataError:
        """Describe a NaN or infinite value, and the pairs of its batch if they are known."""
        epoch, step = divmod(self.state.step, self.steps_per_epoch)
        where = f"epoch {epoch + 1}, step {step + 1} of {self.steps_per_epoch}"
        if items is not None:
            dataset = self.datasets["train"]
            names = [dataset.pairs[dataset.pair_of[item]].before.name for item in items[:4]]
            where += f", pairs {', '.join(names)}{', …' if len(items) > 4 else ''}"
        last = self.folder / LAST
        return DataError(
            f"{problem} at step {self.state.step} ({where}): "
            + (f"{last} keeps the last good state; " if last.exists() else "")
            + f"lower learning_rate in {self.folder / RECIPE} and continue with --resume, or start again"
        )


def parameter_groups(model: RSICRC, trunk_rate: float) -> list[dict[str, Any]]:
    """Return the trained parameters by learning rate: `scale` is the factor of the learning rate of a group.

    Args:
        model: The model; parameters without a gradient are left out.
        trunk_rate: Factor of the image trunk. With 1, there is one group.
    """
    trunk = set(model.encoder.trunk.parameters())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trunk_rate == 1:
        return [{"params": trained, "scale": 1.0}]
    groups = {trunk_rate: [p for p in trained if p in trunk], 1.0: [p for p in trained if p not in trunk]}
    return [{"params": members, "scale": scale} for scale, members in groups.items() if members]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
