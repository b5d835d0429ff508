"""How fast pairs are indexed and found, and how well the approximate index finds them, against FAISS in the same run.

    OMP_NUM_THREADS=2 python benchmarks/search.py [--model model] [--data DATA] [--sizes 10000 100000 1000000]

Searches: generated vectors in clusters, as pairs have them (few kinds of change, many pairs of each), and queries
beside the clusters, as texts are. Every engine answers the same queries, in turn, so that other work on the machine
meets all alike; a time is from the query's vector to the numbers of its first ten, except "text to rows", which is
`Index.search` whole: sentence, vector, rows of the table. Recall is against exact search.

Indexing, with DATA in LEVIR-CC's layout: the rate of `Index.add` beside that of the image graph alone, same pairs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import rsicrc
from rsicrc.engine import Engine
from rsicrc.index.index import Index, identity_of
from rsicrc.index.nearest import Vectors
from rsicrc.index.source import read_source
from rsicrc.index.store import Store
from rsicrc.manifest import IMAGE_ENCODER
from rsicrc.reading import read_batches

Vector = NDArray[np.float32]
Find = Callable[[Vector], NDArray[np.int64]]
FIRST = 10
KINDS = 400  # kinds of change; a generated data set has a few hundred sentences
PART = 100_000
ROUNDS = 3


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=int, default=512, help="pairs of DATA that are indexed")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    engine = rsicrc.load(arguments.model, threads=arguments.threads)
    say(f"{arguments.threads} threads, load {os.getloadavg()[0]:.1f}, vectors of {identity_of(engine).width}\n")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is not None:
            indexing(engine, arguments.data, arguments.pairs, Path(folder) / "data")
        say("| vectors | engine | median ms | 95 % ms | recall@10 | made in s |\n|---|---|---|---|---|---|")
        for size in arguments.sizes:
            searching(engine, size, arguments.queries, Path(folder) / str(size))


def indexing(engine: Engine, data: Path, count: int, folder: Path) -> None:
    """Index pairs, then search them: what each step costs."""
    rows = read_source(data)[:count]
    paths = [row.paths for row in rows]
    batches = [batch.images for batch in read_batches(paths, engine.manifest.preprocessing, 32, 2)]
    indexes = (Index.create(folder / str(number), engine) for number in range(ROUNDS + 1))
    ways: dict[str, Callable[[], object]] = {
        "image graph alone": lambda: [engine.backend.run(IMAGE_ENCODER, {"images": images}) for images in batches],
        "Engine.embed_images": lambda: engine.embed_images(paths),
        "Index.add": lambda: next(indexes).add(rows),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):  # in turn, and the best of each: other work on the machine can only add to a time
        for name, way in ways.items():
            times[name].append(timed(way))
    alone = min(times["image graph alone"])
    for name, values in times.items():
        say(f"{name}: {len(rows) / min(values):.1f} pairs/s, {alone / min(values):.0%}")
    index = next(indexes)
    index.add(rows)
    say(f"adding the same {len(rows)} pairs again: {timed(lambda: index.add(rows)):.2f} s")
    text = "a road is built in the woods"
    steps = {
        "text encoding": lambda: engine.embed_texts([text]),
        f"search of {len(index)} pairs": lambda: index.search(text),
        "search and rerank 50": lambda: index.search(text, rerank=50),
    }
    for name, step in steps.items():
        step()
        times = [timed(step) for _ in range(10)]
        say(f"{name}: {1000 * np.median(times):.1f} ms")
    say("")


def searching(engine: Engine, size: int, queries: int, folder: Path) -> None:
    """Compare the engines on one number of vectors."""
    width = identity_of(engine).width
    vectors, asked = clusters(size, queries, width)
    start = time.perf_counter()
    store = Store.create(folder, identity_of(engine))
    for begin in range(0, size, PART):
        store.merge(table_of(vectors[begin : begin + PART], begin, store.schema))
    store.tidy()
    made = {"rsicrc": time.perf_counter() - start}
    index = Index(store, engine)

    start = time.perf_counter()
    flat = faiss.IndexFlatIP(width)
    flat.add(vectors)
    made["FAISS flat"] = time.perf_counter() - start
    start = time.perf_counter()
    lists = int(4 * size**0.5)
    ivf = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    ivf.train(vectors[np.random.default_rng(1).choice(size, min(size, 40 * lists), replace=False)])
    ivf.add(vectors)
    ivf.nprobe = max(1, lists // 32)
    made["FAISS IVF"] = time.perf_counter() - start

    numbers = store.columns(["before"]).column("before").to_pylist()
    place = {number: int(name) for number, name in zip(store.vectors()[1].tolist(), numbers, strict=True)}

    def own(vector: Vector) -> NDArray[np.int64]:
        return index._nearest(vector, FIRST, None).numbers

    finders: dict[str, Find] = {
        "FAISS flat": lambda vector: flat.search(vector[np.newaxis], FIRST)[1][0],
        "FAISS IVF": lambda vector: ivf.search(vector[np.newaxis], FIRST)[1][0],
        "rsicrc": own,
    }
    if store.approximate:
        exact = Vectors(vectors, np.arange(size))
        finders["one matrix product"] = lambda vector: exact.nearest(vector, FIRST).numbers
    found: dict[str, list[set[int]]] = {name: [] for name in finders}
    times: dict[str, list[float]] = {name: [] for name in [*finders, "text to rows"]}
    for vector in [asked[0], *asked]:  # the first one warms up
        for name, find in finders.items():
            start = time.perf_counter()
            best = find(vector)
            times[name].append(time.perf_counter() - start)
            rows = best.tolist()
            found[name].append({place[row] for row in rows} if name == "rsicrc" else set(rows))
        times["text to rows"].append(timed(lambda: index.search("a road is built in the woods")))
    for name, values in times.items():
        low, high = (1000 * float(np.quantile(values[1:], share)) for share in (0.5, 0.95))
        pairs = zip(found.get(name, []), found["FAISS flat"], strict=False)
        hits = [len(mine & right) / FIRST for mine, right in pairs]
        recall = f"{np.mean(hits):.4f}" if hits else ""
        label = f"{name} ({'approximate' if store.approximate else 'exact'})" if name == "rsicrc" else name
        say(f"| {size:,} | {label} | {low:.2f} | {high:.2f} | {recall} | {made.get(name, 0):.1f} |")


def clusters(size: int, queries: int, width: int) -> tuple[Vector, Vector]:
    """Make vectors [size, width] and queries [queries, width] of length 1.

    Kinds of change are as frequent as words are (Zipf); pairs of a kind have cosines around 0.7 with each other and 0.2
    with others; a query is about half as near to its pairs as they are to each other, as texts are in a shared space.
    """
    generator = np.random.default_rng(0)
    common = generator.standard_normal(width)
    centres = generator.standard_normal((KINDS, width)) + 0.5 * common
    shares = 1 / np.arange(1, KINDS + 1)
    kinds = generator.choice(KINDS, size, p=shares / shares.sum())
    vectors = np.empty((size, width), np.float32)
    for begin in range(0, size, PART):
        part = centres[kinds[begin : begin + PART]]
        vectors[begin : begin + PART] = unit(part + 0.7 * generator.standard_normal(part.shape))
    texts = centres[generator.choice(KINDS, queries)] - generator.standard_normal(width)
    return vectors, unit(texts + 0.7 * generator.standard_normal(texts.shape))


def unit(values: NDArray[np.float64]) -> Vector:
    """Return rows of length 1."""
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def table_of(vectors: Vector, begin: int, schema: pa.Schema) -> pa.Table:
    """Return rows of an index, whose number stands in place of a path."""
    texts = [str(number) for number in range(begin, begin + len(vectors))]
    same = pa.array([""] * len(vectors))
    columns = {
        "id": texts,
        "before": texts,
        "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
    }
    empty = {name: pa.nulls(len(vectors), schema.field(name).type) for name in ("caption", "score", "change_score")}
    return pa.table({name: columns.get(name, empty.get(name, same)) for name in schema.names}, schema=schema)


def timed(call: Callable[[], object]) -> float:
    """Return how many seconds a call took."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def say(text: str) -> None:
    """Print a line at once, also into a file."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
