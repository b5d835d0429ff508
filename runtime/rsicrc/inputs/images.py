"""Reading of images as upright 8-bit RGB, with limits that are checked before decoding."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from rsicrc.errors import ImageError

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]
Pair: TypeAlias = tuple[ImageLike, ImageLike] | Sequence[ImageLike]

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
# A smaller image would be mostly interpolation, and is probably a mistake (for example a 1-pixel placeholder).
MIN_SIDE = 16
# 8192 × 8192. Larger images are scenes, which have to be cut into tiles, or decompression bombs.
MAX_PIXELS = 1 << 26
# The center crop would drop nearly all of a narrower image, and the resize before the crop would need gigabytes.
MAX_ASPECT = 16
# Modes that Pillow converts to 8-bit RGB without guessing a scale.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
_SCALE_ADVICE = (
    "Scale both images to 8 bit with the same stretch first, for example "
    "`gdal_translate -ot Byte -scale 0 3000 0 255 in.tif out.tif`"
)
# File objects, and Pillow images that a caller opened, are decoded at first use. Two threads must not decode from one
# file at the same time.
_decoding = threading.Lock()


def load_image(image: ImageLike) -> Image.Image:
    """Return an image as 8-bit RGB.

    EXIF rotation is applied; gray, palette and CMYK images are converted; transparency is dropped and the color under
    it is kept. Images with more than 8 bits per channel are refused, because the right stretch depends on the sensor,
    and both images of a pair need the same stretch.

    Args:
        image: Path, bytes or binary file object of a PNG, JPEG, TIFF, WebP or BMP file, a Pillow image, or a uint8
            array [H, W, 3]. A file object is read from its beginning and stays open. File objects and Pillow images
            are decoded by one thread at a time; paths and bytes are decoded in parallel.

    Returns:
        A Pillow image of mode RGB without an open file.

    Raises:
        ImageError: The image cannot be used; the message names the image and a remedy.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        with _decoding:
            return _guarded(image, describe(image))
    if isinstance(image, (str, os.PathLike)):
        return _from_path(Path(image))
    if isinstance(image, bytes):
        return _from_file(io.BytesIO(image), describe(image))
    if isinstance(image, io.TextIOBase):
        raise ImageError(f"{describe(image)}: a file in text mode. Open it in binary mode ('rb')")
    if hasattr(image, "read"):
        with _decoding:
            return _from_file(image, describe(image))
    raise ImageError(
        f"an image is a path, bytes, a binary file, a Pillow image or a uint8 array [H, W, 3], not {describe(image)}"
    )


def load_pair(pair: Pair) -> tuple[Image.Image, Image.Image]:
    """Return the two images of a pair as 8-bit RGB (see `load_image`).

    Raises:
        ImageError: One of the images cannot be used, or their sizes differ.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ImageError(f"a pair is two images, (before, after), not {describe(pair)}")
    before, after = load_image(pair[0]), load_image(pair[1])
    if before.size != after.size:
        raise ImageError(
            f"{describe(pair[0])} is {before.width} x {before.height} pixels but {describe(pair[1])} is "
            f"{after.width} x {after.height}: the two images must show the same area on the same grid. "
            "Resample one image to the grid of the other"
        )
    return before, after


def describe(value: Any) -> str:
    """Return a name for an image, or for a value of a wrong type, for use in a message."""
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    if isinstance(value, Image.Image):
        return str(getattr(value, "filename", "")) or "the Pillow image"
    if isinstance(value, np.ndarray):
        return f"the array of {value.dtype} {list(value.shape)}"
    if isinstance(value, bytes):
        return f"the image of {len(value)} bytes"
    if hasattr(value, "read"):
        name = getattr(value, "name", None)
        return name if isinstance(name, str) else "the file object"
    return f"{type(value).__name__} {value!r:.80}"


def _from_path(path: Path) -> Image.Image:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: a folder, not an image. Name a file")
        with path.open("rb") as file:
            return _from_file(file, str(path))
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file. Check the path") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def _from_file(file: IO[bytes], name: str) -> Image.Image:
    try:
        with Image.open(file, formats=FORMATS) as opened:
            return _guarded(opened, name)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: {_unidentified(file, name)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: more than {MAX_PIXELS} pixels. Cut it into tiles") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _unidentified(file: IO[bytes], name: str) -> str:
    try:
        file.seek(0)
        start: bytes | None = file.read(4)
    except OSError:  # a stream without seek
        start = None
    if start == b"":
        return "the file is empty. Copy or download it again"
    if start in _TIFF_SIGNATURES or name.lower().endswith((".tif", ".tiff")):
        return (
            "not a TIFF with three 8-bit bands. "
            "Extract red, green and blue, for example `gdal_translate -b 1 -b 2 -b 3 -ot Byte in.tif out.tif`"
        )
    return "not an image, or of an unsupported format. Use PNG, JPEG, TIFF, WebP or BMP"


def _from_array(array: NDArray[Any]) -> Image.Image:
    name = describe(array)
    if array.ndim != 3 or array.shape[2] != 3:
        bands_first = array.ndim == 3 and array.shape[0] == 3
        advice = "Move the bands with `np.moveaxis(array, 0, -1)`" if bands_first else "Pass red, green and blue"
        raise ImageError(f"{name} is not [height, width, 3]. {advice}")
    if array.dtype != np.uint8:
        raise ImageError(f"{name} is not uint8. Scale both images to 0…255 in the same way and use `.astype(np.uint8)`")
    _check_size(array.shape[1], array.shape[0], name)
    return Image.fromarray(np.ascontiguousarray(array))


def _guarded(image: Image.Image, name: str) -> Image.Image:
    """Convert an image, which may not be decoded yet. The limits are checked before the decoder runs."""
    _check_size(image.width, image.height, name)
    if image.mode not in _EIGHT_BIT_MODES or _has_16_bit_samples(image):
        raise ImageError(f"{name}: more than 8 bits a channel, or not a color image ({image.mode}). {_SCALE_ADVICE}")
    try:
        upright = ImageOps.exif_transpose(image)
        # Pillow handles the transparency of a palette only when converting to RGBA; the step to RGB then drops it.
        return upright.convert("RGBA").convert("RGB") if image.mode == "P" else upright.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many types of errors on damaged files
        raise ImageError(f"{name}: damaged or incomplete ({error}). Copy or download it again") from error


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: {width} x {height} pixels is too small. Each side needs at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels is more than {MAX_PIXELS}. Cut it into tiles")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"{name}: {width} x {height} pixels is too long and narrow. Cut it into square tiles")


def _has_16_bit_samples(image: Image.Image) -> bool:
    # Pillow opens 16-bit color as mode RGB and silently keeps only the high bytes, so most satellite data turns black.
    # The bit depth is visible only in the decoder's raw mode ("RGB;16B"), and only before the pixels are decoded.
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
