"""Additional precisions of a model folder: their graphs, and their accuracy compared with the float32 graphs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.onnxruntime import OnnxRuntimeBackend
from rsicrc.engine import Engine
from rsicrc.errors import ExportError, RsicrcError
from rsicrc.manifest import (
    BF16,
    FP16,
    GRAPH_NAMES,
    IMAGE_ENCODER,
    INT8,
    INT8_FP16,
    FileRecord,
    GraphSpec,
    Manifest,
    TensorSpec,
    Variant,
)
from rsicrc_export.bf16_emulation import round_results
from rsicrc_export.calibration import Calibration
from rsicrc_export.onnx_export import export_graph
from rsicrc_export.parity import parity_images
from rsicrc_export.qdq import quantize_half
from rsicrc_export.quantize import quantize_activations, quantize_weights
from rsicrc_train.model import RSICRC

logger = logging.getLogger("rsicrc.export")


@dataclass(frozen=True)
class Tolerance:
    """The largest loss of accuracy that a precision may have, on average over pairs.

    Attributes:
        cosine: Smallest allowed cosine of an embedding with the float32 embedding.
        loss: Largest allowed difference, in nats, between the log-probability of the float32 captions and that of this
            precision's captions, both computed in float32. The share of equal captions is no criterion: equally good
            captions change their order with any rounding.
    """

    cosine: float
    loss: float


TOLERANCES: Mapping[str, Tolerance] = {
    FP16: Tolerance(0.9995, 0.05),
    BF16: Tolerance(0.995, 0.1),
    INT8: Tolerance(0.995, 0.1),
    INT8_FP16: Tolerance(0.995, 0.1),
}


class PrecisionError(ExportError):
    """Some precisions cannot be written; the float32 graphs and the other precisions can be used.

    Attributes:
        precisions: The refused precisions.
        manifest: The manifest without the refused precisions.
    """

    def __init__(self, message: str, precisions: Collection[str], manifest: Manifest) -> None:
        super().__init__(message)
        self.precisions = tuple(precisions)
        self.manifest = manifest


def check_installed() -> None:
    """Check, before any work is done, that NNCF is installed, which int8 needs.

    Raises:
        ExportError: NNCF is not installed.
    """
    if importlib.util.find_spec("nncf") is None:
        raise ExportError("int8 needs NNCF, which is not installed: `pip install 'rsicrc[quantize]'`")


def add_variants(
    folder: Path,
    manifest: Manifest,
    model: RSICRC,
    precisions: Collection[str],
    calibration: Calibration | None,
) -> Manifest:
    """Write the graphs of more precisions into a folder, and compare them with the float32 graphs.

    Args:
        folder: The model folder with its float32 graphs.
        manifest: The manifest of the folder.
        model: The source of the folder.
        precisions: Any of fp16, bf16 and int8. int8 and fp16 together also add int8-fp16.
        calibration: Real pairs. int8 needs them; the other precisions are also compared on them.

    Returns:
        The manifest with the variants.

    Raises:
        PrecisionError: A precision loses more accuracy with this model than its tolerance allows, or its graphs cannot
            be made or run. The other precisions are complete, and no file of a refused one is left in the folder.
    """
    refused: dict[str, str] = {}

    def add(precision: str, write: Callable[[Manifest], Manifest]) -> None:
        nonlocal manifest
        try:
            manifest = write(manifest)
        except RsicrcError as error:
            reason = str(error)
            refused[precision] = reason if reason.startswith(f"{precision} ") else f"{precision}: {reason}"
            for file in folder.glob(f"*.{precision}.*"):
                file.unlink()

    for precision in (each for each in (FP16, BF16) if each in precisions):
        add(precision, lambda known, precision=precision: _add_half(folder, known, model, precision, calibration))  # type: ignore[misc]
    if INT8 in precisions:
        if calibration is None:
            raise TypeError("int8 needs calibration pairs")
        add(INT8, lambda known: _add_int8(folder, known, calibration))
        if FP16 in manifest.variants:
            add(INT8_FP16, lambda known: _add_int8_half(folder, known, calibration))
        if not {INT8, INT8_FP16}.isdisjoint(manifest.variants):
            producers = {**manifest.producers, "nncf": importlib.metadata.version("nncf")}
            manifest = replace(manifest, producers=producers)
    if refused:
        raise PrecisionError("; ".join(refused.values()), refused, manifest)
    return manifest


def _add_half(
    folder: Path, manifest: Manifest, model: RSICRC, precision: str, calibration: Calibration | None
) -> Manifest:
    graphs: dict[str, GraphSpec] = {}
    for name in GRAPH_NAMES:
        logger.info("%s: exporting in %s", name, precision)
        graphs[name], _ = export_graph(model, name, folder, precision)
    images = parity_images(manifest.preprocessing.size)
    compared_on = f"{len(images)} made-up pairs"
    if calibration is not None:
        images = np.concatenate([images, calibration.judging])
        compared_on += f" and {len(calibration.judging)} of {calibration.source}"
    return _add(folder, manifest, precision, graphs, images, {"compared_on": compared_on})


def _add_int8(folder: Path, manifest: Manifest, calibration: Calibration) -> Manifest:
    graphs: dict[str, GraphSpec] = {}
    for name, graph in manifest.graphs.items():
        logger.info("%s: quantizing to int8", name)
        target = folder / f"{name}.{INT8}.onnx"
        if name == IMAGE_ENCODER:
            quantize_activations(folder / graph.file, target, calibration.scaling)
        else:
            quantize_weights(folder / graph.file, target)
        graphs[name] = replace(graph, file=target.name)
    return _add(folder, manifest, INT8, graphs, calibration.judging, _provenance(calibration))


def _add_int8_half(folder: Path, manifest: Manifest, calibration: Calibration) -> Manifest:
    """Add int8-fp16: the image encoder in int8 for TensorRT, and the text graphs of fp16."""
    logger.info("%s: quantizing fp16 to int8", IMAGE_ENCODER)
    graphs = dict(manifest.variants[FP16].graphs)
    target = folder / f"{IMAGE_ENCODER}.{INT8_FP16}.onnx"
    quantize_half(folder / graphs[IMAGE_ENCODER].file, target, calibration.scaling)
    graphs[IMAGE_ENCODER] = replace(graphs[IMAGE_ENCODER], file=target.name)
    return _add(folder, manifest, INT8_FP16, graphs, calibration.judging, _provenance(calibration))


def _provenance(calibration: Calibration) -> dict[str, str]:
    return {
        "calibration": f"{len(calibration.scaling)} pairs of {calibration.source}",
        "compared_on": f"{len(calibration.judging)} other pairs of it",
    }


def _add(
    folder: Path,
    manifest: Manifest,
    precision: str,
    graphs: Mapping[str, GraphSpec],
    images: NDArray[np.uint8],
    provenance: Mapping[str, str],
) -> Manifest:
    """Compare written graphs of a precision with the float32 graphs, and return the manifest with both."""
    exact = Engine(folder, manifest, OnnxRuntimeBackend(folder, manifest, None))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        other = open_engine(folder, manifest, precision, graphs, Path(scratch))
        metrics = measure(exact, other, images)
    cosines, loss = metrics["image_embedding_cosine"], metrics["caption_loss"]
    logger.info(
        "%s on %s: cosine of the embeddings %.5f (least %.5f), same captions %.0f%%, loss of all captions %.3f nats",
        precision,
        provenance["compared_on"],
        cosines["mean"],
        cosines["least"],
        100 * metrics["same_caption"],
        loss,
    )
    _check_tolerance(precision, metrics)
    rounded = ", each result in float32 rounded to bfloat16" if precision == BF16 else ""
    parity = {**provenance, "compared_in": f"ONNX Runtime on a CPU{rounded}", **metrics}
    records = {graph.file: FileRecord.of(folder / graph.file) for graph in graphs.values()}
    return replace(
        manifest,
        files={**manifest.files, **records},
        variants={**manifest.variants, precision: Variant(graphs, parity)},
    )


def open_engine(
    folder: Path, manifest: Manifest, precision: str, graphs: Mapping[str, GraphSpec], scratch: Path
) -> Engine:
    """Return an engine for the graphs of a precision; bf16 is emulated, because ONNX Runtime has no kernels for it.

    Args:
        folder: The model folder.
        manifest: The manifest of the folder.
        precision: The precision.
        graphs: The graphs in the precision.
        scratch: Folder for the graphs that emulate bf16.
    """
    directory = folder
    if precision == BF16:
        directory = scratch
        for name, graph in graphs.items():
            round_results(folder / graph.file, scratch / graph.file)
            graphs = {**graphs, name: replace(graph, inputs=_as_float(graph.inputs), outputs=_as_float(graph.outputs))}
    manifest = replace(manifest, precision=precision, graphs=graphs, variants={})
    return Engine(folder, manifest, OnnxRuntimeBackend(directory, manifest, None))


def _as_float(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    return {name: replace(spec, dtype="float32") if spec.dtype == "bfloat16" else spec for name, spec in specs.items()}


def measure(exact: Engine, other: Engine, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Compare a precision with the float32 graphs.

    Args:
        exact: Engine with the float32 graphs.
        other: Engine with the graphs of the precision.
        images: The pairs, uint8 [N, 2, size, size, 3].

    Returns:
        Cosines of image and text embeddings (mean, least); the share of pairs with the same caption; the mean loss of
        log-probability of the other captions in the float32 model, in nats; and the difference per token when both
        engines score the float32 captions (mean, largest), in nats.
    """
    engines = (exact, other)
    pairs = [(before, after) for before, after in images]
    longest = exact.manifest.max_len - 1  # leaves a position for END, which is scored too
    captions = [[caption.text for caption in engine.caption(pairs, max_length=longest)] for engine in engines]
    texts = sorted({text for each in captions for text in each if text})
    column = {text: number for number, text in enumerate(texts)}
    cosines = [
        (first * second).sum(axis=1)
        for first, second in (
            [engine.embed_images(pairs) for engine in engines],
            [engine.embed_texts(texts) for engine in engines],
        )
    ]
    scores = [engine.score(pairs, texts) for engine in engines]
    both = [
        (row, column[ours], column[theirs])
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


def _check_tolerance(precision: str, metrics: Mapping[str, Any]) -> None:
    """Raise an ExportError if a precision loses more accuracy than its tolerance allows."""
    allowed = TOLERANCES[precision]
    problems = [
        f"{name.replace('_', ' ')} {metrics[name]['mean']:.4f} (at least {allowed.cosine})"
        for name in ("image_embedding_cosine", "text_embedding_cosine")
        if not metrics[name]["mean"] >= allowed.cosine
    ]
    if not metrics["caption_loss"] <= allowed.loss:
        problems.append(f"caption loss {metrics['caption_loss']:.3f} nats (at most {allowed.loss})")
    if problems:
        remedy = f"export without --precision {precision}"
        if precision in (INT8, INT8_FP16):
            remedy = "calibrate with more pairs of the intended kind, or export without --precision int8"
        raise ExportError(f"{precision} loses too much accuracy with this model: {', '.join(problems)}: {remedy}")
