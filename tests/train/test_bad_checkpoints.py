"""Generated bad checkpoints: each is refused by a `CheckpointError` or gives a finite model, without crash or hang."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import time
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rsicrc.errors import CheckpointError
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.config import TrunkConfig
from rsicrc_train.published import load_published
from tests.models import SMALL, random_checkpoint
from tests.published import published_files

TINY = replace(
    SMALL,
    trunk=TrunkConfig("clip_resnet", (1, 1, 1, 1), width=4, image_size=64),
    d_model=32,
    a_dim=32,
    encoder_layers=1,
)
PER_KIND = 15
LONGEST = 60.0  # seconds for one file: more is a hang


def deep(depth: int) -> list[Any]:
    """Return nested lists."""
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def hostile_ordered_dict() -> OrderedDict[str, Any]:
    """Return a dict whose attributes hide its methods, which a pickle can set."""
    mapping: OrderedDict[str, Any] = OrderedDict(a=1)
    mapping.__dict__.update(get=5, keys=5, values=5)
    return mapping


VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: -1, lambda: 0, lambda: 2**63, lambda: -(2**70), lambda: 10**300, lambda: 1.5,
    lambda: math.nan, lambda: math.inf, lambda: "", lambda: "text", lambda: "\x1b[2J\n", lambda: "x" * 100_000,
    lambda: "\ud800", lambda: b"bytes", list, dict, tuple, lambda: [1, 2], lambda: ["a", "a"],
    lambda: {"a": {"b": 1}}, lambda: {1: 2, None: 3, (1,): 4}, lambda: set("ab"), lambda: Counter("aab"), lambda: 1j,
    lambda: deep(50), lambda: deep(400), lambda: torch.zeros(3), lambda: torch.tensor([]), lambda: torch.float32,
    lambda: torch.Size([1, 2]), hostile_ordered_dict, lambda: [None] * 1000, lambda: list(range(5000)),
)  # fmt: skip


def hostile_tensor(tensor: torch.Tensor, rng: random.Random) -> Any:
    """Return a tensor that does not fit in place of a good one."""
    flat = tensor.flatten().clone()
    makers: tuple[Callable[[], Any], ...] = (
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.int8),
        lambda: tensor.to(torch.bool),
        lambda: tensor.double() * 1e300 + 1e300,
        lambda: torch.full_like(tensor, math.nan, dtype=torch.float32),
        lambda: torch.full_like(tensor, -math.inf, dtype=torch.float16),
        lambda: torch.zeros(1).expand(1 << 40),
        lambda: torch.zeros(1).expand(tensor.shape),
        lambda: tensor.to("meta"),
        lambda: torch.zeros((2, *tensor.shape)),
        lambda: torch.zeros(0),
        lambda: flat[: len(flat) // 2],
        lambda: torch.zeros((1,) * 60),
        lambda: tensor.to_sparse() if tensor.ndim else torch.zeros(2).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.zeros(tensor.shape), 0.1, 0, torch.qint8),
        lambda: torch.nn.Parameter(torch.zeros(tensor.shape).t() if tensor.ndim == 2 else torch.ones(7)),
        lambda: torch.zeros(tensor.shape).to(torch.float8_e4m3fn),
        lambda: rng.choice(VALUES)(),
    )
    return rng.choice(makers)()


def mutate_field(plain: dict[str, Any], rng: random.Random) -> Any:
    """Replace or remove a field of the checkpoint or of its config."""
    part = rng.choice([plain, plain, plain["config"], plain["config"], plain["config"]["trunk"]])
    name = rng.choice(list(part))
    if rng.random() < 0.1:
        del part[name]
    else:
        part[name] = rng.choice(VALUES)()
    return plain


def mutate_tensor(plain: dict[str, Any], rng: random.Random) -> Any:
    """Replace a tensor."""
    state = plain["state_dict"]
    name = rng.choice(list(state))
    state[name] = hostile_tensor(state[name], rng)
    return plain


def mutate_names(plain: dict[str, Any], rng: random.Random) -> Any:
    """Rename, remove or add tensors."""
    state = plain["state_dict"]
    name = rng.choice(list(state))
    value = state.pop(name)
    new: Any = rng.choice([name.upper(), "", "\x1b[31m" + name, "x" * 100_000, 7, None, "\ud800", "module.a", (name,)])
    if rng.random() < 0.8:
        state[new] = value
    if rng.random() < 0.3:
        state[f"module.{rng.choice(list(plain['state_dict']))}"] = value
    return plain


def mutate_lists(plain: dict[str, Any], rng: random.Random) -> Any:
    """Replace an entry of the vocabulary or of the sentences, or the whole list."""
    name = rng.choice(["vocabulary", "no_change_sentences"])
    if rng.random() < 0.5:
        plain[name][rng.randrange(len(plain[name]))] = rng.choice(VALUES)()
    else:
        plain[name] = rng.choice([lambda: "a plain string", lambda: dict(enumerate(plain[name])), *VALUES])()
    return plain


def mutate_nesting(plain: dict[str, Any], rng: random.Random) -> Any:
    """Nest the checkpoint or its weights under other keys, or in itself."""
    for _ in range(rng.randrange(1, 30)):
        key = rng.choice(["model", "state_dict", "model_state_dict", "module", "other"])
        if rng.random() < 0.5:
            plain = {key: plain}
        elif isinstance(plain.get("state_dict"), dict):
            plain["state_dict"] = {key: plain["state_dict"]}
    if rng.random() < 0.3:
        plain["model"] = plain
    return rng.choice([plain, plain, [plain], (plain,), deep(900)])


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut a file, flip bytes, or insert bytes."""
    data = bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        del data[rng.randrange(len(data)) :]
    elif kind == 1:
        for _ in range(rng.randrange(1, 40)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        start = rng.randrange(len(data))
        data[start : start + rng.randrange(1, 5000)] = b"\0" * rng.randrange(1, 5000)
    else:
        data += rng.randbytes(rng.randrange(1, 300))
    return bytes(data)


def damage_archive(content: bytes, rng: random.Random) -> bytes:
    """Write the archive again with sound checksums, but changed, missing, compressed or shortened records."""
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    kind = rng.randrange(5)
    method = zipfile.ZIP_DEFLATED if kind == 0 else zipfile.ZIP_STORED
    chosen = rng.choice([name for name in source.namelist() if "/data/" in name])
    with zipfile.ZipFile(target, "w", method) as archive:
        for name in source.namelist():
            data = source.read(name)
            if kind == 1 and name == chosen:
                continue
            if kind == 2 and name == chosen:
                data = data[: rng.randrange(len(data) // 2 + 1)]
            if kind >= 3 and name.endswith("data.pkl"):
                data = damage_bytes(data, rng)
            archive.writestr(name, data)
    return target.getvalue()


STRUCTURES = (mutate_field, mutate_tensor, mutate_names, mutate_lists, mutate_nesting)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the content of a sound checkpoint file."""
    path = tmp_path_factory.mktemp("sound") / "ckpt.pt"
    checkpoints.save(random_checkpoint(0, TINY), path)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def outcome(read: Callable[[], checkpoints.Checkpoint]) -> checkpoints.Checkpoint | None:
    """Load a checkpoint and use all of its parts; return the checkpoint, or None if it is refused.

    Any other exception fails the test.
    """
    start, found = time.perf_counter(), None
    try:
        loaded = read()
        model = loaded.build_model()
        Vocabulary.from_words(loaded.vocabulary, loaded.config.max_len)
    except CheckpointError as error:
        message = str(error)
        if len(message) > 2000 or not message.isprintable():
            raise AssertionError(f"not one short line: {message[:500]!r}") from error
    else:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
        assert all(isinstance(text, str) for text in (*loaded.vocabulary, *loaded.no_change_sentences))
        found = loaded
    assert time.perf_counter() - start < LONGEST
    return found


@pytest.mark.parametrize("mutate", STRUCTURES)
@pytest.mark.filterwarnings("ignore")
def test_checkpoint_of_another_structure_is_refused(
    mutate: Callable[[dict[str, Any], random.Random], Any], plain: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for seed in range(PER_KIND):
        rng = random.Random(f"{mutate.__name__} {seed}")
        path = tmp_path / f"{seed}.pt"
        try:
            torch.save(mutate(copy.deepcopy(plain), rng), path, _use_new_zipfile_serialization=rng.random() < 0.8)
        except (RecursionError, UnicodeEncodeError, NotImplementedError):
            continue  # torch cannot write this value
        found.append(outcome(partial(checkpoints.load, path)))
        path.unlink()
    assert len(found) > PER_KIND * 0.7
    assert found.count(None) > PER_KIND / 4


@pytest.mark.parametrize("damage", [damage_bytes, damage_archive])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_checkpoint_is_refused(
    damage: Callable[[bytes, random.Random], bytes], new: bool, plain: dict[str, Any], tmp_path: Path
) -> None:
    if damage is damage_archive and not new:
        pytest.skip("the older format is no archive")
    buffer, path = io.BytesIO(), tmp_path / "ckpt.pt"
    torch.save(plain, buffer, _use_new_zipfile_serialization=new)
    found = []
    for seed in range(2 * PER_KIND):
        path.write_bytes(damage(buffer.getvalue(), random.Random(seed)))
        found.append(outcome(partial(checkpoints.load, path)))
    # The older format has no checksums: a flipped bit of a weight is not noticed.
    assert found.count(None) > (1.0 if new else 0.4) * PER_KIND
    if new and damage is damage_bytes:
        for loaded in found:
            assert loaded is None or all(
                torch.equal(tensor, plain["state_dict"][name]) for name, tensor in loaded.state_dict.items()
            )


@pytest.mark.filterwarnings("ignore")
def test_bad_published_files_are_refused(tmp_path: Path) -> None:
    original = random_checkpoint(1, TINY)
    files = published_files(original, tmp_path / "published")
    tensors, config, vocab = (
        torch.load(files.weights),
        json.loads(files.config.read_text()),
        json.loads(files.vocab.read_text()),
    )
    found = []
    for seed in range(2 * PER_KIND):
        rng = random.Random(seed)
        state, options, ids = dict(tensors), dict(config), dict(vocab)
        kind = rng.randrange(3)
        if kind == 0:
            name = rng.choice(list(state))
            state[name] = hostile_tensor(state[name], rng)
        part = options if kind == 1 else ids
        value: Any = rng.choice(
            [None, True, -1, 2**63, 10**30, 1.5, math.nan, math.inf, "", "x" * 10**5, [], {}, [[1]], "é"]
        )
        if kind > 0:
            part[rng.choice(list(part))] = value
        torch.save(state, files.weights)
        files.config.write_text(json.dumps(options))
        files.vocab.write_text(json.dumps(ids))
        found.append(outcome(partial(files.load, trunk=original.config.trunk)))
    assert found.count(None) > PER_KIND


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, "9" * 10_000, '{"d_model": ' + "9" * 10_000 + "}", '{"\ud800": 1}', "\0", "NaN", "null",
        '{"max_len": 1e999}', '{"num_heads": 18446744073709551616}',
    ],
)  # fmt: skip
def test_bad_json_of_published_weights_is_refused(text: str, tmp_path: Path) -> None:
    files = published_files(random_checkpoint(1, TINY), tmp_path / "published")
    for path in (files.config, files.vocab):
        good = path.read_bytes()
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(CheckpointError) as caught:
            load_published(files.weights, files.config, files.vocab, trunk=TINY.trunk)
        assert path.name in str(caught.value)
        path.write_bytes(good)
