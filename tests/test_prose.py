"""The language of comments and docstrings (CONTRIBUTING.md, "Style")."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source_files import FOLDERS, ROOT, parse, python_files

CLAUSE = re.compile(r"\bwhat\s+(is|are|it|the|a|an|they)\b", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
MOST_CLAUSES = 1 / 1000  # per word


@pytest.fixture(scope="module")
def headless() -> re.Pattern[str]:
    """Return the pattern of the pre-commit hook `headless-docstrings`, so that hook and test cannot differ."""
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["id"]: hook for repository in config["repos"] for hook in repository["hooks"]}
    return re.compile(hooks["headless-docstrings"]["entry"])


def test_docstrings_do_not_begin_with_what_or_whether(headless: re.Pattern[str]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in python_files(*FOLDERS)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if headless.search(line)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("line", ['    """What is kept."""', "# Whether it fits.", 'r"""What it is.', "#: What."])
def test_hook_finds_headless_lines(headless: re.Pattern[str], line: str) -> None:
    assert headless.search(line)


@pytest.mark.parametrize("line", ['"""Whatever the layout."""', '"""Return what was read."""', "x = 1  # What"])
def test_hook_ignores_other_lines(headless: re.Pattern[str], line: str) -> None:
    assert not headless.search(line)


def test_nouns_are_not_replaced_by_clauses() -> None:
    words, wrong = 0, []
    for path in python_files(*FOLDERS):
        for line, text in (*_comments(path), *_docstrings(path)):
            words += len(WORD.findall(text))
            wrong += [f"{path.relative_to(ROOT)}:{line}: {match[0]}" for match in CLAUSE.finditer(text)]
    assert len(wrong) <= MOST_CLAUSES * words, f"{len(wrong)} in {words} words:\n" + "\n".join(wrong)


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return ((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)


def _docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each string that is a statement of its own."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
