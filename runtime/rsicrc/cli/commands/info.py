"""The command `rsicrc-run info`: content and checks of a model folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsicrc.cli.options import (
    AUTO,
    Backend,
    Device,
    Engines,
    Json,
    Model,
    Precision,
    Streams,
    Threads,
    Verbose,
    engine_settings,
    model_id,
)

_BATCH_SIZES = (1, 8, 32, 64)

if TYPE_CHECKING:
    from rsicrc.manifest import Manifest, TensorSpec


Memory = Annotated[
    bool, typer.Option("--memory", help="Measure how much memory captioning takes on this machine instead.")
]
MemoryBeams = Annotated[
    int | None,
    typer.Option("--beams", metavar="N", min=1, help="Width of the beam search for --memory. [default: the model's]"),
]


def info(
    model: Model = None,
    as_json: Json = False,
    memory: Memory = False,
    beams: MemoryBeams = None,
    device: Device = AUTO,
    backend: Backend = AUTO,
    precision: Precision = "fp32",
    threads: Threads = None,
    streams: Streams = None,
    engines: Engines = None,
    verbose: Verbose = False,
) -> None:
    """Show the content of a model folder and check its files.

    The output lists the graphs with their inputs and outputs, precisions, search defaults, the vocabulary, the parity
    with PyTorch, and hashes. --memory measures the memory for captioning in batches of any size; the options of the
    engine (--backend, --precision, --threads, --streams, --engines) apply to it.
    """
    settings = engine_settings(device, backend, precision, threads, streams, engines)
    from rsicrc.loading import find_model
    from rsicrc.manifest import Manifest

    folder = find_model(model)
    manifest = Manifest.load(folder)
    if memory:
        _print_memory(folder, beams, settings, as_json)
        return
    if as_json:
        document = {"folder": str(folder), "id": model_id(folder), "bytes": _bytes(manifest), **manifest.to_dict()}
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    for line in _describe(folder, manifest):
        typer.echo(line)


def _print_memory(folder: Path, beams: int | None, settings: dict[str, Any], as_json: bool) -> None:
    from rsicrc.cli.memory import predict_memory

    memory = predict_memory(folder, beams, **settings)
    peaks = {batch_size: round(memory.peak(batch_size)) for batch_size in _BATCH_SIZES}
    if as_json:
        document = {"base": round(memory.base), "per_pair": round(memory.per_pair), "peak": peaks}
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(f"{_size(memory.base)}, and {_size(memory.per_pair)} for each pair of a batch")
    for line in _table({f"batch {batch_size}": f"{_size(peak):>10}" for batch_size, peak in peaks.items()}):
        typer.echo(line)


def _describe(folder: Path, manifest: Manifest) -> Iterator[str]:
    search = manifest.search
    prep = manifest.preprocessing
    yield from _section(f"Model {folder}")
    yield from _table(
        {
            "id": model_id(folder),
            "size": _size(_bytes(manifest)),
            "precisions": ", ".join(manifest.precisions),
            "images": f"{prep.size} x {prep.size} pixels, mean {_numbers(prep.mean)}, std {_numbers(prep.std)}",
            "vocabulary": f"{manifest.vocab_size} words, captions of up to {manifest.max_len - 2}",
            "search": (
                f"{search.beams} beams, length penalty {search.length_penalty:g}, "
                f"{'early' if search.early_stopping else 'no early'} stopping"
            ),
            "no change": f"{len(manifest.no_change_sentences)} sentences",
            "checkpoint": str(manifest.checkpoint.get("sha256", "not recorded")),
            "made with": ", ".join(f"{name} {version}" for name, version in manifest.producers.items()),
        }
    )
    yield from _section("Configuration")
    yield from _table(_flat(manifest.model))
    for name, graph in manifest.graphs.items():
        yield from _section(f"Graph {name}, {graph.file}, {_size(manifest.files[graph.file].bytes)}")
        yield from _table(_tensors("in", graph.inputs) | _tensors("out", graph.outputs))
    yield from _section("Parity with PyTorch: the largest difference, and what is allowed")
    yield from _table(_flat(manifest.parity) or {"": "not recorded"})
    for precision, variant in manifest.variants.items():
        yield from _section(f"What {precision} costs")
        yield from _table(_flat(variant.parity) or {"": "not recorded"})
    yield from _section("Files, all as their SHA-256 says")
    yield from _table({name: f"{_size(record.bytes):>9}  {record.sha256}" for name, record in manifest.files.items()})


def _section(title: str) -> Iterator[str]:
    yield typer.style(title, bold=True)


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        yield f"  {name:<{width}}  {value}"
    yield ""


def _tensors(direction: str, specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    return {f"{direction} {name}": f"{spec.dtype} {_text(spec.shape)}" for name, spec in specs.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested containers into lines such as `trunk.width  8`."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and "tolerance" in value:
            flat[f"{prefix}{name}"] = _comparison(value)
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            flat |= _flat({str(number): item for number, item in enumerate(value, start=1)}, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = _text(value)
    return flat


def _comparison(entry: Mapping[str, Any]) -> str:
    """Format one entry of a parity report."""
    difference, allowed = entry.get("largest_difference"), entry["tolerance"]
    return f"{_text(difference):<11} of {_text(allowed):<6}  {entry.get('quantity', '')} ({entry.get('inputs', '')})"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"  # a cosine of 0.99999 is not 1
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return str(value)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _bytes(manifest: Manifest) -> int:
    return sum(record.bytes for record in manifest.files.values())


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
