"""Results of the engine: captions, n-best lists, embeddings, failures and explanations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import RsicrcError
from rsicrc.timings import Timings

_DECIMALS = 6  # the precision of sums in float32


@dataclass(frozen=True)
class Hypothesis:
    """One sentence that the beam search finished.

    Attributes:
        text: The sentence.
        score: Summed log-probability / length**length_penalty; `length` counts the generated tokens and END.
        token_log_probs: Log-probability of each token given the tokens before it, then of END. A sentence that was cut
            at the maximum length has no END.
        token_ids: Ids of the tokens in the vocabulary, then of END.
    """

    text: str
    score: float
    token_log_probs: tuple[float, ...]
    token_ids: tuple[int, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON; the text has the key `caption`."""
        return {"caption": self.text, "score": self.score, "token_log_probs": list(self.token_log_probs)}


@dataclass(frozen=True)
class View:
    """The part of a pair's images that the model has seen.

    Attributes:
        box: (left, top, right, bottom) in pixels of the images.
        size: (width, height) of the images in pixels.
        is_tile: True if other results cover the rest of the images.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    is_tile: bool = False

    @property
    def is_partial(self) -> bool:
        """True if a part of the images was not seen, and no other result covers that part."""
        return not self.is_tile and self.box != (0, 0, *self.size)


@dataclass(frozen=True)
class Caption:
    """The caption of one pair.

    Attributes:
        text: The best sentence.
        score: Score of the sentence (see `Hypothesis`).
        token_log_probs: Log-probability of each token of the sentence, then of END.
        n_best: The best sentences, best first; the first is the caption itself.
        change_score: 1 - the probability that the model gives its no-change sentences, in [0, 1]; None when the model
            lists no such sentences.
        changed: Decision: `change_probability` is at least 0.5, or, without a calibration, `change_score` is at least
            the `change_threshold` of the manifest; None when there is no change score.
        says_change: True if the sentence describes a change, False if the sentence says that nothing has changed.
        seen: The part of the images that the model has seen; None for pairs that the caller has prepared.
        timings: Timings of the batch; the pairs of a batch share one object.
        change_probability: Probability of change by the calibration of the manifest, in [0, 1]; None without a
            calibration or a change score.
    """

    text: str
    score: float
    token_log_probs: tuple[float, ...]
    n_best: tuple[Hypothesis, ...]
    change_score: float | None
    changed: bool | None = None
    says_change: bool | None = None
    seen: View | None = None
    timings: Timings = field(default_factory=Timings, compare=False, repr=False)
    change_probability: float | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to distrust the caption: a contradicting change decision, a part of the images that was not seen."""
        lines = []
        if self.changed is not None and self.says_change is not None and self.changed != self.says_change:
            sentence = "describes a change" if self.says_change else "says that nothing has changed"
            decision = "changed" if self.changed else "unchanged"
            reason = f"score {self.change_score:.3f}"
            if self.change_probability is not None:
                reason = f"probability {self.change_probability:.3f}"
            lines.append(f"the caption {sentence}, but the pair is {decision} by its change {reason}")
        if self.seen is not None and self.seen.is_partial:
            (left, top, right, bottom), (width, height) = self.seen.box, self.seen.size
            lines.append(
                f"only columns {left} to {right} and rows {top} to {bottom} of {width} x {height} pixels were seen; "
                "caption tiles (--tile) to cover the whole image"
            )
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON; the text has the key `caption`, `seen` is the box in pixels."""
        return {
            "caption": self.text,
            "score": self.score,
            "change_score": self.change_score,
            "change_probability": self.change_probability,
            "changed": self.changed,
            "seen": None if self.seen is None else list(self.seen.box),
            "warnings": list(self.warnings),
            "token_log_probs": list(self.token_log_probs),
            "n_best": [hypothesis.to_dict() for hypothesis in self.n_best],
        }


@dataclass(frozen=True)
class EncodedPair:
    """Results for one pair from one run of the image encoder.

    Attributes:
        embedding: float32 [d], of length 1, to be compared with text embeddings by a dot product.
        caption: The caption, if captions were asked for.
        log_probs: log p(text | pair) of each given text.
        similarity: float32 [h, w] as in `Explanation`, if the maps were asked for.
    """

    embedding: NDArray[np.float32]
    caption: Caption | None
    log_probs: tuple[float, ...]
    similarity: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PairFailure:
    """The result for a pair that cannot be used.

    Attributes:
        index: Position of the pair in the input, from 0.
        error: The error.
    """

    index: int
    error: RsicrcError


@dataclass(frozen=True)
class Explanation:
    """Attention maps of the model for each token of a sentence.

    Attributes:
        text: The sentence, as the vocabulary spells it (unknown words are UNK).
        tokens: Tokens of the sentence.
        attention: float32 [len(tokens), h, w], cross-attention of the last layer, mean over the heads, while the token
            is predicted; rows and columns of the image; each map sums to 1.
        similarity: float32 [h, w], cosine similarity of the features of the two images at each position: low where the
            images differ.
        caption: The caption of the pair, if no sentence was given; else None.
    """

    text: str
    tokens: tuple[str, ...]
    attention: NDArray[np.float32]
    similarity: NDArray[np.float32]
    caption: Caption | None = None


def rounded(value: Any) -> Any:
    """Round every float in plain containers to the digits that are significant in float32."""
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value
