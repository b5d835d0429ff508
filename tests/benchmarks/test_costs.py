"""Parameters and multiply-accumulates counted from the exported ONNX files."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsicrc.manifest import DECODER, GRAPH_NAMES, IMAGE_ENCODER

pytest.importorskip("onnx", reason="needs rsicrc[export]")

SIZES = {"B": 2, "K": 3, "P": 36, "n": 9, "N": 5}


def test_graphs_read_every_weight_once(model_folder: Path) -> None:
    from common.costs import graph_cost

    for name in GRAPH_NAMES:
        reads = graph_cost(model_folder / f"{name}.onnx", SIZES).reads
        assert set(reads.values()) == {1}, name


def test_decoder_step_costs_its_layers_only(model_folder: Path) -> None:
    """A step computes its layers for B·K tokens, and no products for the projections of the first layer."""
    from common.costs import graph_cost

    from tests.models import SMALL, VOCABULARY

    d, rows, layers, slots = SMALL.d_model, SIZES["B"] * SIZES["K"], 2, SIZES["P"]
    visual_tokens = SMALL.image_trunk.map_size**2
    first, second, cross, feed_forward = d * d, 4 * d * d, 2 * d * d, 8 * d * d
    attention = layers * 2 * slots * d + 2 * visual_tokens * d
    macs = rows * (first + second + cross + 2 * feed_forward + d * len(VOCABULARY) + attention)
    assert graph_cost(model_folder / "decoder.onnx", SIZES).macs == macs


@pytest.mark.slow
def test_published_size_stays_within_its_limits(tmp_path: Path) -> None:
    """At most 195 M parameters and 24 GMAC per pair, and the decoder step reads each weight once."""
    import torch
    from common.costs import graph_cost

    from rsicrc_export.onnx_export import export_graph
    from rsicrc_train.config import ModelConfig
    from rsicrc_train.model import RSICRC

    config = ModelConfig()
    with torch.no_grad():
        model = RSICRC(config, 468).eval()
        for name in (IMAGE_ENCODER, DECODER):
            export_graph(model, name, tmp_path)
    image = graph_cost(tmp_path / "image_encoder.onnx", {"B": 1})
    print(f"image encoder: {image.parameters / 1e6:.1f} M parameters, {image.macs / 1e9:.2f} GMAC per pair")
    assert image.parameters <= 195e6
    assert image.macs <= 24e9
    step = graph_cost(tmp_path / "decoder.onnx", {"B": 1, "K": 5, "P": 5 * config.max_len})
    print(f"decoder: {step.parameters / 1e6:.1f} M parameters, {step.macs / 1e9:.3f} GMAC per step of 5 beams")
    assert set(step.reads.values()) == {1}
    assert step.parameters <= 101e6
