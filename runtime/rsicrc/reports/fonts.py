"""The font of sheets and heat maps: Open Sans (Apache-2.0), which has Latin, Greek and Cyrillic letters."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FILE = "ttf/OpenSans-Regular.ttf"
_SCALE = 0.94  # Open Sans is larger than most fonts of the same nominal size


@lru_cache(maxsize=64)
def load_font(size: int) -> Font:
    """Return the font in a size in pixels."""
    content = (files("ttf_opensans") / _FILE).read_bytes()
    return ImageFont.truetype(BytesIO(content), _SCALE * size)
