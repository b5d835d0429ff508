"""Image preprocessing before the graphs: bicubic resize of the shortest side, then center crop.

The pixels equal those of `open_clip.image_transform(size, is_train=False)` before its normalization. Normalization is
part of the graphs, which take uint8 images. Training and export use this module too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.untrusted.fields import number, sequence, whole

if TYPE_CHECKING:
    from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_MOST_PIXELS = 4096


def resized_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return (width, height) after the shortest side is resized to `size`; the long side is rounded down."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


@dataclass(frozen=True)
class Preprocessing:
    """Parameters of the conversion from images to the uint8 squares that the image encoder takes.

    Attributes:
        size: Side of the square in pixels.
        mean: Per-channel mean (R, G, B) that the graph subtracts from x / 255.
        std: Per-channel standard deviation that the graph divides by.
    """

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Read the output of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: A field is missing or has the wrong type.
        """
        mean, std = (sequence(fields[name], name, 3) for name in ("mean", "std"))
        return cls(whole(fields["size"], "size", 1, _MOST_PIXELS), _three(mean, "mean", -1e3), _three(std, "std", 1e-6))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {"size": self.size, "mean": list(self.mean), "std": list(self.std)}

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image.

        Args:
            image: Pillow image of mode RGB, of any size.

        Returns:
            uint8 [size, size, 3].
        """
        from PIL import Image

        width, height = resized_size(image.width, image.height, self.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        # Python's round (half to even), as in torchvision: the offset of an odd margin depends on it.
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        if (width, height) != (self.size, self.size):
            image = image.crop((left, top, left + self.size, top + self.size))
        return np.array(image, dtype=np.uint8)

    def seen_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the part of an image that is left after the center crop.

        Args:
            width: Width of the image in pixels.
            height: Height of the image in pixels.

        Returns:
            (left, top, right, bottom) in pixels of the image; a pixel of which a part is seen is inside.
        """
        resized_width, resized_height = resized_size(width, height, self.size)
        left, top = round((resized_width - self.size) / 2), round((resized_height - self.size) / 2)
        x_scale, y_scale = width / resized_width, height / resized_height
        return (
            math.floor(left * x_scale),
            math.floor(top * y_scale),
            min(width, math.ceil((left + self.size) * x_scale)),
            min(height, math.ceil((top + self.size) * y_scale)),
        )

    def normalize(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (x / 255 - mean) / std in float32, as the graph computes it. The engine does not use it; tests do.

        Args:
            images: uint8 [..., 3].
        """
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (images.astype(np.float32) / np.float32(255) - mean) / std


def _three(values: Sequence[Any], name: str, low: float) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ValueError(f"{name} must be three numbers, not {len(values)}")
    red, green, blue = (number(value, name, low, 1e3) for value in values)
    return red, green, blue
