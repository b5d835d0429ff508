"""What is said of pairs that the image encoder has seen: captions, and how likely given sentences are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Backend
from rsicrc.captions import Caption, Hypothesis
from rsicrc.manifest import SCORER
from rsicrc.search import FinishedBeam, SearchOptions, beam_search
from rsicrc.sentences import pad
from rsicrc.timings import Timings
from rsicrc.tuning import TEXTS_PER_RUN
from rsicrc.vocabulary import Vocabulary


@dataclass(frozen=True)
class Encoded:
    """What the image encoder gave for some pairs: `cross` is kept in the backend."""

    pairs: int
    outputs: dict[str, Any]
    timings: Timings

    @property
    def cross(self) -> dict[str, Any]:
        """The keys and values that the words look at."""
        return {name: value for name, value in self.outputs.items() if name.startswith("cross_")}


class Decoder:
    """The graphs of words, over encoded pairs.

    Args:
        backend: what runs them.
        vocabulary: the model's words.
        no_change: sentences that mean "nothing changed".
    """

    def __init__(self, backend: Backend, vocabulary: Vocabulary, no_change: Sequence[str]) -> None:
        self._backend, self._vocabulary = backend, vocabulary
        # Each once: a sentence that is listed twice must not count twice in the sum of probabilities.
        sentences = [tuple(vocabulary.encode(text)) for text in no_change]
        self._no_change = [list(ids) for ids in dict.fromkeys(sentences)]

    def captions(self, encoded: Encoded, options: SearchOptions) -> list[Caption]:
        """Return a caption for each pair."""
        timings = encoded.timings
        with timings.measure("scorer"):
            changes = self._change_scores(encoded)
        found = self.search(encoded, options)
        with timings.measure("detokenise"):
            n_best = [tuple(map(self._hypothesis, beams)) for beams in found]
        return [_caption(hypotheses, change, timings) for hypotheses, change in zip(n_best, changes, strict=True)]

    def search(self, encoded: Encoded, options: SearchOptions) -> list[list[FinishedBeam]]:
        """Return for each pair the sentences that the search finished, best first."""
        timings = encoded.timings
        with timings.measure("search"):
            found = beam_search(self._backend, encoded.cross, encoded.pairs, options)
        timings.search -= found.seconds
        timings.decoder += found.seconds
        timings.decoder_steps += found.steps
        return found.sentences

    def _hypothesis(self, beam: FinishedBeam) -> Hypothesis:
        return Hypothesis(self._vocabulary.decode(beam.ids), beam.score, beam.token_log_probs)

    def _change_scores(self, encoded: Encoded) -> list[float | None]:
        if not self._no_change:
            return [None] * encoded.pairs
        unchanged = np.exp(self.log_probabilities(encoded, self._no_change)).sum(axis=1)
        return [float(change) for change in np.clip(1.0 - unchanged, 0.0, 1.0)]

    def log_probabilities(self, encoded: Encoded, ids: Sequence[list[int]]) -> NDArray[np.float64]:
        """Return log p of every sentence on every pair, [pairs, sentences]."""
        result = np.zeros((encoded.pairs, len(ids)), np.float64)
        step = max(1, TEXTS_PER_RUN // encoded.pairs)
        for start in range(0, len(ids), step):
            feeds = {"input_ids": pad(ids[start : start + step]), **encoded.cross}
            log_probs = self._backend.numpy(self._backend.run(SCORER, feeds, ["log_probs"])["log_probs"])
            result[:, start : start + step] = log_probs.sum(axis=2, dtype=np.float64)
        return result


def _caption(n_best: tuple[Hypothesis, ...], change_score: float | None, timings: Timings) -> Caption:
    best = n_best[0]
    return Caption(best.text, best.score, best.token_log_probs, n_best, change_score, timings)
