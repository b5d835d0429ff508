"""The graphs over images: `image_encoder` for pairs; `image_trunk` and `pair_fusion` for images of several pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Backend
from rsicrc.errors import ArgumentError
from rsicrc.inputs.features import ImageFeatures
from rsicrc.manifest import IMAGE_ENCODER, IMAGE_TRUNK, PAIR_FUSION, PER_IMAGE, Manifest
from rsicrc.results import View

_Pair = TypeVar("_Pair")
_CPU = "cpu"
_TOKEN_AXES = 4  # [B, S, 2, d]; pixels have five axes


class ImageEncoder:
    """The image graphs of a model folder.

    Attributes:
        encodes_images: True if single images can be encoded: on a CPU, with a folder that was exported with
            `--per-image`. Otherwise the `image_encoder` graph is used for all pairs.

    Args:
        backend: Backend that runs the graphs.
        manifest: Manifest of the folder, at the chosen precision.
    """

    def __init__(self, backend: Backend, manifest: Manifest) -> None:
        self._backend, self._manifest = backend, manifest
        self.encodes_images = backend.device == _CPU and all(name in manifest.graphs for name in PER_IMAGE)

    @cached_property
    def model(self) -> str:
        """Identity of the graphs: the hash of `image_encoder` and the precision."""
        manifest = self._manifest
        return f"{manifest.files[manifest.graphs[IMAGE_ENCODER].file].sha256}-{manifest.precision}"

    def encode_pairs(self, images: Any) -> dict[str, Any]:
        """Return the outputs of `image_encoder` for pairs.

        Args:
            images: Pixels of pairs, uint8 [B, 2, size, size, 3], or the visual tokens of both images [B, S, 2, d].
        """
        if isinstance(images, np.ndarray) and images.ndim == _TOKEN_AXES:
            return self._backend.run(PAIR_FUSION, {"tokens": images})
        return self._backend.run(IMAGE_ENCODER, {"images": images})

    def encode_images(self, images: NDArray[np.uint8], views: Iterable[View]) -> list[ImageFeatures]:
        """Return the features of single images.

        Args:
            images: Prepared pixels, uint8 [N, size, size, 3].
            views: Seen part of each image.
        """
        values: Iterable[NDArray[Any]] = images
        if self.encodes_images and len(images):
            # The graph takes two independent images in a row, so an odd number is filled up.
            even = np.concatenate([images, images[-1:]]) if len(images) % 2 else images
            rows = even.reshape(-1, 2, *images.shape[1:])
            tokens = self._backend.numpy(self._backend.run(IMAGE_TRUNK, {"images": rows})["tokens"])
            values = (tokens[number // 2, :, number % 2] for number in range(len(images)))
        # Copied, so that the features of one image do not keep those of its batch.
        return [ImageFeatures(each.copy(), view, self.model) for each, view in zip(values, views, strict=True)]

    def check_features(self, pairs: Iterable[_Pair]) -> Iterator[_Pair]:
        """Yield the pairs, and raise an error at features of other graphs.

        Raises:
            ArgumentError: Features were made by an engine with another model or precision.
        """
        for pair in pairs:
            if isinstance(pair, (tuple, list)):
                for image in pair:
                    if isinstance(image, ImageFeatures) and not self._can_use(image):
                        raise ArgumentError(
                            "the features of an image come from another model, precision or device: encode the image "
                            "again with this engine"
                        )
            yield pair

    def _can_use(self, features: ImageFeatures) -> bool:
        is_pixels = features.values.dtype == np.uint8
        return features.model == self.model and (is_pixels or self.encodes_images)
