"""A short fuzzing run of each target. `make fuzz SECONDS=60` runs them longer, CI too."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest

from rsicrc.errors import ImageError
from tests.fuzz.mutation import mutate_bytes, mutate_json
from tests.fuzz.run import fuzz
from tests.fuzz.targets import Target, make_targets

# Inputs of each target, for less than ten seconds in total.
INPUTS = {"images": 500, "manifests": 300, "tokenizers": 300, "tables": 300, "conditions": 300, "checkpoints": 30}


@pytest.mark.parametrize("name", INPUTS)
def test_changed_files_raise_only_errors_of_rsicrc(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = fuzz(make_targets()[name](), tmp_path, seed=1, inputs=INPUTS[name])
    assert not report.faults, "\n".join(report.faults)
    assert report.refused > 0


def test_all_targets_are_tested() -> None:
    assert INPUTS.keys() == make_targets().keys()


def test_same_seed_gives_the_same_inputs() -> None:
    document = {"a": [1, 2, {"b": "c"}], "d": None}
    for mutate in (lambda rng: mutate_json(rng, document), lambda rng: mutate_bytes(rng, b"abc" * 9)):
        assert [mutate(random.Random(n)) for n in range(50)] == [mutate(random.Random(n)) for n in range(50)]
        assert len({mutate(random.Random(n)) for n in range(50)}) > 25
    assert document == {"a": [1, 2, {"b": "c"}], "d": None}


def test_faults_are_found_and_kept(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if path.read_bytes() == b"2":
            raise KeyError("a bug")
        raise ImageError("refused" if path.read_bytes() == b"1" else "x" * 9999)

    numbers = iter((b"1", b"2", b"3"))
    report = fuzz(Target("t", lambda rng: ("f", next(numbers)), read), tmp_path, seed=0, inputs=3)
    assert (report.accepted, report.refused, len(report.faults)) == (0, 2, 2)
    assert "KeyError: 'a bug'" in report.faults[0]
    assert "a message of 9999 characters" in report.faults[1]
    assert (tmp_path / "fault-1-f").read_bytes() == b"2"
