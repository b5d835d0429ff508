"""What the engine returns: captions, their n-best lists, failures, and the material of a heat map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import RsicrcError
from rsicrc.timings import Timings


@dataclass(frozen=True)
class Hypothesis:
    """One sentence that the beam search finished.

    Attributes:
        text: the sentence.
        score: summed log-probability / length**length_penalty; length counts the generated words and END.
        token_log_probs: log-probability of each word given the words before it, then of END. A sentence that was cut
            at the maximum length has no END.
    """

    text: str
    score: float
    token_log_probs: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {"text": self.text, "score": self.score, "token_log_probs": list(self.token_log_probs)}


@dataclass(frozen=True)
class Caption:
    """The caption of one pair.

    Attributes:
        text: the best sentence.
        score: its score (see `Hypothesis`).
        token_log_probs: its log-probabilities, one per word, then END.
        n_best: the best sentences, best first; the first is the caption itself.
        change_score: 1 - the probability that the model gives its no-change sentences, in [0, 1]; None when the model
            lists no such sentences.
        timings: where the time of its batch went; the pairs of a batch share one.
    """

    text: str
    score: float
    token_log_probs: tuple[float, ...]
    n_best: tuple[Hypothesis, ...]
    change_score: float | None
    timings: Timings = field(default_factory=Timings, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {
            "text": self.text,
            "score": self.score,
            "change_score": self.change_score,
            "token_log_probs": list(self.token_log_probs),
            "n_best": [hypothesis.to_dict() for hypothesis in self.n_best],
        }


@dataclass(frozen=True)
class EncodedPair:
    """What one look at a pair gave.

    Attributes:
        embedding: float32 [d], of length 1, to be compared with texts by a dot product.
        caption: the caption, where one was asked for.
        log_probs: log p(text | pair) of each sentence that was asked about.
    """

    embedding: NDArray[np.float32]
    caption: Caption | None
    log_probs: tuple[float, ...]


@dataclass(frozen=True)
class PairFailure:
    """Stands in a stream of results where a pair could not be read.

    Attributes:
        index: position of the pair in the input, from 0.
        error: what was wrong.
    """

    index: int
    error: RsicrcError


@dataclass(frozen=True)
class Explanation:
    """Where the model looked for each word of a sentence.

    Attributes:
        text: the sentence, as the vocabulary spells it (unknown words are UNK).
        words: its words.
        attention: float32 [len(words), h, w], cross-attention of the last layer, mean over heads, while that word was
            predicted; rows and columns of the image, each map sums to 1.
        similarity: float32 [h, w], cosine similarity of the two dates' features at each place: low where they differ.
    """

    text: str
    words: tuple[str, ...]
    attention: NDArray[np.float32]
    similarity: NDArray[np.float32]
