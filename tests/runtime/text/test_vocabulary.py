from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def edited(vocabulary: Vocabulary, folder: Path, edit: Callable[[Any], None]) -> Path:
    path = folder / "tokenizer.json"
    vocabulary.save(path)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return path


def regex(pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.update(normalizer=regex("(a+)+$")), "another normalizer"),
        (lambda t: t["normalizer"]["normalizers"].append(regex("((a{9999}){9999}){9999}")), "another normalizer"),
        (lambda t: t.update(normalizer={"type": "Prepend", "prepend": "x" * 1000}), "another normalizer"),
        (lambda t: t.update(normalizer=None), "another normalizer"),
        (lambda t: t.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}}), "another pre_tokenizer"),
        (lambda t: t.update(post_processor=None), "another post_processor"),
        (lambda t: t.update(decoder={"type": "Replace"}), "another decoder"),
        (lambda t: t["added_tokens"].append({"id": 500, "content": "house"}), "another added_tokens"),
        (lambda t: t["model"].update(type="BPE", merges=[]), "another model"),
        (lambda t: t["model"].update(unk_token="nope"), "another model"),
        (lambda t: t["truncation"].update(stride=30), "another truncation"),
        (lambda t: t["truncation"].update(max_length=10**15), "from 3 to 4096"),
        (lambda t: t["truncation"].update(max_length=8.5), "from 3 to 4096"),
        (lambda t: t["model"]["vocab"].update(zzz=4294967295), "from 0 to 1000000"),
        (lambda t: t["model"]["vocab"].update(zzz=13), "the ids are not 0, 1, 2"),
        (lambda t: t["model"]["vocab"].update({"\x1b]0;pwn\x07": 12}), "has a control character"),
        (lambda t: t["model"]["vocab"].update({"\u202eevil": 12}), "has a control character"),
        (lambda t: t["model"]["vocab"].update({"\ud800": 12}), "not valid Unicode"),
        (lambda t: t["model"]["vocab"].update({"x" * 300: 12}), "longer than 200"),
        (lambda t: t.pop("truncation"), "no field 'truncation'"),
    ],
)
def test_files_that_save_does_not_write_are_refused(
    vocabulary: Vocabulary, tmp_path: Path, edit: Callable[[Any], None], message: str
) -> None:
    path = edited(vocabulary, tmp_path, edit)
    with pytest.raises(ModelFolderError, match=message) as caught:
        Vocabulary.load(path)
    assert str(caught.value).startswith(f"{path}: not a vocabulary (")
    assert str(caught.value).isprintable()


def test_tokenizer_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path("/dev/zero")):
        with pytest.raises(ModelFolderError, match="not a vocabulary"):
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
        ((*SPECIAL_WORDS, "a\x1b[2J"), 8, "control character"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], max_len: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Vocabulary.from_words(words, max_len)
