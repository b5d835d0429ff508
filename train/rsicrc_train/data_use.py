"""Use of a data set by a training: items and steps of an epoch, and the captions that the model can learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train.data import count_items
from rsicrc_train.recipes import Training


@dataclass(frozen=True)
class DataUse:
    """Use of a data set by a training with the options of a recipe.

    Attributes:
        item: Kind of item: `pair` or `caption`.
        items: Number of items in an epoch, before any is left out.
        step: Number of items in an optimizer step.
        steps: Number of optimizer steps in an epoch.
        left_out: Number of items that an epoch leaves out because they do not fill a step.
        unused_captions: Number of training captions that no epoch uses.
        known_words: Share of the words of each split's captions that are in the vocabulary.
        cut_captions: Number of captions of each split that are longer than the model's maximum.
    """

    item: str
    items: int
    step: int
    steps: int
    left_out: int
    unused_captions: int
    known_words: Mapping[str, float]
    cut_captions: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the facts as lines of text."""
        lines = [
            f"words known to the vocabulary: {', '.join(f'{n} {100 * x:.2f} %' for n, x in self.known_words.items())}",
            f"captions that are cut: {', '.join(f'{name} {count}' for name, count in self.cut_captions.items())}",
            f"an epoch: {self.items} items (each a {self.item}), {self.steps} steps of {self.step}, "
            f"{self.left_out} items left out",
        ]
        if self.unused_captions:
            lines.append(f"{self.unused_captions} training captions are never used: raise `captions`, or item: caption")
        return lines


def describe_use(splits: Mapping[str, Sequence[CaptionedPair]], vocabulary: Vocabulary, training: Training) -> DataUse:
    """Return the use of a data set by a training.

    Args:
        splits: Captioned pairs by split.
        vocabulary: Vocabulary of the model.
        training: Training options.
    """
    pairs = splits.get("train", ())
    items, step = count_items(pairs, training.item), training.batch_size * training.accumulate
    left_out = 0 if training.partial_batch else items % step
    unused = 0
    if training.item == "pair":
        unused = sum(max(0, len(pair.sentences) - training.captions) for pair in pairs)
    return DataUse(
        item=training.item,
        items=items,
        step=step,
        steps=-(-(items - left_out) // step),
        left_out=left_out,
        unused_captions=unused,
        known_words={split: _known_words(members, vocabulary) for split, members in splits.items()},
        cut_captions={
            split: sum(vocabulary.is_cut(text) for pair in members for text in pair.sentences)
            for split, members in splits.items()
        },
    )


def _known_words(pairs: Sequence[CaptionedPair], vocabulary: Vocabulary) -> float:
    words = set(vocabulary.words)
    found = [word in words for pair in pairs for text in pair.sentences for word in text.split()]
    return sum(found) / max(1, len(found))
