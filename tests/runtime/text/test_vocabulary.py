from __future__ import annotations

from pathlib import Path

import pytest

from rsicrc.errors import ArgumentError, ModelFolderError
from rsicrc.text.vocabulary import END, SPECIAL_WORDS, START, UNK, Vocabulary

WORDS = (*SPECIAL_WORDS, "the", "road", "t-shaped", "is", "built", "road's", "two", "café")


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.from_words(WORDS, max_len=8)


def test_case_and_punctuation_are_ignored(vocabulary: Vocabulary) -> None:
    expected = [START, 4, 5, 7, 8, END]
    assert vocabulary.encode("the road is built") == expected
    assert vocabulary.encode("  The ROAD,is\tbuilt .\n") == expected
    assert vocabulary.encode('"The (road) - is: built!"') == expected


def test_hyphens_and_apostrophes_inside_words_stay(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode("T-shaped road's café") == [START, 6, 9, 11, END]
    assert vocabulary.encode("'road' -two-") == [START, 5, 10, END]


def test_special_words_in_a_text_are_unknown(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode("END PAD start UNK") == [START, UNK, UNK, UNK, UNK, END]


def test_long_sentences_keep_their_end(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode("the road is built two two") == [START, 4, 5, 7, 8, 10, 10, END]
    assert not vocabulary.is_cut("the road is built two two")
    assert vocabulary.encode("the road is built two two the road") == [START, 4, 5, 7, 8, 10, 10, END]
    assert vocabulary.is_cut("the road is built two two the road")


def test_empty_text_has_only_start_and_end(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode("") == vocabulary.encode(" . ") == [START, END]


def test_repr_names_the_size(vocabulary: Vocabulary) -> None:
    assert repr(vocabulary) == "Vocabulary(12 words, max_len=8)"


def test_decode_stops_at_end(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode([START, 4, 5, END, 8, 0]) == "the road"
    assert vocabulary.decode([4, UNK, 0]) == "the UNK"
    assert vocabulary.decode([]) == ""


def test_unknown_words_are_unique_and_in_order(vocabulary: Vocabulary) -> None:
    assert vocabulary.unknown_words("The Volcano, the road; volcano? glacier") == ["volcano", "glacier"]
    assert vocabulary.unknown_words("the road") == []


def test_vocabulary_file_round_trip(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path / "tokenizer.json")
    read = Vocabulary.load(tmp_path / "tokenizer.json")
    assert (read.words, read.max_len, len(read)) == (WORDS, 8, 12)
    assert read.encode("The road is BUILT, two two two two.") == vocabulary.encode("the road is built two two two two")


def test_tokenizers_library_returns_the_same_ids(vocabulary: Vocabulary, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    vocabulary.save(tmp_path / "tokenizer.json")
    text = "The T-shaped road: is built, two volcanoes two"
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids == vocabulary.encode(text)


@pytest.mark.parametrize("content", ["", "{}", '{"model": 1}', "not json"])
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json: not a vocabulary"):
        Vocabulary.load(path)


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    Tokenizer(WordLevel({"<pad>": 0, "a": 1}, unk_token="<pad>")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelFolderError, match="begins with PAD"):
        Vocabulary.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("words", "max_len", "message"),
    [
        (("the", "road"), 8, "begins with"),
        ((*SPECIAL_WORDS, "a", "a"), 8, "twice"),
        ((*SPECIAL_WORDS, "a"), 2, "max_len"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], max_len: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Vocabulary.from_words(words, max_len)
