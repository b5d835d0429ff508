from __future__ import annotations

from pathlib import Path

import pytest

from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import ArgumentError
from rsicrc.manifest import DECODER, IMAGE_ENCODER, SCORER, TEXT_ENCODER, GraphSpec, Manifest, TensorSpec


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
def test_profile_is_parsed_and_written(text: str, profile: Profile) -> None:
    assert Profile.parse(text) == profile
    assert Profile.parse(str(profile)) == profile
    assert Profile.from_dict(profile.to_dict()) == profile


@pytest.mark.parametrize("text", ["", "1:8", "1:8:64,1:3:8,2", "a", "1:8:64,", "-1:2:3"])
def test_profile_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"write MIN:OPT:MAX pairs"):
        Profile.parse(text)


@pytest.mark.parametrize("text", ["0:1:2", "8:4:16", "1:8:4", "1:2:3,4:3:5"])
def test_profile_that_does_not_increase_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="must be MIN:OPT:MAX with"):
        Profile.parse(text)


def test_profile_covers_smaller_profiles() -> None:
    wide = Profile((1, 8, 64), (1, 3, 8))
    assert wide.covers(Profile((1, 1, 32), (5, 5, 5)))
    assert not wide.covers(Profile((1, 8, 65), (1, 3, 8)))
    assert not Profile((2, 8, 64), (1, 3, 8)).covers(wide)
    assert not wide.covers(Profile((1, 8, 64), (1, 3, 9)))


def test_decoder_caches_have_full_length(manifest: Manifest) -> None:
    shapes = Profile((1, 8, 64), (1, 3, 5)).shapes(DECODER, manifest.graphs[DECODER], manifest.max_len)
    slots = [(manifest.max_len - 1) * beams for beams in (1, 3, 5)]
    assert [shape[0::2] for shape in shapes["self_keys_0"]] == list(zip((1, 8, 64), slots, strict=True))
    assert shapes["lineage"][2] == (64, 5, slots[2])
    assert shapes["done"] == ((1,), (8,), (64,))
    assert not {"position", "length_penalty", "max_length"} & shapes.keys()  # scalars have no variable axis


def test_sentences_do_not_depend_on_the_number_of_pairs(manifest: Manifest) -> None:
    profile = Profile((2, 4, 16))
    texts, scorer, images = (
        profile.shapes(name, manifest.graphs[name], manifest.max_len) for name in (TEXT_ENCODER, SCORER, IMAGE_ENCODER)
    )
    assert (texts["input_ids"][0], texts["input_ids"][2]) == ((1, 2), (256, manifest.max_len))
    assert (scorer["input_ids"][0], scorer["input_ids"][2]) == ((1, 2), (256, manifest.max_len))
    assert [shape[0] for shape in scorer["cross_keys_0"]] == [2, 4, 16]
    assert [shape[0] for shape in images["images"]] == [2, 4, 16]


def test_unknown_axis_is_refused() -> None:
    graph = GraphSpec("odd.onnx", {"x": TensorSpec("float32", ("B", "Z"))}, {})
    with pytest.raises(ArgumentError, match="x has the axis Z, which profiles do not support"):
        Profile().shapes("odd", graph, 12)
