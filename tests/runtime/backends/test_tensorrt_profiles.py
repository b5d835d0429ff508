from __future__ import annotations

from pathlib import Path

import pytest

from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import ArgumentError
from rsicrc.manifest import DECODER, IMAGE_ENCODER, SCORER, TEXT_ENCODER, GraphSpec, Manifest, TensorSpec
from tests.models import SMALL


@pytest.fixture(scope="module")
def manifest(model_folder: Path) -> Manifest:
    return Manifest.load(model_folder)


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("1:8:64,1:3:8", Profile((1, 8, 64), (1, 3, 8))),
        ("2:4:16", Profile((2, 4, 16))),
        ("32, 5", Profile((32, 32, 32), (5, 5, 5))),
    ],
)
def test_written_and_read(text: str, profile: Profile) -> None:
    assert Profile.parse(text) == profile
    assert Profile.parse(str(profile)) == profile
    assert Profile.from_dict(profile.to_dict()) == profile


@pytest.mark.parametrize("text", ["", "1:8", "1:8:64,1:3:8,2", "a", "1:8:64,", "-1:2:3"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"write MIN:OPT:MAX pairs"):
        Profile.parse(text)


@pytest.mark.parametrize("text", ["0:1:2", "8:4:16", "1:8:4", "1:2:3,4:3:5"])
def test_a_profile_rises(text: str) -> None:
    with pytest.raises(ArgumentError, match="must be MIN:OPT:MAX with"):
        Profile.parse(text)


def test_a_plan_runs_what_lies_within_its_profile() -> None:
    wide = Profile((1, 8, 64), (1, 3, 8))
    assert wide.admits(Profile((1, 1, 32), (5, 5, 5)))
    assert not wide.admits(Profile((1, 8, 65), (1, 3, 8)))
    assert not Profile((2, 8, 64), (1, 3, 8)).admits(wide)
    assert not wide.admits(Profile((1, 8, 64), (1, 3, 9)))


def test_the_decoder_has_caches_of_full_length(manifest: Manifest) -> None:
    shapes = Profile((1, 8, 64), (1, 3, 5)).shapes(DECODER, manifest.graphs[DECODER], manifest.max_len)
    places = [(SMALL.max_len - 1) * beams for beams in (1, 3, 5)]
    assert [shape[0::2] for shape in shapes["self_keys_0"]] == list(zip((1, 8, 64), places, strict=True))
    assert shapes["lineage"][2] == (64, 5, places[2])
    assert shapes["done"] == ((1,), (8,), (64,))
    assert not {"position", "length_penalty", "max_length"} & shapes.keys()  # numbers do not vary


def test_sentences_are_counted_apart_from_pairs(manifest: Manifest) -> None:
    profile = Profile((2, 4, 16))
    texts, scorer, images = (
        profile.shapes(name, manifest.graphs[name], manifest.max_len) for name in (TEXT_ENCODER, SCORER, IMAGE_ENCODER)
    )
    assert (texts["input_ids"][0], texts["input_ids"][2]) == ((1, 2), (256, SMALL.max_len))
    assert (scorer["input_ids"][0], scorer["input_ids"][2]) == ((1, 2), (256, SMALL.max_len))
    assert [shape[0] for shape in scorer["cross_keys_0"]] == [2, 4, 16]
    assert [shape[0] for shape in images["images"]] == [2, 4, 16]


def test_an_axis_that_no_profile_knows_is_refused() -> None:
    graph = GraphSpec("odd.onnx", {"x": TensorSpec("float32", ("B", "Z"))}, {})
    with pytest.raises(ArgumentError, match="x varies in Z"):
        Profile().shapes("odd", graph, 12)
