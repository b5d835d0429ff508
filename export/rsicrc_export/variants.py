"""Other precisions of an exported folder: their graphs, and what they cost beside the exact ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.onnxruntime import OnnxRuntimeBackend
from rsicrc.engine import Engine
from rsicrc.errors import ExportError
from rsicrc.manifest import IMAGE_ENCODER, FileRecord, GraphSpec, Manifest, Variant
from rsicrc_export.calibration import Calibration
from rsicrc_export.quantise import quantise_activations, quantise_weights

INT8 = "int8"
PRECISIONS = (INT8,)
COSINE_TOLERANCE = 0.995  # of embeddings with the exact ones, on average
# How much less likely the exact model finds this precision's captions than its own, on average, in nats. Captions that
# are as good as each other change places at any rounding, so counting the equal ones says little.
LOSS_TOLERANCE = 0.1

Report = Callable[[str], None]


def check_installed() -> None:
    """Refuse, before any work is done, to quantise without NNCF.

    Raises:
        ExportError: it is not installed.
    """
    if importlib.util.find_spec("nncf") is None:
        raise ExportError("int8 needs NNCF, which is not installed: `pip install 'rsicrc[quantize]'`")


def add_int8(folder: Path, manifest: Manifest, calibration: Calibration, report: Report) -> Manifest:
    """Write the int8 graphs of a folder, and compare them with the exact ones.

    Args:
        folder: the model folder, complete but for this.
        manifest: its manifest.
        calibration: real pairs.
        report: gets a line of text now and then.

    Returns:
        The manifest with the variant.

    Raises:
        ExportError: int8 costs more than it may with this model.
    """
    graphs: dict[str, GraphSpec] = {}
    for name, graph in manifest.graphs.items():
        report(f"{name}: quantising to int8")
        target = folder / f"{name}.{INT8}.onnx"
        if name == IMAGE_ENCODER:
            quantise_activations(folder / graph.file, target, calibration.scaling)
        else:
            quantise_weights(folder / graph.file, target)
        graphs[name] = replace(graph, file=target.name)
    records = {graph.file: FileRecord.of(folder / graph.file) for graph in graphs.values()}
    manifest = replace(manifest, files={**manifest.files, **records}, variants={INT8: Variant(graphs)})
    figures = measure(folder, manifest, INT8, calibration.judging)
    cosines, loss = figures["image_embedding_cosine"], figures["caption_loss"]
    report(
        f"int8 on {len(calibration.judging)} pairs: cosine of the embeddings {cosines['mean']:.4f} "
        f"(least {cosines['least']:.4f}), same captions {figures['same_caption']:.0%}, all {loss:.3f} less likely"
    )
    _refuse_beyond(figures)
    cost = {
        "calibration": f"{len(calibration.scaling)} pairs of {calibration.source}",
        "compared_on": f"{len(calibration.judging)} other pairs of it, in ONNX Runtime",
        **figures,
    }
    return replace(manifest, variants={INT8: Variant(graphs, cost)})


def measure(folder: Path, manifest: Manifest, precision: str, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Compare a precision with the exact graphs on some pairs.

    Args:
        folder: the model folder.
        manifest: its manifest, with the variant.
        precision: which.
        images: uint8 [N, 2, size, size, 3].

    Returns:
        Cosines of image and text embeddings (mean, least), the share of pairs with the same caption, how much less
        likely the exact graphs find the others (mean over all pairs, nats), and by how much the log-probability of a
        word differs when both score the exact captions (mean, largest).
    """
    engines = [
        Engine(folder, each, OnnxRuntimeBackend(folder, each, None)) for each in (manifest, manifest.at(precision))
    ]
    pairs = [(before, after) for before, after in images]
    captions = [[caption.text for caption in engine.caption(pairs)] for engine in engines]
    texts = sorted({text for each in captions for text in each if text})
    place = {text: number for number, text in enumerate(texts)}
    cosines = [
        (exact * rounded).sum(axis=1)
        for exact, rounded in (
            [engine.embed_images(pairs) for engine in engines],
            [engine.embed_texts(texts) for engine in engines],
        )
    ]
    scores = [engine.score(pairs, texts) for engine in engines]
    both = [
        (row, place[ours], place[theirs])
        for row, (ours, theirs) in enumerate(zip(*captions, strict=True))
        if ours and theirs
    ]
    losses = [scores[0][row, ours] - scores[0][row, theirs] for row, ours, theirs in both]
    differences = [
        abs(scores[0][row, ours] - scores[1][row, ours]) / (len(texts[ours].split()) + 1) for row, ours, _ in both
    ]
    same = [ours == theirs for ours, theirs in zip(*captions, strict=True)]
    return {
        "image_embedding_cosine": _spread(cosines[0], np.min),
        "text_embedding_cosine": _spread(cosines[1], np.min),
        "same_caption": float(np.mean(same)),
        "caption_loss": float(np.mean(losses)) if losses else 0.0,
        "word_log_prob_difference": _spread(differences, np.max) if differences else {},
    }


def _spread(values: Any, extreme: Callable[[Any], Any]) -> dict[str, float]:
    name = "least" if extreme is np.min else "largest"
    return {"mean": float(np.mean(values)), name: float(extreme(values))}


def _refuse_beyond(figures: Mapping[str, Any]) -> None:
    problems = [
        f"{name.replace('_', ' ')} {figures[name]['mean']:.4f} (at least {COSINE_TOLERANCE})"
        for name in ("image_embedding_cosine", "text_embedding_cosine")
        if not figures[name]["mean"] >= COSINE_TOLERANCE
    ]
    if not figures["caption_loss"] <= LOSS_TOLERANCE:
        problems.append(f"captions {figures['caption_loss']:.3f} less likely (at most {LOSS_TOLERANCE})")
    if problems:
        raise ExportError(
            f"int8 costs too much with this model: {', '.join(problems)}; nothing is written. "
            "Calibrate with more pairs like those that the model is for, or leave --precision int8 out"
        )
