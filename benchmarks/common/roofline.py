"""Roofline: the shortest time that the folded, cached computation can take on a device, in each precision.

The time of the image encoder is its multiply-accumulates divided by the peak rate. A decoder step and the text encoder
read every weight once, whatever the batch size: their time is the larger of that of the multiply-accumulates and the
bytes of the weights divided by the memory bandwidth; on a GPU, the time of a launch is added. The numbers are counted
from the fp32 graphs of a model folder, so that the roofline is the same for all implementations of a precision. As a
program, the module prints the counts as JSON:

    python -m common.roofline MODEL MAX_LENGTH SENTENCE_IDS
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.peaks import Peaks

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Counts:
    """Work of the graphs of a model.

    Attributes:
        image: Multiply-accumulates of the image encoder for one pair.
        word: Multiply-accumulates of a decoder step for one row, which is one beam of one pair.
        word_weights: Number of weights that a decoder step reads.
        sentence: Multiply-accumulates of the text encoder for a sentence of `sentence_ids` token ids.
        sentence_weights: Number of weights that the text encoder reads.
        sentence_ids: Token ids of the sentence, with START and END.
    """

    image: int
    word: int
    word_weights: int
    sentence: int
    sentence_weights: int
    sentence_ids: int


class Roofline:
    """Shortest times from the work of the graphs and the peak rates of the device."""

    def __init__(self, counts: Counts, peaks: Peaks) -> None:
        self.counts, self.peaks = counts, peaks
        # On a GPU, only the image encoder is in int8; text encoder and decoder are in fp16 (docs/precisions.md).
        self._text_precisions = {"int8": "fp16"} if peaks.launch else {}

    def images(self, precision: str, pairs: int) -> float:
        """Return the shortest time of the image encoder, in seconds."""
        return self._computing(precision, pairs * self.counts.image)

    def decode(self, precision: str, beams: int, steps: int, tokens: int) -> float:
        """Return the shortest time of a beam search, in seconds.

        `tokens` is the sum of the lengths of the best captions: a finished pair takes no time.
        """
        precision = self._text_precisions.get(precision, precision)
        computing = self._computing(precision, tokens * beams * self.counts.word)
        reading = self._reading(precision, self.counts.word_weights)
        return max(computing, steps * reading) + steps * self.peaks.launch

    def texts(self, precision: str, sentences: int) -> float:
        """Return the shortest time of embedding sentences in one batch, in seconds."""
        precision = self._text_precisions.get(precision, precision)
        computing = self._computing(precision, sentences * self.counts.sentence)
        return max(computing, self._reading(precision, self.counts.sentence_weights)) + self.peaks.launch

    def _computing(self, precision: str, macs: int) -> float:
        return macs / (self.peaks.gmacs.get(precision, math.inf) * 1e9)

    def _reading(self, precision: str, weights: int) -> float:
        return weights * BYTES[precision] / (self.peaks.bandwidth * 1e9)


def main(model: str, max_length: str, sentence_ids: str) -> None:
    """Count the work, and print it."""
    try:
        counts = count(Path(model), int(max_length), int(sentence_ids))
    except ImportError as error:
        raise SystemExit(f"skipped: counting the work of the graphs needs onnx: {error}") from error
    sys.stdout.write(json.dumps(vars(counts)) + "\n")


def count(model: Path, max_length: int, sentence_ids: int) -> Counts:
    """Count the work of the graphs in a model folder, for captions and sentences of some numbers of token ids."""
    from common.costs import graph_cost
    from rsicrc.manifest import DECODER, IMAGE_ENCODER, TEXT_ENCODER, Manifest

    graphs = Manifest.load(model, verify=False).graphs
    image, decoder, text = (model / graphs[name].file for name in (IMAGE_ENCODER, DECODER, TEXT_ENCODER))
    # Two beams, halved: shape inference cannot follow the broadcast of a single beam.
    step = graph_cost(decoder, {"B": 1, "K": 2, "P": 2 * max_length})
    sentence = graph_cost(text, {"B": 1, "n": sentence_ids})
    words = (step.macs // 2, _read_weights(decoder, step.reads))
    return Counts(
        graph_cost(image, {"B": 1}).macs, *words, sentence.macs, _read_weights(text, sentence.reads), sentence_ids
    )


def _read_weights(path: Path, reads: Mapping[str, int]) -> int:
    import onnx

    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return sum(math.prod(tensor.dims) for tensor in tensors if tensor.name in reads)


if __name__ == "__main__":
    main(*sys.argv[1:])
