"""Markdown tables of the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from common.runner import Results
from common.summary import Row, rows, start
from common.worker import CAPTION, ENCODER, FILES, HELD_OUT, IMAGES, STEP, TEXTS, Case

ABSENT = "–"
PUBLISHED = "published"
_TITLES = {
    CAPTION: "Captions of pairs in memory",
    FILES: "Captions from PNG files",
    IMAGES: "Embeddings of pairs",
    TEXTS: "Embeddings of texts",
    ENCODER: "Image encoder by itself",
    STEP: "Beam search step by itself",
}
_UNITS = {TEXTS: "sentences", STEP: "pairs' steps"}
_PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in body)])


def throughput(results: Results) -> str:
    """Return two tables per task: the rate of every case, then all numbers of every case."""
    everything = rows(results)
    parts = [_heading(results)]
    for task, title in _TITLES.items():
        part = [row for row in everything if row.case.task == task]
        if part:
            parts.append(f"## {title}\n\n{_rates(part)}\n\n{_details(part, results)}")
    return "\n\n".join([*parts, *_quality_and_notes(results, everything)])


def latency(results: Results) -> str:
    """Return the latencies of one pair: a table of captions, and a table of embeddings and single graphs."""
    everything, sizes = rows(results), _sizes(results)
    captions: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for row in everything:
        times = [f"{1e3 * row.quantile(share):.4g}" for share in (0.5, 0.95, 0.99)]
        first = (row.implementation, row.precision)
        if row.case.task == CAPTION:
            begun = (_number(each, 2) for each in start(results, row.implementation))
            captions.append(
                (*first, str(row.case.beams), *begun, *times, *_shares(row), _gigabytes(row.memory),
                 sizes[row.implementation], _number(row.answers.get("same_captions")), str(len(row.seconds)))
            )  # fmt: skip
        elif row.case.task in (IMAGES, TEXTS, ENCODER, STEP):
            task = row.case.task if row.case.task != STEP else f"{STEP}, {row.case.beams} beams"
            others.append((*first, task, *times, _shares(row)[0], _number(row.answers.get("cosine"), 5)))
    parts = [_heading(results)]
    quantiles = ("p50 ms", "p95 ms", "p99 ms", "of roofline")
    names = ("implementation", "precision", "beams", "start s", "first s", "first warm s", *quantiles, "image encoder",
             "beam search", "memory GB", "model GB", "same caption", "n")  # fmt: skip
    parts += [f"## One pair → caption\n\n{markdown(names, captions)}"] if captions else []
    if others:
        head = ("implementation", "precision", "task", *quantiles, "cosine")
        parts.append(f"## One pair or one text → embedding; single graphs\n\n{markdown(head, others)}")
    return "\n\n".join([*parts, *_quality_and_notes(results, everything)])


def _heading(results: Results) -> str:
    """Return the model, the device, the versions and the peak rates."""
    about = results.about
    model = about["model"]
    length = f"captions of {about['max_length'] - 1} tokens" if model["forced"] else "captions of natural length"
    parameters = f"{model['parameters'] / 1e6:.1f} M parameters, " if model["parameters"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"{model['name']}, {parameters}{length}; {about['device']}", versions]
    if peaks := about["limits"]:
        gmacs, by = peaks["gmacs"], peaks["by"]
        rates = ", ".join(f"{name} {2e-3 * gmacs[name]:.3f} ({by[name]})" for name in _PRECISIONS if name in gmacs)
        lines.append(f"Peak rates: products in TFLOP/s: {rates}; memory {peaks['bandwidth']:.1f} GB/s")
    return "\n\n".join(lines)


def _rates(part: Sequence[Row]) -> str:
    """Return a table of implementations × cases."""
    cases = sorted({row.case for row in part}, key=_order)
    rates = {(row.implementation, row.case): f"{row.rate:.2f}" for row in part}
    names = dict.fromkeys(row.implementation for row in part)
    unit = _UNITS.get(part[0].case.task, "pairs")
    body = [(name, *(rates.get((name, case), ABSENT) for case in cases)) for name in names]
    return markdown((f"{unit} per second", *map(_label, cases)), body)


def _details(part: Sequence[Row], results: Results) -> str:
    """Return a table of all numbers, without the columns that have none."""
    published = next((row for row in part if row.implementation == PUBLISHED), None)
    sizes = _sizes(results)
    body = []
    for row in sorted(part, key=lambda row: _order(row.case)):
        factor = ABSENT if published is None else f"{row.rate / published.rate:.1f} ×"
        spread = f"{row.items / max(row.rounds):.2f} … {row.items / min(row.rounds):.2f}"
        metrics = (row.answers.get("same_captions"), row.answers.get("cosine"), row.answers.get("same_neighbor"))
        body.append(
            (_label(row.case), row.implementation, row.precision, f"{row.rate:.2f}", spread, str(len(row.seconds)),
             factor, *_shares(row), _gigabytes(row.memory), sizes[row.implementation],
             *map(_number, metrics, (3, 5, 3)))
        )  # fmt: skip
    head = ("batch × beams" if part[0].case.beams else "batch", "implementation", "precision", "per second", "rounds",
            "n", "of published", "of roofline", "image encoder", "beam search", "memory GB", "model GB",
            "same caption", "cosine", "same neighbor")  # fmt: skip
    shown = [column for column in range(len(head)) if any(row[column] != ABSENT for row in body)]
    return markdown([head[column] for column in shown], [[row[column] for column in shown] for row in body])


def _quality_and_notes(results: Results, everything: Iterable[Row]) -> Iterator[str]:
    judged = [row for row in everything if row.case.task == HELD_OUT]
    if judged:
        metrics = {"bleu_4": 4, "precision_at_1": 4, "same_captions": 4, "cosine": 5, "same_neighbor": 4}
        body = [
            (row.implementation, row.precision, str(row.items),
             *(_number(row.answers.get(name), digits) for name, digits in metrics.items()))
            for row in judged
        ]  # fmt: skip
        head = ("implementation", "precision", "held-out pairs", "BLEU-4", "P@1", "same caption", "lowest cosine",
                "same neighbor")  # fmt: skip
        yield f"## Quality\n\n{judged[0].case.beams} beams\n\n{markdown(head, body)}"
    errors = {turn["contestant"]: turn["error"] for turn in results.turns if turn["error"]}
    notes = [f"- {name}: {error}" for name, error in errors.items()]
    notes += sorted({f"- {turn['contestant']} {turn['note']}" for turn in results.turns if turn.get("note")})
    if notes:
        yield "Notes:\n\n" + "\n".join(notes)


def _order(case: Case) -> tuple[int, int]:
    return case.batch, case.beams


def _label(case: Case) -> str:
    return f"{case.batch} × {case.beams}" if case.beams else str(case.batch)


def _shares(row: Row) -> list[str]:
    """Return the shares of the roofline that a run, its image encoder and its beam search reach."""
    parts = ((row.roofline, row.median), (row.image_roofline, row.image), (row.decode_roofline, row.decode))
    return [ABSENT if best is None or time is None else f"{100 * best / time:.0f} %" for best, time in parts]


def _number(value: float | None, digits: int = 3) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f}"


def _sizes(results: Results) -> dict[str, str]:
    """Return the size on disk of the files that each implementation loads."""
    return {turn["contestant"]: _gigabytes(turn["size"]) for turn in results.turns if "size" in turn}
