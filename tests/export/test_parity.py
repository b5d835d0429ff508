"""The parity check on weights that amplify rounding: a correct export passes, and planted errors are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rsicrc.backends.onnxruntime import OnnxRuntimeBackend
from rsicrc.errors import ExportError
from rsicrc.manifest import Manifest
from rsicrc_export import parity, rounding
from rsicrc_export.model_folder import export_checkpoint
from rsicrc_export.parity import check_parity
from rsicrc_export.rounding import FACTOR, compare_rounding
from rsicrc_export.source import Source
from rsicrc_train import checkpoint
from rsicrc_train.checkpoint import Checkpoint
from rsicrc_train.config import TrunkConfig
from rsicrc_train.model import RSICRC
from tests.models import random_checkpoint, with_options

VIT = TrunkConfig("clip_vit", (2,), width=32, heads=2, patch=16, image_size=64)


def amplifying_checkpoint() -> Checkpoint:
    """Return random weights that are so large that rounding exceeds the fixed tolerances."""
    source = random_checkpoint(21, with_options(trunk=VIT, d_model=32, learnable=True))
    weights = {name: value * 2 if value.ndim > 1 else value for name, value in source.state_dict.items()}
    return replace(source, state_dict=weights)


@pytest.fixture(scope="module")
def small(model_folder: Path, checkpoint_file: Path) -> tuple[Path, Checkpoint]:
    return model_folder, checkpoint.load(checkpoint_file)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    folder, source = tmp_path_factory.mktemp("large") / "model", amplifying_checkpoint()
    export_checkpoint(Source(source, "0" * 64), folder)
    return folder, source


def check(folder: Path, model: RSICRC) -> None:
    manifest = Manifest.load(folder)
    check_parity(model, manifest, OnnxRuntimeBackend(folder, manifest, 1))


def test_correct_export_of_amplifying_weights_passes(large: tuple[Path, Checkpoint]) -> None:
    folder, _ = large
    comparisons = [entry for each in Manifest.load(folder).parity["comparisons"].values() for entry in each]
    assert {entry["rule"] for entry in comparisons} == {"tolerance", "float64"}
    for entry in comparisons:
        assert (entry["largest_difference"] > entry["tolerance"]) == (entry["rule"] == "float64")
        if entry["rule"] == "float64":
            for name in ("largest", "median"):
                assert entry["graph_from_float64"][name] <= entry["allowed_from_float64"][name]
            assert entry["model_from_float64"]["largest"] > 0


# ---- planted errors


def parameter(model: RSICRC, name: str) -> torch.Tensor:
    tensor: torch.Tensor = model.state_dict()[name]
    return tensor


def swap_query_and_key(name: str) -> Callable[[RSICRC], None]:
    def plant(model: RSICRC) -> None:
        query, key, _ = parameter(model, name).chunk(3)
        saved = query.clone()
        query.copy_(key)
        key.copy_(saved)

    return plant


def swap_key_and_value(name: str) -> Callable[[RSICRC], None]:
    def plant(model: RSICRC) -> None:
        _, key, value = parameter(model, name).chunk(3)
        saved = key.clone()
        key.copy_(value)
        value.copy_(saved)

    return plant


def swap(first: str, second: str) -> Callable[[RSICRC], None]:
    def plant(model: RSICRC) -> None:
        saved = parameter(model, first).clone()
        parameter(model, first).copy_(parameter(model, second))
        parameter(model, second).copy_(saved)

    return plant


def drop(name: str) -> Callable[[RSICRC], object]:
    return lambda model: parameter(model, name).zero_()


def transpose(name: str) -> Callable[[RSICRC], object]:
    return lambda model: parameter(model, name).copy_(parameter(model, name).transpose(-1, -2).clone())


def scale(name: str) -> Callable[[RSICRC], object]:
    return lambda model: parameter(model, name).mul_(1.01)


def shift_positions(model: RSICRC) -> None:
    model.decoder.positions.copy_(model.decoder.positions.roll(1, dims=0))


def shift_rows(model: RSICRC) -> None:
    rows = parameter(model, "encoder.row_embedding.weight")
    rows.copy_(rows.roll(1, dims=0))


FAULTS = {
    "fusion query and key": swap(
        "encoder.fusion.0.pair.attention.query.weight", "encoder.fusion.0.pair.attention.key.weight"
    ),
    "cross-attention query and key": swap_query_and_key("decoder.multimodal.0.cross_attention.in_proj_weight"),
    "cross-attention key and value": swap_key_and_value("decoder.multimodal.0.cross_attention.in_proj_weight"),
    "text key and value": swap_key_and_value("decoder.unimodal.0.self_attention.in_proj_weight"),
    "pool key and value": swap_key_and_value("encoder.pool.attention.in_proj_weight"),
    "bias of the merge": drop("encoder.merge.bias"),
    "bias of the fusion": drop("encoder.fusion.0.date.feed_forward.0.bias"),
    "bias of the residual block": drop("encoder.residual.left.6.bias"),
    "bias of the pool": drop("encoder.pool.norm.bias"),
    "bias of a text layer": drop("decoder.unimodal.0.feed_forward.3.bias"),
    "bias of a multimodal layer": drop("decoder.multimodal.0.feed_forward.0.bias"),
    "3×3 kernel": transpose("encoder.residual.left.3.weight"),
    "kernel of the trunk": transpose("encoder.trunk.visual.conv1.weight"),
    "square matrix": transpose("decoder.multimodal.0.self_attention.out_proj.weight"),
    "text positions": shift_positions,
    "row positions": shift_rows,
    "scaled fusion": scale("encoder.fusion.0.date.feed_forward.3.weight"),
    "scaled merge": scale("encoder.merge.weight"),
    "scaled residual block": scale("encoder.residual.left.0.weight"),
    "scaled cross-attention": scale("decoder.multimodal.0.cross_attention.in_proj_weight"),
    "scaled text layer": scale("decoder.unimodal.0.feed_forward.0.weight"),
    "scaled output layer": scale("decoder.output.weight"),
}


@pytest.mark.parametrize("weights", ["small", "large"])
@pytest.mark.parametrize("plant", FAULTS.values(), ids=FAULTS.keys())
def test_planted_error_is_refused(
    weights: str, plant: Callable[[RSICRC], None], request: pytest.FixtureRequest
) -> None:
    folder, source = request.getfixturevalue(weights)
    model = source.build_model().requires_grad_(False)
    plant(model)
    with pytest.raises(ExportError, match="the graphs do not equal the PyTorch model"):
        check(folder, model)


# ---- the rule


def test_float64_is_computed_only_where_a_tolerance_is_broken(
    small: tuple[Path, Checkpoint], large: tuple[Path, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[RSICRC] = []

    class Recorded(rounding.References):
        @property
        def double(self) -> RSICRC:
            made.append(super().double)
            return made[-1]

    monkeypatch.setattr(parity, "References", Recorded)
    check(small[0], small[1].build_model().requires_grad_(False))
    assert made == []
    check(large[0], large[1].build_model().requires_grad_(False))
    assert next(made[0].parameters()).dtype == torch.float64


def test_distance_beyond_that_of_float32_is_refused() -> None:
    model = np.abs(np.random.default_rng(0).normal(0.0, 1e-2, 100))
    assert compare_rounding(0.9 * FACTOR * model, [model], 1e-3).passed
    assert not compare_rounding(1.2 * FACTOR * model, [model], 1e-3).passed
    assert compare_rounding(1.2 * FACTOR * model, [model, 2 * model], 1e-3).passed
    # The largest distance of the float32 model would cover an error of all inputs; its median does not.
    outlier = np.array([1e-4] * 99 + [1.0])
    assert not compare_rounding(outlier + 1e-2, [outlier], 1e-3).passed
    assert not compare_rounding(np.array([np.nan, 0.0]), [np.ones(2)], 1e-3).passed
    assert not compare_rounding(np.ones(2), [np.array([np.nan, 0.0])], 1e-3).passed


@torch.no_grad()
def test_model_in_float64_uses_exact_pixels() -> None:
    """The reference must not contain the rounding of the float32 normalization of pixels."""
    model = random_checkpoint(0).build_model()
    images = torch.from_numpy(parity.example_images(1, model.config.image_trunk.image_size))
    inputs: list[torch.Tensor] = []
    double = rounding.References(model).double
    double.encoder.trunk.register_forward_pre_hook(lambda _module, values: inputs.append(values[0]))
    double.encode_images(images)
    pixels = images.transpose(0, 1).flatten(0, 1).double()
    expected = ((pixels / 255 - double.encoder.mean) / double.encoder.std).permute(0, 3, 1, 2)
    torch.testing.assert_close(inputs[0], expected, rtol=1e-14, atol=1e-14)
    assert model.encoder.mean.dtype == torch.float32
