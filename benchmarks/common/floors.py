"""The least time that the folded, cached computation can take on this machine, in each precision.

Image encoder: multiply-accumulates / rate of a large product. A step of the decoder and the text encoder read every
weight once whatever the batch: the larger of that and bytes of weights / bandwidth; on a GPU a launch comes on top. All
is counted from the float32 graphs of a model folder, so that a floor is the same for all contestants of a precision.
Run as a program it prints the counts as JSON:

    python -m common.floors MODEL --max-length 21
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from common.machine import Limits

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Counts:
    """What the graphs cost.

    Attributes:
        image: multiply-accumulates of a pair.
        word: multiply-accumulates of a row (a beam of a pair) in one step.
        word_weights: numbers that a step reads, whatever its rows.
        sentence: multiply-accumulates of a sentence of `sentence_ids` ids.
        sentence_weights: numbers that the text encoder reads.
        sentence_ids: ids of the sentence, START and END included.
    """

    image: int
    word: int
    word_weights: int
    sentence: int
    sentence_weights: int
    sentence_ids: int


class Floors:
    """Counts and limits together."""

    def __init__(self, counts: Counts, limits: Limits) -> None:
        self.counts = counts
        self.limits = limits
        # On a GPU, int8 is the image side's alone; the words are in fp16 (docs/precisions.md).
        self.words = {"int8": "fp16"} if limits.launch else {}

    def images(self, precision: str, pairs: int) -> float:
        """Seconds of the image side of some pairs."""
        return self._products(precision, pairs * self.counts.image)

    def decode(self, precision: str, beams: int, steps: int, words: int) -> float:
        """Seconds of a search of `steps` steps whose captions have `words` words in all: done pairs cost nothing."""
        precision = self.words.get(precision, precision)
        products = self._products(precision, words * beams * self.counts.word)
        reading = self._reading(precision, self.counts.word_weights)
        return max(products, steps * reading) + steps * self.limits.launch

    def texts(self, precision: str, sentences: int) -> float:
        """Seconds of embedding some sentences together."""
        precision = self.words.get(precision, precision)
        products = self._products(precision, sentences * self.counts.sentence)
        return max(products, self._reading(precision, self.counts.sentence_weights)) + self.limits.launch

    def _products(self, precision: str, macs: int) -> float:
        return macs / (self.limits.gmacs.get(precision, math.inf) * 1e9)

    def _reading(self, precision: str, weights: int) -> float:
        return weights * BYTES[precision] / (self.limits.bandwidth * 1e9)


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--sentence-ids", type=int, required=True)
    arguments = parser.parse_args()
    try:
        counts = count(arguments.model, arguments.max_length, arguments.sentence_ids)
    except ImportError as error:
        raise SystemExit(f"skipped: what the graphs cost, which onnx reads: {error}") from error
    sys.stdout.write(json.dumps(vars(counts)) + "\n")


def count(model: Path, max_length: int, sentence_ids: int) -> Counts:
    """Count what the graphs of a model folder cost."""
    from rsicrc.manifest import DECODER, IMAGE_ENCODER, TEXT_ENCODER, Manifest
    from common.costs import graph_cost

    graphs = Manifest.load(model, verify=False).graphs
    image = graph_cost(model / graphs[IMAGE_ENCODER].file, {"B": 1})
    # Two beams, halved: shape inference cannot follow the broadcast of one.
    step = graph_cost(model / graphs[DECODER].file, {"B": 1, "K": 2, "P": 2 * max_length})
    text = graph_cost(model / graphs[TEXT_ENCODER].file, {"B": 1, "n": sentence_ids})
    weights = [
        _read_weights(model / graphs[name].file, cost.reads) for name, cost in ((DECODER, step), (TEXT_ENCODER, text))
    ]
    return Counts(image.macs, step.macs // 2, weights[0], text.macs, weights[1], sentence_ids)


def _read_weights(path: Path, reads: object) -> int:
    import onnx

    names = set(reads)  # type: ignore[call-overload]
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return sum(math.prod(tensor.dims) for tensor in tensors if tensor.name in names)


if __name__ == "__main__":
    main()
