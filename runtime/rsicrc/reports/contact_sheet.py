"""The hits of a search as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from rsicrc.reports.fonts import Font, load_font
from rsicrc.reports.heatmap import wrap
from rsicrc.reports.html import PICTURES, SIDE, Card, Heading

# All lengths in pixels.
_MARGIN = 40
_GAP = 14
_WIDTH = 2 * _MARGIN + 3 * SIDE + 2 * _GAP
_INNER = _WIDTH - 2 * _MARGIN
_HEAD = 62  # two lines of text above the pictures of a card
_FOOT = 26
_CARD_GAP = 30
_PAPER = (255, 255, 255)
_INK = (28, 30, 34)
_GRAY = (106, 111, 120)
_LINE = (224, 226, 230)
_ACCENT = (179, 64, 28)


def draw_contact_sheet(heading: Heading, cards: Sequence[Card]) -> Image.Image:
    """Draw the hits below each other: caption and scores, then before, after and heat map.

    Args:
        heading: Heading of the picture.
        cards: The hits.

    Returns:
        An RGB image on white; the height depends on the number of hits.
    """
    title = load_font(30)
    lines = [_shortened(line, title, _INNER) for line in wrap(heading.title, title, _INNER)]
    top = _MARGIN + 38 * len(lines) + 40
    height = top + sum(_height(card) for card in cards) + _MARGIN
    sheet = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + 38 * number), line, fill=_INK, font=title)
    small = load_font(16)
    notes = _shortened("   ·   ".join(heading.notes), small, _INNER)
    draw.text((_MARGIN, _MARGIN + 38 * len(lines) + 4), notes, fill=_GRAY, font=small)
    for card in cards:
        _draw_card(sheet, draw, card, top)
        top += _height(card)
    return sheet


def _height(card: Card) -> int:
    return _HEAD + (SIDE + _FOOT if card.pictures else 24) + _CARD_GAP


def _draw_card(sheet: Image.Image, draw: ImageDraw.ImageDraw, card: Card, top: int) -> None:
    large, small = load_font(20), load_font(15)
    draw.line((_MARGIN, top, _WIDTH - _MARGIN, top), fill=_LINE, width=1)
    rank = f"{card.rank}"
    draw.text((_MARGIN, top + 8), rank, fill=_ACCENT, font=large)
    left = _MARGIN + 14 + int(large.getlength(rank))
    text = _shortened(card.caption or card.pair_id, large, _WIDTH - _MARGIN - left)
    draw.text((left, top + 8), text, fill=_INK, font=large)
    parts = [*(f"{label} {value}" for label, value in card.metrics.items())]
    parts += [f"{name} {value}" for name, value in card.columns.items()]
    parts += [card.pair_id] if card.caption else []
    draw.text((_MARGIN, top + 36), _shortened("    ".join(parts), small, _INNER), fill=_GRAY, font=small)
    if not card.pictures:
        draw.text((_MARGIN, top + _HEAD), _shortened(card.problem, small, _INNER), fill=_ACCENT, font=small)
    for column, (picture, label) in enumerate(zip(card.pictures, PICTURES, strict=False)):
        left = _MARGIN + column * (SIDE + _GAP)
        sheet.paste(picture, (left, top + _HEAD))
        draw.text((left, top + _HEAD + SIDE + 5), label, fill=_GRAY, font=small)


def _shortened(text: str, font: Font, width: int) -> str:
    """Truncate a line to at most `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
