"""The HTML page and the contact sheet of a search."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from rsicrc.reports.contact_sheet import draw_contact_sheet
from rsicrc.reports.html import SIDE, Card, Heading, combined_attention, make_heading, render_page
from rsicrc.results import Explanation

PICTURES = tuple(Image.new("RGB", (SIDE, SIDE), color) for color in ("tan", "olive", "navy"))
CARDS = [
    Card(1, "p1", "a <b>road</b>", {"similarity": "0.512"}, {"place": "a & b"}, ('/x/"a".png', "/x/b.png"), PICTURES),
    Card(2, "p2", "", {"similarity": "0.5"}, {}, ("/x/c.png", "/x/d.png"), (), "/x/c.png: no such <file>"),
]


def test_page_is_self_contained_and_escaped() -> None:
    page = render_page(Heading("roads < houses", ["2 of 1,000 pairs", "where a < 'b'"]), CARDS)
    assert page.startswith("<!doctype html>")
    assert page.count("data:image/jpeg;base64,") == 3
    assert not re.search(r"https?://|<script|<link|url\(", page)
    for text in ("roads &lt; houses", "where a &lt; &#x27;b&#x27;", "a &lt;b&gt;road&lt;/b&gt;", "place a &amp; b"):
        assert text in page
    assert 'title="/x/&quot;a&quot;.png"' in page
    assert "no such &lt;file&gt;" in page
    assert "p2" in page


def test_contact_sheet_shows_every_picture() -> None:
    sheet = draw_contact_sheet(Heading("new houses " * 20, ["2 of 1,000 pairs"]), CARDS)
    pixels = np.asarray(sheet)
    for color in (210, 180, 140), (128, 128, 0), (0, 0, 128):
        assert (pixels == color).all(axis=-1).sum() >= SIDE * SIDE  # the whole picture
    for edge in pixels[:20], pixels[-20:], pixels[:, :20], pixels[:, -20:]:
        assert (edge == 255).all()
    empty = draw_contact_sheet(Heading("nothing", []), [])
    assert (empty.width, empty.height < 200) == (sheet.width, True)


def test_heading_names_query_and_settings() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs rsicrc[search]")
    pytest.importorskip("lancedb", reason="needs rsicrc[search]")
    from rsicrc.index.hits import Hits

    table = pa.table({"rank": [1], "similarity": [0.5], "log_prob": [-3.0]})
    heading = make_heading(Hits("a road", ("zeppelin",), table), 1234, "year = 2020")
    assert heading.title == "a road"
    assert list(heading.notes) == ["1 of 1,234 pairs", "where year = 2020", "reranked", "not understood: zeppelin"]
    assert make_heading(Hits(None, (), table.select(["rank"])), 1, None).title == "Changes like the example"


def test_words_with_an_attention_peak_weigh_more() -> None:
    even = np.full((2, 2), 0.25)
    peak = np.array([[1.0, 0.0], [0.0, 0.0]])
    explanation = Explanation("the road", ("the", "road"), np.stack([even, peak]).astype(np.float32), even)
    focus = combined_attention(explanation)
    assert focus.sum() == pytest.approx(1)
    assert focus[0, 0] == pytest.approx(1, abs=1e-3)
