"""Other precisions of an exported folder: their graphs, and what they cost beside the exact ones."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.onnxruntime import OnnxRuntimeBackend
from rsicrc.engine import Engine
from rsicrc.errors import ExportError
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

Report = Callable[[str], None]


@dataclass(frozen=True)
class Tolerance:
    """What a precision may cost, on average over pairs.

    Attributes:
        cosine: of an embedding with the exact one, at least.
        loss: how much less likely the exact model finds this precision's captions than its own, in nats, at most.
            Captions that are as good as each other change places at any rounding, so counting the equal ones says
            little.
    """

    cosine: float
    loss: float


TOLERANCES: Mapping[str, Tolerance] = {
    FP16: Tolerance(0.9995, 0.05),
    BF16: Tolerance(0.995, 0.1),
    INT8: Tolerance(0.995, 0.1),
    INT8_FP16: Tolerance(0.995, 0.1),
}


def check_installed() -> None:
    """Refuse, before any work is done, to quantize without NNCF.

    Raises:
        ExportError: it is not installed.
    """
    if importlib.util.find_spec("nncf") is None:
        raise ExportError("int8 needs NNCF, which is not installed: `pip install 'rsicrc[quantize]'`")


def add_variants(
    folder: Path,
    manifest: Manifest,
    model: RSICRC,
    precisions: Collection[str],
    calibration: Calibration | None,
    report: Report,
) -> Manifest:
    """Write the graphs of other precisions into a folder, and compare them with the exact ones.

    Args:
        folder: the model folder, complete but for this.
        manifest: its manifest.
        model: what the folder was made from.
        precisions: of fp16, bf16 and int8; int8 and fp16 together bring int8-fp16 too.
        calibration: real pairs; int8 needs them, the others are compared on them too.
        report: gets a line of text now and then.

    Returns:
        The manifest with the variants.

    Raises:
        ExportError: a precision costs more than it may with this model.
    """
    for precision in (each for each in (FP16, BF16) if each in precisions):
        manifest = _add_half(folder, manifest, model, precision, calibration, report)
    if INT8 in precisions:
        if calibration is None:
            raise TypeError("int8 needs calibration pairs")
        manifest = _add_int8(folder, manifest, calibration, report)
        if FP16 in precisions:
            manifest = _add_int8_half(folder, manifest, calibration, report)
        producers = {**manifest.producers, "nncf": importlib.metadata.version("nncf")}
        manifest = replace(manifest, producers=producers)
    return manifest


def _add_half(
    folder: Path, manifest: Manifest, model: RSICRC, precision: str, calibration: Calibration | None, report: Report
) -> Manifest:
    graphs: dict[str, GraphSpec] = {}
    for name in GRAPH_NAMES:
        report(f"{name}: exporting in {precision}")
        graphs[name], _ = export_graph(model, name, folder, precision)
    images = parity_images(manifest.preprocessing.size)
    compared_on = f"{len(images)} made-up pairs"
    if calibration is not None:
        images = np.concatenate([images, calibration.judging])
        compared_on += f" and {len(calibration.judging)} of {calibration.source}"
    return _add(folder, manifest, precision, graphs, images, {"compared_on": compared_on}, report)


def _add_int8(folder: Path, manifest: Manifest, calibration: Calibration, report: Report) -> Manifest:
    graphs: dict[str, GraphSpec] = {}
    for name, graph in manifest.graphs.items():
        report(f"{name}: quantizing to int8")
        target = folder / f"{name}.{INT8}.onnx"
        if name == IMAGE_ENCODER:
            quantize_activations(folder / graph.file, target, calibration.scaling)
        else:
            quantize_weights(folder / graph.file, target)
        graphs[name] = replace(graph, file=target.name)
    return _add(folder, manifest, INT8, graphs, calibration.judging, _provenance(calibration), report)


def _add_int8_half(folder: Path, manifest: Manifest, calibration: Calibration, report: Report) -> Manifest:
    """The image encoder in int8 as TensorRT takes it; the graphs of words are those of fp16."""
    report(f"{IMAGE_ENCODER}: quantizing fp16 to int8")
    graphs = dict(manifest.variants[FP16].graphs)
    target = folder / f"{IMAGE_ENCODER}.{INT8_FP16}.onnx"
    quantize_half(folder / graphs[IMAGE_ENCODER].file, target, calibration.scaling)
    graphs[IMAGE_ENCODER] = replace(graphs[IMAGE_ENCODER], file=target.name)
    return _add(folder, manifest, INT8_FP16, graphs, calibration.judging, _provenance(calibration), report)


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
    report: Report,
) -> Manifest:
    """Compare the graphs of a precision, which are written, with the exact ones → the manifest with both."""
    exact = Engine(folder, manifest, OnnxRuntimeBackend(folder, manifest, None))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        other = _engine(folder, manifest, precision, graphs, Path(scratch))
        figures = measure(exact, other, images)
    cosines, loss = figures["image_embedding_cosine"], figures["caption_loss"]
    report(
        f"{precision} on {provenance['compared_on']}: cosine of the embeddings {cosines['mean']:.5f} "
        f"(least {cosines['least']:.5f}), same captions {figures['same_caption']:.0%}, all {loss:.3f} less likely"
    )
    _refuse_beyond(precision, figures)
    rounded = ", each result in float32 rounded to bfloat16" if precision == BF16 else ""
    cost = {**provenance, "compared_in": f"ONNX Runtime on a CPU{rounded}", **figures}
    records = {graph.file: FileRecord.of(folder / graph.file) for graph in graphs.values()}
    return replace(
        manifest,
        files={**manifest.files, **records},
        variants={**manifest.variants, precision: Variant(graphs, cost)},
    )


def _engine(folder: Path, manifest: Manifest, precision: str, graphs: Mapping[str, GraphSpec], scratch: Path) -> Engine:
    """What runs the graphs of a precision on this machine. Of bfloat16 few processors know, ONNX Runtime's nothing."""
    place = folder
    if precision == BF16:
        place = scratch
        for name, graph in graphs.items():
            round_results(folder / graph.file, scratch / graph.file)
            graphs = {**graphs, name: replace(graph, inputs=_as_float(graph.inputs), outputs=_as_float(graph.outputs))}
    manifest = replace(manifest, precision=precision, graphs=graphs, variants={})
    return Engine(folder, manifest, OnnxRuntimeBackend(place, manifest, None))


def _as_float(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    return {name: replace(spec, dtype="float32") if spec.dtype == "bfloat16" else spec for name, spec in specs.items()}


def measure(exact: Engine, other: Engine, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Compare a precision with the exact graphs on some pairs.

    Args:
        exact: runs the exact graphs.
        other: runs those of the precision.
        images: uint8 [N, 2, size, size, 3].

    Returns:
        Cosines of image and text embeddings (mean, least), the share of pairs with the same caption, how much less
        likely the exact graphs find the others (mean over all pairs, nats), and by how much the log-probability of a
        word differs when both score the exact captions (mean, largest).
    """
    engines = (exact, other)
    pairs = [(before, after) for before, after in images]
    longest = exact.manifest.max_len - 1  # END has a place in every caption: it is scored with it
    captions = [[caption.text for caption in engine.caption(pairs, max_length=longest)] for engine in engines]
    texts = sorted({text for each in captions for text in each if text})
    place = {text: number for number, text in enumerate(texts)}
    cosines = [
        (first * second).sum(axis=1)
        for first, second in (
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


def _refuse_beyond(precision: str, figures: Mapping[str, Any]) -> None:
    allowed = TOLERANCES[precision]
    problems = [
        f"{name.replace('_', ' ')} {figures[name]['mean']:.4f} (at least {allowed.cosine})"
        for name in ("image_embedding_cosine", "text_embedding_cosine")
        if not figures[name]["mean"] >= allowed.cosine
    ]
    if not figures["caption_loss"] <= allowed.loss:
        problems.append(f"captions {figures['caption_loss']:.3f} less likely (at most {allowed.loss})")
    if problems:
        remedy = f"leave --precision {precision} out"
        if precision in (INT8, INT8_FP16):
            remedy = "calibrate with more pairs like those that the model is for, or leave --precision int8 out"
        raise ExportError(
            f"{precision} costs too much with this model: {', '.join(problems)}; nothing is written: {remedy}"
        )
