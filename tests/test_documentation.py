"""Links between the Markdown pages, and the files that docs/architecture.md names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.source_files import ROOT

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*.md", "tests/golden/*.md")
    for path in ROOT.glob(pattern)
)
# A path of the repository in code style: a known top folder, then plain names.
FILE = re.compile(r"`((?:runtime|train|export|benchmarks|studies|tests|docs)/[\w./-]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_architecture_page_names_files_that_exist() -> None:
    names = FILE.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert len(names) > 30
    assert [name for name in names if not (ROOT / name).exists()] == []
