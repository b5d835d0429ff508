"""Reading of images as upright 8-bit RGB, with limits that are checked before decoding."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from rsicrc.errors import ImageError, printable, shortened
from rsicrc.files import open_regular
from rsicrc.inputs.features import ImageFeatures
from rsicrc.inputs.headers import check_bmp, check_jpeg, check_png
from rsicrc.inputs.limits import MAX_PIXELS, MAX_STREAM_BYTES, SCALE_ADVICE, check_size, pixel_budget
from rsicrc.inputs.tiff import BANDS_ADVICE, SIGNATURES, check_layout, check_tiff, tags_of

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]
_One: TypeAlias = ImageLike | ImageFeatures
Pair: TypeAlias = tuple[_One, _One] | Sequence[_One]

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
# Modes that Pillow converts to 8-bit RGB without guessing a scale.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})
_CHECKS: dict[str, Callable[[IO[bytes], str], None]] = {
    "PNG": check_png,
    "JPEG": check_jpeg,
    "TIFF": check_tiff,
    "BMP": check_bmp,
}
_LONGEST_NAME = 400
_DAMAGED = "damaged or incomplete. Copy or download it again"
_ORIENTATION = 0x0112
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
    with decoded(image) as rgb:
        return rgb


@contextmanager
def decoded(image: ImageLike) -> Iterator[Image.Image]:
    """Decode an image (see `load_image`) and count its pixels until the end of the block.

    All threads together decode at most `rsicrc.inputs.limits.MAX_PIXELS_IN_FLIGHT` pixels at the same time; a thread
    waits until there is room. Do not nest two blocks.

    Raises:
        ImageError: See `load_image`.
    """
    with ExitStack() as held:
        try:
            rgb = _read(image, held)
        except MemoryError as error:
            raise ImageError(f"{describe(image)}: not enough memory. Free memory, or cut it into tiles") from error
        yield rgb


def load_pair(pair: Pair) -> tuple[Image.Image, Image.Image]:
    """Return the two images of a pair as 8-bit RGB (see `load_image`).

    Raises:
        ImageError: One of the images cannot be used, or their sizes differ.
    """
    check_pair(pair)
    first, second = pair
    if isinstance(first, ImageFeatures) or isinstance(second, ImageFeatures):
        raise ImageError("the features of an image hold no pixels to cut: give the two images")
    before, after = load_image(first), load_image(second)
    check_sizes(pair, before.size, after.size)
    return before, after


def check_pair(pair: Any) -> None:
    """Check that a value is a pair of two values.

    Raises:
        ImageError: The value is no pair.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ImageError(f"a pair is two images, (before, after), not {describe(pair)}")


def check_sizes(pair: Pair, before: tuple[int, int], after: tuple[int, int]) -> None:
    """Check that the sizes (width, height) of the two images of a pair are equal.

    Raises:
        ImageError: The sizes differ.
    """
    if before != after:
        raise ImageError(
            f"{describe(pair[0])} is {before[0]} x {before[1]} pixels but {describe(pair[1])} is "
            f"{after[0]} x {after[1]}: the two images must show the same area on the same grid. "
            "Resample one image to the grid of the other"
        )


def describe(value: Any) -> str:
    """Return a name for an image, or for a value of a wrong type, for use in a message."""
    if isinstance(value, (str, os.PathLike)):
        return shortened(os.fsdecode(value), _LONGEST_NAME)
    if isinstance(value, Image.Image):
        return shortened(getattr(value, "filename", ""), _LONGEST_NAME) or "the Pillow image"
    if isinstance(value, np.ndarray):
        return f"the array of {value.dtype} {list(value.shape)}"
    if isinstance(value, bytes):
        return f"the image of {len(value)} bytes"
    if hasattr(value, "read"):
        name = getattr(value, "name", None)
        return shortened(name, _LONGEST_NAME) if isinstance(name, str) else "the file object"
    return printable(f"{type(value).__name__} {value!r:.80}")


def _read(image: ImageLike, held: ExitStack) -> Image.Image:
    name = describe(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, name, held)
    if isinstance(image, Image.Image):
        with _decoding:
            return _from_pillow(image, name, held)
    if isinstance(image, (str, os.PathLike)):
        return _from_path(image, name, held)
    if isinstance(image, bytes):
        return _from_file(io.BytesIO(image), name, held)
    if isinstance(image, io.TextIOBase):
        raise ImageError(f"{name}: a file in text mode. Open it in binary mode ('rb')")
    if hasattr(image, "read"):
        with _decoding:
            return _from_file(image, name, held)
    raise ImageError(f"an image is a path, bytes, a binary file, a Pillow image or a uint8 array [H, W, 3], not {name}")


def _from_path(path: str | os.PathLike[str], name: str, held: ExitStack) -> Image.Image:
    try:
        with open_regular(Path(path)) as file:
            return _from_file(file, name, held)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file. Check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name}: a folder, not an image. Name a file") from error
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror or error}). Name a file that can be read") from error
    except (TypeError, UnicodeError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: not a path of a file ({error}). Check the path") from error


def _from_file(file: IO[bytes], name: str, held: ExitStack) -> Image.Image:
    """Decode a file. Pillow's readers raise many types of errors on damaged files."""
    try:
        file = _seekable(file, name)
        start = file.read(16)
        kind = _format(start)
        if kind is None:
            raise ImageError(f"{name}: {_unidentified(start, name)}")
        check = _CHECKS.get(kind)
        if check is not None:
            check(file, name)
        file.seek(0)
        with Image.open(file, formats=(kind,)) as opened:
            return _convert(opened, name, held)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        reason = "not a TIFF with three 8-bit bands. " + BANDS_ADVICE if kind == "TIFF" else _DAMAGED
        raise ImageError(f"{name}: {reason}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: more than {MAX_PIXELS} pixels. Cut it into tiles") from error
    except Exception as error:
        reason = printable(str(getattr(error, "strerror", None) or error or type(error).__name__))
        raise ImageError(f"{name}: cannot be read ({reason}). Copy or download it again") from error


def _seekable(file: IO[bytes], name: str) -> IO[bytes]:
    """Return a file at its beginning; a stream without seek is read into memory."""
    try:
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        content = file.read(MAX_STREAM_BYTES + 1)
        if len(content) > MAX_STREAM_BYTES:
            raise ImageError(f"{name}: a stream of more than {MAX_STREAM_BYTES} bytes. Cut it into tiles") from None
        return io.BytesIO(content)
    return file


def _format(start: bytes) -> str | None:
    """Return the format of a file by its first 16 bytes."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(SIGNATURES):
        return "TIFF"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP"
    return "BMP" if start.startswith(b"BM") else None


def _unidentified(start: bytes, name: str) -> str:
    if start == b"":
        return "the file is empty. Copy or download it again"
    if name.lower().endswith((".tif", ".tiff")):
        return f"not a TIFF with three 8-bit bands. {BANDS_ADVICE}"
    return "not an image, or of an unsupported format. Use PNG, JPEG, TIFF, WebP or BMP"


def _from_array(array: NDArray[Any], name: str, held: ExitStack) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3:
        bands_first = array.ndim == 3 and array.shape[0] == 3
        advice = "Move the bands with `np.moveaxis(array, 0, -1)`" if bands_first else "Pass red, green and blue"
        raise ImageError(f"{name} is not [height, width, 3]. {advice}")
    if array.dtype != np.uint8:
        raise ImageError(f"{name} is not uint8. Scale both images to 0…255 in the same way and use `.astype(np.uint8)`")
    height, width = array.shape[:2]
    check_size(width, height, name)
    held.enter_context(pixel_budget.hold(width * height))
    return Image.fromarray(np.ascontiguousarray(array))


def _from_pillow(image: Image.Image, name: str, held: ExitStack) -> Image.Image:
    """Convert a caller's image, which may not be decoded yet, to an image of its own."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            check_layout(tags_of(image.tag_v2), None, name)
        file = getattr(image, "fp", None)
        check = _CHECKS.get(image.format or "")
        if file is not None and check is not None and image.format != "TIFF":
            position = file.tell()
            try:
                check(file, name)
            finally:
                file.seek(position)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"{name}: {_DAMAGED}") from error
    rgb = _convert(image, name, held)
    return rgb.copy() if rgb is image else rgb


def _convert(image: Image.Image, name: str, held: ExitStack) -> Image.Image:
    """Decode an image as upright RGB, without a copy if it is both. The limits are checked before the decoder runs."""
    check_size(image.width, image.height, name)
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(f"{name}: more than 8 bits a channel, or not a color image ({image.mode}). {SCALE_ADVICE}")
    # libjpeg keeps the coefficients of a progressive image, which need as much memory as the pixels.
    copies = 2 if image.info.get("progressive") else 1
    held.enter_context(pixel_budget.hold(copies * image.width * image.height))
    try:
        image.load()
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode == "RGB":
            return image
        if image.mode == "P" and "transparency" in image.info:
            image = image.copy()  # Without its transparency, the colors of a palette are converted as they are.
            del image.info["transparency"]
        return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many types of errors on damaged files
        reason = printable(str(error) or type(error).__name__)
        raise ImageError(f"{name}: damaged or incomplete ({reason}). Copy or download it again") from error
