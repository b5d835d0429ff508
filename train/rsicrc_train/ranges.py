"""Types and ranges of the options of a training and of a model."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rsicrc.errors import RsicrcError
from rsicrc_train.quoting import quote


class Rule(Protocol):
    """Set of the values that an option may have; its text completes "the option must be …"."""

    def accepts(self, value: object) -> bool:
        """Return True if an option may have this value."""
        ...


@dataclass(frozen=True)
class Number:
    """Finite number in a range.

    Attributes:
        low: Smallest value.
        high: Largest value.
        whole: Accept whole numbers only.
        above: Exclude `low`.
        below: Exclude `high`.
    """

    low: float
    high: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False

    def accepts(self, value: object) -> bool:
        """Return True for a number of the range; True, NaN and infinite values are none."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        if not self.low <= value <= min(self.high, sys.float_info.max):
            return False
        return not (self.above and value == self.low) and not (self.below and value == self.high)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.high == math.inf:
            return f"{kind} above {self.low:g}" if self.above else f"{kind}, {self.low:g} or more"
        if self.above or self.below:
            low = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
            return f"{kind}, {low} and {'less than' if self.below else 'at most'} {self.high:g}"
        return f"{kind} from {self.low:.15g} to {self.high:.15g}"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """Return True for one of the words."""
        return isinstance(value, str) and value in self.words

    def __str__(self) -> str:
        return " or ".join(self.words)


class Flag:
    """True or False."""

    def accepts(self, value: object) -> bool:
        """Return True for a Boolean value."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


class Text:
    """Text that is not empty."""

    def accepts(self, value: object) -> bool:
        """Return True for a text with at least one character."""
        return isinstance(value, str) and bool(value)

    def __str__(self) -> str:
        return "a text that is not empty"


def whole(low: int, high: int) -> Number:
    """Return the rule of a whole number from `low` to `high`."""
    return Number(low, high, whole=True)


def check_options(options: object, rules: Mapping[str, Rule], subject: str, error: type[RsicrcError]) -> None:
    """Check attributes of `options` by their rules.

    Args:
        options: Object with the attributes that `rules` names.
        rules: Rule of each attribute.
        subject: Kind of the options, for the message.
        error: Class of the error.

    Raises:
        RsicrcError: An attribute has another type or is out of its range; the error has the class `error`.
    """
    for name, rule in rules.items():
        value = getattr(options, name)
        if not rule.accepts(value):
            raise error(f"{subject} {name} must be {rule}, not {quote(value)}")
