"""The word-level vocabulary: encoding of sentences as ids, and decoding.

The file format is that of Hugging Face `tokenizers` (`tokenizer.json`), which has bindings for other languages. Only
files that `Vocabulary.save` could have written are read: another file could hold a regular expression that takes hours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace, Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from rsicrc.errors import ArgumentError, ModelFolderError
from rsicrc.files import replacing
from rsicrc.untrusted.fields import is_printable, mapping, shown, text as checked_text, whole
from rsicrc.untrusted.strict_json import parse_json, read_text

PAD, START, UNK, END = 0, 1, 2, 3
SPECIAL_WORDS = ("PAD", "START", "UNK", "END")
SPECIAL_IDS = {"pad": PAD, "start": START, "unk": UNK, "end": END}
MOST_WORDS, MOST_LENGTH = 1_000_000, 4096
_LONGEST_WORD = 200
# Lower case ensures that no text contains a special word, because special words are upper case. Punctuation becomes a
# space, so that "road,trees" is two words; hyphens and apostrophes inside a word stay ("t-shaped", "road's").
_NORMALIZER = NormalizerSequence(
    [
        Lowercase(),
        Replace(Regex(r"[^\p{L}\p{M}\p{N}'\-\s]"), " "),
        Replace(Regex(r"(?<![\p{L}\p{M}\p{N}])['\-]+|['\-]+(?![\p{L}\p{N}])"), " "),
    ]
)


def normalize_text(text: str) -> str:
    """Return a text as the vocabulary reads it: lower-case words without punctuation, separated by single spaces."""
    return " ".join(_NORMALIZER.normalize_str(text).split())


class Vocabulary:
    """A word-level vocabulary: PAD 0, START 1, UNK 2, END 3, then words.

    Attributes:
        words: Word (or special word) of every id.
        max_len: Maximum length of a sequence of ids, including START and END; `encode` truncates to this length.
    """

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str], max_len: int) -> None:
        self.words: tuple[str, ...] = tuple(words)
        self.max_len = max_len
        self._tokenizer = tokenizer

    @classmethod
    def from_words(cls, words: Sequence[str], max_len: int = 41) -> Vocabulary:
        """Build a vocabulary from a list of words.

        Args:
            words: The word of every id: PAD, START, UNK, END (with these names), then words in lower case.
            max_len: Maximum length of a sequence of ids, including START and END.

        Raises:
            ArgumentError: The special words are not at the beginning, a word occurs twice or has a control character,
                or `max_len` is under 3.
        """
        if tuple(words[:4]) != SPECIAL_WORDS:
            raise ArgumentError(f"a vocabulary begins with {', '.join(SPECIAL_WORDS)}, not {shown(list(words[:4]))}")
        if max_len < 3:
            raise ArgumentError(f"max_len must be at least 3 (START, a word and END), not {max_len}")
        for word in words:
            if not is_printable(word):
                raise ArgumentError(f"a word of a vocabulary has a control character: {shown(word)}")
        ids = {word: number for number, word in enumerate(words)}
        if len(ids) != len(words):
            raise ArgumentError("a vocabulary contains a word twice")
        return cls(_build(ids, max_len), words, max_len)

    @classmethod
    def load(cls, path: Path | str) -> Vocabulary:
        """Read a `tokenizer.json`.

        Raises:
            ModelFolderError: The file is not a vocabulary.
        """
        try:
            words, max_len = _parse(parse_json(read_text(Path(path))))
            return cls.from_words(words, max_len)
        except (OSError, KeyError, ValueError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else error
            raise ModelFolderError(f"{path}: not a vocabulary ({reason}): export the model again") from error

    def to_json(self) -> str:
        """Return the text of `tokenizer.json`."""
        return json.dumps(json.loads(self._tokenizer.to_str()), ensure_ascii=False, indent=1) + "\n"

    def save(self, path: Path | str) -> None:
        """Write `tokenizer.json`, atomically."""
        with replacing(Path(path)) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words, max_len={self.max_len})"

    def encode(self, text: str) -> list[int]:
        """Return [START, …, END]: at most `max_len` ids, always with END; words outside the vocabulary are UNK.

        Raises:
            ArgumentError: The text is no string, or not valid Unicode.
        """
        return list(self._encoding(text).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Join the words of `ids` by single spaces, up to END; PAD and START are left out."""
        words = []
        for number in ids:
            if number == END:
                break
            if number not in (PAD, START):
                words.append(self.words[number])
        return " ".join(words)

    def is_cut(self, text: str) -> bool:
        """Return True if `encode` drops words because the sentence is too long."""
        return bool(self._encoding(text).overflowing)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a sentence that are not in the vocabulary, without duplicates, in order."""
        encoding = self._encoding(text)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return list(dict.fromkeys(text[begin:end].lower() for number, (begin, end) in spans if number == UNK))

    def _encoding(self, text: str) -> Encoding:
        try:
            return self._tokenizer.encode(text)
        except TypeError as error:  # also of a lone surrogate, which is half of a character
            raise ArgumentError(f"not a text of valid Unicode: {shown(text)}") from error


def _build(ids: dict[str, int], max_len: int) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(ids, unk_token=SPECIAL_WORDS[UNK]))
    tokenizer.normalizer = _NORMALIZER
    tokenizer.pre_tokenizer = WhitespaceSplit()
    # Part of the file, so that bindings for other languages return the same ids.
    special = [(SPECIAL_WORDS[START], START), (SPECIAL_WORDS[END], END)]
    tokenizer.post_processor = TemplateProcessing(single="START $A END", special_tokens=special)
    tokenizer.enable_truncation(max_len)
    return tokenizer


def _parse(document: Any) -> tuple[list[str], int]:
    """Return the words and the maximum length of a parsed `tokenizer.json`.

    Raises:
        KeyError, ValueError: It is not a tokenizer of `Vocabulary.from_words`.
    """
    fields = mapping(document, "the document", 20)
    model = mapping(fields["model"], "model", 20)
    vocabulary = mapping(model["vocab"], "model.vocab", MOST_WORDS)
    for word in vocabulary:
        checked_text(word, "a word", _LONGEST_WORD)
    ids = {word: whole(number, "an id", 0, MOST_WORDS) for word, number in vocabulary.items()}
    words = sorted(ids, key=lambda word: ids[word])
    if [ids[word] for word in words] != list(range(len(ids))):
        raise ValueError("the ids are not 0, 1, 2, …")
    if tuple(words[:4]) != SPECIAL_WORDS:
        raise ValueError(f"it begins with {shown(words[:4])}; a vocabulary begins with PAD, START, UNK, END")
    truncation = mapping(fields["truncation"], "truncation", 20)
    expected = json.loads(_build(dict(zip(SPECIAL_WORDS, range(4), strict=True)), 3).to_str())
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "padding"):
        if fields.get(name) != expected[name]:
            raise ValueError(f"another {name} than that of rsicrc: {shown(fields.get(name))}")
    if (model.get("type"), model.get("unk_token")) != ("WordLevel", SPECIAL_WORDS[UNK]):
        raise ValueError(f"another model than that of rsicrc: {shown(model.get('type'))}")
    if truncation.get("stride", 0) != 0 or truncation.get("direction", "Right") != "Right":
        raise ValueError("another truncation than that of rsicrc")
    return words, whole(truncation["max_length"], "truncation.max_length", 3, MOST_LENGTH)
