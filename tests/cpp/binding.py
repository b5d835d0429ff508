"""The C interface through ctypes, for the tests."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

OK, INVALID_ARGUMENT, NOT_FOUND, BAD_MODEL, BAD_IMAGE, BACKEND, OUT_OF_MEMORY, INTERNAL = range(8)


class OpenOptions(c.Structure):
    _fields_ = (
        ("size", c.c_size_t),
        ("backend", c.c_char_p),
        ("threads", c.c_int),
        ("device", c.c_int),
        ("max_batch", c.c_size_t),
        ("precision", c.c_char_p),
        ("engines", c.c_char_p),
    )


class Info(c.Structure):
    _fields_ = (
        ("size", c.c_size_t),
        ("embedding_width", c.c_size_t),
        ("image_size", c.c_size_t),
        ("vocabulary_size", c.c_size_t),
        ("max_length", c.c_size_t),
        ("beams", c.c_size_t),
        ("precision", c.c_char_p),
        ("backend", c.c_char_p),
    )


class Image(c.Structure):
    _fields_ = (
        ("pixels", c.c_void_p),
        ("bytes", c.c_size_t),
        ("width", c.c_size_t),
        ("height", c.c_size_t),
        ("stride", c.c_size_t),
    )


class Pair(c.Structure):
    _fields_ = (("before", Image), ("after", Image))


class CaptionOptions(c.Structure):
    _fields_ = (
        ("size", c.c_size_t),
        ("beams", c.c_size_t),
        ("n_best", c.c_size_t),
        ("early_stopping", c.c_int),
        ("max_length", c.c_size_t),
        ("use_length_penalty", c.c_int),
        ("length_penalty", c.c_double),
    )


class Sentence(c.Structure):
    _fields_ = (
        ("size", c.c_size_t),
        ("text", c.c_char_p),
        ("score", c.c_double),
        ("change_score", c.c_double),
        ("token_count", c.c_size_t),
        ("token_log_probs", c.POINTER(c.c_double)),
        ("token_ids", c.POINTER(c.c_int64)),
    )


class CallError(Exception):
    """A call returned another status than OK."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


def open_library(path: Path) -> c.CDLL:
    """Load librsicrc and declare the result types of its functions."""
    library = c.CDLL(str(path))
    library.rsicrc_version.restype = c.c_char_p
    library.rsicrc_last_error.restype = c.c_char_p
    library.rsicrc_close.restype = None
    library.rsicrc_context_close.restype = None
    return library


def image(array: NDArray[np.uint8]) -> Image:
    """Return a view of an array [H, W, 3], which must outlive the view."""
    height, width = array.shape[:2]
    stride = array.strides[0]
    return Image(array.ctypes.data, (height - 1) * stride + 3 * width, width, height, stride)


def pair_array(pairs: Sequence[Sequence[NDArray[np.uint8]]]) -> c.Array[Pair]:
    """Return views of pairs of arrays [H, W, 3], which must outlive the views."""
    return (Pair * len(pairs))(*(Pair(image(before), image(after)) for before, after in pairs))


class Engine:
    """A model and one context of it."""

    def __init__(
        self,
        library: c.CDLL,
        folder: Path,
        backend: str | None = None,
        max_batch: int = 32,
        precision: str | None = None,
        engines: Path | None = None,
    ) -> None:
        self.library = library
        self.model = c.c_void_p()
        self.context = c.c_void_p()
        names = [None if name is None else str(name).encode() for name in (backend, precision, engines)]
        options = OpenOptions(c.sizeof(OpenOptions), names[0], 1, 0, max_batch, names[1], names[2])
        self.check(library.rsicrc_open(str(folder).encode(), c.byref(options), c.byref(self.model)))
        self.check(library.rsicrc_context_open(self.model, c.byref(self.context)))
        self.info = Info(c.sizeof(Info))
        self.check(library.rsicrc_model_info(self.model, c.byref(self.info)))

    def check(self, status: int) -> None:
        if status != OK:
            raise CallError(status, self.library.rsicrc_last_error().decode())

    def close(self) -> None:
        self.library.rsicrc_context_close(self.context)
        self.library.rsicrc_close(self.model)

    def caption(self, pairs: Sequence[Sequence[NDArray[np.uint8]]], beams: int, n_best: int, **settings: float) -> None:
        options = CaptionOptions(c.sizeof(CaptionOptions), beams, n_best, -1, 0, 0, 1.0)
        for name, value in settings.items():
            setattr(options, name, value)
        self.check(
            self.library.rsicrc_caption(self.context, pair_array(pairs), c.c_size_t(len(pairs)), c.byref(options))
        )

    def sentence(self, pair: int, rank: int) -> Sentence:
        found = Sentence(c.sizeof(Sentence))
        self.check(self.library.rsicrc_caption_at(self.context, c.c_size_t(pair), c.c_size_t(rank), c.byref(found)))
        return found

    def embed_pairs(self, pairs: Sequence[Sequence[NDArray[np.uint8]]]) -> NDArray[np.float32]:
        vectors = np.empty((len(pairs), self.info.embedding_width), np.float32)
        self.check(
            self.library.rsicrc_embed_pairs(
                self.context,
                pair_array(pairs),
                c.c_size_t(len(pairs)),
                vectors.ctypes.data_as(c.POINTER(c.c_float)),
                c.c_size_t(vectors.size),
            )
        )
        return vectors

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.info.embedding_width), np.float32)
        self.check(
            self.library.rsicrc_embed_texts(
                self.context,
                (c.c_char_p * len(texts))(*(text.encode() for text in texts)),
                c.c_size_t(len(texts)),
                vectors.ctypes.data_as(c.POINTER(c.c_float)),
                c.c_size_t(vectors.size),
            )
        )
        return vectors

    def score(self, pairs: Sequence[Sequence[NDArray[np.uint8]]], texts: Sequence[str]) -> NDArray[np.float64]:
        log_probs = np.empty((len(pairs), len(texts)), np.float64)
        self.check(
            self.library.rsicrc_score(
                self.context,
                pair_array(pairs),
                c.c_size_t(len(pairs)),
                (c.c_char_p * len(texts))(*(text.encode() for text in texts)),
                c.c_size_t(len(texts)),
                log_probs.ctypes.data_as(c.POINTER(c.c_double)),
                c.c_size_t(log_probs.size),
            )
        )
        return log_probs
