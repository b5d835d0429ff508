"""The engine: a model folder that captions pairs of images, embeds pairs and texts, and scores texts on pairs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from rsicrc.arrays import DeviceArray, ForeignArray, is_array, take_pixels
from rsicrc.backends import Backend
from rsicrc.captions import Caption, EncodedPair, Explanation, PairFailure
from rsicrc.decoding import Decoder, Encoded
from rsicrc.errors import ArgumentError, DeviceMemoryError, ModelFolderError
from rsicrc.feeding import Feed
from rsicrc.images import Pair
from rsicrc.manifest import IMAGE_ENCODER, SCORER, TEXT_ENCODER, TOKENIZER_FILE, Manifest
from rsicrc.reading import Batch, array_batches, prepare_pair, read_batches
from rsicrc.search import SearchOptions
from rsicrc.sentences import encode_sentences, pad
from rsicrc.timings import Timings
from rsicrc.tuning import TEXTS_PER_RUN
from rsicrc.vocabulary import END, START, Vocabulary

logger = logging.getLogger("rsicrc")
_Result = TypeVar("_Result")

_MAX_WORKERS = 8


class Engine:
    """A model folder, ready to use; made by `rsicrc.load`.

    A *pair* is `(before, after)`, each a path, a Pillow image or a uint8 array [H, W, 3]; both have the same size.
    Pairs that are prepared already may be given as one array, uint8 [N, 2, size, size, 3] with the model's size, of any
    library that speaks DLPack or `__cuda_array_interface__`; it is read where it lies (docs/tensorrt.md, "Arrays").
    What a pair gets does not depend on the batch that it is in.

    Attributes:
        folder: the model folder.
        manifest: what it says about itself, at the precision that was asked for.
        vocabulary: its words.
        backend: what runs its graphs.
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
        self._decoder = Decoder(backend, self.vocabulary, manifest.no_change_sentences)
        self._most_pairs: int | None = None  # at once; known when a GPU had no memory for more

    def warmup(self, pairs: int = 1, beams: int | None = None) -> None:
        """Run one made-up batch, so that the first real one of this size need not wait for what happens once.

        Graphs are opened, memory is allocated, and on a GPU the steps of the search are recorded.

        Args:
            pairs: pairs in a batch.
            beams: of the search; by default the manifest's.

        Raises:
            ArgumentError: a number is out of its range.
            BackendError: the backend cannot run such a batch.
        """
        if pairs < 1:
            raise ArgumentError(f"pairs must be at least 1, not {pairs}")
        size = self.manifest.preprocessing.size
        self.caption(np.zeros((pairs, 2, size, size, 3), np.uint8), beams=beams, batch_size=pairs)
        self.backend.run(TEXT_ENCODER, {"input_ids": np.array([[START, END]], np.int64)})

    def caption(
        self,
        pairs: Sequence[Pair] | ForeignArray,
        *,
        beams: int | None = None,
        n_best: int = 1,
        length_penalty: float | None = None,
        early_stopping: bool | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
    ) -> list[Caption]:
        """Caption pairs by batched beam search.

        Settings that are None are the manifest's search defaults; all mean what they mean to `generate` of Hugging Face
        transformers (see `rsicrc.search.SearchOptions`).

        Args:
            pairs: the pairs.
            beams: how many sentences are followed at once; 1 is greedy.
            n_best: how many sentences to return for each pair, at most `beams`.
            length_penalty: a sentence's score is its summed log-probability / length**length_penalty.
            early_stopping: stop as soon as `beams` sentences are finished.
            max_length: longest sequence of ids, START included; at most (and by default) the model's.
            batch_size: pairs that go through the graphs together.

        Returns:
            One caption for each pair, in order.

        Raises:
            ImageError: the first pair that cannot be used; see `caption_stream` to go on instead.
            ArgumentError: a setting is out of its range.
        """
        captions = []
        for result in self.caption_stream(
            pairs,
            beams=beams,
            n_best=n_best,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            max_length=max_length,
            batch_size=batch_size,
        ):
            if isinstance(result, PairFailure):
                raise _noted(result)
            captions.append(result)
        return captions

    def caption_stream(
        self,
        pairs: Iterable[Pair] | ForeignArray,
        *,
        beams: int | None = None,
        n_best: int = 1,
        length_penalty: float | None = None,
        early_stopping: bool | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        workers: int | None = None,
    ) -> Iterator[Caption | PairFailure]:
        """Caption any number of pairs, one result after the other, in order and in bounded memory.

        `workers` threads read the next batch while the graphs work on this one (by default as many as the graphs have,
        at most 8), so arrays and Pillow images must not be changed before their caption is out. The other settings are
        those of `caption`.

        Returns:
            An iterator over a `Caption`, or a `PairFailure` where a pair cannot be used, for each pair.

        Raises:
            ArgumentError: a setting is out of its range.
        """
        options = SearchOptions.resolve(self.manifest, beams, n_best, length_penalty, early_stopping, max_length)
        batch_size, workers = self._reading(batch_size, workers)
        return self._batches(pairs, lambda encoded: self._decoder.captions(encoded, options), batch_size, workers)

    def encode_stream(
        self,
        pairs: Iterable[Pair] | ForeignArray,
        *,
        captions: bool = False,
        beams: int | None = None,
        texts: Sequence[str] = (),
        batch_size: int = 32,
        workers: int | None = None,
    ) -> Iterator[EncodedPair | PairFailure]:
        """Embed any number of pairs, and if asked caption them and score sentences on them, from one look at each.

        The image encoder runs once for a pair, whatever is asked for. Reading, order and memory are as in
        `caption_stream`.

        Args:
            pairs: the pairs.
            captions: caption the pairs too, with the manifest's search defaults.
            beams: of captions: how many sentences are followed at once, instead of the manifest's number.
            texts: sentences whose log p(text | pair) is wanted, as from `score`.
            batch_size: pairs that go through the graphs together.
            workers: threads that read images.

        Returns:
            An iterator over an `EncodedPair`, or a `PairFailure` where a pair cannot be used, for each pair.

        Raises:
            ArgumentError: a setting is out of its range, or a sentence is empty.
        """
        options = SearchOptions.resolve(self.manifest, beams, 1, None, None, None) if captions else None
        ids = encode_sentences(self.vocabulary, texts)
        batch_size, workers = self._reading(batch_size, workers)
        return self._batches(pairs, lambda encoded: self._encoded_pairs(encoded, options, ids), batch_size, workers)

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
            pairs: the pairs.
            batch_size: pairs that go through the graph together.
            on_device: leave the vectors where they were computed; on a GPU they come as an array that speaks DLPack and
                `__cuda_array_interface__`.

        Returns:
            float32 [N, d], each of length 1.

        Raises:
            ImageError: the first pair that cannot be used.
        """

        def vectors(part: Encoded) -> Any:
            value = part.outputs["image_embedding"]  # which would keep all that the encoder gave for its batch
            return self.backend.joined([value]) if on_device else self.backend.numpy(value)

        return self._joined(self._each(pairs, batch_size, vectors), IMAGE_ENCODER, on_device)

    @overload
    def embed_texts(self, texts: Sequence[str], *, on_device: Literal[False] = ...) -> NDArray[np.float32]: ...

    @overload
    def embed_texts(self, texts: Sequence[str], *, on_device: Literal[True]) -> NDArray[np.float32] | DeviceArray: ...

    def embed_texts(self, texts: Sequence[str], *, on_device: bool = False) -> NDArray[np.float32] | DeviceArray:
        """Embed sentences, to be compared with pairs by a dot product.

        Words that the model does not know count as UNK, with a warning in the log `rsicrc`.

        Args:
            texts: the sentences.
            on_device: as in `embed_images`.

        Returns:
            float32 [M, d], each of length 1.

        Raises:
            ArgumentError: a sentence is empty, or `texts` is a single string.
        """
        ids = encode_sentences(self.vocabulary, texts)
        rows = []
        for start in range(0, len(ids), TEXTS_PER_RUN):
            outputs = self.backend.run(TEXT_ENCODER, {"input_ids": pad(ids[start : start + TEXTS_PER_RUN])})
            rows.append(outputs["text_embedding"])
        return self._joined(rows, TEXT_ENCODER, on_device)

    def score(
        self, pairs: Sequence[Pair] | ForeignArray, texts: Sequence[str], *, batch_size: int = 32
    ) -> NDArray[np.float64]:
        """Return log p(text | pair) for every pair and every text: summed over the words and END.

        Words that the model does not know count as UNK, with a warning in the log `rsicrc`.

        Args:
            pairs: N pairs.
            texts: M sentences.
            batch_size: pairs that go through the image encoder together.

        Returns:
            float64 [N, M].

        Raises:
            ImageError: the first pair that cannot be used.
            ArgumentError: a sentence is empty, or `texts` is a single string.
        """
        ids = encode_sentences(self.vocabulary, texts)
        rows = self._each(pairs, batch_size, lambda part: self._decoder.log_probabilities(part, ids))
        return np.concatenate(rows) if rows else np.zeros((0, len(ids)), np.float64)

    def explain(self, pair: Pair, text: str | None = None) -> Explanation:
        """Return where the model looks for each word of a sentence.

        Args:
            pair: the pair.
            text: the sentence; by default the pair's caption.

        Raises:
            ImageError: the pair cannot be used.
            ArgumentError: the sentence is empty.
        """
        timings = Timings(pairs=1)
        images = prepare_pair(pair, self.manifest.preprocessing, timings)[np.newaxis]
        encoded = self._encode_images(images, timings)
        if text is None:
            options = SearchOptions.resolve(self.manifest, None, 1, None, None, None)
            best = self._decoder.search(encoded, options)[0][0]
            ids = [START, *best.ids]
        else:
            (ids,) = encode_sentences(self.vocabulary, [text])
        words = tuple(self.vocabulary.words[number] for number in ids[1:] if number != END)
        feeds = {"input_ids": pad([ids]), **encoded.cross}
        attention = self.backend.numpy(self.backend.run(SCORER, feeds, ["attention"])["attention"])
        similarity = self.backend.numpy(encoded.outputs["similarity"])[0]
        # Position i predicts the word after it, so the first word's map is START's.
        maps = attention[0, 0, : len(words)].reshape(len(words), *similarity.shape)
        return Explanation(" ".join(words), words, maps, similarity)

    def _batches(
        self,
        pairs: Iterable[Pair] | ForeignArray,
        work: Callable[[Encoded], Sequence[_Result]],
        batch_size: int,
        workers: int,
    ) -> Iterator[_Result | PairFailure]:
        # A generator of its own, so that wrong settings are reported at the call and not at the first result.
        with closing(self._feed(pairs, batch_size, workers)) as feed:
            for batch in feed:
                results = iter([result for part in self._worked(batch, work, feed) for result in part])
                for failure in batch.failures:
                    yield next(results) if failure is None else failure

    def _each(
        self, pairs: Sequence[Pair] | ForeignArray, batch_size: int, work: Callable[[Encoded], _Result]
    ) -> list[_Result]:
        """Return what the work gives for every batch."""
        results: list[_Result] = []
        batch_size, workers = self._reading(batch_size, None)
        with closing(self._feed(pairs, batch_size, workers)) as feed:
            for batch in feed:
                for failure in batch.failures:
                    if failure is not None:
                        raise _noted(failure)
                results += self._worked(batch, work, feed)
        return results

    def _feed(self, pairs: Iterable[Pair] | ForeignArray, batch_size: int, workers: int) -> Feed:
        preprocessing = self.manifest.preprocessing
        if is_array(pairs):
            pixels = take_pixels(pairs, preprocessing.size, self.backend.device, self.backend.stream)
            return Feed(array_batches(pixels, batch_size), self.backend)
        return Feed(read_batches(cast("Iterable[Pair]", pairs), preprocessing, batch_size, workers), self.backend)

    def _worked(self, batch: Batch, work: Callable[[Encoded], _Result], feed: Feed) -> list[_Result]:
        """Encode the images of a batch and do the work on them: at once, or in parts where a GPU has no memory for it.

        The first time that it has none, the batch is halved, and so are all later ones.
        """
        pairs = len(batch.images)
        most = self._most_pairs or max(pairs, 1)
        try:
            results = []
            for start in range(0, pairs, most):
                encoded = self._encode_images(batch.images[start : start + most], batch.timings)
                feed.look_ahead()
                results.append(work(encoded))
            return results
        except DeviceMemoryError as error:
            if self._most_pairs is not None or pairs == 1:
                raise
            self._most_pairs = (pairs + 1) // 2
            logger.warning("batches are halved, to %d pairs at once: %s", self._most_pairs, error)
        return self._worked(batch, work, feed)

    def _encoded_pairs(
        self, encoded: Encoded, options: SearchOptions | None, ids: Sequence[list[int]]
    ) -> list[EncodedPair]:
        # Copied, so that a caller who keeps one pair does not keep its batch.
        embeddings = [row.copy() for row in self.backend.numpy(encoded.outputs["image_embedding"])]
        captions = [None] * encoded.pairs if options is None else self._decoder.captions(encoded, options)
        log_probs = map(tuple, self._decoder.log_probabilities(encoded, ids).tolist())
        return [EncodedPair(*parts) for parts in zip(embeddings, captions, log_probs, strict=True)]

    def _joined(self, rows: Sequence[Any], graph: str, on_device: bool) -> NDArray[np.float32] | DeviceArray:
        empty = np.zeros((0, self._width(graph)), np.float32)
        if on_device:
            joined: NDArray[np.float32] | DeviceArray = self.backend.joined(rows or [self.backend.take(empty)])
            return joined
        return np.concatenate([empty, *(self.backend.numpy(row) for row in rows)])

    def _encode_images(self, images: NDArray[np.uint8] | DeviceArray, timings: Timings) -> Encoded:
        with timings.measure("image_encoder"):
            outputs = self.backend.run(IMAGE_ENCODER, {"images": images})
        return Encoded(len(images), outputs, timings)

    def _reading(self, batch_size: int, workers: int | None) -> tuple[int, int]:
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None and value < 1:
                raise ArgumentError(f"{name} must be at least 1, not {value}")
        return batch_size, workers or min(self.backend.threads, _MAX_WORKERS)

    def _width(self, graph: str) -> int:
        name = "image_embedding" if graph == IMAGE_ENCODER else "text_embedding"
        return int(self.manifest.graphs[graph].outputs[name].shape[1])


def _noted(failure: PairFailure) -> Exception:
    failure.error.add_note(f"in pair {failure.index}, counted from 0")
    return failure.error
