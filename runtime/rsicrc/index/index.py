"""The index of image pairs: made once, added to, and searched by text or by example."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsicrc.engine import Engine
from rsicrc.errors import ArgumentError, IndexFolderError
from rsicrc.index.exact_search import Ranked, Vectors
from rsicrc.index.hits import Hits
from rsicrc.index.ingest import Added, add_rows
from rsicrc.index.query import read_query
from rsicrc.index.rerank import rank_scores
from rsicrc.index.source import GivenPair, given_rows
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
    """A folder of indexed pairs and the model that they were indexed with; made by `Index.create` or `Index.open`.

    An open index sees itself as it was when it was opened, and what it adds; `refresh` shows what others have added.

    Attributes:
        engine: The model.
        store: The table on disk.
    """

    def __init__(self, store: Store, engine: Engine) -> None:
        mine, others = store.identity, identity_of(engine)
        if (mine.checkpoint, mine.width) != (others.checkpoint, others.width):
            raise IndexFolderError(
                f"{store.folder}: made with another model ({mine.model}, checkpoint {mine.checkpoint[:12]}) than "
                f"{engine.folder} (checkpoint {others.checkpoint[:12]}). Name that model, or make another index"
            )
        self.engine = engine
        self.store = store
        self._vectors: Vectors | None = None

    @classmethod
    def create(cls, folder: _Path, engine: Engine | _Path | None = None, **settings: Any) -> Index:
        """Make an empty index, or open the one that is there.

        Args:
            folder: Where it is to be.
            engine: The model, or its folder; None is what `open` chooses where there is an index, else the default
                model folder, see `rsicrc.load`.
            settings: Of `rsicrc.load`, for a model that is loaded here.

        Raises:
            IndexFolderError: The folder holds something else, or an index that was made with another model.
            ModelNotFoundError, ModelFolderError, BackendError: The model cannot be loaded.
            OSError: The folder cannot be written.
        """
        if is_index(Path(folder)):
            return cls.open(folder, engine, **settings)
        opened = engine if isinstance(engine, Engine) else load(_optional(engine), **settings)
        return cls(Store.create(Path(folder), identity_of(opened)), opened)

    @classmethod
    def open(cls, folder: _Path, engine: Engine | _Path | None = None, **settings: Any) -> Index:
        """Open an index.

        Args:
            folder: Where it is.
            engine: The model, or its folder; None is the folder that the index was made with, or the default model
                folder if that one is gone.
            settings: Of `rsicrc.load`, for a model that is loaded here.

        Raises:
            IndexFolderError: There is no index, it is damaged, or it was made with another model.
            ModelNotFoundError, ModelFolderError, BackendError: The model cannot be loaded.
        """
        store = Store.open(Path(folder))
        if not isinstance(engine, Engine):
            remembered = store.identity.model if Path(store.identity.model).is_dir() else None
            engine = load(_optional(engine) or remembered, **settings)
        return cls(store, engine)

    def __len__(self) -> int:
        return len(self.store)

    def refresh(self) -> None:
        """See what others have added since."""
        self.store.refresh()
        self._vectors = None

    def add(
        self,
        pairs: Iterable[GivenPair],
        *,
        captions: bool = False,
        batch_size: int = 32,
        advance: ProgressCallback = ignore_progress,
    ) -> Added:
        """Index pairs that are new or changed; the others of the index stay.

        Work is committed every little while: when the call is made again after it was interrupted, it goes on there.
        Several processes may add to one index.

        Args:
            pairs: Each a `(before, after)` of two paths, a mapping with `before`, `after`, perhaps `id`, and columns of
                its own, or a row from `rsicrc.index.source.read_source`.
            captions: Write a caption, its score and a change score too.
            batch_size: Pairs that go through the model together.
            advance: Called once for every pair.

        Returns:
            How many pairs were new, changed and so on, and why others could not be used.

        Raises:
            PairsError: No pairs, an id twice, or a column that does not fit the index; nothing was added.
            OSError: The index could not be written; what was committed before stays.
        """
        rows = given_rows(pairs)
        self._vectors = None
        added = add_rows(self.store, self.engine, rows, captions=captions, batch_size=batch_size, advance=advance)
        if added.new or added.changed or added.captioned or added.updated:
            self.store.tidy()
        return added

    def search(self, query: str | Pair, k: int = 10, *, where: str | None = None, rerank: int = 0) -> Hits:
        """Find the pairs that fit a sentence, or that show a change like that of another pair.

        Args:
            query: A sentence, or `(before, after)`.
            k: How many to return.
            where: An SQL condition on the columns, for example "change_score > 0.5 and year = 2020".
            rerank: Order the first so many anew by how probable the sentence is as their caption. Their images are
                read for that, and go through the model in one go.

        Raises:
            ArgumentError: The sentence has no word that the model knows, `where` is no condition, or a number is out
                of range.
            ImageError: The example cannot be read.
        """
        if k < 1 or rerank < 0:
            raise ArgumentError(f"k must be at least 1 and rerank at least 0, not {k} and {rerank}")
        if not isinstance(query, str):
            if rerank:
                raise ArgumentError("only a search by text can be reranked: an example has no words")
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
        return self._loaded().nearest(vector, count, among)

    def _loaded(self) -> Vectors:
        if self._vectors is None:
            self._vectors = Vectors(*self.store.vectors())
        return self._vectors

    def _log_probs(self, text: str, rows: pa.Table) -> NDArray[np.float64]:
        """Return log p(text | pair) for some rows; NaN for a pair whose images cannot be read any more."""
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
    """Return what an index made with this model remembers."""
    manifest: Manifest = engine.manifest
    graph = manifest.graphs[IMAGE_ENCODER]
    # Precisions of one checkpoint differ by rounding, and find the same pairs: an index may be made in one and searched
    # in another.
    checkpoint = str(manifest.checkpoint.get("sha256") or manifest.files[graph.file].sha256)
    return Identity(checkpoint, str(engine.folder.absolute()), int(graph.outputs["image_embedding"].shape[1]))


def _table(ranked: Ranked, rows: pa.Table, log_probs: NDArray[np.float64] | None = None) -> pa.Table:
    """Put the scores before the rows; with log-probabilities, order the rows that have one anew."""
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
