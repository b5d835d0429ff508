"""The index of image pairs: creation, addition of pairs, and search by text or by example."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsicrc.engine import Engine
from rsicrc.errors import ArgumentError, IndexFolderError
from rsicrc.files import is_folder
from rsicrc.index.encoded import EncodedRow, known_checksums, write_rows
from rsicrc.index.exact_search import Ranked, Vectors
from rsicrc.index.hits import Hits
from rsicrc.index.ingest import AddResult, add_rows
from rsicrc.index.query import read_query
from rsicrc.index.rerank import rank_scores
from rsicrc.index.source import PairInput, rows_from_pairs
from rsicrc.index.store import Identity, Store, is_index
from rsicrc.inputs.images import Pair
from rsicrc.loading import load
from rsicrc.manifest import IMAGE_ENCODER
from rsicrc.progress import ProgressCallback, ignore_progress
from rsicrc.results import PairFailure

if TYPE_CHECKING:
    from rsicrc.manifest import Manifest

_Path: TypeAlias = str | os.PathLike[str]

logger = logging.getLogger("rsicrc")


class Index:
    """A folder of indexed pairs and the model of their vectors, made by `Index.create` or `Index.open`.

    An open index contains the pairs from the time of opening and the pairs added through it; `refresh` includes pairs
    that other processes have added.

    Attributes:
        engine: The model.
        store: The table on disk.
    """

    def __init__(self, store: Store, engine: Engine) -> None:
        stored, given = store.identity, identity_of(engine)
        if (stored.checkpoint, stored.width) != (given.checkpoint, given.width):
            raise IndexFolderError(
                f"{store.folder}: made with another model ({stored.model}, checkpoint {stored.checkpoint[:12]}) than "
                f"{engine.folder} (checkpoint {given.checkpoint[:12]}). Name that model, or make another index"
            )
        self.engine = engine
        self.store = store
        self._vectors: Vectors | None = None

    @classmethod
    def create(cls, folder: _Path, engine: Engine | _Path | None = None, **settings: Any) -> Index:
        """Create an empty index, or open an existing index.

        Args:
            folder: Folder of the index.
            engine: Model or model folder. By default the model that `open` chooses if the index exists, else the
                default model folder, see `rsicrc.load`.
            settings: Arguments of `rsicrc.load`, if the model is loaded here.

        Raises:
            IndexFolderError: The folder contains other files, or an index that was made with another model.
            ModelNotFoundError, ModelFolderError, BackendError: The model cannot be loaded.
            IndexWriteError: The folder cannot be written.
        """
        if is_index(Path(folder)):
            return cls.open(folder, engine, **settings)
        opened = engine if isinstance(engine, Engine) else load(_optional(engine), **settings)
        return cls(Store.create(Path(folder), identity_of(opened)), opened)

    @classmethod
    def open(cls, folder: _Path, engine: Engine | _Path | None = None, **settings: Any) -> Index:
        """Open an index.

        Args:
            folder: Folder of the index.
            engine: Model or model folder. By default the model folder of the index, or the default model folder if the
                model folder of the index does not exist any more.
            settings: Arguments of `rsicrc.load`, if the model is loaded here.

        Raises:
            IndexFolderError: The index is missing, damaged, or was made with another model.
            ModelNotFoundError, ModelFolderError, BackendError: The model cannot be loaded.
        """
        store = Store.open(Path(folder))
        if not isinstance(engine, Engine):
            stored = store.identity.model if is_folder(Path(store.identity.model)) else None
            engine = load(_optional(engine) or stored, **settings)
        return cls(store, engine)

    def __len__(self) -> int:
        return len(self.store)

    def refresh(self) -> None:
        """Include pairs that other processes have added since the index was opened."""
        self.store.refresh()
        self._vectors = None

    def add(
        self,
        pairs: Iterable[PairInput],
        *,
        captions: bool = False,
        batch_size: int = 32,
        advance: ProgressCallback = ignore_progress,
    ) -> AddResult:
        """Add new pairs and update changed pairs; all other pairs of the index are kept.

        Work is committed at intervals. After an interruption, the same call continues after the last commit. Several
        processes may add to one index at the same time.

        Args:
            pairs: Pairs, each a `(before, after)` of two paths, a mapping with `before`, `after`, optionally `id`, and
                other columns, or a row from `rsicrc.index.source.read_source`.
            captions: Also store a caption, its score and a change score.
            batch_size: Number of pairs in a batch.
            advance: Called once per pair.

        Returns:
            The numbers of new, changed, … pairs, and the reasons of failures.

        Raises:
            PairsError: There are no pairs, an id occurs twice, or a column does not match the index. Nothing was added.
            IndexWriteError: The index could not be written. Earlier commits are kept.
        """
        rows = rows_from_pairs(pairs)
        self._vectors = None
        added = add_rows(self.store, self.engine, rows, captions=captions, batch_size=batch_size, advance=advance)
        if added.new or added.changed or added.captioned or added.updated:
            self.store.tidy()
        return added

    def checksums(self) -> dict[str, tuple[str, str, bool]]:
        """Return id → checksums of the earlier and the later image, and true if the row has a caption."""
        return known_checksums(self.store)

    def add_encoded(self, rows: Iterable[EncodedRow], types: Mapping[str, pa.DataType]) -> int:
        """Add pairs that are encoded already; rows with the same id are replaced, all others are kept.

        Args:
            rows: The rows; they are written at intervals, so that few are in memory.
            types: Types of their columns.

        Returns:
            The number of rows.

        Raises:
            IndexWriteError: The index could not be written. Earlier commits are kept.
        """
        self._vectors = None
        count = write_rows(self.store, rows, types)
        if count:
            self.store.tidy()
        return count

    def search(self, query: str | Pair, k: int = 10, *, where: str | None = None, rerank: int = 0) -> Hits:
        """Find the pairs that match a sentence, or that show a similar change as another pair.

        Args:
            query: A sentence, or a pair `(before, after)`.
            k: Maximum number of hits.
            where: SQL condition on the columns, for example "change_score > 0.5 and year = 2020".
            rerank: Number of first hits to order again by the probability of the sentence as their caption. Their
                images are read and encoded by the model.

        Raises:
            ArgumentError: The sentence has no known words, `where` is not a valid condition, or a number is out of
                range.
            ImageError: The images of the example cannot be read.
        """
        if k < 1 or rerank < 0:
            raise ArgumentError(f"k must be at least 1 and rerank at least 0, not {k} and {rerank}")
        if not isinstance(query, str):
            if rerank:
                raise ArgumentError("only a search by text can be reranked: an example has no text")
            ranked = self._nearest(self.engine.embed_images([query])[0], k, where)
            return Hits(None, (), _table(ranked, self.store.take(ranked.numbers)))
        sentence = read_query(query, self.engine.vocabulary)
        ranked = self._nearest(self.engine.embed_texts([sentence.text])[0], max(k, rerank), where)
        rows = self.store.take(ranked.numbers)
        if not rerank:
            return Hits(sentence.text, sentence.unknown, _table(ranked, rows))
        table = _table(ranked, rows, self._log_probs(sentence.text, rows.slice(0, rerank)))
        return Hits(sentence.text, sentence.unknown, table.slice(0, k))

    def _nearest(self, vector: NDArray[np.float32], count: int, where: str | None) -> Ranked:
        if self.store.approximate:
            return self.store.nearest(vector, count, where)
        among = None if where is None else self.store.matching(where)
        return self._vectors_in_memory().nearest(vector, count, among)

    def _vectors_in_memory(self) -> Vectors:
        if self._vectors is None:
            self._vectors = Vectors(*self.store.vectors())
        return self._vectors

    def _log_probs(self, text: str, rows: pa.Table) -> NDArray[np.float64]:
        """Return log p(text | pair) of some rows; NaN if the images of a pair cannot be read any more."""
        paths = list(zip(rows.column("before").to_pylist(), rows.column("after").to_pylist(), strict=True))
        result = np.full(len(paths), np.nan)
        for number, outcome in enumerate(self.engine.encode_stream(paths, texts=[text])):
            if isinstance(outcome, PairFailure):
                logger.warning("not reranked: %s", outcome.error)
            else:
                result[number] = outcome.log_probs[0]
        return result


def _optional(path: _Path | None) -> Path | None:
    return None if path is None else Path(path)


def identity_of(engine: Engine) -> Identity:
    """Return the identity of an index that is made with this model."""
    manifest: Manifest = engine.manifest
    graph = manifest.graphs[IMAGE_ENCODER]
    # An index may be made with one precision and searched with another: the precisions of a checkpoint differ only by
    # rounding.
    checkpoint = str(manifest.checkpoint.get("sha256") or manifest.files[graph.file].sha256)
    return Identity(checkpoint, str(engine.folder.absolute()), int(graph.outputs["image_embedding"].shape[1]))


def _table(ranked: Ranked, rows: pa.Table, log_probs: NDArray[np.float64] | None = None) -> pa.Table:
    """Add the score columns to the rows; with log-probabilities, also rerank the first rows."""
    scores = {"similarity": pa.array(ranked.similarity, pa.float64())}
    if log_probs is not None:
        count = len(log_probs)
        combined = rank_scores(ranked.similarity[:count], log_probs)
        order = np.concatenate([np.argsort(-combined, kind="stable"), np.arange(count, len(ranked.similarity))])
        rest = np.full(len(ranked.similarity) - count, np.nan)
        rows = rows.take(order)
        scores = {
            "similarity": pa.array(ranked.similarity[order], pa.float64()),
            "log_prob": pa.array(np.concatenate([log_probs, rest])[order], from_pandas=True),
            "rank_score": pa.array(np.concatenate([combined, rest])[order], from_pandas=True),
        }
    numbers = pa.array(range(1, rows.num_rows + 1), pa.int64())
    columns = {"rank": numbers, **scores, **{name: rows.column(name) for name in rows.column_names}}
    return pa.table(columns)
