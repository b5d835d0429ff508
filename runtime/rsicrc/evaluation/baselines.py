"""Simple methods that a model must exceed: the difference of pixels, and one sentence for all changed pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import DataError, ImageError
from rsicrc.evaluation.metrics.captioning import caption_scores, strip_period
from rsicrc.inputs.images import load_image

CANDIDATES = 20  # number of sentences that are tried, the most frequent ones
CHANGED_SHARE = 0.01  # smallest share of changed pixels of a changed pair


def pixel_difference(images: NDArray[np.uint8]) -> float:
    """Return the mean absolute difference of the normalized pixels of a pair.

    Each channel of each image is brought to mean 0 and deviation 1, so that light and camera have little effect.

    Args:
        images: Before and after image, uint8 [2, height, width, 3].
    """
    pixels = images.astype(np.float32)
    pixels -= pixels.mean(axis=(1, 2), keepdims=True)
    pixels /= pixels.std(axis=(1, 2), keepdims=True) + 1e-3
    return float(np.abs(pixels[1] - pixels[0]).mean())


def best_fixed_sentence(references: Sequence[Sequence[str]]) -> str:
    """Return the sentence with the highest CIDEr if it is the caption of every pair.

    The candidates are the `CANDIDATES` most frequent reference sentences. The choice uses the references of the
    evaluated pairs, to the advantage of the baseline.

    Args:
        references: Reference sentences of each pair.
    """
    counts = Counter(strip_period(sentence) for sentences in references for sentence in sentences)
    candidates = [sentence for sentence, _ in counts.most_common(CANDIDATES)]
    means = [float(np.mean(caption_scores([each] * len(references), references))) for each in candidates]
    return candidates[int(np.argmax(means))]


def changed_share(mask: Path) -> float:
    """Return the share of changed pixels of a mask: the pixels of a gray image that are not black.

    Raises:
        DataError: The mask is missing or cannot be read.
    """
    try:
        return float((np.asarray(load_image(mask))[..., 0] > 0).mean())
    except ImageError as error:
        raise DataError(
            f"{error}. A mask has the name of the after image, and its changed pixels are not black"
        ) from error
