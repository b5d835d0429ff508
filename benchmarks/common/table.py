"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.rounds import Results
from common.summary import (
    CAPTION,
    ENCODER,
    FILES,
    HELD_OUT,
    IMAGES,
    STEP,
    TEXTS,
    Row,
    Start,
    failures,
    rows,
    sizes,
    starts,
)  # fmt: skip

_TITLES = {
    CAPTION: "Captions of pairs in memory",
    FILES: "Captions from PNG files",
    IMAGES: "Embeddings of pairs",
    TEXTS: "Embeddings of texts",
    ENCODER: "The image encoder's graph alone",
    STEP: "A step of the search alone",
}
ABSENT = "–"


def heading(results: Results) -> str:
    """What was measured, on what."""
    about = results.about
    model = about["model"]
    length = f"{about['max_length'] - 1} forced words" if model["forced"] else "captions of natural length"
    parameters = f"{model['parameters'] / 1e6:.1f} M parameters, " if model["parameters"] else ""
    lines = [
        f"{model['name']}, {parameters}{length}; {about['device']}",
        ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    ]
    if limits := about["limits"]:
        rates = ", ".join(
            f"{precision} {2e-3 * limits['gmacs'][precision]:.3f} ({limits['by'][precision]})"
            for precision in ("fp32", "tf32", "fp16", "bf16", "int8")
            if precision in limits["gmacs"]
        )
        lines.append(f"Limits: products in TFLOP/s: {rates}; memory {limits['bandwidth']:.1f} GB/s")
    return "\n\n".join(lines)


def throughput(results: Results) -> str:
    """One table for every task: pairs (or sentences) a second in every cell, then all figures of every cell."""
    everything = rows(results)
    parts = [heading(results)]
    for task, title in _TITLES.items():
        part = [row for row in everything if row.cell.task == task]
        if part:
            parts.append(f"## {title}\n\n{_matrix(part)}\n\n{_details(part, results)}")
    return "\n\n".join([*parts, *_rest(results, everything)])


def latency(results: Results) -> str:
    """One pair: a table for captions, one for embeddings."""
    everything = rows(results)
    started = starts(results)
    captions, embeddings = [], []
    for row in everything:
        times = [f"{1e3 * row.quantile(share):.4g}" for share in (0.5, 0.95, 0.99)]
        floor = percent(row.floor, row.quantile(0.5))
        if row.cell.task == CAPTION:
            start = started.get(row.contestant, Start())
            captions.append(
                (row.contestant, row.precision, str(row.cell.beams), *map(seconds, start), *times, floor,
                 percent(row.image_floor, row.image), percent(row.decode_floor, row.decode), gigabytes(row.memory),
                 _size(results, row), share(row.answers.get("same_captions")), str(len(row.seconds)))
            )  # fmt: skip
        elif row.cell.task in (IMAGES, TEXTS, ENCODER, STEP):
            task = row.cell.task if row.cell.task != STEP else f"{STEP}, {row.cell.beams} beams"
            embeddings.append((row.contestant, row.precision, task, *times, floor, share(row.answers.get("cosine"), 5)))
    parts = [heading(results)]
    if captions:
        head = ("contestant", "precision", "beams", "start s", "first s", "first warm s", "p50 ms", "p95 ms", "p99 ms",
                "of floor", "image side", "search", "memory GB", "model GB", "same caption", "n")  # fmt: skip
        parts.append(f"## One pair → caption\n\n{markdown(head, captions)}")
    if embeddings:
        head = ("contestant", "precision", "what", "p50 ms", "p95 ms", "p99 ms", "of floor", "cosine")
        parts.append(f"## One pair, or one text → embedding; single graphs\n\n{markdown(head, embeddings)}")
    return "\n\n".join([*parts, *_rest(results, everything)])


def _rest(results: Results, everything: Sequence[Row]) -> Iterable[str]:
    judged = [row for row in everything if row.cell.task == HELD_OUT]
    if judged:
        body = [
            (row.contestant, row.precision, f"{row.items}", share(row.answers.get("bleu_4"), 4),
             share(row.answers.get("precision_at_1"), 4), share(row.answers.get("same_captions"), 4),
             share(row.answers.get("cosine"), 5), share(row.answers.get("same_neighbor"), 4))
            for row in judged
        ]  # fmt: skip
        head = (
            "contestant",
            "precision",
            "held-out pairs",
            "BLEU-4",
            "P@1",
            "same caption",
            "lowest cosine",
            "same neighbor",
        )
        yield f"## Quality\n\n{judged[0].cell.beams} beams\n\n{markdown(head, body)}"
    notes = [f"- {name}: {reason}" for name, reason in failures(results).items()]
    notes += sorted({f"- {turn['contestant']} {turn['note']}" for turn in results.turns if turn.get("note")})
    if notes:
        yield "Notes:\n\n" + "\n".join(notes)


def _matrix(part: Sequence[Row]) -> str:
    cells = sorted({row.cell for row in part}, key=lambda cell: (cell.batch, cell.beams))
    names = list(dict.fromkeys(row.contestant for row in part))
    found = {(row.contestant, row.cell): row for row in part}
    body = []
    for name in names:
        own = [found.get((name, cell)) for cell in cells]
        body.append((name, *(ABSENT if row is None else f"{row.rate:.2f}" for row in own)))
    unit = {TEXTS: "sentences", STEP: "pairs' steps"}.get(part[0].cell.task, "pairs")
    return markdown((f"{unit} a second", *(_label(cell) for cell in cells)), body)


def _label(cell: object) -> str:
    batch, beams = vars(cell)["batch"], vars(cell)["beams"]
    return f"{batch} × {beams}" if beams else str(batch)


def _details(part: Sequence[Row], results: Results) -> str:
    slowest = {row.contestant: row for row in part if row.contestant == "published"}.get("published")
    body = []
    for row in sorted(part, key=lambda row: (row.cell.batch, row.cell.beams)):
        times = ABSENT if slowest is None else f"{row.rate / slowest.rate:.1f} ×"
        spread = f"{row.items / max(row.rounds):.2f} … {row.items / min(row.rounds):.2f}"
        body.append(
            (_label(row.cell), row.contestant, row.precision, f"{row.rate:.2f}", spread, str(len(row.seconds)), times,
             percent(row.floor, row.median), percent(row.image_floor, row.image), percent(row.decode_floor, row.decode),
             gigabytes(row.memory), _size(results, row), share(row.answers.get("same_captions")),
             share(row.answers.get("cosine"), 5), share(row.answers.get("same_neighbor")))
        )  # fmt: skip
    head = ("batch × beams" if part[0].cell.beams else "batch", "contestant", "precision", "a second", "rounds", "n",
            "published way", "of floor", "image side", "search", "memory GB", "model GB", "same caption", "cosine",
            "same neighbor")  # fmt: skip
    return markdown(*_without_empty(head, body))


def _without_empty(head: Sequence[str], body: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    kept = [number for number in range(len(head)) if any(row[number] != ABSENT for row in body)]
    return [head[number] for number in kept], [[row[number] for number in kept] for row in body]


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in body)])


def percent(floor: float | None, time: float | None) -> str:
    """How much of the floor a time reaches: 100 % is as quick as the machine can be."""
    return ABSENT if floor is None or time is None else f"{100 * floor / time:.0f} %"


def seconds(value: float | None) -> str:
    """Seconds, where there are any."""
    return ABSENT if value is None else f"{value:.2f}"


def gigabytes(count: int) -> str:
    """Bytes in 10⁹."""
    return f"{count / 1e9:.2f}"


def share(value: float | None, digits: int = 3) -> str:
    """A figure between 0 and 1."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def _size(results: Results, row: Row) -> str:
    known = sizes(results)
    return gigabytes(known[row.contestant]) if row.contestant in known else ABSENT
