"""Reading images with care: bounded before they are decoded, turned upright, and 8-bit RGB in the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from rsicrc.errors import ImageError

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
Pair: TypeAlias = tuple[ImageLike, ImageLike] | Sequence[ImageLike]

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
# Below this the model would only see interpolation: such an image is a mistake (a 1-pixel placeholder, say).
MIN_SIDE = 16
# 8192 × 8192. Larger ones are scenes, to be cut into tiles, or decompression bombs.
MAX_PIXELS = 1 << 26
# The center crop would drop nearly all of a narrower strip, and the resize before it would need gigabytes.
MAX_ASPECT = 16
# What Pillow turns into 8-bit RGB without having to guess a scale.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})
_SCALE_ADVICE = (
    "Scale both dates to 8 bit with the same stretch first, for example "
    "`gdal_translate -ot Byte -scale 0 3000 0 255 in.tif out.tif`"
)
# Pillow images that a caller opened decode at first use; two threads must not do that on one file at a time.
_decoding = threading.Lock()


def load_image(image: ImageLike) -> Image.Image:
    """Return an image as 8-bit RGB.

    EXIF rotation is applied; gray, palette and CMYK are converted; transparency is dropped (the color under it stays).
    More than 8 bits a channel are refused, because the right stretch depends on the sensor, and both dates need the
    same one.

    Args:
        image: A path (PNG, JPEG, TIFF, WebP or BMP), a Pillow image, or a uint8 array [H, W, 3].

    Returns:
        A Pillow image of mode RGB that holds no file open.

    Raises:
        ImageError: It cannot be used; the message names it and says what to do.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        with _decoding:
            return _guarded(image, describe(image))
    if isinstance(image, (str, os.PathLike)):
        return _from_path(Path(image))
    raise ImageError(f"an image is a path, a Pillow image or a uint8 array [H, W, 3], not {describe(image)}")


def load_pair(pair: Pair) -> tuple[Image.Image, Image.Image]:
    """Return the two images of a pair as 8-bit RGB (see `load_image`).

    Raises:
        ImageError: One of them cannot be used, or their sizes differ.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ImageError(f"a pair is two images, (before, after), not {describe(pair)}")
    before, after = load_image(pair[0]), load_image(pair[1])
    if before.size != after.size:
        raise ImageError(
            f"{describe(pair[0])} is {before.width} x {before.height} pixels but {describe(pair[1])} is "
            f"{after.width} x {after.height}: the two dates must show the same place on the same grid. "
            "Resample one to the other's grid"
        )
    return before, after


def describe(value: Any) -> str:
    """Name an image (or what was given for one) in a message."""
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    if isinstance(value, Image.Image):
        return str(getattr(value, "filename", "")) or "the Pillow image"
    if isinstance(value, np.ndarray):
        return f"the array of {value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {value!r:.80}"


def _from_path(path: Path) -> Image.Image:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: a folder, not an image. Name a file")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty. Copy or download it again")
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as opened:
            return _guarded(opened, str(path))
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file. Check the path") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_unreadable(path)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path}: more than {MAX_PIXELS} pixels. Cut it into tiles") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error


def _unreadable(path: Path) -> str:
    if path.suffix.lower() in (".tif", ".tiff"):
        return (
            "not a TIFF with three 8-bit bands. "
            "Extract red, green and blue, for example `gdal_translate -b 1 -b 2 -b 3 -ot Byte in.tif out.tif`"
        )
    return "not an image, or of a kind that is not read. Use PNG, JPEG, TIFF, WebP or BMP"


def _from_array(array: NDArray[Any]) -> Image.Image:
    name = describe(array)
    if array.ndim != 3 or array.shape[2] != 3:
        bands_first = array.ndim == 3 and array.shape[0] == 3
        advice = "Turn it with `np.moveaxis(array, 0, -1)`" if bands_first else "Give red, green and blue"
        raise ImageError(f"{name} is not [height, width, 3]. {advice}")
    if array.dtype != np.uint8:
        raise ImageError(f"{name} is not uint8. Scale both dates to 0…255 the same way and use `.astype(np.uint8)`")
    _check_size(array.shape[1], array.shape[0], name)
    return Image.fromarray(np.ascontiguousarray(array))


def _guarded(image: Image.Image, name: str) -> Image.Image:
    """Convert an image that may not be decoded yet, in the order in which each check makes the next one safe."""
    _check_size(image.width, image.height, name)
    if image.mode not in _EIGHT_BIT_MODES or _has_16_bit_samples(image):
        raise ImageError(f"{name}: more than 8 bits a channel, or no color image ({image.mode}). {_SCALE_ADVICE}")
    try:
        upright = ImageOps.exif_transpose(image)
        # A palette's transparency is only understood on the way to RGBA; RGBA to RGB then drops it.
        return upright.convert("RGBA").convert("RGB") if image.mode == "P" else upright.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(f"{name}: damaged or incomplete ({error}). Copy or download it again") from error


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: {width} x {height} pixels is too small. Each side needs at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels is more than {MAX_PIXELS}. Cut it into tiles")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"{name}: {width} x {height} pixels is too long and narrow. Cut it into square tiles")


def _has_16_bit_samples(image: Image.Image) -> bool:
    # Pillow opens 16-bit color as mode RGB and silently keeps the high bytes, which turns most satellite data black.
    # Only the decoder's raw mode ("RGB;16B") tells, and only before the pixels are decoded.
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
