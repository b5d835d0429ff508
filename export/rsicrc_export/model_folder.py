"""Writing a model folder: all of it beside the target, proven equal to the model, then put in its place at once."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rsicrc.backends.onnxruntime import OnnxRuntimeBackend
from rsicrc.errors import ExportError
from rsicrc.manifest import GOLDEN_FILE, GRAPH_NAMES, INT8, TOKENIZER_FILE, FileRecord, Manifest, sha256_file
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_export.calibration import read_calibration
from rsicrc_export.golden import write_golden
from rsicrc_export.onnx_export import export_graph
from rsicrc_export.parity import check_parity
from rsicrc_export.precisions import Report, add_variants, check_installed
from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.checkpoint import Checkpoint
from rsicrc_train.model import RSICRC

_PRODUCERS = ("rsicrc", "torch", "onnx", "onnxscript", "onnxruntime")


def export_checkpoint(
    path: Path,
    output: Path,
    *,
    force: bool = False,
    report: Report = lambda line: None,
    read: Callable[[Path], Checkpoint] = checkpoints.load,
    precisions: Collection[str] = (),
    calibration: Path | None = None,
) -> Manifest:
    """Export a checkpoint to a model folder.

    Args:
        path: the checkpoint.
        output: the folder to make.
        force: replace a folder that is there. The old one stays until the new one is complete and proven.
        report: gets a line of text now and then.
        read: how to read the file at `path`.
        precisions: precisions to write beside float32; see `rsicrc_export.precisions.add_variants`.
        calibration: pairs (see `rsicrc_export.calibration`), which int8 needs.

    Returns:
        The new folder's manifest.

    Raises:
        CheckpointError: `path` is not a checkpoint.
        ExportError: `output` exists, a graph does not equal the model, a precision costs too much, or the disk is full.
            Nothing is left behind, and a folder that was there is as it was.
        DataError, PairsError: the calibration pairs cannot be read.
    """
    check_target(output, force=force)
    output = output.absolute()
    source = read(path)
    pairs = None
    if INT8 in precisions:
        check_installed()
    if calibration is not None:
        pairs = read_calibration(calibration, source.config.preprocessing)
    model = source.build_model().requires_grad_(False)
    source = replace(source, state_dict={}, progress={})  # the model has its own copy: twice would be too much memory
    with _beside(output, force=force) as folder:
        manifest = _fill(folder, model, source, sha256_file(path), report)
        manifest = add_variants(folder, manifest, model, precisions, pairs, report)
        manifest.write(folder)
        return manifest


def check_target(output: Path, *, force: bool) -> None:
    """Refuse, before any work is done, a target that cannot be written.

    Raises:
        ExportError: something is there and `force` is not given, or it is not a model folder.
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


def _fill(folder: Path, model: RSICRC, source: Checkpoint, digest: str, report: Report) -> Manifest:
    config = source.config
    graphs, files = {}, [TOKENIZER_FILE]
    Vocabulary.from_words(source.vocabulary, config.max_len).save(folder / TOKENIZER_FILE)
    for name in GRAPH_NAMES:
        report(f"{name}: exporting")
        graphs[name], written = export_graph(model, name, folder)
        files += written
    manifest = Manifest(
        model=config.to_dict(),
        preprocessing=config.preprocessing,
        max_len=config.max_len,
        vocab_size=len(source.vocabulary),
        no_change_sentences=source.no_change_sentences,
        graphs=graphs,
        files={name: FileRecord.of(folder / name) for name in files},
        checkpoint={"sha256": digest},
        producers={name: importlib.metadata.version(name) for name in _PRODUCERS},
    )
    backend = OnnxRuntimeBackend(folder, manifest, None)
    parity = check_parity(model, manifest, backend, report)
    report(f"{GOLDEN_FILE}: writing")
    write_golden(folder / GOLDEN_FILE, manifest, backend)
    return replace(manifest, parity=parity, files={**manifest.files, GOLDEN_FILE: FileRecord.of(folder / GOLDEN_FILE)})


@contextmanager
def _beside(output: Path, *, force: bool) -> Iterator[Path]:
    """Give a new folder beside `output` that takes its place when the block succeeds, and vanishes when it fails."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    except OSError as error:
        raise ExportError(f"cannot write beside {output}: {error.strerror}") from error
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner may read
        _put_in_place(folder, output, force=force)
    except OSError as error:
        raise _explain(error, output) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, output: Path, *, force: bool) -> None:
    if not output.exists():
        folder.rename(output)
        return
    check_target(output, force=force)  # it may have appeared in the meantime
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
