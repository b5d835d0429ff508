"""Features of a frozen trunk, computed once and cached on disk.

A frozen trunk gives the same features of an image in every epoch, so a training on cached features needs neither the
images nor the trunk. The cache `features` in the user's cache holds one file for each set of pairs and each trunk:
float16 [P, 2, C, h, w], mapped into memory. Its name is a hash of the trunk's weights and sizes, of the preprocessing,
and of the content of all image files in their order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from rsicrc.cpu import available_cpus
from rsicrc.errors import RsicrcError
from rsicrc.files import open_regular, replacing, user_cache
from rsicrc_train.model import RSICRC, ImageEncoder
from rsicrc_train.trunks import normalize

if TYPE_CHECKING:
    from rsicrc_train.batches import BatchLoader
    from rsicrc_train.data import PairDataset

_LOGGER = logging.getLogger("rsicrc.train")
_VERSION = b"rsicrc trunk features 1"
_CHUNK = 1 << 20  # bytes of a file that are hashed at a time
_DISK_SHARE = 0.9  # of the free space that a cache file may take


class _NotCachedError(RsicrcError, ValueError):
    """The features cannot be cached; the training goes on without a cache."""


def cached_features(model: RSICRC, loader: BatchLoader) -> NDArray[np.float16] | None:
    """Return the trunk's features of the pairs of a data set, from the cache or computed; all processes must call this.

    Args:
        model: Model with a frozen trunk.
        loader: Loader of the data set; its recipe must not change pixels.

    Returns:
        float16 [P, 2, C, h, w], mapped from a file; None if there is no place for the file, or if float16 cannot hold
        the features. A warning then names the reason.

    Raises:
        BrokenPairError: An image cannot be read.
    """
    user, fabric, dataset = user_cache(), loader.fabric, loader.dataset
    if user is None:
        return None
    shape = (len(dataset.pairs), 2, *_map_shape(model.encoder, dataset.preprocessing.size))
    path = user / "features" / f"{_key(model.encoder, dataset)}.npy"
    try:
        if fabric.local_rank == 0 and _read(path, shape) is None:
            _write(path, shape, model.encoder, loader)
    except (OSError, _NotCachedError) as error:
        _LOGGER.warning("the features of the frozen trunk are not cached: %s", error)
    finally:
        fabric.barrier()
    return _read(path, shape)


@torch.no_grad()
def _map_shape(encoder: ImageEncoder, size: int) -> tuple[int, ...]:
    encoder.trunk.eval()
    return tuple(encoder.trunk(torch.zeros(1, 3, size, size, device=encoder.mean.device)).shape[1:])


def _key(encoder: ImageEncoder, dataset: PairDataset) -> str:
    digest = hashlib.sha256(_VERSION)
    settings = [asdict(encoder.trunk.config), asdict(dataset.preprocessing)]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.trunk.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    files = [path for pair in dataset.pairs for path in (pair.before, pair.after)]
    with ThreadPoolExecutor(available_cpus()) as pool:
        for content in pool.map(_hash_file, files):
            digest.update(content)
    return digest.hexdigest()[:32]


def _hash_file(path: Path) -> bytes:
    """Return a hash of a file's content; a file that cannot be read is reported when its pair is loaded."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return b"unreadable"
    return digest.digest()


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.float16] | None:
    """Map the features in the cache; return None if there are none or the file is damaged."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return features if features.shape == shape and features.dtype == np.float16 else None


@torch.no_grad()
def _write(path: Path, shape: tuple[int, ...], encoder: ImageEncoder, loader: BatchLoader) -> None:
    """Compute the features of all pairs in float32 and write them as float16.

    Raises:
        BrokenPairError: An image cannot be read.
        OSError: The file cannot be written.
        _NotCachedError: The disk is too small, or float16 cannot hold a feature.
    """
    size = 2 * int(np.prod(shape))
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size > _DISK_SHARE * free:
        raise _NotCachedError(f"they take {size / 1e9:.1f} GB, and {path.parent} has {free / 1e9:.1f} GB")
    _LOGGER.info("computing the features of the frozen trunk for %d pairs (%.0f MB)", shape[0], size / 1e6)
    first = torch.tensor(loader.dataset.first_items())
    chunks = [chunk.tolist() for chunk in torch.split(first, loader.training.batch_size)]
    encoder.trunk.eval()
    with replacing(path) as partial:
        table = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
        row = 0
        for items, batch in loader.load(chunks):
            pixels = normalize(batch.images.flatten(0, 1), encoder.mean, encoder.std)
            features = encoder.trunk(pixels).half().cpu().numpy().reshape(len(items), *shape[1:])
            if not np.isfinite(features).all():
                raise _NotCachedError("float16 cannot hold them")
            table[row : row + len(items)] = features
            row += len(items)
        table.flush()
        del table
