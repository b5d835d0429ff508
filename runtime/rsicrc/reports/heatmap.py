"""Picture of the cross-attention for each word of a caption."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from rsicrc.reports.fonts import Font, load_font

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsicrc.results import Explanation

# All lengths in pixels.
_WIDTH = 1240
_MARGIN = 40
_GAP = 16
_MAX_PHOTO_HEIGHT = 760
_COLUMNS = range(4, 7)  # number of word panels in a row
_PAPER = (255, 255, 255)
_INK = (32, 34, 38)
_GRAY = (122, 126, 132)
_LINE = (214, 216, 220)

# Ten evenly spaced points of matplotlib's color map "inferno" (CC0), which is perceptually uniform, also in gray and
# for color-blind readers.
_INFERNO = np.array(
    [
        (0, 0, 4),
        (27, 12, 66),
        (75, 12, 107),
        (120, 28, 109),
        (165, 45, 96),
        (207, 68, 70),
        (237, 105, 37),
        (251, 155, 6),
        (247, 209, 61),
        (252, 255, 164),
    ],
    dtype=np.float32,
)
_COLOR_START = 0.25  # the darkest colors of the map look like shadows in an aerial image


def draw_heatmap(before: Image.Image, after: Image.Image, explanation: Explanation) -> Image.Image:
    """Draw both images, the caption, and for each word the cross-attention over the later image.

    The input of the model is the center square of an image. A wider or higher image is shown whole at the top, with
    that square outlined; the word panels show only the square. The color scale of each panel ends at its strongest
    position, whose share of the word's attention is printed below the word. Nearly uniform attention, for example of
    articles, is drawn pale.

    Args:
        before: The earlier image.
        after: The later image, of the same size.
        explanation: Tokens [n] and their attention [n, h, w], from `Engine.explain`; warnings of its caption are
            printed below the caption.

    Returns:
        An RGB image on white, 1240 pixels wide; the height depends on the images and the number of words.
    """
    before, after = before.convert("RGB"), after.convert("RGB")
    inner = _WIDTH - 2 * _MARGIN
    title_font = load_font(34)
    title = wrap(explanation.text, title_font, inner)
    note_font = load_font(18)
    warnings = () if explanation.caption is None else explanation.caption.warnings
    notes = [line for warning in warnings for line in wrap(f"Note: {warning}", note_font, inner)]
    title_height = 44 * len(title) + 26 * len(notes)

    scale = min((inner - _GAP) / 2 / after.width, _MAX_PHOTO_HEIGHT / after.height)
    photo_width, photo_height = max(1, int(scale * after.width)), max(1, int(scale * after.height))
    columns, rows = _grid(len(explanation.tokens))
    panel = (inner - (columns - 1) * _GAP) // columns
    panel_height = panel + 58

    photos_top = _MARGIN + title_height + 20
    words_top = photos_top + photo_height + 44 + (72 if rows else 0)
    height = words_top + rows * (panel_height + _GAP) + _MARGIN - (_GAP if rows else 0)
    sheet = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(sheet)

    for row, line in enumerate(title):
        draw.text((_MARGIN, _MARGIN + 44 * row), line, fill=_INK, font=title_font)
    for row, line in enumerate(notes):
        draw.text((_MARGIN, _MARGIN + 44 * len(title) + 26 * row), line, fill=_GRAY, font=note_font)
    for column, (photo, label) in enumerate(((before, "Before"), (after, "After"))):
        left = _MARGIN + column * (photo_width + _GAP)
        sheet.paste(photo.resize((photo_width, photo_height), Image.Resampling.LANCZOS), (left, photos_top))
        _outline_square(draw, left, photos_top, photo_width, photo_height)
        draw.text((left, photos_top + photo_height + 10), label, fill=_GRAY, font=load_font(20))

    if rows:
        _draw_legend(sheet, draw, words_top - 46)
    square = centered_square(after).resize((panel, panel), Image.Resampling.LANCZOS)
    for index, (word, attention) in enumerate(zip(explanation.tokens, explanation.attention, strict=True)):
        row, column = divmod(index, columns)
        left, top = _MARGIN + column * (panel + _GAP), words_top + row * (panel_height + _GAP)
        sheet.paste(overlay(square, attention), (left, top))
        draw.text((left, top + panel + 6), word, fill=_INK, font=_fitting(word, panel, size=22))
        share = f"{100 * float(attention.max()):.0f} % at its peak"
        draw.text((left, top + panel + 34), share, fill=_GRAY, font=load_font(14))
    return sheet


def _grid(words: int) -> tuple[int, int]:
    """Return (columns, rows) of the panels, with rows of about equal length."""
    rows = -(-words // _COLUMNS[-1])
    columns = max(_COLUMNS[0], -(-words // max(rows, 1)))
    return columns, rows


def colors(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return RGB colors in [0, 255], of shape [..., 3], for values in [0, 1] of any shape."""
    position = (_COLOR_START + (1 - _COLOR_START) * np.clip(values, 0, 1)) * (len(_INFERNO) - 1)
    points = np.arange(len(_INFERNO))
    channels = [np.interp(position, points, _INFERNO[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def overlay(photo: Image.Image, attention: NDArray[np.float32]) -> Image.Image:
    """Draw attention over a square photo; stronger attention is brighter and more opaque.

    Args:
        photo: Center square of an image, see `centered_square`.
        attention: float32 [h, w], summing to 1.

    Returns:
        An RGB image of the size of the photo, where the photo is gray and the attention has color.
    """
    smooth = Image.fromarray(attention.astype(np.float32)).resize(photo.size, Image.Resampling.BICUBIC)
    # The scale covers at least four times the uniform attention, so that noise does not look like a peak.
    strongest = max(float(attention.max()), 4 / attention.size)
    strength = np.clip(
        np.asarray(smooth, dtype=np.float32) / strongest, 0, 1
    )  # bicubic interpolation exceeds the range on both sides
    opacity = 0.8 * strength[..., None] ** 0.75
    # The photo is gray, so that every color in a panel shows attention.
    gray = 0.8 * np.asarray(photo.convert("L"), dtype=np.float32)[..., None] + 45
    return Image.fromarray(np.rint((1 - opacity) * gray + opacity * colors(strength)).clip(0, 255).astype(np.uint8))


def _draw_legend(sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int) -> None:
    draw.text((_MARGIN, top), "Attention for each word", fill=_INK, font=load_font(20))
    width, right = 160, _WIDTH - _MARGIN
    font = load_font(14)
    strongest = "strongest"
    bar_left = round(right - draw.textlength(strongest, font=font) - 10 - width)
    ramp = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (12, width))
    sheet.paste(Image.fromarray(np.rint(colors(ramp)).astype(np.uint8)), (bar_left, top + 7))
    draw.text((bar_left - 10, top + 13), "none", fill=_GRAY, font=font, anchor="rm")
    draw.text((right, top + 13), strongest, fill=_GRAY, font=font, anchor="rm")


def centered_square(image: Image.Image) -> Image.Image:
    """Return the center square of an image, which is the part that the model uses."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _outline_square(draw: ImageDraw.ImageDraw, left: int, top: int, width: int, height: int) -> None:
    """Outline the center square of a photo that is not square."""
    side = min(width, height)
    if max(width, height) <= side + 1:
        return
    left, top = left + (width - side) // 2, top + (height - side) // 2
    draw.rectangle((left, top, left + side - 1, top + side - 1), outline=_LINE, width=3)


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Break a sentence into lines of at most `width` pixels; a longer word gets a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fitting(word: str, width: int, size: int) -> Font:
    """Return the largest font, from `size` down to 10, in which a word is at most `width` pixels wide."""
    while size > 10 and load_font(size).getlength(word) > width:
        size -= 1
    return load_font(size)
