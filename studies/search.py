"""Speed of indexing and searching, and recall of the approximate index, compared with FAISS in the same run.

    OMP_NUM_THREADS=2 python studies/search.py [--model model] [--data DATA] [--sizes 10000 100000 1000000]

Searching uses generated vectors with the distribution of a trained model's, see `clusters`. All engines answer the same
queries in turn, so that other programs on the machine affect all alike; a time is from the query's vector to the first
ten rows, except "text to rows", which is the whole `Index.search`: sentence, vector, rows of the table. Recall is
relative to exact search. Processor time is that of all threads.

Indexing, with DATA in LEVIR-CC's layout: the rate of `Index.add` and that of the image encoder by itself, same pairs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import rsicrc
from rsicrc.engine import Engine
from rsicrc.index.exact_search import Vectors
from rsicrc.index.hits import Hits
from rsicrc.index.index import Index, identity_of
from rsicrc.index.source import read_source
from rsicrc.index.store import Store
from rsicrc.inputs.prefetch import PairReader
from rsicrc.manifest import IMAGE_ENCODER

Vector = NDArray[np.float32]
Find = Callable[[Vector], NDArray[np.int64] | Hits]
HEAD = (
    "| vectors | engine | median ms | 95 % ms | processor ms | recall@10 | built in s |\n|---|---|---|---|---|---|---|"
)
FIRST = 10
KINDS = 400  # of changes; a generated data set has a few hundred sentences
PART = 100_000


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=int, default=512, help="pairs of DATA that are indexed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the tables, which later runs reuse")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    engine = rsicrc.load(arguments.model, threads=arguments.threads)
    say(f"{arguments.threads} threads, load {os.getloadavg()[0]:.1f}, vectors of {identity_of(engine).width}\n")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is not None:
            indexing(engine, arguments.data, arguments.pairs, arguments.rounds, Path(folder) / "data")
        say(HEAD)
        for size in arguments.sizes:
            searching(engine, size, arguments.queries, (arguments.keep or Path(folder)) / str(size))


def indexing(engine: Engine, data: Path, count: int, rounds: int, folder: Path) -> None:
    """Print the times of indexing pairs, then of searching them."""
    rows = read_source(data)[:count]
    paths = [row.paths for row in rows]
    batches = [batch.images for batch in PairReader(paths, engine.manifest.preprocessing, 32, engine.backend.threads)]
    indexes = (Index.create(folder / str(number), engine) for number in range(rounds + 1))
    ways: dict[str, Callable[[], object]] = {
        "reading and resizing only": lambda: list(
            PairReader(paths, engine.manifest.preprocessing, 32, engine.backend.threads)
        ),
        "image encoder only": lambda: [engine.backend.run(IMAGE_ENCODER, {"images": images}) for images in batches],
        "Engine.embed_images": lambda: engine.embed_images(paths),
        "Index.add": lambda: next(indexes).add(rows),
    }
    engine.embed_images(paths[:1])  # opens the graph
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):  # in turn, and the best of each: other programs can only make a time longer
        for name, way in ways.items():
            times[name].append(timed(way))
    best = {name: np.min(values, axis=0) / len(rows) for name, values in times.items()}
    encoder = best["image encoder only"]
    say("| indexing | pairs/s | of the encoder's rate | processor ms per pair |\n|---|---|---|---|")
    for name, (wall, spent) in best.items():
        say(f"| {name} | {1 / wall:.1f} | {encoder[0] / wall:.0%} | {1000 * spent:.1f} |")
    index = next(indexes)
    index.add(rows)
    say(f"\nadding the same {len(rows)} pairs again: {timed(lambda: index.add(rows))[0]:.2f} s")
    text = "a road is built in the woods"
    steps: dict[str, Callable[[], object]] = {
        "text encoding": lambda: engine.embed_texts([text]),
        f"search of {len(index)} pairs": lambda: index.search(text),
        "search and rerank 50": lambda: index.search(text, rerank=50),
    }
    for name, step in steps.items():
        step()
        wall, spent = 1000 * np.median([timed(step) for _ in range(2 * rounds)], axis=0)
        say(f"{name}: {wall:.1f} ms, {spent:.1f} ms of processor time")
    say("")


def searching(engine: Engine, size: int, queries: int, folder: Path) -> None:
    """Compare the engines for one number of vectors."""
    width = identity_of(engine).width
    vectors, query_vectors = clusters(size, queries, width)
    start = time.perf_counter()
    store = Store.create(folder, identity_of(engine))
    made = {}
    if len(store) < size:
        for begin in range(0, size, PART):
            store.merge(table_of(vectors[begin : begin + PART], begin, store.schema))
        store.tidy()
        made["rsicrc"] = time.perf_counter() - start
    index = Index(store, engine)

    start = time.perf_counter()
    flat = faiss.IndexFlatIP(width)
    flat.add(vectors)
    made["FAISS flat"] = time.perf_counter() - start
    start = time.perf_counter()
    lists = int(2 * size**0.5)
    ivf: Any = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    ivf.train(vectors[np.random.default_rng(1).choice(size, min(size, 40 * lists), replace=False)])
    ivf.add(vectors)
    ivf.nprobe = max(1, lists // 32)
    made["FAISS IVF"] = time.perf_counter() - start

    numbers = store.columns(["before"]).column("before").to_pylist()
    row_of = {number: int(name) for number, name in zip(store.vectors()[1].tolist(), numbers, strict=True)}

    def own(vector: Vector) -> NDArray[np.int64]:
        return index._nearest(vector, FIRST, None).numbers

    finders: dict[str, Find] = {
        "FAISS flat": lambda vector: flat.search(vector[np.newaxis], FIRST)[1][0],
        "FAISS IVF": lambda vector: ivf.search(vector[np.newaxis], FIRST)[1][0],
        "rsicrc": own,
    }
    if store.approximate:
        exact = Vectors(np.ascontiguousarray(vectors.T), np.arange(size))
        finders["one matrix product"] = lambda vector: exact.nearest(vector, FIRST).numbers
    finders["text to rows"] = lambda vector: index.search("a road is built in the woods")
    found: dict[str, list[set[int]]] = {name: [] for name in finders}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in finders}
    for vector in [query_vectors[0], *query_vectors]:  # the first is a warm-up
        for name, find in finders.items():
            start, spent = time.perf_counter(), time.process_time()
            best = find(vector)
            times[name].append((time.perf_counter() - start, time.process_time() - spent))
            if isinstance(best, np.ndarray):
                rows = best.tolist()
                found[name].append({row_of[row] for row in rows} if name == "rsicrc" else set(rows))
    for name, values in times.items():
        wall, spent = 1000 * np.array(values[1:]).T
        hits = [len(mine & right) / FIRST for mine, right in zip(found[name], found["FAISS flat"], strict=False)]
        recall = f"{np.mean(hits):.4f}" if hits else ""
        taken = f"{made[name]:.1f}" if name in made else ""
        label = f"{name} ({'approximate' if store.approximate else 'exact'})" if name == "rsicrc" else name
        low, high = np.quantile(wall, [0.5, 0.95])
        say(f"| {size:,} | {label} | {low:.2f} | {high:.2f} | {np.median(spent):.2f} | {recall} | {taken} |")


def clusters(size: int, queries: int, width: int) -> tuple[Vector, Vector]:
    """Generate vectors [size, width] and queries [queries, width] of length 1 with a trained model's distribution.

    As for the example model on generated pairs, half of the pairs show no change and are similar (cosines around 0.95);
    the others are of few kinds with Zipf frequencies, with cosines around 0.15, or 0.85 to the nearest of 250; nine
    tenths of the variance are in ten directions; a text's cosine with its best pair is near 0.8.
    """
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.standard_normal((width, width)))[0] * np.exp(-np.arange(width) / 8)[:, np.newaxis]
    centers = generator.standard_normal((KINDS, width)) + 0.2 * generator.standard_normal(width)
    shares = 1 / np.arange(1, KINDS)
    kinds = generator.choice(np.arange(1, KINDS), size, p=shares / shares.sum())
    kinds[generator.random(size) < 0.5] = 0
    vectors = np.empty((size, width), np.float32)
    for begin in range(0, size, PART):
        part = kinds[begin : begin + PART]
        spread = np.where(part == 0, 0.25, 0.5)[:, np.newaxis]
        vectors[begin : begin + PART] = unit(
            (centers[part] + spread * generator.standard_normal((len(part), width))) @ axes
        )
    texts = centers[generator.choice(np.arange(1, KINDS), queries)]
    return vectors, unit((texts + 0.7 * generator.standard_normal(texts.shape)) @ axes)


def unit(values: NDArray[np.float64]) -> Vector:
    """Return rows of length 1."""
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


def table_of(vectors: Vector, begin: int, schema: pa.Schema) -> pa.Table:
    """Return rows of an index with their numbers as paths."""
    texts = [str(number) for number in range(begin, begin + len(vectors))]
    same = pa.array([""] * len(vectors))
    columns = {
        "id": texts,
        "before": texts,
        "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
    }
    empty = {name: pa.nulls(len(vectors), schema.field(name).type) for name in ("caption", "score", "change_score")}
    return pa.table({name: columns.get(name, empty.get(name, same)) for name in schema.names}, schema=schema)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call: elapsed time, and processor time of all threads."""
    start, spent = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - spent


def say(text: str) -> None:
    """Print a line without buffering."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
