"""The engine: a model folder that captions and embeds pairs of images, embeds texts, and scores texts on pairs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsicrc.backends import Backend
from rsicrc.backends.arrays import DeviceArray, ForeignArray, is_array, take_pixels
from rsicrc.decoding.decoder import Decoder, Encoded
from rsicrc.decoding.image_encoder import ImageEncoder
from rsicrc.decoding.numbers import require_numbers
from rsicrc.decoding.options import BeamSearchOptions, CaptionOptions, CaptionSettings
from rsicrc.errors import ArgumentError, DeviceMemoryError, ModelFolderError
from rsicrc.inputs.features import ImageFeatures
from rsicrc.inputs.images import ImageLike, Pair, load_pair
from rsicrc.inputs.prefetch import ArrayReader, Batch, BatchReader, PairReader, Pixels, read_images, read_pair
from rsicrc.inputs.tiles import tile_boxes
from rsicrc.manifest import IMAGE_ENCODER, TEXT_ENCODER, TOKENIZER_FILE, Manifest
from rsicrc.results import Caption, EncodedPair, Explanation, PairFailure, View
from rsicrc.text.encoding import encode_sentences, pad
from rsicrc.text.vocabulary import END, START, Vocabulary
from rsicrc.timings import Timings
from rsicrc.tuning import TEXTS_PER_RUN

logger = logging.getLogger("rsicrc")
_Result = TypeVar("_Result")

_MAX_WORKERS = 8
_MAX_OVERLAP = 0.9


class Engine:
    """A model folder, ready to use; made by `rsicrc.load`.

    A *pair* is `(before, after)`, each a path, the bytes of an image file, a binary file object, a Pillow image or a
    uint8 array [H, W, 3]; both images have the same size. Pairs that are prepared already may be given as one array,
    uint8 [N, 2, size, size, 3] with the model's size, of any library that speaks DLPack or `__cuda_array_interface__`;
    the array is read without a copy (docs/tensorrt.md, "Arrays"). A pair may also be the features of two images from
    `encode_images`.

    Results for a pair do not depend on the other pairs in its batch. Several threads may use an engine at the same
    time. An engine is a context manager: leaving the block closes the engine.

    Attributes:
        folder: The model folder.
        manifest: Manifest of the folder, at the chosen precision.
        vocabulary: Vocabulary of the model.
        backend: Backend that runs the graphs.
    """

    def __init__(self, folder: Path, manifest: Manifest, backend: Backend) -> None:
        self.folder = folder
        self.manifest = manifest
        self.backend = backend
        self.vocabulary = Vocabulary.load(folder / TOKENIZER_FILE)
        if (len(self.vocabulary), self.vocabulary.max_len) != (manifest.vocab_size, manifest.max_len):
            raise ModelFolderError(
                f"{folder / TOKENIZER_FILE}: {len(self.vocabulary)} words, sentences up to {self.vocabulary.max_len}, "
                f"where the manifest says {manifest.vocab_size} and {manifest.max_len}: export the model again"
            )
        self._decoder = Decoder(
            backend, self.vocabulary, manifest.no_change_sentences, manifest.change_threshold, manifest.calibration
        )
        self._image_encoder = ImageEncoder(backend, manifest)
        self._max_pairs: int | None = None  # pairs at once; set when the memory of a GPU was too small for a batch

    def __repr__(self) -> str:
        return (
            f"Engine(model={str(self.folder)!r}, backend={self.backend.name!r}, device={self.backend.device!r}, "
            f"precision={self.manifest.precision!r}, threads={self.backend.threads})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the graphs and the memory of the backend. A closed engine raises `BackendError` when it is used."""
        self.backend.close()

    def warmup(self, pairs: int = 1, beams: int | None = None) -> None:
        """Run a dummy batch.

        One-time costs (opening graphs, allocating memory, capturing CUDA graphs) are then paid before the first real
        batch of this size.

        Args:
            pairs: Number of pairs in a batch.
            beams: Number of beams; by default the manifest's.

        Raises:
            ArgumentError: A number is out of its range.
            BackendError: The backend cannot run such a batch.
        """
        if pairs < 1:
            raise ArgumentError(f"pairs must be at least 1, not {pairs}")
        size = self.manifest.preprocessing.size
        self.caption(np.zeros((pairs, 2, size, size, 3), np.uint8), beams=beams, batch_size=pairs)
        self.backend.run(TEXT_ENCODER, {"input_ids": np.array([[START, END]], np.int64)})

    def caption(
        self,
        pairs: Sequence[Pair] | ForeignArray,
        options: CaptionOptions | None = None,
        *,
        batch_size: int = 32,
        **settings: Unpack[CaptionSettings],
    ) -> list[Caption]:
        """Caption pairs by batched beam search.

        Args:
            pairs: N pairs.
            options: Options of captioning.
            batch_size: Number of pairs that go through the graphs together.
            **settings: Single fields of `CaptionOptions`, for example `beams=5`, instead of `options`.

        Returns:
            N captions, in the order of the pairs.

        Raises:
            ImageError: A pair cannot be used; the error names the first one. `caption_stream` continues instead.
            ArgumentError: An option is out of its range.
        """
        captions = []
        for result in self.caption_stream(pairs, options, batch_size=batch_size, **settings):
            if isinstance(result, PairFailure):
                raise _error_with_index(result)
            captions.append(result)
        return captions

    def caption_stream(
        self,
        pairs: Iterable[Pair] | ForeignArray,
        options: CaptionOptions | None = None,
        *,
        batch_size: int = 32,
        workers: int | None = None,
        **settings: Unpack[CaptionSettings],
    ) -> Iterator[Caption | PairFailure]:
        """Caption any number of pairs, in order and in bounded memory.

        Threads read the next batch while the graphs process the current one, so arrays and Pillow images must not be
        changed before their caption has been returned.

        Args:
            pairs: The pairs.
            options: Options of captioning.
            batch_size: Number of pairs that go through the graphs together.
            workers: Number of threads that read images; by default as many as the graphs have, at most 8.
            **settings: Single fields of `CaptionOptions` instead of `options`.

        Returns:
            An iterator over a `Caption` for each pair, or a `PairFailure` for a pair that cannot be used.

        Raises:
            ArgumentError: An option is out of its range.
        """
        search = _caption_options(options, settings).resolve(self.manifest)
        reader = self._reader(pairs, batch_size, workers)
        return self._stream(reader, lambda encoded: self._decoder.captions(encoded, search))

    def caption_tiles(
        self,
        pair: Pair,
        options: CaptionOptions | None = None,
        *,
        overlap: float = 0.25,
        batch_size: int = 32,
        **settings: Unpack[CaptionSettings],
    ) -> list[Caption]:
        """Caption overlapping tiles that cover a whole pair; `caption` sees only the center square of a pair.

        The side of a tile is the shorter side of the images.

        Args:
            pair: The pair.
            options: Options of captioning.
            overlap: Smallest overlap of neighboring tiles as a share of their side, from 0 to 0.9.
            batch_size: Number of tiles that go through the graphs together.
            **settings: Single fields of `CaptionOptions` instead of `options`.

        Returns:
            One caption for each tile, the largest change score first; `seen` is the box of the tile.

        Raises:
            ImageError: The pair cannot be used.
            ArgumentError: An option is out of its range.
        """
        if not 0 <= overlap <= _MAX_OVERLAP:
            raise ArgumentError(f"overlap must be from 0 to {_MAX_OVERLAP}, not {overlap}")
        before, after = load_pair(pair)
        boxes = tile_boxes(*before.size, min(before.size), overlap)
        tiles = ((before.crop(box), after.crop(box)) for box in boxes)
        captions = []
        results = self.caption_stream(tiles, options, batch_size=batch_size, **settings)
        for box, result in zip(boxes, results, strict=True):
            if isinstance(result, PairFailure):
                raise result.error
            captions.append(replace(result, seen=View(box, before.size, is_tile=True)))
        return sorted(captions, key=lambda caption: caption.change_score or 0.0, reverse=True)

    def encode_stream(
        self,
        pairs: Iterable[Pair] | ForeignArray,
        *,
        captions: bool | CaptionOptions = False,
        texts: Sequence[str] = (),
        similarity: bool = False,
        batch_size: int = 32,
        workers: int | None = None,
    ) -> Iterator[EncodedPair | PairFailure]:
        """Embed any number of pairs, and caption them or score texts on them, with one run of the image encoder.

        Reading, order and memory are as in `caption_stream`.

        Args:
            pairs: The pairs.
            captions: Caption the pairs too: True for the model's defaults, or the options of captioning.
            texts: Texts to score on each pair, as in `score`.
            similarity: Return the similarity map of each pair too.
            batch_size: Number of pairs that go through the graphs together.
            workers: Number of threads that read images; by default as many as the graphs have, at most 8.

        Returns:
            An iterator over an `EncodedPair` for each pair, or a `PairFailure` for a pair that cannot be used.

        Raises:
            ArgumentError: An option is out of its range, or a text is empty.
        """
        options = captions if isinstance(captions, CaptionOptions) else CaptionOptions()
        search = options.resolve(self.manifest) if captions else None
        ids = encode_sentences(self.vocabulary, texts)
        reader = self._reader(pairs, batch_size, workers)
        return self._stream(reader, lambda encoded: self._encoded_pairs(encoded, search, ids, similarity))

    def encode_images(
        self, images: Sequence[ImageLike], *, batch_size: int = 32, workers: int | None = None
    ) -> list[ImageFeatures]:
        """Encode single images, so that an image of several pairs is encoded only once.

        Pairs of features can take the place of pairs of images in every method, with the same results up to rounding:
        n dates of one place cost n images instead of 2 (n - 1). The model folder needs the graphs for single images
        (`rsicrc-export --per-image`) and the device must be a CPU; otherwise features hold only the prepared pixels,
        and the results are the same without a gain of time.

        Args:
            images: N images.
            batch_size: Number of images that go through the graph together.
            workers: Number of threads that read images; by default as many as the graphs have, at most 8.

        Returns:
            N features, to be used with this engine or another one with the same model folder and precision.

        Raises:
            ImageError: An image cannot be used.
            ArgumentError: A number is out of its range.
        """
        workers = self._check_sizes(batch_size, workers)
        features = []
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            pixels, views = read_images(part, self.manifest.preprocessing, workers)
            features += self._image_encoder.encode_images(pixels, views)
        return features

    @overload
    def embed_images(
        self, pairs: Sequence[Pair] | ForeignArray, *, batch_size: int = ..., on_device: Literal[False] = ...
    ) -> NDArray[np.float32]: ...

    @overload
    def embed_images(
        self, pairs: Sequence[Pair] | ForeignArray, *, batch_size: int = ..., on_device: Literal[True]
    ) -> NDArray[np.float32] | DeviceArray: ...

    def embed_images(
        self, pairs: Sequence[Pair] | ForeignArray, *, batch_size: int = 32, on_device: bool = False
    ) -> NDArray[np.float32] | DeviceArray:
        """Embed pairs, to be compared with texts by a dot product.

        Args:
            pairs: N pairs.
            batch_size: Number of pairs that go through the graph together.
            on_device: Leave the vectors in the memory of the device; on a GPU they are an array that speaks DLPack and
                `__cuda_array_interface__`.

        Returns:
            float32 [N, d], each row of length 1.

        Raises:
            ImageError: A pair cannot be used; the error names the first one.
        """

        def vectors(encoded: Encoded) -> Any:
            # Only the vectors: a reference to the batch would keep all outputs of the encoder.
            value = encoded.outputs["image_embedding"]
            return self.backend.joined([value]) if on_device else self.backend.numpy(value)

        return self._joined(self._collect(pairs, batch_size, vectors), IMAGE_ENCODER, on_device)

    @overload
    def embed_texts(
        self, texts: Sequence[str], *, on_device: Literal[False] = ..., warn: bool = ...
    ) -> NDArray[np.float32]: ...

    @overload
    def embed_texts(
        self, texts: Sequence[str], *, on_device: Literal[True], warn: bool = ...
    ) -> NDArray[np.float32] | DeviceArray: ...

    def embed_texts(
        self, texts: Sequence[str], *, on_device: bool = False, warn: bool = True
    ) -> NDArray[np.float32] | DeviceArray:
        """Embed texts, to be compared with pairs by a dot product.

        Words that are not in the vocabulary are encoded as UNK, with a warning in the log `rsicrc`.

        Args:
            texts: M texts.
            on_device: As in `embed_images`.
            warn: Log a warning about unknown words and truncated texts.

        Returns:
            float32 [M, d], each row of length 1.

        Raises:
            ArgumentError: A text is empty, or `texts` is a single string.
        """
        ids = encode_sentences(self.vocabulary, texts, warn=warn)
        rows = []
        for start in range(0, len(ids), TEXTS_PER_RUN):
            outputs = self.backend.run(TEXT_ENCODER, {"input_ids": pad(ids[start : start + TEXTS_PER_RUN])})
            rows.append(outputs["text_embedding"])
        return self._joined(rows, TEXT_ENCODER, on_device)

    def score(
        self, pairs: Sequence[Pair] | ForeignArray, texts: Sequence[str], *, batch_size: int = 32
    ) -> NDArray[np.float64]:
        """Return log p(text | pair) for every pair and every text, summed over the tokens and END.

        Words that are not in the vocabulary are encoded as UNK, with a warning in the log `rsicrc`.

        Args:
            pairs: N pairs.
            texts: M texts.
            batch_size: Number of pairs that go through the image encoder together.

        Returns:
            float64 [N, M].

        Raises:
            ImageError: A pair cannot be used; the error names the first one.
            ArgumentError: A text is empty, or `texts` is a single string.
        """
        ids = encode_sentences(self.vocabulary, texts)
        rows = self._collect(pairs, batch_size, lambda encoded: self._decoder.log_probabilities(encoded, ids))
        return np.concatenate(rows) if rows else np.zeros((0, len(ids)), np.float64)

    def explain(
        self,
        pair: Pair,
        text: str | None = None,
        options: CaptionOptions | None = None,
        **settings: Unpack[CaptionSettings],
    ) -> Explanation:
        """Return the attention of the model for each token of a sentence.

        Args:
            pair: The pair.
            text: The sentence; by default the pair's caption, which is then part of the result.
            options: Options of captioning.
            **settings: Single fields of `CaptionOptions` instead of `options`.

        Raises:
            ImageError: The pair cannot be used.
            ArgumentError: The sentence is empty, or an option is out of its range.
        """
        search = _caption_options(options, settings).resolve(self.manifest)
        timings = Timings(pairs=1)
        (pair,) = self._image_encoder.check_features([pair])
        pixels, seen = read_pair(pair, self.manifest.preprocessing, timings)
        encoded = self._encode_images(pixels[np.newaxis], timings, [seen])
        caption = None
        if text is None:
            (caption,) = self._decoder.captions(encoded, search)
            ids = [START, *caption.n_best[0].token_ids]
        else:
            (ids,) = encode_sentences(self.vocabulary, [text])
        tokens = tuple(self.vocabulary.words[number] for number in ids[1:] if number != END)
        similarity = self.backend.numpy(encoded.outputs["similarity"])[0]
        # Position i predicts the token after it, so the map of the first token is at START.
        attention = self._decoder.attention(encoded, ids)[: len(tokens)]
        return Explanation(
            " ".join(tokens), tokens, attention.reshape(len(tokens), *similarity.shape), similarity, caption
        )

    def _stream(
        self, reader: BatchReader, work: Callable[[Encoded], Sequence[_Result]]
    ) -> Iterator[_Result | PairFailure]:
        # A separate generator, so that wrong arguments are reported at the call and not at the first result.
        for batch, parts in self._process(reader, work):
            results = iter([result for part in parts for result in part])
            for failure in batch.failures:
                yield next(results) if failure is None else failure

    def _collect(
        self, pairs: Sequence[Pair] | ForeignArray, batch_size: int, work: Callable[[Encoded], _Result]
    ) -> list[_Result]:
        """Return the results of the work on all parts of all batches, or raise the error of the first bad pair."""
        results: list[_Result] = []
        for batch, parts in self._process(self._reader(pairs, batch_size, None), work):
            for failure in batch.failures:
                if failure is not None:
                    raise _error_with_index(failure)
            results += parts
        return results

    def _process(
        self, reader: BatchReader, work: Callable[[Encoded], _Result]
    ) -> Iterator[tuple[Batch, list[_Result]]]:
        """Encode every batch and do the work on it; yield the batch and one result for each part of it."""
        with closing(reader):
            for batch in self.backend.prefetch(reader):
                yield batch, self._work_on(batch, work)

    def _work_on(self, batch: Batch, work: Callable[[Encoded], _Result]) -> list[_Result]:
        """Do the work on a batch at once, or in parts if the memory of a GPU is too small for the batch.

        At the first failed allocation the batch is halved, and so are all later batches.
        """
        pairs = len(batch.images)
        most = self._max_pairs or max(pairs, 1)
        try:
            results = []
            for start in range(0, pairs, most):
                part = slice(start, start + most)
                encoded = self._encode_images(batch.images[part], batch.timings, batch.seen[part])
                results.append(work(encoded))
            return results
        except DeviceMemoryError as error:
            if self._max_pairs is not None or pairs == 1:
                raise
            self._max_pairs = (pairs + 1) // 2
            logger.warning("batches are halved, to %d pairs at once: %s", self._max_pairs, error)
        return self._work_on(batch, work)

    def _reader(self, pairs: Iterable[Pair] | ForeignArray, batch_size: int, workers: int | None) -> BatchReader:
        workers = self._check_sizes(batch_size, workers)
        preprocessing = self.manifest.preprocessing
        if not isinstance(pairs, (list, tuple)) and is_array(pairs):
            pixels = take_pixels(pairs, preprocessing.size, self.backend.device, self.backend.stream)
            return ArrayReader(pixels, batch_size)
        if _is_single_pair(pairs):
            raise ArgumentError("pairs is a list of pairs: pass [(before, after)], not (before, after)")
        own = self._image_encoder.check_features(cast("Iterable[Pair]", pairs))
        return PairReader(own, preprocessing, batch_size, workers)

    def _check_sizes(self, batch_size: int, workers: int | None) -> int:
        """Check the size of a batch and the number of threads; return the number of threads that read images."""
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None and value < 1:
                raise ArgumentError(f"{name} must be at least 1, not {value}")
        return workers or min(self.backend.threads, _MAX_WORKERS)

    def _encode_images(self, images: Pixels, timings: Timings, seen: Sequence[View]) -> Encoded:
        with timings.measure("image_encoder"):
            outputs = self._image_encoder.encode_pairs(images)
        return Encoded(len(images), outputs, timings, seen)

    def _encoded_pairs(
        self, encoded: Encoded, search: BeamSearchOptions | None, ids: Sequence[list[int]], similarity: bool
    ) -> list[EncodedPair]:
        # Copied, so that a caller who keeps one pair does not keep its batch.
        vectors = require_numbers(self.backend.numpy(encoded.outputs["image_embedding"]), "the embedding of a pair")
        embeddings = [row.copy() for row in vectors]
        captions = [None] * encoded.pairs if search is None else self._decoder.captions(encoded, search)
        log_probs = map(tuple, self._decoder.log_probabilities(encoded, ids).tolist())
        maps: Sequence[NDArray[np.float32] | None] = [None] * encoded.pairs
        if similarity:
            values = require_numbers(self.backend.numpy(encoded.outputs["similarity"]), "the similarity map of a pair")
            maps = [one.copy() for one in values]
        return [EncodedPair(*parts) for parts in zip(embeddings, captions, log_probs, maps, strict=True)]

    def _joined(self, rows: Sequence[Any], graph: str, on_device: bool) -> NDArray[np.float32] | DeviceArray:
        name = "image_embedding" if graph == IMAGE_ENCODER else "text_embedding"
        empty = np.zeros((0, int(self.manifest.graphs[graph].outputs[name].shape[1])), np.float32)
        if on_device:
            joined: NDArray[np.float32] | DeviceArray = self.backend.joined(rows or [self.backend.take(empty)])
            return joined
        return require_numbers(np.concatenate([empty, *(self.backend.numpy(row) for row in rows)]), "an embedding")


def _caption_options(options: CaptionOptions | None, settings: CaptionSettings) -> CaptionOptions:
    if options is not None and settings:
        raise ArgumentError(f"{', '.join(settings)}: give either options, or single settings, not both")
    return options or CaptionOptions(**settings)


def _is_single_pair(pairs: object) -> bool:
    """Return True for one pair, or one path, in the place of a list of pairs."""
    if isinstance(pairs, (str, bytes, os.PathLike)):
        return True
    return isinstance(pairs, (tuple, list)) and len(pairs) == 2 and all(map(_is_image, pairs))


def _is_image(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 3
    return isinstance(value, (str, bytes, os.PathLike, Image.Image, ImageFeatures)) or hasattr(value, "read")


def _error_with_index(failure: PairFailure) -> Exception:
    failure.error.add_note(f"in pair {failure.index}, counted from 0")
    return failure.error
