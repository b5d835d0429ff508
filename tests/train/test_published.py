"""Tests of published checkpoints: outputs of the published code, conversion in both directions, and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from rsicrc.datasets.levir_cc import NO_CHANGE_SENTENCES
from rsicrc.errors import CheckpointError
from rsicrc.text.vocabulary import END, SPECIAL_WORDS, START
from rsicrc_train import checkpoint
from rsicrc_train.checkpoint import Checkpoint
from rsicrc_train.config import ModelConfig, TrunkConfig
from rsicrc_train.model import RSICRC
from rsicrc_train.published import published_names
from tests.models import random_checkpoint, random_images, with_options
from tests.published import (
    Golden,
    PublishedFiles,
    kept_golden,
    published_files,
    read_golden,
    relative_error,
    write_files,
)

VIT = TrunkConfig("clip_vit", (2,), width=32, heads=2, patch=16, image_size=64)
SPECIAL_IDS = {word: number for number, word in enumerate(SPECIAL_WORDS)}
TORCHVISION = TrunkConfig("torchvision_resnet", (1, 1, 1, 1), image_size=64)
VARIANTS = {
    "RN50 with proj": with_options(),
    "RN50 without proj": with_options(d_model=256),
    "ViT with proj": with_options(trunk=VIT, prenorm=True),
    "ViT without proj": with_options(trunk=VIT, d_model=32, learnable=True),
    "torchvision": with_options(trunk=TORCHVISION, tie_embeddings=False),
    "prenorm": with_options(prenorm=True, unimodal_layers=2, multimodal_layers=2),
    "untied, learned positions": with_options(learnable=True, tie_embeddings=False, encoder_layers=1),
    "one head": with_options(num_heads=1, a_dim=64),
    "no fusion": with_options(encoder_layers=0),
}


def assert_same_model(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.config == expected.config
    assert found.vocabulary == expected.vocabulary
    assert found.state_dict.keys() == expected.state_dict.keys()
    for name, tensor in expected.state_dict.items():
        assert torch.equal(found.state_dict[name], tensor), name


def greedy(model: RSICRC, tokens: torch.Tensor, length: int) -> tuple[NDArray[np.int64], float]:
    """Return greedy ids [N, length], zeros after END, and the smallest margin between best and second-best token."""
    ids = torch.full((len(tokens), 1), START)
    done = torch.zeros(len(tokens), dtype=torch.bool)
    margin = float("inf")
    while ids.shape[1] < length and not done.all():
        best = model.decode(model.encode_text(ids).hidden, tokens)[:, -1].topk(2)
        margin = min(margin, float((best.values[:, 0] - best.values[:, 1])[~done].min()))
        chosen = best.indices[:, 0].masked_fill(done, 0)
        ids, done = torch.cat([ids, chosen.unsqueeze(1)], dim=1), done | (chosen == END)
    ids = torch.nn.functional.pad(ids, (0, length - ids.shape[1]))
    return ids.numpy(), margin


@torch.no_grad()
def check_golden(golden: Golden, files: PublishedFiles) -> None:
    """Compare every array of the golden file with the model; relatively, as random weights give large logits."""
    model = files.load().build_model()
    prepare = model.config.preprocessing.prepare
    images = (golden["before"], golden["after"])
    pixels = np.stack([[prepare(Image.fromarray(image)) for image in side] for side in images], axis=1)
    if "preprocessed_before" in golden:
        trunk_input = model.config.preprocessing.normalize(pixels[:1, 0]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(trunk_input, golden["preprocessed_before"])

    image = model.encode_images(torch.from_numpy(pixels))
    assert relative_error(image.embedding, golden["image_embedding"]) < 1e-4
    assert relative_error(image.tokens[0], golden["visual_tokens"][:, 0]) < 2e-4

    ids, lengths = torch.from_numpy(golden["text_ids"]), golden["text_lengths"]
    weights: list[torch.Tensor] = []
    attention = model.decoder.multimodal[-1].cross_attention
    assert isinstance(attention, torch.nn.MultiheadAttention)
    attention.register_forward_pre_hook(
        lambda _module, inputs, options: (inputs, {**options, "need_weights": True}), with_kwargs=True
    )
    attention.register_forward_hook(lambda _module, _inputs, output: weights.append(output[1]))
    text = model.encode_text(ids)
    logits = model.decode(text.hidden, image.tokens)
    assert relative_error(text.embedding, golden["text_embedding"]) < 1e-4
    last = logits[torch.arange(len(ids)), torch.from_numpy(lengths) - 1]
    assert relative_error(last, golden["text_last_logits"]) < 2e-3
    log_probs = logits.double().log_softmax(dim=-1)[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0]
    summed = [float(row[: length - 1].sum()) for row, length in zip(log_probs, lengths, strict=True)]
    np.testing.assert_allclose(summed, golden["text_log_probs"], rtol=1e-3)
    real = int(lengths[0])
    assert relative_error(weights[0][0, :real], golden["cross_attention"][0, :real]) < 2e-3

    # Starting from the golden file's visual tokens, rounding errors of the image network play no role.
    shown = torch.from_numpy(golden["visual_tokens"]).transpose(0, 1)
    logits = model.decode(text.hidden[:1], shown)
    assert relative_error(logits[0, real - 1], golden["text_last_logits"][0]) < 1e-5
    log_probs = logits.double().log_softmax(dim=-1)[0, : real - 1].gather(1, ids[0, 1:real, None])
    assert float(log_probs.sum()) == pytest.approx(golden["text_log_probs"][0], abs=1e-3)

    first = model.decode(model.encode_text(torch.full((len(ids), 1), START)).hidden, image.tokens)[:, 0]
    assert relative_error(first, golden["first_logits"]) < 2e-3
    found, margin = greedy(model, image.tokens, golden["greedy_ids"].shape[1])
    np.testing.assert_array_equal(found, golden["greedy_ids"], f"the smallest margin was {margin:.2g} logits")


def test_small_model_matches_the_golden_file(tmp_path: Path) -> None:
    golden = kept_golden("rn50-small")
    check_golden(golden, golden.write(tmp_path / "published"))


@pytest.mark.slow
@pytest.mark.shared
def test_published_size_matches_the_golden_file(shared_folder: Path, tmp_path: Path) -> None:
    reference = shared_folder / "reference"
    golden = read_golden(reference / "golden.rn50.npz", reference / "state_dict.rn50.json")
    check_golden(golden, golden.write(tmp_path / "published"))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_published_layout_round_trip(config: ModelConfig, tmp_path: Path) -> None:
    original = random_checkpoint(1, config)
    loaded = published_files(original, tmp_path / "published").load(trunk=config.trunk)
    assert_same_model(loaded, original)


@torch.no_grad()
def test_published_weights_are_saved_as_a_checkpoint(tmp_path: Path) -> None:
    original = random_checkpoint(2)
    loaded = published_files(original, tmp_path / "published").load(trunk=original.config.trunk)
    checkpoint.save(loaded, tmp_path / "ckpt.pt")
    again = checkpoint.load(tmp_path / "ckpt.pt")
    assert_same_model(again, loaded)
    assert again.no_change_sentences == loaded.no_change_sentences
    assert again.training["published"]["config"]["fine_tune"] is True
    images = torch.from_numpy(random_images(2, seed=0))
    found, expected = (each.build_model().encode_images(images).embedding for each in (again, original))
    assert torch.equal(found, expected)


def test_missing_projection_of_one_head_is_the_identity(tmp_path: Path) -> None:
    original = random_checkpoint(3, VARIANTS["one head"])
    files = published_files(original, tmp_path / "published")
    tensors = torch.load(files.weights)
    kept = {name: tensor for name, tensor in tensors.items() if ".0.att.to_out" not in name}
    torch.save(kept, files.weights)
    state = files.load(trunk=original.config.trunk).state_dict
    assert torch.equal(state["encoder.fusion.1.date.attention.out.weight"], torch.eye(64))
    assert not state["encoder.fusion.1.date.attention.out.bias"].any()


def test_safetensors_may_store_a_tied_matrix_once(tmp_path: Path) -> None:
    original = random_checkpoint(4)
    files = published_files(original, tmp_path / "published")
    tensors = torch.load(files.weights)
    del tensors["decoder.tokens_embed.weight"]
    path = tmp_path / "model_best.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    loaded = PublishedFiles(path, files.config, files.vocab).load(trunk=original.config.trunk)
    assert_same_model(loaded, original)


def test_float16_weights_become_float32(tmp_path: Path) -> None:
    original = random_checkpoint(5)
    files = published_files(original, tmp_path / "published")
    tensors = torch.load(files.weights)
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, files.weights)
    state = files.load(trunk=original.config.trunk).state_dict
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}


def test_no_change_sentences_are_those_of_levir_cc_if_the_vocabulary_has_their_words(tmp_path: Path) -> None:
    original = random_checkpoint(6)
    files = published_files(original, tmp_path / "published")
    assert files.load(trunk=original.config.trunk).no_change_sentences == ()
    words = sorted({word for text in NO_CHANGE_SENTENCES for word in text.split()})
    levir = random_checkpoint(6, vocabulary=(*SPECIAL_WORDS, *words))
    loaded = published_files(levir, tmp_path / "levir").load(trunk=original.config.trunk)
    assert loaded.no_change_sentences == NO_CHANGE_SENTENCES


def test_defaults_are_the_published_model(tmp_path: Path) -> None:
    with torch.device("meta"):
        wanted = set(published_names(RSICRC(ModelConfig(), 468)).values())
    names = set(kept_golden("rn50-small").shapes)
    unneeded = (".proj.", ".to_v.", "position_encoding.pe")
    assert {name for name in names if not any(part in name for part in unneeded)} <= wanted
    assert not {name for name in wanted if any(part in name for part in unneeded)}
    assert "encoder.encoder_trans.selftrans.2.1.norm2.bias" in wanted
    assert not [name for name in wanted if "selftrans.3." in name or "_decoder.1." in name]
    files = write_files(tmp_path / "published", {}, {}, SPECIAL_WORDS)
    with pytest.raises(CheckpointError, match=rf"missing .* and {len(wanted) - 5} more$") as caught:
        files.load()
    assert len(str(caught.value)) < 500


def test_all_wrong_tensors_are_named_in_one_error(tmp_path: Path) -> None:
    original = random_checkpoint(7)
    files = published_files(original, tmp_path / "published")
    tensors = torch.load(files.weights)
    del tensors["encoder.img_queries"], tensors["encoder.encoder.net.10.0.conv2.weight"]
    tensors["encoder.surprise"] = torch.zeros(1)
    tensors["decoder.cross_decoder.1.ff_norm.bias"] = torch.zeros(64)
    tensors["encoder.Conv1.bias"] = torch.zeros(63)
    torch.save(tensors, files.weights)
    with pytest.raises(CheckpointError) as caught:
        files.load(trunk=original.config.trunk)
    message = str(caught.value)
    assert "missing encoder.encoder.net.10.0.conv2.weight, encoder.img_queries" in message
    assert "unknown decoder.cross_decoder.1.ff_norm.bias, encoder.surprise" in message
    assert "encoder.Conv1.bias is (63,), not (64,)" in message


def change_config(**options: Any) -> Callable[[PublishedFiles], None]:
    def change(files: PublishedFiles) -> None:
        files.config.write_text(json.dumps({**json.loads(files.config.read_text()), **options}))

    return change


def write_vocabulary(ids: Any) -> Callable[[PublishedFiles], None]:
    return lambda files: void(files.vocab.write_text(json.dumps(ids)))


def void(_: object) -> None:
    """Discard a value where a function must return None."""


def change_tensor(name: str, tensor: torch.Tensor) -> Callable[[PublishedFiles], None]:
    return lambda files: torch.save({**torch.load(files.weights), name: tensor}, files.weights)


def save_whole_model(files: PublishedFiles) -> None:
    torch.save(torch.nn.Linear(1, 1), files.weights)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_config(backbones="RN50"), r"unknown option\(s\) backbones; known are a_dim, backbone"),
        (change_config(num_heads="8"), r"num_heads = '8' should be like 8"),
        (change_config(num_heads=0), r"config.json: model option num_heads must be a whole number from 1 to 1024"),
        (change_config(prenorm=1), r"prenorm = 1 should be like False"),
        (change_config(num_heads=7), r"not a multiple of num_heads"),
        (change_config(max_len=13), r"position_encoding.pe \(1, 12, 64\) does not hold the sinusoids for max_len = 13"),
        (change_config(decoder_layers=2), r"missing decoder.uni_decoder.1.self_attn.in_proj_weight.* and 25 more"),
        (change_tensor("decoder.lm_head.weight", torch.zeros(2, 2)), r"tie_embeddings is true, but .* differ"),
        (change_tensor("epoch", 7), r"not a state dict: epoch is not a tensor"),  # type: ignore[arg-type]
        (write_vocabulary({"PAD": 0, "START": 1, "UNK": 2, "END": 4}), r"one of the ids 0 to 3"),
        (write_vocabulary({"the": 0, "a": 1, "is": 2, "on": 3}), r"vocabulary begins with the, a, is, on"),
        (write_vocabulary(SPECIAL_IDS), r"tokens_embed.weight is \(40, 64\), not \(4, 64\)"),
        (write_vocabulary(["the"]), r"holds a list, not a JSON object"),
        (lambda files: files.vocab.unlink(), r"no file .*levir_vocab.json: give .* with --vocab"),
        (lambda files: void(files.config.write_text("{")), r"config.json is not a JSON file"),
        (lambda files: files.weights.unlink(), r"no checkpoint at"),
        (save_whole_model, r"holds code, which is never run"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(damage: Callable[[PublishedFiles], None], message: str, tmp_path: Path) -> None:
    original = random_checkpoint(8)
    files = published_files(original, tmp_path / "published")
    damage(files)
    with pytest.raises(CheckpointError, match=message):
        files.load(trunk=original.config.trunk)
