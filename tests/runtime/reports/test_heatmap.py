"""The heat map: its layout, and its colors compared with the attention."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rsicrc.reports.heatmap import colors, draw_heatmap
from rsicrc.results import Explanation


def explanation(words: tuple[str, ...], attention: NDArray[np.float32] | None = None) -> Explanation:
    if attention is None:
        attention = np.full((len(words), 7, 7), 1 / 49, np.float32)
    return Explanation(" ".join(words), words, attention, np.ones((7, 7), np.float32))


def photo(width: int = 64, height: int = 64, gray: int = 128) -> Image.Image:
    return Image.new("RGB", (width, height), (gray, gray, gray))


def saturation(sheet: Image.Image) -> NDArray[np.float32]:
    """Return the saturation of each pixel: the photos in these tests are gray, so color is attention or the legend."""
    pixels = np.asarray(sheet, np.float32)
    spread: NDArray[np.float32] = pixels.max(axis=-1) - pixels.min(axis=-1)
    return spread


def panels_top(sheet: Image.Image) -> int:
    """Return the first row below the photos and the legend."""
    return sheet.height - 40 - 58 - 278


def test_heatmap_has_white_margins() -> None:
    sheet = draw_heatmap(photo(), photo(), explanation(("houses", "appear")))
    assert (sheet.mode, sheet.width) == ("RGB", 1240)
    pixels = np.asarray(sheet)
    for edge in (pixels[:30], pixels[-10:], pixels[:, :30], pixels[:, -30:]):
        assert (edge == 255).all()


def test_color_is_at_the_attention_peak() -> None:
    attention = np.full((1, 7, 7), 1e-4, np.float32)
    attention[0, 1, 5] = 1  # second row, sixth column
    sheet = draw_heatmap(photo(), photo(), explanation(("houses",), attention))
    panel = 278  # four columns in 1160 pixels with gaps of 16
    colored = saturation(sheet)[panels_top(sheet) :][:panel, 40 : 40 + panel]
    row, column = np.unravel_index(np.argmax(colored), colored.shape)
    assert 1 <= row / panel * 7 < 2
    assert 5 <= column / panel * 7 < 6
    assert colored[panel // 2 :, : panel // 2].max() < 20


def test_uniform_attention_is_paler_than_a_peak() -> None:
    attention = np.full((2, 7, 7), 1 / 49, np.float32)
    attention[1] = 0
    attention[1, 3, 3] = 1
    sheet = draw_heatmap(photo(), photo(), explanation(("the", "pond"), attention))
    colored = saturation(sheet)[panels_top(sheet) : -98]
    assert colored[:, 40:318].max() < 0.5 * colored[:, 334:612].max()


def test_panels_are_in_rows_of_even_length() -> None:
    heights = {count: draw_heatmap(photo(), photo(), explanation(("x",) * count)).height for count in (1, 4, 6, 7, 13)}
    assert heights[1] == heights[4]
    assert heights[6] < heights[4]  # six panels in a row are smaller
    assert heights[7] > heights[4]  # 4 + 3, not 6 + 1
    assert heights[13] > heights[7]


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (16, 4000), (256, 255)])
def test_heatmap_of_any_image_shape_is_bounded(size: tuple[int, int]) -> None:
    sheet = draw_heatmap(photo(*size), photo(*size), explanation(("a", "road")))
    assert sheet.width == 1240
    assert sheet.height < 1700


def test_panels_show_the_center_square() -> None:
    after = photo(300, 100, gray=0)
    after.paste((200, 200, 200), (100, 0, 200, 100))  # the centered square
    sheet = draw_heatmap(photo(300, 100), after, explanation(("road",), np.zeros((1, 7, 7), np.float32)))
    panel = np.asarray(sheet)[panels_top(sheet) :][4:270, 44:310]
    assert panel.min() > 150


def test_long_words_and_empty_captions_fit() -> None:
    endless = draw_heatmap(photo(), photo(), explanation(("a" * 24,) * 40))
    assert (np.asarray(endless)[:, -30:] == 255).all()
    assert draw_heatmap(photo(), photo(), explanation(())).height > 500


def test_other_image_modes_are_drawn_like_rgb() -> None:
    expected = draw_heatmap(photo(), photo(), explanation(("x",)))
    sheet = draw_heatmap(photo().convert("L"), photo().convert("RGBA"), explanation(("x",)))
    np.testing.assert_array_equal(np.asarray(sheet), np.asarray(expected))


def test_colors_have_increasing_lightness() -> None:
    ramp = colors(np.linspace(0, 1, 64))
    assert ramp.shape == (64, 3)
    assert ramp.min() >= 0
    assert ramp.max() <= 255
    luminance = ramp @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    assert (np.diff(luminance) > 0).all()
    np.testing.assert_array_equal(colors(np.array([-1.0, 2.0])), colors(np.array([0.0, 1.0])))
