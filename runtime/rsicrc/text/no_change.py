"""Detection of captions that mean "nothing has changed", for data sets without a change flag.

The patterns cover the five sentences of LEVIR-CC, and the sentences that Chg2Cap's evaluation lists for Dubai-CC
(https://github.com/ShizhenChang/Chg2Cap, test.py). The whole sentence has to match, because "no change except for a
road" describes a change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_HERE = r"(?: in (?:this|the) (?:area|region|scene|place|image))?"
_UNCHANGED = re.compile(
    r"(?:there (?:is|are|was|were) )?(?:almost )?(?:no|not any)(?: \w+)? (?:changes?|changed|differences?)"
    rf"(?: (?:was|were|has|have|had|is|are))?(?: been)?(?: made| occurred| happened| to mention| visible)?{_HERE}"
    rf"|(?:almost )?nothing (?:has |was )?(?:been )?changed?{_HERE}"
    r"|(?:everything|all|the (?:two )?\w+) (?:has |have )?"
    r"(?:remain|stay|appear|look|seem|is|are)(?:s|ed)?(?: to be)?(?: almost| exactly)?"
    rf" (?:the same|unchanged|identical)(?: as before)?{_HERE}"
)


def says_unchanged(sentence: str) -> bool:
    """Return True if a sentence (lower case, without punctuation) says only that nothing has changed."""
    return _UNCHANGED.fullmatch(sentence) is not None


def mostly_unchanged(sentences: Sequence[str]) -> bool:
    """Return True if more than half of a pair's captions say that nothing has changed."""
    return 2 * sum(map(says_unchanged, sentences)) > len(sentences)
