"""Seeded mutations of bytes and of JSON documents."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

# JSON texts that a reader may not expect in place of a value.
HOSTILE_JSON = (
    *("null", "true", "false", "0", "-1", "1", "1.5", "NaN", "Infinity", "-Infinity", "1e999", "-0.0", "1e-320"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 5000, "4294967296", "1000000000"),
    *('""', '" "', '"x"', '"../x"', '"/etc/passwd"', '"a\\u0000b"', '"\\ud800"', '"\\u001b[2J"', '"\\u202e"'),
    *("[]", "{}", "[1, 2]", "[[]]", '["a", "a"]', '{"a": {"b": 1}}', '{"": null}', "[" * 500 + "]" * 500, "[1,]"),
    *('"' + "x" * 5000 + '"', "[" + "0," * 5000 + "0]", '"float64"', '"B"', '"n - 1"', '["B", "K"]', "0x10", "'a'"),
)
_TOKENS = (
    *(b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b'"', b"'", b"`", b",", b";", b"\t", b"\n", b"\r\n", b"{", b"}", b"[", b"]", b"(", b")", b"\\", b"\xed\xa0\x80"),
    *(b"NaN", b"1e999", b"-1", b"9" * 30, b"\x1b[2J", b"../", b"null", b" and ", b" or ", b"not ", b"--", b"/*"),
)
_MARK = "\x00hostile\x00"


def mutate_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Return bytes with one to eight changes: flips, insertions, removals, repetitions, and parts of another input."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        changed = rng.choice(_BYTE_CHANGES)(rng, changed, other)
    return bytes(changed[:1_000_000])


def mutate_json(rng: random.Random, document: Any) -> str:
    """Return the text of a JSON document with one to three changed, removed, repeated or moved values."""
    changed = copy.deepcopy(document)
    hostile: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder, key = _place(rng, changed)
        if holder is None:
            continue
        action = rng.random()
        if action < 0.15:
            del holder[key]
        elif action < 0.3 and isinstance(holder, dict):
            holder[rng.choice(("", "x", "../x", "a\x00b", "\ud800", "x" * 5000, str(key) + " "))] = holder.pop(key)
        elif action < 0.4:
            other, name = _place(rng, changed)
            if other is not None:
                holder[key] = copy.deepcopy(other[name])
        elif action < 0.5 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = _near(rng, holder[key])
        else:
            holder[key] = _MARK
            hostile.append(rng.choice(HOSTILE_JSON))
    text = json.dumps(changed)
    mark = json.dumps(_MARK)
    for value in hostile:
        text = text.replace(mark, value, 1)
    if rng.random() < 0.05:
        text = mutate_bytes(rng, text.encode()).decode("utf-8", "replace")
    elif rng.random() < 0.05 and text.startswith("{") and len(text) > 2:
        text = f"{text[:-1]}, {text[1:]}"  # every key twice
    return text


def _place(rng: random.Random, document: Any) -> tuple[Any, Any]:
    """Choose a value of a document by walking down; return its holder and key."""
    holder, key, value = None, None, document
    while isinstance(value, (dict, list)) and value and (holder is None or rng.random() < 0.8):
        holder = value
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value = holder[key]
    return holder, key


def _near(rng: random.Random, value: float) -> float:
    return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value / 2, value * 10**12, 0))


def _flip(rng: random.Random, data: bytearray, _: bytes) -> bytearray:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _overwrite(rng: random.Random, data: bytearray, _: bytes) -> bytearray:
    token = rng.choice(_TOKENS)
    start = rng.randrange(len(data) + 1)
    data[start : start + len(token)] = token
    return data


def _insert(rng: random.Random, data: bytearray, _: bytes) -> bytearray:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.choice(_TOKENS) * rng.choice((1, 1, 1, 2, 100))
    return data


def _remove(rng: random.Random, data: bytearray, _: bytes) -> bytearray:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 1, 4, 16, 256, 65536))]
    return data


def _repeat(rng: random.Random, data: bytearray, _: bytes) -> bytearray:
    start = rng.randrange(len(data) + 1)
    part = bytes(data[start : start + rng.choice((1, 4, 16, 256))])
    data[start:start] = part * rng.choice((1, 2, 50))
    return data


def _splice(rng: random.Random, data: bytearray, other: bytes) -> bytearray:
    start = rng.randrange(len(other) + 1)
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((0, 4, 64))] = other[start : start + rng.choice((1, 4, 16, 256, 4096))]
    return data


_BYTE_CHANGES: Sequence[Callable[[random.Random, bytearray, bytes], bytearray]] = (
    *(_flip, _flip, _flip, _overwrite, _overwrite, _insert, _remove, _repeat, _splice),
)
