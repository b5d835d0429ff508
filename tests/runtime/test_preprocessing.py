from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from rsicrc.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return noise over smooth structure, so that every wrong filter tap or offset changes the result."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 3 + columns, rows + columns * 5, rows * columns // 7], axis=-1)
    return Image.fromarray(((smooth + generator.integers(0, 60, smooth.shape)) % 256).astype(np.uint8))


SIZES = [(200, 300), (300, 200), (256, 256), (1000, 777), (777, 1000), (224, 224), (225, 224), (224, 225), (223, 500),
         (37, 41), (227, 229)]  # fmt: skip


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_equal_open_clip(width: int, height: int) -> None:
    from open_clip.transform import image_transform
    from torchvision.transforms import CenterCrop, Compose, Resize

    resize, crop = image_transform(224, is_train=False).transforms[:2]
    assert isinstance(resize, Resize)
    assert isinstance(crop, CenterCrop)  # the other transforms convert and normalize
    image = photo(width, height)
    expected = np.asarray(Compose([resize, crop])(image))
    ours = Preprocessing(224).prepare(image)
    assert (ours.dtype.name, ours.shape) == ("uint8", (224, 224, 3))
    np.testing.assert_array_equal(ours, expected)


def test_normalized_values_equal_open_clip() -> None:
    from open_clip.transform import image_transform

    image = photo(256, 256)
    expected = image_transform(224, is_train=False)(image).numpy().transpose(1, 2, 0)
    preprocessing = Preprocessing(224, CLIP_MEAN, CLIP_STD)
    np.testing.assert_allclose(preprocessing.normalize(preprocessing.prepare(image)), expected, atol=1e-6)


def test_prepared_pixels_are_a_copy() -> None:
    image = photo(224, 224)
    Preprocessing(224).prepare(image)[:] = 0
    assert np.asarray(image).any()


def test_preprocessing_dict_round_trip() -> None:
    preprocessing = Preprocessing(96, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize("broken", [{"size": 0}, {"size": "big"}, {"mean": [1.0]}, {"std": None}])
def test_wrong_fields_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Preprocessing.from_dict({**Preprocessing(224).to_dict(), **broken})
