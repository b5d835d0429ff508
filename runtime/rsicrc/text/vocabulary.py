"""The word-level vocabulary: encoding of sentences as ids, and decoding.

The file format is that of Hugging Face `tokenizers` (`tokenizer.json`), which has bindings for other languages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace, Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from rsicrc.errors import ArgumentError, ModelFolderError
from rsicrc.files import replacing

PAD, START, UNK, END = 0, 1, 2, 3
SPECIAL_WORDS = ("PAD", "START", "UNK", "END")
SPECIAL_IDS = {"pad": PAD, "start": START, "unk": UNK, "end": END}
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

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.get_vocab(with_added_tokens=False)
        self.words: tuple[str, ...] = tuple(sorted(ids, key=lambda word: ids[word]))
        if [ids[word] for word in self.words] != list(range(len(ids))) or self.words[:4] != SPECIAL_WORDS:
            raise ModelFolderError(f"a vocabulary has the ids 0, 1, 2, … and begins with {', '.join(SPECIAL_WORDS)}")
        if tokenizer.truncation is None:
            raise ModelFolderError("a vocabulary must set the maximum length of a sentence (truncation)")
        self.max_len = int(tokenizer.truncation["max_length"])
        self._tokenizer = tokenizer

    @classmethod
    def from_words(cls, words: Sequence[str], max_len: int = 41) -> Vocabulary:
        """Build a vocabulary from a list of words.

        Args:
            words: The word of every id: PAD, START, UNK, END (with these names), then words in lower case.
            max_len: Maximum length of a sequence of ids, including START and END.

        Raises:
            ArgumentError: The special words are not at the beginning, a word occurs twice, or `max_len` is under 3.
        """
        if tuple(words[:4]) != SPECIAL_WORDS:
            raise ArgumentError(f"a vocabulary begins with {', '.join(SPECIAL_WORDS)}, not {', '.join(words[:4])}")
        if max_len < 3:
            raise ArgumentError(f"max_len must be at least 3 (START, a word and END), not {max_len}")
        ids = {word: number for number, word in enumerate(words)}
        if len(ids) != len(words):
            raise ArgumentError("a vocabulary contains a word twice")
        tokenizer = Tokenizer(WordLevel(ids, unk_token=SPECIAL_WORDS[UNK]))
        tokenizer.normalizer = _NORMALIZER
        tokenizer.pre_tokenizer = WhitespaceSplit()
        # Part of the file, so that bindings for other languages return the same ids.
        special = [(SPECIAL_WORDS[START], START), (SPECIAL_WORDS[END], END)]
        tokenizer.post_processor = TemplateProcessing(single="START $A END", special_tokens=special)
        tokenizer.enable_truncation(max_len)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path | str) -> Vocabulary:
        """Read a `tokenizer.json`.

        Raises:
            ModelFolderError: The file is not a vocabulary.
        """
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises a bare Exception for everything
            raise ModelFolderError(f"{path}: not a vocabulary ({error}): export the model again") from error

    def save(self, path: Path | str) -> None:
        """Write `tokenizer.json`, atomically."""
        text = json.dumps(json.loads(self._tokenizer.to_str()), ensure_ascii=False, indent=1) + "\n"
        with replacing(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words, max_len={self.max_len})"

    def encode(self, text: str) -> list[int]:
        """Return [START, …, END]: at most `max_len` ids, always with END; words outside the vocabulary are UNK."""
        return list(self._tokenizer.encode(text).ids)

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
        return bool(self._tokenizer.encode(text).overflowing)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a sentence that are not in the vocabulary, without duplicates, in order."""
        encoding = self._tokenizer.encode(text)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return list(dict.fromkeys(text[begin:end].lower() for number, (begin, end) in spans if number == UNK))
