"""HTML pages of pairs: both images, the attention of the model, and the caption."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rsicrc.errors import ImageError
from rsicrc.inputs.images import load_pair
from rsicrc.reports.heatmap import centered_square, overlay

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsicrc.engine import Engine
    from rsicrc.index.hits import Hits
    from rsicrc.results import Explanation

SIDE = 288  # width and height of a picture in pixels
PICTURES = ("Before", "After", "Attention")
_QUALITY = 82
_METRICS = {"similarity": "similarity", "log_prob": "log p", "cider": "CIDEr", "change_score": "change"}
# Columns that are not listed under a card: the card shows them elsewhere or not at all.
_FIXED_COLUMNS = frozenset({"rank", "rank_score", "id", "before", "after", "caption", "score", *_METRICS})


@dataclass(frozen=True)
class Heading:
    """The heading of a page.

    Attributes:
        title: Title, for example the query.
        notes: Short facts about the search or the evaluation, a few words each.
    """

    title: str
    notes: Sequence[str]


@dataclass(frozen=True)
class Card:
    """One pair on a page.

    Attributes:
        rank: Rank of the pair, from 1.
        pair_id: Id of the pair.
        caption: Caption of the pair; empty if the index has no captions.
        metrics: Scores by label.
        columns: Columns of the user's table that have a value.
        paths: Paths of the two images.
        pictures: Before, after and heat map, squares of `SIDE` pixels; empty if the images cannot be read.
        problem: Reason why the images cannot be read.
    """

    rank: int
    pair_id: str
    caption: str
    metrics: Mapping[str, str]
    columns: Mapping[str, str]
    paths: tuple[str, str]
    pictures: tuple[Image.Image, ...] = ()
    problem: str = ""


def make_heading(hits: Hits, pairs: int, where: str | None) -> Heading:
    """Make the heading of the page of a search.

    Args:
        hits: Result of the search.
        pairs: Number of pairs in the index.
        where: SQL condition of the search.
    """
    notes = [f"{len(hits)} of {pairs:,} pairs"]
    if where is not None:
        notes.append(f"where {where}")
    if "log_prob" in hits.table.column_names:
        notes.append("reranked")
    if hits.unknown:
        notes.append(f"not understood: {', '.join(hits.unknown)}")
    return Heading(hits.query or "Changes like the example", notes)


def make_cards(engine: Engine, hits: Hits) -> list[Card]:
    """Make cards of the hits, with the attention of the model for the words of the query (or of the caption)."""
    return [make_card(engine, row, hits.query) for row in hits]


def make_card(engine: Engine, row: Mapping[str, Any], query: str | None) -> Card:
    """Read the images of one pair and compute the attention of the model for the words of a sentence.

    Args:
        engine: The model.
        row: `rank`, `id`, `before`, `after` and `caption`, any of the metrics that a card shows, and other columns.
        query: The sentence; None for the caption.
    """
    metrics = {label: f"{row[name]:.3f}" for name, label in _METRICS.items() if row.get(name) is not None}
    columns = {name: str(value) for name, value in row.items() if name not in _FIXED_COLUMNS and value is not None}
    paths = (row["before"], row["after"])
    pictures: tuple[Image.Image, ...] = ()
    problem = ""
    try:
        before, after = (_thumbnail(image) for image in load_pair(paths))
        explanation = engine.explain(paths, query or row["caption"] or None)
        heatmap = overlay(after, combined_attention(explanation)) if explanation.tokens else after
        pictures = (before, after, heatmap)
    except ImageError as error:
        problem = str(error)
    return Card(row["rank"], row["id"], row["caption"] or "", metrics, columns, paths, pictures, problem)


def render_page(heading: Heading, cards: Sequence[Card]) -> str:
    """Return one HTML page with all pictures embedded, which needs no other file and no network."""
    return _page(heading, "\n".join(map(_article, cards)) or "<p>No pair to show.</p>")


def render_sections(heading: Heading, sections: Mapping[str, Sequence[Card]]) -> str:
    """Return a page like that of `render_page`, with a title above each group of cards."""
    parts = [
        f'<h2 class="section">{html.escape(title)}</h2>\n' + "\n".join(map(_article, cards))
        for title, cards in sections.items()
    ]
    return _page(heading, "\n".join(parts) or "<p>No pair to show.</p>")


def combined_attention(explanation: Explanation) -> NDArray[np.float32]:
    """Return one attention map [h, w] for all words, summing to 1, in which words with a strong peak weigh more.

    The attention of articles and similar words is nearly uniform and would dominate an unweighted mean.
    """
    maps = explanation.attention
    weights = maps.max(axis=(1, 2)) - 1 / maps[0].size
    return np.average(maps, axis=0, weights=np.maximum(weights, 1e-6)).astype(np.float32)


def _page(heading: Heading, body: str) -> str:
    title = html.escape(heading.title)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in heading.notes)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<header>\n<h1>{title}</h1>\n<ul>{notes}</ul>\n</header>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _thumbnail(image: Image.Image) -> Image.Image:
    return centered_square(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _article(card: Card) -> str:
    metrics = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in card.metrics.items())
    columns = "".join(f"<li>{html.escape(name)} {html.escape(value)}</li>" for name, value in card.columns.items())
    if card.pictures:
        pictures = "".join(map(_figure, card.pictures, PICTURES, (*card.paths, "")))
    else:
        pictures = f'<p class="problem">{html.escape(card.problem)}</p>'
    caption = html.escape(card.caption) or f'<span class="name">{html.escape(card.pair_id)}</span>'
    pair_id = html.escape(card.pair_id) if card.caption else ""
    return (
        f'<article>\n<h2><span class="rank">{card.rank}</span>{caption}</h2>\n<dl>{metrics}</dl>\n'
        f'<div class="pictures">{pictures}</div>\n'
        f'<footer><span class="name">{pair_id}</span><ul>{columns}</ul></footer>\n'
        "</article>"
    )


def _figure(picture: Image.Image, label: str, path: str) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    title = f' title="{html.escape(path)}"' if path else ""
    return (
        f'<figure{title}><img src="data:image/jpeg;base64,{data}" alt="{label}" width="{SIDE}" height="{SIDE}">'
        f"<figcaption>{label}</figcaption></figure>"
    )


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ground: #f3f4f6; --ink: #1c1e22; --gray: #6a6f78; --line: #e0e2e6;
  --accent: #b3401c; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1d1f23; --ground: #131417; --ink: #eceef1; --gray: #9aa0aa; --line: #33363c; --accent: #ff9a5a; }
}
* { box-sizing: border-box; margin: 0; }
body { background: var(--ground); color: var(--ink); font: 16px/1.45 system-ui, sans-serif; padding: 2.5rem 1rem 4rem; }
header, main { max-width: 60rem; margin: 0 auto; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; }
ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; color: var(--gray);
  font-size: .9rem; }
header ul { margin: .5rem 0 2rem; }
article { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 1.1rem 1.3rem;
  margin-bottom: 1.2rem; display: grid; grid-template-columns: 1fr auto; gap: .8rem 1.5rem; break-inside: avoid; }
h2 { font-size: 1.1rem; font-weight: 600; display: flex; gap: .8rem; align-items: baseline; }
h2.section { font-size: 1.4rem; margin: 2.2rem 0 .9rem; }
.rank { color: var(--accent); font-variant-numeric: tabular-nums; min-width: 1.2em; }
dl { display: flex; gap: 1.2rem; text-align: right; font-variant-numeric: tabular-nums; }
dt { color: var(--gray); font-size: .75rem; }
dd { font-weight: 600; }
.pictures { grid-column: 1 / -1; display: grid; grid-template-columns: repeat(3, 1fr); gap: .7rem; }
figure img { width: 100%; height: auto; display: block; border-radius: 5px; }
figcaption { color: var(--gray); font-size: .8rem; margin-top: .3rem; }
footer { grid-column: 1 / -1; display: flex; flex-wrap: wrap; justify-content: space-between; gap: .3rem 1.5rem; }
.name { color: var(--gray); font: .8rem ui-monospace, monospace; overflow-wrap: anywhere; }
.problem { grid-column: 1 / -1; color: var(--accent); overflow-wrap: anywhere; }
@media (max-width: 36rem) { article { grid-template-columns: 1fr; } dl { justify-content: flex-start; } }
"""
