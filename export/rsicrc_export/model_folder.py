"""Model folders: written next to the target, compared with the model, then moved into place."""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rsicrc.backends.onnx_file import check_graphs
from rsicrc.backends.onnxruntime import OnnxRuntimeBackend
from rsicrc.errors import CheckpointError, ExportError
from rsicrc.manifest import GOLDEN_FILE, GRAPH_NAMES, INT8, TOKENIZER_FILE, FileRecord, Manifest
from rsicrc.text.change_calibration import ChangeCalibration
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_export.calibration import read_calibration
from rsicrc_export.golden import write_golden
from rsicrc_export.onnx_export import export_graph
from rsicrc_export.parity import check_parity
from rsicrc_export.precisions import PrecisionError, add_variants, check_installed
from rsicrc_export.source import Source
from rsicrc_train.calibration import CHANGE_CALIBRATION
from rsicrc_train.checkpoint import Checkpoint
from rsicrc_train.model import RSICRC

logger = logging.getLogger("rsicrc.export")

_PRODUCERS = ("rsicrc", "torch", "onnx", "onnxscript", "onnxruntime")


def export_checkpoint(
    source: Source,
    output: Path,
    *,
    force: bool = False,
    precisions: Collection[str] = (),
    calibration: Path | None = None,
) -> Manifest:
    """Export a checkpoint to a model folder. The log `rsicrc.export` (level INFO) gets a line for each step.

    Args:
        source: The checkpoint. The weights are copied into a model first; pass `Source.read(...)` without keeping a
            reference to it, and the originals are freed.
        output: The folder to create.
        force: Replace an existing model folder. The old folder stays until the new one is complete and checked.
        precisions: Precisions to write in addition to float32; see `rsicrc_export.precisions.add_variants`.
        calibration: Data set folder or table of pairs for int8; see `rsicrc_export.calibration`.

    Returns:
        The manifest of the new folder.

    Raises:
        CheckpointError: The tensors of the checkpoint do not fit its config.
        ExportError: `output` exists, a graph does not equal the model, or the disk is full. Nothing is left behind, and
            an existing folder is unchanged.
        PrecisionError: A precision loses too much accuracy. The folder is written with float32 and the other
            precisions.
        DataError, PairsError: The calibration pairs cannot be read.
    """
    check_target(output, force=force)
    output = output.absolute()
    pairs = None
    if INT8 in precisions:
        check_installed()
    if calibration is not None:
        pairs = read_calibration(calibration, source.checkpoint.config.preprocessing)
    model = source.checkpoint.build_model().requires_grad_(False)
    # The model has its own copy of the weights. Two copies of a large model may not fit into memory.
    source = replace(source, checkpoint=replace(source.checkpoint, state_dict={}, progress={}))
    with _replacing(output, force=force) as folder:
        manifest = _fill(folder, model, source)
        refusal = None
        try:
            manifest = add_variants(folder, manifest, model, precisions, pairs)
        except PrecisionError as error:
            manifest, refusal = error.manifest, error
        for precision in manifest.precisions:
            check_graphs(folder, manifest.at(precision))  # `rsicrc.load` refuses a graph with other operators
        manifest.write(folder)
    if refusal is not None:
        written, missing = ", ".join(manifest.precisions), ", ".join(refusal.precisions)
        message = f"{output} is written with {written}, but without {missing}: {refusal}"
        raise PrecisionError(message, refusal.precisions, manifest) from refusal
    return manifest


def check_target(output: Path, *, force: bool) -> None:
    """Reject an output path that must not be written, before any work is done.

    Raises:
        ExportError: The path exists and `force` is not given, or it is not a model folder.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise ExportError(f"{output} is a file: name a folder to write the model to with -o")
    empty = not any(output.iterdir())
    if empty:
        return
    if not force:
        raise ExportError(f"{output} exists: name another folder with -o, or replace it with --force")
    if not (output / "manifest.json").is_file():
        raise ExportError(f"{output} is not a model folder (no manifest.json in it): --force replaces only those")


def _fill(folder: Path, model: RSICRC, source: Source) -> Manifest:
    """Write tokenizer, float32 graphs and golden file, and compare the graphs with the model."""
    checkpoint = source.checkpoint
    config = checkpoint.config
    graphs, files = {}, [TOKENIZER_FILE]
    Vocabulary.from_words(checkpoint.vocabulary, config.max_len).save(folder / TOKENIZER_FILE)
    for name in GRAPH_NAMES:
        logger.info("%s: exporting", name)
        graphs[name], written = export_graph(model, name, folder)
        files += written
    manifest = Manifest(
        model=config.to_dict(),
        preprocessing=config.preprocessing,
        max_len=config.max_len,
        vocab_size=len(checkpoint.vocabulary),
        no_change_sentences=checkpoint.no_change_sentences,
        graphs=graphs,
        files={name: FileRecord.of(folder / name) for name in files},
        calibration=recorded_calibration(checkpoint),
        checkpoint={"sha256": source.sha256},
        producers={name: importlib.metadata.version(name) for name in _PRODUCERS},
    )
    backend = OnnxRuntimeBackend(folder, manifest, None)
    parity = check_parity(model, manifest, backend)
    logger.info("%s: writing", GOLDEN_FILE)
    write_golden(folder / GOLDEN_FILE, manifest, backend)
    return replace(manifest, parity=parity, files={**manifest.files, GOLDEN_FILE: FileRecord.of(folder / GOLDEN_FILE)})


def recorded_calibration(checkpoint: Checkpoint) -> ChangeCalibration | None:
    """Return the calibration of the change score that the training recorded, if there is one.

    Raises:
        CheckpointError: The record is damaged.
    """
    curve = checkpoint.training.get(CHANGE_CALIBRATION)
    if curve is None:
        return None
    try:
        return ChangeCalibration.from_dict(curve)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint's calibration of the change score is damaged ({error}): train again"
        ) from error


@contextmanager
def _replacing(output: Path, *, force: bool) -> Iterator[Path]:
    """Yield a new folder next to `output`; move it to `output` if the block succeeds, remove it if the block fails."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    except OSError as error:
        raise ExportError(f"cannot write next to {output}: {error.strerror}") from error
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())  # mkdtemp creates folders that only their owner can read
        _put_in_place(folder, output, force=force)
    except OSError as error:
        raise _explain(error, output) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, output: Path, *, force: bool) -> None:
    if not output.exists():
        folder.rename(output)
        return
    check_target(output, force=force)  # created by another process in the meantime
    old = folder.with_suffix(".old")
    output.rename(old)
    try:
        folder.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _explain(error: OSError, output: Path) -> ExportError:
    if error.errno == errno.ENOSPC:
        return ExportError(f"the disk of {output.parent} is full: free some space, or export to another with -o")
    return ExportError(f"cannot write {output}: {error.strerror or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
