"""Captions and scores for image pairs that have been encoded already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Backend
from rsicrc.decoding.beam_search import FinishedBeam, beam_search
from rsicrc.decoding.numbers import require_numbers
from rsicrc.decoding.options import BeamSearchOptions
from rsicrc.manifest import SCORER
from rsicrc.results import Caption, Hypothesis, View
from rsicrc.text.change_calibration import EVEN, ChangeCalibration
from rsicrc.text.encoding import pad
from rsicrc.text.no_change import says_unchanged
from rsicrc.text.vocabulary import Vocabulary
from rsicrc.timings import Timings
from rsicrc.tuning import TEXTS_PER_RUN


@dataclass(frozen=True)
class Encoded:
    """Outputs of the image encoder for some pairs.

    Attributes:
        pairs: Number of pairs.
        outputs: Values of the backend, by output name.
        seen: Seen part of the images of each pair, if it is known.
        timings: Timings of the batch that the pairs belong to.
    """

    pairs: int
    outputs: dict[str, Any]
    timings: Timings
    seen: Sequence[View | None] = ()

    @property
    def cross(self) -> dict[str, Any]:
        """Keys and values of the cross-attention, by input name of the `decoder` and the `scorer` graph."""
        return {name: value for name, value in self.outputs.items() if name.startswith("cross_")}


class Decoder:
    """The `decoder` and the `scorer` graph over encoded pairs.

    Args:
        backend: Backend that runs the graphs.
        vocabulary: Vocabulary of the model.
        no_change: Sentences that mean "nothing has changed".
        change_threshold: Smallest change score of a pair that is decided to be changed, without a calibration.
        calibration: Calibration of the change score, or None.
    """

    def __init__(
        self,
        backend: Backend,
        vocabulary: Vocabulary,
        no_change: Sequence[str],
        change_threshold: float,
        calibration: ChangeCalibration | None = None,
    ) -> None:
        self._backend, self._vocabulary, self._threshold = backend, vocabulary, change_threshold
        self._calibration = calibration
        # Without duplicates: a sentence that is listed twice must not count twice in the sum of probabilities.
        sentences = [tuple(vocabulary.encode(text)) for text in no_change]
        self._no_change = [list(ids) for ids in dict.fromkeys(sentences)]
        self._no_change_texts = {vocabulary.decode(ids[1:]) for ids in self._no_change}

    def captions(self, encoded: Encoded, options: BeamSearchOptions) -> list[Caption]:
        """Return one caption for each pair."""
        timings = encoded.timings
        with timings.measure("scorer"):
            changes = self._change_scores(encoded)
        found = self.beam_search(encoded, options)
        with timings.measure("detokenize"):
            n_best = [tuple(map(self._hypothesis, beams)) for beams in found]
        seen = encoded.seen or [None] * encoded.pairs
        return [
            self._caption(hypotheses, change, view, timings)
            for hypotheses, change, view in zip(n_best, changes, seen, strict=True)
        ]

    def beam_search(self, encoded: Encoded, options: BeamSearchOptions) -> list[list[FinishedBeam]]:
        """Return the finished sentences of each pair, best first."""
        timings = encoded.timings
        with timings.measure("search"):
            found = beam_search(self._backend, encoded.cross, encoded.pairs, options, len(self._vocabulary))
        timings.search -= found.seconds
        timings.decoder += found.seconds
        timings.decoder_steps += found.steps
        return found.sentences

    def log_probabilities(self, encoded: Encoded, ids: Sequence[list[int]]) -> NDArray[np.float64]:
        """Return log p(sentence | pair) of every sentence for every pair.

        Args:
            encoded: N pairs.
            ids: Token ids of M sentences, START and END included.

        Returns:
            float64 [N, M], summed over the tokens and END.

        Raises:
            BackendError: The model gave NaN.
        """
        result = np.zeros((encoded.pairs, len(ids)), np.float64)
        step = max(1, TEXTS_PER_RUN // encoded.pairs)
        for start in range(0, len(ids), step):
            feeds = {"input_ids": pad(ids[start : start + step]), **encoded.cross}
            log_probs = self._backend.numpy(self._backend.run(SCORER, feeds, ["log_probs"])["log_probs"])
            result[:, start : start + step] = log_probs.sum(axis=2, dtype=np.float64)
        require_numbers(result, "the log-probability of a sentence")
        return result

    def attention(self, encoded: Encoded, ids: list[int]) -> NDArray[np.float32]:
        """Return the cross-attention of the last layer for one sentence on one pair.

        Args:
            encoded: One pair.
            ids: Token ids of the sentence, START and END included.

        Returns:
            float32 [len(ids), S], mean over the heads; row i is the attention while the token after `ids[i]` is
            predicted.
        """
        feeds = {"input_ids": pad([ids]), **encoded.cross}
        outputs = self._backend.run(SCORER, feeds, ["attention"])
        attention: NDArray[np.float32] = self._backend.numpy(outputs["attention"])[0, 0]
        return attention

    def _hypothesis(self, beam: FinishedBeam) -> Hypothesis:
        return Hypothesis(self._vocabulary.decode(beam.ids), beam.score, beam.token_log_probs, beam.ids)

    def _change_scores(self, encoded: Encoded) -> list[float | None]:
        if not self._no_change:
            return [None] * encoded.pairs
        unchanged = np.exp(self.log_probabilities(encoded, self._no_change)).sum(axis=1)
        return [float(change) for change in np.clip(1.0 - unchanged, 0.0, 1.0)]

    def _caption(
        self, n_best: tuple[Hypothesis, ...], change_score: float | None, seen: View | None, timings: Timings
    ) -> Caption:
        best = n_best[0]
        probability = changed = None
        if change_score is not None and self._calibration is not None:
            probability = self._calibration.probability(change_score)
            changed = probability >= EVEN
        elif change_score is not None:
            changed = change_score >= self._threshold
        says_change = best.text not in self._no_change_texts and not says_unchanged(best.text)
        return Caption(
            best.text,
            best.score,
            best.token_log_probs,
            n_best,
            change_score,
            changed,
            says_change,
            seen,
            timings,
            probability,
        )
